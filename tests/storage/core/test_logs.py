"""A log file that cannot be written is skipped, and nothing reaches standard error."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from closecast.storage.core.home import Home
from closecast.storage.core.logs import log_to_file, native_stderr_to_log

LOGGERS = ("closecast", "prefect")


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Remove the handlers that a test added."""
    before = {name: list(logging.getLogger(name).handlers) for name in LOGGERS}
    yield
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for handler in [handler for handler in logger.handlers if handler not in before[name]]:
            logger.removeHandler(handler)
            handler.close()


def test_a_log_file_that_cannot_be_created_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = log_to_file(Home(tmp_path))  # its folder is not there
    log = logging.getLogger("closecast.test")
    log.warning("one")
    assert capsys.readouterr().err == ""
    path.parent.mkdir()
    log.warning("two")
    assert path.read_text(encoding="utf-8").endswith("closecast.test: two\n")


def test_a_full_disk_is_ignored(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    (home.logs / "closecast.log").symlink_to("/dev/full")
    log_to_file(home)
    for number in range(3):
        logging.getLogger("closecast.test").warning("line %d", number)
    assert capsys.readouterr().err == ""


def test_a_bug_in_a_log_call_is_still_reported(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("closecast"), "propagate", False)  # pytest's own would raise
    log_to_file(home)
    logging.getLogger("closecast.test").warning("%d lines", "three")
    assert "Logging error" in capsys.readouterr().err


def test_native_standard_error_goes_to_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "closecast.native")
    with contextlib.suppress(ValueError), native_stderr_to_log():
        os.write(2, b"from C++\n")
        raise ValueError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
    assert caplog.messages == ["from C++"]


def test_addresses_in_lines_and_tracebacks_are_masked(home: Home) -> None:
    path, log = log_to_file(home), logging.getLogger("closecast.test")
    url = "https://me:secret@exchange.example/products?key=secret"
    try:
        raise ConnectionError(f"no route to {url}")
    except ConnectionError:
        log.warning("no response from %s", url, exc_info=True)
    written = path.read_text(encoding="utf-8")
    assert written.count("https://***@exchange.example/products?***") == 2
    assert "secret@" not in written
    assert "=secret" not in written
