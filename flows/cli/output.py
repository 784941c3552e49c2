"""What the commands print: for people as tables and lines, for programs as JSON."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from flows.cli import terminal
from flows.cli.terminal import Format, say
from storage.core.errors import HomeUnusable

if TYPE_CHECKING:
    from tasks.prices.series import Series

    from flows.maintain import Upkeep
    from storage.core.home import Home
    from storage.models.version import ModelVersion
    from tasks.backtest.result import BacktestResult
    from tasks.evaluation.scoreboard import Scoreboard
    from tasks.upkeep.reproduce import Reproduced
    from tasks.upkeep.verify import Verification

EXAMPLE = '"select target_day, point, last_close from predictions"'
LINEAGE = (
    *("status", "training_kind", "origin_day", "gate", "data_version", "settings_version", "code_version"),
    *("git_commit", "weights_sha256", "recipe_version", "parent", "pooled"),
)
# What `versions` leaves to its other formats.
LONG = ("settings_version", "git_commit", "weights_sha256", "recipe_version", "parent", "pooled")


def print_series(series: Series, *, as_json: bool) -> None:
    """What an import made of a product's closes."""
    if as_json:
        terminal.print_json(asdict(series))
        return
    typer.echo(
        f"{series.product_id}: {series.new_days} days new, {series.restated_days} restated,"
        f" {series.quarantined} quarantined; {series.days} days, {series.first_day} to {series.origin}"
    )


def print_forecasts(home: Home, made: Sequence[str], *, several: bool, as_json: bool) -> None:
    """The stored rows of the forecasts that a run made, and how to ask for them.

    As JSON a list where several products were asked for, however many of them have a forecast.

    Raises:
        HomeUnusable: one of them is not there.
    """
    from flows.settings import home_at
    from storage.tables.predictions import Predictions

    rows = []
    for prediction_id in made:
        row = Predictions(home).find(prediction_id)
        if row is None:
            raise HomeUnusable(f"the forecast {prediction_id} is not in {home.predictions}: run again")
        rows.append(row)
    if as_json:
        terminal.print_json(rows if several else rows[0])
        return
    if not rows:
        return
    for row in rows:
        terminal.print_forecast(row)
    typer.echo(f"Stored in {terminal.from_here(home.predictions)} (Delta). Ask it, for example:")
    where = "" if home == home_at() else f" --home {shlex.quote(str(home.root))}"
    typer.echo(f"  {terminal.called()} sql {EXAMPLE}{where}")


def print_scoreboard(board: Scoreboard, product: str, profile: str, *, as_json: bool) -> None:
    """A product's scores, and the alarms."""
    from tasks.evaluation.scoreboard import table

    if as_json:
        terminal.print_json({"product_id": product, "profile": profile, **asdict(board)})
        return
    if board.last is None:
        typer.echo(f"{product}: no forecast of profile {profile} has been scored yet")
        return
    terminal.print_table(f"{product}, {profile}: forecasts up to {board.last}", *table(board))
    for line in board.alarms or (board.no_alarm or "no coverage alarm",):
        say(f"{'ALARM: ' if board.alarms else ''}{line}", "bold red" if board.alarms else "")


def print_verdict(home: Home, product: str, verdict: BacktestResult, *, as_json: bool) -> None:
    """What a backtest came to, and where its origins are."""
    from tasks.backtest.summary import tables

    summary = verdict.summary
    if as_json:
        figures = {"backtest_id": verdict.backtest_id, **summary.as_json(), "gates": list(verdict.gates)}
        terminal.print_json(figures)
        return
    typer.echo(f"{product}: {summary.days} days, {summary.first_target_day} to {summary.last_target_day}")
    for title, (header, rows) in tables(summary).items():
        terminal.print_table(title, header, rows)
    refused = sum("refused" in said for said in verdict.gates)
    typer.echo(f"Challengers after the first model: {len(verdict.gates)}, refused by the gate: {refused}")
    typer.echo(
        f"Every origin is in {terminal.from_here(home.backtests)} (Delta) as backtest {verdict.backtest_id},"
        " in `sql` the view backtests"
    )


def print_versions(versions: Sequence[ModelVersion], output: Format) -> None:
    """Model versions with their lineage; as a table without the long digests."""
    import pyarrow as pa

    rows = [
        {
            "product_id": version.product_id,
            "profile": version.profile,
            "version": version.version,
            "aliases": ", ".join(version.aliases),
            **{name: version.tags.get(name) for name in LINEAGE},
        }
        for version in versions
    ]
    names = ["product_id", "profile", "version", "aliases", *LINEAGE]
    table = pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in names]))
    short = [name for name in names if name not in LONG] if output == "table" else names
    terminal.print_rows(table.select(short), output)


def print_upkeep(upkeep: Upkeep, *, prune: bool, dry_run: bool, as_json: bool) -> None:
    """What `maintain` did, or would do."""
    if as_json:
        pruned = [item.description for item in upkeep.pruned]
        tables = [asdict(one) for one in upkeep.tables]
        terminal.print_json({"dry_run": dry_run, "tables": tables, "pruned": pruned})
        return
    header = (
        ["table", "data files"] if dry_run else ["table", "data files before", "after", "old ones deleted"]
    )
    rows = [
        [one.table, str(one.files_before), str(one.files_after), str(one.deleted)][: len(header)]
        for one in upkeep.tables
    ]
    terminal.print_table("Nothing was changed" if dry_run else "Compacted", header, rows)
    for item in upkeep.pruned:
        typer.echo(f"{'would delete' if dry_run else 'deleted'} {item.description}")
    if prune and not upkeep.pruned:
        typer.echo("something refers to every model, and no backtest was left unfinished: nothing to delete")


def print_reproduced(found: Reproduced, prediction_id: str, *, as_json: bool) -> None:
    """What was compared of a forecast that was made again, and which versions differ."""
    compared = (*found.figures, *found.weights)
    if as_json:
        terminal.print_json(
            {
                "prediction_id": prediction_id,
                "same": found.same,
                "compared": [
                    {"name": one.name, "figures": len(one.stored), "same": one.same, "apart": one.apart}
                    for one in compared
                ],
                "others": {name: {"then": then, "now": now} for name, (then, now) in found.others.items()},
            }
        )
        return
    rows = [
        [one.name, str(len(one.stored)), "the same bits" if one.same else f"apart by {one.apart:.3g}"]
        for one in compared
    ]
    close = f"{found.row['product_id']}, close of {found.row['target_day']}"
    title = f"{close}: forecast {prediction_id} made again"
    terminal.print_table(title, ["what", "figures", "stored and made again"], rows)
    for name, (then, now) in found.others.items():
        typer.echo(f"{name}: {then} then, {now} now")


def print_verified(result: Verification, *, as_json: bool) -> None:
    """What `verify` checked, and its findings."""
    if as_json:
        terminal.print_json({"checked": result.checked, "findings": result.findings})
        return
    rows = [[kind, f"{count:,}"] for kind, count in result.checked.items()]
    terminal.print_table("Checked", ["what", "how many"], rows)
    for line in result.findings:
        say(f"WRONG: {line}", "bold red")


def with_home(said: str, words: Sequence[str]) -> str:
    """What a message tells to do, told for the home that the command's words name."""
    homes = [after for word, after in itertools.pairwise(words) if word == "--home"]
    homes += [word.removeprefix("--home=") for word in words if word.startswith("--home=")]
    if not homes:
        return said
    return re.sub(
        r"`(closecast \w+[^`]*)`", lambda found: f"`{found[1]} --home {shlex.quote(homes[-1])}`", said
    )
