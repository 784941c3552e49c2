"""Profile `article`: the model of the 2020 article "Predicting the price of Bitcoin, intro to LSTM", exactly.

Closes are scaled to [0, 1], and an LSTM predicts the next one from five days. The forecast is a point.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from closecast.storage.core.errors import NotEnoughHistory
from closecast.storage.models.bundles import Bundle, Draft
from closecast.tasks.core.formatting import format_price
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.metrics import errors_beside_naive
from closecast.tasks.core.settings import Frozen
from closecast.tasks.core.types import Floats, Rows
from closecast.tasks.features.windows import Windows, make_windows, newest_window
from closecast.tasks.network.architectures import article_network
from closecast.tasks.network.epoch import Weights
from closecast.tasks.network.forward import forward, weight_shapes
from closecast.tasks.network.trainer import TrainingSettings, train
from closecast.tasks.prices.gaps import find_gaps
from closecast.tasks.profiles.base import BaseProfile, FittedModel, Histories, Policy, Predicted, Training

if TYPE_CHECKING:
    import keras

log = logging.getLogger("closecast.article")


class ArticleSettings(Frozen):
    """The settings of the article's model; each default is the article's value, unless it says otherwise."""

    lookback: int = Field(5, ge=1, le=365, description="Days in a window")
    train_share: float = Field(
        0.8, ge=0.01, le=0.99, description="Oldest share of the days, for training and validation"
    )
    scaler_fit: Literal["train", "all"] = Field(
        "train", description="Rows that the scaler is fitted on; the article fitted it on all"
    )
    bridge_gaps: bool = Field(
        True, description="Train across missing days as if there were none, as the article did"
    )
    units: int = Field(64, ge=1, le=4096, description="LSTM units")
    activation: Literal["sigmoid", "tanh", "relu"] = Field(
        "sigmoid", description="Activation of the LSTM's cell and output"
    )
    leaky_slope: float = Field(0.5, ge=0, description="LeakyReLU slope below zero")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of activations dropped in training")
    learning_rate: float = Field(1e-4, gt=0, description="Adam's step")
    batch_size: int = Field(5, ge=1, le=100_000, description="Windows per step")
    epochs: int = Field(50, ge=1, le=10_000, description="Passes over the training windows")
    shuffle: bool = Field(False, description="Shuffle the windows before each epoch")
    validation_split: float = Field(
        0.1,
        ge=0.01,
        le=0.99,
        description="Newest share of those windows, which validate and are not trained on",
    )
    seed: int = Field(2020, ge=0, lt=2**32, description="Seed of the initial weights and the dropout masks")
    refit_every_days: int = Field(
        0, ge=0, le=3650, description="Days from one refit to the next; 0: on every data version"
    )


@dataclass(frozen=True)
class MinMax:
    """A fitted `sklearn.preprocessing.MinMaxScaler` of one column, as four numbers for JSON.

    `scale` and `shift` are scikit-learn's `scale_` and `min_`. The arithmetic, and so every bit of the
    result, is the same, but a forecast need not import scikit-learn.
    """

    minimum: float
    maximum: float
    scale: float
    shift: float

    @classmethod
    def fit(cls, closes: Floats) -> MinMax:
        """Fit scikit-learn's MinMaxScaler on closes (days,)."""
        from sklearn.preprocessing import MinMaxScaler

        scaler = MinMaxScaler().fit(np.asarray(closes, dtype=np.float64).reshape(-1, 1))
        figures = (scaler.data_min_, scaler.data_max_, scaler.scale_, scaler.min_)
        return cls(*(float(figure[0]) for figure in figures))

    def forward(self, closes: Floats) -> Floats:
        """Scaled closes, any shape; those that the scaler was fitted on lie in [0, 1]."""
        return np.asarray(closes, dtype=np.float64) * self.scale + self.shift

    def back(self, scaled: Floats) -> Floats:
        """The inverse of `forward`; any shape."""
        return (np.asarray(scaled, dtype=np.float64) - self.shift) / self.scale


@dataclass(frozen=True)
class Split:
    """The article's data: rows [0, train_rows) for training and validation, the others to test on.

    The first `fitted` windows of `train` are trained on; the others validate.
    """

    train_rows: int
    scaler: MinMax
    train: Windows
    test: Windows
    fitted: int


@dataclass(frozen=True)
class ArticleState:
    """The network's weights, the scaler of its closes, and its forecasts of the test part.

    `test` has the columns `day_utc`, `close`, `last_close` and `point`; None in a loaded state.
    """

    weights: Weights
    scaler: MinMax
    test: pd.DataFrame | None = None


class ArticleProfile(BaseProfile):
    """The article's model: a point forecast, trained again on every data version, without a gate."""

    name = "article"
    Settings = ArticleSettings
    levels: tuple[float, ...] = ()
    gate_days = 0

    @property
    def policy(self) -> Policy:
        """Refit on each data version by default, and never fine-tuned."""
        return Policy(refit_every_days=self.settings.refit_every_days, fine_tune_every_days=0)

    @property
    def min_days(self) -> int:
        """The days of the shortest series with a window to train on, one to validate and one to test."""
        return int(next(filter(self._holds_windows, itertools.count(self.settings.lookback + 1))))

    def _holds_windows(self, days: int) -> bool:
        settings, span = self.settings, self.settings.lookback + 1
        train_rows = int(days * settings.train_share)
        windows = train_rows - span + 1
        fitted = int(windows * (1.0 - settings.validation_split))
        return bool(windows > 0 and 0 < fitted < windows and days - train_rows >= span)

    @property
    def consecutive_days(self) -> int:
        """The days of one window."""
        return int(self.settings.lookback)

    def fit(
        self,
        history: PriceHistory,
        pool: Histories,  # noqa: ARG002
        *,
        holdout_days: int = 0,
        epochs: int | None = None,
    ) -> FittedModel:
        """Train on the oldest closes and test on the others, as `split` does; the pool is not used."""
        settings, closes = self.settings, history.candles[: -holdout_days or None]
        split = self.split(closes)
        if settings.bridge_gaps and find_gaps(closes["day_utc"]):
            text = "%s: training bridges the gaps, as the article did; --set bridge_gaps=false does not"
            log.warning(text, history.product_id)
        network = self._network()
        how = TrainingSettings(
            settings.learning_rate, settings.batch_size, epochs or settings.epochs, settings.shuffle
        )
        losses = train(
            network,
            split.train.inputs,
            split.train.targets,
            validation_split=settings.validation_split,
            settings=how,
            seed=settings.seed,
        )
        weights = network.get_weights()
        points = split.scaler.back(self._outputs(weights, split.test.inputs))
        test = _test_part(points, closes, split)
        metrics = errors_beside_naive(*(_column(test, name) for name in ("point", "close", "last_close")))
        rmse, naive = (
            format_price(metrics[f"{name}_rmse"], history.quote_currency) for name in ("test", "naive")
        )
        log.info("%s: test RMSE %s over %d days, naive %s", history.product_id, rmse, len(test), naive)
        validation = len(split.train) - split.fitted
        windows = {"train": split.fitted, "validation": validation, "test": len(split.test)}
        state = ArticleState(weights, split.scaler, test)
        training = Training((losses,), windows, metrics=metrics)
        return FittedModel(state, closes["day_utc"].iloc[-1].date(), training=training)

    def split(self, closes: pd.DataFrame) -> Split:
        """Split candles as the article does: windows of the oldest closes, and windows of the others.

        Raises:
            NotEnoughHistory: too few days for a window to train on, one to validate and one to test.
        """
        settings = self.settings
        if len(closes) < self.min_days:
            raise NotEnoughHistory(
                f"training needs {self.min_days} days of closes, found {len(closes)}: import more history"
            )
        days, prices = closes["day_utc"], _column(closes, "close")
        train_rows = int(len(closes) * settings.train_share)
        scaler = MinMax.fit(prices if settings.scaler_fit == "all" else prices[:train_rows])
        scaled = scaler.forward(prices)

        def windows(part: slice) -> Windows:
            kept = None if settings.bridge_gaps else days[part]
            return make_windows(scaled[part], lookback=settings.lookback, days=kept)

        train_part = windows(slice(0, train_rows))
        fitted = int(len(train_part) * (1.0 - settings.validation_split))
        if not 0 < fitted < len(train_part):  # gaps leave fewer windows than there are days for
            raise NotEnoughHistory(
                f"training needs a window to learn from and one to validate, found {len(train_part)} between"
                f" the gaps of {train_rows} days: import more history"
            )
        return Split(train_rows, scaler, train_part, windows(slice(train_rows, None)), fitted)

    def _network(self) -> keras.Sequential:
        names = {"lookback", "units", "activation", "leaky_slope", "dropout", "seed"}
        return article_network(**self.settings.model_dump(include=names))

    def predict(
        self,
        fitted: FittedModel,
        candles: pd.DataFrame,
        rows: Rows,
        *,
        components: bool = True,  # noqa: ARG002
    ) -> Mapping[int, Predicted]:
        """The close of the day after each origin row."""
        state: ArticleState = fitted.state
        closes, lookback = _column(candles, "close"), self.settings.lookback
        windows = np.empty((len(rows), lookback, 1))
        for number, row in enumerate(rows):
            window = newest_window(candles["day_utc"][: row + 1], closes[: row + 1], lookback=lookback)
            windows[number, :, 0] = state.scaler.forward(window)
        return {1: Predicted(points=state.scaler.back(self._outputs(state.weights, windows)))}

    def _outputs(self, weights: Weights, windows: Floats) -> Floats:
        """Scaled closes (samples,) of the days after windows of scaled closes (samples, lookback, 1)."""
        layers = self.settings.model_dump(include={"activation", "leaky_slope"})
        return forward(weights, windows, **layers)[:, 0]

    def weights(self, fitted: FittedModel) -> Sequence[Sequence[NDArray[Any]]]:
        """The arrays of the only network."""
        return [fitted.state.weights]

    def save(self, fitted: FittedModel, draft: Draft) -> None:
        """Write `model.weights.h5` and `scaler.json`."""
        network = self._network()
        network.set_weights(fitted.state.weights)
        draft.write_weights(network)
        draft.write_json("scaler.json", asdict(fitted.state.scaler))

    def load(self, bundle: Bundle) -> ArticleState:
        """The network's weights and its scaler."""
        weights = bundle.read_weights(weight_shapes(1, self.settings.units, outputs=1))
        return ArticleState(weights, MinMax(**bundle.read_json("scaler.json")))

    def figures(self, fitted: FittedModel, history: PriceHistory) -> Mapping[str, bytes]:
        """The article's three figures, as PNG by file name."""
        from closecast.tasks.profiles.figures import article_figures

        return article_figures(history, fitted.training.losses[0], fitted.state.test)


def _test_part(points: Floats, closes: pd.DataFrame, split: Split) -> pd.DataFrame:
    """`ArticleState.test`, from the predicted closes (samples,) of the test windows."""
    rows, prices = split.train_rows + split.test.target_rows, _column(closes, "close")
    return pd.DataFrame(
        {
            "day_utc": closes["day_utc"].to_numpy()[rows],
            "close": prices[rows],
            "last_close": prices[rows - 1],
            "point": points,
        }
    )


def _column(frame: pd.DataFrame, name: str) -> Floats:
    return frame[name].to_numpy(dtype=np.float64)
