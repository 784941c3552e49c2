"""The commands as users type them: real processes, real files, one line about an error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from closecast.storage.core.home import Home
from closecast.storage.models.registry import Models
from closecast.storage.prices.price_store import Prices
from closecast.storage.reports import Reports
from closecast.storage.tables.predictions import Predictions
from closecast.tasks.profiles.baselines import baselines_of
from tests.exchange import Exchange
from tests.helpers import PROJECT, to_csv
from tests.processes import Result, closecast_here, closecast_process

LAST = date(2021, 6, 30)
QUICK = ("--profile", "article", "--set", "epochs=1", "--set", "units=4")


class Shell:
    """Runs `closecast` on one home, in a process of its own."""

    def __init__(self, home: Path, api_url: str) -> None:
        self.home = home
        self.variables = {"PREFECT_API_URL": api_url, "CLOSECAST_HOME": str(home)}
        self.environment = {**os.environ, **self.variables}
        self.environment.pop("COLUMNS", None)

    def __call__(self, *words: str, **variables: str) -> Result:
        done = closecast_process(*words, variables={**self.environment, **variables})
        return Result(done.returncode, done.stdout, done.stderr)

    def here(self, *words: str, **variables: str) -> Result:
        """The same in this process, where TensorFlow has compiled its graphs already."""
        return closecast_here(*words, **{**self.variables, **variables})

    def refuses(self, *words: str, here: bool = False, **variables: str) -> str:
        """The one line that a refused command prints; it must have stored nothing."""
        before = self.stored()
        done = (self.here if here else self)(*words, **variables)
        assert done.code in (1, 2), done
        assert re.fullmatch(r"closecast: .+\n", done.err)
        assert self.stored() == before
        return done.err.rstrip()

    def stored(self) -> tuple[int, ...]:
        """Rows in every table, and model versions."""
        if not (self.home / "prices.db").exists():
            return (0, 0, 0, 0)
        home = Home(self.home)
        with Prices(home) as prices:
            candles, closes = (prices.table(name).num_rows for name in ("candles", "closes"))
        return (candles, closes, Predictions(home).read().num_rows, len(Models(home).versions()))

    def query(self, sql: str) -> list[dict[str, Any]]:
        done = self.here("sql", sql, "--format", "json")
        assert done.code == 0, done.err
        return json.loads(done.out)


@pytest.fixture
def shell(tmp_path: Path, prefect_server: str) -> Shell:
    return Shell(tmp_path / "home", prefect_server)


@pytest.fixture(scope="module")
def candle_file(tmp_path_factory: pytest.TempPathFactory, walk: Callable[..., pd.DataFrame]) -> Path:
    path = tmp_path_factory.mktemp("csv") / "ada-usd.csv"
    path.write_bytes(to_csv(walk(LAST)))
    return path


@pytest.fixture
def exchange(walk: Callable[..., pd.DataFrame]) -> Iterator[Exchange]:
    yesterday = pd.Timestamp(datetime.now(UTC).date()) - pd.Timedelta(days=1)
    with Exchange({"ADA-USD": walk(yesterday.date(), days=60)}) as server:
        yield server


def test_a_run_prints_the_forecast_and_the_next_makes_nothing_new(shell: Shell) -> None:
    first = shell("run", "--source", "sample", *QUICK)
    assert first.code == 0, first.err
    assert first.err == ""
    assert "BTC-USD: close of 2019-10-18" in first.out
    assert "8,034.32 USD on 2019-10-17" in first.out
    assert "gap from 2019-03-20 to 2019-03-31, 12 days" in first.out
    assert f"Stored in {shell.home / 'predictions'} (Delta)" in first.out
    announced = re.compile(r".*loading (TensorFlow|MLflow)( took \d+\.\d s)?\n")
    others = announced.sub("", first.out.replace(str(PROJECT), "")).lower()
    assert not any(word in others for word in ("prefect", "tensorflow", "mlflow", "cuda"))
    stored = shell.stored()
    assert stored == (1770, 1770, 1, 1)
    page = shell.home / "reports" / "BTC-USD.article.html"
    assert f"report written to {page}" in first.out
    written = page.stat().st_mtime_ns

    # By default a product keeps its source.
    again = shell.here("run", *QUICK)
    assert "nothing new; the forecast for 2019-10-18 is already stored" in again.out
    assert (shell.stored(), page.stat().st_mtime_ns) == (stored, written)
    page.unlink()
    assert shell.here("report", "--product", "BTC-USD").out == f"{page}\n"
    assert page.is_file()
    (row,) = shell.query("select * from predictions")
    assert row["last_close"] == 8034.32
    assert row["lower_95"] is None
    assert row["revision"] == 0
    assert str(row["prediction_id"]) in again.out


def test_a_report_needs_a_forecast(shell: Shell) -> None:
    shell.home.mkdir()
    assert "has none: make one with `closecast run`" in shell.refuses("report", here=True)
    line = shell.refuses("report", "--product", "ETH-USD", "--profile", "article", here=True)
    assert "it has no product yet: make a run with `closecast run --product ETH-USD`, or import" in line
    assert not (shell.home / "reports").exists()


def test_import_run_query_maintain_and_reproduce(shell: Shell, candle_file: Path) -> None:
    done = shell.here("import", str(candle_file), "--product", "ADA-USD")
    assert done.code == 0, done.err
    assert "60 new days, 0 restated, 0 quarantined" in done.out
    assert "0 new days" in shell.here("import", str(candle_file), "--product", "ADA-USD").out
    assert "ADA-USD: close of 2021-07-01" in shell("run", "--product", "ADA-USD", *QUICK).out
    assert shell.here("run", "--product", "ADA-USD", "--as-of", "2021-06-29", *QUICK).code == 0

    rows = json.loads(shell.here("predictions", "--format", "json").out)
    assert [row["target_day"] for row in rows] == ["2021-06-30", "2021-07-01"]
    assert [row["model_version"] for row in rows] == ["2", "1"]
    assert shell.here("predictions", "--from", "2021-07-01", "--format", "csv").out.count("\n") == 2
    for command in ("predictions", "versions", "score", "backtest", "report", "rollback"):
        refusal = shell.refuses(command, "--product", "ADA-USDT", here=True)
        assert "ADA-USDT is not in" in refusal, command
        assert "(did you mean ADA-USD?); it has ADA-USD: make a run with `closecast run" in refusal, command
    refusal = shell.refuses("rollback", "--product", "ADA-USD", "--profile", "article", here=True)
    assert "cannot be rolled back" in refusal
    refusal = shell.refuses("report", "--product", "ADA-USD", "--profile", "calibrated", here=True)
    assert refusal.endswith("make one with `closecast run --product ADA-USD --profile calibrated`")
    assert "2021-07-01" in shell.here("predictions").out
    versions = json.loads(shell.here("versions", "--format", "json").out)
    assert [(row["version"], row["aliases"]) for row in versions] == [("2", ""), ("1", "champion")]
    assert all(re.fullmatch(r"ADA-USD@\d+:[0-9a-f]{64}", row["data_version"]) for row in versions)
    joined = "select p.point > 0 as up from predictions p join closes c on c.day_utc = p.target_day"
    assert shell.query(joined) == [{"up": True}]

    before = shell.stored()
    planned = shell.here("maintain", "--prune", "--dry-run")
    assert planned.code == 0, planned.err
    assert re.search(r"predictions +2 *\n", planned.out)
    assert "nothing to delete" in planned.out
    done = shell.here("maintain", "--prune")
    assert re.search(r"predictions +2 +1 +0 *\n", done.out), done.out
    assert (shell.stored(), done.err) == (before, "")

    again = shell.here("reproduce", rows[-1]["prediction_id"], "--retrain")  # made in another process
    assert again.code == 0, again.err
    assert again.err == ""
    assert re.search(r"point +1 +the same bits", again.out)
    assert re.search(r"weights of network 1 +\d+ +the same bits", again.out)
    assert "Reproduced to the last bit." in again.out
    assert "no forecast 'abc'" in shell.refuses("reproduce", "abc", here=True)
    back_up_restore_and_verify(shell)


def back_up_restore_and_verify(shell: Shell) -> None:
    """Back the home up, restore it elsewhere, and verify it."""
    file, there = shell.home.with_name("closecast.tar.gz"), shell.home.with_name("there")
    done = shell.here("backup", str(file))
    assert done.code == 0, done.err
    assert f"bytes in {file}" in done.out
    assert shell.here("restore", str(file), "--home", str(there)).code == 0
    whole = shell.here("verify", "--home", str(there))
    assert (whole.code, whole.err) == (0, "")
    assert "Everything is as it was recorded." in whole.out


def test_calibrated_runs_scoreboard_rollback_and_backtest(
    shell: Shell, walk: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    path, frame = tmp_path / "sol-usd.csv", walk(LAST, days=640)
    frame[["day_utc", "close"]].set_axis(["date", "close"], axis=1).to_csv(path, index=False)
    small = ("--set", "units=3", "--set", "members=1", "--set", "epochs=1")
    words = ("run", "--product", "SOL-USD", *small, "--set", "refit_every_days=1")
    first = shell.here(*words, "--csv", str(path), "--as-of", "2021-06-28")
    assert first.code == 0, first.err
    assert "trained without ranges (open, high, low)" in first.out
    assert "trained without BTC-USD, which is not in the database" in first.out
    assert shell.here(*words, "--as-of", "2021-06-29").code == 0
    last = shell.here(*words)
    assert "forecasts scored: 2" in last.out  # of the day before, and of two days before
    (row,) = shell.query("select * from predictions where target_day = '2021-07-01' and horizon = 1")
    assert f"{row['lower_80']:,.2f} USD to {row['upper_80']:,.2f} USD" in last.out
    assert "SOL-USD: the next 30 days" in last.out
    again = json.loads(shell.here(*words, "--json").out)
    assert [one["horizon"] for one in again["horizons"]] == [1, 2, 3, 4, 5, 6, 7, 14, 30]
    assert again["prediction_id"] == again["horizons"][0]["prediction_id"] == row["prediction_id"]
    week = json.loads(shell.here("predictions", "--horizon", "7", "--json").out)
    assert [one["target_day"] for one in week] == ["2021-07-05", "2021-07-06", "2021-07-07"]
    assert len(row["quantile_levels"]) == len(row["quantiles"]) == 23

    board = shell.here("score", "--product", "SOL-USD")
    assert board.code == 0, board.err
    assert "forecasts up to 2021-06-30" in board.out
    assert shell.query("select count(*) as n from scores") == [{"n": 3}]
    assert "By horizon" in board.out
    ahead = shell.here("score", "--product", "SOL-USD", "--horizon", "2")
    assert "2 days ahead: forecasts up to 2021-06-30" in ahead.out
    product = ("--product", "SOL-USD")
    load_nothing_heavy(
        shell,
        words,
        ("predictions",),
        ("sql", "select 1"),
        ("versions",),
        ("score", *product),
        ("report", *product),
        ("verify",),
        ("import", str(path), *product),
        ("maintain",),
        ("backup", str(tmp_path / "home.tar")),
        ("restore", str(tmp_path / "home.tar"), "--home", str(tmp_path / "restored")),
        refused=[
            ("run", "--product", "XYZ-USD"),
            ("run", "--csv", "missing.csv"),
            ("run", *product, "--as-of", "2019-11-01"),  # a month after the first close
            ("run", "--set", "members=x"),
        ],
    )

    done = shell.here("rollback", "--product", "SOL-USD", "--to", "1")
    assert "version 1 replaces version" in done.out, done.err
    again = shell.here("rollback", "--product", "SOL-USD", "--to", "1")
    assert "version 1 is already the champion, until" in again.out, again.err
    versions = json.loads(shell.here("versions", "--format", "json").out)
    assert versions[-1]["aliases"] == "champion"
    assert {row["status"] for row in versions} <= {"accepted", "refused", "rolled-back"}

    tested = shell.here("backtest", "--product", "SOL-USD", *small, "--start", "2021-06-20", "--json")
    assert tested.code == 0, tested.err
    summary = json.loads(tested.out)
    assert [(one["horizon"], one["days"]) for one in summary["horizons"]] == [
        *((horizon, 11 - horizon) for horizon in range(1, 8))
    ]
    assert summary["days"] == 10
    counts = "select component, count(*) as n from backtests where horizon = 1 group by component"
    assert [row["n"] for row in shell.query(counts)] == [10] * (2 + len(baselines_of(1)))

    with path.open("a") as more:
        more.write(f"2021-07-01,{frame['close'].iloc[-1] * 1.01}\n")
    assert shell.here("import", str(path), "--product", "SOL-USD").code == 0
    reports = Reports(Home(shell.home))
    assert "of 2 days" in reports.summary("SOL-USD", "calibrated")["covered"]
    assert "forecasts up to 2021-07-01" in shell.here("score", "--product", "SOL-USD").out
    assert "of 3 days" in reports.summary("SOL-USD", "calibrated")["covered"]


HEAVY = ("tensorflow", "keras", "sklearn", "matplotlib", "mlflow", "prefect", "scipy.stats")


def load_nothing_heavy(
    shell: Shell, *commands: tuple[str, ...], refused: Sequence[tuple[str, ...]] = ()
) -> None:
    """Run the commands, one after the other in one process, where no Prefect server is configured."""
    script = (
        "import os, sys, closecast\n"
        "variables = dict(os.environ)\n"
        f"refused, heavy = {[*refused]!r}, {HEAVY!r}\n"
        f"for words in [*refused, *{commands!r}]:\n"
        "    sys.argv = ['closecast', *words]\n"
        "    try: closecast.main()\n"
        "    except SystemExit as end: assert bool(end.code) is (words in refused), words\n"
        "    assert not {*heavy} & sys.modules.keys(), (words, {*heavy} & sys.modules.keys())\n"
        "    os.environ.clear(); os.environ.update(variables)\n"
    )
    variables = {name: value for name, value in shell.environment.items() if name != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "nothing new" in done.stdout


def test_a_run_fetches_and_sources_are_kept_apart(
    shell: Shell, exchange: Exchange, candle_file: Path
) -> None:
    words = ("run", "--source", "coinbase", "--product", "ADA-USD", *QUICK)
    first = shell.here(*words, CLOSECAST_COINBASE_URL=exchange.url)
    assert first.code == 0, first.err
    assert shell.stored() == (60, 60, 1, 1)
    other = ("import", str(candle_file), "--product", "ADA-USD")
    message = shell.refuses(*other, here=True)
    assert "60 days from coinbase" in message
    assert "--replace-source" in message
    assert shell.here(*other, "--replace-source").code == 0
    assert shell.stored() == (120, 60, 1, 1)
    requests = len(exchange.requests)
    assert "60 days from csv" in shell.refuses(*words, here=True, CLOSECAST_COINBASE_URL=exchange.url)
    assert len(exchange.requests) == requests


def test_a_failed_product_is_named_and_the_other_is_forecast(shell: Shell, exchange: Exchange) -> None:
    words = ("run", "--source", "coinbase", "--product", "NONE-USD", "--product", "ADA-USD", "--json")
    done = shell.here(*words, *QUICK, CLOSECAST_COINBASE_URL=exchange.url)
    assert done.code == 1
    (row,) = shell.query("select prediction_id from predictions where product_id = 'ADA-USD'")
    assert [forecast["prediction_id"] for forecast in json.loads(done.out)] == [row["prediction_id"]]
    assert done.err.splitlines()[-1].startswith("closecast: 1 of 2 products have no forecast")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("backtest", "--start", "soon"), "2019-10-17"),
        (("run", "--sauce", "sample"), "(see closecast run --help)"),
        (("frobnicate",), "frobnicate"),
        (("run", "--as-of", "2014-12-20"), "needs 60 days up to 2014-12-20"),
        (("run", "--source", "csv", "--product", "XRP-USD"), "--csv"),
        (("run", "--source", "coinbase", "--csv", "some.csv"), "not coinbase"),
        (("run", "--product", "NONE-USD", "--product", "ADA-USD", "--csv", "a.csv"), "for one product"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    shell: Shell, words: tuple[str, ...], message: str
) -> None:
    shell.home.mkdir()
    assert message in shell.refuses(*words, here=True)


def test_errors_are_one_line_in_a_real_process(shell: Shell) -> None:
    assert "--sauce" in shell.refuses("run", "--sauce", "sample")
    assert "is not over" in shell.refuses("run", "--as-of", "2999-01-01")
    shell.home.mkdir(exist_ok=True)
    # With an interpreter of its own, as a shell starts it.
    command = [sys.executable, "-m", "closecast", "sql", "select count(*) as n from predictions", "--json"]
    done = subprocess.run(command, cwd=PROJECT, env=shell.environment, capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [{"n": 0}], "")


def test_a_command_interrupted_while_it_loads_prints_one_line() -> None:
    code = """
import sys, closecast
class Finder:
    def find_spec(self, name, *_):
        if name == "closecast.flows.cli.commands":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
closecast.main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "closecast: interrupted\n")


@pytest.mark.parametrize(("words", "left"), [(["--version"], True), (["sql", "select x"], False)])
def test_garbage_is_left_at_the_end_unless_duckdb_would_report_it(
    tmp_path: Path, words: list[str], left: bool
) -> None:
    program = "import atexit, gc, sys; atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0))"
    words = [sys.executable, "-c", f"{program}; from closecast import main; main()", *words]
    environment = {**os.environ, "CLOSECAST_HOME": str(tmp_path)}
    done = subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=200)
    assert f"frozen {left}\n" in done.stdout
    assert "nanobind" not in done.stderr


def test_arrow_takes_its_memory_from_the_system(tmp_path: Path) -> None:
    program = (
        "import atexit; from closecast import main;"
        "atexit.register(lambda: print(__import__('pyarrow').default_memory_pool().backend_name)); main()"
    )
    words = [sys.executable, "-c", program, "sql", "select 1", "--home", str(tmp_path)]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=200)
    assert done.stdout.endswith("system\n"), done.stderr


def test_version_and_help_which_fills_the_lines_of_a_paragraph(shell: Shell) -> None:
    assert re.fullmatch(r"closecast \d+\.\d+\.\d+\n", shell.here("--version").out)
    lines = [line.strip() for line in shell.here("score", "-h", COLUMNS="80").out.splitlines()]
    assert "spans; the second has a row for each horizon." in lines


def test_one_file_is_no_files(shell: Shell) -> None:
    (shell.home / "reports").mkdir(parents=True)
    (shell.home / "reports" / "index.html").write_text("a page")
    assert shell.here("backup", str(shell.home.parent / "empty.tar")).out.startswith("1 file, ")
