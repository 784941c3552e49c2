"""Steps: plain functions, tasks on their first use, with the asset that they make and its facts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from prefect.assets import Asset
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.context import AssetContext
from prefect.tasks import MaterializingTask, Task

from closecast.flows.flow import flow
from closecast.storage.core.errors import BadProduct, ExchangeUnavailable
from closecast.storage.core.home import Home, default_root
from closecast.tasks.core import steps
from closecast.tasks.core.steps import (
    closes_asset,
    forecast_asset,
    model_asset,
    result_of,
    run_step,
    step,
    submit_step,
    task_of,
)
from tests.helpers import modules_after

HOME = Home(default_root())


@dataclass(frozen=True)
class Result:
    number: int

    def facts(self) -> dict[str, object]:
        return {"number": self.number, "day": date(2020, 1, 1), "nothing": None}


@step(timeout_seconds=60, run_name="{number}", retries=2)
def add_one(number: int) -> Result:
    return Result(number + 1)


def test_a_step_is_a_plain_function_and_its_task_has_the_options() -> None:
    assert add_one(1) == run_step(add_one, 1, makes=closes_asset(HOME, "BTC-USD")) == Result(2)
    task = task_of(add_one)
    assert task is task_of(add_one)
    assert isinstance(task, Task)
    assert (task.name, task.task_run_name, task.timeout_seconds) == ("add-one", "add-one {number}", 60)
    assert (task.retries, task.persist_result, task.cache_policy) == (2, False, NO_CACHE)
    assert not isinstance(task, MaterializingTask)


def test_assets_lie_side_by_side_by_product() -> None:
    assert closes_asset(HOME, "BTC-USD").key == "closecast://BTC-USD/closes"
    assert model_asset(HOME, "BTC-USD", "calibrated").key == "closecast://BTC-USD/calibrated/model"
    assert forecast_asset(HOME, "BTC-USD", "article").key == "closecast://BTC-USD/article/forecast"
    with pytest.raises(BadProduct):
        closes_asset(HOME, "../etc")
    staging = Home(Path("/srv/staging"))
    closes = closes_asset(staging, "BTC-USD")
    assert closes.key == f"closecast://{staging.label}/BTC-USD/closes"
    assert closes.name == f"BTC-USD closes ({staging.label})"


def test_a_step_that_makes_an_asset_keeps_its_options() -> None:
    closes, model = closes_asset(HOME, "BTC-USD"), model_asset(HOME, "BTC-USD", "calibrated")
    task: Any = steps._asset_task(add_one, model, (closes,))
    assert isinstance(task, MaterializingTask)
    assert [asset.key for asset in task.assets] == [model.key]
    assert [asset.key for asset in task.asset_deps] == [closes.key]
    assert task.assets[0].properties.name == "closecast.BTC-USD.calibrated"
    for name in ("name", "task_run_name", "retries", "timeout_seconds", "persist_result", "cache_policy"):
        assert getattr(task, name) == getattr(task_of(add_one), name), name


def test_the_facts_of_a_result_are_recorded_with_its_asset() -> None:
    asset = Asset(key=closes_asset(HOME, "BTC-USD").key)
    recorded = steps._with_facts(add_one)
    assert recorded(1) == Result(2)  # without a run nothing is recorded
    with AssetContext(downstream_assets={asset}) as context:
        assert recorded(2) == Result(3)
    assert context.materialization_metadata == {
        asset.key: {"number": 3, "day": "2020-01-01", "nothing": None}
    }


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_runs_and_submits_steps() -> None:
    @step()
    def fail() -> None:
        raise ExchangeUnavailable("no")

    @flow(name="both", flow_run_name=lambda: "both")
    def both() -> int:
        first = run_step(add_one, 1, makes=closes_asset(HOME, "BTC-USD"))
        second = submit_step(add_one, first.number)
        return int(submit_step(add_one, 10, wait_for=[second]).result().number + second.result().number)

    @flow(name="failing", flow_run_name=lambda: "failing")
    def failing() -> None:
        run_step(fail)

    assert both() == 14
    with pytest.raises(ExchangeUnavailable):
        failing()


@pytest.mark.parametrize(
    ("error", "is_called"),
    [
        (httpx.ConnectError("gone"), True),
        (ConcurrencySlotAcquisitionError("500"), True),
        (ExchangeUnavailable("503"), False),
    ],
)
def test_a_step_whose_task_the_server_refuses_is_called(
    error: Exception, is_called: bool, caplog: pytest.LogCaptureFixture
) -> None:
    future: Any = SimpleNamespace(result=Mock(side_effect=error))
    if is_called:
        assert result_of(future, add_one, 1) == Result(2)
        assert "add-one: Prefect's server refused its task" in caplog.text
    else:
        with pytest.raises(ExchangeUnavailable):
            result_of(future, add_one, 1)


def test_the_modules_of_steps_import_without_prefect() -> None:
    names = (
        "prices.sources",
        "training.selection",
        "forecast.publish",
        "evaluation.scoring",
        "backtest.result",
        "upkeep.reproduce",
    )
    heavy = {"prefect", "tensorflow", "mlflow", "matplotlib", "scipy", "arch", "statsmodels", "scoringrules"}
    assert not heavy & modules_after("; ".join(f"import closecast.tasks.{name}" for name in names))
