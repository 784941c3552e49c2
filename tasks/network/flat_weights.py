"""A network's trainable weights as one variable, for optimizers that treat each weight on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.tensorflow_runtime import tensorflow

if TYPE_CHECKING:
    import keras


class Joined:
    """All trainable weights of a network in one variable, (weights,), which an optimizer updates at once.

    With a variable each, the optimizer's part is as many small operations again for every one of them: on
    the article's network they are a sixth of a step. The mathematics is the same.
    """

    def __init__(self, network: keras.Sequential) -> None:
        import keras

        self._network = network
        self._shapes = [tuple(variable.shape) for variable in network.trainable_variables]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self.variable = keras.Variable(np.zeros(sum(self._sizes), dtype=np.float32), name="weights")

    def take(self) -> None:
        """Make the variable what the network's weights are."""
        weights = [np.ravel(variable.numpy()) for variable in self._network.trainable_variables]
        self.variable.assign(np.concatenate(weights))

    def give(self) -> None:
        """Make the network's weights what the variable is."""
        parts = np.split(self.variable.numpy(), np.cumsum(self._sizes)[:-1])
        for variable, part in zip(self._network.trainable_variables, parts, strict=True):
            variable.assign(part.reshape(variable.shape))

    def instead(self) -> Any:
        """Inside this scope, in a graph, the network's layers work with the variable's parts."""
        import keras

        tf = tensorflow()
        parts = tf.split(self.variable.value, self._sizes)
        shaped = [tf.reshape(part, shape) for part, shape in zip(parts, self._shapes, strict=True)]
        pairs = zip(self._network.trainable_variables, shaped, strict=True)
        return keras.StatelessScope(state_mapping=list(pairs))


def can_join(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether the optimizer does to each weight what it would do to it in any other variable."""
    import keras

    kinds = ("SGD", "RMSprop", "Adam", "Nadam", "Adamax", "Adagrad", "Adadelta")
    apart = (optimizer.clipnorm, optimizer.weight_decay, optimizer.use_ema or None)
    return type(optimizer) in [getattr(keras.optimizers, kind) for kind in kinds] and apart == (None,) * 3
