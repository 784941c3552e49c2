"""Coins and currencies that a file names anywhere but in its headings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from closecast.tasks.prices.file_coins import coins_in, is_code, is_product
from tests.tasks.prices.reading import RECORDS, ROWS, TABLE, closes, refusal


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("Currency: EUR", "EUR"),
        ("# currency=EUR", "EUR"),
        ("Currency,EUR,,", "EUR"),
        ("All prices in Euro", "Euro"),
        ("Währung: EUR", "EUR"),
        ("Prices in €", "EUR"),
        ("Symbol: LTC", "LTC"),
        ("Ticker,ETHUSD", "ETHUSD"),
        ("Ethereum Historical Data", "Ethereum"),
        ("Bitcoin Cash Historical Data", "Bitcoin Cash"),
        ("Figures in thousands of USD", "in thousands"),
        *(
            ("USD (thousands)", "USD (thousands"),
            ("USD cents", "USD cents"),
            ("Prices in kUSD", "kUSD"),
            ("in 1000 USD", "in 1000"),
        ),
        *(("Prices in INR", "INR"), ("BTC/BRL", "BTC/BRL"), ("Prices in yen", "yen"), ("TRX", "TRX")),
        *(("Bitcoin Futures", "Bitcoin Futures"), ("BTC Dominance", "BTC Dominance"), ("GBTC", "GBTC")),
        ("# eth-usd daily", "eth-usd"),
        ("https://site.example/ltcusdt_1d.csv", "ltcusdt"),
        ("Eth/Usd", "Eth/Usd"),
        ("1000PEPEUSDT", "1000PEPEUSDT"),
        *(("BTC/ZAR", "BTC/ZAR"), ("Canadian Dollars", "Canadian Dollars"), ("MATIC", "MATIC")),
        *(("XBTUSD perpetual", "XBTUSD perpetual"), ("CME:BTC1!", "BTC1!"), ("BTC options", "BTC options")),
        ("Bitcoin Gold", "Bitcoin Gold"),
        ("Unit: thousands", "thousands"),
        ("multiplier=100", "100"),
    ],
)
def test_a_line_beside_the_rows_names_another_product(line: str, named: str) -> None:
    assert f"candles of BTC-USD are needed, it is of '{named}'" in refusal(f"{line}\n{TABLE}")
    assert closes(f"{line}\n{TABLE}", symbol=named) == dict(ROWS)
    assert f"it is of '{named}'" in refusal(f"{TABLE}\n{line}\n")


@pytest.mark.parametrize("unit", ["EUR", "[EUR]", "thousand USD", "ETH-USD"])
def test_a_row_of_units_below_the_header_names_another_product(unit: str) -> None:
    header, _, rows = TABLE.partition("\n")
    assert "candles of BTC-USD are needed, it is of" in refusal(f"{header}\n,{unit}\n{rows}")
    assert closes(f"{header}\n,USD\n{rows}") == dict(ROWS)


@pytest.mark.parametrize(
    "line",
    [
        *("Currency: USD", "Bitcoin Historical Data", "BTC/USD", "Symbol: XBTUSD", "Downloaded from a site"),
        "# BTC/USD of an exchange",
        *("Source: bitcoincash.example, ethereum.org", "Coin: Bitcoin", "Exported on 2024-01-02"),
        *("https://site.example/btc?a=1", "valeur, teeth, price_usd and non-USD", "Scale: 1", "unit: 1d"),
        *("IN DOLLARS BY COUNTRY", "Prices in US Dollars", "Bitcoin, Bitfinex"),
    ],
)
def test_a_line_beside_the_rows_names_the_product_or_none(line: str) -> None:
    assert closes(f"{line}\n{TABLE}") == dict(ROWS)


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"symbols": ["ETH"]}, "ETH"),
        ({"meta": {"tickers": ["LTC"]}}, "LTC"),
        ({"meta": {"symbol": "ETH/USD", "currency": "USD"}}, "ETH/USD"),
        ({"query": {"instrument": "btc-eur"}}, "btc-eur"),
        ({"Meta Data": {"2. Digital Currency Code": "ETH", "4. Market Code": "USD"}}, "ETH"),
        ({"Meta Data": {"2. Digital Currency Code": "BTC", "4. Market Code": "EUR"}}, "EUR"),
        ({"symbols": ["BTC", "ETH"]}, "ETH"),
        ({"coins": [{"symbol": "ETH", "name": "Ethereum"}]}, "ETH"),
        ({"vs_currencies": ["eur"]}, "eur"),
        ({"id": "ethereum"}, "ethereum"),
        ({"name": "Ethereum (daily)"}, "Ethereum"),
        ({"market": "ETH-USD"}, "ETH-USD"),
        ({"dataset_code": "ETHUSD"}, "ETHUSD"),
        ({"metadata": {"quote": {"code": "EUR"}}}, "EUR"),
        ({"Meta Data": {"5. Market Name": "Euro"}}, "Euro"),
        ({"unit": "thousands"}, "thousands"),
        ({"meta": {"scale": 1000}}, "1000"),
        ({"divisor": "100"}, "100"),
        ({"factor": 0.01}, "0.01"),
    ],
)
def test_json_names_another_product_beside_its_candles(beside: dict[str, Any], named: str) -> None:
    assert f"it is of '{named}'" in refusal(json.dumps(beside | {"data": RECORDS}))
    assert closes(json.dumps(beside | {"data": RECORDS}), symbol=named) == dict(ROWS)


@pytest.mark.parametrize(
    "key", ["tETHUSD", "BITFINEX/ETHUSD", "XETHZUSD", "eur", "ethereum", "LTC", "ETH/USD"]
)
def test_the_key_of_json_candles_names_another_product(key: str) -> None:
    for content in ({key: RECORDS}, {key: {"candles": RECORDS}}):
        assert f"it is of '{key}'" in refusal(json.dumps(content))
    assert closes(json.dumps({"BTC": {"USD": RECORDS}})) == dict(ROWS)


@pytest.mark.parametrize(
    "beside",
    [
        {"name": "Bitcoin"},
        {"symbols": ["BTC-USD"]},
        {"market": "Coinbase"},
        {"author": "Elizabeth"},
        {"scale": 1.0},
        {"unit": "USD"},
    ],
)
def test_json_names_the_product_or_none(beside: dict[str, Any]) -> None:
    assert closes(json.dumps(beside | {"data": RECORDS})) == dict(ROWS)


@pytest.mark.parametrize(
    ("heading", "cell"),
    [
        *(("market", "ETH-USD"), ("foo", "ETHUSD"), ("unit", "EUR"), ("name", "Ethereum"), ("token", "eth")),
        *(("coin_name", "Chainlink"), ("slug", "pepe"), ("name", "PEPEUSDT"), ("currency_pair", "Pepe")),
    ],
)
def test_cells_of_any_column_name_another_product(heading: str, cell: str) -> None:
    text = f"date,close,{heading}\n" + "".join(f"{day},{close},{cell}\n" for day, close in ROWS)
    assert f"line 2 is of '{cell}'" in refusal(text)
    assert closes(text, symbol=cell) == dict(ROWS)
    beside = text.replace("close,", "close,base,").replace(f",{cell}\n", f",BTC,{cell}\n")
    assert f"line 2 is of '{cell}'" in refusal(beside)
    others = ("", "1D", "Coinbase") if heading in ("market", "foo", "unit", "name", "token") else ()
    for right in ("BTC-USD", "btc", *others):
        assert closes(text.replace(f",{cell}\n", f",{right}\n")) == dict(ROWS)


@pytest.mark.parametrize("volumes", ["Volume ETH", "Volume (LTC)", "Volume PEPE,Volume USD"])
def test_volumes_name_the_coin(volumes: str) -> None:
    text = f"date,close,{volumes}\n" + "".join(f"{day},{close},2,3\n" for day, close in ROWS)
    text = text if "," in volumes else text.replace(",2,3", ",2")
    assert "candles of BTC-USD are needed, it is of" in refusal(text)
    for right in ("Volume BTC", "Volume (USD)", *(() if "," in volumes else ("Volume MA",))):
        assert closes(text.replace(volumes.split(",")[0], right)) == dict(ROWS)


def test_symbols_of_a_product() -> None:
    for symbol in ("XXBTZUSD", "tBTCUSD", "BITFINEX/BTCUSD", "X:BTCUSD", "Bitcoin", "btc", "BTC=", "BTCUSD=X",
                   "BTC/USD", "btc_usd", "COINBASE:BTCUSD", "XBTUSD", "XBTUSD Curncy", "BTC-USD.CC",
                   "Bitcoin (BTC)", "Bitcoin/US Dollar"):  # fmt: skip
        assert is_product(symbol, "BTC-USD")
    for symbol in ("ETH/BTC", "BTC-USD-SWAP", "BTCUSDT", "Bitcoin Cash", "bitcoin-cash", "Bitcoin Gold"):
        assert not is_product(symbol, "BTC-USD")
    assert not any(map(is_code, ("Elizabeth", "OHLC", "1D", "direct", "CCCAGG")))
    assert coins_in("from https://site.example/ETH-USD_daily.csv") == ["ETH-USD"]
