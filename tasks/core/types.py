"""The array types that every room uses."""

from __future__ import annotations

from datetime import date

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
# First and last missing day of a gap.
Gap = tuple[date, date]
