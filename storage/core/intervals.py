"""The central intervals of a forecast, in percent, and the names of their columns."""

from __future__ import annotations

INTERVALS = (50, 80, 95)
LOWER_UPPER = tuple((f"lower_{percent}", f"upper_{percent}") for percent in INTERVALS)
COVERED = tuple(f"covered_{percent}" for percent in INTERVALS)
