"""JSON alone where it was asked for, colours and bars on terminals only, completion."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from closecast.flows.cli import terminal
from closecast.flows.cli.commands import EXIT_FAILED, _described
from closecast.flows.cli.row_files import Format
from closecast.storage.core.errors import BadQuery
from tests.helpers import PROJECT, home_with, made_up, trained_home
from tests.processes import closecast_process


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a shell with a home of 60 days and one model, whose weights were changed."""
    home, _, _ = trained_home(tmp_path_factory, tmp_path_factory.mktemp("terminal") / "home")
    (weights,) = home.models.rglob("*.weights.h5")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xee")
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return {**plain, "CLOSECAST_HOME": str(home.root), "TERM": "xterm-256color", "COLUMNS": "60"}


@pytest.fixture
def sound(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The same shell on a home of a few closes, with which nothing is wrong."""
    return {**environment, "CLOSECAST_HOME": str(home_with(tmp_path / "sound", made_up(5)).root)}


def piped(environment: dict[str, str], *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return closecast_process(*words, variables={**environment, **more})


def on_a_terminal(environment: dict[str, str], *words: str, **more: str) -> str:
    """What the command writes where both of its streams are a terminal."""
    ours, theirs = pty.openpty()
    with ThreadPoolExecutor(1) as pool:
        output = pool.submit(lambda: b"".join(_pieces(ours)))
        closecast_process(*words, variables={**environment, **more}, terminal=os.ttyname(theirs))
        os.close(theirs)
        printed = output.result()
    os.close(ours)
    return printed.decode()


def _pieces(end: int) -> Iterator[bytes]:
    while select.select([end], [], [], 120)[0]:
        try:
            piece = os.read(end, 2**16)
        except OSError:  # Linux raises it when the other end is closed
            return
        if not piece:
            return
        yield piece


def test_standard_output_has_only_json(
    environment: dict[str, str], sound: dict[str, str], tmp_path: Path
) -> None:
    changed = piped(environment, "verify", "--json")
    assert (changed.returncode, len(json.loads(changed.stdout)["findings"])) == (1, 1)
    assert changed.stderr.startswith("closecast: changed, missing or contradictory: 1")
    assert changed.stderr.count("\n") == 1
    whole = piped(sound, "verify", "--json")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert json.loads(whole.stdout)["findings"] == []
    assert json.loads(whole.stdout)["checked"]["data versions"] == 1

    kept = piped(sound, "backup", str(tmp_path / "kept.tar"), "--json")
    archive = json.loads(kept.stdout)
    assert archive["bytes"] == (tmp_path / "kept.tar").stat().st_size
    back = piped(sound, "restore", archive["file"], "--home", str(tmp_path / "back"), "--json")
    assert json.loads(back.stdout) == {"home": str(tmp_path / "back"), "files": archive["files"]}

    board = json.loads(piped(environment, "score", "--json").stdout)
    assert (board["product_id"], board["last"], board["alarms"]) == ("BTC-USD", None, [])
    upkeep = json.loads(piped(environment, "maintain", "--dry-run", "--json").stdout)
    assert upkeep == {"dry_run": True, "tables": [], "pruned": []}
    (version,) = json.loads(piped(environment, "versions", "--json").stdout)
    assert version["product_id"] == "BTC-USD"


def test_with_json_an_import_logs_to_standard_error(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "closes.csv").write_text("date,close\n2024-01-01,2352.33\n2024-01-02,2355.34\n")
    words = ("import", str(tmp_path / "closes.csv"), "--product", "ETH-USD", "--home", str(tmp_path / "home"))
    done = piped(environment, *words, "--json")
    assert done.returncode == 0, done.stderr
    series = json.loads(done.stdout)
    assert (series["new_days"], series["first_day"], series["gaps"]) == (2, "2024-01-01", [])
    assert "2 rows of closes.csv" in done.stderr
    assert "2 rows of closes.csv" in piped(environment, *words).stdout


def test_colours_are_for_terminals_and_force_color_and_bars_for_terminals(
    environment: dict[str, str],
) -> None:
    red = "\x1b[1;31m"
    plain = piped(environment, "verify")
    assert "\x1b" not in plain.stdout + plain.stderr
    forced = piped(environment, "verify", FORCE_COLOR="1")
    assert f"{red}WRONG: " in forced.stdout
    assert f"{red}closecast:" in forced.stderr
    # No line is cut in a pipe, coloured or not.
    assert max(map(len, forced.stdout.splitlines())) > 90  # of a terminal of 60 columns
    drawn = on_a_terminal(environment, "verify")
    assert red in drawn
    assert "files of models" in drawn
    assert "\x1b[?25l" in drawn  # the cursor is hidden while a bar is drawn
    none = on_a_terminal(environment, "verify", NO_COLOR="1")
    assert "WRONG: " in none
    assert "\x1b[1;31m" not in none
    assert "\x1b[31m" not in none


def test_json_has_days_as_text_and_null_for_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json({"day": date(2019, 10, 17), "ratio": float("inf"), 80: [float("nan"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"day": "2019-10-17", "ratio": None, "80": [None, 1.5]}


@pytest.mark.parametrize("output", ["table", "csv", "json"])
def test_days_outside_the_years_1_to_9999_are_refused(output: Format) -> None:
    days = pa.table({"day": pa.array([2**31 - 1], pa.int32()).view(pa.date32())})
    with pytest.raises(BadQuery, match="outside the years 1 to 9999: select it as text"):
        terminal.print_rows(days, output)


def test_a_command_works_without_standard_streams(environment: dict[str, str]) -> None:
    command = f'{sys.executable} -m closecast "$@" <&- >&- 2>&-'
    for words, code in ((("versions",), 0), (("sql", "delete from closes"), 1)):
        done = subprocess.run(
            ["bash", "-c", command, "bash", *words], cwd=PROJECT, env=environment, timeout=120
        )
        assert done.returncode == code, words


def completed(environment: dict[str, str], typed: str) -> list[str]:
    """The completions that bash gets for the last word."""
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split(" ")) - 1)}
    return piped(environment, **words, _CLOSECAST_COMPLETE="complete_bash").stdout.split()


def test_completion_offers_commands_products_profiles_and_settings(environment: dict[str, str]) -> None:
    assert completed(environment, "closecast ver") == ["versions", "verify"]
    assert completed(environment, "closecast run --product ") == ["BTC-USD"]
    assert completed(environment, "closecast run --product E") == []
    assert completed(environment, "closecast run --profile a") == ["article"]
    settings = completed(environment, "closecast run --set fine_tune_e")
    assert settings == ["fine_tune_every_days=", "fine_tune_epochs="]
    assert completed({**environment, "CLOSECAST_HOME": "/nowhere"}, "closecast run --product ") == []


HEADER = ("target_day", "CRPS / best baseline", "digest", "80 %")
ROWS = [["2019-10-18", "0.9914 (har_120_t, p .3)", "e1ddf341" * 4, "7,800.00 to 8,200.00"]] * 2
SHORT = [[row[0], "0.9914", *row[2:]] for row in ROWS]


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip(" ─")]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A terminal of so many columns."""
    monkeypatch.setattr(
        terminal, "console", lambda **_: Console(file=sys.stdout, highlight=False, width=request.param)
    )


@pytest.mark.parametrize(
    ("narrow", "columns"),
    [(200, [0, 1, 2, 3]), (80, [0, 1, 2, 3]), (72, [0, 1, 3]), (45, [0, 1, 3]), (40, [0, 1]), (5, [0])],
    indirect=["narrow"],
)
@pytest.mark.usefixtures("narrow")
def test_a_narrow_terminal_gets_fewer_columns_and_whole_cells(
    columns: list[int], capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    terminal.print_table("", HEADER, ROWS, short=SHORT, least=["digest"])
    width = request.node.callspec.params["narrow"]
    cells = ROWS[0] if width == 200 else [SHORT[0][number] for number in columns]
    lines = shown(capsys)
    assert sum("  ".join(line.split()) == "  ".join(" ".join(cells).split()) for line in lines) == 2
    assert width == 5 or max(map(len, lines)) <= width or lines[-1].startswith("not shown: ")
    missing = ", ".join(name for number, name in enumerate(HEADER) if number not in columns)
    assert (lines[-1] == f"not shown: {missing} (--wide shows all, in full)") == bool(missing)


@pytest.mark.parametrize("narrow", [40], indirect=True)
@pytest.mark.usefixtures("narrow")
def test_wide_shows_all_columns_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table("", HEADER, ROWS, short=SHORT, least=["digest"], wide=True)
    lines = shown(capsys)
    assert all(cell in lines[-1] for cell in ROWS[0])
    assert all(name in lines[0] for name in HEADER)


@pytest.mark.parametrize("narrow", [60], indirect=True)
@pytest.mark.usefixtures("narrow")
def test_figures_on_a_narrow_terminal_are_rounded_and_still_told_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    moment = datetime(2019, 10, 17, 12, 30, 1, 250_000, tzinfo=UTC)
    row = {"low": 1.0004123456789, "high": 1.0005123456789, "tiny": 1.2345678912e-8, "volume": 123456789.25}
    rows = pa.Table.from_pylist([{**row, "at": moment, "none": None}])
    terminal.print_rows(rows, "table")
    (line,) = (line for line in shown(capsys) if "1.0004" in line)
    assert line.split() == ["1.000412", "1.000512", "1.234568e-08", "123456789"]
    terminal.print_rows(rows, "table", wide=True)
    assert "1.0004123456789   1.0005123456789" in capsys.readouterr().out
    terminal.print_rows(rows.slice(0, 0), "table")
    assert shown(capsys)[-1] == "no rows"


@pytest.mark.parametrize("narrow", [9], indirect=True)
@pytest.mark.usefixtures("narrow")
def test_a_table_without_rows_or_names_is_printed_too(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table("", ["", "data files"], [])
    assert shown(capsys)[-1] == "not shown: data files (--wide shows all, in full)"


def test_into_a_pipe_nothing_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table("", HEADER, ROWS, short=SHORT, least=["digest"])
    *_, line = shown(capsys)
    assert all(cell in line for cell in ROWS[0])


@pytest.mark.parametrize("narrow", [40], indirect=True)
@pytest.mark.usefixtures("narrow")
def test_facts_on_a_narrow_terminal_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_facts("BTC-USD", [("forecast", "1.00 EUR"), ("data", "BTC-USD@1:" + "ab" * 32)])
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert "".join(printed.split()).endswith("dataBTC-USD@1:" + "ab" * 32)


def test_every_command_fits_a_terminal_of_80_columns(environment: dict[str, str]) -> None:
    for words in (("versions",), ("predictions",), ("score",), ("verify",), ("sql", "select * from closes")):
        printed = on_a_terminal({**environment, "NO_COLOR": "1"}, *words, COLUMNS="80")
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed).splitlines()
        whole = [line for line in lines if not line.startswith(("not shown: ", "WRONG: ", "closecast: "))]
        assert max(map(len, whole)) <= 80, (words, whole)
        assert "…" not in printed
    wide = on_a_terminal({**environment, "NO_COLOR": "1"}, "versions", "--wide", COLUMNS="80")
    assert "code_version" in wide


def test_a_missing_right_is_named_without_the_word_errno() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "home/models/x")
    line = "home/models/x cannot be used: permission denied; correct its rights, or replace it"
    assert _described(error) == (line, EXIT_FAILED)
    assert _described(OSError("no name"))[0].startswith("OSError: no name")
