"""The TensorFlow graphs of training and prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tasks.core.tensorflow_runtime import tensorflow

if TYPE_CHECKING:
    import keras

# (batch, outputs) and (batch, targets) → (batch,)
Loss = Callable[[Any, Any], Any]
# In this scope the network's layers use the weights that the optimizer updates.
Scope = Callable[[], Any]


def epoch_graph(
    network: keras.Sequential,
    optimizer: keras.optimizers.Optimizer,
    variables: list[keras.Variable],
    loss: Loss,
    scope: Scope,
    *,
    compiled: bool,
) -> Any:
    """A pass over the batches: x, y, (steps, batch) window numbers and weights, masks → (steps,) losses."""
    tf = tensorflow()
    values = [variable.value for variable in variables]

    def run_epoch(x: Any, y: Any, order: Any, weights: Any, masks: list[Any]) -> Any:
        shares = weights / tf.reduce_sum(weights, axis=1, keepdims=True)
        whole = [tf.gather(x, order), tf.gather(y, order), shares, *masks]

        def run_batch(step: Any, losses: Any) -> tuple[Any, Any]:
            # All batches are gathered at once, and `gather` replaces a slice: fewer operations per step.
            inputs, targets, share, *kept = [tf.gather(part, step) for part in whole]
            with tf.GradientTape() as tape, scope():
                mean = tf.reduce_sum(loss(_forward(network, inputs, kept), targets) * share)
            optimizer.apply(tape.gradient(mean, values), variables)
            return step + 1, losses.write(step, mean)

        steps = order.shape[0] or tf.shape(order)[0]
        start = (tf.constant(0), tf.TensorArray(tf.float32, steps))
        _, losses = tf.while_loop(
            lambda step, _: step < steps, run_batch, start, parallel_iterations=1, maximum_iterations=steps
        )
        return losses.stack()

    # AutoGraph would turn a `for` into this loop, but it needs the source code at run time.
    return tf.function(run_epoch, jit_compile=compiled, autograph=False, reduce_retracing=not compiled)


def mean_loss_graph(network: keras.Sequential, loss: Loss, scope: Scope) -> Any:
    """The mean loss without dropout: x, y → a scalar."""
    tf = tensorflow()

    def mean_loss(x: Any, y: Any) -> Any:
        with scope():
            return tf.reduce_mean(loss(network(x, training=False), y))

    return tf.function(mean_loss, autograph=False, reduce_retracing=True)


def predict_graph(network: keras.Sequential, head: Callable[[Any], Any]) -> Any:
    """The head's figures of one window after the other: x → (samples, figures)."""
    tf = tensorflow()
    shape = network.input_shape[1:]

    def predict(x: Any) -> Any:
        def predict_row(row: Any, figures: Any) -> tuple[Any, Any]:
            window = tf.ensure_shape(x[row : row + 1], (1, *shape))
            return row + 1, figures.write(row, head(network(window, training=False))[0])

        rows = tf.shape(x)[0]
        start = (tf.constant(0), tf.TensorArray(tf.float32, rows))
        return tf.while_loop(lambda row, _: row < rows, predict_row, start, parallel_iterations=1)[1].stack()

    return tf.function(predict, autograph=False, input_signature=[tf.TensorSpec((None, *shape), tf.float32)])


def _forward(network: keras.Sequential, batch: Any, masks: list[Any]) -> Any:
    """The training pass of Keras's layers, with a mask in place of each Dropout layer."""
    import keras

    remaining = iter(masks)
    for layer in network.layers:
        batch = batch * next(remaining) if isinstance(layer, keras.layers.Dropout) else layer(batch)
    return batch
