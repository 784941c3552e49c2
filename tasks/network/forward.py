"""The forward pass of a trained network, an LSTM and a Dense layer, in NumPy: a forecast needs no TensorFlow.

It computes in float64 and one window at a time, so that a window's outputs have the same bits whichever
windows are computed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from closecast.tasks.core.tensorflow_runtime import one_blas_thread
from closecast.tasks.core.types import Floats
from closecast.tasks.network.epoch import Weights


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), any shape; computed by tanh, which does not overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def relu(x: Floats) -> Floats:
    """The positive part of x, any shape."""
    return np.maximum(x, 0.0)


ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {"sigmoid": sigmoid, "tanh": np.tanh, "relu": relu}


def weight_shapes(features: int, units: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's arrays, as Keras orders and stores them.

    Arrays with 4 * units columns hold the gates side by side: input, forget, cell, output.
    """
    return {
        "layers/lstm/cell/vars/0": (features, 4 * units),  # kernel, of the inputs
        "layers/lstm/cell/vars/1": (units, 4 * units),  # recurrent kernel, of the output of the day before
        "layers/lstm/cell/vars/2": (4 * units,),  # bias
        "layers/dense/vars/0": (units, outputs),  # kernel
        "layers/dense/vars/1": (outputs,),  # bias
    }


def forward(
    weights: Weights,
    windows: NDArray[np.floating[Any]],
    *,
    activation: str = "tanh",
    leaky_slope: float = 1.0,
) -> Floats:
    """A network's outputs (samples, outputs) for windows (samples, lookback, features), without dropout.

    Args:
        weights: five arrays, as in `weight_shapes`.
        activation: a name in `ACTIVATIONS`, for the LSTM's cell and output.
        leaky_slope: slope below zero of the LeakyReLU between the layers; 1 means that there is none.
    """
    one_blas_thread()
    kernel, recurrent, bias, dense, dense_bias = (np.asarray(part, dtype=np.float64) for part in weights)
    activate, units = ACTIVATIONS[activation], len(recurrent)
    outputs = np.empty((len(windows), len(dense_bias)))
    for sample, window in enumerate(np.ascontiguousarray(windows, dtype=np.float64)):
        hidden, cell = np.zeros(units), np.zeros(units)
        for day in window @ kernel + bias:  # (4 units,) of (lookback, 4 units)
            gates = day + hidden @ recurrent  # (4 units,)
            into, forget, _, out = sigmoid(gates).reshape(4, units)
            cell = forget * cell + into * activate(gates[2 * units : 3 * units])  # (units,)
            hidden = out * activate(cell)
        hidden = np.where(hidden < 0.0, leaky_slope * hidden, hidden)
        outputs[sample] = hidden @ dense + dense_bias  # (outputs,)
    return outputs


def student_t_parameters(
    outputs: Floats, *, mean_scale: float, min_dof: float
) -> tuple[Floats, Floats, Floats]:
    """Mean, sigma and degrees of freedom, each (samples, horizons), of outputs (samples, 3 * horizons)."""
    mean, log_sigma, dof = np.moveaxis(outputs.reshape(len(outputs), -1, 3), 2, 0)
    return mean_scale * mean, np.exp(log_sigma), min_dof + np.logaddexp(0.0, dof)
