"""A file of each row of the table of formats: its closes are what an independent reader finds in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from closecast.tasks.prices.file_formats import FORMATS, ROLES, key_of, read_heading, recognize
from tests.helpers import PROJECT
from tests.tasks.prices.reading import read

DAYS = ["2024-01-01", "2024-01-02", "2024-01-03"]
SECONDS = [1704067200, 1704153600, 1704240000]
CLOSES = [44179.55, 44946.91, 42845.23]
# open, high, low, close, volume in the base currency
CANDLES = [
    (42283.58, 44184.10, 42180.77, 44179.55, 27174.29),
    (44179.55, 45879.63, 44148.34, 44946.91, 65146.40),
    (44946.91, 45500.00, 40750.00, 42845.23, 81194.55),
]
OHLC = [",".join(f"{figure:.2f}" for figure in candle[:4]) for candle in CANDLES]


def lines(header: str, rows: Sequence[str]) -> bytes:
    return "\n".join([header, *rows] if header else rows).encode() + b"\n"


def values() -> list[dict[str, Any]]:
    """Of each day: `d` its date, `e` the next one, `s` its time stamp, `m` that in ms, `n` its last second.

    `f` is its last millisecond, `o` to `v` are its figures, `q` is the volume in the quote currency.
    """
    return [
        dict(zip("ohlcv", candle, strict=True))
        | {
            "d": day,
            "e": after,
            "s": at,
            "m": at * 1000,
            "n": at + 86_399,
            "f": at * 1000 + 86_399_999,
            "q": round(candle[3] * candle[4], 4),
        }
        for day, after, at, candle in zip(DAYS, [*DAYS[1:], "2024-01-04"], SECONDS, CANDLES, strict=True)
    ]


def rows(form: str) -> list[str]:
    """A row a day."""
    return [form.format(**one) for one in values()]


def records(**keys: str) -> bytes:
    """A JSON list with a record a day."""
    return json.dumps([{key: form.format(**one) for key, form in keys.items()} for one in values()]).encode()


def lists(order: str, *rest: object, of: type = float) -> bytes:
    """A JSON list with a list a day."""
    return json.dumps(
        [[one[key] if key in "smf" else of(one[key]) for key in order] + list(rest) for one in values()]
    ).encode()


KLINE = "{s}000,{o},{h},{l},{c},{v},{n}999,{q},1000000,13900.1,598000000.1,0"
CMC = (
    "timeOpen;timeClose;timeHigh;timeLow;name;open;high;low;close;volume;marketCap;circulatingSupply;"
    "timestamp",
    '"{d}T00:00:00.000Z";"{d}T23:59:59.999Z";"{d}T15:53:00.000Z";"{d}T00:34:00.000Z";"2781";{o};{h};{l};{c};'
    '39335274536.25;880000000000.5;19589268;"{d}T23:59:59.999Z"',
)
COINGECKO = list(zip([1704153600000, 1704240000000, 1704326400000], CLOSES, strict=True))
# Format → its files; the closes are CLOSES of DAYS, or those named beside the file.
FILES: dict[str, list[bytes]] = {
    "Coinbase Exchange": [
        lines("time,low,high,open,close,volume", rows("{s},{l},{h},{o},{c},{v}")),
        lines("", rows("{s},{l},{h},{o},{c},{v}")),
        lists("slhocv"),
    ],
    "Coinbase Advanced Trade": [
        lines("start,low,high,open,close,volume", rows("{s},{l},{h},{o},{c},{v}")),
        b'{"candles": ' + records(start="{s}", low="{l}", high="{h}", open="{o}",
                                    close="{c}", volume="{v}") + b"}",
    ],
    "Binance klines": [
        lines(FORMATS[2].header, rows(KLINE)),
        lines("", rows(KLINE)),
        lines("", rows(KLINE.replace("000,", "000000,", 1).replace("999,", "999999,"))),
        lines("Open time,Open,High,Low,Close,Volume,Close time,Quote asset volume,Number of trades,"
              "Taker buy base asset volume,Taker buy quote asset volume,Ignore", rows(KLINE)),
        lists("mohlcvf", "1.5", 1000, "1.5", "2.5", "0", of=str),
    ],
    "Kraken OHLCVT": [lines("", rows("{s},{o},{h},{l},{c},{v},20123"))],
    "Kraken API": [
        b'{"error": [], "result": {"XXBTZUSD": ' + lists("sohlccv", 73, of=str) + b', "last": 1704240000}}',
        lines("time,open,high,low,close,vwap,volume,count", rows("{s},{o},{h},{l},{c},{c},{v},73")),
    ],
    "ccxt, freqtrade": [
        lists("mohlcv"),
        lines("", rows("{s}000,{o},{h},{l},{c},{v}")),
        lines("date,open,high,low,close,volume", rows("{d} 00:00:00+00:00,{o},{h},{l},{c},{v}")),
    ],
    "Bitfinex": [
        lines("", rows("{s}000,{o},{c},{h},{l},{v}")),
        lists("mochlv"),
    ],
    "KuCoin": [lines("", rows("{s},{o},{c},{h},{l},{v},{q}"))],
    "CryptoDataDownload": [
        lines("Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USD",
              rows("{d},BTCUSD,{o},{h},{l},{c},{v},{q}")),
        lines("https://www.CryptoDataDownload.com\n"
              "unix,date,symbol,open,high,low,close,Volume BTC,Volume USD",
              rows("{s},{d} 00:00:00,BTC/USD,{o},{h},{l},{c},{v},{q}")[::-1]),
    ],
    "TradingView": [
        lines("time,open,high,low,close,Volume", rows("{s},{o},{h},{l},{c},{v}")),
        lines("time,open,high,low,close,Volume,Volume MA",
              rows("{d}T01:00:00+01:00,{o},{h},{l},{c},{v},7.5")),
    ],
    "CryptoCompare": [
        lines(FORMATS[10].header, rows("{s},{h},{l},{o},{v},{q},{c},direct,")),
        b'{"Response": "Success", "Data": {"Aggregated": false, "Data": ' + records(
            time="{s}", high="{h}", low="{l}", open="{o}", volumefrom="{v}", volumeto="1e9",
            close="{c}") + b"}}",
    ],
    "Yahoo Finance": [
        lines("Date,Open,High,Low,Close,Adj Close,Volume",
              [*rows("{d},{o},{h},{l},{c},{c},18426978443"), "2024-01-04,null,null,null,null,null,null"]),
    ],
    "yfinance": [
        lines("Price,Close,High,Low,Open,Volume\nTicker" + 5 * ",BTC-USD" + "\nDate,,,,,",
              rows("{d},{c},{h},{l},{o},9")),
        lines("Price,Close,High,Low,Open,Volume\nDate" + 5 * ",BTC-USD", rows("{d},{c},{h},{l},{o},9")),
    ],
    "investing.com": [
        lines('"Date","Price","Open","High","Low","Vol.","Change %"', [
            '"Jan 03, 2024","42,845.23","44,946.91","45,500.00","40,750.00","81.19K","-4.68%"',
            '"Jan 02, 2024","44,946.91","44,179.55","45,879.63","44,148.34","65.15K","1.74%"',
            '"Jan 01, 2024","44,179.55","42,283.58","44,184.10","42,180.77","","4.48%"',
        ]),
    ],
    "CoinMarketCap": [lines(CMC[0], rows(CMC[1])[::-1])],
    "CoinGecko": [
        lines("snapped_at,price,market_cap,total_volume", [
            "2024-01-02 00:00:00 UTC,44179.55,1500517590,0",
            "2024-01-03 00:00:00 UTC,44946.91,1575032004.0,0.0",
            "2024-01-04 00:00:00 UTC,42845.23,,1.5",
        ]),
        json.dumps({"prices": [*COINGECKO, [1704370000123, 43111.5]], "market_caps": COINGECKO,
                    "total_volumes": COINGECKO}).encode(),
    ],
    "BitMEX": [
        lines(FORMATS[16].header, rows("{e}T00:00:00.000Z,XBTUSD,{o},{h},{l},{c},33,393,{c},1,5,{v},{q}")),
    ],
    "Kaggle's coin_Bitcoin.csv": [
        lines(FORMATS[17].header,
              rows("1,Bitcoin,BTC,{d} 23:59:59,{h},{l},{o},{c},18426978443.0,880000000000.0")),
    ],
    "Coin Metrics": [
        lines("time,PriceUSD", rows("{d},{c}")),
        lines("time,AdrActCnt,CapMrktCurUSD,PriceBTC,PriceUSD,SplyCur", rows("{d},9,8e11,1,{c},19589268")),
    ],
    "FRED": [
        lines("observation_date,CBBTCUSD", [*rows("{d},{c}"), "2024-01-04,."]),
        lines("DATE,CBBTCUSD", rows("{d},{c}")),
    ],
    "Stooq": [lines("Date,Open,High,Low,Close,Volume", rows("{d},{o},{h},{l},{c},{v}"))],
    "Stooq ASCII": [
        lines(FORMATS[21].header,
              [row.replace("-", "") for row in rows("BTC.V,D,{d},000000,{o},{h},{l},{c},{v},0")]),
    ],
    "Stooq in Polish": [lines(FORMATS[22].header, rows("{d},{o},{h},{l},{c},{v}"))],
    "Nasdaq Data Link": [lines("Date,Value", rows("{d},{c}")[::-1])],
    "Nasdaq": [
        lines("Date,Close/Last,Volume,Open,High,Low", [
            "01/03/2024,$42845.23,N/A,$44946.91,$45500.00,$40750.00",
            "01/02/2024,$44946.91,N/A,$44179.55,$45879.63,$44148.34",
            "01/01/2024,$44179.55,N/A,$42283.58,$44184.10,$42180.77",
        ]),
    ],
    "CoinDesk": [
        lines(FORMATS[25].header.replace("Currency", '"Currency"'), rows("BTC,{d},{c},{o},{h},{l}")),
    ],
    "OKX": [
        b'{"code": "0", "data": ' + lists("mohlcvv", "1e9", "1", of=str) + b"}",
        lines(FORMATS[26].header, rows("{s}000,{o},{h},{l},{c},{v},{v},{q},1")),
    ],
}  # fmt: skip
# Files whose days need the user's word: three days of January are either way.
OPTIONS: dict[str, Any] = {"Nasdaq": {"dates": "month-first"}}


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, files in FILES.items() for number in range(len(files))]
)
def test_a_file_of_each_format_is_read_as_it_is(name: str, number: int) -> None:
    found = read(FILES[name][number], **OPTIONS.get(name, {}))
    assert found.candles["day_utc"].dt.strftime("%Y-%m-%d").tolist() == DAYS
    assert found.candles["close"].tolist() == CLOSES
    assert any(name in other for other in found.reading.formats) or not found.reading.formats
    for position, figure in enumerate(("open", "high", "low")):
        if figure in found.reading.columns:
            assert found.candles[figure].tolist() == [candle[position] for candle in CANDLES]
    one = next(one for one in FORMATS if one.name == name)
    volumes = found.candles["volume"]
    if one.volume == "quote":
        assert volumes.isna().all()
    elif "volume" in found.reading.columns and name not in ("investing.com", "Nasdaq"):
        np.testing.assert_allclose(volumes, [candle[4] for candle in CANDLES])


def test_every_format_has_a_file_and_is_recognized() -> None:
    assert set(FILES) == {one.name for one in FORMATS}
    for one in FORMATS:
        if not one.header_rows:
            assert one in recognize(one.header.split(",")), one.name
        assert len(one.header.split(",")) == len(one.roles.split())


def test_a_heading_has_one_role_in_all_formats() -> None:
    for one in FORMATS:
        for heading, role in zip(one.header.split(","), one.roles.split(), strict=True):
            assert role in {*ROLES, "end", "label", "price", "-"}
            if role not in ("-", "volume"):
                assert read_heading(heading).role == role, (one.name, heading)


def test_headings_name_products_and_currencies() -> None:
    assert (read_heading("CBETHUSD").base, read_heading("CBETHUSD").quote) == ("ETH", "USD")
    assert read_heading("close (EUR)").quote == "EUR"
    assert read_heading("PriceBTC").quote == "BTC"
    assert read_heading("Change %").role is None
    assert key_of("<CLOSE>") == key_of("Close*") == "close"


def test_the_page_has_the_table_of_formats() -> None:
    page = (PROJECT / "docs" / "howto" / "prices.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("|")]
    for one in FORMATS:
        without = "yes" if one.bare else ""
        assert f"| {one.name} | `{one.header}` | {without} | {one.note} |" in table, one.name
