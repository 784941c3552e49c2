"""A day reads only the figures of a few forecasts, however many days there are."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from closecast.storage.core.home import Home
from closecast.storage.tables import opening
from closecast.storage.tables.delta import Snapshot
from closecast.storage.tables.schemas import calibrator
from closecast.storage.upkeep.compaction import compact_table
from closecast.tasks.calibration import calibrator_states
from closecast.tasks.calibration.calibrator_states import states_at
from closecast.tasks.core.quantiles import LEVELS
from closecast.tasks.evaluation.scoring import read_scoreboard
from closecast.tasks.forecast.publish import chain_of
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.report.prefect_artifacts import newest_forecasts
from tests.calibrated import Runs, candles, close, day, forecast_by_hand, put_forecast, put_forecasts, quick
from tests.helpers import BTC, NOW, store

PROFILE = quick()
CHAIN = chain_of(PROFILE, BTC)
ORIGIN = 980
TABLES = ("predictions", "scores", "components", "calibrator")
NO_OFFSETS = {1: np.zeros(len(LEVELS))}


def home_with(folder: Path, forecasts: int) -> Runs:
    """A home with the forecasts of the days up to ORIGIN, all but the last one scored and in the chain."""
    home = Home(folder).prepare()
    store(home, candles())
    runs, first = Runs(home, PROFILE), ORIGIN - forecasts
    states_at(home, CHAIN, day(first), NO_OFFSETS, NOW)
    made = [forecast_by_hand(number, f"p{number}", profile=PROFILE) for number in range(first, ORIGIN)]
    put_forecasts(home, made, PROFILE)
    runs.score(ORIGIN - 1)
    for name in TABLES:
        compact_table(home, name)
    return runs


@contextmanager
def table_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, pa.Table, int]]]:
    """Each read of a table that exists: its name, the rows, and how many row groups were opened.

    As in a new process, which has no rows in memory.
    """
    opening._opened.clear()
    reads: list[tuple[str, pa.Table, int]] = []
    real = Snapshot.read

    def recorded(self: Snapshot, condition: Any = None, *more: Any) -> pa.Table:
        rows = real(self, condition, *more)
        if self.dataset is not None:
            fragments = [
                one
                for one in self.dataset.get_fragments(condition)
                if isinstance(one, ds.ParquetFileFragment)
            ]
            if condition is not None:
                fragments = [one.subset(condition, schema=self.dataset.schema) for one in fragments]
            reads.append((self.table.schema.name, rows, sum(len(one.row_groups) for one in fragments)))
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "read", recorded)
        yield reads


def a_day(runs: Runs) -> None:
    """What a run on ORIGIN reads and writes of the tables, but for the model."""
    assert runs.score(ORIGIN) == 1
    assert states_at(runs.home, CHAIN, day(ORIGIN), NO_OFFSETS, NOW)[1].target_day == day(ORIGIN)
    put_forecast(runs.home, ORIGIN, "new", profile=PROFILE)
    assert newest_forecasts(runs.home, BTC, PROFILE.name)[0]["prediction_id"] == "new"
    assert read_scoreboard(runs.home, BTC, PROFILE.name, ()).all_days.forecasts


def test_quantiles_are_read_of_few_days_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for forecasts in (40, 250):
        runs = home_with(tmp_path / str(forecasts), forecasts)
        with table_reads(monkeypatch) as reads:
            a_day(runs)
        assert reads[-1][1].num_rows == forecasts  # the scoreboard is of them all
        wide = [rows.num_rows for _, rows, _ in reads if "quantile" in " ".join(rows.column_names)]
        assert sum(wide) < 50
        for name, rows, _ in reads:
            if rows.num_rows > 50:  # names and days, or a score's figures with those of its components
                assert rows.nbytes / rows.num_rows < 300, name
        counts.append(len(reads))
        assert calibrator(runs.home).read().num_rows == forecasts + 1
    assert counts[0] == counts[1]


def test_files_of_other_days_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a file a day, writing a day and reading it opens few of them."""
    runs = home_with(tmp_path, 5)
    for number in range(100, 130):
        put_forecast(runs.home, number, f"old{number}", profile=PROFILE)
    with table_reads(monkeypatch) as reads:
        put_forecast(runs.home, ORIGIN, "new", profile=PROFILE)
        states_at(runs.home, CHAIN, day(ORIGIN), NO_OFFSETS, NOW)
    assert {name for name, _, _ in reads} == {"predictions", "components", "calibrator"}
    assert sum(groups for _, _, groups in reads) <= 4


def test_a_day_without_new_outcomes_reads_no_quantiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = home_with(tmp_path, 40)
    with table_reads(monkeypatch) as reads:
        assert runs.score(ORIGIN - 1) == 0
    assert {name for name, _, _ in reads} == {"predictions", "scores", "calibrator"}
    assert "quantiles" not in {name for _, rows, _ in reads for name in rows.column_names}


@pytest.mark.parametrize("seed", range(int(os.environ.get("SOAK", "1"))))
def test_the_chain_is_that_of_a_walk_over_all_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Late and restated closes, days of the past, revisions, two recipes: settled days never move."""
    draw = random.Random(seed)  # noqa: S311 (dice, nothing secret)
    missing = set(draw.sample(range(601, 612), 3))
    frame = candles()[[number not in missing for number in range(1, len(candles()) + 1)]]
    homes = [Home(tmp_path / name).prepare() for name in ("settled", "all days")]
    store(homes[0], frame.reset_index(drop=True))
    shutil.copytree(homes[0].root, homes[1].root, dirs_exist_ok=True)
    other = quick(seed=7)
    for home in homes:
        states_at(home, CHAIN, day(600), NO_OFFSETS, NOW)
        states_at(home, chain_of(other, BTC), day(603), NO_OFFSETS, NOW)
    moves: list[tuple[Any, ...]] = [
        ("forecast", n, draw.choice([PROFILE, PROFILE, other])) for n in range(600, 614)
    ]
    moves += [("forecast", draw.randrange(600, 612), draw.choice([PROFILE, other])) for _ in range(4)]
    moves += [("close", number, close(number)) for number in missing]
    moves += [
        ("close", draw.randrange(601, 610), 4321.0 + seed),
        ("begin", 590, PROFILE),
        ("begin", 595, other),
    ]
    moves += [("score", draw.randrange(605, 615), draw.choice([PROFILE, other])) for _ in range(9)]
    draw.shuffle(moves)
    moves += [("score", 615, PROFILE), ("score", 615, other)]
    for home in homes:
        with monkeypatch.context() as patch:
            if home is homes[1]:
                patch.setattr(calibrator_states, "_settled", first_days_of_the_chain)
            for turn, move in enumerate(moves):
                apply(home, turn, *move)
    states = [calibrator(home).read().sort_by("calibrator_version").to_pylist() for home in homes]
    assert len(states[0]) > 10
    assert states[0] == states[1]


def first_days_of_the_chain(_home: Home, _chain: Any, links: pd.DataFrame, _origin: date) -> dict[int, date]:
    """The oldest day of each branch that has begun: everything after it is computed anew."""
    begins = links[links["prediction_id"].isna()].groupby("horizon")["target_day"].min()
    return {int(str(horizon)): day.date() for horizon, day in begins.items()}


def apply(home: Home, turn: int, kind: str, number: int, given: Any) -> None:
    """Make a move; a missing day may be scored and forecast before its close is stored."""
    profile: CalibratedProfile = given if kind != "close" else PROFILE
    runs, moment = Runs(home, profile), NOW + timedelta(hours=turn)
    if kind == "forecast":
        put_forecast(home, number, f"p{turn}", profile=profile)
    elif kind == "close":
        runs.restate(number, given)
    elif kind == "begin":
        states_at(home, chain_of(profile, BTC), day(number), {1: np.full(len(LEVELS), 0.01)}, NOW)
    else:
        runs.score(number, moment)
