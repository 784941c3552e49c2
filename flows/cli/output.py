"""What the commands print: tables and lines for people, JSON for programs."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from closecast.flows.cli.row_files import Format
from closecast.flows.cli.terminal import (
    command_name,
    print_facts,
    print_json,
    print_line,
    print_rows,
    print_table,
    relative_path,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from closecast.storage.core.home import Home
    from closecast.storage.models.registry import ModelVersion
    from closecast.storage.upkeep.compaction import Compaction
    from closecast.tasks.backtest.result import BacktestResult
    from closecast.tasks.evaluation.scoreboard import Scoreboard
    from closecast.tasks.upkeep.pruning import UnusedItem
    from closecast.tasks.upkeep.reproduce import Reproduction
    from closecast.tasks.upkeep.verification import Verification

EXAMPLE = '"select target_day, horizon, point, last_close from predictions"'
SHORT_PREDICTIONS = (
    *("target_day", "horizon", "product_id", "profile", "point", "lower_80", "upper_80"),
    *("last_close", "revision", "basis", "model_version", "prediction_id"),
)
# What a narrow terminal does without first.
LEAST_PREDICTIONS = ("prediction_id", "model_version", "revision", "last_close", "profile")
LEAST_VERSIONS = ("data_version", "code_version", "gate", "training_kind")
LEAST_SCORES = ("MAE / naive", "MAE", "50 % covered", "RMSE / naive", "RMSE")
LEAST_BACKTEST = ("days", "95 % interval", "CRPS / ewma_weekday_t", "50 % covered", "90 % covered", "CRPS")
LEAST_FAN = ("days ahead",)
SHORT_VERSIONS = (
    *("product_id", "profile", "version", "aliases", "status", "training_kind", "basis", "origin_day"),
    *("gate", "data_version", "code_version"),
)
VERSIONS = (
    *SHORT_VERSIONS,
    *("settings_version", "git_commit", "weights_sha256", "recipe_version", "parent", "pooled"),
    *("twin_trained_through", "twin_weights_sha256"),
)


def print_forecasts(
    home: Home, prediction_ids: Sequence[str], *, several: bool, as_json: bool, wide: bool = False
) -> None:
    """The requested forecasts in full, the days ahead of each, and an example of a query.

    As JSON, the requested row with the rows of its whole run as `horizons`; a list if several products were
    requested, however many of them have a forecast.
    """
    from closecast.flows.settings import home_at
    from closecast.tasks.forecast.publish import stored_run

    runs = [run for prediction_id in prediction_ids if (run := stored_run(home, prediction_id))]
    if as_json:
        printed = [{**run.row, "horizons": run.rows} for run in runs]
        print_json(printed if several else printed[0])
        return
    for forecast, fan in ((run.forecast, run.fan) for run in runs):
        print_facts(f"{forecast.product_id}: close of {forecast.target}", forecast.summary())
        if len(fan.horizons) > 1:
            days = fan.horizons[-1].horizon
            span = (
                f"next {days} days" if forecast.first.horizon == 1 else f"{days} days after {fan.origin_day}"
            )
            print_table(f"{forecast.product_id}: the {span}", *fan.fan(), least=LEAST_FAN, wide=wide)
    if runs:
        typer.echo(f"Stored in {relative_path(home.predictions)} (Delta). Query it, for example:")
        option = "" if home == home_at() else f" --home {shlex.quote(str(home.root))}"
        option += _typed("--config", sys.argv)
        typer.echo(f"  {command_name()} sql {EXAMPLE}{option}")


def print_predictions(
    rows: pa.Table, output: Format, *, file: Path | None = None, quantiles: bool = False, wide: bool = False
) -> None:
    """Stored forecasts; a table has the most important columns. With `quantiles` each one is a column."""
    from closecast.storage.tables.predictions import with_quantile_columns

    shown = with_quantile_columns(rows) if quantiles else rows
    if output == "table":
        own = [name for name in shown.column_names if name not in rows.column_names]
        shown = shown.select([*SHORT_PREDICTIONS, *own])
    print_rows(shown, output, file=file, least=LEAST_PREDICTIONS, wide=wide)


def print_scoreboard(
    board: Scoreboard, product: str, profile: str, *, as_json: bool, wide: bool = False
) -> None:
    """A product's scores and alarms, then a row per horizon if there are several."""
    from closecast.tasks.evaluation.scoreboard import horizon_tables, nothing_scored, table

    if as_json:
        print_json({"product_id": product, "profile": profile, **asdict(board)})
        return
    ahead = "the next day" if board.horizon == 1 else f"{board.horizon} days ahead"
    if nothing := nothing_scored(board):
        print_line(f"{product}, {profile}, {ahead}: {nothing}")
    else:
        header, rows = table(board)
        title = f"{product}, {profile}, {ahead}: forecasts up to {board.last}"
        print_table(title, header, rows, short=_without_brackets(rows), least=LEAST_SCORES, wide=wide)
        for alarm in board.alarms:
            print_line(f"ALARM: {alarm}", "bold red")
        if not board.alarms:
            print_line(board.no_alarm or "no coverage alarm")
    for title, (header, rows) in horizon_tables(board).items():
        typer.echo()
        print_table(title, header, rows, short=_without_brackets(rows), least=LEAST_SCORES, wide=wide)


def _without_brackets(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The cells without the brackets at their end, such as the range of a share."""
    return [[re.sub(r" \(.*\)$", "", cell) for cell in row] for row in rows]


def print_backtest(
    home: Home, product: str, result: BacktestResult, *, horizon: int, as_json: bool, wide: bool = False
) -> None:
    """The summary of one horizon of a backtest, a row for each horizon, and where its origins are stored.

    Fallbacks are left out, unless no model made a forecast of that horizon; errors as `BacktestResult.of`.
    """
    from closecast.tasks.backtest.summary import tables

    summary = result.of(horizon)
    if as_json:
        facts = {"backtest_id": result.backtest_id, **asdict(summary), "gates": result.gates}
        facts["horizons"] = [asdict(one) for one in result.summaries]
        facts["fallbacks"] = [asdict(one) for one in result.fallbacks]
        print_json(facts)
        return
    typer.echo(f"{product}: {summary.span}")
    for title, (header, rows) in tables(summary, result.every).items():
        print_table(title, header, rows, least=LEAST_BACKTEST, wide=wide)
    refused = sum("refused" in gate for gate in result.gates)
    typer.echo(f"Challengers after the first model: {len(result.gates)}, refused by the gate: {refused}")
    typer.echo(
        f"All origins are in {relative_path(home.backtests)} (Delta) as backtest {result.backtest_id};"
        " `sql` shows them in the view backtests"
    )


def print_versions(
    versions: Sequence[ModelVersion], output: Format, *, file: Path | None = None, wide: bool = False
) -> None:
    """Model versions with their lineage; as a table without the long digests."""
    if output == "table" and not versions:
        print_line(
            "no model version: none has been trained yet, and a fallback, made by the baselines alone, has"
            " none"
        )
        return
    import pyarrow as pa

    rows = [
        {
            **{name: version.tags.get(name) for name in VERSIONS},
            "product_id": version.product_id,
            "profile": version.profile,
            "version": version.version,
            "aliases": ", ".join(version.aliases),
        }
        for version in versions
    ]
    table = pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in VERSIONS]))
    shown = table.select(SHORT_VERSIONS) if output == "table" else table
    print_rows(shown, output, file=file, least=LEAST_VERSIONS, wide=wide)


def print_upkeep(
    tables: Sequence[Compaction], unused: Sequence[UnusedItem], *, prune: bool, dry_run: bool, as_json: bool
) -> None:
    """What `maintain` did, or would do."""
    pruned = [item.description for item in unused]
    if as_json:
        print_json({"dry_run": dry_run, "tables": [asdict(table) for table in tables], "pruned": pruned})
        return
    header = ["table", "data files"] if dry_run else ["table", "data files before", "after", "deleted"]
    rows = [
        [table.table, *map(str, (table.files_before, table.files_after, table.deleted))][: len(header)]
        for table in tables
    ]
    print_table("Nothing was changed" if dry_run else "Compacted", header, rows)
    for item in pruned:
        typer.echo(f"{'would delete' if dry_run else 'deleted'} {item}")
    if prune and not pruned:
        typer.echo("nothing to delete: every model is in use, and no backtest is unfinished")


def print_reproduction(result: Reproduction, prediction_id: str, *, as_json: bool) -> None:
    """The comparisons of a reproduced forecast, and the versions that differ."""
    compared = [
        {"name": each.name, "figures": len(each.stored), "same": each.same, "distance": each.distance}
        for each in (*result.figures, *result.weights)
    ]
    versions = {name: {"then": then, "now": now} for name, (then, now) in result.changed_versions.items()}
    if as_json:
        facts = {"prediction_id": prediction_id, "same": result.same}
        print_json({**facts, "compared": compared, "changed_versions": versions})
        return
    rows = [
        [str(name), str(figures), "the same bits" if same else f"differs by {distance:.3g}"]
        for name, figures, same, distance in (each.values() for each in compared)
    ]
    forecast = result.forecast
    title = (
        f"{forecast.product_id}, close of {forecast.first.target_day}: forecast {prediction_id} made again"
    )
    print_table(title, ["", "figures", "stored and made again"], rows)
    for name, (then, now) in result.changed_versions.items():
        typer.echo(f"{name}: {then} then, {now} now")


def print_verification(result: Verification, *, as_json: bool) -> None:
    """What `verify` checked, and all findings."""
    if as_json:
        print_json({"checked": result.checked, "findings": result.findings})
        return
    print_table("Checked", ["", "number"], [[kind, f"{count:,}"] for kind, count in result.checked.items()])
    for finding in result.findings:
        print_line(f"WRONG: {finding}", "bold red")


def with_home(message: str, words: Sequence[str]) -> str:
    """The message, with the command line's --home and --config added to the commands in it."""
    typed = _typed("--home", words) + _typed("--config", words)
    return re.sub(r"`(closecast \w+[^`]*)`", lambda command: f"`{command[1]}{typed}`", message)


def _typed(option: str, words: Sequence[str]) -> str:
    """An option with a value as the command line has it, or nothing."""
    values = [after for word, after in itertools.pairwise(words) if word == option]
    values += [word.removeprefix(f"{option}=") for word in words if word.startswith(f"{option}=")]
    return f" {option} {shlex.quote(values[-1])}" if values else ""
