"""What the commands print: tables and lines for people, JSON for programs."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from flows.cli.terminal import (
    Format,
    command_name,
    print_facts,
    print_json,
    print_line,
    print_rows,
    print_table,
    relative_path,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from flows.actions import Upkeep
    from storage.core.home import Home
    from storage.models.registry import ModelVersion
    from tasks.backtest.result import BacktestResult
    from tasks.evaluation.scoreboard import Scoreboard
    from tasks.prices.ingest import IngestedPrices
    from tasks.upkeep.reproduce import Reproduction
    from tasks.upkeep.verify import Verification

EXAMPLE = '"select target_day, horizon, point, last_close from predictions"'
SHORT_PREDICTIONS = (
    *("target_day", "horizon", "product_id", "profile", "point", "lower_80", "upper_80"),
    *("last_close", "revision", "model_version", "prediction_id"),
)
SHORT_VERSIONS = (
    *("product_id", "profile", "version", "aliases", "status", "training_kind", "origin_day", "gate"),
    *("data_version", "code_version"),
)
VERSIONS = (
    *SHORT_VERSIONS,
    *("settings_version", "git_commit", "weights_sha256", "recipe_version", "parent", "pooled"),
    *("twin_trained_through", "twin_weights_sha256"),
)


def print_import(prices: IngestedPrices, *, as_json: bool) -> None:
    """The counts of an import."""
    from tasks.prices.gaps import find_gaps

    facts = prices.facts()
    if as_json:
        print_json(facts | {"gaps": find_gaps(prices.history.candles["day_utc"])})
        return
    typer.echo(
        "{product_id}: {new_days} days new, {restated_days} restated, {quarantined} quarantined;"
        " {days} days, {first_day} to {origin}".format(**facts)
    )


def print_forecasts(home: Home, prediction_ids: Sequence[str], *, several: bool, as_json: bool) -> None:
    """The stored forecasts of a run, the next day in full, and an example of a query.

    As JSON the row of the next day, with the rows of all days as `horizons`; a list where several products
    were asked for, however many of them have a forecast.
    """
    from flows.settings import home_at
    from tasks.forecast.publish import stored_run

    forecasts = [run for prediction_id in prediction_ids if (run := stored_run(home, prediction_id))]
    if as_json:
        runs = [forecast.rows() for forecast in forecasts]
        printed = [{**rows[0], "horizons": rows} for rows in runs]
        print_json(printed if several else printed[0])
        return
    for forecast in forecasts:
        title = f"{forecast.product_id}: close of {forecast.first.target_day}"
        print_facts(title, forecast.summary())
        if len(forecast.horizons) > 1:
            print_table(
                f"{forecast.product_id}: the next {forecast.horizons[-1].horizon} days", *forecast.fan()
            )
    if forecasts:
        typer.echo(f"Stored in {relative_path(home.predictions)} (Delta). Query it, for example:")
        option = "" if home == home_at() else f" --home {shlex.quote(str(home.root))}"
        typer.echo(f"  {command_name()} sql {EXAMPLE}{option}")


def print_predictions(rows: pa.Table, output: Format) -> None:
    """Stored forecasts; as a table the most important columns."""
    print_rows(rows.select(SHORT_PREDICTIONS) if output == "table" else rows, output)


def print_scoreboard(board: Scoreboard, product: str, profile: str, *, as_json: bool) -> None:
    """A product's scores, and the alarms; below them a row a horizon where there is more than one."""
    from tasks.evaluation.scoreboard import horizon_table, table

    if as_json:
        print_json({"product_id": product, "profile": profile, **asdict(board)})
        return
    if board.last is None:
        typer.echo(f"{product}: no forecast of profile {profile} has been scored yet")
        return
    ahead = "the next day" if board.horizon == 1 else f"{board.horizon} days ahead"
    print_table(f"{product}, {profile}, {ahead}: forecasts up to {board.last}", *table(board))
    for alarm in board.alarms:
        print_line(f"ALARM: {alarm}", "bold red")
    if not board.alarms:
        print_line(board.no_alarm or "no coverage alarm")
    if len(board.horizons) > 1:
        typer.echo()
        print_table("By horizon", *horizon_table(board))


def print_backtest(home: Home, product: str, result: BacktestResult, *, horizon: int, as_json: bool) -> None:
    """The summary of one horizon of a backtest, a row for each of all, and where its origins are stored.

    Raises:
        BadDay: no outcome so far ahead was known.
    """
    from tasks.backtest.summary import tables

    summary = result.of(horizon)
    if as_json:
        horizons = [asdict(one) for one in result.summaries]
        facts = {"backtest_id": result.backtest_id, **asdict(summary), "gates": result.gates}
        print_json(facts | {"horizons": horizons})
        return
    typer.echo(f"{product}: {summary.span}")
    for title, (header, rows) in tables(summary, result.summaries).items():
        print_table(title, header, rows)
    refused = sum("refused" in gate for gate in result.gates)
    typer.echo(f"Challengers after the first model: {len(result.gates)}, refused by the gate: {refused}")
    typer.echo(
        f"Every origin is in {relative_path(home.backtests)} (Delta) as backtest {result.backtest_id},"
        " in `sql` the view backtests"
    )


def print_versions(versions: Sequence[ModelVersion], output: Format) -> None:
    """Model versions with their lineage; as a table without the long digests."""
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
    print_rows(table.select(SHORT_VERSIONS) if output == "table" else table, output)


def print_upkeep(upkeep: Upkeep, *, prune: bool, dry_run: bool, as_json: bool) -> None:
    """What `maintain` did, or would do."""
    pruned = [item.description for item in upkeep.pruned]
    if as_json:
        tables = [asdict(table) for table in upkeep.tables]
        print_json({"dry_run": dry_run, "tables": tables, "pruned": pruned})
        return
    header = ["table", "data files"] if dry_run else ["table", "data files before", "after", "deleted"]
    rows = [
        [table.table, *map(str, (table.files_before, table.files_after, table.deleted))][: len(header)]
        for table in upkeep.tables
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
    """The message, with the command line's --home added to the commands that it advises."""
    homes = [after for word, after in itertools.pairwise(words) if word == "--home"]
    homes += [word.removeprefix("--home=") for word in words if word.startswith("--home=")]
    if not homes:
        return message
    option = f" --home {shlex.quote(homes[-1])}"
    return re.sub(r"`(closecast \w+[^`]*)`", lambda command: f"`{command[1]}{option}`", message)
