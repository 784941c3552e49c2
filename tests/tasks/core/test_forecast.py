"""A forecast as rows of the table and back, and as people read it."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta

import numpy as np
import pytest

from closecast.storage.core.intervals import INTERVALS
from closecast.storage.tables.schemas import PREDICTIONS, SCORES
from closecast.tasks.core.forecast import Forecast, Score
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


@pytest.mark.parametrize("last_close", [1.0004, 1e-8, 0.999, 30_000.0])
@pytest.mark.parametrize("width", [3e-2, 3e-5, 3e-8])
def test_ends_are_told_apart_however_near_they_are(last_close: float, width: float) -> None:
    quantiles = tuple((last_close * np.linspace(1 - width, 1 + width, 23)).tolist())
    first = replace(DISTRIBUTION.first, quantiles=quantiles, point=quantiles[11])
    forecast = replace(
        DISTRIBUTION,
        product_id="USDC-EUR",
        last_close=last_close,
        horizons=(first, replace(first, horizon=2)),
    )
    texts = dict(forecast.price_summary())
    ends = [end for percent in INTERVALS for end in texts[f"{percent} %"].split(" to ")]
    assert len(set(ends)) == 6
    assert all(end.endswith(" EUR") for end in ends)
    figures = [end for percent in INTERVALS for end in first.interval(percent) or ()]
    assert (
        len({forecast.change(end) for end in figures}) == len({forecast.price(end) for end in figures}) == 6
    )
    _, rows = forecast.fan()
    for low, high in (cell.split(" to ") for row in rows for cell in row[3:]):
        assert float(low.replace(",", "")) < float(high.replace(",", ""))


def test_a_narrow_interval_has_more_digits() -> None:
    forecast = replace(DISTRIBUTION, product_id="USDC-EUR", last_close=DISTRIBUTION.first.point * (1 + 1e-9))
    assert forecast.prices(1.0004, 1.0005) == "1.000400 EUR to 1.000500 EUR"
    assert forecast.amounts(7900.0, 8100.0) == ("7,900.00", "8,100.00")
    assert forecast.change(forecast.first.point) == "+0.00%"


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
        ends = [horizon.interval(percent) or (0.0, 0.0) for percent in (80, 95)]
        assert row[2:] == [
            forecast.amount(horizon.point),
            *(" to ".join(forecast.amounts(*two)) for two in ends),
        ]
    header, ((_, _, point, *intervals),) = POINT.fan()
    assert header[2] == f"point, {POINT.quote_currency}"
    assert point == POINT.price(POINT.first.point).removesuffix(" USD")
    assert intervals == ["–", "–"]


def test_a_notebook_shows_the_days_ahead() -> None:
    forecast = two_horizons()
    low, high = forecast.amounts(*forecast.first.interval(80))
    headline = (
        f"BTC-USD {day(601)}: 80 % {low} USD to {high} USD, median {forecast.price(forecast.first.point)}"
    )
    assert repr(forecast) == (
        f"<Forecast {headline}; days ahead: 1, 7; calibrated, closecast.BTC-USD.calibrated version 1>"
    )
    shown = forecast._repr_html_()
    assert shown.startswith(f"<table><caption>{headline}</caption>")
    assert shown.count("<tr>") == 3
    assert f"<tr><td>{day(601)}</td><td>1</td>" in shown
    assert "<th>median, USD</th>" in shown
    odd = replace(forecast, profile="<script>")
    assert "<script>" not in odd._repr_html_()
    assert f"{day(601)}: point {POINT.price(POINT.first.point)};" in repr(POINT)


def test_a_frame_has_the_columns_and_types_of_the_table() -> None:
    frame = two_horizons().to_frame()
    assert list(frame.columns) == PREDICTIONS.arrow.names
    assert frame["horizon"].tolist() == [1, 7]
    assert [str(frame[name].dtype) for name in ("target_day", "created_at")] == [
        "datetime64[s]",
        "datetime64[us, UTC]",
    ]
    assert (frame["upper_95"] > frame["point"]).all()
    assert POINT.to_frame()["lower_80"].isna().all()
