"""The forecasts of the embedded sample, held against recorded figures: `make recorded`.

On the same processor and library versions they are the same to the last bit, elsewhere within 1e-6; GARCH
alone within 1e-5, because arch's optimizer is no more precise: returns that differ by 2e-16 move a fitted
parameter by 3e-6. Record again only for a change that says so, by
`python -m tests.test_recorded_forecasts FILE`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from closecast.flows.backtest import rolling_backtest
from closecast.flows.daily import daily_forecast
from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import backtests, components
from closecast.tasks.core.tensorflow_runtime import library_versions
from closecast.tasks.prices.sources import Market

FILE = Path(__file__).parent / "recorded" / "forecasts.parquet"
KEY = ("run", "profile", "origin_day", "horizon", "component")
# The components of these horizons are recorded, the published forecasts of all of them.
WITH_COMPONENTS = (1, 30)
DAYS = [date(2019, 10, day) for day in (14, 15, 16, 17)]
RUNS = ("make run", "days of the README", "days in order", "article", "backtest")
pytestmark = pytest.mark.recorded


def recorded() -> pa.Table:
    return pq.read_table(FILE)


def forecasts_of(home: Home, run: str, days: Sequence[date]) -> Iterator[dict[str, Any]]:
    """A row for each forecast from these days and for each of its components."""
    for row in Predictions(home).read().to_pylist():
        if row["origin_day"] in days:
            shared = {"run": run, **{name: row[name] for name in ("profile", "origin_day", "horizon")}}
            yield {
                **shared,
                "component": row["profile"],
                "point": row["point"],
                "quantiles": row["quantiles"],
            }
            for part in components(home).read().to_pylist():
                if part["prediction_id"] == row["prediction_id"] and row["horizon"] in WITH_COMPONENTS:
                    figures = {"point": None, "quantiles": part["quantiles"]}
                    yield {**shared, "component": part["component"], **figures}


def forecast_again(folder: Path) -> Iterator[dict[str, Any]]:
    """Every recorded run, made again below a folder."""
    sample, homes = (
        Market(source="sample"),
        {name: Home(folder / name) for name in ("readme", "days", "article")},
    )
    readme, days, article = homes.values()
    daily_forecast(sample, home=str(readme.root))
    yield from forecasts_of(readme, "make run", DAYS[3:])
    rolling_backtest(start=date(2019, 7, 1), home=str(readme.root))
    for row in backtests(readme).read().to_pylist():
        if row["component"] == row["profile"] or row["horizon"] in WITH_COMPONENTS:
            names = ("profile", "origin_day", "horizon", "component", "point", "quantiles")
            yield {"run": "backtest", **{name: row[name] for name in names}}
    for day in DAYS[:3]:
        daily_forecast(sample, origin=day, home=str(readme.root))
    yield from forecasts_of(readme, "days of the README", DAYS[:3])
    for day in DAYS:
        daily_forecast(sample, origin=day, home=str(days.root))
    yield from forecasts_of(days, "days in order", DAYS)
    daily_forecast(sample, "article", home=str(article.root))
    yield from forecasts_of(article, "article", DAYS[3:])


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> list[dict[str, Any]]:
    return list(forecast_again(tmp_path_factory.mktemp("recorded")))


def figures(row: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    point = [] if row["point"] is None else [row["point"]]
    return np.array([*point, *(row["quantiles"] or [])], dtype=np.float64)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("run", RUNS)
def test_forecasts_are_the_recorded_ones(again: list[dict[str, Any]], run: str) -> None:
    table = recorded()
    expected = {tuple(row[name] for name in KEY): row for row in table.to_pylist() if row["run"] == run}
    made = {tuple(row[name] for name in KEY): row for row in again if row["run"] == run}
    assert made.keys() == expected.keys()
    same_machine = json.loads(table.schema.metadata[b"libraries"]) == library_versions()
    for key, row in expected.items():
        if same_machine:
            assert figures(made[key]).tobytes() == figures(row).tobytes(), key
        tolerance = 1e-5 if row["component"].startswith("garch") else 1e-6
        np.testing.assert_allclose(figures(made[key]), figures(row), rtol=tolerance, err_msg=str(key))


def record(file: Path) -> None:
    """Write the figures of this code, and print the largest difference to the recorded ones."""
    with tempfile.TemporaryDirectory() as folder:
        rows = list(forecast_again(Path(folder)))
    before = {tuple(row[name] for name in KEY): figures(row) for row in recorded().to_pylist()}
    differences = [
        np.max(np.abs(figures(row) / before[key] - 1.0))
        for row in rows
        if (key := tuple(row[name] for name in KEY)) in before and len(before[key]) == len(figures(row))
    ]
    metadata = {"libraries": json.dumps(library_versions())}
    table = pa.Table.from_pylist(rows).replace_schema_metadata(metadata)
    pq.write_table(table, file, compression="zstd")
    sys.stdout.write(f"{len(rows)} rows; largest relative difference {max(differences, default=0.0):.3g}\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
