"""The loop that trains the networks.

One epoch is one call into TensorFlow: the batches are gathered inside it, the dropout masks and the
order of the windows are drawn outside it by a seeded generator. The layers, the optimizer and the
mathematics are Keras's own; what is saved is the way back to Python after each batch.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.engine import native_stderr_to_log, tensorflow
from tasks.networks import squared_error
from tasks.scale import Floats

if TYPE_CHECKING:
    import keras

log = logging.getLogger("closecast.train")

Loss = Callable[[Any, Any], Any]
Weights = list[NDArray[np.float32]]
Numbers = NDArray[np.floating[Any]]
# Threads of a task runner share networks and the process's standard error: one trains at a time.
_training = threading.RLock()


@dataclass(frozen=True)
class Losses:
    """Mean loss of each epoch, shape (epochs,): in training (with dropout) and on the validation windows.

    `best` is the epoch, counted from 1, whose weights the network has: the last one without early stopping.
    """

    training: Floats
    validation: Floats
    best: int


class Trainer:
    """A network with its optimizer and its loops, traced on first use and then used for every member.

    Args:
        network: a Sequential of ours, trained in place; its Dropout layers take their masks from a seed.
        loss: (batch, outputs) and (batch, targets) → (batch,).
        clip_norm: the gradients' norm is held to it; None leaves them as they are.
        compiled: by XLA, which pays for small batches; one shape of data each.
        head: what `apart` makes of the outputs, (batch, outputs) to (batch, figures).
    """

    def __init__(
        self,
        network: keras.Sequential,
        *,
        loss: Loss,
        clip_norm: float | None = None,
        compiled: bool = True,
        head: Callable[[Any], Any] = lambda raw: raw,
    ) -> None:
        import keras

        self.network = network
        self._loss = loss
        self._head = head
        self._optimizer = keras.optimizers.Adam(global_clipnorm=clip_norm)
        self._optimizer.build(network.trainable_variables)
        self._run_epoch = self._epoch_function(compiled=compiled)
        self._mean_loss = self._mean_loss_function()
        self._apart = self._apart_function()

    def fit(
        self,
        inputs: Numbers,
        targets: Numbers,
        validation: tuple[Numbers, Numbers] | None = None,
        *,
        learning_rate: float,
        batch_size: int,
        epochs: int,
        shuffle: bool,
        seed: int,
        start: Weights | None = None,
        patience: int | None = None,
        min_delta: float = 0.0,
    ) -> tuple[Weights, Losses]:
        """Train by Adam from fresh optimizer state, as `keras.Model.fit` would.

        Args:
            inputs: (samples, lookback, features).
            targets: (samples, outputs).
            validation: windows that are only looked at, of the same shapes.
            learning_rate: Adam's step.
            batch_size: windows a step; the last batch of an epoch may be smaller.
            epochs: passes over the training windows, at most.
            shuffle: draw a new order for every epoch.
            seed: of the masks and the order.
            start: the first weights, when not those that the network has.
            patience: stop after that many epochs without a better validation loss, and keep the best weights.
            min_delta: what counts as better.

        Returns:
            The weights, which the network has as well, and the losses.
        """
        with _training:
            if start is not None:
                self.network.set_weights(start)
            losses = self._fit(
                [np.asarray(part, dtype=np.float32) for part in (inputs, targets, *(validation or ()))],
                learning_rate=learning_rate,
                batches=(batch_size, shuffle),
                epochs=epochs,
                draw=np.random.Generator(np.random.PCG64(seed)),
                stop=_Stop(patience, min_delta),
            )
            return self.network.get_weights(), losses

    def _fit(
        self,
        data: list[NDArray[np.float32]],
        *,
        learning_rate: float,
        batches: tuple[int, bool],
        epochs: int,
        draw: np.random.Generator,
        stop: _Stop,
    ) -> Losses:
        tf = tensorflow()
        x, y, *held = (tf.constant(part) for part in data)
        self._renew(learning_rate)
        batch_size, shuffle = batches
        training, validation = [], []
        for epoch in range(1, epochs + 1):
            order, weights = _batches(len(data[0]), batch_size, draw if shuffle else None)
            masks = _masks(self.network, order.shape, draw)
            # XLA greets the terminal while it compiles, which is on the first call.
            with native_stderr_to_log() if epoch == 1 else contextlib.nullcontext():
                losses = self._run_epoch(x, y, tf.constant(order), tf.constant(weights), masks).numpy()
                training.append(float(np.average(losses.astype(np.float64), weights=weights.sum(axis=1))))
                validation.append(float(self._mean_loss(*held)) if held else np.nan)
            if epoch == 1 or epoch % 10 == 0 or epoch == epochs:
                text = "epoch %d of %d: loss %.5f, validation %.5f"
                log.info(text, epoch, epochs, training[-1], validation[-1])
            if stop.after(epoch, validation[-1], self.network):
                break
        best = stop.restore(self.network) or epoch
        return Losses(np.array(training), np.array(validation), best)

    def apart(self, weights: Weights, inputs: NDArray[np.float32]) -> Floats:
        """The head's figures (samples, figures) of those weights for (samples, lookback, features).

        One window after the other, since vectorised arithmetic rounds by a window's place in its batch.
        A window's figures are then the same to the last bit, whichever windows stand beside it.
        """
        with _training:
            self.network.set_weights(weights)
            return np.asarray(self._apart(np.asarray(inputs, dtype=np.float32)), dtype=np.float64)

    @contextlib.contextmanager
    def lend(self, weights: Weights | None = None) -> Iterator[keras.Sequential]:
        """The network, with those weights, for nobody else meanwhile."""
        with _training:
            if weights is not None:
                self.network.set_weights(weights)
            yield self.network

    def _renew(self, learning_rate: float) -> None:
        """Set the optimizer's state back to what it is before the first step."""
        for variable in self._optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        self._optimizer.learning_rate = learning_rate

    def _epoch_function(self, *, compiled: bool) -> Callable[..., Any]:
        """One pass over the batches in a graph: (steps, batch) indices, weights, masks → (steps,) losses."""
        tf = tensorflow()
        network, optimizer, loss_of = self.network, self._optimizer, self._loss

        def run_epoch(x: Any, y: Any, order: Any, weights: Any, masks: list[Any]) -> Any:
            def run_batch(step: Any, losses: Any) -> tuple[Any, Any]:
                with tf.GradientTape() as tape:
                    said = _forward(network, tf.gather(x, order[step]), [mask[step] for mask in masks])
                    error = loss_of(said, tf.gather(y, order[step]))
                    loss = tf.reduce_sum(error * weights[step]) / tf.reduce_sum(weights[step])
                slopes = tape.gradient(loss, network.trainable_variables)
                optimizer.apply(slopes, network.trainable_variables)
                return step + 1, losses.write(step, loss)

            steps = order.shape[0] or tf.shape(order)[0]
            start = (tf.constant(0), tf.TensorArray(tf.float32, steps))
            _, losses = tf.while_loop(
                lambda step, _: step < steps,
                run_batch,
                start,
                parallel_iterations=1,
                maximum_iterations=steps,
            )
            return losses.stack()

        # The loop is written out, since AutoGraph, which would make it of a `for`, needs the source at hand.
        return tf.function(  # type: ignore[no-any-return]
            run_epoch, jit_compile=compiled, autograph=False, reduce_retracing=not compiled
        )

    def _mean_loss_function(self) -> Callable[..., Any]:
        tf = tensorflow()

        def mean_loss(x: Any, y: Any) -> Any:
            return tf.reduce_mean(self._loss(self.network(x, training=False), y))

        return tf.function(mean_loss, autograph=False, reduce_retracing=True)  # type: ignore[no-any-return]

    def _apart_function(self) -> Callable[..., Any]:
        tf = tensorflow()
        window = self.network.input_shape[1:]

        def apart(x: Any) -> Any:
            def one(row: Any, said: Any) -> tuple[Any, Any]:
                shown = tf.ensure_shape(x[row : row + 1], (1, *window))
                return row + 1, said.write(row, self._head(self.network(shown, training=False))[0])

            rows = tf.shape(x)[0]
            start = (tf.constant(0), tf.TensorArray(tf.float32, rows))
            return tf.while_loop(lambda row, _: row < rows, one, start, parallel_iterations=1)[1].stack()

        signature = [tf.TensorSpec((None, *window), tf.float32)]
        return tf.function(apart, autograph=False, input_signature=signature)  # type: ignore[no-any-return]


class _Stop:
    """Early stopping as Keras has it: the best weights are kept, and come back."""

    def __init__(self, patience: int | None, min_delta: float) -> None:
        self._patience, self._min_delta = patience, min_delta
        self._best, self._epoch = np.inf, 0
        self._kept: Weights = []

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


def train(
    network: keras.Sequential,
    inputs: Floats,
    targets: Floats,
    *,
    validation_split: float,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    shuffle: bool,
    seed: int,
    compiled: bool = True,
) -> Losses:
    """Train in place on the mean squared error, with the newest windows to validate as Keras splits them.

    Args:
        network: a Sequential of ours.
        inputs: (samples, lookback, features); the last `validation_split` of them is never trained on.
        targets: (samples, horizon).
        validation_split: share of the samples, as Keras counts it, from the end.
        learning_rate: Adam's step.
        batch_size: windows a step.
        epochs: passes over the training windows.
        shuffle: draw a new order for every epoch.
        seed: of the masks and the order.
        compiled: by XLA; pays from some 75 epochs on for the article's network (docs/performance.md).
    """
    split = int(len(inputs) * (1.0 - validation_split))
    _, losses = Trainer(network, loss=squared_error, compiled=compiled).fit(
        inputs[:split],
        targets[:split],
        (inputs[split:], targets[split:]) if split < len(inputs) else None,
        learning_rate=learning_rate,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=shuffle,
        seed=seed,
    )
    return losses


def _forward(network: keras.Sequential, batch: Any, masks: list[Any]) -> Any:
    """The training pass: Keras's layers, with the dropout masks that were drawn outside."""
    import keras

    left = iter(masks)
    for layer in network.layers:
        batch = batch * next(left) if isinstance(layer, keras.layers.Dropout) else layer(batch)
    return batch


def _batches(
    samples: int, batch_size: int, draw: np.random.Generator | None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Window numbers (steps, batch) and their weights: a short last batch is filled up with weight 0."""
    rows = np.arange(samples, dtype=np.int32) if draw is None else draw.permutation(samples).astype(np.int32)
    steps = -(-samples // batch_size)
    order = np.zeros(steps * batch_size, dtype=np.int32)
    order[:samples] = rows
    weights = (np.arange(steps * batch_size) < samples).astype(np.float32)
    return order.reshape(steps, batch_size), weights.reshape(steps, batch_size)


def _masks(network: keras.Sequential, shape: tuple[int, ...], draw: np.random.Generator) -> list[Any]:
    """Inverted-dropout masks for one epoch, (steps, batch, width) for each Dropout layer."""
    import keras

    tf = tensorflow()
    masks = []
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):
            kept = draw.random((*shape, layer.output.shape[-1]), dtype=np.float32) >= layer.rate
            masks.append(tf.constant(kept / np.float32(1.0 - layer.rate), dtype=tf.float32))
    return masks
