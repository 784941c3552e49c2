"""Which coins and currencies the lines, keys and cells of a file name, and whether they are the product's."""

from __future__ import annotations

import re

from closecast.storage.core.candle_schema import FIGURES
from closecast.tasks.prices.file_formats import CURRENCIES, PRICE_ROLES, SIGNS, read_heading

MAX_NAME = 60  # characters of a text that names a figure
KRAKEN = {"BTC": "XBT", "DOGE": "XDG"}
# Longer names first: `Bitcoin Cash` is no Bitcoin.
NAMES = {
    "BITCOIN CASH": "BCH",
    "BITCOIN SV": "BSV",
    "BITCOIN GOLD": "BTG",
    "WRAPPED BITCOIN": "WBTC",
    "BITCOIN": "BTC",
    "ETHEREUM CLASSIC": "ETC",
    "ETHEREUM": "ETH",
    "LITECOIN": "LTC",
    "DOGECOIN": "DOGE",
    "SOLANA": "SOL",
    "CARDANO": "ADA",
    "RIPPLE": "XRP",
    "SHIBA INU": "SHIB",
    "PEPE": "PEPE",
    "POLKADOT": "DOT",
    "MONERO": "XMR",
    "TRON": "TRX",
    "AVALANCHE": "AVAX",
    "CHAINLINK": "LINK",
    "US DOLLARS": "USD",
    "US DOLLAR": "USD",
    "AUSTRALIAN DOLLARS": "AUD",
    "AUSTRALIAN DOLLAR": "AUD",
    "CANADIAN DOLLARS": "CAD",
    "CANADIAN DOLLAR": "CAD",
    "SWISS FRANCS": "CHF",
    "SWISS FRANC": "CHF",
    "TURKISH LIRA": "TRY",
    "EUROS": "EUR",
    "EURO": "EUR",
    "YEN": "JPY",
    "RUPEES": "INR",
    "POUNDS": "GBP",
}
_MONEY = f"(?:{CURRENCIES.upper()})"
# Currencies whose letters also end words, such as `COUNTRY`: a mark is before them in a pair.
_RARE = "(?:TRY|ZAR|NZD|THB|UAH|ARS|VND|NGN|HUF|CZK|ILS|TWD|MYR|CLP|AED|SAR|XAU)"
_PAIR = (
    r"(?:[A-Z]{2,12}[:/])?t?(?:10*)?[A-Z][A-Z0-9]{1,9}"
    rf"(?:[-/_]?{_MONEY}|[-/_]{_RARE})(?:[-_](?:SWAP|PERP))?"
)
_CODES = "|".join(
    [*sorted(set(NAMES.values()) - {"LINK"}), "GBTC", "BNB", "DASH", "XLM", "EOS", "ZEC", "MATIC", _RARE]
)
# A pair in any case, as in `eth-usd`. `valeur` and `teeth` are none, nor is `price_usd`.
_ANY_CASE = (
    rf"(?i:(?:(?<![\w-])[a-z][a-z0-9]{{1,9}}[-_]|(?<![\w./-])[a-z][a-z0-9]{{1,9}}/){_MONEY}(?:-swap|-perp)?"
    r"|(?<![a-z0-9-])[a-z]{2,6}usd[tc]?)(?![A-Za-z0-9])"
)
_WORDS = re.compile(r"(?i:non|per|in|of|to|and|or|vs|all|daily|weekly|hourly|crypto|coin|cap|spot)[-/_]\w+")
_CODE = re.compile(rf"{_PAIR}|{_MONEY}|{_RARE}", re.IGNORECASE)
_NAMED = re.compile("|".join(NAMES), re.IGNORECASE)
_SCALE = (
    rf"(?i:(?:\bin|\b{_MONEY}|\() ?\(?(?:thousand|million|cent|satoshi)s\b|\b(?:in |x ?)1[,.]?000\b"
    rf"|\b(?:thousand|million)s? (?:of )?{_MONEY}\b|\bk ?{_MONEY}\b|\b{_MONEY} k\b|\b[mµu]BTC\b)"
)
_NO_DAY = re.compile(
    r"(?:one|1)?[ _-]?(?:(?:hour|week|month|minute)(?:ly|s)?|[wmh]|wk|hr)|(?:[2-9]|1\d|30|60)(?:h|min|m)"
    r"|60|240|3600|14400|10080|604800|(?:[wmh]|mn)\d{1,2}",
    re.IGNORECASE,
)
_SCALE_WORDS = re.compile(r"\b(thousand|million|billion|cent|satoshi|sat)s?\b|[mµu]BTC", re.IGNORECASE)
# Of these the price is another one.
_OTHER = r"(?i:[ -](?:futures|dominance|etf|trust|options|perp(?:etual)?)|\.D|\d!)?"
_OTHER_FIGURE = re.compile(
    r"market.?cap|capitali[sz]ation|volume|returns|vwap|average|supply|hash.?rate|transactions|dominance"
    r"|^(?:open|opening|high|low)(?:[ _]prices?)?$",
    re.IGNORECASE,
)
_IN_TEXT = re.compile(
    rf"{_SCALE}|(?<![A-Za-z0-9-])(?:(?:{_PAIR}){_OTHER}(?![A-Za-z0-9-])"
    rf"|(?:{_MONEY}|{_CODES}|(?i:{_NAMED.pattern})){_OTHER}(?![\w-]|\.\w))|{_ANY_CASE}"
)
_LABELLED = re.compile(
    r"\W*([A-Za-z][A-Za-z _]{0,40}?)\"?\s*[:=,;\t|]\s*\"?(\d+ \w+|US Dollar|[A-Za-z0-9/_:.-]{1,24})"
)


def is_code(text: str) -> bool:
    """Whether a text is a pair such as ETH-USD, tETHUSD, KRAKEN:ETHUSD, a currency, or a coin such as ETH."""
    is_one_case = text.isupper() or text.islower() or text[:1] == "t"
    return text in NAMES.values() or (is_one_case and _CODE.fullmatch(text) is not None)


def is_name(text: str) -> bool:
    """Whether a text is a coin's name, such as Ethereum."""
    return _NAMED.fullmatch(text) is not None


def told_by(line: str) -> list[tuple[str | None, str]]:
    """What a line such as `Symbol: ETH` says of which role, if it says anything."""
    match = _LABELLED.match(line)
    role = read_heading(match[1]).role if match else None
    return [(role, line[match.start(2) :] if role == "scale" else match[2])] if match else []


def scales_in(text: str) -> list[str]:
    """The scale of figures that a text is, such as `1000` or `thousands`; nothing where it is none or 1."""
    number = re.fullmatch(r"\d+(\.\d*)?(e[+-]?\d+)?", text)
    is_scale = float(text) not in (0, 1) if number else _SCALE_WORDS.search(text)
    return [text] if is_scale else []


def is_no_day(text: str) -> bool:
    """Whether a text is an interval other than a day, such as `1w`, `hourly` or 3600."""
    return _NO_DAY.fullmatch(text.strip()) is not None


def is_other_figure(text: str) -> bool:
    """Whether a text names a figure other than the close, such as `Market Cap` or `Opening prices`."""
    is_short = len(text) <= MAX_NAME and "clos" not in text.lower()  # no disclaimer
    return is_short and _OTHER_FIGURE.search(text) is not None


def coins_in(line: str) -> list[str]:
    """The coins and currencies that a line of text names, or the scale of its figures: `in thousands`."""
    signs = (codes[0] for sign, codes in SIGNS.items() if len(codes) == 1 and sign in line)
    prices = (*PRICE_ROLES, *FIGURES)
    found = (one for one in _IN_TEXT.findall(line) if not _WORDS.fullmatch(one))
    named = (one for one in found if read_heading(one.lower()).role not in prices)
    return [*(text for role, text in told_by(line) if role == "symbol"), *named, *signs]


def is_product(symbol: str, product_id: str) -> bool:
    """Whether a symbol is of the product: BTCUSD, BTC/USD, btc-usd, COINBASE:BTCUSD, XBTUSD, BTC, Bitcoin."""
    base, quote = product_id.split("-")
    text = _NAMED.sub(lambda match: NAMES[match[0].upper()], symbol.strip()).upper()
    text = re.sub(r"( CURNCY|=X?|\.CC)$", "", text)  # of Bloomberg, Refinitiv and Yahoo, EODHD
    plain = {re.sub(r"[/_: ()-]", "", one) for one in (text, text.rpartition(":")[2])}
    if text == quote:  # a column `currency` may name that of the figures
        return True
    bases = {base, KRAKEN.get(base, base)}
    forms = "{0}{1}", "T{0}{1}", "X{0}Z{1}", "{0}.V", "{0}{0}"
    pairs = {form.format(one, quote) for one in bases for form in forms}
    return bool(plain & (bases | pairs)) or text.rpartition("/")[2] in pairs
