"""What the benchmarks share: their parts of the documents, and the one table of every bar.

    python benchmarks/page.py

Prints the table of bars of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
TRAINING, STORAGE = DOCS / "performance" / "training.md", DOCS / "performance" / "storage.md"
BARS = "| part | measure | bar | measured | |\n|---|---|---|---|---|"
ONE_CORE = "one core for each process"


def options(description: str, page: Path = PAGE, **numbers: int) -> argparse.ArgumentParser:
    """A parser of a whole number for each name, with its default, and of `--out`, the page of the part."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=page)
    return parser


def last_core() -> int:
    """The number of the last core that this process may use."""
    return max(os.sched_getaffinity(0))


def bar(measure: str, figures: Sequence[float], limit: float) -> str:
    """A row of the table of bars: at most `limit` is wanted (at least, when negative)."""
    wanted = f"{'≤' if limit > 0 else '≥'} {abs(limit):g}"
    if not figures:
        return f"{measure} | {wanted} | not measured here | |"
    median = statistics.median(figures)
    met = median <= limit if limit > 0 else median >= -limit
    return f"{measure} | {wanted} | {spread(figures)} | {'met' if met else '**missed**'} |"


def spread(figures: Sequence[float], unit: str = "") -> str:
    """Median (least-greatest), to three figures; of one figure, that one."""
    if len(figures) == 1:
        return f"{figures[0]:.3g} {unit}".strip()
    low, median, high = (f"{value:.3g}" for value in (min(figures), statistics.median(figures), max(figures)))
    return f"{median} {unit} ({low}–{high})".replace("  ", " ")


def ratios(runs: Sequence[Any], base: Sequence[Any], seconds: Callable[[Any], float]) -> list[float]:
    """One over the other, round by round."""
    return [seconds(run) / seconds(other) for run, other in zip(runs, base, strict=True)]


def measured_by(command: str, *more: str, load: float, packages: tuple[str, ...]) -> str:
    """The first words of a part.

    They name the day, the command, the processor, what `more` names, versions of packages, and the machine's
    load average: `load` before, and now.
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    machine = [f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores", *more]
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    return (
        f"Measured on {datetime.now(UTC).date()} by `python benchmarks/{command}`: {'; '.join(machine)};"
        f" {', '.join(versions)}. Load average of the machine: {load:.1f} before,"
        f" {os.getloadavg()[0]:.1f} after."
    )


def output(*command: str) -> dict[str, Any]:
    """The lines of JSON that a process prints, those of an epoch each put together.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if "total" in lines[0] or len(lines) == 1:
        return dict(lines[0])
    total = sum(line["seconds"] for line in lines)
    return {
        "total": total,
        "epoch": statistics.median(line["seconds"] for line in lines[1:]),
        "core": sum(line["core"] for line in lines) / total,
        "epochs": len(lines),
        "losses": [line["loss"] for line in lines],
    }


def put(path: Path, name: str, text: str, bars: Sequence[str] = ()) -> None:
    """Print a part and its bars; write it between the page's markers of that name, and them into the table.

    The table is that of docs/performance.md, or of `path` where that is elsewhere. Missing markers are added.
    """
    write_between(path, name, text)
    print(text)
    if bars:
        page = PAGE if path.is_relative_to(DOCS) else path
        others = [row for row in _bars(page).splitlines()[2:] if not row.startswith(f"| {name} |")]
        rows = [f"| {name} | {row}" for row in bars]
        table = sorted(
            [*others, *rows], key=lambda row: row.split("|")[1]
        )  # stable: a part's rows keep theirs
        write_between(page, "bars", "\n".join([BARS, *table]))
        print("\n".join(["", BARS, *rows]))


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between the page's markers of that name."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if _begin(name) not in page:
        page = f"{page.rstrip()}\n\n{_begin(name)}\n{_end(name)}\n"
    before, _, rest = page.partition(_begin(name))
    after = rest.partition(_end(name))[2]
    path.write_text(f"{before}{_begin(name)}\n\n{text}\n\n{_end(name)}{after}", encoding="utf-8")


def _bars(path: Path) -> str:
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    return page.partition(_begin("bars"))[2].partition(_end("bars"))[0].strip()


def _begin(name: str) -> str:
    return f"<!-- {name}: written by the benchmarks -->"


def _end(name: str) -> str:
    return f"<!-- {name}: end -->"


if __name__ == "__main__":
    print(_bars(PAGE))
