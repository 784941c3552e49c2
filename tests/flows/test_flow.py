"""A flow as Prefect hands it on: to a process of its own, and from a folder of source code."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from prefect import Flow
from prefect.runner.storage import LocalStorage
from prefect.settings import PREFECT_API_URL, temporary_settings

from closecast.flows import backtest, daily, maintain
from closecast.flows.flow import finished, flow
from closecast.storage.core.errors import BadFile, PrefectUnavailable
from tests.helpers import PROJECT, one_line
from tests.proxy import Proxy, Refusal

FLOWS = (daily.daily_forecast, daily.daily_forecasts, backtest.rolling_backtest, maintain.maintain)


@pytest.mark.parametrize("one", FLOWS, ids=lambda one: one.name)
def test_a_served_flow_reaches_its_process_whole(one: Any) -> None:
    """`serve` pickles it; by value its annotations would be names that the process does not know."""
    assert pickle.loads(cloudpickle.dumps(one)) is one  # noqa: S301 (made here)
    other = one.with_options(name="other")
    assert other.__reduce_ex__(4) != one.__name__


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("works", [True, False])
def test_the_outcome_of_a_run_stands_without_the_server(
    works: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The server answers with 500 to the run's last state."""
    with Proxy(PREFECT_API_URL.value()) as proxy:

        @flow(name="work", flow_run_name=lambda: "work")
        def work() -> int:
            proxy.refused = {"POST /api/flow_runs/.*/set_state": "500"}
            if not works:
                raise BadFile("no such file")
            return finished(7)

        with temporary_settings({PREFECT_API_URL: proxy.api}):
            if works:
                assert work() == 7
                assert "all is done, but Prefect's server did not record the run's end" in caplog.text
            else:
                with pytest.raises(BadFile, match="no such file"):
                    work()
    assert proxy.seen


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("request_", "refusal", "message"),
    [
        (".*", "401", "requires a login: set PREFECT_API_AUTH_STRING"),
        ("POST /api/flow_runs/$", "500", "refuses the run, 500 to POST /api/flow_runs/: see the server's"),
    ],
)
def test_a_server_that_refuses_the_run_is_one_line(request_: str, refusal: Refusal, message: str) -> None:
    with Proxy(PREFECT_API_URL.value()) as proxy, temporary_settings({PREFECT_API_URL: proxy.api}):
        proxy.refused = {request_: refusal}
        with pytest.raises(PrefectUnavailable, match=message, check=one_line):
            flow(name="work", flow_run_name=lambda: "work")(lambda: None)()


def test_a_flow_is_loaded_from_a_folder() -> None:
    loaded = asyncio.run(
        Flow.afrom_source(LocalStorage(str(PROJECT)), entrypoint="flows/daily.py:daily_forecasts")
    )
    assert (loaded.name, loaded.should_validate_parameters) == ("daily-forecasts", True)
    assert loaded.validate_parameters({"products": ["BTC-USD"]})["products"] == ["BTC-USD"]
