"""A redenomination: scoreboards add errors, and the page shows past forecasts, in the units after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from closecast.flows.actions import score_forecasts
from closecast.storage.core.home import Home
from closecast.storage.prices.decisions import Decision
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.sql import query
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.types import Floats
from closecast.tasks.evaluation.scoreboard import Scoreboard
from closecast.tasks.prices.ingest import IngestedPrices
from closecast.tasks.report import prefect_artifacts
from closecast.tasks.report.charts import charts
from closecast.tasks.report.context import read_context
from tests.calibrated import Runs, candles, day, forecast_by_hand, quick
from tests.helpers import BTC, NOW, store

FIRST_ORIGIN, SPLIT, LAST = 500, 512, 520
FACTOR = 0.001
PRICES = ["open", "high", "low", "close"]
ERRORS = ("rmse", "rmse_ratio", "mae", "mae_ratio")


def in_units(forecast: Forecast, factor: float) -> Forecast:
    """The forecast with every price multiplied, as that of a model, but without its version."""
    (one,) = forecast.horizons
    scaled = replace(
        one,
        point=one.point * factor,
        quantiles=tuple(price * factor for price in one.quantiles or ()),
    )
    last = forecast.last_close * factor
    return replace(forecast, last_close=last, model_version=None, horizons=(scaled,))


def made(root: Path, *, old_units: float) -> Runs:
    """A home with forecasts of one and seven days from days about the split, `old_units` before it."""
    runs = Runs(Home(root).prepare(), quick())
    frame = candles().head(LAST + 1).copy()
    frame.loc[: SPLIT - 2, PRICES] *= old_units
    store(runs.home, frame)
    publish(runs, range(FIRST_ORIGIN, LAST + 1), old_units=old_units)
    return runs


def publish(runs: Runs, numbers: Iterable[int], *, old_units: float = 1.0) -> None:
    rows = []
    for number in numbers:
        for horizon in (1, 7):
            name, data_version = f"{number}-{horizon}", runs.data(number)
            point = float(candles()["close"].iloc[number - 1]) * 1.01
            forecast = forecast_by_hand(number, name, profile=runs.profile, horizon=horizon, point=point)
            units = old_units if number < SPLIT else 1.0
            rows += in_units(replace(forecast, data_version=data_version), units).rows()
    Predictions(runs.home).publish(rows)


def split(runs: Runs, kind: Any, factor: float | None = None) -> None:
    with Prices(runs.home) as prices:
        prices.decide(BTC, Decision(day(SPLIT), kind, day(SPLIT), "user", factor), decided_at=NOW)


def boards(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> list[Scoreboard]:
    """That of the command, over one day and seven, of the page, and of Prefect's artifacts."""
    command = [
        score_forecasts(runs.home, BTC, runs.profile.name, lambda: runs.profile, horizon)
        for horizon in (1, 7)
    ]
    page = read_context(runs.home, BTC, runs.profile.name, day(LAST))
    for name in ("announce_forecast", "raise_alarms", "side_call"):
        monkeypatch.setattr(prefect_artifacts, name, lambda *_: None)
    prices = IngestedPrices(runs.history(LAST), day(LAST))
    artifacts = prefect_artifacts.show_artifacts(runs.home, page.forecast, page.forecast, prices)
    return [*command, page.board, artifacts]


def past(runs: Runs) -> dict[str, Any]:
    """The figures of the page's chart of past forecasts."""
    drawn: dict[str, Any] = charts(read_context(runs.home, BTC, runs.profile.name, day(LAST + 1)))["past"]
    return drawn


def figures(board: Scoreboard) -> Floats:
    """The figures of errors, (spans, 4)."""
    return np.array([[getattr(span, name) for name in ERRORS] for span in board.spans])


def test_across_a_split_scoreboards_and_the_chart_are_those_of_prices_in_the_new_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = made(tmp_path / "old", old_units=1 / FACTOR), made(tmp_path / "new", old_units=1.0)
    old.score(SPLIT - 1)
    new.score(SPLIT - 1)
    split(old, "split", FACTOR)
    expected = boards(new, monkeypatch)
    assert all(one.all_days.forecasts == LAST + 1 - FIRST_ORIGIN for one in (expected[0], *expected[2:]))
    for ours, theirs in zip(boards(old, monkeypatch), expected, strict=True):
        assert figures(ours) == pytest.approx(figures(theirs), rel=1e-9)
    # The newest forecast decides which splits a page knows.
    publish(old, [LAST + 1])
    publish(new, [LAST + 1])
    drawn, plain = past(old), past(new)
    assert len(plain["days"]) == LAST + 1 - FIRST_ORIGIN
    for name in ("close", "last_close", "point", "lower_95", "upper_80"):
        assert drawn[name] == pytest.approx(plain[name], rel=1e-9)


def test_sql_has_the_errors_of_the_command_across_a_split_and_after_it_was_taken_back(tmp_path: Path) -> None:
    runs, seen = made(tmp_path / "home", old_units=1 / FACTOR), []
    for factor in (0.01, FACTOR, None, FACTOR, None):
        split(runs, "split" if factor else "accepted", factor)
        for horizon in (1, 7):
            board = score_forecasts(runs.home, BTC, runs.profile.name, lambda: runs.profile, horizon)
            rows = query(runs.home, f"from scoreboard where horizon = {horizon}").to_pylist()
            by_span = {row["span_days"]: row for row in rows}
            in_sql = np.array([[by_span[span.days][name] for name in ERRORS] for span in board.spans])
            assert in_sql == pytest.approx(figures(board), rel=1e-12)
        seen.append(board)
    # A decision that is made again has its scores again.
    assert seen[1] == seen[3] != seen[2] == seen[4]
