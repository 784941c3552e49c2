"""The TensorFlow graphs of training, and the one variable that holds a network's weights in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from closecast.tasks.core.tensorflow_runtime import tensorflow

if TYPE_CHECKING:
    import keras

# (batch, outputs) and (batch, targets) → (batch,)
Loss = Callable[[Any, Any], Any]


class FlatWeights:
    """All trainable weights of a network in one variable, (weights,), which an optimizer updates at once.

    An optimizer repeats its small operations for every variable, which takes a sixth of a step on the
    article's network. The result is the same where each weight is updated independently of the others, as by
    Adam.
    """

    def __init__(self, network: keras.Sequential) -> None:
        import keras

        self._network = network
        self._shapes = [tuple(variable.shape) for variable in network.trainable_variables]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self.variable = keras.Variable(np.zeros(sum(self._sizes), dtype=np.float32), name="weights")

    def load(self) -> None:
        """Copy the network's weights to the variable."""
        weights = [np.ravel(variable.numpy()) for variable in self._network.trainable_variables]
        self.variable.assign(np.concatenate(weights))

    def store(self) -> None:
        """Copy the variable to the network's weights."""
        parts = np.split(self.variable.numpy(), np.cumsum(self._sizes)[:-1])
        for variable, part in zip(self._network.trainable_variables, parts, strict=True):
            variable.assign(part.reshape(variable.shape))

    def scope(self) -> Any:
        """A scope in which the network's layers, in a graph, use the variable's parts as their weights."""
        import keras

        tf = tensorflow()
        parts = tf.split(self.variable.value, self._sizes)
        shaped = [tf.reshape(part, shape) for part, shape in zip(parts, self._shapes, strict=True)]
        pairs = zip(self._network.trainable_variables, shaped, strict=True)
        return keras.StatelessScope(state_mapping=list(pairs))


def epoch_graph(
    network: keras.Sequential,
    optimizer: keras.optimizers.Optimizer,
    flat: FlatWeights,
    loss: Loss,
    *,
    compiled: bool,
) -> Any:
    """The graph of an epoch: x, y, window numbers and weights (steps, batch), masks → losses (steps,)."""
    tf = tensorflow()

    def run_epoch(x: Any, y: Any, order: Any, weights: Any, masks: list[Any]) -> Any:
        shares = weights / tf.reduce_sum(weights, axis=1, keepdims=True)
        whole = [tf.gather(x, order), tf.gather(y, order), shares, *masks]

        def run_batch(step: Any, losses: Any) -> tuple[Any, Any]:
            # `gather` in place of a slice, and of all batches at once: fewer operations per step.
            inputs, targets, share, *kept = [tf.gather(part, step) for part in whole]
            with tf.GradientTape() as tape, flat.scope():
                mean = tf.reduce_sum(loss(_forward(network, inputs, kept), targets) * share)
            optimizer.apply([tape.gradient(mean, flat.variable.value)], [flat.variable])
            return step + 1, losses.write(step, mean)

        steps = order.shape[0] or tf.shape(order)[0]
        start = (tf.constant(0), tf.TensorArray(tf.float32, steps))
        _, losses = tf.while_loop(
            lambda step, _: step < steps, run_batch, start, parallel_iterations=1, maximum_iterations=steps
        )
        return losses.stack()

    # AutoGraph would turn a `for` into this loop, but it needs the source code at run time.
    return tf.function(run_epoch, jit_compile=compiled, autograph=False, reduce_retracing=not compiled)


def mean_loss_graph(network: keras.Sequential, flat: FlatWeights, loss: Loss) -> Any:
    """The graph of the mean loss without dropout: x, y → a scalar."""
    tf = tensorflow()

    def mean_loss(x: Any, y: Any) -> Any:
        with flat.scope():
            return tf.reduce_mean(loss(network(x, training=False), y))

    return tf.function(mean_loss, autograph=False, reduce_retracing=True)


def _forward(network: keras.Sequential, batch: Any, masks: list[Any]) -> Any:
    """The outputs of a batch in training, with a mask in place of each Dropout layer."""
    import keras

    remaining = iter(masks)
    for layer in network.layers:
        batch = batch * next(remaining) if isinstance(layer, keras.layers.Dropout) else layer(batch)
    return batch
