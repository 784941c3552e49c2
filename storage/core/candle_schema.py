"""The frames of candles and of quarantined rows, whatever their source."""

from __future__ import annotations

import pandas as pd

FIGURES = ["open", "high", "low", "close", "volume"]
CANDLE_COLUMNS = ["day_utc", *FIGURES]
REJECTED_COLUMNS = ["day_utc", "raw", "reason"]


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
