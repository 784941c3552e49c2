"""The commands that forecast: a daily run, and a backtest."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from closecast.flows.cli import options, output, terminal
from closecast.flows.config import (
    configured_backfill_days,
    configured_product,
    configured_products,
    configured_profile,
    configured_source,
)
from closecast.flows.settings import market_of, prepared_home, require_one_kind_of_workers
from closecast.storage.core.errors import BadSetting, ProductsFailed


def run(
    products: options.ProductsOption = None,
    source: options.SourceOption = None,
    csv: Annotated[Path | None, typer.Option(help="File of daily candles, for --source csv.")] = None,
    as_of: Annotated[date | None, options.day_option("Last day that the run may know.")] = None,
    profile: options.ProfileOption = None,
    settings: options.SettingsOption = None,
    columns: options.ColumnsOption = None,
    decimal: options.DecimalOption = None,
    dates: options.DatesOption = None,
    symbol: options.SymbolOption = None,
    on_duplicate: options.DuplicateOption = "refuse",
    replace_source: options.ReplaceOption = False,
    backfill_days: options.BackfillOption = None,
    wide: options.WideOption = False,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Make one daily run in this process and print the forecast.

    Several products are forecast one after the other; a product that fails does not stop the others.
    """
    from closecast.flows.cli import prefect_server
    from closecast.flows.cli.prompt import Options, run_products
    from closecast.tasks.profiles.named import profile_named

    profile, changed = configured_profile(profile, options.parse_settings(settings))
    if not prefect_server.is_configured():  # a user's server sees the refusal as a failed run
        profile_named(profile, changed)  # refuses a bad one before anything is made
    names = configured_products(products)
    source = source if csv else configured_source(source)
    if len(names) > 1 and (csv or replace_source):
        raise BadSetting("--csv and --replace-source are for one product: make a run for each")
    common = {
        "source": source, "csv": csv, "on_duplicate": on_duplicate, "replace_source": replace_source,
        "columns": options.parse_columns(columns), "decimal": decimal, "dates": dates, "symbol": symbol,
    }  # fmt: skip
    markets = [market_of(product_id=name, **common) for name in names]
    data_home = prepared_home(home)
    several = len(names) > 1
    try:
        with terminal.session(data_home, stderr=as_json):
            days = configured_backfill_days(backfill_days)
            given = Options(profile, changed, as_of, str(data_home.root), days)
            forecasts = run_products(data_home, markets, given)
    except ProductsFailed as error:
        output.print_forecasts(data_home, error.forecasts, several=several, as_json=as_json, wide=wide)
        raise
    output.print_forecasts(data_home, forecasts, several=several, as_json=as_json, wide=wide)


def backtest(
    product: options.ProductOption = None,
    start: Annotated[
        date | None, options.day_option("First origin; a year before the end by default.")
    ] = None,
    end: Annotated[
        date | None, options.day_option("Last origin; by default the newest with an outcome.")
    ] = None,
    profile: options.ProfileOption = None,
    settings: options.SettingsOption = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Number of processes that train folds in parallel.")
    ] = 1,
    dask: Annotated[
        str | None,
        typer.Option(help="Dask scheduler, such as tcp://HOST:8786; CLOSECAST_DASK_ADDRESS by default."),
    ] = None,
    horizon: options.HorizonOption = None,
    wide: options.WideOption = False,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Evaluate a profile by rolling origin against the baselines, on stored closes.

    The tables show the next day, or --horizon, in full, and a row for each horizon.
    A profile without intervals, such as article, is compared by RMSE and MAE.
    article trains at every origin; --set refit_every_days=30 trains it once a month.
    """
    from closecast.flows import clock
    from closecast.flows.actions import require_horizon
    from closecast.flows.cli import prefect_server
    from closecast.flows.workers import started_workers
    from closecast.tasks.backtest.plan import plan_backtest
    from closecast.tasks.backtest.walk_forward import folds_left
    from closecast.tasks.profiles.named import profile_named

    product = configured_product(product)
    profile, changed = configured_profile(profile, options.parse_settings(settings))
    chosen = profile_named(profile, changed)
    require_horizon(chosen, horizon or 1)
    require_one_kind_of_workers(dask, workers)
    data_home = prepared_home(options.existing_home(home, product).root)
    # Refuses what cannot be tested before anything is started.
    plan = plan_backtest(data_home, product, chosen, start=start, end=end, moment=clock.now())
    processes = min(workers, len(folds_left(data_home, plan)))
    quiet = ("closecast.train", "closecast.ensemble")
    with terminal.session(data_home, stderr=as_json, quiet=quiet), started_workers(processes):
        server = prefect_server.start(data_home)  # it comes up while the workers load TensorFlow
        from closecast.flows.backtest import rolling_backtest

        with prefect_server.ready(server):
            result = rolling_backtest(
                product, profile, changed, start, end, str(data_home.root), dask, workers
            )
    output.print_backtest(data_home, product, result, horizon=horizon or 1, as_json=as_json, wide=wide)
