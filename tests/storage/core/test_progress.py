from __future__ import annotations

import pytest

from closecast.storage.core.progress import progress_listener, report_progress


def test_a_listener_receives_progress_only_while_it_listens() -> None:
    received: list[tuple[str, int, int | None]] = []
    report_progress("before", 1)
    with progress_listener(lambda *progress: received.append(progress)):
        report_progress("folds", 1, 2)
        report_progress("files", 7)
    report_progress("after", 1)
    with (
        pytest.raises(ValueError, match="the work"),
        progress_listener(lambda *progress: received.append(progress)),
    ):
        raise ValueError("the work")
    report_progress("after a failure", 1)
    assert received == [("folds", 1, 2), ("files", 7, None)]
