"""The commands for prices: import a file, decide about a day."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from closecast.flows.cli import output, terminal
from closecast.flows.cli.options import (
    DAY,
    AnyProductOption,
    ColumnsOption,
    DatesOption,
    DecimalOption,
    DuplicateOption,
    FormatOption,
    HomeOption,
    JsonOption,
    OutputOption,
    ReplaceOption,
    Split,
    SymbolOption,
    existing_home,
    parse_columns,
    parse_split,
    prepared_home,
)
from closecast.flows.cli.row_files import chosen_format
from closecast.storage.core.errors import BadSetting


def import_(
    file: Annotated[Path, typer.Argument(help="Daily candles: CSV, JSON, Parquet or feather.")],
    product: AnyProductOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show how the file is read, and store nothing.")
    ] = False,
    columns: ColumnsOption = None,
    decimal: DecimalOption = None,
    dates: DatesOption = None,
    symbol: SymbolOption = None,
    on_duplicate: DuplicateOption = "refuse",
    replace_source: ReplaceOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Read a file of daily candles into the database.

    The exports of many sites and libraries are read without options, compressed or not. An ambiguous file is
    refused, with the option that resolves it.
    """
    from closecast.tasks.prices.file_table import FileOptions

    options = FileOptions(decimal, dates, symbol, parse_columns(columns))  # type: ignore[arg-type]
    if dry_run:
        from closecast.flows import clock
        from closecast.tasks.prices.ingest_file import preview_file

        last = clock.last_complete_day()
        summary = preview_file(
            file, product, last_finished_day=last, on_duplicate=on_duplicate, options=options
        )
        output.print_preview(summary, as_json=as_json)
        return
    if product is None:
        raise typer.BadParameter("the file's product is needed, such as BTC-USD", param_hint="--product")
    data_home = prepared_home(home)
    with terminal.session(data_home, stderr=as_json):
        from closecast.flows.actions import import_file

        prices = import_file(
            data_home,
            product,
            file,
            on_duplicate=on_duplicate,
            replace_source=replace_source,
            options=options,
        )
    output.print_import(prices, as_json=as_json)


def quarantine(
    product: AnyProductOption = None,
    accept: Annotated[date | None, typer.Option(help="Day with a true jump: use its close.", **DAY)] = None,
    reject: Annotated[date | None, typer.Option(help="Day with a wrong close: make it a gap.", **DAY)] = None,
    split: Annotated[
        Split | None,
        typer.Option(
            help="Redenomination or split: the prices before DAY are multiplied by FACTOR, as in DAY:1/1000.",
            parser=parse_split,
            metavar="DAY:FACTOR",
        ),
    ] = None,
    undo: Annotated[date | None, typer.Option(help="Day whose last decision is reversed.", **DAY)] = None,
    known_from: Annotated[
        date | None,
        typer.Option(help="First origin that uses it; by default the first without a forecast.", **DAY),
    ] = None,
    output_format: FormatOption = None,
    file: OutputOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """List the quarantined and the decided days, or decide about one.

    A decision applies to forecasts from its first origin on; existing forecasts and backtests of earlier days
    do not change. A later decision about the same day replaces it.
    """
    from closecast.flows.actions import decide_day, list_quarantine
    from closecast.tasks.prices.quarantine import Choice

    kind = chosen_format(output_format, as_json=as_json, file=file)
    data_home = existing_home(home)
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
    data_home = prepared_home(data_home.root)
    with terminal.session(data_home, stderr=as_json):
        decision = decide_day(data_home, product, choices[0])
    output.print_decision(product, choices[0], decision, as_json=as_json)
