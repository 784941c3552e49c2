"""The frames of candles and of quarantined rows, whatever their source."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import pyarrow as pa

FIGURES = ["open", "high", "low", "close", "volume"]
CANDLE_COLUMNS = ["day_utc", *FIGURES]
REJECTED_COLUMNS = ["day_utc", "raw", "reason"]
OBSERVATION = ("source", "observed_at", "payload_sha256")
# What SQL reads of the price database, and the columns.
PRICE_VIEWS = {
    "closes": ("product_id", *CANDLE_COLUMNS, "seq", "source", "observed_at"),
    "candles": ("seq", "product_id", *CANDLE_COLUMNS, *OBSERVATION),
    "quarantine": ("seq", "product_id", *REJECTED_COLUMNS, *OBSERVATION),
}
ARROW_TYPES = {
    "seq": pa.int64(),
    "day_utc": pa.date32(),
    "observed_at": pa.timestamp("us", tz="UTC"),
    **dict.fromkeys(FIGURES, pa.float64()),
}


def arrow_schema(columns: Iterable[str], **others: pa.DataType) -> pa.Schema:
    """The types of columns of the price database: days date32, times UTC timestamps, figures float64."""
    types = ARROW_TYPES | others
    return pa.schema([(name, types.get(name, pa.string())) for name in columns])


def candle_frame(rows: dict[str, object] | list[dict[str, object]] | None = None) -> pd.DataFrame:
    """A frame of candles: `day_utc` datetime64[s] at midnight UTC (no zone), figures float64.

    NaN stands where a figure is unknown. `volume` is in the product's base currency, the other figures are
    in its quote currency.
    """
    frame = pd.DataFrame(rows if rows is not None else {}, columns=CANDLE_COLUMNS)
    frame["day_utc"] = frame["day_utc"].astype("datetime64[s]")
    return frame.astype(dict.fromkeys(FIGURES, "float64"))


def rejected_frame(rows: list[dict[str, object]] | None = None) -> pd.DataFrame:
    """A frame of quarantined rows: `day_utc` (ISO text, None when unreadable), `raw` JSON, `reason`."""
    return pd.DataFrame(rows or [], columns=REJECTED_COLUMNS, dtype=object)
