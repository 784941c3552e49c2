"""The daily flow on the session's Prefect server: what it does, once, and what it leaves alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner
from prefect.tasks import Task

from closecast.flows.daily import daily_forecast
from closecast.storage.core.errors import (
    BadFile,
    BadProduct,
    ExchangeRefused,
    ExchangeUnavailable,
    StaleSeries,
)
from closecast.storage.core.home import Home
from closecast.storage.models.registry import Models
from closecast.storage.prices.price_store import Prices
from closecast.storage.reports import Reports
from closecast.storage.tables.predictions import Predictions
from closecast.tasks.core.steps import step, task_of
from closecast.tasks.prices.sources import Market, ingest_prices
from tests.calibrated import HORIZONS, QUICK
from tests.flows.conftest import DAY, LAST, artifacts_of, flow_runs_of
from tests.helpers import to_csv
from tests.proxy import Proxy, Refusal
from tests.waiting import wait_for

ONCE = {"epochs": 1}
CALIBRATED = QUICK | {"min_days": 200, "lookback": 5}

pytestmark = pytest.mark.usefixtures("prefect_server")
Walk = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def csv(walk: Walk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty days up to LAST."""
    path = tmp_path_factory.mktemp("csv") / "btc.csv"
    path.write_bytes(to_csv(walk(LAST)))
    return path


def run(home: Path, csv: Path, *, flow: Any = daily_forecast, product_id: str = "BTC-USD") -> str:
    market = Market(product_id=product_id, source="csv", csv=csv)
    prediction_id: str = flow(market, "article", ONCE, home=str(home))
    return prediction_id


def rows(home: Path) -> list[dict[str, Any]]:
    stored: list[dict[str, Any]] = Predictions(Home(home)).between().to_pylist()
    return stored


def without_time(home: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("created_at", "flow_run_id")} for row in rows(home)]


def files(home: Path) -> dict[str, int]:
    """Every stored file with the time of its last change."""
    folders = (home / name for name in ("models", "predictions", "raw"))
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in paths}


def observations(home: Path) -> int:
    with Prices(Home(home)) as prices:
        return int(prices.table("candles").num_rows)


@pytest.fixture(scope="module")
def run_once(csv: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home with one forecast, made with the default task runner."""
    home = tmp_path_factory.mktemp("once")
    return home, run(home, csv)


def test_a_run_writes_one_row(run_once: tuple[Path, str]) -> None:
    home, prediction_id = run_once
    (row,) = rows(home)
    assert row["prediction_id"] == prediction_id
    assert (row["origin_day"], row["target_day"], row["revision"]) == (LAST, LAST + DAY, 0)
    assert row["point"] > 0
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(row["flow_run_id"])
    assert (flow_run.name, flow_run.tags) == (f"BTC-USD {LAST}", [f"home:{Home(home).label}"])


def test_the_same_run_again_makes_nothing(
    run_once: tuple[Path, str], csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, prediction_id = run_once
    before, candles = files(home), observations(home)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("closecast.flows.daily.select_model", fail)
    assert run(home, csv) == prediction_id
    assert len(rows(home)) == 1
    assert (files(home), observations(home)) == (before, candles)


@pytest.mark.engines
def test_another_task_runner_gives_the_same_bits(
    run_once: tuple[Path, str], csv: Path, tmp_path: Path
) -> None:
    home, prediction_id = run_once
    runner: Any = ProcessPoolTaskRunner(max_workers=1)
    assert run(tmp_path, csv, flow=daily_forecast.with_options(task_runner=runner)) == prediction_id
    assert without_time(tmp_path) == without_time(home)
    weights = (
        [version.tags["weights_sha256"] for version in Models(Home(root)).versions()]
        for root in (tmp_path, home)
    )
    assert next(weights) == next(weights)


def test_a_run_has_artifacts_and_named_tasks(run_once: tuple[Path, str]) -> None:
    home, prediction_id = run_once
    (row,) = rows(home)
    artifacts, label = artifacts_of(row["flow_run_id"]), Home(home).label
    keys = {"forecast", "forecasts", "prices", "losses", "predicted"}
    assert set(artifacts) == {
        *(f"{key}-btc-usd-article-{label}" for key in keys),
        f"training-btc-usd-{label}",
    }
    assert float(str(artifacts[f"training-btc-usd-{label}"].data)) == 100.0
    markdown, table = (artifacts[f"{key}-btc-usd-article-{label}"] for key in ("forecast", "forecasts"))
    assert (markdown.type, table.type) == ("markdown", "table")
    assert prediction_id in str(markdown.data)
    assert f"{row['point']:,.2f} USD" in str(markdown.data)
    assert prediction_id in str(table.data)
    for key in ("prices", "losses", "predicted"):
        picture = artifacts[f"{key}-btc-usd-article-{label}"]
        assert picture.type == "image"
        assert str(picture.data).startswith("data:image/png;base64,iVBOR")
    names = {"ingest-prices BTC-USD", "select-model BTC-USD", "publish-forecast BTC-USD"}
    wanted_runs = FlowRunFilter(id=FlowRunFilterId(any_=[row["flow_run_id"]]))

    def are_recorded() -> bool:
        return names <= {step.name for step in client.read_task_runs(flow_run_filter=wanted_runs)}

    with get_client(sync_client=True) as client:
        wait_for(are_recorded)  # the server records steps from their events, some time after the run


@pytest.mark.engines
@pytest.mark.parametrize("refusal", ["500", "hang", "hang up"])
def test_refusals_by_prefect_lose_neither_forecast_nor_report(
    refusal: Refusal,
    csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("closecast.tasks.report.side_calls.SECONDS", 0.5)
    upkeep: list[str] = []
    monkeypatch.setattr(
        "closecast.flows.daily.keep_few_files", step()(lambda _, product_id: upkeep.append(product_id))
    )
    with (
        Proxy(PREFECT_API_URL.value()) as proxy,
        temporary_settings({PREFECT_API_URL: proxy.api}),
        # Prefect asks before each task whether a tag is limited, and keeps a connection for each tag.
        tags(f"closecast {refusal}"),
    ):
        proxy.refused = {"(POST|PATCH) /api/artifacts": refusal, "POST /api/v2/concurrency_limits": "500"}
        prediction_id = run(tmp_path, csv)
    assert [row["prediction_id"] for row in rows(tmp_path)] == [prediction_id]
    assert Reports(Home(tmp_path)).summary("BTC-USD", "article")["target_day"] == str(LAST + DAY)
    assert upkeep == ["BTC-USD"]
    assert "the artifacts of BTC-USD: refused by Prefect's server" in caplog.text
    with get_client(sync_client=True) as client:
        (row,) = rows(tmp_path)
        assert client.read_flow_run(row["flow_run_id"]).state_name == "Completed"


def test_only_the_error_of_a_flow_is_persisted_as_json_and_its_run_has_the_tag_of_the_home(
    run_once: tuple[Path, str], tmp_path: Path
) -> None:
    storage = Path(os.environ["PREFECT_HOME"]) / "storage"
    before = {path for path in storage.rglob("*") if path.is_file()}  # of other tests' flows
    with pytest.raises(BadFile):
        run(tmp_path, tmp_path / "none.csv")
    (failed,) = flow_runs_of(Home(tmp_path))
    assert failed.state_name == "Failed"
    added = {path for path in storage.rglob("*") if path.is_file()} - before
    types = {path: json.loads(path.read_text(encoding="utf-8"))["__exc_type__"] for path in {*before, *added}}
    assert all(types[path] == "closecast.storage.core.errors.BadFile" for path in added)
    assert len(added) <= 1


# Retries

INGEST = task_of(ingest_prices)


def attempts(monkeypatch: pytest.MonkeyPatch, error: Exception, *, deployed: bool) -> int:
    """How often Prefect runs a task with the retries of `ingest_prices`, without their delays."""
    calls = []

    def fail() -> None:
        calls.append(1)
        raise error

    monkeypatch.setattr("prefect.runtime.deployment.get_id", lambda: "an id" if deployed else None)
    condition = INGEST.retry_condition_fn
    task: Any = Task(fail, retries=INGEST.retries, retry_condition_fn=condition, persist_result=False)
    with pytest.raises(type(error)):
        task()
    return len(calls)


def test_only_an_unavailable_exchange_is_retried_and_only_under_a_deployment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert attempts(monkeypatch, ExchangeUnavailable("503"), deployed=True) == 4
    assert attempts(monkeypatch, ExchangeUnavailable("503"), deployed=False) == 1
    for final in (ExchangeRefused("400"), BadProduct("404"), StaleSeries("no day"), ValueError("a bug")):
        assert attempts(monkeypatch, final, deployed=True) == 1


# After an outage


def origins(home: Path) -> list[date]:
    """Those of the stored forecasts, which have all their horizons."""
    stored = rows(home)
    found = [row["origin_day"] for row in stored if row["horizon"] == 1]
    assert sorted((row["origin_day"], row["horizon"]) for row in stored) == [
        (day, horizon) for day in found for horizon in HORIZONS
    ]
    return found


def calibrated(home: Path, csv: Path, **more: Any) -> str:
    market = Market(product_id="BTC-USD", source="csv", csv=csv)
    prediction_id: str = daily_forecast(market, "calibrated", CALIBRATED, home=str(home), **more)
    return prediction_id


def test_backfilled_forecasts_are_those_of_daily_runs(walk: Walk, tmp_path: Path) -> None:
    whole = tmp_path / "whole.csv"
    whole.write_bytes(to_csv(walk(LAST, days=330)))
    for number in (3, 1, 0):  # the day between is beyond the limit
        calibrated(tmp_path / "daily", whole, origin=LAST - number * DAY)
    calibrated(tmp_path / "late", whole, origin=LAST - 3 * DAY)
    newest = calibrated(tmp_path / "late", whole, origin=LAST, backfill_days=1)
    assert without_time(tmp_path / "late") == without_time(tmp_path / "daily")
    assert origins(tmp_path / "late") == [LAST - number * DAY for number in (3, 1, 0)]
    late = rows(tmp_path / "late")
    assert [row["prediction_id"] for row in late if row["horizon"] == 1][-1] == newest
    assert all(row["created_at"].date() > row["origin_day"] + DAY for row in late)
    # Once: the same run again backfills nothing.
    assert calibrated(tmp_path / "late", whole, origin=LAST, backfill_days=1) == newest
    assert rows(tmp_path / "late") == late
