"""Several products in one run: each has its own flow run, and one's failure stops none of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flows.products import daily_forecasts
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ParameterTypeError

from flows.daily import daily_forecast
from flows.settings import Market
from storage.core.errors import NotEnoughHistory, ProductsFailed, StaleSeries
from storage.core.home import Home
from storage.tables.predictions import Predictions
from storage.tables.scores import Scores
from tasks.report.prefect_artifacts import products_markdown
from tests.exchange import Exchange

LAST = date(2019, 10, 17)
DAY = timedelta(days=1)
ONCE = {"epochs": 1}
PRODUCTS = ["BTC-USD", "NONE-USD", "ETH-USD"]

pytestmark = pytest.mark.usefixtures("prefect_server")
Walk = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def exchange(walk: Walk) -> Iterator[Exchange]:
    """An exchange that stands at 00:20 after LAST and knows two products."""
    clock = datetime(2019, 10, 18, 0, 20, tzinfo=UTC)
    known = {"BTC-USD": walk(LAST, days=60), "ETH-USD": walk(LAST, days=60, seed=8)}
    with Exchange(known, clock=clock, rate=1000, burst=1000) as served:
        yield served


@pytest.fixture(autouse=True)
def _the_time_is_the_exchange_s(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSECAST_COINBASE_URL", exchange.url)
    monkeypatch.setattr("tasks.prices.ingest_coinbase.FIRST_DAY", LAST - 59 * DAY)
    monkeypatch.setattr("flows.clock.now", lambda: exchange.now)


def run(home: Path, products: list[str], **more: Any) -> list[str]:
    found: list[str] = daily_forecasts(products, "coinbase", "article", ONCE, home=str(home), **more)
    return found


def rows(home: Path) -> dict[str, dict[str, Any]]:
    return {row["product_id"]: row for row in Predictions(Home(home)).between().to_pylist()}


def runs_named(name: str) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))


def test_one_that_fails_stops_none_of_the_others_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProductsFailed) as error:
        run(tmp_path, PRODUCTS)
    said = str(error.value)
    assert said.startswith("1 of 3 products have no forecast, all others are done: NONE-USD: BadProduct: ")
    assert "\n" not in said
    made = rows(tmp_path)
    assert list(made) == ["BTC-USD", "ETH-USD"]  # the third was made after the second had failed
    with get_client(sync_client=True) as client:
        parent = runs_named(f"BTC-USD, NONE-USD, ETH-USD {LAST}")[0]
        assert parent.state is not None
        assert parent.state.is_failed()
        assert "NONE-USD" in (parent.state.message or "")
        for product, row in made.items():
            own = client.read_flow_run(row["flow_run_id"])
            assert own.name == f"{product} {LAST}"
            assert own.parent_task_run_id is not None
        named = ArtifactFilter(key=ArtifactFilterKey(any_=["products"]))
        shown = str(client.read_artifacts(artifact_filter=named)[-1].data)
    assert "**NONE-USD** has no forecast: BadProduct" in shown
    assert all(f"| {product} | {LAST + DAY} |" in shown for product in made)


@pytest.mark.engines
def test_each_forecast_is_the_one_that_the_product_alone_would_have(tmp_path: Path) -> None:
    together = run(tmp_path / "together", ["BTC-USD", "ETH-USD", "BTC-USD"])
    alone = [
        daily_forecast(
            Market(product_id=product, source="coinbase"), "article", ONCE, home=str(tmp_path / "alone")
        )
        for product in ("BTC-USD", "ETH-USD")
    ]
    assert together == alone
    for product, row in rows(tmp_path / "together").items():
        other = rows(tmp_path / "alone")[product]
        assert row["point"] == other["point"]
    assert run(tmp_path / "together", ["ETH-USD"]) == alone[1:]


def test_a_list_of_no_product_or_of_another_form_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    for products in ([], ["btc-usd"], ["../../etc"], ["BTC-USD\n"]):
        with pytest.raises(ParameterTypeError):
            run(tmp_path / "home", products)
    assert not (tmp_path / "home").exists()


def test_what_became_of_the_products_in_markdown() -> None:
    row = {"product_id": "BTC-USD", "target_day": LAST, "point": 8000.0, "last_close": 7900.5}
    point = {**row, "lower_80": None, "upper_80": None}
    band = {**row, "lower_80": 7000.0, "upper_80": 9000.0}
    said = products_markdown([point, band], {"ETH-USD": "StaleSeries: no day"})
    assert "| BTC-USD | 2019-10-17 | **8,000.00 USD** | a point without intervals | 7,900.50 USD |" in said
    assert "7,000.00 USD to 9,000.00 USD" in said
    assert said.endswith("- **ETH-USD** has no forecast: StaleSeries: no day")
    assert products_markdown([], {"ETH-USD": "x"}) == "- **ETH-USD** has no forecast: x"


def test_a_hole_keeps_back_the_forecast_and_not_the_scores(
    walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = walk(LAST, days=60)
    holed = frame[frame["day_utc"] != pd.Timestamp(LAST - DAY)].reset_index(drop=True)
    market, day = Market(product_id="BTC-USD", source="coinbase"), datetime(2019, 10, 15, 0, 20, tzinfo=UTC)
    with Exchange({"BTC-USD": holed}, clock=day, rate=1000, burst=1000) as served:
        monkeypatch.setenv("CLOSECAST_COINBASE_URL", served.url)
        monkeypatch.setattr("flows.clock.now", lambda: served.now)
        daily_forecast(market, "article", ONCE, home=str(tmp_path))
        served.clock = day + 2 * DAY  # the day before it has no candle
        with pytest.raises(StaleSeries):
            daily_forecast(market, "article", ONCE, home=str(tmp_path))
        assert [str(row["target_day"]) for row in Scores(Home(tmp_path)).read().to_pylist()] == ["2019-10-15"]
        daily_forecast(market, "article", ONCE, origin=LAST - 2 * DAY, home=str(tmp_path))
        served.clock = day + 3 * DAY
        with pytest.raises(NotEnoughHistory, match="since the gap that ends on 2019-10-16"):
            daily_forecast(market, "article", ONCE, home=str(tmp_path))
    made = Predictions(Home(tmp_path)).between().to_pylist()
    assert [str(row["target_day"]) for row in made] == ["2019-10-15", "2019-10-16"]
