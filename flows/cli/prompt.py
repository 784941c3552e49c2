"""`closecast run`: plain functions, and a flow run only if there is a forecast to make."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Protocol

from closecast.flows.cli import prefect_server
from closecast.flows.day import plan_day, run_day
from closecast.flows.settings import dask_address
from closecast.flows.several import common_origin, require_all, results_and_reasons

if TYPE_CHECKING:
    from closecast.storage.core.home import Home
    from closecast.tasks.prices.sources import Market


@dataclass(frozen=True)
class Options:
    """The arguments of the day's flow after its market, in the same order."""

    profile: str
    settings: dict[str, Any]
    origin: date | None
    home: str
    backfill_days: int


class PrefectProvider(Protocol):
    """Where a run gets its Prefect from: `prefect_server` for a command, `flows.embedded` in a notebook."""

    def is_configured(self) -> bool:
        """Whether the user has a Prefect server."""

    def start(self, home: Home) -> prefect_server.TemporaryServer | None:
        """Start a temporary server unless the user has one; it comes up in the background."""

    def ready(self, server: prefect_server.TemporaryServer | None) -> AbstractContextManager[None]:
        """Let flows run in the block."""


def run_products(
    home: Home,
    markets: Sequence[Market],
    options: Options,
    prefect: PrefectProvider = prefect_server,
) -> list[str]:
    """The `prediction_id` of each market's forecast, in this process.

    On a user's own server all of it is a flow run, including refusals, so that alerts see them.

    Raises:
        ClosecastError: the error of a single product.
        ProductsFailed: some of several products have no forecast; all others were made first.
    """
    if prefect.is_configured() or (len(markets) > 1 and dask_address()):
        return _call_flow(prefect, prefect.start(home), markets, options)
    if len(markets) == 1:
        return [_run_day(home, markets[0], options, prefect)]
    options = replace(options, origin=common_origin(markets[0].source, options.origin))
    calls = {
        market.product_id: [functools.partial(_run_day, home, market, options, prefect)] for market in markets
    }
    return require_all(*results_and_reasons("forecast", calls))


def _run_day(home: Home, market: Market, options: Options, prefect: PrefectProvider) -> str:
    def run_flow(trains: bool) -> str:
        server = prefect.start(home)
        if trains:  # meanwhile
            from closecast.tasks.core.tensorflow_runtime import tensorflow

            tensorflow()
        return _call_flow(prefect, server, [market], options)[0]

    return run_day(plan_day(market, *astuple(options)), run_flow)


def _call_flow(
    prefect: PrefectProvider,
    server: prefect_server.TemporaryServer | None,
    markets: Sequence[Market],
    options: Options,
) -> list[str]:
    from closecast.flows.daily import daily_forecast, daily_forecasts

    arguments = astuple(options)
    with prefect.ready(server):
        if len(markets) == 1:
            return [daily_forecast(markets[0], *arguments)]
        return daily_forecasts([market.product_id for market in markets], markets[0].source, *arguments)
