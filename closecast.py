"""The command line: parse, call a flow or a query, print."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from flows import terminal
from flows.examples import examples_of
from flows.terminal import Format, say
from storage.errors import BadDay, BadSetting, ClosecastError, Damaged, HomeUnusable, NotReproduced

if TYPE_CHECKING:
    from storage.home import Home

log = logging.getLogger("closecast")


app = typer.Typer(
    name="closecast",
    help="Daily closes in, one versioned forecast out.",
    epilog="Exit codes: 0 done, 1 it could not be done (one line on standard error says why), 2 the command"
    " was not understood, 130 interrupted.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

EXAMPLE = '"select target_day, point_usd, last_close_usd from predictions"'
# What `versions` leaves to its other formats.
LONG = ("settings_version", "git_commit", "weights_sha256", "recipe_version", "parent", "pooled")
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
# The class of every misuse, whichever copy of click typer carries.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


def _known_products(context: typer.Context, incomplete: str) -> list[str]:
    """The products of the home, for the shell to complete; where there is no answer, none."""
    from flows.settings import home_at
    from storage.products import stored_products

    try:
        found = stored_products(home_at(context.params.get("home")))
    except ClosecastError:
        return []
    return [product for product in found if product.startswith(incomplete)]


def _known_settings(context: typer.Context, incomplete: str) -> list[str]:
    """The settings of the profile, as far as they are typed."""
    from flows.settings import PROFILES

    profile = PROFILES.get(str(context.params.get("profile")), PROFILES["calibrated"])
    return [f"{name}=" for name in profile.model_fields if name.startswith(incomplete)]


def _known_profiles(incomplete: str) -> list[str]:
    from flows.settings import PROFILES

    return [name for name in PROFILES if name.startswith(incomplete)]


Source = Literal["sample", "coinbase", "csv"]
OnDuplicate = Literal["refuse", "first", "last"]
HomeOption = Annotated[
    Path | None, typer.Option(help="Folder of everything made; CLOSECAST_HOME or the project's data/.")
]
ProductOption = Annotated[
    str, typer.Option(help="Exchange product, such as BTC-USD.", autocompletion=_known_products)
]
AnyProductOption = Annotated[
    str | None, typer.Option("--product", help="Only this product.", autocompletion=_known_products)
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, and nothing else there.")]
ProfileOption = Annotated[
    str, typer.Option(help="Recipe: calibrated or article.", autocompletion=_known_profiles)
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A setting of the profile, NAME=VALUE; repeatable.", autocompletion=_known_settings
    ),
]
DuplicateOption = Annotated[
    OnDuplicate, typer.Option(help="Which row counts when a file holds a day twice with different figures.")
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace-source", help="Start the product's prices over from another source.")
]


@app.command()
def run(
    products: Annotated[
        list[str] | None,
        typer.Option(
            "--product",
            help="Exchange product, BTC-USD by default; repeatable.",
            autocompletion=_known_products,
        ),
    ] = None,
    source: Annotated[
        Source | None, typer.Option(help="By default what the product has, else the sample.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="File of daily candles, for --source csv.")] = None,
    as_of: Annotated[str | None, typer.Option(help="Last day that the run may know, YYYY-MM-DD.")] = None,
    profile: ProfileOption = "calibrated",
    settings: SettingsOption = None,
    on_duplicate: DuplicateOption = "refuse",
    replace_source: ReplaceOption = False,
    fill_days: Annotated[
        int, typer.Option(min=0, max=366, help="Also make the forecasts of so many missed days before.")
    ] = 0,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make one daily run in this process and print the forecast.

    Of several products each has its own; one that fails stops none of the others.
    """
    from flows.settings import home_at, market_of, profile_named

    changed = _settings(settings or [])
    recipe = profile_named(profile, changed)
    product, *others = [market_of(product_id=one).product_id for one in products or ["BTC-USD"]]
    if others and (csv or replace_source):
        raise BadSetting("--csv and --replace-source are for one product: make a run for each")
    market = market_of(
        product_id=product,
        source=source,
        csv=csv,
        on_duplicate=on_duplicate,
        replace_source=replace_source,
    )
    origin = _day(as_of, "--as-of")
    place = home_at(home).prepare()
    terminal.keep_the_terminal(place, aside=as_json)
    with terminal.bars(aside=as_json):
        if others:
            from flows.products import daily_forecasts

            made = daily_forecasts(
                [product, *others], source, recipe.name, changed, origin, str(place.root), fill_days
            )
        else:
            from flows.daily import daily_forecast

            made = [daily_forecast(market, recipe.name, changed, origin, str(place.root), fill_days)]
    _print_forecasts(place, made, as_json=as_json)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV of daily candles.")],
    product: ProductOption,
    on_duplicate: DuplicateOption = "refuse",
    replace_source: ReplaceOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Read a CSV of candles into the database."""
    from flows.settings import home_at, market_of

    market = market_of(
        product_id=product,
        source="csv",
        csv=file,
        on_duplicate=on_duplicate,
        replace_source=replace_source,
    )
    place = home_at(home).prepare()
    terminal.keep_the_terminal(place, aside=as_json)
    from flows.importing import import_file

    with terminal.bars(aside=as_json):
        series = import_file(place, market)
    if as_json:
        terminal.print_json(asdict(series))
        return
    typer.echo(
        f"{series.product_id}: {series.new_days} days new, {series.restated_days} restated,"
        f" {series.set_aside} set aside; {series.days} days, {series.first_day} to {series.origin}"
    )


@app.command()
def predictions(
    product: AnyProductOption = None,
    first: Annotated[str | None, typer.Option("--from", help="First target day, YYYY-MM-DD.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last target day, YYYY-MM-DD.")] = None,
    output: FormatOption = "table",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Print the stored forecasts."""
    from storage.home import check_product_id
    from storage.predictions import Predictions

    if product is not None:
        check_product_id(product)
    rows = Predictions(_existing(home)).between(product, first=_day(first, "--from"), last=_day(last, "--to"))
    short = (
        "target_day",
        "product_id",
        "profile",
        "point_usd",
        "lower_80_usd",
        "upper_80_usd",
        "last_close_usd",
        "revision",
        "model_version",
        "prediction_id",
    )
    output = "json" if as_json else output
    terminal.print_rows(rows.select(short) if output == "table" else rows, output)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the views.")],
    output: FormatOption = "table",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Answer one SELECT over the views of everything stored; nothing can be written.

    The views: closes, candles, predictions, scores, ingredients, trackers, backtests.
    """
    from storage.query import query as answer

    terminal.print_rows(answer(_existing(home), query), "json" if as_json else output)


@app.command()
def score(
    product: ProductOption = "BTC-USD",
    profile: ProfileOption = "calibrated",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Compare the forecasts with the closes that came, and print the scoreboard."""
    from flows.scoring import score_forecasts
    from flows.settings import market_of, profile_named

    recipe = profile_named(profile)
    board = score_forecasts(_existing(home), market_of(product_id=product).product_id, recipe)
    from tasks.scoreboard import table

    if as_json:
        terminal.print_json({"product_id": product, "profile": profile, **asdict(board)})
        return
    if board.last is None:
        typer.echo(f"{product}: no forecast of profile {profile} has been scored yet")
        return
    terminal.print_table(f"{product}, {profile}: forecasts up to {board.last}", *table(board))
    for line in board.alarms or (board.no_alarm or "no coverage alarm",):
        say(f"{'ALARM: ' if board.alarms else ''}{line}", "bold red" if board.alarms else "")


@app.command()
def backtest(
    product: ProductOption = "BTC-USD",
    start: Annotated[str | None, typer.Option(help="First origin; a year before the end by default.")] = None,
    end: Annotated[
        str | None, typer.Option(help="Last origin; by default the newest with an outcome.")
    ] = None,
    profile: ProfileOption = "calibrated",
    settings: SettingsOption = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that train folds side by side.")
    ] = 1,
    dask: Annotated[
        str | None,
        typer.Option(help="Dask scheduler whose workers do it, tcp://HOST:8786; CLOSECAST_DASK_ADDRESS."),
    ] = None,
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Evaluate a profile by rolling origin against the baselines, on stored closes."""
    from flows.settings import dask_address, market_of, profile_named

    changed = _settings(settings or [])
    recipe = profile_named(profile, changed)
    product = market_of(product_id=product).product_id
    first, last = _day(start, "--start"), _day(end, "--end")
    as_json = as_json or output == "json"
    dask = dask_address(dask)
    if dask and workers > 1:
        raise BadSetting(f"--workers are of this machine, and Dask at {dask} has its own: leave one out")
    place = _existing(home).prepare()
    terminal.keep_the_terminal(place, quiet=("closecast.train", "closecast.ensemble"), aside=as_json)
    from flows.backtest import rolling_backtest
    from tasks.summary import tables

    flow = rolling_backtest
    if workers > 1:
        from prefect.task_runners import ProcessPoolTaskRunner

        # Prefect types its own pool more narrowly than it takes it.
        pool: Any = ProcessPoolTaskRunner(max_workers=workers)
        flow = rolling_backtest.with_options(task_runner=pool)
    with terminal.bars(aside=as_json):
        verdict = flow(product, recipe.name, changed, first, last, str(place.root), dask)
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
        f"Every origin is in {terminal.from_here(place.backtests)} (Delta) as backtest {verdict.backtest_id},"
        " in `sql` the view backtests"
    )


@app.command()
def rollback(
    product: ProductOption,
    to: Annotated[
        str | None, typer.Option(help="Version to forecast with; the one before by default.")
    ] = None,
    profile: ProfileOption = "calibrated",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Move the champion back to an earlier version, until a refit takes its place."""
    from flows.rolling_back import roll_back
    from flows.settings import market_of, profile_named

    recipe = profile_named(profile)
    place = _existing(home)
    before, after = roll_back(place, market_of(product_id=product).product_id, recipe, to)
    if as_json:
        terminal.print_json({"product_id": product, "profile": profile, "before": before, "after": after})
        return
    typer.echo(
        f"closecast.{product}.{profile}: version {after} is the champion in place of version {before},"
        " until a refit takes its place"
    )


@app.command()
def versions(
    product: AnyProductOption = None,
    output: FormatOption = "table",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """List the model versions with their lineage."""
    import pyarrow as pa

    from storage.home import check_product_id
    from storage.models import Models

    if product is not None:
        check_product_id(product)
    lineage = (
        *("status", "made_by", "origin_day", "gate", "data_version", "settings_version", "code_version"),
        *("git_commit", "weights_sha256", "recipe_version", "parent", "pooled"),
    )
    rows = [
        {
            "product_id": version.product_id,
            "profile": version.profile,
            "version": version.version,
            "aliases": ", ".join(version.aliases),
            **{name: version.tags.get(name) for name in lineage},
        }
        for version in Models(_existing(home)).versions(product)
    ]
    names = ["product_id", "profile", "version", "aliases", *lineage]
    output = "json" if as_json else output
    table = pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in names]))
    short = [name for name in names if name not in LONG] if output == "table" else names
    terminal.print_rows(table.select(short), output)


@app.command()
def report(
    product: AnyProductOption = None,
    profile: Annotated[str | None, typer.Option(help="Only this recipe: calibrated or article.")] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write the report, a page of HTML that needs nothing else, and print its path.

    Each run writes it, too. Of more than one product or profile the path is that of an index of their pages.
    """
    from flows.reporting import write_reports
    from flows.settings import profile_named
    from storage.home import check_product_id

    if product is not None:
        check_product_id(product)
    if profile is not None:
        profile = profile_named(profile).name
    written = write_reports(_existing(home), product, profile)
    if as_json:
        terminal.print_json({"report": str(written)})
        return
    typer.echo(terminal.from_here(written))


@app.command()
def maintain(
    prune: Annotated[
        bool, typer.Option("--prune", help="Also delete models and unfinished backtests nothing refers to.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done, do nothing.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Compact the tables' files, and drop old ones after thirty days."""
    from flows.maintain import look_after

    upkeep = look_after(_existing(home), prune=prune, dry_run=dry_run)
    if as_json:
        pruned = [one.what for one in upkeep.pruned]
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
    for one in upkeep.pruned:
        typer.echo(f"{'would delete' if dry_run else 'deleted'} {one.what}")
    if prune and not upkeep.pruned:
        typer.echo("something refers to every model, and no backtest was left unfinished: nothing to delete")


@app.command()
def alerts(
    webhook: Annotated[str, typer.Argument(help="Address that Prefect calls, such as https://hooks.…")],
    as_json: JsonOption = False,
) -> None:
    """Let the Prefect server of PREFECT_API_URL call a webhook when something goes wrong.

    When a run failed, is late or dead, no day was done, intervals do not hold, a model is stale. Again with
    another address, it takes the place of the first.
    """
    from flows.alerts import set_up_alerts

    names = list(set_up_alerts(webhook))
    if as_json:
        terminal.print_json({"automations": names})
        return
    for name in names:
        typer.echo(name)


@app.command()
def reproduce(
    prediction_id: Annotated[str, typer.Argument(help="Of the forecast; `predictions` lists them.")],
    retrain: Annotated[bool, typer.Option("--retrain", help="Also train its model again.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make a stored forecast again from its versions, and compare it to the last bit.

    The exit code is 1 when anything came out otherwise.
    """
    place = _existing(home)
    terminal.keep_the_terminal(place, aside=as_json)
    from storage.code import code_version
    from tasks.reproduce import reproduce_forecast

    with terminal.bars(aside=as_json):
        found = reproduce_forecast(place, prediction_id, code_version=code_version(), retrain=retrain)
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
    else:
        rows = [
            [one.name, str(len(one.stored)), "the same bits" if one.same else f"apart by {one.apart:.3g}"]
            for one in compared
        ]
        close = f"{found.row['product_id']}, close of {found.row['target_day']}"
        terminal.print_table(
            f"{close}: forecast {prediction_id} made again",
            ["what", "figures", "stored and made again"],
            rows,
        )
        for name, (then, now) in found.others.items():
            typer.echo(f"{name}: {then} then, {now} now")
    if not found.same:
        away = max(one.apart for one in compared)
        why = "other versions are in use, listed above" if found.others else "the versions are the same"
        raise NotReproduced(
            f"forecast {prediction_id} came out otherwise, by {away:.3g} of a figure at most; {why}"
        )
    if not as_json:
        say("Made again to the last bit.", "green")


@app.command()
def verify(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Check every hash and reference: candles, data versions, models, forecasts, scores.

    Nothing is written. The exit code is 1 when anything was changed or is missing.
    """
    from tasks.verify import verify_home

    with terminal.bars(aside=as_json):
        found = verify_home(_existing(home))
    if as_json:
        terminal.print_json({"looked": found.looked, "wrong": found.wrong})
    else:
        rows = [[kind, f"{count:,}"] for kind, count in found.looked.items()]
        terminal.print_table("Looked at", ["what", "how many"], rows)
        for line in found.wrong:
            say(f"WRONG: {line}", "bold red")
    if found.wrong:
        raise Damaged(
            f"changed, missing or contradictory: {len(found.wrong)}, listed above; `closecast restore` brings"
            " back a backup"
        )
    if not as_json:
        say("Everything is as it was recorded.", "green")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="New file, such as closecast.tar or closecast.tar.gz.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write a consistent copy of the whole home to one file, also while runs go on."""
    from storage.backup import back_up

    with terminal.bars(aside=as_json):
        count = back_up(_existing(home), file)
    if as_json:
        terminal.print_json({"file": file, "files": count, "bytes": file.stat().st_size})
        return
    typer.echo(
        f"{count:,} files, {file.stat().st_size:,} bytes in {file}: `closecast restore` brings them back"
    )


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="File that `backup` wrote.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Bring a backup back into an empty home."""
    from flows.settings import home_at
    from storage.restore import restore as bring_back

    place = home_at(home)
    with terminal.bars(aside=as_json):
        count = bring_back(file, place)
    if as_json:
        terminal.print_json({"home": place.root, "files": count})
        return
    typer.echo(f"{count:,} files are back in {place.root}: `closecast verify` checks them")


def _settings(pairs: list[str]) -> dict[str, Any]:
    """`epochs=3` to `{"epochs": 3}`: values are read as JSON where they are JSON, as text elsewhere."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise BadSetting(f"--set needs NAME=VALUE, such as epochs=50, not {pair!r:.60}")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def _day(text: str | None, option: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date() if text else None  # noqa: DTZ007 (a UTC day)
    except ValueError as error:
        raise BadDay(f"{option} needs a day such as 2019-10-17, not {text!r:.60}") from error


def _existing(root: Path | None) -> Home:
    from flows.settings import home_at

    home = home_at(root)
    if home.on_postgresql or home.bucket is not None:
        return home.prepare()  # what others have made is there, whatever this machine has
    if not home.root.is_dir():
        raise HomeUnusable(f"there is no home at {home.root}: make one with `closecast run`, or name another")
    return home


def _print_forecasts(home: Home, made: Sequence[str], *, as_json: bool) -> None:
    from flows.settings import home_at
    from storage.predictions import Predictions

    rows = []
    for prediction_id in made:
        row = Predictions(home).find(prediction_id)
        if row is None:
            raise HomeUnusable(f"the forecast {prediction_id} is not in {home.predictions}: run again")
        rows.append(row)
    if as_json:
        terminal.print_json(rows if len(rows) > 1 else rows[0])
        return
    for row in rows:
        terminal.print_forecast(row)
    typer.echo(f"Stored in {terminal.from_here(home.predictions)} (Delta). Ask it, for example:")
    where = "" if home == home_at() else f" --home {shlex.quote(str(home.root))}"
    typer.echo(f"  {terminal.called()} sql {EXAMPLE}{where}")


for _command in app.registered_commands:
    _command.epilog = examples_of(str(_command.name or getattr(_command.callback, "__name__", "")))


def main() -> None:
    """Run a command; what goes wrong is said in one line on standard error.

    Exit codes: 0 done, 1 it could not be done, 2 the command was not understood, 130 interrupted.
    """
    if not sys.warnoptions:  # other people's deprecations are not the user's concern
        warnings.simplefilter("ignore")
    try:
        code = app(prog_name="closecast", standalone_mode=False)
    except ClosecastError as error:
        _fail(str(error), EXIT_FAILED)
    except USAGE_ERROR as error:
        asked = getattr(error, "format_message", error.__str__)()
        _fail(f"{asked} (closecast --help tells more)", EXIT_USAGE) if asked else sys.exit(EXIT_USAGE)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except Exception as error:
        # Not foreseen: the traceback belongs in the log file, the terminal gets its last line.
        log.debug("an error that nobody foresaw", exc_info=True)
        kept = next((h.baseFilename for h in log.handlers if isinstance(h, logging.FileHandler)), None)
        where = f" (the traceback is in {kept})" if kept else ""
        _fail(f"{type(error).__name__}: {str(error)[:400]}{where}", EXIT_FAILED)
    if code == EXIT_INTERRUPTED:  # typer makes this of a Ctrl-C by itself
        _fail("interrupted; the next run finishes what this one began", EXIT_INTERRUPTED)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    # What a message quotes may hold what a terminal would obey.
    plain = "".join(letter if letter.isprintable() else " " for letter in message)
    terminal.fail(" ".join(plain.split()))
    sys.exit(code)


if __name__ == "__main__":
    main()
