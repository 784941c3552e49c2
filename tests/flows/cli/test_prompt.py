"""`closecast run`: a flow only where there is something to make, and a server that comes up or is named."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterStateName
from prefect.settings import PREFECT_API_URL, temporary_settings

from closecast.flows.cli import prefect_server, prompt
from closecast.flows.daily import daily_forecast
from closecast.storage.core.errors import BadDay, PrefectUnavailable, ProductsFailed, StaleSeries
from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from closecast.tasks.prices.sources import Market
from tests.exchange import Exchange
from tests.flows.conftest import DAY, LAST
from tests.helpers import PROJECT
from tests.proxy import Proxy

ONCE = {"epochs": 1}
COINBASE = Market(product_id="BTC-USD", source="coinbase")


def options(home: Path, origin: date | None = None) -> prompt.Options:
    return prompt.Options("article", ONCE, origin, str(home), 0)


def run(home: Path, *products: str, origin: date | None = None) -> list[str]:
    markets = [Market(product_id=product, source="coinbase") for product in products or ("BTC-USD",)]
    return prompt.run_products(Home(home), markets, options(home, origin))


def failed_runs() -> set[str]:
    failed = FlowRunFilter.model_validate({"state": {"name": FlowRunFilterStateName(any_=["Failed"])}})
    with get_client(sync_client=True) as client:
        return {each.name for each in client.read_flow_runs(flow_run_filter=failed)}


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command finds no server; the flows that it starts use that of the tests."""
    monkeypatch.setattr(prefect_server, "is_configured", lambda: False)
    monkeypatch.setattr(prefect_server, "start", lambda _home: None)


@pytest.mark.usefixtures("prefect_server", "no_server")
def test_the_flow_is_handed_the_prices_and_starts_only_where_there_is_work(
    past_exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = daily_forecast(COINBASE, "article", ONCE, home=str(tmp_path / "flow"))
    asked = len(past_exchange.requests)
    assert run(tmp_path / "prompt") == [alone]
    assert len(past_exchange.requests) == 2 * asked

    monkeypatch.setattr("closecast.flows.daily.daily_forecast", None)
    assert run(tmp_path / "prompt") == [alone]
    past_exchange.clock = past_exchange.now + 40 * DAY
    with pytest.raises(StaleSeries):
        run(tmp_path / "prompt")


@pytest.mark.usefixtures("prefect_server", "no_server")
def test_a_day_without_a_close_starts_the_flow_for_its_row_once(
    past_exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past_exchange.clock = past_exchange.now + 4 * DAY  # its candles end two days before
    (made,) = run(tmp_path)
    monkeypatch.setattr("closecast.flows.daily.daily_forecast", None)
    assert run(tmp_path) == [made]
    row = Predictions(Home(tmp_path)).find(made) or {}
    assert (row["origin_day"], row["horizon"], row["basis"]) == (LAST + 2 * DAY, 3, "fallback")


@pytest.mark.usefixtures("prefect_server", "past_exchange", "no_server")
def test_one_product_of_several_fails_without_stopping_the_others(tmp_path: Path) -> None:
    with pytest.raises(ProductsFailed, match="1 of 2 products have no forecast") as error:
        run(tmp_path, "NONE-USD", "BTC-USD")
    assert "NONE-USD: BadProduct: " in str(error.value)
    assert error.value.forecasts == tuple(run(tmp_path, "BTC-USD"))


@pytest.mark.usefixtures("prefect_server", "past_exchange")
def test_a_configured_server_sees_a_refusal_as_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_server, "is_configured", lambda: True)
    with pytest.raises(BadDay):
        run(tmp_path, origin=LAST - 70 * DAY)
    assert f"BTC-USD {LAST - 70 * DAY}" in failed_runs()


@pytest.mark.parametrize(
    ("file", "text", "configured"),
    [
        ("profiles.toml", 'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://x/api"\n', True),
        ("profiles.toml", 'active = "b"\n[profiles.a]\nPREFECT_API_URL = "http://x/api"\n', False),
        (".env", "PREFECT_API_URL=http://x/api\n", True),
        (".env", "", False),
        ("prefect.toml", '[api]\nurl = "http://x/api"\n', True),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://x/api"\n', True),
        ("pyproject.toml", '[project]\nname = "url"\n', False),
    ],
)
def test_a_server_is_configured_where_prefect_would_find_it(
    file: str, text: str, configured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert prefect_server.is_configured() is configured


@pytest.mark.parametrize(
    ("program", "reason"),
    [("raise SystemExit(3)", "ended with code 3"), ("import time; time.sleep(60)", "within 1 s")],
)
def test_a_temporary_server_that_does_not_come_up_is_one_line(
    program: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):  # set back afterwards
        monkeypatch.setenv(name, str(tmp_path) if name == "PREFECT_HOME" else "")
    monkeypatch.setenv("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "1")
    monkeypatch.setattr(prefect_server, "SERVER", program)
    monkeypatch.setattr(prefect_server, "is_configured", lambda: False)
    # The settings of the process stay those of the tests' own server.
    monkeypatch.setattr("prefect.context.refresh_global_settings_context", lambda: None)
    server = prefect_server.start(Home(tmp_path))
    assert server is not None
    with pytest.raises(PrefectUnavailable, match=f"did not come up.* {reason}: set PREFECT_API_URL to"):
        server.wait()
    server.process.kill()


def test_a_configured_server_that_hangs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("closecast.tasks.report.side_calls.SECONDS", 0.1)
    with Proxy("http://127.0.0.1:9/api") as proxy, temporary_settings({PREFECT_API_URL: proxy.api}):
        proxy.refused = {".*": "hang"}
        with (
            pytest.raises(PrefectUnavailable, match=f"{proxy.api} does not respond"),
            prefect_server.ready(None),
        ):
            pass


@pytest.mark.engines
def test_from_python_a_server_that_does_not_come_up_is_one_line(tmp_path: Path) -> None:
    program = "from closecast.flows.daily import daily_forecast\ndaily_forecast()"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    variables |= {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env=variables, capture_output=True, text=True
    )
    assert (
        "PrefectUnavailable: Prefect's temporary server did not come up: set PREFECT_API_URL" in done.stderr
    )
