"""What the terminal shows: tables, JSON, a run's own log lines, and progress bars."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.control import strip_control_codes
from rich.text import Text

from closecast.flows.cli.row_files import Format, as_json_text, write_rows
from closecast.storage.core.errors import BadQuery
from closecast.storage.core.progress import progress_listener

if TYPE_CHECKING:
    import pyarrow as pa

    from closecast.storage.core.home import Home

log = logging.getLogger("closecast")
UNBOUNDED = 10_000  # columns


def open_streams() -> None:
    """Give empty standard streams to a process that was started without them: `closecast run >&- 2>&-`.

    Otherwise the next opened files get their numbers, and receive what is printed.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error.

    As wide as the terminal, unlimited in a pipe, so no figure is truncated there. Colours on a terminal
    or with FORCE_COLOR, none with NO_COLOR.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else UNBOUNDED
    # Plain text in a notebook, too; `:x:` in a text means what it says.
    return Console(file=stream, highlight=False, emoji=False, width=width, force_jupyter=False)


def print_line(line: str, style: str = "", *, stderr: bool = False) -> None:
    """Print one line, never broken, in one style."""
    console(stderr=stderr).print(Text(line, style), soft_wrap=True)


def print_error(line: str) -> None:
    """Print the one line on standard error that names the failure."""
    console(stderr=True).print(Text.assemble(("closecast:", "bold red"), f" {line}"), soft_wrap=True)


def print_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    short: Sequence[Sequence[str]] | None = None,
    least: Sequence[str] = (),
    wide: bool = False,
) -> None:
    """Print a titled table of texts; no cell is cut off or broken.

    On a terminal that is too narrow, columns are left out and named below; not with `wide`, and not in a
    pipe.

    Args:
        short: the rows with shorter texts, for a narrow terminal.
        least: the columns to leave out first; then those that take half of the screen, then the last ones.
    """
    if title:
        print_line(title, "italic")  # a title of the table's own would be broken at the table's width
    screen = console()
    lines = _laid_out(screen, header, rows, edge="  ", gap="   ")
    if wide or lines[0].cell_len <= screen.width:
        screen.print(Text("\n").join(lines), soft_wrap=True)  # of a wide one the terminal breaks the lines
        return
    cells = rows if short is None else short
    widths = [
        max(1, *map(cell_len, ("", *name.split(), *(row[number] for row in cells))))
        for number, name in enumerate(header)
    ]
    kept = _fitting(header, widths, least, screen.width)
    heads = ["\n".join(wrap(header[number], widths[number], break_on_hyphens=False)) for number in kept]
    narrow = _laid_out(screen, heads, [[row[number] for number in kept] for row in cells], edge="", gap="  ")
    screen.print(Text("\n").join(narrow), soft_wrap=True)
    if left_out := [name for number, name in enumerate(header) if number not in kept]:
        print_line(f"not shown: {', '.join(left_out)} (--wide shows all, in full)", "dim")
    screen.print()


def _laid_out(
    screen: Console, header: Sequence[str], rows: Sequence[Sequence[str]], *, edge: str, gap: str
) -> list[Text]:
    """The lines of a table, all of one width: headings, a rule, rows; blank lines around it if it has edges.

    Rich's own table takes longer than everything else about a short command.
    """
    cells = [[strip_control_codes(text).expandtabs().split("\n") for text in row] for row in (header, *rows)]
    widths = [max(cell_len(line) for cell in column for line in cell) for column in zip(*cells, strict=True)]
    heads, *body = [
        [
            f"{edge}{gap.join(map(set_cell_size, line, widths))}{edge}"
            for line in itertools.zip_longest(*row, fillvalue="")
        ]
        for row in cells
    ]
    blank, margin = " " * cell_len(heads[0]), edge[1:]
    rule = ("-" if screen.options.ascii_only else "─") * (len(blank) - 2 * len(margin))
    around = [Text(blank)] if edge else []
    lines = [f"{margin}{rule}{margin}", *itertools.chain.from_iterable(body)]
    return [*around, *(Text(line, "bold") for line in heads), *map(Text, lines), *around]


def _fitting(header: Sequence[str], widths: Sequence[int], least: Sequence[str], room: int) -> list[int]:
    """The columns that fit beside each other, two spaces apart; always at least the first one."""

    def rank(number: int) -> tuple[int, bool, int]:
        name = header[number]
        return (-least.index(name) if name in least else -len(least), widths[number] > room // 2, number)

    kept: list[int] = []
    for number in sorted(range(len(header)), key=rank):
        if not kept or sum(widths[one] + 2 for one in (*kept, number)) <= room:
            kept.append(number)
    return sorted(kept)


def print_facts(title: str, facts: Sequence[tuple[str, str]]) -> None:
    """Print labels with their texts, the first in bold; a text that is too long continues below."""
    from rich import box
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table("", Column(escape(title), overflow="fold"), box=box.SIMPLE_HEAD)
    for number, (label, text) in enumerate(facts):
        table.add_row(escape(label), escape(text), style=None if number else "bold")
    console().print(table)


def print_rows(
    rows: pa.Table,
    output: Format,
    *,
    file: Path | None = None,
    least: Sequence[str] = (),
    wide: bool = False,
) -> None:
    """Print an Arrow table in the requested format, or write it to a file.

    `least` and `wide` are as in `print_table`. `BadQuery` for a day or a moment that only DuckDB knows, such
    as `date 'infinity'`.
    """
    try:
        if output != "table":
            write_rows(rows, output, file)
        else:
            values = [list(row.values()) for row in rows.to_pylist()]
            texts, short = ([[form(value) for value in row] for row in values] for form in (_full, _short))
            print_table("", rows.column_names, texts, short=short, least=least, wide=wide)
            if not texts:
                print_line("no rows")
    except (OverflowError, ValueError, NotImplementedError) as error:  # of Arrow's, Python's and pandas' days
        raise BadQuery(
            "the result holds a day or a time outside the years 1 to 9999: select it as text, with"
            f" `cast(… as varchar)` ({error})"
        ) from error


def _full(value: object) -> str:
    return "" if value is None else str(value)


def _short(value: object) -> str:
    """A figure to seven digits, which tell the ends of an interval apart; a moment to the second."""
    if isinstance(value, float):
        return f"{value:.7g}" if abs(value) < 1e7 else f"{value:.0f}"
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else _full(value)


def print_json(value: object) -> None:
    """Print a value as `as_json_text`."""
    sys.stdout.write(as_json_text(value))


def print_result(text: str, value: object, *, as_json: bool) -> None:
    """Print a line for people, or the value as JSON."""
    if as_json:
        print_json(value)
    else:
        print(text)  # noqa: T201


def command_name() -> str:
    """The command as it can be typed again in this folder."""
    path = Path(sys.argv[0])
    if path.name != "closecast" or shutil.which("closecast"):
        return "closecast"
    return relative_path(path)


def relative_path(path: object) -> str:
    """A path as it can be typed in this folder; a bucket's address is not changed."""
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

    Log lines go to standard output, because standard error is for the one line that names a failure. With
    `stderr` they go to standard error, because standard output is for JSON. Those of the loggers in `quiet`
    are not shown. The home is prepared: it has the log file.
    """
    from closecast.storage.core.logs import log_to_file

    log_to_file(home)
    handler = _TerminalHandler(stderr=stderr)
    handler.addFilter(lambda record: record.name not in quiet)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        with progress_bars(stderr=stderr):
            yield
    finally:
        log.removeHandler(handler)


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
