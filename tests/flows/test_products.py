"""Several products in one run: each has its own flow run, and a failed product does not stop the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ParameterTypeError

from closecast.flows.daily import daily_forecasts
from closecast.flows.several import require_all
from closecast.storage.core.errors import ProductsFailed
from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from tests.flows.conftest import DAY, LAST, artifacts_of

ONCE = {"epochs": 1}
PRODUCTS = ["BTC-USD", "NONE-USD", "ETH-USD"]

pytestmark = pytest.mark.usefixtures("prefect_server", "past_exchange")


def run(home: Path, products: list[str]) -> list[str]:
    return daily_forecasts(products, "coinbase", "article", ONCE, home=str(home))


def rows(home: Path) -> dict[str, dict[str, Any]]:
    return {row["product_id"]: row for row in Predictions(Home(home)).between().to_pylist()}


def runs_named(name: str) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))


def test_a_failed_product_is_named_and_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ProductsFailed) as error:
        run(tmp_path, PRODUCTS)
    message = str(error.value)
    assert message.startswith("1 of 3 products have no forecast, all others are done: NONE-USD: BadProduct: ")
    assert "\n" not in message
    assert f"home:{Home(tmp_path).label}" in runs_named(f"NONE-USD {LAST}")[0].tags
    with pytest.raises(ProductsFailed, match=r"^1 of 1 products have no forecast: NONE-USD: why$"):
        require_all({}, {"NONE-USD": "why"})
    assert "NONE-USD: no forecast 2 of 3" in caplog.messages
    assert "ETH-USD: forecast 3 of 3" in caplog.messages
    stored = rows(tmp_path)
    assert list(stored) == ["BTC-USD", "ETH-USD"]  # the third after the failure of the second
    with get_client(sync_client=True) as client:
        parent = runs_named(f"BTC-USD, NONE-USD, ETH-USD {LAST}")[0]
        assert parent.state is not None
        assert parent.state.is_failed()
        assert "NONE-USD" in (parent.state.message or "")
        for product, row in stored.items():
            own = client.read_flow_run(row["flow_run_id"])
            assert own.name == f"{product} {LAST}"
            assert own.parent_task_run_id is not None
    markdown = str(artifacts_of(parent.id)[f"products-{Home(tmp_path).label}"].data)
    assert "**NONE-USD** has no forecast: BadProduct" in markdown
    assert all(f"| {product} | {LAST + DAY} |" in markdown for product in stored)


@pytest.mark.parametrize("products", [[], ["btc-usd"], ["../../etc"], ["BTC-USD\n"]])
def test_a_malformed_list_is_refused_before_anything_is_stored(products: list[str], tmp_path: Path) -> None:
    with pytest.raises(ParameterTypeError):
        run(tmp_path / "home", products)
    assert not (tmp_path / "home").exists()
