"""The champion's forecast: a stored bundle and the newest closes to a figure for the next day."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from storage.bundles import Bundle
from tasks.scale import MinMax
from tasks.window import newest_window


@dataclass(frozen=True)
class PointForecast:
    """The close that is expected, and the one that naive would say, in USD."""

    point_usd: float
    last_close_usd: float


def forecast_article(bundle: Bundle, closes: pd.DataFrame) -> PointForecast:
    """Forecast the day after the last close with the article's network.

    Args:
        bundle: as `refit` stored it.
        closes: `day_utc` and `close_usd` up to the origin, oldest first.

    Raises:
        NotEnoughHistory: a hole in the input window.
        Damaged: a file of the bundle is not the stored one.
    """
    from tasks.lstm import article_network, predict

    settings = bundle.read_json("settings.json")
    prices = closes["close_usd"].to_numpy(dtype=np.float64)
    window = newest_window(closes["day_utc"], prices, lookback=settings["lookback"])
    scaler = MinMax(**bundle.read_json("scaler.json"))
    network = article_network(
        **{
            name: settings[name]
            for name in ("lookback", "horizon", "units", "activation", "leaky_slope", "dropout", "seed")
        }
    )
    bundle.load_weights(network)
    said = scaler.back(predict(network, scaler.forward(window)[None, :, None]))
    return PointForecast(point_usd=float(said[0, -1]), last_close_usd=float(prices[-1]))
