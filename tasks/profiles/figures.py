"""Figures of trainings, as PNG: the article's three, and the losses of an ensemble."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from closecast.tasks.core.history import PriceHistory
from closecast.tasks.network.trainer import Losses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f5fa8", "#c8500a", "#8a8a8a"


def article_figures(history: PriceHistory, losses: Losses, test: pd.DataFrame) -> dict[str, bytes]:
    """Draw the prices, the losses, and the predicted and actual closes, as PNG by file name.

    Args:
        test: the forecasts of the test part, as in `ArticleState`.
    """
    return {
        "prices.png": _prices(history, test),
        "losses.png": loss_figure([losses], "mean squared error, scaled prices", logarithmic=True),
        "predicted.png": _predicted(history, test),
    }


def loss_figure(networks: Sequence[Losses], unit: str, *, logarithmic: bool = False) -> bytes:
    """Draw the losses of each network, as PNG: a colour each, validation solid, training dotted."""
    figure, axes = _canvas("Loss of each epoch", unit)
    for number, losses in enumerate(networks, start=1):
        epochs = range(1, len(losses.training) + 1)
        (line,) = axes.plot(epochs, losses.validation, label=f"network {number}")
        axes.plot(epochs, losses.training, color=line.get_color(), linestyle=":")
    axes.set_xlabel("epoch (dotted: training, with dropout)")
    # The loss on a series that never moves reaches 0, which has no logarithm.
    if logarithmic and max(max(losses.training.max(), losses.validation.max()) for losses in networks) > 0:
        axes.set_yscale("log")
    return _png(figure)


def _canvas(title: str, unit: str) -> tuple[Figure, Axes]:
    # Without pyplot there is no global state, so a figure can be drawn in any thread.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=13)
    axes.set_ylabel(unit)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def price_tick(price: float, _position: object = None) -> str:
    """A price on an axis, in full: no offset, no exponent."""
    # Ticks are round numbers; the error of their floats lies beyond the tenth digit.
    return np.format_float_positional(float(f"{price:.10g}"), trim="-")


def _price_canvas(title: str, history: PriceHistory) -> tuple[Figure, Axes]:
    """A canvas whose axis shows prices in full, also those of a stablecoin or of 1e-8."""
    figure, axes = _canvas(f"{history.product_id}: {title}", history.quote_currency)
    axes.yaxis.set_major_formatter(price_tick)
    return figure, axes


def _png(figure: Figure) -> bytes:
    figure.legend(frameon=False, loc="outside lower center", ncols=5)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _with_breaks(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per calendar day, so that no line is drawn across a gap."""
    return frame.set_index("day_utc").asfreq("D")


def _prices(history: PriceHistory, test: pd.DataFrame) -> bytes:
    figure, axes = _price_canvas("daily close", history)
    line = _with_breaks(history.candles[["day_utc", "close"]])
    axes.plot(line.index, line["close"], color=BLUE, linewidth=1.1, label="close")
    axes.axvspan(test["day_utc"].iloc[0], test["day_utc"].iloc[-1], color=GREY, alpha=0.15, label="test part")
    return _png(figure)


def _predicted(history: PriceHistory, test: pd.DataFrame) -> bytes:
    figure, axes = _price_canvas("predicted against actual, test part", history)
    line = _with_breaks(test)
    axes.plot(line.index, line["close"], color=BLUE, linewidth=1.2, label="actual close")
    axes.plot(line.index, line["point"], color=ORANGE, linewidth=1.2, label="predicted close")
    axes.plot(
        line.index,
        line["last_close"],
        color=GREY,
        linewidth=0.9,
        linestyle=":",
        label="naive: the close of the day before",
    )
    return _png(figure)
