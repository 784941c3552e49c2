"""A network's trainable weights as one variable, for optimizers that update each weight independently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.tensorflow_runtime import tensorflow

if TYPE_CHECKING:
    import keras

ELEMENTWISE = ("SGD", "RMSprop", "Adam", "Nadam", "Adamax", "Adagrad", "Adadelta")


class FlatWeights:
    """All trainable weights of a network in one variable, (weights,), which an optimizer updates at once.

    An optimizer repeats its small operations for every variable: a sixth of a step on the article's
    network. The mathematics is the same.
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
        """A scope in which, in a graph, the network's layers use parts of the variable."""
        import keras

        tf = tensorflow()
        parts = tf.split(self.variable.value, self._sizes)
        shaped = [tf.reshape(part, shape) for part, shape in zip(parts, self._shapes, strict=True)]
        pairs = zip(self._network.trainable_variables, shaped, strict=True)
        return keras.StatelessScope(state_mapping=list(pairs))


def can_flatten(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether the optimizer updates a weight the same way, whichever variable the weight is in."""
    import keras

    by_variable = (optimizer.clipnorm, optimizer.weight_decay, optimizer.use_ema or None)
    kinds = [getattr(keras.optimizers, kind) for kind in ELEMENTWISE]
    return type(optimizer) in kinds and by_variable == (None,) * 3
