"""Closes to a trained network, with everything that its lineage must say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from storage.core.errors import BadSetting, NotEnoughHistory
from tasks.core.types import Floats
from tasks.features.windows import Windows, make_windows, make_windows_between_gaps
from tasks.network.architectures import article_network, predict
from tasks.network.trainer import Losses, TrainingSettings, train
from tasks.profiles.min_max import MinMax, fit_min_max
from tasks.training.gate import against_naive

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Split:
    """The article's data: rows [0, train_rows) to learn from, the rest to be tested on."""

    train_rows: int
    scaler: MinMax
    train: Windows
    test: Windows
    fitted: int  # windows that are trained on; the rest of `train` validates


@dataclass(frozen=True)
class Fitted:
    """A trained network with its scaler, its losses, and its figures on the test part.

    `test` holds `day_utc`, `close`, `last_close` and `point` of each test window.
    """

    network: keras.Sequential
    split: Split
    losses: Losses
    test: pd.DataFrame
    metrics: dict[str, float]


def min_days(*, lookback: int, horizon: int, train_share: float, validation_split: float) -> int:
    """The shortest series of closes that leaves a window to train on, one to validate and one to test."""
    days = lookback + horizon
    while not _holds_windows(days, lookback + horizon, train_share, validation_split):
        days += 1
    return days


def _holds_windows(days: int, span: int, train_share: float, validation_split: float) -> bool:
    train_rows = int(days * train_share)
    windows = train_rows - span + 1
    fitted = int(windows * (1.0 - validation_split))
    return windows > 0 and 0 < fitted < windows and days - train_rows >= span


def split_article(
    closes: pd.DataFrame,
    *,
    lookback: int,
    horizon: int,
    train_share: float,
    scaler_fit: Literal["train", "all"],
    bridge_gaps: bool,
    validation_split: float,
) -> Split:
    """Cut the closes as the article does: oldest 80 % to learn from, windows inside each part.

    Args:
        closes: `day_utc` and `close`, oldest first, one row a day.
        lookback: days a window shows.
        horizon: days ahead of it that are targets.
        train_share: share of the rows that is learned from.
        scaler_fit: fit the scaler on the training rows, or on all of them as the article does
            (which lets the test part's extremes leak into training).
        bridge_gaps: treat the days beside a gap as neighbours, as the article does.
        validation_split: share of the training windows that only validates.

    Raises:
        NotEnoughHistory: too few days for a window in each part.
    """
    needed = min_days(
        lookback=lookback, horizon=horizon, train_share=train_share, validation_split=validation_split
    )
    if len(closes) < needed:
        raise NotEnoughHistory(
            f"training needs {needed} days of closes, found {len(closes)}: import more history"
        )
    days, prices = closes["day_utc"], closes["close"].to_numpy(dtype=np.float64)
    train_rows = int(len(closes) * train_share)
    scaler = fit_min_max(prices if scaler_fit == "all" else prices[:train_rows])
    scaled = scaler.forward(prices)

    def cut(part: slice) -> Windows:
        if bridge_gaps:
            return make_windows(scaled[part], lookback=lookback, horizon=horizon)
        return make_windows_between_gaps(days[part], scaled[part], lookback=lookback, horizon=horizon)

    train = cut(slice(0, train_rows))
    fitted = int(len(train) * (1.0 - validation_split))
    if not 0 < fitted < len(train):  # gaps leave fewer windows than there are days for
        raise NotEnoughHistory(
            f"training needs a window to learn from and one to validate, found {len(train)} between the gaps"
            f" of {train_rows} days: import more history"
        )
    return Split(train_rows, scaler, train, cut(slice(train_rows, None)), fitted)


def fit_article(
    closes: pd.DataFrame,
    *,
    lookback: int,
    horizon: int,
    train_share: float,
    scaler_fit: Literal["train", "all"],
    bridge_gaps: bool,
    units: int,
    activation: str,
    leaky_slope: float,
    dropout: float,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    shuffle: bool,
    validation_split: float,
    seed: int,
) -> Fitted:
    """Train the article's network on closes up to the origin; the arguments are the profile's fields.

    Raises:
        NotEnoughHistory: as `split_article`.
        BadSetting: with these settings the losses grow past all measure.
    """
    split = split_article(
        closes,
        lookback=lookback,
        horizon=horizon,
        train_share=train_share,
        scaler_fit=scaler_fit,
        bridge_gaps=bridge_gaps,
        validation_split=validation_split,
    )
    network = article_network(
        lookback=lookback,
        horizon=horizon,
        units=units,
        activation=activation,
        leaky_slope=leaky_slope,
        dropout=dropout,
        seed=seed,
    )
    losses = train(
        network,
        split.train.inputs,
        split.train.targets,
        validation_split=validation_split,
        settings=TrainingSettings(learning_rate, batch_size, epochs, shuffle),
        seed=seed,
    )
    _require_finite(losses, learning_rate)
    test = _test_part(network, closes, split)
    metrics = against_naive(*(_column(test, name) for name in ("point", "close", "last_close")))
    return Fitted(network, split, losses, test, metrics)


def _require_finite(losses: Losses, learning_rate: float) -> None:
    unbounded = ~np.isfinite(losses.training + losses.validation)
    if unbounded.any():
        raise BadSetting(
            f"training came to no finite loss in epoch {int(unbounded.argmax()) + 1} with a learning_rate of"
            f" {learning_rate:g}: choose a smaller one"
        )


def _test_part(network: keras.Sequential, closes: pd.DataFrame, split: Split) -> pd.DataFrame:
    """What the network says for each test window's last target, beside what came."""
    said = split.scaler.back(predict(network, split.test.inputs)[:, -1])
    horizon = split.test.targets.shape[1]
    rows = split.train_rows + split.test.target_rows
    prices = _column(closes, "close")
    return pd.DataFrame(
        {
            "day_utc": closes["day_utc"].to_numpy()[rows + horizon - 1],
            "close": prices[rows + horizon - 1],
            "last_close": prices[rows - 1],
            "point": said,
        }
    )


def _column(frame: pd.DataFrame, name: str) -> Floats:
    return frame[name].to_numpy(dtype=np.float64)
