"""What many products cost where they are stored, and what a product's day costs: 10, 100, 1,000 of them.

    python benchmarks/products.py [--products 10 100 1000] [--out docs/scaling.md]

Fills a home with so many products: closes, one model version each, and a week of forecasts in one commit a
day. Then it times what a day of one product does there. No network is trained: the bundle is a few bytes.
Takes some five minutes on a quiet machine, nearly all of it filling.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.page import DOCS, measured_by, options, put
from benchmarks.rows import forecast
from closecast.storage.core.home import Home

DAYS, WEEK, TIMES = 800, 7, 9
FIRST = date(2019, 1, 1)
NOW = datetime(2021, 3, 12, 0, 15, tzinfo=UTC)
Figures = dict[str, float]


def main() -> None:
    """Fill, time, write."""
    parser = options(__doc__, DOCS / "scaling.md")
    parser.add_argument("--products", type=int, nargs="+", default=[10, 100, 1000])
    given = parser.parse_args()
    load = os.getloadavg()[0]
    figures = {}
    for products in given.products:
        with tempfile.TemporaryDirectory(prefix="closecast-products-") as name:
            figures[products] = measured(Path(name), products)
            print(products, figures[products], flush=True)
    put(given.out, "products", report(figures, load))


def measured(root: Path, products: int) -> Figures:
    """What the home of so many products weighs, and what is done in it takes, in ms."""
    from closecast.storage.models.registry import Models
    from closecast.storage.prices.price_store import Prices
    from closecast.storage.tables.predictions import Predictions
    from closecast.storage.upkeep.compaction import compact_table
    from tests.helpers import made_up

    home = Home(root).prepare()
    names = [f"P{number:05d}-USD" for number in range(products)]
    figures = fill(home, names)
    last = FIRST + timedelta(days=DAYS - 1)
    middle = names[len(names) // 2]
    with Prices(home) as prices:
        figures["closes of a product read, ms"] = timed(
            lambda: prices.prices_at(newest(prices, middle, last)).candles
        )
        row = made_up(DAYS + TIMES, FIRST, seed=1)

        def append(number: int) -> None:
            day = row.iloc[[DAYS + number]].reset_index(drop=True)
            prices.append(middle, day, source="csv", observed_at=NOW, payload_sha256="ab" * 32)

        figures["a close appended, ms"] = timed_each(append)
    models = Models(home)
    figures["the champion looked up, ms"] = timed(lambda: models.champion(middle, "calibrated"))
    figures["versions of a product listed, ms"] = timed(lambda: models.versions(middle))
    table = Predictions(home)
    figures["forecasts of a product read, ms"] = timed(lambda: table.between(middle))
    figures["a forecast appended, ms"] = timed_each(
        lambda number: add_forecasts(home, [middle], WEEK + number)
    )
    figures["data files of forecasts"] = len(list((home.root / "predictions").rglob("*.parquet")))
    begun = time.perf_counter()
    compact_table(home, "predictions")
    figures["the table of forecasts compacted, s"] = time.perf_counter() - begun
    figures["prices.db, MB"] = (home.root / "prices.db").stat().st_size / 1e6
    figures["mlflow.db, MB"] = home.registry.stat().st_size / 1e6
    figures["log of the forecasts, MB"] = size(home.root / "predictions" / "_delta_log")
    return figures


def fill(home: Home, names: list[str]) -> Figures:
    """Closes, a champion and a week of forecasts of each product; how long one took, in ms."""
    from closecast.storage.models.registry import Models
    from closecast.storage.models.training_run import TrainingRun
    from tests.helpers import made_up, store

    frame = made_up(DAYS, FIRST, seed=1)
    models, took = Models(home), []
    for product in names:
        store(home, frame, product_id=product)
        begun = time.perf_counter()
        with models.draft(product, "calibrated") as draft:
            draft.write("weights.json", b"{}")
            run = TrainingRun(product, {"units": 32}, {"loss": 1.0})
            made = models.register(draft, product, "calibrated", run, tags={"training_kind": "refit"})
        models.promote(made)
        took.append(1000 * (time.perf_counter() - begun))
    days = []
    for number in range(WEEK):
        begun = time.perf_counter()
        add_forecasts(home, names, number)
        days.append(time.perf_counter() - begun)
    return {
        "a model version registered and promoted, ms": statistics.median(took),
        "the last of them, ms": statistics.median(took[-TIMES:]),
        "a day's forecasts of all in one commit, s": statistics.median(days),
    }


def add_forecasts(home: Home, names: list[str], number: int) -> None:
    """The forecasts of that day, in one commit."""
    from closecast.storage.tables.delta import Table
    from closecast.storage.tables.schemas import PREDICTIONS

    origin = FIRST + timedelta(days=DAYS - WEEK + number)
    made = [forecast(name, origin, 4000.0, data_version=f"{name}@{DAYS}:{'ab' * 32}") for name in names]
    Table(home.predictions, PREDICTIONS).add([row for one in made for row in one.rows()])


def newest(prices: Any, product: str, last: date) -> str:
    """The data version of the product's last day."""
    return str(prices.data_version(product, last, created_at=NOW))


def timed(work: Callable[[], object]) -> float:
    """Median milliseconds, after a first time that is not counted."""
    work()
    return timed_each(lambda _: work())


def timed_each(work: Callable[[int], object]) -> float:
    """Median milliseconds of doing it so often, each with its number."""
    took = []
    for number in range(TIMES):
        begun = time.perf_counter()
        work(number)
        took.append(1000 * (time.perf_counter() - begun))
    return statistics.median(took)


def size(folder: Path) -> float:
    """Megabytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def report(figures: dict[int, Figures], load: float) -> str:
    """The part of the page, as Markdown."""
    counts = list(figures)
    lines = [
        f"| products | {' | '.join(f'{count:,}' for count in counts)} |",
        "|---|" + "---|" * len(counts),
        *(
            f"| {name} | {' | '.join(f'{figures[count][name]:.3g}' for count in counts)} |"
            for name in figures[counts[0]]
        ),
    ]
    return "\n\n".join(
        [
            measured_by(
                f"products.py --products {' '.join(map(str, counts))}",
                load=load,
                packages=("deltalake", "mlflow-skinny", "sqlalchemy"),
            )
            + f" Medians of {TIMES} times; {DAYS} closes, one model version and {WEEK} forecasts a product.",
            "\n".join(lines),
        ]
    )


if __name__ == "__main__":
    main()
