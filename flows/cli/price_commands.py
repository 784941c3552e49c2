"""The commands for prices: import a file, decide about a day."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from closecast.flows.cli import options, output, terminal
from closecast.flows.cli.row_files import chosen_format
from closecast.storage.core.errors import BadSetting


def import_(
    file: Annotated[Path, typer.Argument(help="Daily candles: CSV, JSON, Parquet or feather.")],
    product: options.AnyProductOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show how the file is read, and store nothing.")
    ] = False,
    columns: options.ColumnsOption = None,
    decimal: options.DecimalOption = None,
    dates: options.DatesOption = None,
    symbol: options.SymbolOption = None,
    on_duplicate: options.DuplicateOption = "refuse",
    replace_source: options.ReplaceOption = False,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Read a file of daily candles into the database.

    The exports of many sites and libraries are read without options, compressed or not. An ambiguous file is
    refused, with the option that resolves it.
    """
    from closecast.tasks.prices.file_table import FileOptions

    given = (decimal, dates, symbol, options.parse_columns(columns), on_duplicate)
    reading = FileOptions(*given)  # type: ignore[arg-type]
    if dry_run:
        from closecast.flows import clock
        from closecast.tasks.prices.ingest_file import preview_file

        last = clock.last_complete_day()
        summary = preview_file(file, product, last_finished_day=last, options=reading)
        output.print_preview(summary, as_json=as_json)
        return
    if product is None:
        raise typer.BadParameter("the file's product is needed, such as BTC-USD", param_hint="--product")
    data_home = options.prepared_home(home)
    with terminal.session(data_home, stderr=as_json):
        from closecast.flows.actions import import_file

        prices = import_file(data_home, product, file, replace_source=replace_source, options=reading)
    output.print_import(prices, as_json=as_json)


def quarantine(
    product: options.AnyProductOption = None,
    accept: Annotated[date | None, options.day_option("Day with a true jump: use its close.")] = None,
    reject: Annotated[date | None, options.day_option("Day with a wrong close: make it a gap.")] = None,
    split: Annotated[
        options.Split | None,
        typer.Option(
            help="Redenomination or split: the prices before DAY are multiplied by FACTOR, as in DAY:1/1000.",
            parser=options.parse_split,
            metavar="DAY:FACTOR",
        ),
    ] = None,
    undo: Annotated[date | None, options.day_option("Day whose last decision is reversed.")] = None,
    known_from: Annotated[
        date | None, options.day_option("First origin that uses it; by default the first without a forecast.")
    ] = None,
    output_format: options.FormatOption = None,
    file: options.OutputOption = None,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """List the quarantined and the decided days, or decide about one.

    A decision applies to forecasts from its first origin on; existing forecasts and backtests of earlier days
    do not change. A later decision about the same day replaces it.
    """
    from closecast.flows.actions import decide_day, list_quarantine
    from closecast.tasks.prices.quarantine import Choice

    kind = chosen_format(output_format, as_json=as_json, file=file)
    data_home = options.existing_home(home)
    wanted = (
        accept and Choice(accept, "accepted", known_from=known_from),
        reject and Choice(reject, "rejected", known_from=known_from),
        split and Choice(split.day, "split", split.factor, known_from),
        undo and Choice(undo, "undo", known_from=known_from),
    )
    choices = [choice for choice in wanted if choice]
    if not choices:
        if known_from:
            raise BadSetting("--known-from goes with --accept, --reject, --split or --undo")
        days = list_quarantine(data_home, product)
        output.print_quarantine(days, kind, file=file)
        return
    if len(choices) > 1 or product is None:
        raise BadSetting("a decision is for one day of one product: give --product and one such option")
    data_home = options.prepared_home(data_home.root)
    with terminal.session(data_home, stderr=as_json):
        decision = decide_day(data_home, product, choices[0])
    output.print_decision(product, choices[0], decision, as_json=as_json)
