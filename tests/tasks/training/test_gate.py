"""The gate: which days count, and what a challenger's CRPS may be over the champion's."""

from __future__ import annotations

import functools
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from closecast.tasks.core.quantiles import crps
from closecast.tasks.features.inputs import Columns
from closecast.tasks.features.volatility import log_returns
from closecast.tasks.network.architectures import calibrated_network
from closecast.tasks.profiles.base import FittedModel
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.profiles.ensemble import Ensemble
from closecast.tasks.training import gate
from closecast.tasks.training.gate import Gate
from tests.calibrated import quick
from tests.helpers import made_up, without

DAYS = 1000
PROFILE = quick()
ALL = Columns(ranges=True, volume=True)
CLOSES = Columns(ranges=False, volume=False)
LAST: date = made_up(DAYS)["day_utc"].iloc[-1].date()


@functools.cache
def network(columns: Columns, seed: int) -> tuple[Any, ...]:
    settings = PROFILE.settings
    features = 16 if columns == ALL else 12
    built = calibrated_network(
        lookback=settings.lookback,
        features=features,
        horizons=len(settings.horizons),
        units=settings.units,
        dropout=0.0,
        head_sd=settings.head_sd,
        seed=seed,
    )
    return tuple(built.get_weights())


def model(unseen: int = 180, *, wider: float = 0.0, columns: Columns = ALL, seed: int = 1) -> FittedModel:
    """A model with intervals of about the right width, or `exp(wider)` times that; those days are unseen."""
    weights = [array.copy() for array in network(columns, seed)]
    weights[-1][1::3] += wider  # every head's log sigma
    return FittedModel(Ensemble(columns, (weights,)), LAST - timedelta(days=unseen))


def judge(
    champion: FittedModel,
    challenger: FittedModel,
    candles: pd.DataFrame | None = None,
    profile: CalibratedProfile = PROFILE,
) -> Gate:
    return gate.judge(profile, champion, challenger, made_up(DAYS) if candles is None else candles)


def test_a_much_wider_challenger_is_refused() -> None:
    result = judge(model(), model(wider=3.0))
    assert not result.passed
    assert result.ratio > 3
    assert judge(model(wider=3.0), model()).passed
    assert str(result).startswith("refused: CRPS ratio")
    tags = result.tags()
    assert (tags["gate_passed"], tags["gate_days"], tags["gate_last_day"]) == ("False", "180", str(LAST))
    assert result.metrics() == {
        "gate_days": 180.0,
        "gate_champion_crps": result.champion_crps,
        "gate_challenger_crps": result.challenger_crps,
        "gate_ratio": float(tags["gate_ratio"]),
    }


@pytest.mark.parametrize(("unseen", "days", "limit"), [(180, 180, 1.02), (364, 180, 1.02), (365, 365, 1.01)])
def test_the_limit_is_tighter_over_a_year(unseen: int, days: int, limit: float) -> None:
    for champion, challenger in [(unseen, unseen), (unseen, unseen + 100), (unseen + 100, unseen)]:
        result = judge(model(champion), model(challenger))
        assert (result.days, result.limit, result.ratio, result.passed) == (days, limit, 1.0, True)
        assert (result.first_day, result.last_day) == (LAST - timedelta(days=days - 1), LAST)
        assert str(result).startswith(f"passed: CRPS ratio 1.0000 over {days} days unseen by both, ")


@pytest.mark.parametrize("unseen", [180, 365])
def test_a_ratio_at_the_limit_passes_and_the_next_float_does_not(unseen: int) -> None:
    field = f"gate_ratio_{unseen}"
    pair = model(unseen), model(unseen, wider=1.0)
    ratio = judge(*pair).ratio
    assert ratio > 1
    assert judge(*pair, profile=quick(**{field: ratio})).passed
    assert not judge(*pair, profile=quick(**{field: float(np.nextafter(ratio, 0))})).passed
    other = "gate_ratio_365" if unseen == 180 else "gate_ratio_180"
    assert not judge(*pair, profile=quick(**{field: 1.0, other: 9.0})).passed


@pytest.mark.parametrize("unseen", [(179, 400), (400, 179), (0, 0), (30, 30)])
def test_fewer_than_180_unseen_days_refuse(unseen: tuple[int, int]) -> None:
    result = judge(model(unseen[0]), model(unseen[1], wider=-0.01))
    assert not result.passed
    assert result.days == min(unseen)


def test_the_twin_is_judged_in_place_of_a_model_that_has_seen_the_days() -> None:
    """A published network is trained on every day: of it nothing is judged."""
    good, ruined = model(0), model(0, wider=3.0)
    pair = replace(good, twin=model(180)), replace(ruined, twin=model(180))
    result = judge(*pair)
    assert (result.ratio, result.passed, result.days) == (1.0, True, 180)
    refused = judge(replace(good, twin=model(180)), replace(good, twin=model(180, wider=3.0)))
    assert not refused.passed
    assert refused == judge(model(180), model(180, wider=3.0))
    # A champion of a short series has no twin: by and by it has not seen the days itself.
    assert judge(model(180), pair[1]).passed
    assert not judge(model(179), pair[1]).passed
    assert not judge(pair[0], model(179)).passed
    assert not judge(pair[0], replace(good, twin=model(179))).passed


def test_only_the_first_horizon_is_judged() -> None:
    def changed(horizon: int) -> FittedModel:
        challenger = model()
        weights = [array.copy() for array in challenger.state.members[0]]
        weights[-1][3 * horizon + 1] += 3.0
        return replace(challenger, state=replace(challenger.state, members=(weights,)))

    assert judge(model(), changed(1)) == judge(model(), changed(2)) == judge(model(), model())
    assert not judge(model(), changed(0)).passed


def test_the_mean_crps_is_of_the_unseen_days_that_both_models_forecast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise means over different days would be compared."""
    champion, challenger = model(unseen=500), model(unseen=200, columns=CLOSES, wider=0.1, seed=2)
    candles = made_up(DAYS)
    rows = PROFILE.origins(candles, champion)
    parts = iter([rows[rows % 7 != 0], rows[rows % 5 != 0]])
    with monkeypatch.context() as patch:
        patch.setattr(CalibratedProfile, "origins", lambda *_: next(parts))
        result = judge(champion, challenger)
    rows = rows[(rows % 7 != 0) & (rows % 5 != 0) & (rows >= DAYS - 181) & (rows < DAYS - 1)]
    assert (result.days, result.first_day) == (len(rows), LAST - timedelta(days=179))
    actual = log_returns(candles)[rows + 1]
    for one, figure in ((champion, result.champion_crps), (challenger, result.challenger_crps)):
        quantiles = PROFILE.predict(one, candles, rows, components=False)[1].quantiles
        assert quantiles is not None
        assert crps(actual, quantiles).mean() == pytest.approx(figure, rel=1e-12)
    assert result.ratio == result.challenger_crps / result.champion_crps


@pytest.mark.parametrize(
    ("first", "last", "days", "passed"),
    [
        (60, 40, 180 - 21 - 1, True),  # the day before the gap has no outcome
        (150, 40, None, False),
        (200, 1, 0, False),
    ],
)
def test_gaps_leave_fewer_days_or_too_few(first: int, last: int, days: int | None, passed: bool) -> None:
    gapped = without(made_up(DAYS), LAST - timedelta(days=first), LAST - timedelta(days=last))
    result = judge(model(), model(), gapped)
    assert (result.ratio, result.passed) == (1.0, passed)
    assert days is None or result.days == days


@pytest.mark.parametrize(("days", "passed"), [(89, False), (90, True), (180, True)])
def test_half_of_the_days_are_enough(days: int, passed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_mean_crps", lambda *_: (1.0, 1.0, days))
    assert judge(model(), model()).passed is passed


def test_models_of_a_constant_series_pass() -> None:
    still = made_up(DAYS)
    still[["open", "high", "low", "close"]] = 7.0
    result = judge(model(), model(), still)
    assert (result.ratio, result.passed) == (1.0, True)
