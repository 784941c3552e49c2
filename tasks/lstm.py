"""The networks, and the loop that trains them.

One epoch is one call into TensorFlow: the batches are gathered inside it, the dropout masks and the
order of the windows are drawn outside it by a seeded generator. The layers, the optimizer and the
mathematics are Keras's own; what is saved is the way back to Python after each batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.engine import native_stderr_to_log, tensorflow
from tasks.scale import Floats

if TYPE_CHECKING:
    import keras

log = logging.getLogger("closecast.train")


@dataclass(frozen=True)
class Losses:
    """Mean loss of each epoch, shape (epochs,): in training (with dropout) and on the validation windows."""

    training: Floats
    validation: Floats


def article_network(
    *, lookback: int, horizon: int, units: int, activation: str, leaky_slope: float, dropout: float, seed: int
) -> keras.Sequential:
    """The article's network: (batch, lookback, 1) scaled closes → (batch, horizon) scaled closes.

    Unrolled over the lookback, which is the same arithmetic in half the time for so few steps.
    """
    tensorflow()
    import keras

    first, second, third = np.random.SeedSequence(seed).generate_state(3).tolist()
    return keras.Sequential(
        [
            keras.layers.Input((lookback, 1)),
            keras.layers.LSTM(
                units,
                activation=activation,
                unroll=True,
                kernel_initializer=keras.initializers.GlorotUniform(seed=first),
                recurrent_initializer=keras.initializers.Orthogonal(seed=second),
            ),
            keras.layers.LeakyReLU(negative_slope=leaky_slope),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(horizon, kernel_initializer=keras.initializers.GlorotUniform(seed=third)),
        ]
    )


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
    """Train in place by Adam on the mean squared error, as `keras.Model.fit` would.

    Args:
        network: a Sequential of ours; its Dropout layers take their masks from `seed`.
        inputs: (samples, lookback, features); the last `validation_split` of them is never trained on.
        targets: (samples, horizon).
        validation_split: share of the samples, as Keras counts it, from the end.
        learning_rate: Adam's step.
        batch_size: windows a step; the last batch of an epoch may be smaller.
        epochs: passes over the training windows.
        shuffle: draw a new order for every epoch.
        seed: of the masks and the order.
        compiled: by XLA; pays from about ten epochs on for the article's network.
    """
    import keras

    tf = tensorflow()
    split = int(len(inputs) * (1.0 - validation_split))
    x, y = (tf.constant(part, dtype=tf.float32) for part in (inputs, targets))
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(network.trainable_variables)
    run_epoch = _epoch_function(network, optimizer, compiled=compiled)
    draw = np.random.Generator(np.random.PCG64(seed))
    training, validation = np.empty(epochs), np.empty(epochs)
    for epoch in range(epochs):
        order, weights = _batches(split, batch_size, draw if shuffle else None)
        masks = _masks(network, order.shape, draw)
        # XLA greets the terminal while it compiles, which is on the first call.
        with native_stderr_to_log() if epoch == 0 else contextlib.nullcontext():
            losses = run_epoch(x, y, tf.constant(order), tf.constant(weights), masks).numpy()
        training[epoch] = np.average(losses.astype(np.float64), weights=weights.sum(axis=1))
        validation[epoch] = _mean_squared_error(network, x[split:], y[split:])
        if epoch == 0 or (epoch + 1) % 10 == 0 or epoch + 1 == epochs:
            log.info(
                "epoch %d of %d: loss %.5f, validation %.5f",
                epoch + 1,
                epochs,
                training[epoch],
                validation[epoch],
            )
    return Losses(training, validation)


def _epoch_function(network: keras.Sequential, optimizer: Any, *, compiled: bool) -> Callable[..., Any]:
    """One pass over the batches in one graph: (steps, batch) indices, weights and masks → (steps,) losses."""
    tf = tensorflow()

    def run_epoch(x: Any, y: Any, order: Any, weights: Any, masks: list[Any]) -> Any:
        def run_batch(step: Any, losses: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                said = _forward(network, tf.gather(x, order[step]), [mask[step] for mask in masks])
                error = tf.reduce_mean(tf.square(said - tf.gather(y, order[step])), axis=-1)
                loss = tf.reduce_sum(error * weights[step]) / tf.reduce_sum(weights[step])
            slopes = tape.gradient(loss, network.trainable_variables)
            optimizer.apply(slopes, network.trainable_variables)
            return step + 1, losses.write(step, loss)

        steps = order.shape[0]
        start = (tf.constant(0), tf.TensorArray(tf.float32, steps))
        _, losses = tf.while_loop(
            lambda step, _: step < steps, run_batch, start, parallel_iterations=1, maximum_iterations=steps
        )
        return losses.stack()

    # The loop is written out, since AutoGraph, which would make it of a `for`, needs the source at hand.
    return tf.function(run_epoch, jit_compile=compiled, autograph=False)  # type: ignore[no-any-return]


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


def _mean_squared_error(network: keras.Sequential, x: Any, y: Any) -> float:
    tf = tensorflow()
    return float(tf.reduce_mean(tf.square(network(x, training=False) - y)))


def predict(network: keras.Sequential, inputs: Floats) -> Floats:
    """Outputs (samples, horizon) for inputs (samples, lookback, features), without dropout."""
    tf = tensorflow()
    said = network(tf.constant(inputs, dtype=tf.float32), training=False)
    return np.asarray(said, dtype=np.float64)


def weights_sha256(network: keras.Sequential) -> str:
    """Identify a network by its weights: SHA-256 over the arrays in Keras's order, with their shapes."""
    digest = hashlib.sha256()
    for array in network.get_weights():
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
