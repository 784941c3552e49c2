"""The table of file formats: one row each drives the reader, the documentation and the tests.

A heading has one role, whatever the format. A format is recognized by its headings; files without a header by
their number of columns and by the figures (tasks/prices/file_columns.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from closecast.storage.core.candle_schema import FIGURES, PRICES

PRICE_ROLES = (*PRICES, "price")
ROLES = ("date", "end", *FIGURES, "symbol")


@dataclass(frozen=True)
class FileFormat:
    """A kind of file; `header` and `roles` run side by side, a role `-` is a column that is not used.

    Roles beside those of a candle: `end` is the time at which the candle ends, `label` a coin's name. A
    `price` is a close unless another column is one.
    """

    name: str
    header: str  # the headings, by commas
    roles: str  # their roles, by spaces
    bare: bool = False  # also comes without the header
    volume: Literal["base", "quote"] = "base"  # the currency of a column `volume`
    midnight: Literal["start", "end"] = "start"  # a price of 00:00 is of the day that starts, or that ends
    note: str = ""  # what a reader of the documentation should know
    header_rows: bool = False  # three of them, of which the second names a ticker for each column

    @property
    def keys(self) -> list[str]:
        """The headings as `key_of` compares them."""
        return [key_of(heading) for heading in self.header.split(",")]


FORMATS = (
    FileFormat(
        "Coinbase Exchange", "time,low,high,open,close,volume", "date low high open close volume", True
    ),
    FileFormat(
        "Coinbase Advanced Trade", "start,low,high,open,close,volume", "date low high open close volume"
    ),
    FileFormat(
        "Binance klines",
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
        "taker_buy_quote_volume,ignore",
        "date open high low close volume end volume - - - -",
        True,
        note="milliseconds or microseconds",
    ),
    FileFormat(
        "Kraken OHLCVT", "time,open,high,low,close,volume,trades", "date open high low close volume -", True
    ),
    FileFormat(
        "Kraken API",
        "time,open,high,low,close,vwap,volume,count",
        "date open high low close - volume -",
        True,
    ),
    FileFormat(
        "ccxt, freqtrade",
        "date,open,high,low,close,volume",
        "date open high low close volume",
        True,
        note="CSV, JSON or feather",
    ),
    FileFormat("Bitfinex", "time,open,close,high,low,volume", "date open close high low volume", True),
    FileFormat(
        "KuCoin", "time,open,close,high,low,volume,turnover", "date open close high low volume -", True
    ),
    FileFormat(
        "CryptoDataDownload",
        "Date,Symbol,Open,High,Low,Close",
        "date symbol open high low close",
        note="with Volume BTC and Volume USD, also with a time stamp or below a banner",
    ),
    FileFormat(
        "TradingView",
        "time,open,high,low,close,Volume",
        "date open high low close volume",
        note="seconds, or times whose offset makes them midnight UTC",
    ),
    FileFormat(
        "CryptoCompare",
        "time,high,low,open,volumefrom,volumeto,close,conversionType,conversionSymbol",
        "date high low open volume volume close - -",
        note="CSV or JSON",
    ),
    FileFormat(
        "Yahoo Finance",
        "Date,Open,High,Low,Close,Adj Close,Volume",
        "date open high low close - volume",
        volume="quote",
    ),
    FileFormat(
        "yfinance",
        "Date,Close,High,Low,Open,Volume",
        "date close high low open volume",
        volume="quote",
        note="three header rows: prices, ticker, date",
        header_rows=True,
    ),
    FileFormat(
        "investing.com",
        "Date,Price,Open,High,Low,Vol.,Change %",
        "date price open high low volume -",
        note="quoted thousands, volumes such as 68.29K",
    ),
    FileFormat(
        "CoinMarketCap",
        "timeOpen,timeClose,timeHigh,timeLow,name,open,high,low,close,volume,marketCap,circulatingSupply,timestamp",
        "date end - - label open high low close volume - - date",
        volume="quote",
        note="separated by semicolons",
    ),
    FileFormat(
        "CoinGecko",
        "snapped_at,price,market_cap,total_volume",
        "date price - volume",
        volume="quote",
        midnight="end",
        note="CSV or JSON; the price of 00:00 is the close of the day before",
    ),
    FileFormat(
        "BitMEX",
        "timestamp,symbol,open,high,low,close,trades,volume,vwap,lastSize,turnover,homeNotional,foreignNotional",
        "date symbol open high low close - volume - - - - -",
        volume="quote",
        midnight="end",
        note="a candle at 00:00 is that of the day before",
    ),
    FileFormat(
        "Kaggle's coin_Bitcoin.csv",
        "SNo,Name,Symbol,Date,High,Low,Open,Close,Volume,Marketcap",
        "- label symbol date high low open close volume -",
        volume="quote",
    ),
    FileFormat("Coin Metrics", "time,PriceUSD", "date price", note="more columns are allowed"),
    FileFormat(
        "FRED",
        "observation_date,CBBTCUSD",
        "date price",
        note="a close of `.` is unknown; the column name is the product",
    ),
    FileFormat("Stooq", "Date,Open,High,Low,Close,Volume", "date open high low close volume"),
    FileFormat(
        "Stooq ASCII",
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
        "symbol - date date open high low close volume -",
    ),
    FileFormat(
        "Stooq in Polish",
        "Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen",
        "date open high low close volume",
    ),
    FileFormat("Nasdaq Data Link", "Date,Value", "date price", note="formerly Quandl"),
    FileFormat(
        "Nasdaq", "Date,Close/Last,Volume,Open,High,Low", "date close volume open high low", note="with a $"
    ),
    FileFormat(
        "CoinDesk",
        "Currency,Date,Closing Price (USD),24h Open (USD),24h High (USD),24h Low (USD)",
        "symbol date close open high low",
    ),
    FileFormat(
        "OKX",
        "ts,o,h,l,c,vol,volCcy,volCcyQuote,confirm",
        "date open high low close volume - volume -",
        True,
        note="UTC days, the bar `1Dutc`",
    ),
)
YFINANCE = next(one for one in FORMATS if one.header_rows)
INDICES = {"", "index", "unnamed0"}  # headings of the index of a data frame
# Headings of other tables, by role.
SYNONYMS = {
    "date": "day day_utc datum fecha datetime date_utc unix_timestamp opentime starttime starting_at"
    " starts_at start_at started_at period_start time_period_start window_start candle_begin_time"
    " candle_date_time_utc unix unix_time unixtime timestamp epoch ts mts t ticks gmt_time exchange_date"
    " trade_date trading_date trading_day date_time datetime_utc utc_date timestamp_utc time_utc epoch_time"
    " start_date begin dt ds hour tarih дата 日期 日付け 날짜",
    "end": "close_time end_time time_period_end period_end end end_at ends_at time_end candle_end"
    " bar_end window_end close_timestamp",
    "open": "open_price price_open opening_price 24h_open o eröffn eröffnung erster ouv apertura abertura"
    " öppen откр 始値 开盘 시가 açılış",
    "high": "high_price price_high 24h_high h max hoch tageshoch plus_haut máximo máxima massimo"
    " hoog högst макс 高値 高 고가 yüksek",
    "low": "low_price price_low 24h_low l min tief tagestief plus_bas mínimo mínima minimo"
    " laag lägst мин 安値 低 저가 düşük",
    "close": "close_price price_close closing_price c schluss schlusskurs"
    " close_close_price_adjusted_for_splits",
    "price": "last last_price trade_price px_last market_price prices value latest kurs zuletzt"
    " dernier último ultimo laatste senaste ostatnio цена 終値 收盘 종가 şimdi",
    "volume": "v volume_traded",
    "symbol": "symbol product product_id pair ticker asset coin currency instrument base base_currency quote"
    " quote_currency vs_currency digital_currency_code market_code from_symbol to_symbol symbols coins"
    " tickers pairs currencies vs_currencies ccy fiat crypto sym instrument_id inst_id convert trading_pair"
    " currency_pair pair_name ric",
    "pool": "token0_price token1_price",  # of either token in the other
    "scale": "unit units price_unit scale multiplier unit_multiplier unit_mult divisor factor denomination",
    "interval": "interval period per timeframe granularity data_granularity frequency freq resolution",
    "zone": "timezone tz exchange_timezone exchange_timezone_name",
    "label": "name slug coin_name crypto_name coin_id asset_id market_name",
}


def key_of(heading: str) -> str:
    """A heading in lower case without anything but letters and digits, nor a number as in `4. close`."""
    return re.sub(r"^\d+[a-z]?\. |[\W_]+", "", heading.lower())


def _roles() -> dict[str, str]:
    roles = {key_of(name): role for role, names in SYNONYMS.items() for name in names.split()}
    for one in FORMATS:
        for heading, role in zip(one.header.split(","), one.roles.split(), strict=True):
            if role != "-":
                roles[key_of(heading)] = role
    return roles


_ROLE_OF = _roles()
CURRENCIES = (
    "usdt|usdc|usd|eur|gbp|jpy|chf|aud|cad|krw|cny|inr|brl|pln|rub|sek|nok|dkk|mxn|sgd|hkd|idr|btc|eth"
)
# The currencies that a sign can mean.
SIGNS = {
    "US$": ("USD",),
    "$": ("USD", "USDT", "USDC"),
    "€": ("EUR",),
    "£": ("GBP",),
    "¥": ("JPY", "CNY"),
    "₩": ("KRW",),
    "₹": ("INR",),
    "₽": ("RUB",),
    "₺": ("TRY",),
    "₿": ("BTC",),
}
_SIGN = re.compile(rf"({'|'.join(map(re.escape, SIGNS))}|[¢\u20a0-\u20cf])(?![A-Za-z])")
_REPEATED = re.compile(r"\.\d+$")  # so pandas writes the second column `Close`
_WITH_CURRENCY = re.compile(rf"(.+?)({CURRENCIES})")
_FRED = re.compile(rf"cb(?!pr)([a-z]{{3,5}}?)({CURRENCIES})")
_PRODUCT = re.compile(r"([A-Z0-9]{2,10})[-/]([A-Z]{3,5})")
_OF_PRODUCT = re.compile(
    rf"\(?'?([A-Za-z ]+?)(?:_|', '){_PRODUCT.pattern}'?\)?"
)  # Close_BTC-USD, of a data frame
_PRODUCT_FIRST = re.compile(r"([A-Z0-9]{2,10})[-.]([A-Z]{3,5})[._ ]([A-Za-z]+)")  # BTC-USD.Close, of quantmod
# Headings of sites that give the volume in the quote currency, and times at the end of the day.
_QUOTE_VOLUME = {"marketcap", "adjclose", "dividends", "stocksplits"}
_ENDS = {"snappedat", "totalvolume", "totalvolumes"}


@dataclass(frozen=True)
class Heading:
    """What a heading says: the role of its column, and the product or quote currency that it names."""

    role: str | None  # None if the column is not used
    base: str = ""
    quote: str = ""
    signs: tuple[str, ...] = ()  # of currencies; that of `$close` is none

    @property
    def names_currency(self) -> bool:
        """Whether it names one, by its letters or its sign."""
        return bool(self.quote or self.signs)

    def allows(self, quote: str) -> bool:
        """Whether it names this quote currency, or none."""
        return self.quote in ("", quote) and all(quote in SIGNS.get(sign, ()) for sign in self.signs)


def read_heading(heading: str) -> Heading:
    """The role of a column by its heading."""
    heading = _REPEATED.sub("", heading)
    key, role, base, quote = key_of(heading), None, "", ""
    if "%" in heading:
        pass
    elif match := _FRED.fullmatch(key) or _PRODUCT.fullmatch(heading):
        role, base, quote = "price", match[1].upper(), match[2].upper()
    elif (match := _OF_PRODUCT.fullmatch(heading)) and _ROLE_OF.get(key_of(match[1])) in PRICE_ROLES:
        role, base, quote = _ROLE_OF[key_of(match[1])], match[2], match[3]
    elif (match := _PRODUCT_FIRST.fullmatch(heading)) and key_of(match[3]) in _ROLE_OF:
        role, base, quote = _ROLE_OF[key_of(match[3])], match[1], match[2]
    elif (match := _WITH_CURRENCY.fullmatch(key)) and _ROLE_OF.get(match[1]) in PRICE_ROLES:
        role, quote = _ROLE_OF[match[1]], match[2].upper()
    elif key in _ROLE_OF:
        role = _ROLE_OF[key]
    elif key.startswith("vol") or key.endswith("volume"):
        role = "volume"
    return Heading(role, base, quote, tuple(_SIGN.findall(heading)))


def recognize(header: list[str]) -> list[FileFormat]:
    """The formats with the most headings of those that the header has whole, in its order if there are such.

    Several where they have the same headings, none if no format is known.
    """
    keys = [key_of(heading) for heading in header]
    whole = [one for one in FORMATS if set(one.keys) <= set(keys)]
    longest = max((len(one.keys) for one in whole), default=0)
    whole = [one for one in whole if len(one.keys) == longest]
    ordered = [one for one in whole if [key for key in keys if key in one.keys] == one.keys]
    return ordered or whole[:1]


def is_volume_in_quote(header: list[str], formats: Sequence[FileFormat]) -> bool:
    """Whether a column `volume` is in the quote currency, by the format or by what stands beside it."""
    # Yahoo's page explains `Adj Close` within its heading.
    told = {re.sub("^(adjclose).*", r"\1", key_of(heading)) for heading in header} & _QUOTE_VOLUME
    return bool(told) or (bool(formats) and formats[0].volume == "quote")


def midnight_ends_day(header: list[str], formats: Sequence[FileFormat]) -> bool:
    """Whether a price of 00:00 is the close of the day before."""
    keys = set(map(key_of, header))
    return bool(_ENDS & keys and "open" not in keys) or (bool(formats) and formats[0].midnight == "end")


def bare_formats(columns: int) -> list[FileFormat]:
    """The formats that come without a header in so many columns."""
    return [one for one in FORMATS if one.bare and len(one.roles.split()) == columns]
