"""The processes of benchmarks/ingest.py: each does one job and says in a line of JSON what it took."""

from __future__ import annotations

import contextlib
import json
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from closecast.storage.core.location import Location

LAST = date(2024, 12, 31)
PRODUCTS, FORECASTS = 20, 50_000
COMMITS = 5  # of each product's forecasts: more than one, so that there is something to compact
YEARS = 10
MONTH = "target_day BETWEEN DATE '2001-05-01' AND DATE '2001-05-31'"
ASKED = {
    "product and month": f"FROM predictions WHERE product_id = 'P07-USD' AND {MONTH}",
    "product": "FROM predictions WHERE product_id = 'P07-USD'",
    "month": f"FROM predictions WHERE {MONTH}",
    "everything": "FROM predictions",
}
COLUMNS = "SELECT target_day, point, lower_80, upper_80, model_version"


def main() -> None:
    """Do the job, and measure it."""
    job, paths = sys.argv[1], [Path(path) for path in sys.argv[2:]]
    if job in ("ask", "fetch"):
        print(json.dumps({"ask": ask, "fetch": fetch}[job](paths[0])))
        return
    with tempfile.TemporaryDirectory(prefix="closecast-bench-") as name:
        print(json.dumps(taken(stored(job, paths, Path(name)), len(paths))))


def write_candles(path: Path, days: int, seed: int) -> Path:
    """A file of made-up candles up to `LAST`."""
    import numpy as np
    import pandas as pd

    draw = np.random.default_rng(seed)
    close = np.round(4000 * np.exp(3 * np.sin(np.cumsum(draw.normal(0, 0.01, days)))), 2)
    near = {"open": 0.999, "high": 1.01, "low": 0.99, "close": 1.0}
    when = (np.datetime64(LAST) - np.arange(days)[::-1]).astype(str)
    figures = {name: np.round(close * factor, 2) for name, factor in near.items()}
    volume = np.round(draw.uniform(1, 9999, days), 8)
    pd.DataFrame({"date": when, **figures, "volume": volume}).to_csv(path, index=False)
    return path


def taken(steps: Iterator[None], count: int) -> dict[str, Any]:
    """Seconds of all steps, of the first and the last tenth; the share of the core; the peak in MB."""
    begun, busy = time.perf_counter(), time.process_time()
    marks = [0.0, *(time.perf_counter() - begun for _ in steps)]
    total, tenth = marks[-1], max(count // 10, 1)
    return {
        "seconds": total,
        "core": (time.process_time() - busy) / total,
        "first": marks[tenth],
        "last": total - marks[-1 - tenth],
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def stored(peer: str, paths: list[Path], folder: Path) -> Iterator[None]:
    """Store each file as a product of its own; a step a file."""
    if peer == "import":
        steps = imported(paths, folder)
    else:
        steps = bare(paths, folder) if peer == "bare" else by_pandas(peer, paths, folder)
    next(steps)  # what is prepared once is not timed, for either
    return steps


def imported(paths: list[Path], folder: Path) -> Iterator[None]:
    """`closecast import`, without the start of a process for each file."""
    from closecast.flows.actions import import_file
    from closecast.storage.core.home import Home
    from closecast.storage.prices.price_store import Prices

    home = Home(folder).prepare()
    with Prices(home) as prices:  # makes the database
        prices.source_of("P-USD")
    yield
    for number, path in enumerate(paths):
        import_file(home, f"P{number}-USD", path)
        yield


def by_pandas(peer: str, paths: list[Path], folder: Path) -> Iterator[None]:
    """`read_csv` and `to_sql` with pandas' defaults: chunksize None, method None."""
    import pandas as pd
    import sqlalchemy as sa

    database = folder / "prices.db"
    engine = sa.create_engine(f"sqlite:///{database}") if peer == "engine" else None
    with contextlib.closing(sqlite3.connect(database)) as connection:
        yield
        for number, path in enumerate(paths):
            frame = pd.read_csv(path)
            frame.insert(0, "product_id", f"P{number}-USD")
            frame.to_sql("candles", engine or connection, if_exists="append", index=False)
            yield


def bare(paths: list[Path], folder: Path) -> Iterator[None]:
    """The least that rows in that table can cost: its index and its rules, a transaction a file."""
    import pandas as pd

    from closecast.storage.core.home import Home
    from closecast.storage.prices.price_store import Prices

    with Prices(Home(folder).prepare()) as prices:  # makes the database
        prices.source_of("P-USD")
    insert = (
        "INSERT INTO candles (product_id, day_utc, open, high, low, close, volume,"
        " source, observed_at, payload_sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    with contextlib.closing(sqlite3.connect(folder / "prices.db")) as connection:
        yield
        for number, path in enumerate(paths):
            frame = pd.read_csv(path)
            same = [[text] * len(frame) for text in ("csv", "2025-01-01T00:15:00+00:00", "ab" * 32)]
            columns = [[f"P{number}-USD"] * len(frame), *(frame[name].tolist() for name in frame), *same]
            with connection:
                connection.executemany(insert, zip(*columns, strict=True))
            yield


def ask(folder: Path) -> dict[str, Any]:
    """Ask a table of a million forecasts, compacted as `closecast maintain` does it."""
    from closecast.storage.core.home import Home
    from closecast.storage.tables.opening import as_dataset, open_table
    from closecast.storage.tables.sql import query
    from closecast.storage.upkeep.compaction import compact_table

    home = Home(folder).prepare()
    write_forecasts(home.predictions)
    compact_table(home, "predictions")
    table = open_table(home.predictions)
    if table is None:
        raise SystemExit("there are no forecasts")
    answers: dict[str, Any] = {"files": len(table.file_uris())}
    fragments = as_dataset(table, home.predictions).get_fragments()
    answers["groups"] = sum(fragment.num_row_groups for fragment in fragments)
    for name, sql in ASKED.items():
        seconds = []
        for _ in range(5):
            before, begun = bytes_read(), time.perf_counter()
            rows = query(home, f"{COLUMNS} {sql}").num_rows
            seconds.append(time.perf_counter() - begun)
        answers[name] = {"rows": rows, "seconds": seconds, "bytes": bytes_read() - before}
    return answers


def bytes_read() -> int:
    """What this process has read so far, from the disk or its cache."""
    figures = Path("/proc/self/io").read_text().split()
    return int(figures[figures.index("rchar:") + 1])


def write_forecasts(folder: Location) -> None:
    """Write `PRODUCTS` times `FORECASTS` made-up forecasts, in the order of their days."""
    import numpy as np
    import pyarrow as pa
    from deltalake import write_deltalake

    from closecast.storage.tables.delta import Table
    from closecast.storage.tables.schemas import PREDICTIONS

    Table(folder, PREDICTIONS).begin()
    draw = np.random.default_rng(1)
    targets = np.datetime64(LAST) - np.arange(FORECASTS)[::-1]
    for number in range(PRODUCTS):
        close = draw.uniform(1, 60_000, FORECASTS)
        columns: dict[str, Any] = {
            "prediction_id": [f"{number:032d}{day:032d}" for day in range(FORECASTS)],
            "origin_day": targets - 1,
            "target_day": targets,
            "horizon": np.ones(FORECASTS, "int32"),
            "created_at": targets.astype("datetime64[us]"),
            "revision": np.zeros(FORECASTS, "int32"),
        }
        texts = {"product_id": f"P{number:02d}-USD", "profile": "calibrated", "flow_run_id": None}
        texts |= {"quote_currency": "USD", "basis": "model"}
        same = {"data_version": "P@1:" + "ab" * 32, "settings_version": "s" * 16, "code_version": "0.1.0+abc"}
        for name, text in {**texts, **same, "model_version": "7"}.items():
            columns[name] = pa.repeat(pa.scalar(text, pa.string()), FORECASTS)
        quantiles = close[:, None] * np.linspace(0.9, 1.1, 23)
        columns["quantiles"] = list(quantiles)
        columns["quantile_levels"] = [np.linspace(0.01, 0.99, 23)] * FORECASTS
        schema = PREDICTIONS.arrow
        for field in schema:
            if field.type == pa.float64():
                columns[field.name] = close * draw.uniform(0.9, 1.1)
        table = pa.table({f.name: pa.array(columns[f.name]).cast(f.type) for f in schema}, schema)
        for start in range(0, FORECASTS, FORECASTS // COMMITS):
            write_deltalake(str(folder), table.slice(start, FORECASTS // COMMITS), mode="append")


def fetch(folder: Path) -> dict[str, Any]:
    """Fetch ten years of one product from the local exchange."""
    import sqlalchemy as sa

    from closecast.storage.core.home import Home
    from closecast.storage.prices.price_store import Prices
    from closecast.tasks.prices.coinbase_client import Client
    from closecast.tasks.prices.file_reader import read_candles
    from closecast.tasks.prices.ingest import IngestRequest
    from closecast.tasks.prices.ingest_coinbase import ingest_exchange
    from tests.exchange import Exchange

    listed = LAST - timedelta(days=round(365.25 * YEARS) - 1)
    moment = datetime.combine(LAST, datetime.min.time(), UTC) + timedelta(days=1, minutes=20)
    folder.mkdir()
    path = write_candles(folder / "all.csv", (LAST - listed).days + 1, 3)
    frame = read_candles(path.read_bytes(), "BTC-USD").candles
    written_in: list[bool] = []

    def note_statement(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        connection.info["candles"] = connection.info.get("candles") or "INTO candles" in statement

    def note_commit(connection: sa.Connection) -> None:
        written_in.append(bool(connection.info.pop("candles", False)))

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", note_statement)
    sa.event.listen(sa.engine.Engine, "commit", note_commit)
    home, request = Home(folder / "home").prepare(), IngestRequest("BTC-USD", LAST, moment, LAST)
    with Exchange({"BTC-USD": frame}, clock=moment) as exchange, Client(exchange.url) as client:
        begun = time.perf_counter()
        with Prices(home) as prices:
            history = ingest_exchange(home, prices, request, client=client).history
        seconds = time.perf_counter() - begun
        starts = [request.at for request in exchange.requests]
        pages = sum(request.status == 200 for request in exchange.requests)
    busiest = max(sum(at <= other < at + 1 for other in starts) for at in starts)
    figures = {"seconds": seconds, "days": len(history.candles), "requests": len(starts), "pages": pages}
    return figures | {"busiest": busiest, "transactions": sum(written_in)}


if __name__ == "__main__":
    main()
