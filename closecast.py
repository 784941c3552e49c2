"""The command line: parse, call a flow or a query, print."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from flows.cli import output as printing
from flows.cli import signals as ending
from flows.cli import terminal
from flows.cli.examples import examples_of
from flows.cli.options import (
    AnyProductOption,
    DuplicateOption,
    FormatOption,
    HomeOption,
    JsonOption,
    ProductOption,
    ProfileOption,
    ReplaceOption,
    SettingsOption,
    Source,
    day_of,
    existing_home,
    known_products,
    settings_of,
)
from flows.cli.terminal import say
from storage.core.errors import BadSetting, ClosecastError, Damaged, NotReproduced, ProductsFailed

log = logging.getLogger("closecast")


app = typer.Typer(
    name="closecast",
    help="Daily closes in, one versioned forecast out.",
    epilog="Exit codes: 0 done, 1 it could not be done (one line on standard error says why), 2 the command"
    " was not understood, 130 interrupted, 143 ended by SIGTERM.",
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


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"closecast {version('closecast')}")
        raise typer.Exit


@app.callback()
def _for_all(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    products: Annotated[
        list[str] | None,
        typer.Option(
            "--product",
            help="Exchange product, BTC-USD by default; repeatable.",
            autocompletion=known_products,
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
    backfill_days: Annotated[
        int, typer.Option(min=0, max=366, help="Also make the forecasts of so many missed days before.")
    ] = 0,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make one daily run in this process and print the forecast.

    Of several products each has its own; one that fails stops none of the others.
    """
    from flows.settings import home_at, market_of, profile_named
    from storage.locks.bucket_owner import prepare_home

    changed = settings_of(settings or [])
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
    origin = day_of(as_of, "--as-of")
    place = prepare_home(home_at(home))
    terminal.keep_the_terminal(place, aside=as_json)
    how = (recipe.name, changed, origin, str(place.root), backfill_days)
    try:
        with terminal.bars(aside=as_json):
            if others:
                from flows.products import daily_forecasts

                made = daily_forecasts([product, *others], source, *how)
            else:
                from flows.daily import daily_forecast

                made = [daily_forecast(market, *how)]
    except ProductsFailed as error:
        printing.print_forecasts(place, error.forecasts, several=True, as_json=as_json)
        raise
    printing.print_forecasts(place, made, several=bool(others), as_json=as_json)


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
    from storage.locks.bucket_owner import prepare_home

    market = market_of(
        product_id=product,
        source="csv",
        csv=file,
        on_duplicate=on_duplicate,
        replace_source=replace_source,
    )
    place = prepare_home(home_at(home))
    terminal.keep_the_terminal(place, aside=as_json)
    from flows.importing import import_file

    with terminal.bars(aside=as_json):
        series = import_file(place, market)
    printing.print_series(series, as_json=as_json)


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
    from storage.core.home import check_product_id
    from storage.tables.predictions import Predictions

    if product is not None:
        check_product_id(product)
    rows = Predictions(existing_home(home)).between(
        product, first=day_of(first, "--from"), last=day_of(last, "--to")
    )
    short = (
        "target_day",
        "product_id",
        "profile",
        "point",
        "lower_80",
        "upper_80",
        "last_close",
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

    The views: closes, candles, quarantine, predictions, scores, components, calibrator, backtests.
    """
    from storage.tables.sql import query as answer

    terminal.print_rows(answer(existing_home(home), query), "json" if as_json else output)


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
    board = score_forecasts(existing_home(home), market_of(product_id=product).product_id, recipe)
    printing.print_scoreboard(board, product, profile, as_json=as_json)


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
    from storage.locks.bucket_owner import prepare_home

    changed = settings_of(settings or [])
    recipe = profile_named(profile, changed)
    product = market_of(product_id=product).product_id
    first, last = day_of(start, "--start"), day_of(end, "--end")
    as_json = as_json or output == "json"
    dask = dask_address(dask)
    if dask and workers > 1:
        raise BadSetting(f"--workers are of this machine, and Dask at {dask} has its own: leave one out")
    place = prepare_home(existing_home(home))
    terminal.keep_the_terminal(place, quiet=("closecast.train", "closecast.ensemble"), aside=as_json)
    from flows.backtest import rolling_backtest

    flow = rolling_backtest
    if workers > 1:
        from prefect.task_runners import ProcessPoolTaskRunner

        # Prefect types its own pool more narrowly than it takes it.
        pool: Any = ProcessPoolTaskRunner(max_workers=workers)
        flow = rolling_backtest.with_options(task_runner=pool)
    with terminal.bars(aside=as_json):
        verdict = flow(product, recipe.name, changed, first, last, str(place.root), dask)
    printing.print_verdict(place, product, verdict, as_json=as_json)


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
    place = existing_home(home)
    before, after = roll_back(place, market_of(product_id=product).product_id, recipe, to)
    if as_json:
        terminal.print_json({"product_id": product, "profile": profile, "before": before, "after": after})
        return
    moved = "is the champion already" if before == after else f"is the champion in place of version {before}"
    typer.echo(f"closecast.{product}.{profile}: version {after} {moved}, until a refit takes its place")


@app.command()
def versions(
    product: AnyProductOption = None,
    output: FormatOption = "table",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """List the model versions with their lineage."""
    from storage.core.home import check_product_id
    from storage.models.registry import Models

    if product is not None:
        check_product_id(product)
    printing.print_versions(Models(existing_home(home)).versions(product), "json" if as_json else output)


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
    from storage.core.home import check_product_id

    if product is not None:
        check_product_id(product)
    if profile is not None:
        profile = profile_named(profile).name
    written = write_reports(existing_home(home), product, profile)
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
    from flows.maintain import maintain_home

    upkeep = maintain_home(existing_home(home), prune=prune, dry_run=dry_run)
    printing.print_upkeep(upkeep, prune=prune, dry_run=dry_run, as_json=as_json)


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
    place = existing_home(home)
    terminal.keep_the_terminal(place, aside=as_json)
    from storage.core.provenance import code_version
    from tasks.upkeep.reproduce import reproduce_forecast

    with terminal.bars(aside=as_json):
        found = reproduce_forecast(place, prediction_id, code_version=code_version(), retrain=retrain)
    printing.print_reproduced(found, prediction_id, as_json=as_json)
    if not found.same:
        away = max(one.apart for one in (*found.figures, *found.weights))
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
    from tasks.upkeep.verify import verify_home

    with terminal.bars(aside=as_json):
        result = verify_home(existing_home(home))
    printing.print_verified(result, as_json=as_json)
    if result.findings:
        raise Damaged(
            f"changed, missing or contradictory: {len(result.findings)}, listed above; `closecast restore`"
            " restores a backup"
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
    from storage.backup.backup import back_up

    with terminal.bars(aside=as_json):
        count = back_up(existing_home(home), file)
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
    from storage.backup.restore import restore as bring_back

    place = home_at(home)
    with terminal.bars(aside=as_json):
        count = bring_back(file, place)
    if as_json:
        terminal.print_json({"home": place.root, "files": count})
        return
    typer.echo(f"{count:,} files are back in {place.root}: `closecast verify` checks them")


for _command in app.registered_commands:
    _command.epilog = examples_of(str(_command.name or getattr(_command.callback, "__name__", "")))


def main() -> None:
    """Run a command; what goes wrong is said in one line on standard error.

    Exit codes: 0 done, 1 it could not be done, 2 the command was not understood, 130 interrupted, 143 ended.
    """
    terminal.open_streams()
    if not sys.warnoptions:  # other people's deprecations are not the user's concern
        warnings.simplefilter("ignore")
    with ending.heeded() as told:
        try:
            code = app(prog_name="closecast", standalone_mode=False)
        except (KeyboardInterrupt, typer.Abort):
            code = EXIT_INTERRUPTED
        except Exception as error:
            if told.number is None:
                _fail(*_said(error))
        if told.number is not None:
            ending.leave(told.code)
    if code == EXIT_INTERRUPTED:  # typer makes this of a Ctrl-C by itself
        _fail(ending.LINE, EXIT_INTERRUPTED)
    sys.exit(code)


def _said(error: Exception) -> tuple[str, int]:
    """What is told of an error, and the exit code."""
    if isinstance(error, ClosecastError):
        return printing.with_home(str(error), sys.argv), EXIT_FAILED
    if isinstance(error, USAGE_ERROR):
        asked = getattr(error, "format_message", error.__str__)()
        return f"{asked} (closecast --help tells more)" if asked else "", EXIT_USAGE
    # Not foreseen: the traceback belongs in the log file, the terminal gets its last line.
    log.debug("an error that nobody foresaw", exc_info=error)
    kept = next((h.baseFilename for h in log.handlers if isinstance(h, logging.FileHandler)), None)
    where = f" (the traceback is in {kept})" if kept else ""
    return f"{type(error).__name__}: {str(error)[:400]}{where}", EXIT_FAILED


def _fail(message: str, code: int) -> NoReturn:
    if not message:  # help was asked for, and shown
        sys.exit(code)
    # What a message quotes may hold what a terminal would obey.
    plain = "".join(letter if letter.isprintable() else " " for letter in message)
    terminal.fail(" ".join(plain.split()))
    sys.exit(code)


if __name__ == "__main__":
    main()
