"""What a terminal is shown: tables, JSON, a run's own lines, and a bar on long work."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.cli.signals import watch_the_server
from storage.core.errors import BadQuery
from storage.core.progress import progress_listener

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.core.home import Home

Format = Literal["table", "csv", "json"]
log = logging.getLogger("closecast")


def open_streams() -> None:
    """Give a process that was started without its standard streams empty ones: `closecast run >&- 2>&-`.

    Else the next files that are opened get their numbers, and with them what is printed.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def console(*, aside: bool = False) -> Console:
    """Standard output, or standard error when `aside`.

    A terminal's own width; unbounded into a pipe, so that no figure is cut off there. Colours where there is
    a terminal or FORCE_COLOR, none where there is NO_COLOR.
    """
    stream = sys.stderr if aside else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 10_000)


def say(line: str, style: str = "", *, aside: bool = False) -> None:
    """One line, never broken, in one style."""
    console(aside=aside).print(Text(line, style), soft_wrap=True)


def fail(line: str) -> None:
    """The one line on standard error that says what went wrong."""
    console(aside=True).print(Text.assemble(("closecast:", "bold red"), f" {line}"), soft_wrap=True)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A titled table of texts."""
    names = (escape(name) for name in header)
    table = Table(*names, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(escape(text) for text in row))
    say(title, "italic")  # a title of the table's own would be broken at the table's width
    console().print(table)


def print_rows(rows: pa.Table, output: Format) -> None:
    """An Arrow table, as it was asked for.

    Raises:
        BadQuery: it holds a day or a moment that only DuckDB has, such as `date 'infinity'`.
    """
    try:
        _print_rows(rows, output)
    except (OverflowError, ValueError, NotImplementedError) as error:  # of Arrow's, Python's and pandas' days
        raise BadQuery(
            "the answer holds a day or a time that is none of the years 1 to 9999: select it as text, with"
            f" `cast(… as varchar)` ({error})"
        ) from error


def _print_rows(rows: pa.Table, output: Format) -> None:
    if output == "csv":
        import pyarrow as pa

        frame = rows.to_pandas()
        # A list as JSON: pandas would print an array, over several lines.
        for name in (field.name for field in rows.schema if pa.types.is_list(field.type)):
            lists = rows.column(name).to_pylist()
            frame[name] = [None if one is None else json.dumps(one, default=str) for one in lists]
        frame.to_csv(sys.stdout, index=False)
    elif output == "json":
        print_json(rows.to_pylist())
    else:
        table = Table(*(escape(name) for name in rows.column_names), box=box.SIMPLE_HEAD)
        for row in rows.to_pylist():
            table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
        console().print(table)


def print_json(value: object) -> None:
    """JSON that every parser reads: days and moments as text, null for what is no number."""
    sys.stdout.write(json.dumps(_plain(value), default=str, indent=2, allow_nan=False) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_forecast(row: Mapping[str, Any]) -> None:
    """One row of the table `predictions`, for people."""
    from tasks.core.formatting import usd

    change = row["point"] / row["last_close"] - 1
    lines = {
        "forecast": f"{usd(row['point'])} ({change:+.2%} on the last close)",
        "last close": f"{usd(row['last_close'])} on {row['origin_day']} (the naive forecast)",
        **{
            f"{level} %": f"{usd(row[f'lower_{level}'])} to {usd(row[f'upper_{level}'])}"
            for level in (50, 80, 95)
            if row["quantiles"]
        },
        "profile": row["profile"] + ("" if row["quantiles"] else ": a point without intervals"),
        "model": f"closecast.{row['product_id']}.{row['profile']} version {row['model_version']}",
        "data": row["data_version"],
        "settings": row["settings_version"],
        "code": row["code_version"],
        "prediction": f"{row['prediction_id']}, revision {row['revision']}",
    }
    table = Table("", f"{row['product_id']}: close of {row['target_day']}", box=box.SIMPLE_HEAD)
    for name, text in lines.items():
        table.add_row(name, text, style="bold" if name == "forecast" else None)
    console().print(table)


def called() -> str:
    """The command as it can be typed again in this folder."""
    path = Path(sys.argv[0])
    if path.name != "closecast" or shutil.which("closecast"):
        return "closecast"
    return from_here(path)


def from_here(path: object) -> str:
    """A path as it can be typed in this folder; an address of a bucket as it is."""
    here = Path.cwd()
    return str(path.relative_to(here) if isinstance(path, Path) and path.is_relative_to(here) else path)


class _Lines(logging.Handler):
    """A run's own lines; the stream is looked up for each, since a bar puts one of its own in its place."""

    def __init__(self, *, aside: bool) -> None:
        super().__init__(logging.INFO)
        self._aside = aside
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            style = "yellow" if record.levelno >= logging.WARNING else ""
            say(self.format(record), style, aside=self._aside)
        except Exception:
            self.handleError(record)


def keep_the_terminal(home: Home, quiet: Sequence[str] = (), *, aside: bool = False) -> None:
    """Keep the terminal for closecast's own lines, but those of `quiet`; Prefect's go to the log file.

    They go to standard output, where standard error is kept for the one line that says what went wrong; to
    standard error when `aside`, where standard output is kept for JSON.
    """
    from storage.core.home import prefect_home
    from storage.core.logs import log_to_file

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
    from prefect.settings import get_current_settings  # it sets up logging, which the next lines add to

    if get_current_settings().api.url is None:
        watch_the_server()

    log_to_file(home)
    handler = _Lines(aside=aside)
    handler.addFilter(lambda record: record.name not in quiet)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)


@contextlib.contextmanager
def bars(*, aside: bool = False) -> Iterator[None]:
    """Draw a bar of each piece of work that is told of, where there is a terminal to draw on."""
    screen = console(aside=aside)
    if not (screen.is_terminal and screen.file.isatty()):
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        drawn: dict[str, TaskID] = {}

        def draw(what: str, done: int, steps: int | None) -> None:
            if what not in drawn:
                drawn[what] = progress.add_task(what, total=steps)
            progress.update(drawn[what], completed=done, total=steps)

        with progress_listener(draw):
            yield
