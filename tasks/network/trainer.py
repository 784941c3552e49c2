"""The loop that trains the networks.

One epoch is one call into TensorFlow: the batches are gathered inside it, the dropout masks and the
order of the windows are drawn outside it by a seeded generator. The layers, the optimizer and the
mathematics are Keras's own; what is saved is the way back to Python after each batch.

Compiled by XLA an epoch of the article's small batches takes a quarter of the time, and the compilation as
long as a dozen of them; the calibrated network is slower with it (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage.core.logs import native_stderr_to_log
from tasks.core.tensorflow_runtime import tensorflow
from tasks.core.types import Floats
from tasks.network.architectures import squared_error
from tasks.network.epoch import Stop, Weights, batches, forward, masks_of
from tasks.network.flat_weights import Joined, can_join
from tasks.network.progress import tell_epoch

if TYPE_CHECKING:
    import keras

log = logging.getLogger("closecast.train")

Loss = Callable[[Any, Any], Any]
Numbers = NDArray[np.floating[Any]]
# From so many steps on a loop has made good for its compilation; 50 epochs of the article are 14,000.
XLA_PAYS_FROM = 4_000
# TensorFlow's executor that runs a graph in the thread that calls it: several threads do not share one queue.
IN_THIS_THREAD = "SINGLE_THREADED_EXECUTOR"


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

    One thread at a time uses it; `beside` makes another for another thread.

    Args:
        network: a Sequential of ours, trained in place; its Dropout layers take their masks from a seed.
        loss: (batch, outputs) and (batch, targets) → (batch,).
        optimizer: any of Keras's with a plain learning rate, not built yet; Adam by default.
        compiled: by XLA; one shape of data each.
        head: what `apart` makes of the outputs, (batch, outputs) to (batch, figures).
    """

    def __init__(
        self,
        network: keras.Sequential,
        *,
        loss: Loss,
        optimizer: keras.optimizers.Optimizer | None = None,
        compiled: bool = False,
        head: Callable[[Any], Any] = lambda raw: raw,
    ) -> None:
        import keras

        self.network = network
        self._loss, self._head, self._compiled = loss, head, compiled
        self._optimizer = keras.optimizers.Adam() if optimizer is None else optimizer
        self._joined = Joined(network) if can_join(self._optimizer) else None
        self._optimizer.build(self._trained())
        self._fresh = [keras.ops.convert_to_numpy(variable) for variable in self._optimizer.variables]
        self._epoch = self._epoch_function()
        self._mean_loss = self._mean_loss_function()
        self._apart = self._apart_function()
        self._lock = threading.RLock()
        self._own: dict[int, Any] = {}

    def beside(self) -> Trainer:
        """Another trainer of this network: the same graphs, traced once, on variables of its own.

        Its network begins with the weights that this one's has.
        """
        import keras

        network = keras.models.clone_model(self.network)
        network.set_weights(self.network.get_weights())
        optimizer = type(self._optimizer).from_config(self._optimizer.get_config())
        if self._compiled:  # XLA would compile for those variables anew
            return Trainer(network, loss=self._loss, optimizer=optimizer, compiled=True, head=self._head)
        other = copy.copy(self)
        other.network, other._optimizer, other._lock = network, optimizer, threading.RLock()
        other._joined = Joined(network) if self._joined else None
        optimizer.build(other._trained())
        pairs = zip(self._variables(), other._variables(), strict=True)
        theirs = {id(mine.value.handle): other.value.handle for mine, other in pairs}
        other._own = {key: theirs[id(handle)] for key, handle in self._own.items()} or theirs
        return other

    def _trained(self) -> list[keras.Variable]:
        """What the optimizer updates."""
        return [self._joined.variable] if self._joined else self.network.trainable_variables

    def _variables(self) -> list[keras.Variable]:
        return [*self.network.variables, *self._optimizer.variables, *self._trained()]

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
        name: str = "",
    ) -> tuple[Weights, Losses]:
        """Train from fresh optimizer state, as `keras.Model.fit` would.

        Args:
            inputs: (samples, lookback, features).
            targets: (samples, outputs).
            validation: windows that are only looked at, of the same shapes.
            learning_rate: the optimizer's step.
            batch_size: windows a step; the last batch of an epoch may be smaller.
            epochs: passes over the training windows, at most.
            shuffle: draw a new order for every epoch.
            seed: of the masks and the order.
            start: the first weights, when not those that the network has.
            patience: stop after that many epochs without a better validation loss, and keep the best weights.
            min_delta: what counts as better.
            name: of what is trained, for the log.

        Returns:
            The weights, which the network has as well, and the losses.
        """
        with self._lock:
            if start is not None:
                self.network.set_weights(start)
            losses = self._fit(
                [np.asarray(part, dtype=np.float32) for part in (inputs, targets, *(validation or ()))],
                learning_rate=learning_rate,
                sizes=(batch_size, shuffle),
                epochs=epochs,
                draw=np.random.Generator(np.random.PCG64(seed)),
                stop=Stop(patience, min_delta),
                name=name,
            )
            return self.network.get_weights(), losses

    def _fit(
        self,
        data: list[NDArray[np.float32]],
        *,
        learning_rate: float,
        sizes: tuple[int, bool],
        epochs: int,
        draw: np.random.Generator,
        stop: Stop,
        name: str,
    ) -> Losses:
        tf = tensorflow()
        text = f"{name + ', ' if name else ''}epoch %d of %d: loss %.5f"
        x, y, *held = (tf.constant(part) for part in data)
        self._renew(learning_rate)
        if self._joined:
            self._joined.take()
        batch_size, shuffle = sizes
        training, validation = [], []
        for epoch in range(1, epochs + 1):
            order, weights = batches(len(data[0]), batch_size, draw if shuffle else None)
            masks = masks_of(self.network, order.shape, draw)
            # XLA greets the terminal while it compiles, which is on the first call.
            with native_stderr_to_log() if self._compiled and epoch == 1 else contextlib.nullcontext():
                given = (x, y, tf.constant(order), tf.constant(weights), masks)
                losses = np.asarray(self._run(self._epoch, *given), dtype=np.float64)
            training.append(float(np.average(losses, weights=weights.sum(axis=1))))
            validation.append(float(self._run(self._mean_loss, *held)) if held else np.nan)
            if epoch == 1 or epoch % 10 == 0 or epoch == epochs:
                # A fine-tuning holds nothing back.
                checked = f", validation {validation[-1]:.5f}" if held else ""
                log.info(text + "%s", epoch, epochs, training[-1], checked)
            tell_epoch(name, epoch, epochs)
            if self._joined and (stop.looks or epoch == epochs):
                self._joined.give()
            if stop.after(epoch, validation[-1], self.network):
                tell_epoch(name, epochs, epochs)
                break
        best = stop.restore(self.network) or epoch
        return Losses(np.array(training), np.array(validation), best)

    def apart(self, weights: Weights, inputs: NDArray[np.float32]) -> Floats:
        """The head's figures (samples, figures) of those weights for (samples, lookback, features).

        One window after the other, since vectorised arithmetic rounds by a window's place in its batch.
        A window's figures are then the same to the last bit, whichever windows stand beside it.
        """
        tf = tensorflow()
        with self._lock:
            self.network.set_weights(weights)
            shown = tf.constant(np.asarray(inputs, dtype=np.float32))
            return np.asarray(self._run(self._apart, shown), dtype=np.float64)

    @contextlib.contextmanager
    def lend(self, weights: Weights | None = None) -> Iterator[keras.Sequential]:
        """The network, with those weights, for nobody else meanwhile."""
        with self._lock:
            if weights is not None:
                self.network.set_weights(weights)
            yield self.network

    def _renew(self, learning_rate: float) -> None:
        """Set the optimizer's state back to what it is before the first step."""
        for variable, fresh in zip(self._optimizer.variables, self._fresh, strict=True):
            variable.assign(fresh)
        self._optimizer.learning_rate = learning_rate

    def _run(self, function: Any, *given: Any) -> Any:
        """Call a loop on this trainer's variables, in this thread."""
        tf = tensorflow()
        with tf.experimental.function_executor_type(IN_THIS_THREAD):
            if self._compiled:
                return function(*given)
            graph = function.get_concrete_function(*given)
            caught = [self._own.get(id(handle), handle) for handle in graph.captured_inputs]
            return tf.raw_ops.StatefulPartitionedCall(
                args=[*tf.nest.flatten(given), *caught],
                Tout=[tf.float32],
                f=graph,
                executor_type=IN_THIS_THREAD,
            )[0]

    def _instead(self) -> Any:
        """Inside it, in a graph, the network's weights are those that the optimizer updates."""
        return self._joined.instead() if self._joined else contextlib.nullcontext()

    def _epoch_function(self) -> Callable[..., Any]:
        """One pass over the batches in a graph: (steps, batch) indices, weights, masks → (steps,) losses."""
        tf = tensorflow()
        network, optimizer, loss_of = self.network, self._optimizer, self._loss
        trained = [variable.value for variable in self._trained()]

        def run_epoch(x: Any, y: Any, order: Any, weights: Any, masks: list[Any]) -> Any:
            shares = weights / tf.reduce_sum(weights, axis=1, keepdims=True)
            whole = [tf.gather(x, order), tf.gather(y, order), shares, *masks]

            def run_batch(step: Any, losses: Any) -> tuple[Any, Any]:
                # Gathered for all batches at once, and a gather for a slice: operations saved at each step.
                inputs, targets, share, *kept = [tf.gather(part, step) for part in whole]
                with tf.GradientTape() as tape, self._instead():
                    loss = tf.reduce_sum(loss_of(forward(network, inputs, kept), targets) * share)
                optimizer.apply(tape.gradient(loss, trained), self._trained())
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
            run_epoch, jit_compile=self._compiled, autograph=False, reduce_retracing=not self._compiled
        )

    def _mean_loss_function(self) -> Callable[..., Any]:
        tf = tensorflow()

        def mean_loss(x: Any, y: Any) -> Any:
            with self._instead():
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
    compiled: bool | None = None,
) -> Losses:
    """Train in place on the mean squared error, with the newest windows to validate as Keras splits them.

    Args:
        network: a Sequential of ours.
        inputs: (samples, lookback, features); the last `validation_split` of them is never trained on.
        targets: (samples, horizon).
        validation_split: share of the samples, as Keras counts it, from the end.
        learning_rate: of Adam.
        batch_size: windows a step.
        epochs: passes over the training windows.
        shuffle: draw a new order for every epoch.
        seed: of the masks and the order.
        compiled: by XLA; by default where that is faster, compilation included.
    """
    split = int(len(inputs) * (1.0 - validation_split))
    if compiled is None:
        compiled = epochs * -(-split // batch_size) >= XLA_PAYS_FROM
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
