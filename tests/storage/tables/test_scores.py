from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest

from closecast.storage.core.home import Home
from closecast.storage.tables.scores import Scores
from tests.helpers import BTC, FIRST, NOW
from tests.storage.tables.rows import ROWS, version


def score(
    prediction_id: str, close: float, seq: int, *, offset: int = 0, hours: int = 0, product_id: str = BTC
) -> dict[str, Any]:
    """The score of a forecast of FIRST + offset, as the close was known when row `seq` was the newest."""
    return ROWS["scores"] | {
        "prediction_id": prediction_id,
        "product_id": product_id,
        "target_day": FIRST + timedelta(days=offset),
        "close": close,
        "data_version": f"{product_id}@{seq}:ab",
        "scored_at": NOW + timedelta(hours=hours),
    }


@pytest.fixture
def scores(home: Home) -> Scores:
    return Scores(home)


def closes(table: pa.Table) -> list[tuple[str, float]]:
    return list(zip(table["prediction_id"].to_pylist(), table["close"].to_pylist(), strict=True))


def test_adding_again_changes_nothing(scores: Scores) -> None:
    given = [score("a", 1.0, 1), score("b", 2.0, 1, offset=1)]
    assert scores.add(given) == 2
    before = version(scores)
    assert scores.add(given) == 0
    later = [score("a", 1.0, 7, hours=24), score("b", 2.0, 7, offset=1, hours=24)]
    assert scores.add(later) == 0  # newer prices, the same closes
    assert version(scores) == before
    assert scores.between().to_pylist() == given


def test_a_restated_close_adds_the_newest_score(scores: Scores) -> None:
    scores.add([score("a", 1.0, 1), score("b", 2.0, 1, offset=1)])
    restated = [score("b", 2.0, 3, offset=1, hours=24), score("a", 1.5, 3, hours=24)]
    assert scores.add(restated) == 1
    assert scores.add(restated) == 0
    assert closes(scores.between(BTC)) == [("a", 1.0), ("a", 1.5), ("b", 2.0)]
    assert closes(scores.newest(BTC)) == [("a", 1.5), ("b", 2.0)]
    assert scores.add([score("a", 1.0, 4, hours=48)]) == 1  # back to what it was: a third row
    assert closes(scores.newest(BTC)) == [("a", 1.0), ("b", 2.0)]
    assert scores.newest(BTC)["data_version"].to_pylist()[0] == f"{BTC}@4:ab"


def test_a_score_from_older_prices_is_not_the_newest(scores: Scores) -> None:
    scores.add([score("a", 1.5, 5, hours=24)])
    older = score("a", 1.0, 1)
    assert scores.add([older]) == 1
    assert scores.add([older]) == 0
    assert closes(scores.newest()) == [("a", 1.5)]


def test_spans_are_inclusive_and_products_apart(scores: Scores) -> None:
    for offset in (2, 0, 3, 1):
        scores.add([score(f"btc{offset}", 1.0, offset, offset=offset)])
        scores.add([score(f"eth{offset}", 1.0, offset, offset=offset, product_id="ETH-USD")])

    def ids(*given: Any, **more: Any) -> list[str]:
        ids: list[str] = scores.between(*given, **more)["prediction_id"].to_pylist()
        assert scores.newest(*given, **more)["prediction_id"].to_pylist() == ids
        return ids

    assert ids(BTC) == ["btc0", "btc1", "btc2", "btc3"]
    assert ids("ETH-USD", first=FIRST + timedelta(days=1), last=FIRST + timedelta(days=2)) == ["eth1", "eth2"]
    assert ids(first=FIRST + timedelta(days=3)) == ["btc3", "eth3"]
    assert ids(last=FIRST) == ["btc0", "eth0"]
    assert ids("LTC-USD") == ids(BTC, first=date(2030, 1, 1)) == []


def test_columns_and_single_days(scores: Scores) -> None:
    given = [score(f"p{offset}", 1.0, 1, offset=offset) for offset in (4, 0, 2)]
    scores.add([*given, score("p2", 2.0, 2, offset=2, hours=1), score("p2", 3.0, 10, offset=2, hours=1)])
    for columns in (["close"], ["covered_80", "prediction_id"]):
        assert scores.between(BTC, columns=columns) == scores.between(BTC).select(columns)
        assert scores.newest(BTC, columns=columns) == scores.newest(BTC).select(columns)
    assert closes(scores.newest(BTC)) == [("p0", 1.0), ("p2", 3.0), ("p4", 1.0)]
    days = [FIRST + timedelta(days=offset) for offset in (2, 0, 3)]
    assert closes(scores.of_days(BTC, days)) == [("p0", 1.0), ("p2", 1.0), ("p2", 2.0), ("p2", 3.0)]
    assert scores.of_days("ETH-USD", days, ["pit"]).num_rows == 0
