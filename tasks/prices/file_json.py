"""JSON in its many shapes → cells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from closecast.storage.core.candle_schema import FIGURES
from closecast.storage.core.errors import BadFile
from closecast.tasks.prices.file_coins import coins_in, is_code, is_name, is_other_figure
from closecast.tasks.prices.file_days import parse_days
from closecast.tasks.prices.file_formats import CURRENCIES, PRICE_ROLES, read_heading
from closecast.tasks.prices.file_table import FileTable

SHOWN = 5


def read_json(text: bytes) -> FileTable:
    """The one table in a JSON text.

    A list of records, which may be nested, or of rows; JSON lines; records by day; or a list for each column.
    """
    try:
        try:
            content = _loads(text)
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Extra data"):
                raise
            content = [_loads(line) for line in text.splitlines() if line.strip()]
        prices = _coingecko(content) or _cryptowatch(content)
        rows, coins = (prices, _coins(content)) if prices else _one_table(content)
        if records := all(isinstance(row, dict) for row in rows):
            rows = [_flat(row) for row in rows]
    except (ValueError, RecursionError) as error:
        raise BadFile(f"JSON is needed, but it cannot be read: {error!s:.100}; fetch it again") from error
    if not records and not all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows):
        raise BadFile("a list of candles is needed, all of the same form; take out what is none")
    keys: Sequence[Any] = (
        list(dict.fromkeys(key for row in rows for key in row)) if records else range(len(rows[0]))
    )
    header = [_clean(key) if records else "" for key in keys]
    columns = [_json_column([row.get(key) if records else row[key] for row in rows]) for key in keys]
    return FileTable(
        "JSON",
        header,
        records,
        columns,
        np.arange(len(rows)) + 1,
        lambda number: rows[number - 1],
        coins=coins,
        told=tuple((read_heading(key).role, text) for key, text in _texts(content)),
        unit="row",
    )


def _loads(text: bytes) -> Any:
    """A JSON value whose records have each key once, or twice with the same value."""

    def record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        for key, value in pairs if len(found) < len(pairs) else ():
            if found[key] != value:
                raise BadFile(
                    f"each key of a JSON record is needed once, {key!r:.40} is there with two values;"
                    " take one of them out"
                )
        return found

    return json.loads(text, object_pairs_hook=record)


def _coingecko(content: Any) -> list[dict[str, Any]] | None:
    """CoinGecko's lists of times and prices as records with the headings of its CSV file."""
    if not (isinstance(content, dict) and isinstance(content.get("prices"), list) and content["prices"]):
        return None
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in content["prices"]):
        return None
    return [
        {"snapped_at": at, "price": price, "market_cap": None, "total_volume": None}
        for at, price in content["prices"]
    ]


def _cryptowatch(content: Any) -> list[dict[str, Any]] | None:
    """The days of Cryptowatch, whose rows begin with the end of their candle, as records."""
    result = content.get("result") if isinstance(content, dict) else None
    days = result.get("86400") if isinstance(result, dict) else None
    if not isinstance(days, list) or not all(isinstance(row, list) and len(row) >= 6 for row in days):
        return None
    return [dict(zip(("close_time", *FIGURES), row, strict=False)) for row in days]


def _one_table(content: Any) -> tuple[list[Any], tuple[str, ...]]:
    """The only list of records or rows in a JSON value, and the coins that are named beside or above it."""
    found: list[tuple[str, list[Any], tuple[str, ...]]] = []

    def look(value: Any, path: str, coins: tuple[str, ...]) -> None:
        if _is_frame(value):
            value = value[0]
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            found.append((path, value, coins))
        elif isinstance(value, dict):
            coins += _coins(value)
            if rows := _split(value) or _by_column(value) or _by_day(value, path):
                found.append((path, rows, coins))
                return
            for key, inner in value.items():
                own = (key,) if is_code(key) or is_name(key) else ()
                look(inner, f"{path}.{key}" if path else key, coins + own)

    look(content, "", ())
    if len(found) > 1:
        found = [one for one in found if _is_of_candles(one[1])] or found
    if len(found) == 1:
        return found[0][1:]
    what = "none is there; save a list of records with a date and a close"
    if found:
        paths = ", ".join(path for path, *_ in found[:SHOWN])
        what = f"there are {len(found)} ({paths!s:.100}); save that of the product alone"
    raise BadFile(f"one list of candles is needed in the JSON, but {what}")


def _is_frame(value: Any) -> bool:
    """Whether the only record of a list has the list of candles in it."""
    only = value[0] if isinstance(value, list) and len(value) == 1 else None
    return isinstance(only, dict) and any(isinstance(inner, list) for inner in only.values())


def _coins(value: dict[str, Any]) -> tuple[str, ...]:
    """The coins and currencies that a record names, or one in it that is no candle, such as `meta`."""
    return tuple(coin for key, text in _texts(value) for coin in _coins_of(key, text))


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """The texts of a record and of the records in it that are no candles, with their keys."""
    if not isinstance(value, dict):
        return
    inner = [one[0] if _is_only_record(one) else one for one in value.values()]
    inner = [_flat(one) for one in inner if isinstance(one, dict) and not _names_candles(one, date=False)]
    for record in (value, *inner):
        for key, texts in record.items():
            several = isinstance(texts, list) and _are_single(texts[:1])
            kinds = str | int | float if read_heading(key).role in ("scale", "interval") else str
            yield from (
                (key, str(text)) for text in (texts if several else [texts]) if isinstance(text, kinds)
            )


def _coins_of(key: str, text: str) -> list[str]:
    """The coins that a text names, by its key or by itself."""
    role = read_heading(key).role
    if role == "symbol" or is_code(text) or (key == "id" and is_name(text)):
        return [text]
    return coins_in(text) if role == "label" else []


def _is_only_record(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict)


def _is_of_candles(rows: list[Any]) -> bool:
    return isinstance(rows[0], dict) and _names_candles(_flat(rows[0]))


def _names_candles(headings: Iterable[str], *, date: bool = True) -> bool:
    """Whether headings name a close, and a date if one is needed."""
    roles = {read_heading(heading).role for heading in headings}
    return ("date" in roles or not date) and bool(roles & {"close", "price"})


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the keys of the records in it, which keep the currency that they are in: `close USD`.

    The prices of two such records are two columns, `close` and `close.1`. A coin that is a key is a `symbol`.
    """
    if not any(isinstance(value, dict) for value in record.values()):
        return record
    own = {key: value for key, value in record.items() if not isinstance(value, dict)}
    flat = dict(own)
    for key, value in record.items():
        if not isinstance(value, dict):
            continue
        currency = f" {key}" if key.lower() in CURRENCIES.split("|") else ""
        inner = {heading + currency: cell for heading, cell in _flat(value).items()}
        prices = [one for one in inner if read_heading(one).role in PRICE_ROLES and one not in own]
        if prices and not currency and (is_code(key) or is_name(key)):
            flat.setdefault("symbol", key)
        for heading, cell in inner.items():
            again = sum(one == heading or one.startswith(f"{heading}.") for one in flat)
            flat.setdefault(f"{heading}.{again}" if again and heading in prices else heading, cell)
    return flat


def _split(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The records of a table of rows beside a list of its columns, and perhaps one of its days."""
    columns, rows, index = value.get("columns"), value.get("data", value.get("values")), value.get("index")
    columns = columns or value.get("column_names")  # Nasdaq Data Link
    if not (isinstance(columns, list) and isinstance(rows, list) and rows):
        return None
    if not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
        return None
    names = [str(one.get("name")) if isinstance(one, dict) else str(one) for one in columns]
    records = [dict(zip(names, row, strict=True)) for row in rows]
    if isinstance(index, list) and len(index) == len(rows) and not _names_candles(names):
        records = [{"date": day, **record} for day, record in zip(index, records, strict=True)]
    return records if _names_candles(records[0]) else None


def _by_column(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The records of a list a column, or of a record a column whose keys are the rows."""
    lists = {key: cells for key, cells in value.items() if isinstance(cells, list) and _are_single(cells)}
    if _names_candles(lists) and len({len(cells) for cells in lists.values()}) == 1:
        return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
    columns = {
        key: cells for key, cells in value.items() if isinstance(cells, dict) and _are_single(cells.values())
    }
    if len(columns) < len(value) or not _names_candles(columns, date=False):
        return None
    rows = dict.fromkeys(row for cells in columns.values() for row in cells)
    records = [{key: cells.get(row) for key, cells in columns.items()} for row in rows]
    if _names_candles(columns):
        return records
    return [{"date": row, **record} for row, record in zip(rows, records, strict=True)]


def _are_single(values: Iterable[Any]) -> bool:
    return not any(isinstance(value, dict | list) for value in values)


def _by_day(value: dict[str, Any], path: str) -> list[dict[str, Any]] | None:
    """The records of a record a day, or of a value a day, by its day; `path` is the keys above."""
    if all(isinstance(one, int | float) for one in value.values()):
        value = {day: {"value": one} for day, one in value.items()}
        if is_other_figure(path):
            return None
    if not value or not all(isinstance(one, dict) for one in value.values()):
        return None
    if not all(_names_candles(one, date=False) for one in value.values()):
        return None
    if all(re.fullmatch(r"\d{1,7}", key) for key in value):  # the numbers of rows
        return list(value.values()) if all(map(_names_candles, value.values())) else None
    if np.isnat(parse_days(pa.array(map(_clean, value))).days).any():
        return None
    return [{"date": day, **one} for day, one in value.items()]


def _json_column(values: list[Any]) -> Any:
    """Numbers as float64, whole numbers and anything else as text; an unknown value is an empty text."""
    present = [value for value in values if value is not None]
    numbers = present and all(type(value) in (int, float) for value in present)
    if numbers and not all(type(value) is int and abs(value) < 2**63 for value in present):
        return pa.array([None if value is None else _float(value) for value in values], pa.float64())
    texts = [
        "" if value is None else value if isinstance(value, str) else json.dumps(value) for value in values
    ]
    return pa.array([_clean(text) for text in texts], pa.string())


def _clean(text: str) -> str:
    """The text without halves of characters, which JSON can hold."""
    return text.encode("utf-8", "replace").decode().strip()


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")
