"""A day as plain functions, where there is nothing to make."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from closecast.flows import daily
from closecast.flows.day import Day, run_day
from closecast.storage.reports import Reports
from closecast.storage.tables.scores import Scores
from closecast.tasks.prices.ingest import IngestedPrices, IngestRequest
from closecast.tasks.prices.sources import Market
from tests.calibrated import MADE, Runs, day
from tests.helpers import BTC, NOW


def asked(runs: Runs, number: int, **more: Any) -> Day:
    request = IngestRequest(BTC, day(number), NOW, NOW.date())
    return Day(runs.home, Market(product_id=BTC), runs.profile, request, more.get("backfill_days", 0))


def nothing_to_make(_: bool) -> str:
    raise AssertionError("the forecast is there")


def test_a_run_without_new_closes_scores_due_forecasts(runs: Runs) -> None:
    newest = runs.publish(MADE + 2)
    page = Reports(runs.home).page(BTC, "calibrated")
    assert run_day(asked(runs, MADE + 2), nothing_to_make) == newest.first.prediction_id
    assert Scores(runs.home).newest(BTC).num_rows == 0
    assert "none scored yet" in page.read_text("utf-8")
    # The forecast of an earlier day is made afterwards, for a day that is known by now.
    runs.publish(MADE + 1)
    assert run_day(asked(runs, MADE + 2), nothing_to_make) == newest.first.prediction_id
    (row,) = Scores(runs.home).newest(BTC).to_pylist()
    assert (row["target_day"], row["horizon"]) == (day(MADE + 2), 1)
    assert "none scored yet" not in page.read_text("utf-8")
    written = page.stat().st_mtime_ns
    run_day(asked(runs, MADE + 2), nothing_to_make)
    assert page.stat().st_mtime_ns == written


def test_a_first_run_says_that_it_has_no_day_to_backfill(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "closecast.daily")

    def backfill(number: int) -> str:
        caplog.clear()
        prices: IngestedPrices = runs.prices(number)
        daily.backfill(asked(runs, number, backfill_days=30), prices)
        return caplog.text

    nothing = f"nothing to backfill: no forecast was made before {day(MADE + 2)}"
    assert nothing in backfill(MADE + 2)
    runs.publish(MADE + 1)
    assert "backfill" not in backfill(MADE + 2)  # no day was missed
