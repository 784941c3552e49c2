from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, chi2

from closecast.storage.core.home import Home
from closecast.storage.models.registry import ModelVersion
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.predictions import Predictions
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.quantiles import crps
from closecast.tasks.report import text
from closecast.tasks.report.calibration import pit_histogram, running_coverage
from closecast.tasks.report.charts import charts, short
from closecast.tasks.report.context import (
    MAX_CLOSES,
    ReportContext,
    earlier_run,
    newest_closes,
    previous_forecast,
    read_context,
)
from closecast.tasks.report.model_section import refit_of
from tests.helpers import BTC, made_up, store, without
from tests.pages import DAY, DAYS, GAP, HORIZONS, put_forecasts
from tests.tasks.evaluation.test_scoreboard import scores

EDGES = np.arange(0.05, 1, 0.1)


def test_running_coverage_is_of_the_last_90_days_with_its_bounds_of_chance() -> None:
    rows = scores(100, covered_95=100)
    frame = running_coverage(rows.assign(covered_80=rows["covered_50"]))
    assert frame["days"].tolist() == [*map(float, range(20, 91)), *[90.0] * 10]
    newest = frame.iloc[-1]
    assert (newest["running_80"], newest["running_95"]) == (0.5, 1.0)
    # 72 of 90 are expected of an 80 % interval.
    low, high = round(newest["lower_80"] * 90), round(newest["upper_80"] * 90)
    assert low < 72 < high
    for inside, beyond in ((low, low - 2), (high, high + 2)):
        assert binomtest(inside, 90, 0.8).pvalue > 0.03
        assert binomtest(beyond, 90, 0.8).pvalue < 0.05


def test_pit_histogram_counts_and_bounds() -> None:
    assert pit_histogram(np.array([])) is None
    pit = pit_histogram(np.array([0.0, 0.05, 0.1, 0.95, 1.0]))
    assert pit is not None
    assert pit.counts == (2, 1, 0, 0, 0, 0, 0, 0, 0, 2)
    assert (pit.days, pit.expected, pit.lower, pit.p_value) == (5, 0.5, 0, None)


# Two bars beyond their band are no proof. Pearson's sum is (10² + 10²) / 20, with nine degrees.
TWO_BARS = [30, 10, *[20] * 8]
BOTH_ENDS = [40, *[15] * 8, 40]


@pytest.mark.parametrize(
    ("counts", "p_value", "sentence"),
    [
        (
            [20] * 10,
            1.0,
            "0 of 10 bars lie outside the band. All bars together differ no more than by chance",
        ),
        (TWO_BARS, chi2.sf(200 / 20, 9), "2 of 10 bars lie outside the band. All bars together differ no"),
        (BOTH_ENDS, chi2.sf(1000 / 20, 9), "differ more than by chance (χ² test at 5 %, p below .001)."),
        ([1, *[0] * 9], None, "outside the band; too few closes (1) to test all bars together."),
    ],
)
def test_calibration_is_tested_over_all_bars(
    context: ReportContext, counts: list[int], p_value: float | None, sentence: str
) -> None:
    pit = pit_histogram(np.repeat(EDGES, counts))
    assert pit is not None
    assert pit.p_value == pytest.approx(p_value)
    assert sentence in text.calibration(replace(context, pit=pit))


def test_closes_have_a_row_a_day_up_to_the_origin() -> None:
    history = PriceHistory(BTC, without(made_up(420), *GAP), "v", "csv@0")
    closes = newest_closes(history)
    assert len(closes) == MAX_CLOSES
    missing = closes[closes["close"].isna()]["day_utc"].dt.date.tolist()
    assert missing == [day.date() for day in pd.date_range(*GAP)]
    assert len(newest_closes(history.until(history.days[9]))) == 10


def test_figures_of_charts_are_short_and_finite() -> None:
    figures = [None, float("nan"), float("inf"), 8031.415926535, 1e-7, 304738853.0249]
    assert short(figures) == [None, None, None, 8031.415927, 1e-7, 304738853.02]


def test_context_agrees_with_the_tables(context: ReportContext) -> None:
    scored = context.scored
    assert (len(context.past), len(scored), context.forecast_count) == (120, 118, 120)
    inside = scored["close"].between(scored["lower_80"], scored["upper_80"])
    assert scored["covered_80"].tolist() == inside.tolist()
    # A component's CRPS is computed here from its stored quantiles.
    baseline = next(one for one in context.components if one.component == "last_close_250")
    quantiles = np.log(np.stack(scored["quantiles"].tolist()) / scored["last_close"].to_numpy()[:, None])
    returns = np.log((scored["close"] / scored["last_close"]).to_numpy())
    assert baseline.days == 118
    assert baseline.crps == pytest.approx(crps(returns, quantiles * 0.025 / 0.03).mean())
    assert baseline.ratio == pytest.approx(scored["crps"].mean() / baseline.crps)
    assert baseline.p_value is not None
    drawn = charts(context)
    assert drawn["past"]["days"][-1] == "2020-02-24"
    ahead, earlier = drawn["fan"]["ahead"], drawn["fan"]["earlier"]
    assert (ahead["origin"], earlier["origin"]) == ("2020-02-24", "2020-02-23")
    assert ahead["days"] == ["2020-02-25", "2020-02-26", "2020-02-27", "2020-03-02", "2020-03-25"]
    assert ahead["upper_80"] == pytest.approx([one.interval(80)[1] for one in context.forecast.horizons])
    assert None in drawn["fan"]["closes"]
    assert [network["name"] for network in drawn["losses"]["networks"]] == ["network 1", "network 2"]
    assert drawn["losses"]["networks"][0]["validation"] == [1.45, None, 1.41]
    assert drawn["coverage"]["running_80"][-1] == pytest.approx(inside.tail(90).mean())


def test_horizons_of_other_settings_from_the_same_origin_are_not_mixed(copied: Home) -> None:
    candles = without(made_up(DAYS), *GAP)
    again: Any = {"settings_version": "calibrated-2", "prediction_id": "again", "horizons": (1, 2, 14)}
    version = read_context(copied, BTC, "calibrated", DAY).forecast.data_version
    put_forecasts(copied, candles, version, 1, **again)
    context = read_context(copied, BTC, "calibrated", DAY)
    assert [one.horizon for one in context.forecast.horizons] == list(HORIZONS)
    assert [one.first.prediction_id for one in context.revisions] == ["again"]
    assert (len(context.past), context.forecast_count) == (120, 121)


def test_an_earlier_run_that_is_over_is_not_drawn(copied: Home) -> None:
    candles = made_up(DAYS + 31)
    put_forecasts(copied, candles, store(copied, candles), 1)
    assert read_context(copied, BTC, "calibrated", DAY).earlier is None
    candles = made_up(DAYS + 60)
    put_forecasts(copied, candles, store(copied, candles), 1)
    earlier = read_context(copied, BTC, "calibrated", DAY).earlier
    assert earlier is not None
    assert earlier.horizons[-1].target_day == date(2020, 2, 24) + timedelta(days=61)


def test_points_have_no_earlier_run_to_compare(context: ReportContext, full: Home) -> None:
    forecast = context.forecast
    published = Predictions(full).newest(BTC, "calibrated", 2).to_pylist()
    point = replace(forecast, horizons=(replace(forecast.first, quantiles=None),))
    assert earlier_run(full, forecast, published) is not None
    assert earlier_run(full, point, published) is None
    assert earlier_run(full, forecast, published[1:]) is None
    assert earlier_run(full, forecast, published, ((forecast.origin_day, 0.001),)) is None


def test_the_forecast_of_the_day_before_is_the_previous_one(context: ReportContext, full: Home) -> None:
    forecast, previous = context.forecast, context.previous
    assert previous is not None
    assert (previous.first.target_day, previous.first.horizon) == (date(2020, 2, 24), 1)
    published = Predictions(full).newest(BTC, "calibrated", 2).to_pylist()
    assert previous_forecast(forecast, context.asked, published[1:]) is None
    split = ((forecast.origin_day, 0.001),)
    assert previous_forecast(forecast, context.asked, published, split) is None
    # Further ahead the page was headed by the day before, of the same run, which knows the split.
    further = read_context(full, BTC, "calibrated", DAY, target_day=DAY + timedelta(days=1))
    assert further.previous == forecast.only(1)
    third = forecast.only(7)
    assert third is not None
    assert previous_forecast(forecast, third, published) is None  # nothing is forecast 6 days ahead


def test_the_width_over_time_ends_with_the_newest_forecast(context: ReportContext) -> None:
    width = charts(context)["width"]
    assert (len(width["days"]), width["days"][-1]) == (120, "2020-02-25")
    low, high = context.asked.first.interval(80) or (0.0, 0.0)
    assert width["width_80"][-1] == pytest.approx((high - low) / context.asked.last_close, rel=1e-4)
    assert "width" not in charts(replace(context, past=context.past.tail(1)))


def test_a_run_hands_on_its_history_and_scoreboard_and_the_database_stays_closed(
    full: Home, context: ReportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Prices, "__enter__", None)
        patch.setattr("closecast.tasks.report.context.read_scoreboard", None)
        handed_on = read_context(full, BTC, "calibrated", DAY, context.history, context.board)
    assert handed_on.history is context.history
    # The newest forecast was made from other prices, as in a run on a day of the past.
    other = replace(context.history, data_version="BTC-USD@1:ab").until(context.history.days[50])
    assert read_context(full, BTC, "calibrated", DAY, other).closes.equals(context.closes)


def test_a_fine_tuned_version_goes_back_to_its_refit() -> None:
    def version(number: str, training_kind: str, parent: str) -> ModelVersion:
        tags = {"training_kind": training_kind, "parent": parent}
        return ModelVersion(BTC, "calibrated", number, "b", "s", tags=tags)

    chain = [version("3", "fine-tune", "2"), version("2", "fine-tune", "1"), version("1", "refit", "none")]
    assert refit_of(chain[0], chain).version == "1"
    assert refit_of(chain[2], chain).version == "1"
    # A parent that was pruned, and a circle, which must not hang.
    assert refit_of(chain[0], chain[:2]).version == "2"
    circle = [version("1", "fine-tune", "2"), version("2", "fine-tune", "1")]
    assert refit_of(circle[0], circle).version in ("1", "2")
