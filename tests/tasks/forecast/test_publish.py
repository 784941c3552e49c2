"""Publishing a forecast: what its rows hold, once for each key, components first."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest

from closecast.storage.core.errors import Damaged
from closecast.storage.core.home import Home
from closecast.storage.core.intervals import INTERVALS
from closecast.storage.models.registry import Models
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import PREDICTIONS, calibrator, components
from closecast.tasks.calibration.quantile_tracker import nested
from closecast.tasks.core.forecast import Forecast, HorizonForecast
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.quantiles import INTERVAL_INDEXES, LEVELS, MEDIAN
from closecast.tasks.forecast.publish import (
    days_to_backfill,
    find_forecast,
    publish_forecast,
    publish_further,
    stored_run,
)
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.baselines import MIXED, baselines_of
from closecast.tasks.training.registration import load_model
from closecast.tasks.upkeep.reproduce import reproduce_forecast
from tests.calibrated import (
    HORIZONS,
    MADE,
    Runs,
    candles,
    champion_runs,
    close,
    day,
    forecast_by_hand,
    put_forecast,
    quick,
    spread,
)
from tests.helpers import BTC, FIRST, NOW, SHA, SMALL, made_up, store, trained_home, without

LATER = NOW + timedelta(days=1)


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return champion_runs(tmp_path_factory, tmp_path / "calibrated")


def parts(home: Home, horizon: HorizonForecast) -> dict[str, dict[str, Any]]:
    """The stored components of a forecast."""
    wanted = ds.field("prediction_id") == horizon.prediction_id
    return {row["component"]: row for row in components(home).read(wanted).to_pylist()}


# Rows of a run: forecasts, components, the first states.
ROWS = [3, 3 + sum(len(baselines_of(horizon)) for horizon in HORIZONS), 3]


def count_rows(home: Home) -> list[int]:
    return [table.read().num_rows for table in (Predictions(home), components(home), calibrator(home))]


def test_each_horizon_has_a_row_with_every_column_and_its_components(runs: Runs) -> None:
    forecast = runs.publish(MADE)
    offsets = runs.model().fitted.quantile_offsets
    states = {row["horizon"]: row for row in calibrator(runs.home).read().to_pylist()}
    assert offsets
    assert list(offsets) == [one.horizon for one in forecast.horizons] == sorted(states) == list(HORIZONS)
    tracked = []
    for one, row in zip(forecast.horizons, forecast.rows(), strict=True):
        horizon = one.horizon
        assert row == Predictions(runs.home).find(runs.prediction_id(MADE, horizon))
        assert set(row) == set(PREDICTIONS.arrow.names)
        assert (row["origin_day"], row["target_day"]) == (day(MADE), day(MADE + horizon))
        assert (row["profile"], row["model_version"], row["revision"]) == ("calibrated", "1", 0)
        assert (row["basis"], row["quote_currency"]) == ("model", "USD")
        assert (row["data_version"], row["settings_version"]) == (runs.data(MADE), runs.profile.version)
        assert row["last_close"] == close(MADE)
        assert row["quantile_levels"] == list(LEVELS)
        quantiles = row["quantiles"]
        assert len(quantiles) == 23
        assert quantiles == sorted(quantiles)
        assert quantiles[0] > 0
        assert row["point"] == quantiles[MEDIAN]
        for percent in INTERVALS:
            low, high = INTERVAL_INDEXES[percent]
            assert (row[f"lower_{percent}"], row[f"upper_{percent}"]) == (quantiles[low], quantiles[high])
        stored = parts(runs.home, one)
        assert set(stored) == {"lstm", *baselines_of(horizon)}
        assert {name for name, part in stored.items() if part["calibrator_version"]} == {"lstm"}
        assert {(part["target_day"], part["horizon"]) for part in stored.values()} == {
            (day(MADE + horizon), horizon)
        }
        assert all(0 < part["sigma"] < 0.4 and len(part["quantiles"]) == 23 for part in stored.values())
        # Half the networks, half the baselines, moved by the offsets of the branch's first state.
        state = states[horizon]
        assert stored["lstm"]["calibrator_version"] == state["calibrator_version"]
        assert (state["target_day"], state["prediction_id"]) == (day(MADE), None)
        assert state["quantile_offsets"] == offsets[horizon].tolist()
        own, *mixed = (np.log(stored[name]["quantiles"]) for name in ("lstm", *MIXED))
        moved = offsets[horizon] * stored["lstm"]["sigma"]
        tracked.append(np.sort(0.5 * own + 0.5 * np.mean(mixed, axis=0) + moved))
    for row, expected in zip(
        forecast.rows(), nested([np.array(one) - np.log(close(MADE)) for one in tracked]), strict=True
    ):
        found = np.log(row["quantiles"]) - np.log(close(MADE))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_point_leaves_the_intervals_null(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    home, data_version, version = trained_home(tmp_path_factory, tmp_path / "home")
    history = PriceHistory(BTC, made_up(), data_version, "csv@0")
    profile = ArticleProfile(SMALL)
    model = load_model(Models(home), profile, BTC, version)
    given: Any = {"created_at": NOW, "flow_run_id": "run-1"}
    (row,) = publish_forecast(home, profile, model, history, **given).rows()
    assert row == Predictions(home).find(row["prediction_id"])
    assert (row["origin_day"], row["target_day"]) == (history.origin, history.origin + timedelta(days=1))
    assert (row["model_version"], row["flow_run_id"], row["created_at"]) == (version, "run-1", NOW)
    assert row["point"] > 0
    intervals = [name for name in row if name.startswith(("lower_", "upper_", "quantile"))]
    assert len(intervals) == 8
    assert all(row[name] is None for name in intervals)
    assert components(home).read().num_rows == 0


def test_the_same_key_adds_nothing(runs: Runs) -> None:
    key = runs.key(MADE)
    assert find_forecast(runs.home, key, HORIZONS) is None
    first = runs.publish(MADE)
    assert runs.publish(MADE, created_at=LATER).horizons == first.horizons
    assert count_rows(runs.home) == ROWS
    stored = find_forecast(runs.home, key, HORIZONS)
    assert stored
    assert stored.rows() == first.rows()
    # A run is done when all its horizons are there.
    assert find_forecast(runs.home, key, (*HORIZONS, 14)) is None


def test_another_key_of_the_same_day_is_a_revision(runs: Runs) -> None:
    first, second = runs.publish(MADE), runs.with_settings(fine_tune_every_days=7).publish(MADE)
    pairs = list(zip(first.horizons, second.horizons, strict=True))
    for one, other in pairs:
        assert (one.revision, other.revision) == (0, 1)
        assert one.quantiles == other.quantiles
    stored = Predictions(runs.home).between(BTC).to_pylist()
    assert [row["prediction_id"] for row in stored] == [one.prediction_id for pair in pairs for one in pair]
    # A later day forecasts some of these target days over other horizons: none of them is a revision.
    runs.score(MADE + 2)
    assert [one.revision for one in runs.publish(MADE + 2).horizons] == [0, 0, 0]


def test_each_forecast_names_the_calibrator_states_of_its_day(runs: Runs) -> None:
    """For each horizon it is the newest state whose outcome is known."""
    days = range(MADE, MADE + 5)
    forecasts = [runs.publish(number) for number in days if runs.score(number) >= 0]

    def named(forecast: Forecast) -> list[str]:
        return [parts(runs.home, one)["lstm"]["calibrator_version"] for one in forecast.horizons]

    states = {
        (row["horizon"], row["target_day"]): row["calibrator_version"]
        for row in calibrator(runs.home).read().to_pylist()
    }
    versions = [named(forecast) for forecast in forecasts]
    for number, found in zip(days, versions, strict=True):
        learned = [number, max(MADE, number) if number >= MADE + 3 else MADE, MADE]
        expected = [states[horizon, day(last)] for horizon, last in zip(HORIZONS, learned, strict=True)]
        assert found == expected
    again = runs.with_settings(refit_every_days=91).publish(MADE + 1)  # a past day has the states of that day
    assert named(again) == versions[1]
    for one, other in zip(again.horizons, forecasts[1].horizons, strict=True):
        assert (one.revision, one.quantiles) == (1, other.quantiles)


def test_a_damaged_bundle_writes_nothing(runs: Runs) -> None:
    bundle = Models(runs.home).open(runs.versions()["1"])
    (bundle.folder / "member-1.weights.h5").put(b"")
    with pytest.raises(Damaged, match=r"member-1\.weights\.h5"):
        runs.publish(MADE)
    with pytest.raises(Damaged, match="no version 7"):
        runs.publish(MADE, "7")
    assert count_rows(runs.home) == [0, 0, 0]


def test_the_model_forecasts_with_a_missing_day_in_its_window(runs: Runs) -> None:
    with Prices(runs.home) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW, replace=True)
        frame = without(candles(), day(MADE - 2), day(MADE - 1))
        prices.append(BTC, frame, source="coinbase", observed_at=NOW, payload_sha256=SHA)
    forecast = runs.publish(MADE)
    assert (forecast.basis, forecast.first.revision) == ("model", 0)
    assert count_rows(runs.home) == ROWS


def test_without_a_model_the_baselines_forecast(runs: Runs) -> None:
    history = runs.history(MADE)
    run: Any = {"created_at": NOW, "flow_run_id": None}
    forecast = publish_forecast(runs.home, runs.profile, None, history, **run)
    assert [(row["basis"], row["model_version"]) for row in forecast.rows()] == [("fallback", None)] * 3
    stored: Any = stored_run(runs.home, forecast.first.prediction_id)
    assert stored.fan == replace(
        forecast, horizons=tuple(replace(one, components={}, sigma=None) for one in forecast.horizons)
    )
    fan = []
    for one in forecast.horizons:
        stored = parts(runs.home, one)
        assert set(stored) == {"ewma_t", *baselines_of(one.horizon)}
        assert {part["calibrator_version"] for part in stored.values()} == {None}
        fan.append(np.mean([np.log(stored[name]["quantiles"]) for name in MIXED], axis=0))
    for one, logs in zip(forecast.horizons, nested(fan), strict=True):
        np.testing.assert_allclose(np.log(one.quantiles), logs, rtol=1e-12)
    # No outcome of a fallback moves the tracker.
    assert calibrator(runs.home).read().num_rows == 0


def test_a_further_horizon_is_one_more_row_of_the_run(runs: Runs) -> None:
    forecast, history = runs.publish(MADE), runs.history(MADE)
    run: Any = {"created_at": LATER, "flow_run_id": "later"}
    further = publish_further(runs.home, runs.profile, history, 9, **run)
    assert [one.horizon for one in further.horizons] == [9]
    row = Predictions(runs.home).find(runs.prediction_id(MADE, 9))
    assert row == further.rows()[0]
    assert (row["basis"], row["model_version"], row["target_day"]) == ("fallback", None, day(MADE + 9))
    again = publish_further(runs.home, runs.profile, history, 9, **run)
    assert (again.horizons, len(Predictions(runs.home).read())) == (further.horizons, 4)
    stored: Any = stored_run(runs.home, row["prediction_id"])
    assert stored.fan.horizons == tuple(
        replace(one, components={}, sigma=None, calibrator_version=None) for one in forecast.horizons
    )
    assert stored.forecast == Forecast.from_rows(further.rows())
    assert [one["horizon"] for one in stored.rows] == [*HORIZONS, 9]


@pytest.mark.parametrize("sd", [0.001, 1.0])
def test_further_horizons_have_no_wider_intervals_than_longer_ones_and_no_narrower_than_shorter_ones(
    runs: Runs, sd: float
) -> None:
    """The model's fan is much narrower or wider than the baselines, which make the rows between."""
    key, history = runs.key(MADE), runs.history(MADE)
    made: dict[int, Any] = {}
    for horizon in (1, 7, 14):
        quantiles = spread(close(MADE), sd=sd * np.sqrt(horizon))
        made[horizon] = forecast_by_hand(
            MADE, key.prediction_id(horizon), profile=runs.profile, quantiles=quantiles, horizon=horizon
        )
        Predictions(runs.home).publish(replace(made[horizon], **vars(key)).rows())
    for horizon in (9, 13, 8, 10, 20):  # a backfilled day comes later
        made[horizon] = publish_further(
            runs.home, runs.profile, history, horizon, created_at=LATER, flow_run_id=None
        )
    fan = np.array([made[horizon].first.quantiles for horizon in sorted(made)])
    assert nested(list(fan)).tolist() == fan.tolist()
    assert (np.diff(fan, axis=1) >= 0).all()
    assert all(one.first.point == one.first.quantiles[MEDIAN] for one in made.values())
    for horizon in (8, 9, 10, 13, 20):
        row = made[horizon].rows()[0]
        assert Predictions(runs.home).find(row["prediction_id"]) == row
        assert reproduce_forecast(runs.home, row["prediction_id"]).same


def test_later_days_and_restatements_never_change_a_forecast(runs: Runs) -> None:
    first, data_version = runs.publish(MADE), runs.data(MADE)
    garbage = candles().copy()
    garbage.loc[MADE:, ["open", "high", "low", "close"]] *= 2.0
    garbage.loc[MADE:, "volume"] = 1e9
    store(runs.home, garbage)
    runs.restate(MADE - 5, 4321.0)
    with Prices(runs.home) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW, replace=True)
        prices.append(BTC, made_up(60, seed=5), source="coinbase", observed_at=NOW, payload_sha256=SHA)
        frame = prices.prices_at(data_version).candles
    pd.testing.assert_frame_equal(frame, candles().head(MADE), check_exact=True)
    history = PriceHistory(BTC, frame, data_version, "csv@0")
    again = publish_forecast(
        runs.home, runs.profile, runs.model(), history, created_at=LATER, flow_run_id=None
    )
    assert again.horizons == first.horizons
    assert history.origin == FIRST + timedelta(days=MADE - 1)
    assert count_rows(runs.home) == ROWS


# The days that have no forecast


@pytest.fixture
def missed(tmp_path: Path) -> Home:
    home = Home(tmp_path).prepare()
    for number in (600, 601, 610):
        put_forecast(home, number, f"{number}".ljust(32, "0"), profile=quick())
    return home


def backfilled(
    home: Home, origin: int, limit: int, profile: str = "calibrated", product_id: str = BTC
) -> list[date]:
    frame = without(candles(), day(613), day(613))
    history = PriceHistory(product_id, frame, "BTC-USD@1:ab", "csv@0").until(day(origin))
    return days_to_backfill(home, history, profile, limit=limit)


@pytest.mark.parametrize(
    ("origin", "limit", "numbers"),
    [
        (620, 30, [611, 612, *range(614, 620)]),  # day 613 has no close
        (620, 3, range(617, 620)),
        (620, 0, ()),
        (611, 30, ()),
        (605, 30, range(602, 605)),  # counted from the newest forecast before the origin
        (600, 30, ()),
        (590, 30, ()),
    ],
)
def test_backfill_takes_the_days_between_the_newest_forecast_and_the_origin(
    missed: Home, origin: int, limit: int, numbers: range
) -> None:
    assert backfilled(missed, origin, limit) == [day(number) for number in numbers]


def test_backfill_counts_each_profile_and_product_alone(missed: Home) -> None:
    assert backfilled(missed, 620, 30, "article") == backfilled(missed, 620, 30, product_id="ETH-USD") == []
    put_forecast(missed, 615, "a" * 32)
    assert backfilled(missed, 617, 30, "article") == [day(616)]


def test_a_run_is_found_by_the_id_of_any_of_its_rows(tmp_path: Path) -> None:
    home, profile = Home(tmp_path).prepare(), quick()
    made = forecast_by_hand(600, "a", profile=profile)
    week = replace(made.first, prediction_id="b", horizon=7, target_day=day(607))
    run = replace(made, horizons=(made.first, week))
    others = [
        replace(one, horizons=(replace(made.first, prediction_id=name),))
        for name, one in {
            "older code": replace(made, code_version="0.0.1"),
            "other data": replace(made, data_version="BTC-USD@2:cd"),
            "other settings": replace(made, settings_version="calibrated-2"),
            "other profile": replace(made, profile="article"),
        }.items()
    ]
    for forecast in (run, *others, forecast_by_hand(601, "next day", profile=profile)):
        Predictions(home).publish(forecast.rows())
    for prediction_id in ("a", "b"):
        found = stored_run(home, prediction_id)
        assert found is not None
        assert [(one.prediction_id, one.horizon) for one in found.fan.horizons] == [("a", 1), ("b", 7)]
        assert found.fan == Forecast.from_rows(run.rows())
        assert found.forecast.first.prediction_id == prediction_id
    alone = stored_run(home, "next day")
    assert alone is not None
    assert [one.prediction_id for one in alone.fan.horizons] == ["next day"]
    assert stored_run(home, "none") is None
