"""A day reads what the day needs: the figures of a few forecasts, whatever the number of days gone by."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.core.home import Home
from storage.tables.delta import Table
from storage.tables.schemas import calibrator, components
from storage.upkeep.compaction import compact_table
from tasks.calibration import calibrator_states as track
from tasks.calibration.calibrator_states import first_state, state_at
from tasks.core.quantiles import LEVELS
from tasks.evaluation.scoring import board_of
from tasks.report.prefect_artifacts import beside, last_forecasts
from tests.calibrated import Runs, candles, close, day, put_forecast, quick, spread
from tests.helpers import BTC, NOW, publish_all, store

RECIPE = quick()
ORIGIN = 980
TABLES = ("predictions", "scores", "components", "calibrator")


def past(place: Path, forecasts: int) -> Runs:
    """A home whose newest forecasts are of the days up to ORIGIN, all but the last scored and taken in."""
    home = Home(place).prepare()
    store(home, candles())
    runs, first = Runs(home, RECIPE), ORIGIN - forecasts
    first_state(home, BTC, RECIPE, day(first), np.zeros(len(LEVELS)), NOW)
    named = put_forecast(home, first, f"p{first}", recipe=RECIPE)
    (made,) = components(home).read().to_pylist()
    numbers = range(first + 1, ORIGIN)
    told = [
        {
            "prediction_id": f"p{number}",
            "origin_day": day(number),
            "target_day": day(number + 1),
            "quantiles": spread(close(number)),
        }
        for number in numbers
    ]
    publish_all(home, [named | one for one in told])
    names = ("prediction_id", "target_day", "quantiles")
    components(home).add([made | {name: one[name] for name in names} for one in told])
    runs.score(ORIGIN - 1)
    for name in TABLES:
        compact_table(home, name)
    return runs


@contextmanager
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any, int]]]:
    """Each read of a table: its name, the rows that came, and the row groups that the question left."""
    found: list[tuple[str, Any, int]] = []
    look = Table._rows

    def noted(self: Table, dataset: Any, wanted: Any, columns: Any) -> Any:
        rows = look(self, dataset, wanted, columns)
        left = dataset.get_fragments(wanted)
        if wanted is not None:
            left = (one.subset(wanted, schema=dataset.schema) for one in left)
        groups = sum(len(one.row_groups) for one in left)
        found.append((self.name, rows, groups))
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(Table, "_rows", noted)
        yield found


def a_day(runs: Runs) -> None:
    """What a run on ORIGIN reads and writes of the tables, but for the forecast."""
    assert runs.score(ORIGIN) == 1
    assert state_at(runs.home, BTC, RECIPE, day(ORIGIN)) is not None
    row = put_forecast(runs.home, ORIGIN, "new", recipe=RECIPE)
    assert set(beside(runs.home, row)) == {"lstm"}
    assert last_forecasts(runs.home, BTC, RECIPE.name)[0]["prediction_id"] == "new"
    assert board_of(runs.home, BTC, RECIPE.name).spans[-1].forecasts


def test_what_is_long_is_read_of_a_few_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for forecasts in (40, 500):
        runs = past(tmp_path / str(forecasts), forecasts)
        with reads(monkeypatch) as found:
            a_day(runs)
        assert found[-1][1].num_rows == forecasts  # the scoreboard is of them all
        lists = [
            rows for _, rows, _ in found if any(str(kind).startswith("list") for kind in rows.schema.types)
        ]
        assert sum(rows.num_rows for rows in lists) < 50
        for name, rows, _ in found:
            if rows.num_rows > 50:  # names and days, or a score's few figures
                assert rows.nbytes / rows.num_rows < 200, name
        counts.append(len(found))
        assert calibrator(runs.home).read().num_rows == forecasts + 1
    assert counts[0] == counts[1]


def test_files_of_other_days_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a file a day, writing a day and reading its own opens few of them."""
    runs = past(tmp_path, 5)
    for number in range(100, 130):
        put_forecast(runs.home, number, f"old{number}", recipe=RECIPE)
    with reads(monkeypatch) as found:
        row = put_forecast(runs.home, ORIGIN, "new", recipe=RECIPE)
        beside(runs.home, row)
        state_at(runs.home, BTC, RECIPE, day(ORIGIN))
    assert {name for name, _, _ in found} == {"predictions", "components", "calibrator"}
    assert sum(groups for _, _, groups in found) <= 4


def test_nothing_new_reads_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = past(tmp_path, 40)
    with reads(monkeypatch) as found:
        assert runs.score(ORIGIN - 1) == 0
    assert {name for name, _, _ in found} == {"predictions", "scores", "calibrator"}
    assert "quantiles" not in {name for _, rows, _ in found for name in rows.column_names}


@pytest.mark.parametrize("seed", range(int(os.environ.get("SOAK", "1"))))
def test_the_chain_is_that_of_a_walk_over_all_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Closes that come late or anew, days of the past, revisions, two recipes: settled days never move."""
    draw = random.Random(seed)  # noqa: S311 (a game of dice, nothing secret)
    missing = set(draw.sample(range(601, 612), 3))
    frame = candles()[[number not in missing for number in range(1, len(candles()) + 1)]]
    homes = [Home(tmp_path / name).prepare() for name in ("by need", "all days")]
    store(homes[0], frame.reset_index(drop=True))
    shutil.copytree(homes[0].root, homes[1].root, dirs_exist_ok=True)
    other = quick(seed=7)
    for home in homes:
        first_state(home, BTC, RECIPE, day(600), np.zeros(len(LEVELS)), NOW)
        first_state(home, BTC, other, day(603), np.zeros(len(LEVELS)), NOW)
    deeds: list[tuple[Any, ...]] = [
        ("forecast", n, draw.choice([RECIPE, RECIPE, other])) for n in range(600, 614)
    ]
    deeds += [("forecast", draw.randrange(600, 612), draw.choice([RECIPE, other])) for _ in range(4)]
    deeds += [("close", number, close(number)) for number in missing]
    deeds += [
        ("close", draw.randrange(601, 610), 4321.0 + seed),
        ("begin", 590, RECIPE),
        ("begin", 595, other),
    ]
    deeds += [("score", draw.randrange(605, 615), draw.choice([RECIPE, other])) for _ in range(9)]
    draw.shuffle(deeds)
    deeds += [("score", 615, RECIPE), ("score", 615, other)]
    for place, home in enumerate(homes):
        with monkeypatch.context() as patch:
            if place:
                patch.setattr(track, "_settled", from_the_first_state)
            do(home, deeds)
    made = [calibrator(home).read().sort_by("calibrator_version").to_pylist() for home in homes]
    assert len(made[0]) > 10
    assert made[0] == made[1]


def from_the_first_state(*given: Any) -> Any:
    """The oldest day of a chain, None before it has one."""
    rows = given[3].to_pylist()
    return min((row["target_day"] for row in rows if row["prediction_id"] is None), default=None)


def do(home: Home, deeds: list[tuple[Any, ...]]) -> None:
    """Days that are missing may be scored and forecast before they come: nothing is known of them."""
    for turn, (what, number, given) in enumerate(deeds):
        runs, moment = Runs(home, given if what != "close" else RECIPE), NOW + timedelta(hours=turn)
        if what == "forecast":
            put_forecast(home, number, f"p{turn}", recipe=given)
        elif what == "close":
            runs.restate(number, given)
        elif what == "begin":
            first_state(home, BTC, given, day(number), np.full(len(LEVELS), 0.01), NOW)
        else:
            runs.score(number, moment)
