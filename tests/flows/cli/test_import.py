"""`closecast import`: what it prints, its options, and a dry run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import Result, closecast_here

THOUSANDS = "Date;Close\n2020-01-01;58.120\n2020-01-02;57.800\n"
COINS = "Symbol,Date,Close\nBTC,2020-01-01,7200.5\nETH,2020-01-01,130.25\nETH,2020-01-02,127.5\n"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """`import` of a text in this process."""

    def run(text: str, *words: str) -> Result:
        (tmp_path / "x.csv").write_text(text)
        return closecast_here("import", str(tmp_path / "x.csv"), *words, "--home", str(tmp_path / "home"))

    return run


def refusal(result: Result) -> str:
    code, out, err = result
    assert code in (1, 2)
    assert out == ""
    assert err.count("\n") == 1
    return err


def closes(result: Result) -> list[float]:
    code, out, err = result
    assert code == 0, err
    summary = json.loads(out)
    return [row["close"] for row in (*summary["first_rows"], *summary["last_rows"])]


def test_a_dry_run_prints_what_was_understood_and_stores_nothing(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    days = [f"2020-01-{day:02},{7000 + day}.5,x" for day in range(1, 31) if day not in (5, 8, 9)]
    code, out, _ = run("from a site\nDate,Close,Open\n" + "\n".join(days), "--dry-run")
    assert code == 0
    lines = out.splitlines()
    assert lines[:6] == [
        "x.csv: named columns, text separated by ,, below 1 lines",
        "columns: date from 'Date', close from 'Close', open from 'Open'",
        "units: days written like 2020-10-24, decimal point, prices in the quote currency",
        "unknown: open on 27 days",
        "27 days, 2020-01-01 to 2020-01-30, 2 gaps",
        "gap on 2020-01-05",
    ]
    assert [line.split()[0] for line in lines if line.startswith("  2020")] == [
        f"2020-01-{day:02}" for day in (1, 2, 3, 4, 6, 26, 27, 28, 29, 30)
    ]
    assert lines[-1] == "nothing was stored"
    assert not (tmp_path / "home").exists()


def test_each_option_resolves_its_refusal(run: Callable[..., Result]) -> None:
    dry = ("--dry-run", "--json")
    assert "--decimal point or --decimal comma" in refusal(run(THOUSANDS, *dry))
    assert closes(run(THOUSANDS, *dry, "--decimal", "point")) == [58.12, 57.8]
    assert closes(run(THOUSANDS, *dry, "--decimal", ",")) == [58120.0, 57800.0]
    dates = "Date,Close\n01/02/2020,5\n01/03/2020,6\n"
    assert "--dates day-first or --dates month-first" in refusal(run(dates, *dry))
    _, out, _ = run(dates, *dry, "--dates", "month-first")
    assert (json.loads(out)["first_day"], json.loads(out)["last_day"]) == ("2020-01-02", "2020-01-03")
    assert "--symbol" in refusal(run(COINS, "--dry-run"))
    assert closes(run(COINS, *dry, "--symbol", "eth")) == [130.25, 127.5]
    assert "no row is of 'LTC', its rows are of" in refusal(run(COINS, "--dry-run", "--symbol", "LTC"))
    named = "Tag,Kurs, alt,Stand\n2020-01-01,1,2,3.5\n".replace("Kurs, alt", '"Kurs, alt"').replace(
        "1,2,", "1,"
    )
    assert "--columns date=…,close=…" in refusal(run(named, *dry))
    assert closes(run(named, *dry, "--columns", "date=Tag,close=Stand")) == [3.5]
    assert closes(run(named, *dry, "--columns", "date=1,close=Kurs, alt")) == [1.0]


def test_options_that_say_nothing_are_refused(run: Callable[..., Result]) -> None:
    assert "ROLE=HEADING" in refusal(run(COINS, "--dry-run", "--columns", "Date"))
    assert "--columns knows date, end, open" in refusal(
        run(COINS, "--dry-run", "--columns", "date=Date,last=Close")
    )
    assert "close=… is not named" in refusal(run(COINS, "--dry-run", "--columns", "date=Date"))
    assert "point or comma" in refusal(run(COINS, "--dry-run", "--decimal", "dot"))
    assert "leave it out" in refusal(run(THOUSANDS, "--dry-run", "--decimal", ".", "--symbol", "BTC"))
    assert "the file's product is needed" in refusal(run(COINS))


def test_lines_of_an_import(run: Callable[..., Result]) -> None:
    weekly = "date,close\n" + "\n".join(f"2020-01-{day:02},5" for day in range(1, 30, 7))
    code, out, err = run(weekly, "--product", "ETH-USD")
    assert code == 0
    assert "weekly closes, 5 of them; forecasts are made of daily closes" in out + err
    assert "gap" not in out + err
    gaps = "date,close\n" + "\n".join(
        f"2020-0{month}-0{day},5" for month in range(1, 8) for day in (1, 2, 3, 5, 6)
    )
    _, out, err = run(gaps, "--product", "LTC-USD")
    lines = {line[8:] for line in (out + err).splitlines()}  # without the time
    assert sum("LTC-USD: gap " in line for line in lines) == 5
    assert "13 gaps in all" in out + err
    code, out, err = run(
        "snapped_at,price,market_cap,total_volume\n2020-01-02 00:00:00 UTC,7,1,1\n", "--product", "ADA-USD"
    )
    assert "1 day, 2020-01-01 to 2020-01-01" in out
    assert "its price is the close of the day before" in out + err
