"""The frames of candles and of quarantined rows, whatever their source."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

import pandas as pd
import pyarrow as pa

PRICES = ["open", "high", "low", "close"]
FIGURES = [*PRICES, "volume"]
CANDLE_COLUMNS = ["day_utc", *FIGURES]
REJECTED_COLUMNS = ["day_utc", "raw", "reason"]
# Rows of the day numbered above `after_candle_seq` are unknown before `known_from`.
DECISION_COLUMNS = (
    *("day_utc", "kind", "factor", "known_from", "decided_at", "decided_by"),
    "after_candle_seq",
)
OBSERVATION = ("source", "observed_at", "payload_sha256")
# What SQL reads of the price database, and the columns.
PRICE_VIEWS = {
    "closes": ("product_id", *CANDLE_COLUMNS, "seq", "source", "observed_at"),
    "candles": ("seq", "product_id", *CANDLE_COLUMNS, *OBSERVATION),
    "quarantine": ("seq", "product_id", *REJECTED_COLUMNS, *OBSERVATION),
    "price_decisions": ("seq", "product_id", *DECISION_COLUMNS),
}
ARROW_TYPES = {
    "seq": pa.int64(),
    "after_candle_seq": pa.int64(),
    **dict.fromkeys(("day_utc", "known_from"), pa.date32()),
    "decided_at": pa.timestamp("us", tz="UTC"),
    "factor": pa.float64(),
    "observed_at": pa.timestamp("us", tz="UTC"),
    **dict.fromkeys(FIGURES, pa.float64()),
}
COMMENTS = {
    "seq": "number of the row: a row is never changed, a later one replaces it",
    "product_id": "base and quote currency, such as BTC-USD",
    "day_utc": "UTC day",
    "open": "first price of the day, quote currency; null if unknown",
    "high": "highest price of the day, quote currency; null if unknown",
    "low": "lowest price of the day, quote currency; null if unknown",
    "close": "last price of the day, quote currency, as stored: splits are not applied",
    "volume": "traded amount, base currency; null if unknown",
    "source": "where the row comes from: coinbase, sample or csv",
    "observed_at": "when the row was fetched or read",
    "payload_sha256": "SHA-256 of the response or the file that held the row",
    "raw": "the row as received, as JSON or text",
    "reason": "why the row was not accepted",
    "kind": "accepted, rejected or split",
    "factor": "of a split: what the prices before the day are multiplied by",
    "known_from": "first origin that knows the decision",
    "decided_at": "when it was decided",
    "decided_by": "rule or user",
    "after_candle_seq": "rows of the day with greater numbers are unknown before known_from",
}


def arrow_schema(columns: Iterable[str], **others: pa.DataType) -> pa.Schema:
    """The types of columns of the price database: days date32, times UTC timestamps, figures float64.

    Those that SQL shows have a comment.
    """
    types = ARROW_TYPES | others
    fields = [pa.field(name, types.get(name, pa.string())) for name in columns]
    return pa.schema(
        field.with_metadata({"comment": COMMENTS[field.name]}) if field.name in COMMENTS else field
        for field in fields
    )


def candle_frame(rows: dict[str, object] | list[dict[str, object]] | None = None) -> pd.DataFrame:
    """A frame of candles: `day_utc` datetime64[s] at midnight UTC (no zone), figures float64.

    NaN means that a figure is unknown. `volume` is in the product's base currency, the other figures are
    in its quote currency.
    """
    frame = pd.DataFrame(rows if rows is not None else {}, columns=CANDLE_COLUMNS)
    frame["day_utc"] = frame["day_utc"].astype("datetime64[s]")
    return frame.astype(dict.fromkeys(FIGURES, "float64"))


def rejected_frame(rows: list[dict[str, object]] | None = None) -> pd.DataFrame:
    """A frame of quarantined rows: `day_utc` (ISO text, None when unreadable), `raw` JSON, `reason`."""
    return pd.DataFrame(rows or [], columns=REJECTED_COLUMNS, dtype=object)


def upto(candles: pd.DataFrame, through: date | None) -> pd.DataFrame:
    """The candles of the days up to `through`, inclusive; None for all."""
    if through is None:
        return candles
    return candles.iloc[: candles["day_utc"].searchsorted(pd.Timestamp(through), side="right")]


def newest_of_days(candles: pd.DataFrame) -> pd.DataFrame:
    """The candle of the greatest number of each day, of candles in any order."""
    ordered = candles.sort_values(["day_utc", "seq"])
    return ordered.drop_duplicates("day_utc", keep="last", ignore_index=True)
