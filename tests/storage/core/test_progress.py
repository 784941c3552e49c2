"""Who listens is told how far the work is; nobody else is."""

from __future__ import annotations

import pytest

from storage.core.progress import tell, told_to


def test_who_listens_is_told_and_nobody_else() -> None:
    heard: list[tuple[str, int, int | None]] = []
    tell("before", 1)
    with told_to(lambda *told: heard.append(told)):
        tell("folds", 1, 2)
        tell("files", 7)
    tell("after", 1)
    assert heard == [("folds", 1, 2), ("files", 7, None)]


def test_a_failure_ends_the_listening() -> None:
    heard: list[str] = []
    with pytest.raises(ValueError, match="the work"), told_to(lambda what, *_: heard.append(what)):
        raise ValueError("the work")
    tell("after", 1)
    assert heard == []
