from __future__ import annotations

from datetime import timedelta

from closecast.tasks.core.history import PriceHistory
from tests.helpers import FIRST, made_up


def test_a_history_until_a_day_has_nothing_later() -> None:
    history = PriceHistory("BTC-EUR", made_up(60), "BTC-EUR@60:ab", "coinbase@0")
    day = FIRST + timedelta(days=29)
    earlier = history.until(day)
    assert (earlier.origin, earlier.first_day, len(earlier.candles)) == (day, FIRST, 30)
    assert earlier.closes.tolist() == made_up(60)["close"].tolist()[:30]
    assert earlier.days.tolist() == [FIRST + timedelta(days=n) for n in range(30)]
    assert (earlier.data_version, earlier.source, earlier.quote_currency) == (
        history.data_version,
        "coinbase",
        "EUR",
    )
    assert history.origin == FIRST + timedelta(days=59)
    gapped = PriceHistory("BTC-EUR", made_up(60).drop(index=29), "BTC-EUR@60:ab", "csv@0")
    assert gapped.until(day).origin == day - timedelta(days=1)
