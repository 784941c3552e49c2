"""The commands for prices, and what they print: import a file, decide about a day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from closecast.flows.cli import options, terminal
from closecast.flows.cli.row_files import Format, chosen_format
from closecast.flows.settings import prepared_home
from closecast.storage.core.errors import BadSetting
from closecast.tasks.core.formatting import count

if TYPE_CHECKING:
    from closecast.storage.prices.decisions import Decision
    from closecast.tasks.prices.file_summary import FileSummary
    from closecast.tasks.prices.ingest import IngestedPrices
    from closecast.tasks.prices.quarantine import Choice, DayStatus

SHOWN_REASONS = 5


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
        _print_preview(summary, as_json=as_json)
        return
    if product is None:
        raise typer.BadParameter("the file's product is needed, such as BTC-USD", param_hint="--product")
    data_home = prepared_home(home)
    with terminal.session(data_home, stderr=as_json):
        from closecast.flows.actions import import_file

        prices = import_file(data_home, product, file, replace_source=replace_source, options=reading)
    _print_import(prices, as_json=as_json)


def _print_import(prices: IngestedPrices, *, as_json: bool) -> None:
    """The counts of an import."""
    from closecast.tasks.prices.gaps import find_gaps

    facts = prices.facts()
    if as_json:
        terminal.print_json(facts | {"gaps": find_gaps(prices.history.candles["day_utc"])})
        return
    days, new = count(facts["days"], "day"), count(facts["new_days"], "new day")
    typer.echo(
        "{product_id}: {new}, {restated_days} restated, {quarantined} quarantined;"
        " {total}, {first_day} to {origin}".format(**facts, new=new, total=days)
    )


def _print_preview(summary: FileSummary, *, as_json: bool) -> None:
    """How an import would read a file."""
    if as_json:
        terminal.print_json(asdict(summary))
        return
    columns = ", ".join(f"{role} from {name}" for role, name in summary.columns.items())
    typer.echo(f"{summary.file}: {summary.format}")
    typer.echo(f"columns: {columns}")
    typer.echo(f"units: {summary.units}")
    for remark in summary.remarks:
        typer.echo(remark)
    days, gaps = count(summary.days, "day"), count(len(summary.gaps), "gap")
    typer.echo(f"{days}, {summary.first_day} to {summary.last_day}, {gaps}")
    for line in summary.gaps_text:
        typer.echo(line)
    typer.echo(f"{count(len(summary.quarantined), 'row')} would be quarantined")
    for reason in summary.quarantined[:SHOWN_REASONS]:
        typer.echo(f"  {reason}")
    rows = [
        ["unknown" if value is None else str(value) for value in row.values()]
        for row in (*summary.first_rows, *summary.last_rows)
    ]
    terminal.print_table("", list(summary.first_rows[0]), rows)
    typer.echo("nothing was stored")


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
    data_home = options.existing_home(home, product)
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
        _print_quarantine(days, kind, file=file)
        return
    if len(choices) > 1 or product is None:
        raise BadSetting("a decision is for one day of one product: give --product and one such option")
    data_home = prepared_home(data_home.root)
    with terminal.session(data_home, stderr=as_json):
        decision = decide_day(data_home, product, choices[0])
    _print_decision(product, choices[0], decision, as_json=as_json)


def _print_quarantine(days: Sequence[DayStatus], output: Format, *, file: Path | None = None) -> None:
    """The quarantined and the decided days."""
    import pyarrow as pa

    from closecast.tasks.prices.quarantine import DayStatus

    types = {"close": pa.float64(), "factor": pa.float64(), "day_utc": pa.date32(), "known_from": pa.date32()}
    names = [field.name for field in fields(DayStatus)]
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    terminal.print_rows(pa.Table.from_pylist([asdict(day) for day in days], schema=schema), output, file=file)


def _print_decision(product: str, choice: Choice, decision: Decision | None, *, as_json: bool) -> None:
    """What was decided about a day, and how to reverse it."""
    if as_json:
        terminal.print_json({"product_id": product, "decision": decision and asdict(decision)})
        return
    if decision is None:
        typer.echo(f"{product}, {choice.day}: this is already so, nothing was recorded")
        return
    if decision.kind == "split":
        text = f"a split, the prices before it are multiplied by {decision.factor:g}"
    else:
        text = "a true jump, its close is used" if decision.kind == "accepted" else "rejected, a gap"
    typer.echo(f"{product}, {decision.day}: {text}. Known to forecasts from {decision.known_from} on.")
    typer.echo(f"`closecast quarantine --product {product} --undo {decision.day}` reverses this.")
