"""What an epoch of training is made of: its batches, its dropout masks, the forward pass, when to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.tensorflow_runtime import tensorflow

if TYPE_CHECKING:
    import keras

Weights = list[NDArray[np.float32]]


class Stop:
    """Early stopping as Keras has it: the best weights are kept, and come back."""

    def __init__(self, patience: int | None, min_delta: float) -> None:
        self._patience, self._min_delta = patience, min_delta
        self._best, self._epoch = np.inf, 0
        self._kept: Weights = []

    @property
    def looks(self) -> bool:
        """Whether it looks at the network after each epoch."""
        return self._patience is not None

    def after(self, epoch: int, loss: float, network: keras.Sequential) -> bool:
        """Look at an epoch's validation loss; True when it is time to stop."""
        if self._patience is None:
            return False
        if loss < self._best - self._min_delta:
            self._best, self._epoch, self._kept = loss, epoch, network.get_weights()
        return epoch - self._epoch >= self._patience

    def restore(self, network: keras.Sequential) -> int:
        """Bring the best weights back; their epoch, 0 when there are none."""
        if self._epoch:
            network.set_weights(self._kept)
        return self._epoch


def forward(network: keras.Sequential, batch: Any, masks: list[Any]) -> Any:
    """The training pass: Keras's layers, with the dropout masks that were drawn outside."""
    import keras

    left = iter(masks)
    for layer in network.layers:
        batch = batch * next(left) if isinstance(layer, keras.layers.Dropout) else layer(batch)
    return batch


def batches(
    samples: int, batch_size: int, draw: np.random.Generator | None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Window numbers (steps, batch) and their weights: a short last batch is filled up with weight 0."""
    rows = np.arange(samples, dtype=np.int32) if draw is None else draw.permutation(samples).astype(np.int32)
    steps = -(-samples // batch_size)
    order = np.zeros(steps * batch_size, dtype=np.int32)
    order[:samples] = rows
    weights = (np.arange(steps * batch_size) < samples).astype(np.float32)
    return order.reshape(steps, batch_size), weights.reshape(steps, batch_size)


def masks_of(network: keras.Sequential, shape: tuple[int, ...], draw: np.random.Generator) -> list[Any]:
    """Inverted-dropout masks for one epoch, (steps, batch, width) for each Dropout layer."""
    import keras

    tf = tensorflow()
    masks: list[Any] = []
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):
            kept = draw.random((*shape, layer.output.shape[-1]), dtype=np.float32) >= layer.rate
            masks.append(tf.constant(kept / np.float32(1.0 - layer.rate), dtype=tf.float32))
    return masks
