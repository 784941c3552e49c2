"""The commands: parse, call a flow or a query, print."""

from __future__ import annotations

import gc
import logging
import shlex
import shutil
import sys
import warnings
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from closecast.flows.cli import output, signals, terminal
from closecast.flows.cli.config_command import config
from closecast.flows.cli.options import (
    DAY,
    AnyProductOption,
    AnyProfileOption,
    BackfillOption,
    ColumnsOption,
    Commands,
    DatesOption,
    DecimalOption,
    DuplicateOption,
    FormatOption,
    HomeOption,
    HorizonOption,
    JsonOption,
    NamedProductOption,
    OutputOption,
    ProductOption,
    ProductsOption,
    ProfileOption,
    ReplaceOption,
    SettingsOption,
    SourceOption,
    SymbolOption,
    WideOption,
    check_span,
    examples,
    existing_home,
    parse_columns,
    parse_settings,
    prepared_home,
)
from closecast.flows.cli.price_commands import import_, quarantine
from closecast.flows.cli.row_files import chosen_format
from closecast.flows.cli.upkeep_commands import backup, maintain, reproduce, restore, verify
from closecast.flows.config import (
    configured_backfill_days,
    configured_product,
    configured_products,
    configured_profile,
    configured_source,
)
from closecast.storage.core.errors import BadSetting, ClosecastError, ProductsFailed
from closecast.storage.core.masking import masked

log = logging.getLogger("closecast")

app = typer.Typer(
    name="closecast",
    cls=Commands,
    help="Forecast the daily closes of the next days, score each forecast, keep every version.",
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
    source: SourceOption = None,
    csv: Annotated[Path | None, typer.Option(help="File of daily candles, for --source csv.")] = None,
    as_of: Annotated[date | None, typer.Option(help="Last day that the run may know.", **DAY)] = None,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    columns: ColumnsOption = None,
    decimal: DecimalOption = None,
    dates: DatesOption = None,
    symbol: SymbolOption = None,
    on_duplicate: DuplicateOption = "refuse",
    replace_source: ReplaceOption = False,
    backfill_days: BackfillOption = None,
    wide: WideOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make one daily run in this process and print the forecast.

    Several products are forecast one after the other; a product that fails does not stop the others.
    """
    from closecast.flows.cli import prefect_server
    from closecast.flows.cli.prompt import Options, run_products
    from closecast.flows.settings import market_of
    from closecast.tasks.profiles.named import profile_named

    profile, changed = configured_profile(profile, parse_settings(settings))
    if not prefect_server.is_configured():  # a user's server sees the refusal as a failed run
        profile_named(profile, changed)  # refuses a bad one before anything is made
    names = configured_products(products)
    source = source if csv else configured_source(source)
    if len(names) > 1 and (csv or replace_source):
        raise BadSetting("--csv and --replace-source are for one product: make a run for each")
    common = {
        "source": source, "csv": csv, "on_duplicate": on_duplicate, "replace_source": replace_source,
        "columns": parse_columns(columns), "decimal": decimal, "dates": dates, "symbol": symbol,
    }  # fmt: skip
    markets = [market_of(product_id=name, **common) for name in names]
    data_home = prepared_home(home)
    several = len(names) > 1
    try:
        with terminal.session(data_home, stderr=as_json):
            days = configured_backfill_days(backfill_days)
            options = Options(profile, changed, as_of, str(data_home.root), days)
            forecasts = run_products(data_home, markets, options)
    except ProductsFailed as error:
        output.print_forecasts(data_home, error.forecasts, several=several, as_json=as_json, wide=wide)
        raise
    output.print_forecasts(data_home, forecasts, several=several, as_json=as_json, wide=wide)


app.command(
    "import",
    epilog=examples(
        "import closes.csv --product ETH-USD",
        "import closes.csv --dry-run",
        "import coins.csv --product ETH-USD --symbol ETH",
        "import closes.csv --product ETH-USD --columns date=Day,close=Last --decimal comma",
    ),
)(import_)


@app.command(
    epilog=examples(
        "predictions",
        "predictions --from 2019-10-01 --format csv",
        "predictions --horizon 7",
        "predictions --wide-quantiles --output forecasts.parquet",
    )
)
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


app.command(
    epilog=examples("config", "config --config closecast.toml --json", "config --home /somewhere/else")
)(config)
app.command(
    epilog=examples(
        "quarantine --product DOGE-USD",
        "quarantine --product DOGE-USD --accept 2021-01-28",
        "quarantine --product OLD-USD --split 2024-03-01:1/1000",
        "quarantine --product DOGE-USD --undo 2021-01-28",
    )
)(quarantine)


@app.command(
    epilog=examples(
        'sql "select target_day, point from predictions"',
        'sql "select max(day_utc) as newest from closes" --json',
        'sql "from scoreboard" --output scoreboard.parquet',
    )
)
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


@app.command(epilog=examples("score", "score --product ETH-USD --json", "score --horizon 7"))
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
    product: ProductOption = None,
    start: Annotated[
        date | None, typer.Option(help="First origin; a year before the end by default.", **DAY)
    ] = None,
    end: Annotated[
        date | None, typer.Option(help="Last origin; by default the newest with an outcome.", **DAY)
    ] = None,
    profile: ProfileOption = None,
    settings: SettingsOption = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Number of processes that train folds in parallel.")
    ] = 1,
    dask: Annotated[
        str | None,
        typer.Option(help="Dask scheduler, such as tcp://HOST:8786; CLOSECAST_DASK_ADDRESS by default."),
    ] = None,
    horizon: HorizonOption = None,
    output_format: Annotated[
        Literal["table", "json"], typer.Option("--format", help="Output format.")
    ] = "table",
    wide: WideOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Evaluate a profile by rolling origin against the baselines, on stored closes.

    The tables show the next day, or --horizon, in full, and a row for each horizon.
    A profile without intervals, such as article, is compared by RMSE and MAE.
    article trains at every origin; --set refit_every_days=30 trains it once a month.
    """
    from closecast.flows import clock
    from closecast.flows.actions import require_horizon
    from closecast.flows.cli import prefect_server
    from closecast.flows.settings import require_one_kind_of_workers
    from closecast.flows.workers import started_workers
    from closecast.tasks.backtest.plan import plan_backtest
    from closecast.tasks.backtest.walk_forward import folds_left
    from closecast.tasks.profiles.named import profile_named

    product = configured_product(product)
    profile, changed = configured_profile(profile, parse_settings(settings))
    chosen = profile_named(profile, changed)
    require_horizon(chosen, horizon or 1)
    as_json = as_json or output_format == "json"
    require_one_kind_of_workers(dask, workers)
    data_home = prepared_home(existing_home(home, product).root)
    # Refuses what cannot be tested before anything is started.
    plan = plan_backtest(data_home, product, chosen, start=start, end=end, moment=clock.now())
    processes = min(workers, len(folds_left(data_home, plan)))
    quiet = ("closecast.train", "closecast.ensemble")
    with terminal.session(data_home, stderr=as_json, quiet=quiet), started_workers(processes):
        server = prefect_server.start(data_home)  # it comes up while the workers load TensorFlow
        from closecast.flows.backtest import rolling_backtest

        with prefect_server.ready(server):
            result = rolling_backtest(
                product, profile, changed, start, end, str(data_home.root), dask, workers
            )
    output.print_backtest(data_home, product, result, horizon=horizon or 1, as_json=as_json, wide=wide)


@app.command(epilog=examples("rollback --product BTC-USD", "rollback --product BTC-USD --to 1"))
def rollback(
    product: NamedProductOption,
    to: Annotated[
        str | None, typer.Option(help="Version to forecast with; the previous one by default.")
    ] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make an earlier version the champion again, until a refit replaces it."""
    from closecast.flows.actions import roll_back
    from closecast.tasks.profiles.named import profile_named

    chosen = profile_named(*configured_profile(profile))
    data_home = prepared_home(existing_home(home, product).root)
    with terminal.session(data_home, stderr=as_json):
        before, after = roll_back(data_home, product, chosen, to)
    moved = "is already the champion" if before == after else f"replaces version {before} as the champion"
    text = f"closecast.{product}.{chosen.name}: version {after} {moved}, until the next refit"
    result = {"product_id": product, "profile": chosen.name, "before": before, "after": after}
    terminal.print_result(text, result, as_json=as_json)


@app.command(epilog=examples("versions", "versions --product BTC-USD --json"))
def versions(
    product: AnyProductOption = None,
    output_format: FormatOption = None,
    file: OutputOption = None,
    wide: WideOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """List the model versions with their lineage."""
    from closecast.storage.models.registry import Models

    kind = chosen_format(output_format, as_json=as_json, file=file)
    stored = Models(existing_home(home, product)).versions(product)
    output.print_versions(stored, kind, file=file, wide=wide)


@app.command(epilog=examples("report", "report --product BTC-USD --profile calibrated"))
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


app.command(epilog=examples("maintain", "maintain --prune --dry-run"))(maintain)


@app.command(epilog=examples("init forecasts"))
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the project, made if it does not exist.")],
    as_json: JsonOption = False,
) -> None:
    """Write the files of a project with a schedule: prefect.yaml, .env.example, a systemd unit."""
    from closecast.flows.project import make_project

    files = make_project(folder)
    text = "\n".join(terminal.relative_path(path) for path in files)
    where = shlex.quote(str(terminal.relative_path(files[0].parent)))
    # Tools such as pipx put only closecast's own command on the path.
    prefect = "prefect" if shutil.which("prefect") else f"{shlex.quote(sys.executable)} -m prefect"
    text += f"""

Next, with a Prefect server (`{prefect} server start`):
  cd {where} && cp .env.example .env && set -a && . ./.env && set +a
  {prefect} work-pool create closecast --type process
  {prefect} --no-prompt deploy --all
  {prefect} worker start --pool closecast --type process"""
    terminal.print_result(text, {"files": files}, as_json=as_json)


@app.command(epilog=examples("alerts https://hooks.example.org/closecast", "alerts slack-webhook/my-team"))
def alerts(
    target: Annotated[
        str,
        typer.Argument(
            help="Address that Prefect calls, such as https://hooks.…; a block of the server, such as"
            " slack-webhook/my-team; or an Apprise address, such as mailto://…"
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Let the Prefect server of PREFECT_API_URL send each day's forecast, and alerts.

    Alerts are sent when a run fails, is late or dies, when a day passes without a finished run, when the
    coverage is outside its range, and when a model is stale. A new target replaces the old one; a paused
    automation stays paused.
    """
    from closecast.flows.alerts import set_up_alerts

    names = set_up_alerts(target)
    terminal.print_result("\n".join(names), {"automations": names}, as_json=as_json)


app.command(epilog=examples("reproduce 0da6f6f05242eb56de6fc5cbe25fb918 --retrain"))(reproduce)
app.command(epilog=examples("verify", "verify --json"))(verify)
app.command(epilog=examples("backup closecast.tar.gz"))(backup)
app.command(epilog=examples("restore closecast.tar.gz --home /somewhere/else"))(restore)


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
        return f"{message} (see closecast --help)" if message else "", EXIT_USAGE
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        log.debug("no access", exc_info=error)
        reason = error.strerror.lower()
        return f"{error.filename} cannot be used: {reason}; correct its rights, or replace it", EXIT_FAILED
    # Unforeseen: the traceback belongs in the log file, its last line on the terminal.
    log.debug("unforeseen error", exc_info=error)
    file = next((h.baseFilename for h in log.handlers if isinstance(h, logging.FileHandler)), None)
    where = f" (the traceback is in {file})" if file else ""
    return f"{type(error).__name__}: {masked(str(error))[:400]}{where}", EXIT_FAILED


def _fail(message: str, code: int) -> NoReturn:
    if message:  # empty if the help was shown
        # A message may quote control characters that a terminal would obey.
        printable = "".join(letter if letter.isprintable() else " " for letter in message)
        terminal.print_error(" ".join(printable.split()))
    sys.exit(code)
