"""What the training loop does outside the graph: batches, dropout masks, early stopping, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from closecast.storage.core.progress import report_progress
from closecast.tasks.core.tensorflow_runtime import tensorflow

if TYPE_CHECKING:
    import keras

Weights = list[NDArray[np.float32]]
# Called with the member's name, the epoch and the number of epochs.
Listener = Callable[[str, int, int], None]
# Each member's thread has a copy of the run's context, and so the run's listener.
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


class EarlyStopping:
    """The rule of Keras's `EarlyStopping` with `restore_best_weights`; without patience it never stops."""

    def __init__(self, patience: int | None, min_delta: float) -> None:
        self._patience, self._min_delta = patience, min_delta
        self._best_loss, self._best_epoch = np.inf, 0
        self._best_weights: Weights = []

    def after(self, epoch: int, loss: float, network: keras.Sequential) -> bool:
        """Whether to stop after this epoch, counted from 1, with this validation loss."""
        if self._patience is None:
            return False
        if loss < self._best_loss - self._min_delta:
            self._best_loss, self._best_epoch, self._best_weights = loss, epoch, network.get_weights()
        return epoch - self._best_epoch >= self._patience

    def restore(self, network: keras.Sequential) -> int:
        """Give the network its best weights, and return their epoch; 0 if none were kept."""
        if self._best_epoch:
            network.set_weights(self._best_weights)
        return self._best_epoch


def batches(
    samples: int, batch_size: int, draw: np.random.Generator | None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The windows' numbers and weights by batch, (steps, batch) each; weight 0 pads a short last batch.

    `draw` shuffles the windows; without it they keep their order.
    """
    rows = np.arange(samples, dtype=np.int32) if draw is None else draw.permutation(samples).astype(np.int32)
    steps = -(-samples // batch_size)
    order = np.zeros(steps * batch_size, dtype=np.int32)
    order[:samples] = rows
    weights = (np.arange(steps * batch_size) < samples).astype(np.float32)
    return order.reshape(steps, batch_size), weights.reshape(steps, batch_size)


def dropout_masks(network: keras.Sequential, shape: tuple[int, ...], draw: np.random.Generator) -> list[Any]:
    """Inverted-dropout masks of one epoch, (steps, batch, width) for each Dropout layer."""
    import keras

    tf = tensorflow()
    masks: list[Any] = []
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):
            kept = draw.random((*shape, layer.output.shape[-1]), dtype=np.float32) >= layer.rate
            masks.append(tf.constant(kept / np.float32(1.0 - layer.rate), dtype=tf.float32))
    return masks


def report_epoch(member: str, epoch: int, epochs: int) -> None:
    """Report that a member finished an epoch, of at most `epochs`, to the terminal and the listener."""
    report_progress(f"epochs of {member}" if member else "epochs", epoch, epochs)
    listener = _listener.get()
    if listener is not None:
        listener(member, epoch, epochs)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call the listener for each epoch that is reported in this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
