"""The commands that print what is stored: forecasts, queries, scores, reports."""

from __future__ import annotations

from datetime import date
from typing import Annotated

import typer

from closecast.flows.cli import output, terminal
from closecast.flows.cli.options import (
    DAY,
    AnyProductOption,
    AnyProfileOption,
    FormatOption,
    HomeOption,
    HorizonOption,
    JsonOption,
    OutputOption,
    ProductOption,
    ProfileOption,
    WideOption,
    check_span,
    existing_home,
)
from closecast.flows.cli.row_files import chosen_format
from closecast.flows.config import configured_product, configured_profile


def predictions(
    product: AnyProductOption = None,
    first: Annotated[date | None, typer.Option("--from", help="First target day.", **DAY)] = None,
    last: Annotated[date | None, typer.Option("--to", help="Last target day.", **DAY)] = None,
    horizon: HorizonOption = None,
    wide_quantiles: Annotated[
        bool, typer.Option("--wide-quantiles", help="One column per quantile, q0.010 to q0.990.")
    ] = False,
    output_format: FormatOption = None,
    file: OutputOption = None,
    wide: WideOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Print the stored forecasts of all horizons, or of one."""
    from closecast.storage.tables.predictions import Predictions

    kind = chosen_format(output_format, as_json=as_json, file=file)
    span = check_span(first, last)
    rows = Predictions(existing_home(home, product)).between(product, *span, horizon=horizon)
    output.print_predictions(rows, kind, file=file, quantiles=wide_quantiles, wide=wide)


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the views.")],
    output_format: FormatOption = None,
    file: OutputOption = None,
    wide: WideOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Run one SELECT over the views of all stored data; it cannot write.

    The views are closes, candles, quarantine, price_decisions, predictions, scores, components, calibrator,
    backtests, latest_forecasts (the published forecasts from the newest origin), scoreboard, and columns (a
    description of every column).
    """
    from closecast.storage.tables.sql import query as select

    kind = chosen_format(output_format, as_json=as_json, file=file)
    rows = select(existing_home(home), query)
    terminal.print_rows(rows, kind, file=file, wide=wide)


def score(
    product: ProductOption = None,
    profile: ProfileOption = None,
    horizon: HorizonOption = None,
    wide: WideOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Compare the forecasts with the actual closes, and print the scoreboard.

    The first table has the scores of the next day, or of --horizon, over several spans; the second has a row
    for each horizon.
    """
    from closecast.flows.actions import score_forecasts
    from closecast.tasks.profiles.named import profile_named

    chosen, product = profile_named(*configured_profile(profile)), configured_product(product)
    board = score_forecasts(existing_home(home, product), product, chosen, horizon or 1)
    output.print_scoreboard(board, product, chosen.name, as_json=as_json, wide=wide)


def report(
    product: AnyProductOption = None,
    profile: AnyProfileOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write the report, a self-contained HTML page, and print its path.

    Each run writes it, too. For several products or profiles the path is that of the index of their pages.
    """
    from closecast.flows.actions import write_reports
    from closecast.tasks.profiles.named import profile_named

    name = None if profile is None else profile_named(profile).name
    page = write_reports(existing_home(home, product), product, name)
    terminal.print_result(terminal.relative_path(page), {"report": page}, as_json=as_json)
