"""What markets do to a product's candles: crashes, redenominations, bad prints, days without trades.

Each returns the frame with its event; days are counted from the frame's first one.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd

from tests.helpers import made_up

PRICES = ["open", "high", "low", "close"]
DOGE_DAYS = {  # of January 2021, as public exchanges have them, rounded
    "2021-01-26": (0.00832, 0.00841, 0.00796, 0.00806, 135e6),
    "2021-01-27": (0.00806, 0.00812, 0.00713, 0.00748, 163e6),
    "2021-01-28": (0.00748, 0.0376, 0.00722, 0.0341, 8.1e9),
    "2021-01-29": (0.0345, 0.0778, 0.0269, 0.0474, 25.4e9),
    "2021-01-30": (0.0471, 0.0485, 0.0233, 0.0282, 11.4e9),
    "2021-01-31": (0.0282, 0.0446, 0.0270, 0.0372, 8.5e9),
}


def level(frame: pd.DataFrame, first: int, factor: float) -> pd.DataFrame:
    """The frame with all prices from a day on multiplied by the factor."""
    changed = frame.copy()
    changed.loc[first:, PRICES] *= factor
    return changed


def crash(frame: pd.DataFrame, day: int, factor: float = 0.01) -> pd.DataFrame:
    """A true fall within one day: it opens at the old level and closes at the new one, with trades."""
    fallen = level(frame, day, factor)
    fallen.loc[day, ["open", "high"]] = frame.loc[day, ["open", "high"]]
    return fallen


def redenomination(frame: pd.DataFrame, day: int, factor: float = 0.001) -> pd.DataFrame:
    """From a day on all prices are in new units, the open of that day too."""
    return level(frame, day, factor)


def bad_print(frame: pd.DataFrame, day: int, factor: float = 100.0) -> pd.DataFrame:
    """One close far away, with the range that it needs; the next day opens where the day before closed."""
    here = frame.index == day
    close = frame["close"].where(~here, frame["close"] * factor)
    high, low = frame["high"].where(~here, close), frame["low"].where(~here, close)
    figures = {"high": np.maximum(high, frame["high"]), "low": np.minimum(low, frame["low"])}
    return frame.assign(close=close, **figures)


def closes_only(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with unknown open, high, low and volume."""
    return frame.assign(**dict.fromkeys(("open", "high", "low", "volume"), np.nan))


def doge(days: int = 60) -> pd.DataFrame:
    """A product that trades about .008 for some days, then does what DOGE did in January 2021."""
    rows = pd.DataFrame.from_dict(DOGE_DAYS, orient="index", columns=[*PRICES, "volume"])
    rows = rows.rename_axis("day_utc").reset_index()
    rows["day_utc"] = pd.to_datetime(rows["day_utc"]).astype("datetime64[s]")
    before = made_up(days, date(2021, 1, 26) - timedelta(days=days))
    before[PRICES] *= 0.00832 / before["close"].iloc[-1]
    return pd.concat([before, rows], ignore_index=True)[before.columns.tolist()]


def delisting(frame: pd.DataFrame, day: int) -> pd.DataFrame:
    """No candle from a day on."""
    return frame.head(day)


def no_trades(frame: pd.DataFrame, first: int, days: int = 30) -> pd.DataFrame:
    """No candles for some days: an exchange has none where nobody traded."""
    return frame.drop(index=range(first, first + days)).reset_index(drop=True)
