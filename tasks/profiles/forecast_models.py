"""The champion's forecast: a stored bundle and the newest closes to a figure for the next day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storage.models.bundles import Bundle
from tasks.calibration.quantile_tracker import apply_offsets, to_prices
from tasks.core.quantiles import MEDIAN
from tasks.core.types import Floats
from tasks.features.windows import newest_window
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.distribution import Said, say
from tasks.profiles.ensemble import Ensemble
from tasks.profiles.min_max import MinMax

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class PointForecast:
    """The close that is expected, and the one that naive would say, in USD."""

    point: float
    last_close: float


@dataclass(frozen=True)
class ArticleModel:
    """The article's network, the scaler of its closes, and the days that its window shows."""

    network: keras.Sequential
    scaler: MinMax
    lookback: int


def read_article(bundle: Bundle) -> ArticleModel:
    """The model of a bundle as `refit` stored it.

    Raises:
        Damaged: a file of the bundle is not the stored one.
    """
    from tasks.network.architectures import article_network

    settings = bundle.read_json("settings.json")
    names = ("lookback", "horizon", "units", "activation", "leaky_slope", "dropout", "seed")
    network = article_network(**{name: settings[name] for name in names})
    bundle.load_weights(network)
    return ArticleModel(network, MinMax(**bundle.read_json("scaler.json")), settings["lookback"])


def forecast_article(model: ArticleModel, closes: pd.DataFrame) -> PointForecast:
    """Forecast the day after the last close with the article's network.

    Args:
        model: as `read_article` gives it.
        closes: `day_utc` and `close` up to the origin, oldest first.

    Raises:
        NotEnoughHistory: a gap in the input window.
    """
    from tasks.network.architectures import predict

    prices = closes["close"].to_numpy(dtype=np.float64)
    window = newest_window(closes["day_utc"], prices, lookback=model.lookback)
    said = model.scaler.back(predict(model.network, model.scaler.forward(window)[None, :, None]))
    return PointForecast(point=float(said[0, -1]), last_close=float(prices[-1]))


@dataclass(frozen=True)
class DistributionForecast:
    """Quantiles of the next close in USD, (23,), their median, the naive close, and what they came from."""

    quantiles: Floats
    point: float
    last_close: float
    said: Said


def forecast_calibrated(
    ensemble: Ensemble, quantile_offsets: Floats, candles: pd.DataFrame, recipe: Recipe
) -> DistributionForecast:
    """Forecast the day after the last close with an ensemble and the tracker's quantile_offsets.

    Args:
        ensemble: the champion.
        quantile_offsets: the tracker's state, (23,), in scales.
        candles: a candle frame up to the origin, oldest day first.
        recipe: as the ensemble was trained.

    Raises:
        NotEnoughHistory: a gap in the input window, or too few days for a baseline.
    """
    closes = candles["close"].to_numpy(dtype=np.float64)
    # The window's first return needs the day before it.
    newest_window(candles["day_utc"], closes, lookback=recipe.lookback + 1)
    said = say(ensemble, candles, np.array([len(candles) - 1]), recipe)
    last = float(closes[-1])
    quantiles = to_prices(apply_offsets(said.mixed[0], quantile_offsets, said.scales[0]), last)
    return DistributionForecast(quantiles, float(quantiles[MEDIAN]), last, said)
