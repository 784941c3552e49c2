"""The flow under a real Prefect server of the session: what it does, once, and what it leaves alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.daily import daily_forecast
from flows.settings import Market
from storage.core.errors import (
    BadFile,
    BadProduct,
    ExchangeRefused,
    ExchangeUnavailable,
    StaleSeries,
)
from storage.core.home import Home
from storage.models.registry import Models
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from tasks.forecast import publish
from tasks.prices import ingest_coinbase as catch_up
from tasks.prices import ingest_csv as ingest
from tasks.profiles import article_refit as refit
from tasks.report import prefect_artifacts as artifacts
from tests.exchange import Exchange

LAST = date(2019, 10, 17)
ONCE = {"epochs": 1}
DAY = timedelta(days=1)

pytestmark = pytest.mark.usefixtures("prefect_server")
Walk = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def csv(walk: Walk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty days up to LAST, and a copy that ends a day earlier."""
    path = tmp_path_factory.mktemp("csv") / "btc.csv"
    write(walk(LAST), path)
    return path


def write(candles: pd.DataFrame, path: Path) -> Path:
    plain = pd.DataFrame({"date": candles["day_utc"].dt.strftime("%Y-%m-%d"), "close": candles["close"]})
    plain.to_csv(path, index=False)
    return path


def run(
    home: Path, csv: Path, *, flow: Any = daily_forecast, product_id: str = "BTC-USD", **more: Any
) -> str:
    market = Market(product_id=product_id, source="csv", csv=csv)
    said: str = flow(market, "article", ONCE, home=str(home), **more)
    return said


def rows(home: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Predictions(Home(home)).between().to_pylist()
    return found


def versions(home: Path) -> list[str]:
    return [version.tags["weights_sha256"] for version in Models(Home(home)).versions()]


def stored(folder: Path) -> dict[str, int]:
    """Every file that holds something made, with the time of its last change."""
    kept = (folder / name for name in ("models", "predictions", "raw"))
    return {
        str(path): path.stat().st_mtime_ns for place in kept for path in place.rglob("*") if path.is_file()
    }


def observations(home: Path) -> int:
    with Prices(Home(home)) as prices:
        return int(prices.table("candles").num_rows)


@pytest.fixture(scope="module")
def done(csv: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home with one forecast, made with the default task runner."""
    home = tmp_path_factory.mktemp("done")
    return home, run(home, csv)


def test_a_run_writes_one_row(done: tuple[Path, str]) -> None:
    home, prediction_id = done
    (row,) = rows(home)
    assert row["prediction_id"] == prediction_id
    assert (row["origin_day"], row["target_day"], row["revision"]) == (LAST, LAST + DAY, 0)
    assert row["point"] > 0
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(row["flow_run_id"]).name == f"BTC-USD {LAST}"


def test_the_same_again_returns_the_same_and_makes_nothing(
    done: tuple[Path, str], csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, prediction_id = done
    before, seen = stored(home), observations(home)

    def trained(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("flows.daily.keep_or_challenge", trained)
    assert run(home, csv) == prediction_id
    assert len(rows(home)) == 1
    assert (stored(home), observations(home)) == (before, seen)


@pytest.mark.parametrize(
    "runner",
    [
        ThreadPoolTaskRunner(max_workers=1),
        pytest.param(ProcessPoolTaskRunner(max_workers=1), marks=pytest.mark.engines),
    ],
    ids=["thread", "process"],
)
def test_other_task_runners_give_the_same_bits(
    runner: Any, done: tuple[Path, str], csv: Path, tmp_path: Path
) -> None:
    home, prediction_id = done
    assert run(tmp_path, csv, flow=daily_forecast.with_options(task_runner=runner)) == prediction_id
    (row,), (other,) = rows(home), rows(tmp_path)
    made = {"created_at", "flow_run_id"}
    assert {k: v for k, v in other.items() if k not in made} == {
        k: v for k, v in row.items() if k not in made
    }
    assert versions(tmp_path) == versions(home)


def test_what_people_see_in_prefect(done: tuple[Path, str]) -> None:
    home, prediction_id = done
    (row,) = rows(home)
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[row["flow_run_id"]]))
        found = {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=wanted)}
        wanted_runs = FlowRunFilter(id=FlowRunFilterId(any_=[row["flow_run_id"]]))
        steps = client.read_task_runs(flow_run_filter=wanted_runs)
    keys = {"forecast", "forecasts", "prices", "losses", "predicted"}
    assert set(found) == {*(f"{key}-btc-usd-article" for key in keys), "training-btc-usd"}
    assert float(str(found["training-btc-usd"].data)) == 100.0
    markdown, table = found["forecast-btc-usd-article"], found["forecasts-btc-usd-article"]
    assert (markdown.type, table.type) == ("markdown", "table")
    assert prediction_id in str(markdown.data)
    assert f"{row['point']:,.2f} USD" in str(markdown.data)
    assert prediction_id in str(table.data)
    for key in ("prices", "losses", "predicted"):
        picture = found[f"{key}-btc-usd-article"]
        assert picture.type == "image"
        assert str(picture.data).startswith("data:image/png;base64,iVBOR")
    assert {"read-csv BTC-USD", "refit BTC-USD article", "publish-forecast BTC-USD"} <= {
        s.name for s in steps
    }


def test_nothing_is_persisted_but_the_error_of_a_flow_and_that_as_json(
    done: tuple[Path, str], tmp_path: Path
) -> None:
    storage = Path(os.environ["PREFECT_HOME"]) / "storage"
    before = {path for path in storage.rglob("*") if path.is_file()}  # of other tests' flows
    with pytest.raises(BadFile):
        run(tmp_path, tmp_path / "none.csv")
    added = {path for path in storage.rglob("*") if path.is_file()} - before
    for path in {*before, *added}:
        assert json.loads(path.read_text(encoding="utf-8"))["__exc_type__"].startswith("storage.core.errors.")
    assert len(added) <= 1


def test_two_products_of_one_home_do_not_touch_each_other(
    done: tuple[Path, str], csv: Path, walk: Walk, tmp_path: Path
) -> None:
    home, prediction_id = done
    other = write(walk(LAST, seed=8), tmp_path / "eth.csv")
    before = {name: stamp for name, stamp in stored(home).items() if "BTC-USD" in name}
    assert before
    other_id = run(home, other, product_id="ETH-USD")
    assert {row["product_id"]: row["prediction_id"] for row in rows(home)} == {
        "BTC-USD": prediction_id,
        "ETH-USD": other_id,
    }
    assert {name: stamp for name, stamp in stored(home).items() if "BTC-USD" in name} == before
    assert run(home, csv) == prediction_id
    assert len(rows(home)) == 2


@pytest.fixture
def exchange(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Exchange]:
    """An exchange that stands at 00:20 after LAST and knows the two days to come."""
    frame = walk(LAST + 2 * DAY, days=62)
    clock = datetime(2019, 10, 18, 0, 20, tzinfo=UTC)
    with Exchange({"BTC-USD": frame, "ETH-USD": frame}, clock=clock, rate=1000, burst=1000) as served:
        monkeypatch.setenv("CLOSECAST_COINBASE_URL", served.url)
        monkeypatch.setattr("tasks.prices.ingest_coinbase.FIRST_DAY", LAST - 59 * DAY)
        monkeypatch.setattr("flows.clock.now", lambda: served.now)
        yield served


COINBASE = Market(product_id="BTC-USD", source="coinbase")


def test_the_next_day_appends_only_what_is_new(exchange: Exchange, tmp_path: Path) -> None:
    daily_forecast(COINBASE, "article", ONCE, home=str(tmp_path))
    assert observations(tmp_path) == 60
    exchange.clock = exchange.now + DAY
    asked = len(exchange.requests)
    daily_forecast(COINBASE, "article", ONCE, home=str(tmp_path))
    assert observations(tmp_path) == 61
    assert [row["target_day"] for row in rows(tmp_path)] == [LAST + DAY, LAST + 2 * DAY]
    (request,) = exchange.requests[asked:]
    assert request.query["start"].startswith(str(LAST - 7 * DAY))


def test_a_stale_series_fails_and_forecasts_nothing(exchange: Exchange, tmp_path: Path) -> None:
    # The exchange's clock is ours in this test, but its candles end two days before.
    exchange.clock = exchange.now + 4 * DAY
    with pytest.raises(StaleSeries, match="2019-10-21"):
        daily_forecast(COINBASE, "article", ONCE, home=str(tmp_path))
    assert rows(tmp_path) == []
    assert Models(Home(tmp_path)).versions() == []


# Retries


def fetched(monkeypatch: pytest.MonkeyPatch, error: Exception, *, deployed: bool) -> int:
    """How often a copy of the network step, which waits for nothing, is run when it meets the error."""
    calls = []

    def fail() -> None:
        calls.append(1)
        raise error

    monkeypatch.setattr("prefect.runtime.deployment.get_id", lambda: "an id" if deployed else None)
    step = Task(
        fail,
        retries=catch_up.fetch_candles.retries,
        retry_condition_fn=catch_up.fetch_candles.retry_condition_fn,
        persist_result=False,
    )
    with pytest.raises(type(error)):
        step()
    return len(calls)


def test_the_network_step_is_tried_again_under_a_deployment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    passing = ExchangeUnavailable("the exchange did not answer")
    assert fetched(monkeypatch, passing, deployed=True) == 4
    assert fetched(monkeypatch, passing, deployed=False) == 1
    for final in (ExchangeRefused("400"), BadProduct("404"), StaleSeries("no day"), ValueError("a bug")):
        assert fetched(monkeypatch, final, deployed=True) == 1


@pytest.mark.parametrize(
    ("state", "again"),
    [
        (Failed(data=ExchangeUnavailable("no answer")), True),
        (Failed(data=ExchangeRefused("no")), False),
        (Failed(message="no exception in it"), False),
        (Completed(), False),
    ],
    ids=["unavailable", "refused", "no exception", "completed"],
)
def test_the_condition_of_a_retry(state: State[Any], again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect.runtime.deployment.get_id", lambda: "an id")
    assert catch_up._passes_by_itself(None, None, state) is again


def test_no_other_step_is_retried_and_each_has_a_limit() -> None:
    steps = {
        value.name: value
        for module in (catch_up, ingest, refit, publish, artifacts)
        for value in vars(module).values()
        if isinstance(value, Task)
    }
    assert {"fetch-candles", "read-csv", "read-closes", "refit", "publish-forecast"} <= set(steps)
    assert [name for name, step in steps.items() if step.retries] == ["fetch-candles"]
    assert all(step.timeout_seconds and step.persist_result is False for step in steps.values())
    assert daily_forecast.retries == 0
    assert daily_forecast.persist_result is False


# After an outage

CALIBRATED = {"units": 4, "members": 1, "epochs": 1, "pool_products": (), "min_days": 200, "lookback": 5}


@pytest.fixture(scope="module")
def long_csv(walk: Walk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """370 days up to LAST, the ninth-last of which is missing."""
    candles = walk(LAST, days=370)
    gap = candles["day_utc"] == pd.Timestamp(LAST - 8 * DAY)
    return write(candles[~gap], tmp_path_factory.mktemp("long") / "btc.csv")


def calibrated(home: Path, csv: Path, **more: Any) -> str:
    market = Market(product_id="BTC-USD", source="csv", csv=csv)
    said: str = daily_forecast(market, "calibrated", CALIBRATED, home=str(home), **more)
    return said


def without_time(home: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("created_at", "flow_run_id")} for row in rows(home)]


def test_missed_days_are_filled_in_as_if_they_had_not_been_missed(
    long_csv: Path, walk: Walk, tmp_path: Path
) -> None:
    whole = write(walk(LAST, days=330), tmp_path / "whole.csv")
    for number in range(3, -1, -1):
        calibrated(tmp_path / "daily", whole, origin=LAST - number * DAY)
    calibrated(tmp_path / "late", whole, origin=LAST - 3 * DAY)
    newest = calibrated(tmp_path / "late", whole, origin=LAST, backfill_days=30)
    assert without_time(tmp_path / "late") == without_time(tmp_path / "daily")
    assert rows(tmp_path / "late")[-1]["prediction_id"] == newest
    late = rows(tmp_path / "late")
    assert all(row["created_at"].date() > row["target_day"] for row in late)
    # And once: the same again finds nothing that was missed.
    assert calibrated(tmp_path / "late", whole, origin=LAST, backfill_days=30) == newest
    assert rows(tmp_path / "late") == late


@pytest.mark.engines
def test_only_so_many_days_are_filled_in_and_none_from_a_hole(long_csv: Path, tmp_path: Path) -> None:
    first = LAST - 40 * DAY
    calibrated(tmp_path, long_csv, origin=first, backfill_days=30)
    assert [row["origin_day"] for row in rows(tmp_path)] == [first]
    calibrated(tmp_path, long_csv, origin=LAST - 10 * DAY, backfill_days=3)
    before = [row["origin_day"] for row in rows(tmp_path)]
    assert before == [first, *(LAST - number * DAY for number in (13, 12, 11, 10))]
    calibrated(tmp_path, long_csv, origin=LAST, backfill_days=30)
    # Six days without a gap are needed up to each.
    filled = [LAST - number * DAY for number in (9, 2, 1, 0)]
    assert [row["origin_day"] for row in rows(tmp_path)] == [*before, *filled]
