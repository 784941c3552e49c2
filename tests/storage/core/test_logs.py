"""A log file that cannot be written is done without, and standard error stays as it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.core.home import Home
from storage.core.logs import log_to_file

LOGGERS = ("closecast", "prefect")


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Take what a test added from the loggers again."""
    before = {name: list(logging.getLogger(name).handlers) for name in LOGGERS}
    yield
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for handler in [one for one in logger.handlers if one not in before[name]]:
            logger.removeHandler(handler)
            handler.close()


def test_a_log_file_that_cannot_be_made_is_done_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = log_to_file(Home(tmp_path))  # its folder is not there
    log = logging.getLogger("closecast.test")
    log.warning("one")
    assert capsys.readouterr().err == ""
    path.parent.mkdir()
    log.warning("two")
    assert path.read_text(encoding="utf-8").endswith("closecast.test: two\n")


def test_a_full_disk_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path).prepare()
    (home.logs / "closecast.log").symlink_to("/dev/full")
    log_to_file(home)
    for number in range(3):
        logging.getLogger("closecast.test").warning("line %d", number)
    assert capsys.readouterr().err == ""


def test_a_mistake_of_ours_is_still_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("closecast"), "propagate", False)  # pytest's own would raise
    log_to_file(Home(tmp_path).prepare())
    logging.getLogger("closecast.test").warning("%d lines", "three")
    assert "Logging error" in capsys.readouterr().err
