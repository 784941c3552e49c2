"""The commands: parse, call a flow or a query, print."""

from __future__ import annotations

import gc
import logging
import sys
import warnings
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from flows.cli import output, signals, terminal
from flows.cli.options import (
    DAY,
    AnyProductOption,
    AnyProfileOption,
    DuplicateOption,
    FormatOption,
    HomeOption,
    HorizonOption,
    JsonOption,
    ProductOption,
    ProductsOption,
    ProfileOption,
    ReplaceOption,
    SettingsOption,
    Source,
    examples,
    existing_home,
    parse_settings,
    prepared_home,
)
from storage.core.errors import BadSetting, ClosecastError, Damaged, NotReproduced, ProductsFailed

log = logging.getLogger("closecast")

app = typer.Typer(
    name="closecast",
    help="Daily closes in, versioned forecasts of the next days out.",
    epilog="Exit codes: 0 done, 1 failed (one line on standard error gives the reason), 2 misuse of the"
    " command line, 130 interrupted, 143 ended by SIGTERM.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
# The class of every misuse, whichever copy of click typer carries.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"closecast {version('closecast')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


@app.command(
    epilog=examples(
        "run",
        "run --as-of 2019-10-13",
        "run --source csv --csv closes.csv --product ETH-USD",
        "run --profile article --set epochs=100 --set seed=7",
        "run --product BTC-USD --product ETH-USD --source coinbase",
        "run --json",
    )
)
def run(
    products: ProductsOption = None,
    source: Annotated[
        Source | None,
        typer.Option(help="Source of the closes; the product's own by default, else the sample."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="File of daily candles, for --source csv.")] = None,
    as_of: Annotated[date | None, typer.Option(help="Last day that the run may know.", **DAY)] = None,
    profile: ProfileOption = "calibrated",
    settings: SettingsOption = None,
    on_duplicate: DuplicateOption = "refuse",
    replace_source: ReplaceOption = False,
    backfill_days: Annotated[
        int, typer.Option(min=0, max=366, help="Also make the forecasts of up to this many missed days.")
    ] = 0,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make one daily run in this process and print the forecast.

    Several products are forecast one after the other; the failure of one stops none of the others.
    """
    from flows.cli import prefect_server
    from flows.cli.prompt import Options, run_products
    from flows.settings import market_of
    from tasks.profiles.named import profile_named

    changed = parse_settings(settings)
    if not prefect_server.is_configured():  # a user's server sees the refusal as a failed run
        profile_named(profile, changed)  # so that a bad one is refused before anything is made
    names = list(dict.fromkeys(products or ["BTC-USD"]))
    if len(names) > 1 and (csv or replace_source):
        raise BadSetting("--csv and --replace-source are for one product: make a run for each")
    markets = [
        market_of(
            product_id=name, source=source, csv=csv, on_duplicate=on_duplicate, replace_source=replace_source
        )
        for name in names
    ]
    data_home = prepared_home(home)
    several = len(names) > 1
    try:
        with terminal.session(data_home, stderr=as_json):
            options = Options(profile, changed, as_of, str(data_home.root), backfill_days)
            forecasts = run_products(data_home, markets, options)
    except ProductsFailed as error:
        output.print_forecasts(data_home, error.forecasts, several=several, as_json=as_json)
        raise
    output.print_forecasts(data_home, forecasts, several=several, as_json=as_json)


@app.command("import", epilog=examples("import closes.csv --product ETH-USD"))
def import_(
    file: Annotated[Path, typer.Argument(help="CSV of daily candles.")],
    product: ProductOption,
    on_duplicate: DuplicateOption = "refuse",
    replace_source: ReplaceOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Read a CSV of candles into the database."""
    data_home = prepared_home(home)
    with terminal.session(data_home, stderr=as_json):
        from flows.actions import import_file

        prices = import_file(
            data_home, product, file, on_duplicate=on_duplicate, replace_source=replace_source
        )
    output.print_import(prices, as_json=as_json)


@app.command(
    epilog=examples("predictions", "predictions --from 2019-10-01 --format csv", "predictions --horizon 7")
)
def predictions(
    product: AnyProductOption = None,
    first: Annotated[date | None, typer.Option("--from", help="First target day.", **DAY)] = None,
    last: Annotated[date | None, typer.Option("--to", help="Last target day.", **DAY)] = None,
    horizon: HorizonOption = None,
    output_format: FormatOption = "table",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Print the stored forecasts, of every horizon or of one."""
    from storage.tables.predictions import Predictions

    rows = Predictions(existing_home(home)).between(product, first=first, last=last, horizon=horizon)
    output.print_predictions(rows, "json" if as_json else output_format)


@app.command(
    epilog=examples(
        'sql "select target_day, point from predictions"',
        'sql "select max(day_utc) as newest from closes" --json',
    )
)
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the views.")],
    output_format: FormatOption = "table",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Answer one SELECT over the views of all stored data; nothing can be written.

    The views: closes, candles, quarantine, predictions, scores, components, calibrator, backtests.
    """
    from storage.tables.sql import query as select

    terminal.print_rows(select(existing_home(home), query), "json" if as_json else output_format)


@app.command(epilog=examples("score", "score --product ETH-USD --json", "score --horizon 7"))
def score(
    product: ProductOption = "BTC-USD",
    profile: ProfileOption = "calibrated",
    horizon: HorizonOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Compare the forecasts with the actual closes, and print the scoreboard.

    The spans are of the next day, or of the days ahead of --horizon; a second table has a row a horizon.
    """
    from flows.actions import score_forecasts
    from tasks.profiles.named import profile_named

    chosen = profile_named(profile)
    board = score_forecasts(existing_home(home), product, chosen, horizon or 1)
    output.print_scoreboard(board, product, chosen.name, as_json=as_json)


@app.command(
    epilog=examples(
        "backtest --start 2019-07-01",
        "backtest --set members=5 --workers 2 --json",
        "backtest --profile article --set refit_every_days=30",
        "backtest --horizon 7",
        "backtest --dask tcp://127.0.0.1:8786",
    )
)
def backtest(
    product: ProductOption = "BTC-USD",
    start: Annotated[
        date | None, typer.Option(help="First origin; a year before the end by default.", **DAY)
    ] = None,
    end: Annotated[
        date | None, typer.Option(help="Last origin; by default the newest with an outcome.", **DAY)
    ] = None,
    profile: ProfileOption = "calibrated",
    settings: SettingsOption = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that train folds side by side.")
    ] = 1,
    dask: Annotated[
        str | None,
        typer.Option(help="Dask scheduler to use, tcp://HOST:8786; CLOSECAST_DASK_ADDRESS by default."),
    ] = None,
    horizon: HorizonOption = None,
    output_format: Annotated[
        Literal["table", "json"], typer.Option("--format", help="Output format.")
    ] = "table",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Evaluate a profile by rolling origin against the baselines, on stored closes.

    The next day, or the day that --horizon is ahead, is shown in full, and a row for each horizon.
    A profile without intervals, such as article, is compared by RMSE and MAE.
    article trains at every origin; --set refit_every_days=30 makes it one training a month.
    """
    from flows import clock
    from flows.actions import require_horizon
    from flows.cli import prefect_server
    from flows.settings import require_one_kind_of_workers
    from flows.workers import started_workers
    from tasks.backtest.plan import plan_backtest
    from tasks.backtest.walk_forward import folds_left
    from tasks.profiles.named import profile_named

    changed = parse_settings(settings)
    chosen = profile_named(profile, changed)
    require_horizon(chosen, horizon or 1)
    as_json = as_json or output_format == "json"
    require_one_kind_of_workers(dask, workers)
    data_home = prepared_home(existing_home(home).root)
    # So that what cannot be tested is refused before anything is started.
    plan = plan_backtest(data_home, product, chosen, start=start, end=end, moment=clock.now())
    processes = min(workers, len(folds_left(data_home, plan)))
    quiet = ("closecast.train", "closecast.ensemble")
    with terminal.session(data_home, stderr=as_json, quiet=quiet), started_workers(processes):
        server = prefect_server.start(data_home)  # it comes up while the workers load TensorFlow
        from flows.backtest import rolling_backtest

        with prefect_server.ready(server):
            result = rolling_backtest(
                product, profile, changed, start, end, str(data_home.root), dask, workers
            )
    output.print_backtest(data_home, product, result, horizon=horizon or 1, as_json=as_json)


@app.command(epilog=examples("rollback --product BTC-USD", "rollback --product BTC-USD --to 1"))
def rollback(
    product: ProductOption,
    to: Annotated[
        str | None, typer.Option(help="Version to forecast with; the one before by default.")
    ] = None,
    profile: ProfileOption = "calibrated",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make an earlier version the champion again, until a refit replaces it."""
    from flows.actions import roll_back
    from tasks.profiles.named import profile_named

    chosen, data_home = profile_named(profile), prepared_home(existing_home(home).root)
    with terminal.session(data_home, stderr=as_json):
        before, after = roll_back(data_home, product, chosen, to)
    moved = "is the champion already" if before == after else f"replaces version {before} as the champion"
    text = f"closecast.{product}.{chosen.name}: version {after} {moved}, until the next refit"
    result = {"product_id": product, "profile": chosen.name, "before": before, "after": after}
    terminal.print_result(text, result, as_json=as_json)


@app.command(epilog=examples("versions", "versions --product BTC-USD --json"))
def versions(
    product: AnyProductOption = None,
    output_format: FormatOption = "table",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """List the model versions with their lineage."""
    from storage.models.registry import Models

    stored = Models(existing_home(home)).versions(product)
    output.print_versions(stored, "json" if as_json else output_format)


@app.command(epilog=examples("report", "report --product BTC-USD --profile calibrated"))
def report(
    product: AnyProductOption = None,
    profile: AnyProfileOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write the report, a self-contained HTML page, and print its path.

    Each run writes it, too. For more than one product or profile the path is that of an index of their pages.
    """
    from flows.actions import write_reports
    from tasks.profiles.named import profile_named

    name = None if profile is None else profile_named(profile).name
    page = write_reports(existing_home(home), product, name)
    terminal.print_result(terminal.relative_path(page), {"report": page}, as_json=as_json)


@app.command(epilog=examples("maintain", "maintain --prune --dry-run"))
def maintain(
    prune: Annotated[
        bool, typer.Option("--prune", help="Also delete unused models and unfinished backtests.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be done, do nothing.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Compact the tables' files, and delete files that were replaced thirty days ago."""
    from flows.actions import maintain_home

    upkeep = maintain_home(existing_home(home), prune=prune, dry_run=dry_run)
    output.print_upkeep(upkeep, prune=prune, dry_run=dry_run, as_json=as_json)


@app.command(epilog=examples("alerts https://hooks.example.org/closecast"))
def alerts(
    webhook: Annotated[str, typer.Argument(help="Address that Prefect calls, such as https://hooks.…")],
    as_json: JsonOption = False,
) -> None:
    """Let the Prefect server of PREFECT_API_URL call a webhook when something goes wrong.

    That is when a run fails, is late or stops without a word, when a day passes without a finished run, when
    intervals do not hold, and when a model is stale. Another address replaces the first.
    """
    from flows.alerts import set_up_alerts

    names = set_up_alerts(webhook)
    terminal.print_result("\n".join(names), {"automations": names}, as_json=as_json)


@app.command(epilog=examples("reproduce 0da6f6f05242eb56de6fc5cbe25fb918 --retrain"))
def reproduce(
    prediction_id: Annotated[str, typer.Argument(help="Id of the forecast; `predictions` lists them.")],
    retrain: Annotated[bool, typer.Option("--retrain", help="Also train its model again.")] = False,
    profile: Annotated[
        str | None, typer.Option(help="package.module:Class of a profile that is not installed.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make a stored forecast again from its versions, and compare it to the last bit.

    The exit code is 1 when anything differs.
    """
    data_home = existing_home(home)
    with terminal.session(data_home, stderr=as_json):
        from tasks.upkeep.reproduce import reproduce_forecast

        result = reproduce_forecast(data_home, prediction_id, profile_name=profile, retrain=retrain)
    output.print_reproduction(result, prediction_id, as_json=as_json)
    if not result.same:
        distance = max(comparison.distance for comparison in (*result.figures, *result.weights))
        reason = "other versions are in use, listed above" if result.changed_versions else "same versions"
        raise NotReproduced(
            f"forecast {prediction_id} differs, by {distance:.3g} of a figure at most; {reason}"
        )
    if not as_json:
        terminal.print_line("Reproduced to the last bit.", "green")


@app.command(epilog=examples("verify", "verify --json"))
def verify(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Check every hash and reference: candles, data versions, models, forecasts, scores.

    Nothing is written. The exit code is 1 when anything was changed or is missing.
    """
    from tasks.upkeep.verify import verify_home

    with terminal.progress_bars(stderr=as_json):
        result = verify_home(existing_home(home))
    output.print_verification(result, as_json=as_json)
    if result.findings:
        raise Damaged(
            f"changed, missing or contradictory: {len(result.findings)}, listed above; `closecast restore`"
            " brings back a backup"
        )
    if not as_json:
        terminal.print_line("Everything is as it was recorded.", "green")


@app.command(epilog=examples("backup closecast.tar.gz"))
def backup(
    file: Annotated[Path, typer.Argument(help="New file, such as closecast.tar or closecast.tar.gz.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write a consistent copy of the whole home to one file, also during runs."""
    from storage.backup.backup import back_up

    with terminal.progress_bars(stderr=as_json):
        count = back_up(existing_home(home), file)
    size = file.stat().st_size
    text = f"{count:,} files, {size:,} bytes in {file}: `closecast restore` brings them back"
    terminal.print_result(text, {"file": file, "files": count, "bytes": size}, as_json=as_json)


@app.command(epilog=examples("restore closecast.tar.gz --home /somewhere/else"))
def restore(
    file: Annotated[Path, typer.Argument(help="File that `backup` wrote.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Restore a backup into an empty home."""
    from flows.settings import home_at
    from storage.backup.restore import restore as restore_home

    data_home = home_at(home)
    with terminal.progress_bars(stderr=as_json):
        count = restore_home(file, data_home)
    text = f"{count:,} files are back in {data_home.root}: `closecast verify` checks them"
    terminal.print_result(text, {"home": data_home.root, "files": count}, as_json=as_json)


def main() -> None:
    """Run a command; print one line on standard error when it fails."""
    terminal.open_streams()
    gc.set_threshold(100_000)  # an import leaves no garbage, so each search would be in vain
    if not sys.warnoptions:  # other people's deprecations are not the user's concern
        warnings.simplefilter("ignore")
        sys.warnoptions.append("ignore")  # nor are those of the processes that this one starts
    with signals.interruptible() as interruption:
        try:
            code = app(prog_name="closecast", standalone_mode=False)
        except (KeyboardInterrupt, typer.Abort):
            code = EXIT_INTERRUPTED
        except Exception as error:
            if interruption.number is None:
                _fail(*_described(error))
        if interruption.number is not None:
            signals.exit_at_once(interruption.exit_code)
    if code == EXIT_INTERRUPTED:  # typer makes this of a Ctrl-C by itself
        _fail(signals.MESSAGE, EXIT_INTERRUPTED)
    sys.exit(code)


def _described(error: Exception) -> tuple[str, int]:
    """The line about an error, and the exit code."""
    if isinstance(error, ClosecastError):
        return output.with_home(str(error), sys.argv), EXIT_FAILED
    if isinstance(error, USAGE_ERROR):
        message = getattr(error, "format_message", error.__str__)()
        return f"{message} (closecast --help tells more)" if message else "", EXIT_USAGE
    # Unforeseen: the traceback belongs in the log file, its last line on the terminal.
    log.debug("unforeseen error", exc_info=error)
    file = next((h.baseFilename for h in log.handlers if isinstance(h, logging.FileHandler)), None)
    where = f" (the traceback is in {file})" if file else ""
    return f"{type(error).__name__}: {str(error)[:400]}{where}", EXIT_FAILED


def _fail(message: str, code: int) -> NoReturn:
    if message:  # empty where the help was asked for, and shown
        # A message may quote control characters that a terminal would obey.
        printable = "".join(letter if letter.isprintable() else " " for letter in message)
        terminal.print_error(" ".join(printable.split()))
    sys.exit(code)
