"""A young product: forecast by networks on older ones, until it has closes enough for its own."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from closecast.storage.core.home import Home
from closecast.storage.models.registry import CHAMPION, Models
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import calibrator
from closecast.tasks.prices.ingest import MAX_POOL
from closecast.tasks.training.registration import read_lineage
from closecast.tasks.upkeep.reproduce import reproduce_forecast
from closecast.tasks.upkeep.verify import verify_home
from tests.calibrated import Runs, day, empty_runs, select_and_die
from tests.helpers import BTC, FIRST, made_up, store
from tests.processes import run_process

ETH, LTC = "ETH-USD", "LTC-USD"
# Young until its 200th close, a refit a month.
YOUNG: dict[str, Any] = {"min_days": 200, "validation_days": 30, "refit_every_days": 30, "tracker_step": 0.02}


OLDER = made_up(490, FIRST - timedelta(days=230), seed=2)


@pytest.fixture
def empty(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return empty_runs(tmp_path_factory, tmp_path / "home", **YOUNG)


@pytest.fixture
def runs(empty: Runs) -> Runs:
    """A home with 260 days of BTC-USD and ETH-USD, which began 230 days earlier."""
    store(empty.home, made_up(260))
    store(empty.home, OLDER, product_id=ETH)
    return empty


def beside(runs: Runs, own: pd.DataFrame, older: pd.DataFrame) -> Runs:
    """Another home without a model, with these candles."""
    home = Home(runs.home.root.parent / "other").prepare()
    store(home, own)
    store(home, older, product_id=ETH)
    return Runs(home, runs.profile)


def bases(home: Home) -> dict[Any, str]:
    rows = Predictions(home).between(BTC, profile="calibrated", columns=["origin_day", "basis"], horizon=1)
    return dict(zip(*(rows[name].to_pylist() for name in ("origin_day", "basis")), strict=True))


def test_a_product_is_young_and_grows_up(runs: Runs) -> None:
    """Its whole youth in one home: every version, forecast and state, and all of it can be made again."""
    made = {number: runs.live(number) for number in (60, 61, 90, 199, 200, 201)}
    assert [one.model_version for one in made.values()] == ["1", "1", "2", "3", "4", "4"]
    assert [one.basis for one in made.values()] == ["pool"] * 4 + ["model"] * 2
    assert bases(runs.home) == {day(number): one.basis for number, one in made.items()}
    tags = {number: version.tags for number, version in sorted(runs.versions().items())}
    assert [one["basis"] for one in tags.values()] == ["pool"] * 3 + ["model"]
    assert {one["gate"] for one in list(tags.values())[:3]} == {"none: trained on other products alone"}
    assert tags["4"]["gate"] == "none: the champion was trained on other products alone"
    assert {one["status"] for one in tags.values()} == {"accepted"}
    assert {one["training_kind"] for one in tags.values()} == {"refit"}
    assert tags["1"]["pooled"] == ETH
    assert tags["4"]["pooled"] == "none"  # it is not among the settings' pool products
    assert runs.versions()["4"].aliases == (CHAMPION,)
    # The tracker goes on from the pool's model to the product's own.
    states = [row for row in calibrator(runs.home, BTC).read().to_pylist() if row["horizon"] == 1]
    assert sum(row["prediction_id"] is None for row in states) == 1
    assert sorted(row["target_day"] for row in states) == [day(60), *map(day, (61, 62, 91, 200, 201))]
    assert verify_home(runs.home).findings == []
    for number, retrain in ((60, True), (199, False), (201, False)):
        result = reproduce_forecast(runs.home, made[number].first.prediction_id, retrain=retrain)
        assert result.same
        assert result.weights if retrain else not result.weights


def test_a_pooled_forecast_learns_nothing_from_the_products_own_closes(runs: Runs) -> None:
    runs.select(60)
    model = runs.model()
    lineage = read_lineage(Models(runs.home).open(runs.versions()["1"]))
    assert lineage.basis == "pool"
    assert set(lineage.windows) == {f"pooled {ETH}"}
    assert lineage.pooled_data_versions == {ETH: runs.data(60, ETH)}
    assert model.fitted.twin is None
    losses = Models(runs.home).open(runs.versions()["1"]).read_json("losses.json")
    assert None not in losses["networks"][0]["val_loss"]  # of the search for the epochs
    # Other closes of the same days give the same networks.
    again = beside(runs, made_up(260, seed=3), OLDER)
    again.select(60)
    assert again.versions()["1"].tags["weights_sha256"] == runs.versions()["1"].tags["weights_sha256"]
    assert again.model().fitted.state.tails == model.fitted.state.tails


def test_closes_of_the_future_move_no_bit(runs: Runs) -> None:
    short = beside(runs, made_up(260)[:70], OLDER[:300])
    whole, shorter = (one.live(70).horizons for one in (runs, short))
    assert [one.quantiles for one in whole] == [one.quantiles for one in shorter]


def test_without_an_older_product_there_is_no_version(empty: Runs) -> None:
    runs = empty
    store(runs.home, made_up(260))
    store(runs.home, made_up(199), product_id=ETH)
    selection = runs.select(199)
    assert selection.version is None
    assert selection.warning
    assert "200 closes" in selection.warning
    assert not runs.versions()
    assert runs.select(200).version == "1"
    assert runs.versions()["1"].tags["basis"] == "model"


def test_a_product_is_too_young_for_the_pool(runs: Runs) -> None:
    assert runs.with_settings(min_pool_days=80).select(79).version is None
    assert runs.with_settings(min_pool_days=80).select(80).version == "1"
    assert runs.with_settings(min_pool_days=200).select(199).version is None


@pytest.mark.parametrize(("point", "number", "basis"), [("mark", 60, "pool"), ("settle", 200, "model")])
def test_a_killed_run_is_finished_by_the_next(runs: Runs, point: str, number: int, basis: str) -> None:
    if number > 60:
        runs.select(number - 1)
    before = len(runs.versions())
    assert run_process(select_and_die, runs, number, point) != 0
    selection = runs.select(number)
    assert len(runs.versions()) == before + 1
    newest = runs.versions()[selection.version or ""]
    assert (newest.tags["basis"], newest.tags["status"]) == (basis, "accepted")
    assert newest.aliases == (CHAMPION,)


def test_the_pool_are_the_oldest_products_with_closes_enough(runs: Runs) -> None:
    for number in range(MAX_POOL):
        first = FIRST - timedelta(days=200 + number)
        store(runs.home, made_up(300, first, seed=number), product_id=f"OLD{number:02}-USD")
    store(runs.home, made_up(199, FIRST), product_id=LTC)
    runs.select(60)
    pooled = runs.versions()["1"].tags["pooled"].split(",")
    assert pooled == [ETH, *(f"OLD{number:02}-USD" for number in range(MAX_POOL - 1, 0, -1))]


@pytest.mark.parametrize(
    ("own", "theirs", "left_out"),
    [
        (["volume"], [], ("volume",)),
        (["open", "high", "low"], [], ("ranges (open, high, low)",)),
        ([], ["open", "high", "low", "volume"], ("ranges (open, high, low)", "volume")),
    ],
)
def test_the_networks_are_shown_columns_that_both_have(
    empty: Runs, own: list[str], theirs: list[str], left_out: tuple[str, ...]
) -> None:
    store(empty.home, made_up(70).assign(**dict.fromkeys(own, np.nan)))
    store(empty.home, OLDER.assign(**dict.fromkeys(theirs, np.nan)), product_id=ETH)
    assert empty.live(60).basis == "pool"
    lineage = empty.model().lineage
    assert lineage.columns_left_out == left_out
    assert lineage.not_pooled == {}


def test_a_product_of_the_pool_that_lacks_a_column_is_left_out(runs: Runs) -> None:
    older = made_up(480, FIRST - timedelta(days=240), seed=4).assign(volume=np.nan)
    store(runs.home, older, product_id=LTC)
    runs.select(60)
    lineage = runs.model().lineage
    assert lineage.not_pooled == {LTC: "has no volume"}
    assert list(lineage.pooled_data_versions) == [ETH]


@pytest.mark.parametrize("last", [100, 288])
def test_products_that_are_no_longer_traded_are_learned_from(runs: Runs, last: int) -> None:
    """The oldest one was delisted before the young one began, or lags by a day or two."""
    older = made_up(490, FIRST - timedelta(days=430), seed=5)[: 200 + last]
    store(runs.home, older, product_id=LTC)
    runs.select(60)
    lineage = runs.model().lineage
    assert lineage.trained_through == day(60)
    assert set(lineage.windows) == {f"pooled {LTC}", f"pooled {ETH}"}


def test_a_pool_that_ended_years_before_is_learned_from(empty: Runs) -> None:
    store(empty.home, made_up(70))
    store(empty.home, made_up(300, FIRST - timedelta(days=700), seed=6), product_id=ETH)
    assert empty.live(60).basis == "pool"
    assert empty.model().lineage.trained_through == FIRST - timedelta(days=401)


def test_a_young_product_with_gaps_has_a_forecast_every_day(empty: Runs) -> None:
    frame = made_up(120)
    store(empty.home, frame[frame["day_utc"].dt.day_name() != "Sunday"].reset_index(drop=True))
    store(empty.home, OLDER, product_id=ETH)
    made = [empty.live(number) for number in range(74, 79) if day(number).weekday() != 6]
    assert len(made) == 4
    assert {one.basis for one in made} == {"pool"}
