"""Which column of a file is what: by headings, by the user's word, or, without a header, by the figures."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from closecast.storage.core.candle_schema import PRICES
from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_coins import NAMES, is_code, is_name, is_product, scales_in
from closecast.tasks.prices.file_formats import (
    CURRENCIES,
    INDICES,
    ROLES,
    YFINANCE,
    FileFormat,
    Heading,
    key_of,
    read_heading,
    recognize,
)
from closecast.tasks.prices.file_order import find_order
from closecast.tasks.prices.file_table import FileOptions, FileTable
from closecast.tasks.prices.file_text import COLUMNS_HINT

STAMPS = {"unix", "unixtimestamp", "unixtime", "timestamp", "time", "epoch", "ts", "mts", "t"}
VOLUME_OF = re.compile(r"[Vv]ol(?:ume|\.)?[ _(]+([A-Z]{2,10})\)?")
MONEY = set(CURRENCIES.upper().split("|")) - {"BTC", "ETH"}


@dataclass(frozen=True)
class Layout:
    """The position of each column in use."""

    dates: tuple[int, ...]  # the first names the day, the others must agree
    end: int | None  # the time of a candle's end, where there is no other
    prices: Mapping[str, int]
    volumes: tuple[int, ...]
    symbols: tuple[int, ...]  # columns that name the coin, the best first
    labels: tuple[int, ...]  # columns of names, which only tell coins apart
    formats: tuple[FileFormat, ...]  # those that the file can be
    settled_by: str = ""  # how the order of columns without a header was found


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse columns of the user's that name no day, no close, or something else."""
    for role in columns:
        if role not in ROLES:
            raise BadFile(f"--columns knows {', '.join(ROLES)}, not {role!r:.40}")
    if columns and ("close" not in columns or not {"date", "end"} & columns.keys()):
        lacking = "date=…, or end=… for the time of a day's end," if "close" in columns else "close=…"
        raise BadFile(f"--columns needs a day and a close: {lacking} is not named")


def find_layout(table: FileTable, product_id: str | None, options: FileOptions) -> Layout:
    """The columns of a file; only those that the options name, where they do."""
    if options.columns:
        return _named(table, options)
    if not table.has_header:
        return _by_figures(table, product_id, options)
    return _by_headings(table, product_id, options)


def _named(table: FileTable, options: FileOptions) -> Layout:
    """The columns that the user names, by heading or number."""
    found: dict[str, int] = {}
    keys = [key_of(heading) for heading in table.header]
    for role, text in options.columns.items():
        if text.isdecimal() and 1 <= int(text) <= len(keys):
            found[role] = int(text) - 1
        elif keys.count(key_of(text)) == 1 and table.has_header:
            found[role] = keys.index(key_of(text))
        else:
            shown = (
                ", ".join(table.header)[:120] if table.has_header else f"{len(keys)} columns without header"
            )
            raise BadFile(f"the column {text!r:.40} for the {role} is not in it once: {shown}")
    formats = tuple(recognize(table.header)) if table.has_header else ()
    prices = {role: found[role] for role in PRICES if role in found}
    volumes, symbols = ((found[role],) if role in found else () for role in ("volume", "symbol"))
    dates = (found["date"],) if "date" in found else ()
    return Layout(dates, found.get("end"), prices, volumes, symbols, (), formats, "the options")


def _by_headings(table: FileTable, product_id: str | None, options: FileOptions) -> Layout:
    headings = [read_heading(heading) for heading in table.header]
    columns = list(range(len(headings)))
    if table.tickers:
        columns = _of_ticker(table, product_id, options)
    positions: dict[str, list[int]] = {}
    for position in columns:
        if role := headings[position].role:
            positions.setdefault(role, []).append(position)
    dates = sorted(positions.get("date", ()), key=lambda one: key_of(table.header[one]) in STAMPS)
    indices = [at for at, heading in enumerate(table.header) if key_of(heading) in INDICES]
    if not dates and not positions.get("end") and len(indices) == 1:
        dates = indices
    closes = positions.pop("close", None) or positions.get("price", [])
    closes = [*closes, *(positions.get("pool", []) if closes else [])]
    prices: dict[str, int] = {}
    for role in PRICES:
        candidates = closes if role == "close" else positions.get(role, [])
        if (one := _one_column(table, role, candidates, headings, product_id)) is not None:
            prices[role] = one
    if not (dates or positions.get("end")) or "close" not in prices:
        lacking = "close" if dates else "date"
        raise BadFile(
            f"a date and a close are needed, no {lacking} is found among"
            f" {', '.join(table.header)!s:.120}; {COLUMNS_HINT}"
        )
    return Layout(
        tuple(dates),
        next(iter(positions.get("end", ())), None),
        prices,
        tuple(positions.get("volume", ())),
        (*positions.get("symbol", ()), *_named_by_cells(table, headings)),
        tuple(positions.get("label", ())),
        (YFINANCE,) if table.tickers else tuple(recognize(table.header)),
    )


def _named_by_cells(table: FileTable, headings: list[Heading]) -> list[int]:
    """The columns whose cells name coins or currencies, such as ETH-USD, whatever their heading says."""

    def names_coin(position: int) -> bool:
        column, role = table.columns[position], headings[position].role
        if role not in (None, "label", "scale") or not pa.types.is_string(column.type) or not len(column):
            return False
        cells = pc.unique(column).to_pylist() if is_named(column[0].as_py(), role) else []
        return bool(cells) and all(is_named(cell, role) for cell in cells if cell)

    def is_named(cell: str, role: str | None) -> bool:
        return is_code(cell) or (role == "label" and is_name(cell))

    return [position for position in range(len(headings)) if names_coin(position)]


def _of_ticker(table: FileTable, product_id: str | None, options: FileOptions) -> list[int]:
    """The columns of one ticker, and those of none."""
    tickers = list(dict.fromkeys(filter(None, table.tickers)))
    if options.symbol:
        chosen = [one for one in tickers if one.upper() == options.symbol.upper()]
    else:
        chosen = [
            one for one in tickers if len(tickers) == 1 and (not product_id or is_product(one, product_id))
        ]
    if len(chosen) != 1:
        raise other_product(product_id, tickers, "the header")
    return [position for position, one in enumerate(table.tickers) if one in ("", chosen[0])]


def other_product(product_id: str | None, symbols: list[str], where: str) -> BadFile:
    """The error for a file of another product, or of several."""
    shown = ", ".join(repr(one)[:40] for one in symbols[:5]) + (", …" if len(symbols) > 5 else "")
    needed = f"candles of {product_id} are needed" if product_id else "candles of one product are needed"
    remedy = "choose its rows with --symbol NAME"
    if len(symbols) == 1:
        remedy = (
            f"name that product, or say that this is the one with --symbol {shlex.quote(symbols[0])[:30]}"
        )
    return BadFile(f"{needed}, {where} is of {shown}; {remedy}")


def _one_column(
    table: FileTable, role: str, positions: list[int], headings: list[Heading], product_id: str | None
) -> int | None:
    """The only column of a role: that of the product and its quote currency, where headings name these."""
    if product_id and positions:
        base, quote = product_id.split("-")
        bases = [one for one in positions if headings[one].base in ("", base)]
        if not bases:
            raise BadFile(
                f"closes of {base} are needed, the header has"
                f" {', '.join(table.heading(one) for one in positions)}; import it as the product that it is"
            )
        fitting = [one for one in bases if headings[one].allows(quote)]
        if not fitting and role == "close":
            raise BadFile(
                f"closes in {quote} are needed, the header has"
                f" {', '.join(table.heading(one) for one in bases)}; import it as the product that it is"
            )
        positions = [one for one in fitting if headings[one].names_currency] or fitting
    if len(positions) > 1:
        both = " and ".join(table.heading(one) for one in positions[:2])
        raise BadFile(f"one column is needed for the {role}, the header has two: {both}; {COLUMNS_HINT}")
    return positions[0] if positions else None


def _by_figures(table: FileTable, product_id: str | None, options: FileOptions) -> Layout:
    formats = find_order(table, product_id.split("-")[1] if product_id else "", options)
    roles = formats[0].roles.split()
    prices = {role: roles.index(role) for role in PRICES}
    end = roles.index("end") if "end" in roles else None
    return Layout((0,), end, prices, (roles.index("volume"),), (), (), tuple(formats), "the figures")


def of_symbol(table: FileTable, layout: Layout, product_id: str | None, symbol: str | None) -> FileTable:
    """The rows of the product, or of the symbol that the user names."""
    names = [at for at in (*layout.symbols, *layout.labels) if pa.types.is_string(table.columns[at].type)]
    scales = (one for text in table.texts("scale") for one in scales_in(text))
    named = (*table.coins, *scales, *(() if names else _coins_of_volumes(table, product_id or "")))
    is_named = symbol is not None and symbol.upper() in map(str.upper, named)
    if product_id and not is_named and not (symbol and names):
        # The heading of the close says more of its currency than what is outside of the rows.
        is_told = bool(table.has_header and read_heading(table.header[layout.prices["close"]]).quote)
        for coin in named:
            if not is_product(coin, product_id) and not (is_told and coin.upper() in MONEY):
                raise other_product(product_id, [coin], "it")
    if table.tickers or not names:
        if symbol and not table.tickers and not is_named:
            raise BadFile("it names no coins, so that --symbol chooses nothing; leave it out")
        return table
    if symbol:
        for position in names:
            mine = pc.equal(pc.utf8_upper(table.columns[position]), symbol.upper())
            if pc.any(mine).as_py():
                return _rows(table, np.flatnonzero(np.array(mine)))
        filled = _filled(table, names[0])
        shown = ", ".join(filled[:5]) + (", …" if len(filled) > 5 else "")
        raise BadFile(f"no row is of {symbol!r:.40}, its rows are of {shown!s:.100}")
    for position in [at for at in names if at in layout.symbols] or names[:1]:
        filled = _filled(table, position)
        foreign = [one for one in filled if not (product_id and is_product(one, product_id))]
        # One name alone says nothing if it may be anything, or that of a coin whose names are not known.
        is_coin = position in layout.symbols or (
            key_of(table.header[position]) != "name"
            and (product_id or "").partition("-")[0] in NAMES.values()
            and all(re.fullmatch(r"[A-Za-z][A-Za-z -]+", one) for one in foreign)
        )
        if foreign and (len(filled) > 1 or (product_id and is_coin)):
            line = table.numbers[pc.index(table.columns[position], foreign[0]).as_py()]
            raise other_product(product_id, filled, f"{table.unit} {line}" if len(filled) == 1 else "it")
    return table


def _coins_of_volumes(table: FileTable, product_id: str) -> list[str]:
    """The coins in headings such as `Volume ETH`; `Volume MA` names one only beside that of the quote."""
    found = [match[1] for heading in table.header if (match := VOLUME_OF.fullmatch(heading))]
    return [one for one in found if is_code(one) or product_id.rpartition("-")[2] in found]


def _filled(table: FileTable, position: int) -> list[str]:
    """The distinct texts of a column that say something."""
    return [one for one in pc.unique(table.columns[position]).to_pylist() if one.lower() not in ("", "nan")]


def _rows(table: FileTable, rows: np.ndarray) -> FileTable:
    """Some rows of a table; rows that were rejected before are not theirs."""
    taken: list[Any] = [column.take(pa.array(rows)) for column in table.columns]
    return replace(table, columns=taken, numbers=table.numbers[rows])
