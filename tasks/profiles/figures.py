"""Figures about trainings, as PNG: the article's three, and the losses of an ensemble."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from tasks.core.history import PriceHistory
from tasks.network.trainer import Losses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f5fa8", "#c8500a", "#8a8a8a"


def article_figures(history: PriceHistory, losses: Losses, test: pd.DataFrame) -> dict[str, bytes]:
    """Draw prices, losses, and predicted against actual.

    Args:
        history: everything that the model was given.
        losses: of each epoch.
        test: as in `ArticleState.test`.

    Returns:
        PNG files by name: `prices.png`, `losses.png`, `predicted.png`.
    """
    return {
        "prices.png": _prices(history, test),
        "losses.png": _losses(losses),
        "predicted.png": _predicted(history, test),
    }


def loss_figure(members: Sequence[Losses]) -> bytes:
    """Draw the members' losses, a colour each: validation whole, training dotted."""
    figure, axes = _canvas("Loss of each epoch", "negative log likelihood, scaled returns")
    for number, losses in enumerate(members, start=1):
        epochs = range(1, len(losses.training) + 1)
        (line,) = axes.plot(epochs, losses.validation, label=f"member {number}")
        axes.plot(epochs, losses.training, color=line.get_color(), linestyle=":")
    axes.set_xlabel("epoch (dotted: training, with dropout)")
    figure.legend(frameon=False, loc="outside lower center", ncols=5)
    return _png(figure)


def _canvas(title: str, unit: str) -> tuple[Figure, Axes]:
    # Figure without pyplot: no global state, so it may be drawn in any thread.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=13)
    axes.set_ylabel(unit)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _with_breaks(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a calendar day, so that a gap is drawn as a gap and not as a line across it."""
    return frame.set_index("day_utc").asfreq("D")


def _prices(history: PriceHistory, test: pd.DataFrame) -> bytes:
    figure, axes = _canvas(f"{history.product_id}: daily close", history.quote_currency)
    line = _with_breaks(history.candles[["day_utc", "close"]])
    axes.plot(line.index, line["close"], color=BLUE, linewidth=1.1, label="close")
    axes.axvspan(test["day_utc"].iloc[0], test["day_utc"].iloc[-1], color=GREY, alpha=0.15, label="test part")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return _png(figure)


def _losses(losses: Losses) -> bytes:
    figure, axes = _canvas("Loss of each epoch", "mean squared error, scaled prices")
    epochs = range(1, len(losses.training) + 1)
    axes.plot(epochs, losses.training, color=BLUE, label="training (with dropout)")
    axes.plot(epochs, losses.validation, color=ORANGE, label="validation")
    axes.set_xlabel("epoch")
    # A series that never moves is learned to a loss of nothing, which has no logarithm.
    if max(losses.training.max(), losses.validation.max()) > 0:
        axes.set_yscale("log")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return _png(figure)


def _predicted(history: PriceHistory, test: pd.DataFrame) -> bytes:
    figure, axes = _canvas(
        f"{history.product_id}: predicted against actual, test part", history.quote_currency
    )
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
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return _png(figure)
