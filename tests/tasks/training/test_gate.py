from __future__ import annotations

import functools
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.core.quantiles import crps
from tasks.features.inputs import Columns, make_inputs, usable_rows, windows_at
from tasks.features.volatility import log_returns
from tasks.network.architectures import calibrated_network
from tasks.profiles.ensemble import Ensemble, ensemble_quantiles
from tasks.training import gate as evaluate
from tasks.training.gate import Gate, gate
from tests.calibrated import quick
from tests.helpers import made_up, without

DAYS = 1000
RECIPE = quick()
ALL = Columns(ranges=True, volume=True)


def prices() -> pd.DataFrame:
    return made_up(DAYS)


LAST: date = prices()["day_utc"].iloc[-1].date()


@functools.cache
def network(columns: Columns, seed: int) -> tuple[Any, ...]:
    inputs = make_inputs(prices(), RECIPE.input_settings, columns)
    shown = windows_at(inputs, np.array([500]), RECIPE.input_settings)
    made = calibrated_network(
        lookback=RECIPE.lookback,
        features=shown.shape[2],
        units=RECIPE.units,
        dropout=0.0,
        head_sd=RECIPE.head_sd,
        seed=seed,
    )
    return tuple(made.get_weights())


def model(unseen: int = 180, *, wider: float = 0.0, columns: Columns = ALL, seed: int = 1) -> Ensemble:
    """An ensemble that says about the truth, or `exp(wider)` times as much, and has not seen those days."""
    weights = [array.copy() for array in network(columns, seed)]
    weights[-1][1] += wider
    return Ensemble(columns, (weights,), LAST - timedelta(days=unseen))


def by_hand(one: Ensemble, candles: pd.DataFrame, first: date, rows: Any = None) -> tuple[float, int]:
    """The mean CRPS of the model's forecasts for the days from `first` on."""
    inputs = make_inputs(candles, RECIPE.input_settings, one.columns)
    if rows is None:
        rows = usable_rows(inputs, lookback=RECIPE.lookback)
    came = np.append(log_returns(candles)[1:], np.nan)
    days = candles["day_utc"].dt.date.to_numpy() + timedelta(days=1)
    rows = rows[np.isfinite(came[rows]) & (days[rows] >= first)]
    scores = crps(came[rows], ensemble_quantiles(one, inputs, rows, RECIPE))
    return float(scores.mean()), len(scores)


def test_equal_models_pass() -> None:
    said = gate(model(), model(), prices(), RECIPE)
    assert said == Gate(
        first_day=LAST - timedelta(days=179),
        last_day=LAST,
        days=180,
        champion_crps=said.champion_crps,
        challenger_crps=said.champion_crps,
        ratio=1.0,
        limit=1.02,
        passed=True,
    )
    assert 0.01 < said.champion_crps < 0.03  # returns have a sigma of .03
    assert str(said).startswith("passed: CRPS ratio 1.0000 over 180 days unseen by both, ")


def test_the_figures_are_those_of_the_unseen_days() -> None:
    champion, challenger = model(unseen=500), model(unseen=200, wider=0.1, seed=2)
    said = gate(champion, challenger, prices(), RECIPE)
    for one, figure in ((champion, said.champion_crps), (challenger, said.challenger_crps)):
        assert by_hand(one, prices(), said.first_day) == (pytest.approx(figure, rel=1e-12), said.days)
    assert said.ratio == said.challenger_crps / said.champion_crps


def test_a_ruined_challenger_is_refused() -> None:
    said = gate(model(), model(wider=3.0), prices(), RECIPE)
    assert not said.passed
    assert said.ratio > 3
    assert gate(model(wider=3.0), model(), prices(), RECIPE).passed
    assert str(said).startswith("refused: CRPS ratio")
    tags = said.as_tags()
    assert (tags["gate_passed"], tags["gate_days"], tags["gate_last_day"]) == ("False", "180", str(LAST))
    assert float(tags["gate_ratio"]) == said.ratio
    assert said.as_metrics() == {
        "gate_days": 180.0,
        "gate_champion_crps": said.champion_crps,
        "gate_challenger_crps": said.challenger_crps,
        "gate_ratio": said.ratio,
    }


@pytest.mark.parametrize(("unseen", "days", "limit"), [(180, 180, 1.02), (364, 180, 1.02), (365, 365, 1.01)])
def test_over_a_year_the_limit_is_closer(unseen: int, days: int, limit: float) -> None:
    for seen in [(unseen, unseen), (unseen, unseen + 100), (unseen + 100, unseen)]:
        said = gate(model(seen[0]), model(seen[1]), prices(), RECIPE)
        assert (said.days, said.limit, said.passed) == (days, limit, True)
        assert said.first_day == LAST - timedelta(days=days - 1)


@pytest.mark.parametrize("unseen", [180, 365])
def test_the_limit_is_kept_to_the_bit(unseen: int) -> None:
    field = f"gate_ratio_{unseen}"
    pair = model(unseen), model(unseen, wider=0.6)
    ratio = gate(*pair, prices(), RECIPE).ratio
    assert ratio > 1
    assert gate(*pair, prices(), quick(**{field: ratio})).passed
    assert not gate(*pair, prices(), quick(**{field: float(np.nextafter(ratio, 0))})).passed
    other = "gate_ratio_365" if unseen == 180 else "gate_ratio_180"
    assert not gate(*pair, prices(), quick(**{field: 1.0, other: 9.0})).passed


@pytest.mark.parametrize("seen", [(179, 400), (400, 179), (0, 0), (30, 30)])
def test_fewer_than_180_unseen_days_refuse(seen: tuple[int, int]) -> None:
    said = gate(model(seen[0]), model(seen[1], wider=-0.01), prices(), RECIPE)
    assert not said.passed
    assert said.days == min(seen)


def test_what_was_seen_does_not_count() -> None:
    pair = model(), model(wider=0.2)
    said = gate(*pair, prices(), RECIPE)
    figures = ["open", "high", "low", "close"]
    garbage = prices()
    # Far enough back that no window, mean or scale of the gate's days reaches it.
    garbage.loc[:99, figures] *= np.random.default_rng(5).uniform(0.5, 2.0, (100, 1))
    assert gate(*pair, garbage, RECIPE) == said
    for row in (DAYS - 1, DAYS - 180, DAYS - 190):  # the last day, the first one, and one in its window
        moved = prices()
        moved.loc[row, figures] *= 1.2
        assert gate(*pair, moved, RECIPE).champion_crps != said.champion_crps


def test_a_day_without_both_forecasts_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means over different days would be compared otherwise."""
    champion, challenger = model(), model(columns=Columns(ranges=False, volume=False), wider=0.1)
    inputs = make_inputs(prices(), RECIPE.input_settings, champion.columns)
    rows = usable_rows(inputs, lookback=RECIPE.lookback)
    dropped = iter([rows[rows % 7 != 0], rows[rows % 5 != 0]])
    monkeypatch.setattr(evaluate, "usable_rows", lambda *_, **__: next(dropped))
    said = gate(champion, challenger, prices(), RECIPE)
    both = rows[(rows % 7 != 0) & (rows % 5 != 0)]
    for one, figure in ((champion, said.champion_crps), (challenger, said.challenger_crps)):
        assert by_hand(one, prices(), said.first_day, both) == (pytest.approx(figure, rel=1e-12), said.days)


def test_holes_leave_too_little_to_judge_on() -> None:
    some = without(prices(), LAST - timedelta(days=60), LAST - timedelta(days=40))
    said = gate(model(), model(), some, RECIPE)
    assert said.passed
    assert said.days == 180 - 21 - RECIPE.lookback - 1  # the return after a gap is unknown as well
    most = without(prices(), LAST - timedelta(days=150), LAST - timedelta(days=40))
    said = gate(model(), model(), most, RECIPE)
    assert (said.passed, said.ratio) == (False, 1.0)
    none = without(prices(), LAST - timedelta(days=200), LAST - timedelta(days=1))
    said = gate(model(), model(), none, RECIPE)
    assert (said.passed, said.ratio, said.days) == (False, 1.0, 0)
    assert said.champion_crps == said.challenger_crps == 0.0


@pytest.mark.parametrize(("days", "passed"), [(89, False), (90, True), (180, True)])
def test_half_of_the_days_is_enough(days: int, passed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_mean_crps", lambda *_: (1.0, 1.0, days))
    assert gate(model(), model(), prices(), RECIPE).passed is passed


def test_a_series_that_never_moves() -> None:
    still = prices()
    still[["open", "high", "low", "close"]] = 7.0
    said = gate(model(), model(), still, RECIPE)
    assert (said.ratio, said.passed) == (1.0, True)
