"""The commands, and the entry of the command line: parse, call a flow or a query, print."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperCommand, TyperGroup

from closecast.flows.cli import output, signals, terminal
from closecast.flows.cli.options import config_option
from closecast.storage.core.errors import ClosecastError
from closecast.storage.core.masking import masked

log = logging.getLogger("closecast")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
# The class of every misuse, whichever copy of click typer carries.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

# The function of each command, and examples for its help.
COMMANDS = {
    "run": (
        "forecast_commands:run",
        "run",
        "run --as-of 2019-10-13",
        "run --source csv --csv closes.csv --product ETH-USD",
        "run --profile article --set epochs=100 --set seed=7",
        "run --product BTC-USD --product ETH-USD --source coinbase",
        "run --json",
    ),
    "import": (
        "price_commands:import_",
        "import closes.csv --product ETH-USD",
        "import closes.csv --dry-run",
        "import coins.csv --product ETH-USD --symbol ETH",
        "import closes.csv --product ETH-USD --columns date=Day,close=Last --decimal comma",
    ),
    "predictions": (
        "result_commands:predictions",
        "predictions",
        "predictions --from 2019-10-01 --format csv",
        "predictions --horizon 7",
        "predictions --wide-quantiles --output forecasts.parquet",
    ),
    "config": (
        "config_command:config",
        "config",
        "config --config closecast.toml --json",
        "config --home /somewhere/else",
    ),
    "quarantine": (
        "price_commands:quarantine",
        "quarantine --product DOGE-USD",
        "quarantine --product DOGE-USD --accept 2021-01-28",
        "quarantine --product OLD-USD --split 2024-03-01:1/1000",
        "quarantine --product DOGE-USD --undo 2021-01-28",
    ),
    "sql": (
        "result_commands:sql",
        'sql "select target_day, point from predictions"',
        'sql "select max(day_utc) as newest from closes" --json',
        'sql "from scoreboard" --output scoreboard.parquet',
    ),
    "score": ("result_commands:score", "score", "score --product ETH-USD --json", "score --horizon 7"),
    "backtest": (
        "forecast_commands:backtest",
        "backtest --start 2019-07-01",
        "backtest --set members=5 --workers 2 --json",
        "backtest --profile article --set refit_every_days=30",
        "backtest --horizon 7",
        "backtest --dask tcp://127.0.0.1:8786",
    ),
    "rollback": (
        "model_commands:rollback",
        "rollback --product BTC-USD",
        "rollback --product BTC-USD --to 1",
    ),
    "versions": ("model_commands:versions", "versions", "versions --product BTC-USD --json"),
    "report": ("result_commands:report", "report", "report --product BTC-USD --profile calibrated"),
    "maintain": ("upkeep_commands:maintain", "maintain", "maintain --prune --dry-run"),
    "init": ("project_commands:init", "init forecasts"),
    "alerts": (
        "project_commands:alerts",
        "alerts https://hooks.example.org/closecast",
        "alerts slack-webhook/my-team",
    ),
    "reproduce": ("upkeep_commands:reproduce", "reproduce 0da6f6f05242eb56de6fc5cbe25fb918 --retrain"),
    "verify": ("upkeep_commands:verify", "verify", "verify --json"),
    "backup": ("upkeep_commands:backup", "backup closecast.tar.gz"),
    "restore": ("upkeep_commands:restore", "restore closecast.tar.gz --home /somewhere/else"),
}


@functools.cache
def _command(name: str) -> TyperCommand:
    """Import a command's module and build the command from its signature, as Typer would at the start."""
    where, *examples = COMMANDS[name]
    module, _, function = where.partition(":")
    one = typer.Typer(add_completion=False, rich_markup_mode="rich")
    # An empty line between two examples keeps them apart.
    epilog = "\n\n".join(("Examples:", *(f"$ closecast {line}" for line in examples)))
    one.command(name, epilog=epilog, context_settings=CONTEXT)(
        getattr(importlib.import_module(f"closecast.flows.cli.{module}"), function)
    )
    command = typer.main.get_command(one)
    assert isinstance(command, TyperCommand)  # noqa: S101 (of one function Typer makes no group)
    # Typer keeps the line breaks of a docstring's later paragraphs.
    command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(command.help or ""))
    command.params.append(config_option())
    return command


class _Commands(Mapping[str, TyperCommand]):
    """Every command by name: one that is not called costs no time."""

    def __getitem__(self, name: str) -> TyperCommand:
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Group(TyperGroup):
    """`closecast` before its commands; it takes --config, as each of them does."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = cast("Any", _Commands())  # nothing is added to them
        self.params.append(config_option())


CONTEXT = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="closecast",
    cls=Group,
    help="Forecast the daily closes of the next days, score each forecast, keep every version.",
    epilog="Exit codes: 0 done, 1 failed (one line on standard error gives the reason), 2 misuse of the"
    " command line, 130 interrupted, 143 ended by SIGTERM.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=CONTEXT,
)


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


def main() -> None:
    """Run a command; print one line on standard error when it fails."""
    terminal.open_streams()
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
            interruption.exit_at_once()
    if code == EXIT_INTERRUPTED:  # typer makes this of a Ctrl-C by itself
        _fail(signals.MESSAGE, EXIT_INTERRUPTED)
    sys.exit(code)


def _described(error: Exception) -> tuple[str, int]:
    """The line about an error, and the exit code."""
    if isinstance(error, ClosecastError):
        return output.with_home(str(error), sys.argv), EXIT_FAILED
    if isinstance(error, USAGE_ERROR):
        message = getattr(error, "format_message", error.__str__)()
        context = getattr(error, "ctx", None)
        help_of = context.command_path if context else "closecast"
        return f"{message} (see {help_of} --help)" if message else "", EXIT_USAGE
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
