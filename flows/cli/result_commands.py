"""The commands that print what is stored: forecasts, queries, scores, reports."""

from __future__ import annotations

import functools
from datetime import date
from typing import Annotated

import typer

from closecast.flows.cli import options, output, terminal
from closecast.flows.cli.row_files import chosen_format
from closecast.flows.config import configured_product, configured_profile


def predictions(
    product: options.AnyProductOption = None,
    first: Annotated[date | None, options.day_option("First target day.", "--from")] = None,
    last: Annotated[date | None, options.day_option("Last target day.", "--to")] = None,
    horizon: options.HorizonOption = None,
    wide_quantiles: Annotated[
        bool, typer.Option("--wide-quantiles", help="One column per quantile, q0.010 to q0.990.")
    ] = False,
    output_format: options.FormatOption = None,
    file: options.OutputOption = None,
    wide: options.WideOption = False,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Print the stored forecasts of all horizons, or of one."""
    from closecast.storage.tables.predictions import Predictions

    kind = chosen_format(output_format, as_json=as_json, file=file)
    span = options.check_span(first, last)
    rows = Predictions(options.existing_home(home, product)).between(product, *span, horizon=horizon)
    output.print_predictions(rows, kind, file=file, quantiles=wide_quantiles, wide=wide)


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the views.")],
    output_format: options.FormatOption = None,
    file: options.OutputOption = None,
    wide: options.WideOption = False,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Run one SELECT over the views of all stored data; it cannot write.

    The views are closes, candles, quarantine, price_decisions, predictions, scores, components, calibrator,
    backtests, latest_forecasts (the published forecasts from the newest origin), scoreboard, and columns (a
    description of every column).
    """
    from closecast.storage.tables.sql import query as select

    kind = chosen_format(output_format, as_json=as_json, file=file)
    rows = select(options.existing_home(home), query)
    terminal.print_rows(rows, kind, file=file, wide=wide)


def score(
    product: options.ProductOption = None,
    profile: options.ProfileOption = None,
    horizon: options.HorizonOption = None,
    wide: options.WideOption = False,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Compare the forecasts with the actual closes, and print the scoreboard.

    The first table has the scores of the next day, or of --horizon, over several spans; the second has a row
    for each horizon.
    """
    from closecast.flows.actions import score_forecasts
    from closecast.tasks.profiles.named import profile_named, stored_name

    chosen, product = configured_profile(profile), configured_product(product)
    name, load = stored_name(chosen[0]), functools.partial(profile_named, *chosen)
    board = score_forecasts(options.existing_home(home, product), product, name, load, horizon or 1)
    output.print_scoreboard(board, product, name, as_json=as_json, wide=wide)


def report(
    product: options.AnyProductOption = None,
    profile: options.AnyProfileOption = None,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Write the report, a self-contained HTML page, and print its path.

    Each run writes it, too. For several products or profiles the path is that of the index of their pages.
    """
    from closecast.flows.actions import write_reports
    from closecast.tasks.profiles.named import profile_named

    name = None if profile is None else profile_named(profile).name
    page = write_reports(options.existing_home(home, product), product, name)
    terminal.print_result(terminal.relative_path(page), {"report": page}, as_json=as_json)
