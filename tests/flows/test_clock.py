from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from closecast.flows.clock import last_complete_day
from tests.helpers import PROJECT


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        (datetime(2019, 10, 18, 0, 5, tzinfo=UTC), date(2019, 10, 17)),
        (datetime(2019, 10, 18, 0, 4, 59, 999_999, tzinfo=UTC), date(2019, 10, 16)),
        (datetime(2019, 10, 18, 0, 0, tzinfo=UTC), date(2019, 10, 16)),
        (datetime(2019, 10, 18, 23, 59, 59, tzinfo=UTC), date(2019, 10, 17)),
        (datetime(2020, 3, 1, 12, tzinfo=UTC), date(2020, 2, 29)),
        (datetime(2020, 1, 1, 0, 10, tzinfo=UTC), date(2019, 12, 31)),
        # Other time zones have another date.
        (datetime(2019, 10, 18, 9, 0, tzinfo=timezone(timedelta(hours=10))), date(2019, 10, 16)),
        (datetime(2019, 10, 17, 20, 30, tzinfo=timezone(timedelta(hours=-4))), date(2019, 10, 17)),
    ],
)
def test_the_last_complete_day_by_utc(moment: datetime, day: date) -> None:
    assert last_complete_day(moment) == day


def test_only_flows_clock_reads_the_clock() -> None:
    reads = re.compile(r"\b(now|utcnow|today)\(|time\.time\(")
    readers = [
        f"{path.relative_to(PROJECT)}: {line.strip()}"
        for path in [
            *PROJECT.glob("*.py"),
            *(p for room in ("flows", "tasks", "storage") for p in (PROJECT / room).rglob("*.py")),
        ]
        for line in path.read_text(encoding="utf-8").splitlines()
        if reads.search(line) and path != PROJECT / "flows" / "clock.py" and "clock.now()" not in line
    ]
    assert readers == []
