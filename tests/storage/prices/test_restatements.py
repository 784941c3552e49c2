from __future__ import annotations

from pathlib import Path

import pandas as pd

from storage.core.home import Home
from storage.prices.price_store import Prices
from tests.helpers import BTC, NOW, SHA, made_up, store


def restated(home: Home, product_id: str) -> pd.DataFrame:
    with Prices(home) as prices:
        return prices.restated(product_id)


def test_only_days_that_came_otherwise_each_with_all_it_was(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    assert restated(home, BTC).empty
    candles = made_up(20)
    store(home, candles)
    assert restated(home, BTC).empty
    with Prices(home) as prices:
        for close in (5000.0, 5001.0):
            row = candles.iloc[[3]].assign(close=close)
            prices.append(BTC, row, source="csv", observed_at=NOW, payload_sha256=SHA)
    found = restated(home, BTC)
    assert found["day_utc"].tolist() == ["2019-01-04"] * 3
    assert found["close"].tolist() == [candles["close"].iloc[3], 5000.0, 5001.0]
    assert found["seq"].is_monotonic_increasing
    assert restated(home, "ETH-USD").empty


def test_prices_of_a_series_before_are_no_restatement(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    store(home, made_up(20))
    with Prices(home) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW, replace=True)
        prices.append(BTC, made_up(20, seed=2), source="coinbase", observed_at=NOW, payload_sha256=SHA)
    assert restated(home, BTC).empty
