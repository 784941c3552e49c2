from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from prefect.assets import materialize
from prefect.context import AssetContext
from prefect.exceptions import PrefectException
from prefect.tasks import MaterializingTask, Task
from tasks.core.assets import (
    CLOSES,
    FORECAST,
    MODEL,
    closes_asset,
    forecast_asset,
    making,
    model_asset,
    noting,
)

from storage.core.errors import BadProduct
from tasks.forecast import publish
from tasks.prices import ingest_coinbase as catch_up
from tasks.prices import ingest_csv as ingest
from tasks.profiles import article_refit as refit
from tasks.training import selection as challenge


def test_the_keys_lie_side_by_side_by_product() -> None:
    assert closes_asset("BTC-USD").key == "closecast://BTC-USD/closes"
    assert model_asset("BTC-USD", "calibrated").key == "closecast://BTC-USD/calibrated/model"
    assert forecast_asset("BTC-USD", "article").key == "closecast://BTC-USD/article/forecast"
    for asset in (closes_asset("X-Y"), model_asset("X-Y", "p"), forecast_asset("X-Y", "p")):
        assert asset.properties is not None
        assert asset.properties.name
        assert asset.properties.description
    with pytest.raises(BadProduct):
        closes_asset("../etc")


def test_a_step_keeps_its_options_when_it_is_told_what_it_makes() -> None:
    closes, model = closes_asset("BTC-USD"), model_asset("BTC-USD", "calibrated")
    step = making(catch_up.fetch_candles, model, closes)
    assert (step.assets, step.asset_deps) == ([model], [closes])
    for name in (
        "name",
        "task_run_name",
        "retries",
        "retry_condition_fn",
        "timeout_seconds",
        "persist_result",
    ):
        assert getattr(step, name) == getattr(catch_up.fetch_candles, name), name
    assert making(publish.publish, closes).cache_policy == publish.publish.cache_policy


def test_the_steps_that_make_something_are_those_that_say_so() -> None:
    steps: dict[Task[..., Any], str] = {
        catch_up.fetch_candles: CLOSES,
        ingest.read_file: CLOSES,
        challenge.choose: MODEL,
        refit.refit: MODEL,
        publish.publish: FORECAST,
        publish.publish_calibrated: FORECAST,
    }
    for step, key in steps.items():
        assert isinstance(step, MaterializingTask)
        assert [asset.key for asset in step.assets] == [key]
    assert not isinstance(ingest.read_database, MaterializingTask)


def test_facts_are_left_with_the_asset_and_nothing_happens_outside_of_a_step() -> None:
    fn = noting(lambda number: number + 1, lambda made: {"made": made, "day": date(2020, 1, 1), "none": None})
    assert fn(1) == 2
    closes = closes_asset("BTC-USD")
    with AssetContext(downstream_assets={closes}) as context:
        assert fn(2) == 3
    assert context.materialization_metadata == {closes.key: {"made": 3, "day": "2020-01-01", "none": None}}


def test_a_failure_leaves_no_facts() -> None:
    def fail() -> int:
        raise PrefectException("no")

    closes = closes_asset("BTC-USD")
    with AssetContext(downstream_assets={closes}) as context, pytest.raises(PrefectException):
        noting(fail, lambda made: {"made": made})()
    assert context.materialization_metadata == {}
    assert materialize(closes)(noting(fail, lambda made: {})).fn.__name__ == "fail"
