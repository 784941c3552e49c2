"""`closecast run`: plain functions while there is nothing to make, a flow run where there is."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from flows.cli import prefect_server
from flows.day import plan_day, run_day
from flows.settings import dask_address
from flows.several import common_origin, require_all, results_and_reasons

if TYPE_CHECKING:
    from storage.core.home import Home
    from tasks.prices.sources import Market


@dataclass(frozen=True)
class Options:
    """What the flow of a day has as arguments after its market, in their order."""

    profile: str
    settings: dict[str, Any]
    origin: date | None
    home: str
    backfill_days: int


def run_products(home: Home, markets: Sequence[Market], options: Options) -> list[str]:
    """The `prediction_id` of each market's forecast, in this process.

    A user's own server sees all of it as a flow run, refusals included, so that its alerts do.

    Raises:
        ClosecastError: the one product's.
        ProductsFailed: some of several products have no forecast; all others were made before.
    """
    if prefect_server.is_configured() or (len(markets) > 1 and dask_address()):
        return _call_flow(prefect_server.start(home), markets, options)
    if len(markets) == 1:
        return [_run_day(home, markets[0], options)]
    options = replace(options, origin=common_origin(markets[0].source, options.origin))
    calls = {market.product_id: [functools.partial(_run_day, home, market, options)] for market in markets}
    return require_all(*results_and_reasons("forecast", calls))


def _run_day(home: Home, market: Market, options: Options) -> str:
    def run_flow(trains: bool) -> str:
        server = prefect_server.start(home)
        if trains:  # meanwhile
            from tasks.core.tensorflow_runtime import tensorflow

            tensorflow()
        return _call_flow(server, [market], options)[0]

    return run_day(plan_day(market, *astuple(options)), run_flow)


def _call_flow(
    server: prefect_server.TemporaryServer | None, markets: Sequence[Market], options: Options
) -> list[str]:
    from flows.daily import daily_forecast, daily_forecasts

    arguments = astuple(options)
    with prefect_server.ready(server):
        if len(markets) == 1:
            return [daily_forecast(markets[0], *arguments)]
        return daily_forecasts([market.product_id for market in markets], markets[0].source, *arguments)
