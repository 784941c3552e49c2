"""Prices to the units that a network learns in, and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MinMax:
    """A fitted `sklearn.preprocessing.MinMaxScaler` for one column, as figures that JSON can hold.

    `scale` and `shift` are scikit-learn's `scale_` and `min_`: the arithmetic, and so every bit of
    the result, is the same, without importing scikit-learn where a forecast is made.
    """

    minimum: float
    maximum: float
    scale: float
    shift: float

    def forward(self, closes: Floats) -> Floats:
        """USD to [0, 1] over the span that was fitted; any shape."""
        return np.asarray(closes, dtype=np.float64) * self.scale + self.shift

    def back(self, scaled: Floats) -> Floats:
        """The inverse of `forward`; any shape."""
        return (np.asarray(scaled, dtype=np.float64) - self.shift) / self.scale

    def as_json(self) -> dict[str, float]:
        """The figures under their names; floats survive JSON to the last bit."""
        return asdict(self)


def fit_min_max(closes: Floats) -> MinMax:
    """Fit scikit-learn's MinMaxScaler on closes of shape (days,)."""
    from sklearn.preprocessing import MinMaxScaler

    scaler = MinMaxScaler().fit(np.asarray(closes, dtype=np.float64).reshape(-1, 1))
    return MinMax(
        minimum=float(scaler.data_min_[0]),
        maximum=float(scaler.data_max_[0]),
        scale=float(scaler.scale_[0]),
        shift=float(scaler.min_[0]),
    )
