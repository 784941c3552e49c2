"""Small files of many kinds, beside the project: each close is what an independent parse finds."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime

import pytest

from tests.helpers import SHARED
from tests.tasks.prices.reading import closes, read

FILES = SHARED.parent / "files"
needs_files = pytest.mark.skipif(not FILES.is_dir(), reason="the small files are not beside the project")
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000}
ISO = "%Y-%m-%d"
# File → separator, lines above the rows, position and form of the day, position of the close, thousands mark.
KINDS = {
    "binance_klines": (",", 0, 0, "us", 4, ""),
    "ccxt_ohlcv_no_header": (",", 0, 0, "ms", 4, ""),
    "cmc_semicolon": (";", 1, 0, "%Y-%m-%dT%H:%M:%S.%fZ", 8, ""),
    "coinbase_advanced": (",", 1, 0, "s", 4, ""),
    "coinmetrics": (",", 1, 0, ISO, 1, ""),
    "dates_compact": (",", 1, 0, "%Y%m%d", 1, ""),
    "dates_excel_0": (",", 1, 0, "%Y-%m-%d %H:%M", 1, ""),
    "dates_us": (",", 1, 0, "%m/%d/%Y", 1, ""),
    "excel_cut_last_column": (",", 1, 0, ISO, 1, ","),
    "excel_cut_volume": (",", 1, 0, ISO, 1, ","),
    "investing_eth": (",", 1, 0, ISO, 1, ","),
    "investing_k_volume": (",", 1, 0, ISO, 1, ","),
    "kraken_ohlcvt": (",", 0, 0, "s", 4, ""),
    "quandl": (",", 1, 0, ISO, 1, ""),
    "thousands_point": (";", 1, 0, ISO, 1, "."),
    "volume_unknown_words": (",", 1, 0, ISO, 4, ""),
    "weekly": (",", 1, 0, ISO, 1, ""),
    "yahoo_open_outside": (",", 1, 0, ISO, 4, ""),
    "yfinance_three_headers": (",", 3, 0, ISO, 1, ""),
}


def day_of(text: str, form: str) -> date:
    if form in UNITS:
        return datetime.fromtimestamp(int(text) // UNITS[form], UTC).date()
    return datetime.strptime(text, form).replace(tzinfo=UTC).date()


@needs_files
@pytest.mark.parametrize("name", KINDS)
def test_each_close_is_that_of_an_independent_parse(name: str) -> None:
    separator, above, day, form, close, thousands = KINDS[name]
    data = (FILES / f"{name}.csv").read_bytes()
    rows = list(csv.reader(io.StringIO(data.decode()), delimiter=separator))[above:]
    wanted = {
        day_of(row[day], form): float(row[close].replace(thousands, "") if thousands else row[close])
        for row in rows
    }
    product = "ETH-USD" if "eth" in name else "BTC-USD"
    assert closes(data, product) == wanted
    assert read(data, product).rejected.empty


@needs_files
def test_every_shared_file_has_a_test() -> None:
    assert {path.stem for path in FILES.iterdir()} == set(KINDS)
