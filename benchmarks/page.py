"""The page of figures: parts that a benchmark writes each, and one table of what was asked and what came.

    python benchmarks/page.py [docs/performance.md]

Gathers the bars of every part of the page into the table at its head, and prints it.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BARS = "| measure | bar | measured | |\n|---|---|---|---|"


def main() -> None:
    """Write the table of all bars, and print it."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    page = path.read_text(encoding="utf-8")
    parts = page.rpartition(_end("bars"))[2]
    table = "\n".join([BARS, *rows_of(parts)])
    put(path, "bars", table)
    print(table)


def rows_of(page: str) -> list[str]:
    """The rows of every table of bars, in the order of the page."""
    rows = []
    for table in page.split(BARS)[1:]:
        for line in table.lstrip("\n").splitlines():
            if not line.startswith("|"):
                break
            rows.append(line)
    return rows


def bar(words: str, found: list[float], most: float) -> str:
    """A row of such a table: at most that much was asked for (at least, when negative), and what came."""
    asked = f"{'≤' if most > 0 else '≥'} {abs(most):g}"
    if not found:
        return f"| {words} | {asked} | not measured here | |"
    middle = statistics.median(found)
    met = middle <= most if most > 0 else middle >= -most
    return f"| {words} | {asked} | {spread(found)} | {'met' if met else '**missed**'} |"


def spread(found: list[float], unit: str = "") -> str:
    """Median (least-greatest), to three figures; of one figure, that one."""
    if len(found) == 1:
        return f"{found[0]:.3g} {unit}".strip()
    low, middle, high = (f"{value:.3g}" for value in (min(found), statistics.median(found), max(found)))
    return f"{middle} {unit} ({low}–{high})".replace("  ", " ")


def processor() -> str:
    """The processor's name, and how many cores there are of it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def put(path: Path, name: str, text: str) -> None:
    """Write the text between the page's markers of that name, which are added where they are missing."""
    page = path.read_text(encoding="utf-8") if path.exists() else "# Performance\n"
    if _begin(name) not in page:
        page = f"{page.rstrip()}\n\n{_begin(name)}\n{_end(name)}\n"
    before, _, rest = page.partition(_begin(name))
    after = rest.partition(_end(name))[2]
    path.write_text(f"{before}{_begin(name)}\n\n{text}\n\n{_end(name)}{after}", encoding="utf-8")


def _begin(name: str) -> str:
    return f"<!-- {name}: written by make bench -->"


def _end(name: str) -> str:
    return f"<!-- {name}: end -->"


if __name__ == "__main__":
    main()
