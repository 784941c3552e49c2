"""What the terminal shows: tables, JSON, a run's own log lines, and progress bars."""

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
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from storage.core.errors import BadQuery
from storage.core.progress import progress_listener

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.core.home import Home

Format = Literal["table", "csv", "json"]
log = logging.getLogger("closecast")
UNBOUNDED = 10_000  # columns


def open_streams() -> None:
    """Give a process that was started without its standard streams empty ones: `closecast run >&- 2>&-`.

    Otherwise the next files that are opened get their numbers, and receive what is printed.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error.

    As wide as the terminal; unbounded into a pipe, so that no figure is cut off there. Colours on a terminal
    or with FORCE_COLOR, none with NO_COLOR.
    """
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else UNBOUNDED)


def print_line(line: str, style: str = "", *, stderr: bool = False) -> None:
    """Print one line, never broken, in one style."""
    console(stderr=stderr).print(Text(line, style), soft_wrap=True)


def print_error(line: str) -> None:
    """Print the one line on standard error that names the failure."""
    console(stderr=True).print(Text.assemble(("closecast:", "bold red"), f" {line}"), soft_wrap=True)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a titled table of texts; cells are broken between words, and no word is cut off."""
    table = Table(*map(escape, header), box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(escape, row))
    if title:
        print_line(title, "italic")  # a title of the table's own would be broken at the table's width
    screen = console()
    if screen.measure(table, options=screen.options.update_width(UNBOUNDED)).minimum > screen.width:
        screen.width = UNBOUNDED  # the terminal breaks the lines
    screen.print(table)


def print_facts(title: str, facts: Sequence[tuple[str, str]]) -> None:
    """Print labels with their texts, the first in bold."""
    table = Table("", escape(title), box=box.SIMPLE_HEAD)
    for number, (label, text) in enumerate(facts):
        table.add_row(escape(label), escape(text), style=None if number else "bold")
    console().print(table)


def print_rows(rows: pa.Table, output: Format) -> None:
    """Print an Arrow table in the requested format.

    Raises:
        BadQuery: it holds a day or a moment that only DuckDB has, such as `date 'infinity'`.
    """
    try:
        if output == "csv":
            _print_csv(rows)
        elif output == "json":
            print_json(rows.to_pylist())
        else:
            texts = [
                ["" if value is None else str(value) for value in row.values()] for row in rows.to_pylist()
            ]
            print_table("", rows.column_names, texts)
    except (OverflowError, ValueError, NotImplementedError) as error:  # of Arrow's, Python's and pandas' days
        raise BadQuery(
            "the result holds a day or a time outside the years 1 to 9999: select it as text, with"
            f" `cast(… as varchar)` ({error})"
        ) from error


def _print_csv(rows: pa.Table) -> None:
    import pyarrow as pa

    frame = rows.to_pandas()
    # A list as JSON: pandas would print an array, over several lines.
    for name in (field.name for field in rows.schema if pa.types.is_list(field.type)):
        values = rows.column(name).to_pylist()
        frame[name] = [None if value is None else json.dumps(value, default=str) for value in values]
    frame.to_csv(sys.stdout, index=False)


def print_json(value: object) -> None:
    """Print JSON that every parser reads: days and moments as text, null for what is no number."""
    sys.stdout.write(json.dumps(_plain(value), default=str, indent=2, allow_nan=False) + "\n")


def print_result(text: str, value: object, *, as_json: bool) -> None:
    """Print a line for people, or the value as JSON."""
    if as_json:
        print_json(value)
    else:
        print(text)  # noqa: T201


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def command_name() -> str:
    """The command as it can be typed again in this folder."""
    path = Path(sys.argv[0])
    if path.name != "closecast" or shutil.which("closecast"):
        return "closecast"
    return relative_path(path)


def relative_path(path: object) -> str:
    """A path as it can be typed in this folder; the address of a bucket as it is."""
    here = Path.cwd()
    return str(path.relative_to(here) if isinstance(path, Path) and path.is_relative_to(here) else path)


class _TerminalHandler(logging.Handler):
    """Prints log lines; the stream is looked up for each, because a progress bar replaces it."""

    def __init__(self, *, stderr: bool) -> None:
        super().__init__(logging.INFO)
        self._stderr = stderr
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            style = "yellow" if record.levelno >= logging.WARNING else ""
            print_line(self.format(record), style, stderr=self._stderr)
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def session(home: Home, *, stderr: bool = False, quiet: Sequence[str] = ()) -> Iterator[None]:
    """Show closecast's own log lines and progress while a run works; Prefect's lines go to the log file.

    Standard error is kept for the one line that names a failure, so log lines go to standard output; to
    standard error with `stderr`, where standard output is kept for JSON.

    Args:
        home: prepared; it has the log file.
        quiet: loggers whose lines are not shown.
    """
    from storage.core.logs import log_to_file

    log_to_file(home)
    handler = _TerminalHandler(stderr=stderr)
    handler.addFilter(lambda record: record.name not in quiet)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    with progress_bars(stderr=stderr):
        yield


@contextlib.contextmanager
def progress_bars(*, stderr: bool = False) -> Iterator[None]:
    """Draw a bar for each piece of work that reports its progress, on a terminal only."""
    screen = console(stderr=stderr)
    if not (screen.is_terminal and screen.file.isatty()):
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def draw(work: str, done: int, total: int | None) -> None:
            if work not in tasks:
                tasks[work] = progress.add_task(work, total=total)
            progress.update(tasks[work], completed=done, total=total)

        with progress_listener(draw):
            yield
