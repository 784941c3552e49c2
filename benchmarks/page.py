"""The pages of figures: what the benchmarks share, and one table of every bar and its measurement.

    python benchmarks/page.py [docs/performance.md]

Gathers the bars of every part of the page into the table at its head, and prints it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
BARS = "| measure | bar | measured | |\n|---|---|---|---|"
ONE_CORE = "one core for each process"


def main() -> None:
    """Write the table of all bars, and print it."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    parts = path.read_text(encoding="utf-8").rpartition(_end("bars"))[2]
    put(path, "bars", "\n".join([BARS, *rows_of(parts)]))


def options(description: str, page: Path = PAGE, **numbers: int) -> argparse.ArgumentParser:
    """A parser of a whole number for each name, with its default, and of `--out`, the page to write."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=page)
    return parser


def last_core() -> int:
    """The number of the last core that this process may use."""
    return max(os.sched_getaffinity(0))


def rows_of(page: str) -> list[str]:
    """The rows of every table of bars, in the order of the page."""
    rows = []
    for table in page.split(BARS)[1:]:
        for line in table.lstrip("\n").splitlines():
            if not line.startswith("|"):
                break
            rows.append(line)
    return rows


def bar(measure: str, figures: list[float], limit: float) -> str:
    """A row of such a table: at most `limit` is wanted (at least, when negative)."""
    wanted = f"{'≤' if limit > 0 else '≥'} {abs(limit):g}"
    if not figures:
        return f"| {measure} | {wanted} | not measured here | |"
    median = statistics.median(figures)
    met = median <= limit if limit > 0 else median >= -limit
    return f"| {measure} | {wanted} | {spread(figures)} | {'met' if met else '**missed**'} |"


def spread(figures: list[float], unit: str = "") -> str:
    """Median (least-greatest), to three figures; of one figure, that one."""
    if len(figures) == 1:
        return f"{figures[0]:.3g} {unit}".strip()
    low, median, high = (f"{value:.3g}" for value in (min(figures), statistics.median(figures), max(figures)))
    return f"{median} {unit} ({low}–{high})".replace("  ", " ")


def ratios(runs: list[Any], base: list[Any], seconds: Any) -> list[float]:
    """One over the other, round by round."""
    return [seconds(run) / seconds(other) for run, other in zip(runs, base, strict=True)]


def processor() -> str:
    """The processor's name, and its number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def measured_by(command: str, *more: str, packages: tuple[str, ...]) -> str:
    """The first words of a part: day, command, processor, what else is to be named, versions of packages."""
    names = ", ".join(f"{name} {version(name)}" for name in packages)
    machine = "; ".join([", ".join([processor(), *more[:1]]), *more[1:]])
    day = datetime.now(UTC).date()
    return f"Measured on {day} by `python benchmarks/{command}`: {machine}, {names}."


def load_since(before: float) -> str:
    """The machine's load average, before and now."""
    return f"{before:.1f} before, {os.getloadavg()[0]:.1f} after"


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


def put(path: Path, name: str, text: str) -> None:
    """Print the text, and write it between the page's markers of that name, which are added if missing."""
    page = path.read_text(encoding="utf-8") if path.exists() else "# Performance\n"
    if _begin(name) not in page:
        page = f"{page.rstrip()}\n\n{_begin(name)}\n{_end(name)}\n"
    before, _, rest = page.partition(_begin(name))
    after = rest.partition(_end(name))[2]
    path.write_text(f"{before}{_begin(name)}\n\n{text}\n\n{_end(name)}{after}", encoding="utf-8")
    print(text)


def _begin(name: str) -> str:
    return f"<!-- {name}: written by make bench -->"


def _end(name: str) -> str:
    return f"<!-- {name}: end -->"


if __name__ == "__main__":
    main()
