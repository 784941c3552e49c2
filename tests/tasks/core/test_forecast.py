"""A forecast as rows of the table and back, and as people read it."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta

import numpy as np
import pytest

from storage.core.intervals import INTERVALS
from storage.tables.schemas import PREDICTIONS, SCORES
from tasks.core.forecast import Forecast, Score
from tests.calibrated import day, forecast_by_hand, quick
from tests.helpers import NOW

DISTRIBUTION = forecast_by_hand(600, "a" * 32, profile=quick())
POINT = forecast_by_hand(600, "b" * 32)


def two_horizons() -> Forecast:
    first = DISTRIBUTION.first
    assert first.quantiles is not None
    wider = tuple((np.array(first.quantiles) * 1.01).tolist())
    second = replace(
        first,
        prediction_id="c" * 32,
        horizon=7,
        target_day=first.target_day + timedelta(days=6),
        quantiles=wider,
    )
    return replace(DISTRIBUTION, horizons=(first, second))


@pytest.mark.parametrize("forecast", [DISTRIBUTION, POINT, two_horizons()], ids=["one", "point", "two"])
def test_rows_have_every_column_and_make_the_same_forecast(forecast: Forecast) -> None:
    rows = forecast.rows()
    assert all(
        list(PREDICTIONS.arrow.empty_table().to_pydict()) and set(row) == set(PREDICTIONS.arrow.names)
        for row in rows
    )
    # Component forecasts stand in a table of their own.
    bare = [replace(one, components={}, sigma=None, calibrator_version=None) for one in forecast.horizons]
    assert Forecast.from_rows(rows[::-1]) == replace(forecast, horizons=tuple(bare))


def test_the_summary_names_every_fact() -> None:
    summary = dict(DISTRIBUTION.summary())
    labels = ["forecast", "last close", "50 %", "80 %", "95 %"]
    versions = ["profile", "model", "data", "settings", "code", "prediction"]
    assert list(summary) == labels + versions
    assert summary["forecast"].endswith(" on the last close)")
    assert "USD" in summary["forecast"]
    assert str(day(600)) in summary["last close"]
    assert summary["model"] == "closecast.BTC-USD.calibrated version 1"
    assert summary["prediction"] == f"{'a' * 32}, revision 0"
    point = dict(POINT.summary())
    assert list(point) == [*labels[:2], *versions]
    assert point["profile"] == "article: a point without intervals"
    far = two_horizons()
    assert dict(far.summary(far.horizons[1]))["prediction"].startswith("c" * 32)


@pytest.mark.parametrize(
    ("scale", "product_id", "text"),
    [
        (1.0, "BTC-EUR", "1,234.50 EUR"),
        (1e-6, "SHIB-USD", "0.0012345 USD"),
        (1e-9, "PEPE-EUR", "0.0000012345 EUR"),
    ],
)
def test_prices_have_the_decimals_that_tell_the_ends_apart(scale: float, product_id: str, text: str) -> None:
    quantiles = tuple((np.linspace(1200.0, 1300.0, 23) * scale).tolist())
    first = replace(DISTRIBUTION.first, quantiles=quantiles)
    forecast = replace(DISTRIBUTION, product_id=product_id, horizons=(first,))
    assert forecast.price(1234.5 * scale) == text
    ends = [end for percent in INTERVALS for end in first.interval(percent) or ()]
    assert len({forecast.price(end) for end in ends}) == 6


def test_a_score_has_every_column_of_the_table() -> None:
    score = Score("p", "BTC-USD", day(1), 1, 2.0, 0.1, 0.2, None, None, None, None, None, None, "v", NOW)
    assert set(asdict(score)) == set(SCORES.arrow.names)
    assert (asdict(score)["close"], asdict(score)["covered_80"]) == (2.0, None)


def test_the_fan_has_a_row_a_horizon_in_the_prices_of_the_summary() -> None:
    forecast = two_horizons()
    header, rows = forecast.fan()
    assert header == ["day", "days ahead", "median, USD", "80 %", "95 %"]
    assert [row[:2] for row in rows] == [[str(day(601)), "1"], [str(day(607)), "7"]]
    for row, horizon in zip(rows, forecast.horizons, strict=True):
        summary = dict(forecast.price_summary(horizon))
        assert summary["forecast"].startswith(f"{row[2]} USD")
        assert [text.replace(" USD", "") for text in (summary["80 %"], summary["95 %"])] == row[3:]
    _, ((_, _, point, *intervals),) = POINT.fan()
    assert point == POINT.price(POINT.first.point).removesuffix(" USD")
    assert intervals == ["–", "–"]
