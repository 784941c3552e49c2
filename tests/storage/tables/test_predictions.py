from __future__ import annotations

import os
import random
import signal
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from closecast.storage.core.errors import HomeBusy
from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import PREDICTIONS
from tests.helpers import BTC, FIRST, one_line
from tests.processes import process_for, run_at_once
from tests.storage.tables.rows import forecast, version


@pytest.fixture
def table(home: Home) -> Predictions:
    return Predictions(home)


def revisions(table: Predictions, *rows: dict[str, Any]) -> list[int]:
    return [row["revision"] for row in table.publish(rows)]


def test_the_horizons_of_a_run_are_one_commit(table: Predictions) -> None:
    run = [forecast(f"h{days}", days - 1, origin_day=FIRST, horizon=days) for days in (3, 1, 2)]
    table.publish([forecast("other", 9)])
    before = version(table)
    stored = table.publish(run)
    assert [row["prediction_id"] for row in stored] == ["h3", "h1", "h2"]
    assert version(table) == before + 1
    assert table.publish([row | {"point": 7.0} for row in run]) == stored
    assert version(table) == before + 1
    # Another horizon of the same target day is no revision, the same horizon is one.
    later = [forecast(f"l{days}", days, origin_day=FIRST, horizon=days) for days in (1, 2)]
    assert revisions(table, *later) == [0, 0]
    again = [forecast(f"a{days}", days - 1, origin_day=FIRST, horizon=days) for days in (1, 2, 3)]
    assert revisions(table, *again, run[0]) == [1, 1, 1, 0]
    assert version(table) == before + 3


def test_revisions_are_counted_per_product_profile_and_day(table: Predictions) -> None:
    assert revisions(table, forecast("a")) == [0]
    assert revisions(table, forecast("b")) == [1]
    assert revisions(table, forecast("c", 1)) == [0]
    assert revisions(table, forecast("d", product_id="ETH-USD")) == [0]
    assert revisions(table, forecast("e", profile="calibrated")) == [0]
    assert revisions(table, forecast("f")) == [2]
    assert revisions(table, forecast("b")) == [1]
    columns = table.between().select(["prediction_id", "revision"]).to_pydict()
    assert columns == {"prediction_id": list("abfedc"), "revision": [0, 1, 2, 0, 0, 0]}


def test_spans_are_inclusive_and_sorted(table: Predictions) -> None:
    for offset in (3, 0, 2, 1):
        table.publish([forecast(f"btc{offset}", offset)])
        table.publish([forecast(f"eth{offset}", offset, "ETH-USD")])

    def ids(*given: Any, **more: Any) -> list[str]:
        return table.between(*given, **more)["prediction_id"].to_pylist()

    assert ids(BTC) == ["btc0", "btc1", "btc2", "btc3"]
    assert ids(BTC, FIRST + timedelta(days=2), FIRST + timedelta(days=3)) == ["btc1", "btc2"]
    assert ids(None, FIRST + timedelta(days=4)) == ["btc3", "eth3"]
    assert ids(last=FIRST + timedelta(days=1)) == ["btc0", "eth0"]
    assert ids(BTC, date(2021, 1, 1)) == ids("LTC-USD") == ids(profile="calibrated") == []


def test_columns_and_the_newest(table: Predictions) -> None:
    assert table.newest(BTC, "article", 3).num_rows == 0
    for offset in (5, 0, 9, 3):
        table.publish([forecast(f"p{offset}", offset)])
    table.publish([forecast("again", 3)])
    table.publish([forecast("other", 9, profile="calibrated")])
    table.publish([forecast("eth", 9, "ETH-USD")])
    whole = table.between(BTC, profile="article")
    for columns in (["prediction_id"], ["revision", "point"]):
        assert table.between(BTC, profile="article", columns=columns) == whole.select(columns)
        for count in (1, 2, 3, 4, 5, 9):  # also in the middle of a day with a revision
            newest = table.newest(BTC, "article", count, columns)
            assert newest.to_pylist() == whole.select(columns).to_pylist()[-count:]
    assert table.newest(BTC, "article", 9).schema == PREDICTIONS.arrow


def publish_some(home: Home, worker: int) -> None:
    """Three forecasts of the worker's own day, one of a day that all share, and one that all publish."""
    table = Predictions(home)
    for turn in range(3):
        table.publish([forecast(f"own-{worker}-{turn}", 10 + worker)])
    table.publish([forecast(f"day-{worker}", 1)])
    table.publish([forecast("same", 2)])


def test_several_processes_publish_at_once(home: Home) -> None:
    run_at_once(publish_some, *((home, n) for n in range(3)))  # the first of them create the table at once
    rows = Predictions(home).read().to_pylist()
    own = [f"own-{worker}-{turn}" for worker in range(3) for turn in range(3)]
    ids = sorted(row["prediction_id"] for row in rows)
    assert ids == sorted([*own, *(f"day-{n}" for n in range(3)), "same"])
    days: dict[date, list[int]] = {}
    for row in rows:
        days.setdefault(row["target_day"], []).append(row["revision"])
    assert all(sorted(numbers) == list(range(len(numbers))) for numbers in days.values())


def publish_until_killed(home: Home) -> None:
    table = Predictions(home)
    for n in range(10_000):
        (stored,) = table.publish([forecast(f"id-{n}", n // 3)])
        with (home.root / "log").open("a") as log:
            log.write(f"{stored['prediction_id']} {stored['revision']}\n")


def test_killed_while_publishing(tmp_path: Path) -> None:
    draw = random.Random(7)  # noqa: S311 - when to be killed, not a secret
    for turn in range(4):
        home = Home(tmp_path / str(turn)).prepare()
        process = process_for(publish_until_killed, home)
        process.start()
        deadline = time.monotonic() + 30
        while turn and not (home.root / "log").exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        table = Predictions(home)
        stored = table.between().to_pylist()
        logged = (home.root / "log").read_text().splitlines() if (home.root / "log").exists() else []
        # What was logged is stored; of the rest at most the row whose writing was over.
        assert [f"{row['prediction_id']} {row['revision']}" for row in stored[: len(logged)]] == logged
        assert len(stored) - len(logged) in (0, 1)
        for n in range(len(stored) + 2):
            assert revisions(table, forecast(f"id-{n}", n // 3)) == [n % 3]
        assert table.read().num_rows == len(stored) + 2


def test_endless_conflicts_raise_home_busy(table: Predictions, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltalake.exceptions import CommitFailedError

    def conflict(*_: object) -> int:
        raise CommitFailedError("somebody else was faster")

    monkeypatch.setattr("closecast.storage.tables.delta.Table.insert", conflict)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with pytest.raises(HomeBusy, match=str(table.folder), check=one_line):
        table.publish([forecast("a")])
