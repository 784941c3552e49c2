"""The command line: parse, call a flow or a query, print."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from storage.errors import BadDay, BadSetting, ClosecastError, Damaged, HomeUnusable, NotReproduced

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.home import Home

log = logging.getLogger("closecast")
app = typer.Typer(
    name="closecast",
    help="Daily closes in, one versioned forecast out.",
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


Source = Literal["sample", "coinbase", "csv"]
OnDuplicate = Literal["refuse", "first", "last"]
Format = Literal["table", "csv", "json"]
HomeOption = Annotated[
    Path | None, typer.Option(help="Folder of everything made; CLOSECAST_HOME or the project's data/.")
]
ProductOption = Annotated[str, typer.Option(help="Exchange product, such as BTC-USD.")]
AnyProductOption = Annotated[str | None, typer.Option("--product", help="Only this product.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]
ProfileOption = Annotated[str, typer.Option(help="Recipe: calibrated or article.")]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", help="A setting of the profile, NAME=VALUE; repeatable.")
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
        typer.Option("--product", help="Exchange product, BTC-USD by default; repeatable."),
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
    _keep_the_terminal(place)
    if others:
        from flows.products import daily_forecasts

        made = daily_forecasts(
            [product, *others], source, recipe.name, changed, origin, str(place.root), fill_days
        )
    else:
        from flows.daily import daily_forecast

        made = [daily_forecast(market, recipe.name, changed, origin, str(place.root), fill_days)]
    for prediction_id in made:
        _print_forecast(place, prediction_id)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV of daily candles.")],
    product: Annotated[str, typer.Option(help="Exchange product, such as BTC-USD.")],
    on_duplicate: DuplicateOption = "refuse",
    replace_source: ReplaceOption = False,
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
    _keep_the_terminal(place)
    from flows.importing import import_file

    series = import_file(place, market)
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
    _print_rows(rows.select(short) if output == "table" else rows, output)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the views.")],
    output: FormatOption = "table",
    home: HomeOption = None,
) -> None:
    """Answer one SELECT over the views of everything stored; nothing can be written.

    The views: closes, candles, predictions, scores, ingredients, trackers, backtests.
    """
    from storage.query import query as answer

    _print_rows(answer(_existing(home), query), output)


@app.command()
def score(
    product: ProductOption = "BTC-USD", profile: ProfileOption = "calibrated", home: HomeOption = None
) -> None:
    """Compare the forecasts with the closes that came, and print the scoreboard."""
    from flows.scoring import score_forecasts
    from flows.settings import market_of, profile_named

    recipe = profile_named(profile)
    board = score_forecasts(_existing(home), market_of(product_id=product).product_id, recipe)
    from tasks.scoreboard import table

    if board.last is None:
        typer.echo(f"{product}: no forecast of profile {profile} has been scored yet")
        return
    _print_table(f"{product}, {profile}: forecasts up to {board.last}", *table(board))
    for line in board.alarms or (board.no_alarm or "no coverage alarm",):
        typer.echo(f"{'ALARM: ' if board.alarms else ''}{line}")


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
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
    home: HomeOption = None,
) -> None:
    """Evaluate a profile by rolling origin against the baselines, on stored closes."""
    from flows.settings import market_of, profile_named

    changed = _settings(settings or [])
    recipe = profile_named(profile, changed)
    product = market_of(product_id=product).product_id
    first, last = _day(start, "--start"), _day(end, "--end")
    place = _existing(home).prepare()
    _keep_the_terminal(place, quiet=("closecast.train", "closecast.ensemble"))
    from flows.backtest import rolling_backtest
    from tasks.summary import tables

    flow = rolling_backtest
    if workers > 1:
        from prefect.task_runners import ProcessPoolTaskRunner

        # Prefect types its own pool more narrowly than it takes it.
        pool: Any = ProcessPoolTaskRunner(max_workers=workers)
        flow = rolling_backtest.with_options(task_runner=pool)
    with _bar():
        verdict = flow(product, recipe.name, changed, first, last, str(place.root))
    summary = verdict.summary
    if output == "json":
        figures = {"backtest_id": verdict.backtest_id, **summary.as_json(), "gates": list(verdict.gates)}
        typer.echo(json.dumps(figures, indent=2))
        return
    typer.echo(f"{product}: {summary.days} days, {summary.first_target_day} to {summary.last_target_day}")
    for title, (header, rows) in tables(summary).items():
        _print_table(title, header, rows)
    refused = sum("refused" in said for said in verdict.gates)
    typer.echo(f"Challengers after the first model: {len(verdict.gates)}, refused by the gate: {refused}")
    typer.echo(
        f"Every origin is in {_from_here(place.backtests)} (Delta) as backtest {verdict.backtest_id},"
        " in `sql` the view backtests"
    )


@app.command()
def rollback(
    product: Annotated[str, typer.Option(help="Exchange product, such as BTC-USD.")],
    to: Annotated[
        str | None, typer.Option(help="Version to forecast with; the one before by default.")
    ] = None,
    profile: ProfileOption = "calibrated",
    home: HomeOption = None,
) -> None:
    """Move the champion back to an earlier version, until a refit takes its place."""
    from flows.rolling_back import roll_back
    from flows.settings import market_of, profile_named

    recipe = profile_named(profile)
    place = _existing(home)
    before, after = roll_back(place, market_of(product_id=product).product_id, recipe, to)
    typer.echo(
        f"closecast.{product}.{profile}: version {after} is the champion in place of version {before},"
        " until a refit takes its place"
    )


@app.command()
def versions(
    product: AnyProductOption = None, output: FormatOption = "table", home: HomeOption = None
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
    table = pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in names]))
    short = [name for name in names if name not in LONG] if output == "table" else names
    _print_rows(table.select(short), output)


@app.command()
def maintain(
    prune: Annotated[
        bool, typer.Option("--prune", help="Also delete models and unfinished backtests nothing refers to.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done, do nothing.")] = False,
    home: HomeOption = None,
) -> None:
    """Compact the tables' files, and drop old ones after thirty days."""
    from flows.maintain import look_after

    upkeep = look_after(_existing(home), prune=prune, dry_run=dry_run)
    header = (
        ["table", "data files"] if dry_run else ["table", "data files before", "after", "old ones deleted"]
    )
    rows = [
        [one.table, str(one.files_before), str(one.files_after), str(one.deleted)][: len(header)]
        for one in upkeep.tables
    ]
    _print_table("Nothing was changed" if dry_run else "Compacted", header, rows)
    for one in upkeep.pruned:
        typer.echo(f"{'would delete' if dry_run else 'deleted'} {one.what}")
    if prune and not upkeep.pruned:
        typer.echo("something refers to every model, and no backtest was left unfinished: nothing to delete")


@app.command()
def alerts(
    webhook: Annotated[str, typer.Argument(help="Address that Prefect calls, such as https://hooks.…")],
) -> None:
    """Let the Prefect server of PREFECT_API_URL call a webhook when something goes wrong.

    When a run failed, is late or dead, no day was done, intervals do not hold, a model is stale. Again with
    another address, it takes the place of the first.
    """
    from flows.alerts import set_up_alerts

    for name in set_up_alerts(webhook):
        typer.echo(name)


@app.command()
def reproduce(
    prediction_id: Annotated[str, typer.Argument(help="Of the forecast; `predictions` lists them.")],
    retrain: Annotated[bool, typer.Option("--retrain", help="Also train its model again.")] = False,
    home: HomeOption = None,
) -> None:
    """Make a stored forecast again from its versions, and compare it to the last bit.

    The exit code is 1 when anything came out otherwise.
    """
    place = _existing(home)
    _keep_the_terminal(place)
    from storage.code import code_version
    from tasks.reproduce import reproduce_forecast

    found = reproduce_forecast(place, prediction_id, code_version=code_version(), retrain=retrain)
    row = found.row
    rows = [
        [one.name, str(len(one.stored)), "the same bits" if one.same else f"apart by {one.apart:.3g}"]
        for one in (*found.figures, *found.weights)
    ]
    _print_table(
        f"{row['product_id']}, close of {row['target_day']}: forecast {prediction_id} made again",
        ["what", "figures", "stored and made again"],
        rows,
    )
    for name, (then, now) in found.others.items():
        typer.echo(f"{name}: {then} then, {now} now")
    if not found.same:
        away = max(one.apart for one in (*found.figures, *found.weights))
        why = "other versions are in use, listed above" if found.others else "the versions are the same"
        raise NotReproduced(
            f"forecast {prediction_id} came out otherwise, by {away:.3g} of a figure at most; {why}"
        )
    typer.echo("Made again to the last bit.")


@app.command()
def verify(home: HomeOption = None) -> None:
    """Check every hash and reference: candles, data versions, models, forecasts, scores.

    Nothing is written. The exit code is 1 when anything was changed or is missing.
    """
    from tasks.verify import verify_home

    found = verify_home(_existing(home))
    rows = [[kind, f"{count:,}"] for kind, count in found.looked.items()]
    _print_table("Looked at", ["what", "how many"], rows)
    for line in found.wrong:
        typer.echo(f"WRONG: {line}")
    if found.wrong:
        raise Damaged(
            f"changed, missing or contradictory: {len(found.wrong)}, listed above; `closecast restore` brings"
            " back a backup"
        )
    typer.echo("Everything is as it was recorded.")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="New file, such as closecast.tar or closecast.tar.gz.")],
    home: HomeOption = None,
) -> None:
    """Write a consistent copy of the whole home to one file, also while runs go on."""
    from storage.backup import back_up

    count = back_up(_existing(home), file)
    typer.echo(
        f"{count:,} files, {file.stat().st_size:,} bytes in {file}: `closecast restore` brings them back"
    )


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="File that `backup` wrote.")], home: HomeOption = None
) -> None:
    """Bring a backup back into an empty home."""
    from flows.settings import home_at
    from storage.restore import restore as bring_back

    place = home_at(home)
    count = bring_back(file, place)
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
    if not home.root.is_dir():
        raise HomeUnusable(f"there is no home at {home.root}: make one with `closecast run`, or name another")
    return home


def _keep_the_terminal(home: Home, quiet: tuple[str, ...] = ()) -> None:
    """Keep the terminal for closecast's own lines, but those of `quiet`; Prefect's go to the log file."""
    from storage.home import prefect_home
    from storage.logs import log_to_file

    chosen = {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "closecast",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(prefect_home(home)),
    }
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
    import prefect  # noqa: F401 (it sets up logging, which the next lines add to)

    log_to_file(home)
    # Standard error is kept for the one line that says what went wrong.
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))
    handler.setLevel(logging.INFO)
    handler.addFilter(lambda record: record.name not in quiet)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)


def _print_forecast(home: Home, prediction_id: str) -> None:
    from flows.settings import home_at
    from storage.predictions import Predictions
    from tasks.words import usd

    row = Predictions(home).find(prediction_id)
    if row is None:
        raise HomeUnusable(f"the forecast {prediction_id} is not in {home.predictions}: run again")
    change = row["point_usd"] / row["last_close_usd"] - 1
    lines = {
        "forecast": f"{usd(row['point_usd'])} ({change:+.2%} on the last close)",
        "last close": f"{usd(row['last_close_usd'])} on {row['origin_day']} (the naive forecast)",
        **{
            f"{level} %": f"{usd(row[f'lower_{level}_usd'])} to {usd(row[f'upper_{level}_usd'])}"
            for level in (50, 80, 95)
            if row["quantiles_usd"]
        },
        "profile": row["profile"] + ("" if row["quantiles_usd"] else ": a point without intervals"),
        "model": f"closecast.{row['product_id']}.{row['profile']} version {row['model_version']}",
        "data": row["data_version"],
        "settings": row["settings_version"],
        "code": row["code_version"],
        "prediction": f"{row['prediction_id']}, revision {row['revision']}",
    }
    table = Table("", f"{row['product_id']}: close of {row['target_day']}", box=box.SIMPLE_HEAD)
    for name, text in lines.items():
        table.add_row(name, text, style="bold" if name == "forecast" else None)
    _console().print(table)
    typer.echo(f"Stored in {_from_here(home.predictions)} (Delta). Ask it, for example:")
    where = "" if home == home_at() else f" --home {shlex.quote(str(home.root))}"
    typer.echo(f"  {_called()} sql {EXAMPLE}{where}")


def _called() -> str:
    """The command as it can be typed again in this folder."""
    path = Path(sys.argv[0])
    if path.name != "closecast" or shutil.which("closecast"):
        return "closecast"
    return _from_here(path)


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@contextlib.contextmanager
def _bar() -> Iterator[None]:
    """Draw a bar of the records that tell how many steps are done, where there is a terminal to draw on."""
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("folds", total=None)

        class Drawn(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                steps = getattr(record, "steps", None)
                if steps is not None:
                    bar.update(task, total=steps, completed=getattr(record, "done", 0))

        handler = Drawn()
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)


def _print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    names = (escape(name) for name in header)
    table = Table(*names, title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(escape(text) for text in row))
    _console().print(table)


def _print_rows(rows: pa.Table, output: Format) -> None:
    if output == "csv":
        rows.to_pandas().to_csv(sys.stdout, index=False)
    elif output == "json":
        typer.echo(json.dumps(rows.to_pylist(), default=str, indent=2))
    else:
        table = Table(*(escape(name) for name in rows.column_names), box=box.SIMPLE_HEAD)
        for row in rows.to_pylist():
            table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
        _console().print(table)


def _console() -> Console:
    """A terminal's own width; unbounded into a pipe, so that no figure is cut off there."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=10_000)


def main() -> None:
    """Run a command; what goes wrong is said in one line on standard error.

    Exit codes: 0 done, 1 it could not be done, 2 the command was not understood, 130 interrupted.
    """
    if not sys.warnoptions:  # other people's deprecations are not the user's concern
        warnings.simplefilter("ignore")
    try:
        code = app(standalone_mode=False)
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
    typer.echo(f"closecast: {' '.join(plain.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
