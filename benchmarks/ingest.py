"""A million candles in beside pandas, a million forecasts asked, ten years fetched.

    python benchmarks/ingest.py [--rounds 3] [--core N] [--out docs/performance/storage.md]

Takes a minute to prepare and half of one a round.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import page
from benchmarks.ingest_peers import ASKED, FORECASTS, PRODUCTS, YEARS, write_candles

HERE = Path(__file__).parent
FILES, DAYS = 10, 100_000
PEERS = {
    "import": "`closecast import`",
    "engine": "`pandas.to_sql`, SQLAlchemy engine",
    "sqlite3": "`pandas.to_sql`, `sqlite3` connection",
    "bare": "`read_csv` and SQLite's `executemany` into closecast's own table, no more",
}


def main() -> None:
    """Prepare, time, write."""
    arguments = page.options(__doc__, page.STORAGE, rounds=3, core=page.last_core()).parse_args()
    os.sched_setaffinity(0, {arguments.core})
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="closecast-bench-") as name:
        folder = Path(name)
        files = [write_candles(folder / f"{number:03d}.csv", DAYS, number) for number in range(FILES)]
        runs = timed(files, arguments.rounds)
        asked = run("ask", folder / "asked")
        fetched = run("fetch", folder / "fetched")
    page.put(arguments.out, "ingest", report(runs, asked, fetched, load), bars(runs, fetched))


def run(job: str, *paths: Path) -> dict[str, Any]:
    """What a process of its own says of the job."""
    return page.output(sys.executable, str(HERE / "ingest_peers.py"), job, *map(str, paths))


def timed(files: list[Path], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """One run a round for each, every other round the other way about."""
    runs: dict[str, list[dict[str, Any]]] = {peer: [] for peer in PEERS}
    for number in range(rounds):
        for peer in PEERS if number % 2 == 0 else reversed(PEERS):
            runs[peer].append(run(peer, *files))
            print(f"round {number + 1}, {peer}: {runs[peer][-1]['seconds']:.2f} s", flush=True)
    return runs


def report(
    runs: dict[str, list[dict[str, Any]]], asked: dict[str, Any], fetched: dict[str, Any], load: float
) -> str:
    """The part of the page, as Markdown."""
    core = [one["core"] for some in runs.values() for one in some]
    parts = [
        page.measured_by(
            f"ingest.py --rounds {len(runs['import'])}",
            page.ONE_CORE,
            f"SQLite {sqlite3.sqlite_version}",
            load=load,
            packages=("pandas", "sqlalchemy", "pyarrow", "duckdb"),
        ),
        f"Medians, with minimum and maximum in brackets; ratios are within a round. The processes had"
        f" {min(core):.0%} to {max(core):.0%} of their core (median {statistics.median(core):.0%}).",
        "### 1,000,000 candles from CSV",
        f"{FILES} files of {DAYS:,} days, each a product: the calendar of one product ends today and has no"
        " room for a million days. All files are imported in one process, each in a separate import that"
        " stores all or nothing; pandas reads each by `read_csv` and appends it by `to_sql` with its defaults"
        " (chunksize None: one call for all rows) to a fresh SQLite file. closecast also checks each candle,"
        " keeps an index, compares with what is stored and names the data version by its digest.",
        table(runs),
        "The last row is the limit: closecast's table has an index, and rules that check every value (the"
        " day's is the most expensive). With SQLAlchemy, as in pandas' manual, `to_sql` takes longer than"
        " that; with a `sqlite3` connection it writes a table without index or rules in less time.",
        "### 1,000,000 forecasts, queried by `closecast sql`",
        f"{PRODUCTS} products of {FORECASTS:,} forecasts, compacted as by `closecast maintain`:"
        f" {asked['files']} files, {asked['groups']} row groups. Five queries each.",
        questions(asked),
        f"### {YEARS} years of daily candles from the exchange",
        f"{fetched['days']:,} days: {fetched['requests']} requests in {fetched['seconds']:.1f} s, at most"
        f" {fetched['busiest']} of them in any one second (the exchange allows 10), and"
        f" {fetched['transactions']} transactions that wrote candles. Against the local exchange.",
    ]
    return "\n\n".join(parts)


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """A row a peer."""
    lines = [
        "| | all, s | last tenth over first | peak, MB | closecast over it |",
        "|---|---|---|---|---|",
    ]
    for peer, words in PEERS.items():
        some = runs[peer]
        pace = page.spread([one["last"] / one["first"] for one in some])
        peak = f"{max(one['peak'] for one in some):.0f}"
        ratio = "" if peer == "import" else page.spread(over(runs, peer))
        seconds = page.spread([one["seconds"] for one in some])
        lines.append(f"| {words} | {seconds} | {pace} | {peak} | {ratio} |")
    return "\n".join(lines)


def over(runs: dict[str, list[dict[str, Any]]], peer: str) -> list[float]:
    """Closecast's seconds over a peer's, round by round."""
    return page.ratios(runs["import"], runs[peer], lambda run: run["seconds"])


def bars(runs: dict[str, list[dict[str, Any]]], fetched: dict[str, Any]) -> list[str]:
    """A row a bar: what was measured and what was wanted."""
    rows = [
        page.bar(f"1,000,000 candles imported, over {PEERS[peer]}", over(runs, peer), 1.5)
        for peer in PEERS
        if peer not in ("import", "bare")
    ]
    requests = page.bar(f"requests for {YEARS} years of one product", [float(fetched["requests"])], 14)
    busiest = page.bar("requests in the busiest second", [float(fetched["busiest"])], 10)
    return [*rows, requests, busiest]


def questions(asked: dict[str, Any]) -> str:
    """A row a question."""
    lines = ["| filter | rows | ms | MB read |", "|---|---|---|---|"]
    for name in ASKED:
        one = asked[name]
        milliseconds = page.spread([1000 * second for second in one["seconds"]])
        lines.append(f"| {name} | {one['rows']:,} | {milliseconds} | {one['bytes'] / 1e6:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
