"""Which coins and currencies the lines, keys and cells of a file name, and whether they are the product's."""

from __future__ import annotations

import re

from closecast.tasks.prices.file_formats import CURRENCIES, SIGNS, read_heading

KRAKEN = {"BTC": "XBT", "DOGE": "XDG"}
# Longer names first: `Bitcoin Cash` is no Bitcoin.
NAMES = {
    "BITCOIN CASH": "BCH",
    "BITCOIN SV": "BSV",
    "BITCOIN": "BTC",
    "ETHEREUM CLASSIC": "ETC",
    "ETHEREUM": "ETH",
    "LITECOIN": "LTC",
    "DOGECOIN": "DOGE",
    "SOLANA": "SOL",
    "CARDANO": "ADA",
    "RIPPLE": "XRP",
    "EUROS": "EUR",
    "EURO": "EUR",
}
_MONEY = f"(?:{CURRENCIES.upper()})"
_PAIR = rf"(?:[A-Z]{{2,12}}[:/])?t?[A-Z][A-Z0-9]{{1,9}}[-/_]?{_MONEY}(?:-SWAP|-PERP)?"
_CODES = "|".join(NAMES.values())
_CODE = re.compile(rf"{_PAIR}|{_MONEY}", re.IGNORECASE)
_NAMED = re.compile("|".join(NAMES), re.IGNORECASE)
_SCALE = rf"(?i:\bin (?:thousand|million|cent|satoshi)s\b|\b(?:thousand|million)s? (?:of )?{_MONEY}\b)"
_IN_TEXT = re.compile(
    rf"(?<![A-Za-z0-9-])(?:(?:{_PAIR})(?![A-Za-z0-9-])|(?:{_MONEY}|{_CODES}|(?i:{_NAMED.pattern}))(?![\w-]|\.\w))|{_SCALE}"
)
_LABELLED = re.compile(r"\W*([A-Za-z][A-Za-z _]{0,40}?)\"?\s*[:=,;\t|]\s*\"?([A-Za-z0-9/_:.-]{2,24})")


def is_code(text: str) -> bool:
    """Whether a text is a pair such as ETH-USD, tETHUSD, KRAKEN:ETHUSD, a currency, or a coin such as ETH."""
    is_one_case = text.isupper() or text.islower() or text[:1] == "t"
    return text in NAMES.values() or (is_one_case and _CODE.fullmatch(text) is not None)


def is_name(text: str) -> bool:
    """Whether a text is a coin's name, such as Ethereum."""
    return _NAMED.fullmatch(text) is not None


def labelled(line: str, role: str) -> list[str]:
    """What a line such as `Symbol: ETH` says of a role; nothing where it says nothing of it."""
    match = _LABELLED.match(line)
    return [match[2]] if match and read_heading(match[1]).role == role else []


def coins_in(line: str) -> list[str]:
    """The coins and currencies that a line of text names, or the scale of its figures: `in thousands`."""
    signs = (codes[0] for sign, codes in SIGNS.items() if len(codes) == 1 and sign in line)
    return [*labelled(line, "symbol"), *_IN_TEXT.findall(line), *signs]


def is_product(symbol: str, product_id: str) -> bool:
    """Whether a symbol is of the product: BTCUSD, BTC/USD, btc-usd, COINBASE:BTCUSD, XBTUSD, BTC, Bitcoin."""
    base, quote = product_id.split("-")
    text = symbol.upper().strip()
    text = NAMES.get(text, text)
    plain = {re.sub(r"[/_: -]", "", text), re.sub(r"[/_ -]", "", text.rpartition(":")[2])}
    if text == quote:  # a column `currency` may name that of the figures
        return True
    bases = {base, KRAKEN.get(base, base)}
    pairs = {form for one in bases for form in (one + quote, f"T{one}{quote}", f"X{one}Z{quote}", f"{one}.V")}
    return bool(plain & (bases | pairs)) or text.rpartition("/")[2] in pairs
