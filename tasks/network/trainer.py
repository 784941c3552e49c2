"""The training loop, and the pool of trainers that train members at the same time.

One epoch is one call into TensorFlow, which gathers the batches itself. Before the call a seeded generator
draws the dropout masks and the order of the windows. Layers and optimizer are Keras's own; the loop only
saves the return to Python after each batch.

XLA runs an epoch of the article's small batches in a quarter of the time; its compilation takes as long as a
dozen epochs. The calibrated network is slower with XLA (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from closecast.storage.core.errors import BadSetting
from closecast.storage.core.logs import native_stderr_to_log
from closecast.tasks.core.tensorflow_runtime import cores, tensorflow
from closecast.tasks.core.types import Floats
from closecast.tasks.network.architectures import squared_error
from closecast.tasks.network.epoch import EarlyStopping, Weights, batches, dropout_masks, report_epoch
from closecast.tasks.network.graphs import FlatWeights, Loss, epoch_graph, mean_loss_graph

if TYPE_CHECKING:
    import keras

log = logging.getLogger("closecast.train")

Result = TypeVar("Result")
Numbers = NDArray[np.floating[Any]]
# From this many steps on, XLA saves more time than its compilation takes; the article's 50 epochs are 14,000.
MIN_XLA_STEPS = 4_000
# TensorFlow runs the graph in the calling thread, so that several threads do not share one queue.
IN_THIS_THREAD = "SINGLE_THREADED_EXECUTOR"


@dataclass(frozen=True)
class Losses:
    """The mean losses of a training, by epoch, and the epoch whose weights the network has."""

    training: Floats  # (epochs,), with dropout
    validation: Floats  # (epochs,), on the validation windows without dropout; NaN where there are none
    best_epoch: int  # counted from 1; the last one without early stopping


@dataclass(frozen=True)
class TrainingSettings:
    """How a network trains; with `patience` it stops early, with the weights of the best epoch."""

    learning_rate: float
    batch_size: int  # windows per step; the last batch of an epoch may be smaller
    epochs: int  # passes over the training windows, at most
    shuffle: bool = True  # a new order for every epoch
    patience: int | None = None  # epochs without a better validation loss
    min_delta: float = 0.0  # least decrease of the validation loss that counts as better


class Trainer:
    """A network with its optimizer and its graphs, which are traced once and serve every member.

    One thread at a time can use it; `clone` makes one for another thread. The optimizer is Adam, with the
    gradient's norm limited to `clip_norm`. XLA (`compiled`) compiles anew for each shape of the data.
    """

    def __init__(
        self,
        network: keras.Sequential,
        *,
        loss: Loss,
        clip_norm: float | None = None,
        compiled: bool = False,
    ) -> None:
        import keras

        self.network = network
        self._compiled = compiled
        self._flat = FlatWeights(network)
        self._optimizer = keras.optimizers.Adam(global_clipnorm=clip_norm)
        self._optimizer.build([self._flat.variable])
        self._fresh = [keras.ops.convert_to_numpy(variable) for variable in self._optimizer.variables]
        self._epoch = epoch_graph(network, self._optimizer, self._flat, loss, compiled=compiled)
        self._mean_loss = mean_loss_graph(network, self._flat, loss)
        self._lock = threading.RLock()
        # In a clone: the id of a handle in the first trainer → the handle of the clone's own variable.
        self._handles: dict[int, Any] = {}

    def clone(self) -> Trainer:
        """A trainer that runs the same graphs, not compiled by XLA, on variables of its own."""
        import keras

        other = copy.copy(self)
        other.network, other._lock = keras.models.clone_model(self.network), threading.RLock()
        other.network.set_weights(self.network.get_weights())
        other._flat = FlatWeights(other.network)
        other._optimizer = keras.optimizers.Adam.from_config(self._optimizer.get_config())
        other._optimizer.build([other._flat.variable])
        pairs = zip(self._variables(), other._variables(), strict=True)
        other._handles = {id(ours.value.handle): theirs.value.handle for ours, theirs in pairs}
        return other

    def fit(
        self,
        inputs: Numbers,
        targets: Numbers,
        validation: tuple[Numbers, Numbers] | None = None,
        *,
        settings: TrainingSettings,
        seed: int,
        start: Weights | None = None,
        name: str = "",
    ) -> tuple[Weights, Losses]:
        """Train with a fresh optimizer state, as `keras.Model.fit` would; returns the weights and losses.

        Args:
            inputs: (samples, lookback, features).
            targets: (samples, outputs).
            validation: inputs and targets of the validation windows, of these shapes.
            seed: of the dropout masks and the order of the windows.
            start: the initial weights; by default those that the network has.
            name: of the network, in the log and the progress.

        Raises:
            BadSetting: the losses are not finite with these settings.
        """
        with self._lock:
            if start is not None:
                self.network.set_weights(start)
            data = [np.asarray(part, dtype=np.float32) for part in (inputs, targets, *(validation or ()))]
            losses = self._fit(data, settings, np.random.Generator(np.random.PCG64(seed)), name)
            return self.network.get_weights(), losses

    @contextlib.contextmanager
    def borrow(self, weights: Weights) -> Iterator[keras.Sequential]:
        """The network with these weights, locked against other threads."""
        with self._lock:
            self.network.set_weights(weights)
            yield self.network

    def _fit(
        self,
        data: list[NDArray[np.float32]],
        settings: TrainingSettings,
        draw: np.random.Generator,
        name: str,
    ) -> Losses:
        tf = tensorflow()
        x, y, *held_out = (tf.constant(part) for part in data)
        stopping = EarlyStopping(settings.patience, settings.min_delta)
        self._reset_optimizer(settings.learning_rate)
        self._flat.load()
        training, validation, epochs = [], [], settings.epochs
        for epoch in range(1, epochs + 1):
            order, weights = batches(len(x), settings.batch_size, draw if settings.shuffle else None)
            masks = dropout_masks(self.network, order.shape, draw)
            # XLA prints to the terminal while it compiles, on the first call.
            with native_stderr_to_log() if self._compiled and epoch == 1 else contextlib.nullcontext():
                arguments = (x, y, tf.constant(order), tf.constant(weights), masks)
                steps = np.asarray(self._run(self._epoch, *arguments), dtype=np.float64)
            training.append(float(np.average(steps, weights=weights.sum(axis=1))))
            validation.append(float(self._run(self._mean_loss, *held_out)) if held_out else np.nan)
            if epoch == 1 or epoch % 10 == 0 or epoch == epochs:
                validated = f", validation {validation[-1]:.5f}" if held_out else ""
                prefix = f"{name}, " if name else ""
                log.info("%sepoch %d of %d: loss %.5f%s", prefix, epoch, epochs, training[-1], validated)
            report_epoch(name, epoch, epochs)
            if settings.patience is not None or epoch == epochs:
                self._flat.store()
            if stopping.after(epoch, validation[-1], self.network):
                report_epoch(name, epochs, epochs)
                break
        best_epoch = stopping.restore(self.network) or epoch
        losses = Losses(np.array(training), np.array(validation), best_epoch)
        _require_finite(losses, settings, validated=bool(held_out))
        return losses

    def _variables(self) -> list[keras.Variable]:
        return [*self.network.variables, *self._optimizer.variables, self._flat.variable]

    def _reset_optimizer(self, learning_rate: float) -> None:
        for variable, fresh in zip(self._optimizer.variables, self._fresh, strict=True):
            variable.assign(fresh)
        self._optimizer.learning_rate = learning_rate

    def _run(self, function: Any, *arguments: Any) -> Any:
        """Call a graph on this trainer's own variables, in this thread."""
        tf = tensorflow()
        with tf.experimental.function_executor_type(IN_THIS_THREAD):
            if self._compiled:
                return function(*arguments)
            graph = function.get_concrete_function(*arguments)
            captured = [self._handles.get(id(handle), handle) for handle in graph.captured_inputs]
            return tf.raw_ops.StatefulPartitionedCall(
                args=[*tf.nest.flatten(arguments), *captured],
                Tout=[tf.float32],
                f=graph,
                executor_type=IN_THIS_THREAD,
            )[0]


def _require_finite(losses: Losses, settings: TrainingSettings, *, validated: bool) -> None:
    """Refuse a training whose losses are not finite.

    Raises:
        BadSetting: a training loss, or the validation loss of the best epoch.
    """
    unbounded, best = ~np.isfinite(losses.training), losses.best_epoch - 1
    if validated:  # the weights may have left all bounds in the last step of an epoch
        unbounded[best] |= not np.isfinite(losses.validation[best])
    if unbounded.any():
        raise BadSetting(
            f"the loss is not finite after epoch {int(unbounded.argmax()) + 1} with a learning_rate of"
            f" {settings.learning_rate:g}: choose a smaller one"
        )


class TrainerPool:
    """Trainers of one network, as many as there are cores.

    All threads of the process share the pool: however many folds run, no more members train at once than
    there are cores.
    """

    def __init__(self, first: Trainer) -> None:
        self.first = first
        self._idle: SimpleQueue[Trainer] = SimpleQueue()
        self._idle.put(first)
        self._size, self._growing = 1, threading.Lock()

    def map(self, count: int, work: Callable[[int, Trainer], Result]) -> list[Result]:
        """Results of `work(member, trainer)` for members 0 to count - 1, in this order.

        Any trainer gives the same bits for the same start, data and seed.
        """
        wanted = min(cores(), count)
        with self._growing:
            for _ in range(self._size, wanted):
                self._idle.put(self.first.clone())
            self._size = max(self._size, wanted)

        def run(member: int) -> Result:
            trainer = self._idle.get()
            try:
                return work(member, trainer)
            finally:
                self._idle.put(trainer)

        if wanted == 1:
            return [run(member) for member in range(count)]
        with ThreadPoolExecutor(wanted, thread_name_prefix="member") as threads:
            # The copied context has the run's logger and listener.
            futures = [threads.submit(copy_context().run, run, member) for member in range(count)]
            return [future.result() for future in futures]


def train(
    network: keras.Sequential,
    inputs: Floats,
    targets: Floats,
    *,
    validation_split: float,
    settings: TrainingSettings,
    seed: int,
    compiled: bool | None = None,
) -> Losses:
    """Train a network in place with Adam on the mean squared error; the arguments are those of `Trainer.fit`.

    The newest windows, a share of `validation_split`, validate, as Keras splits them. By default XLA compiles
    (`compiled`) where that is faster, compilation included.

    Raises:
        BadSetting: the losses are not finite with these settings.
    """
    split = int(len(inputs) * (1.0 - validation_split))
    if compiled is None:
        compiled = settings.epochs * -(-split // settings.batch_size) >= MIN_XLA_STEPS
    validation = (inputs[split:], targets[split:]) if split < len(inputs) else None
    trainer = Trainer(network, loss=squared_error, compiled=compiled)
    return trainer.fit(inputs[:split], targets[:split], validation, settings=settings, seed=seed)[1]
