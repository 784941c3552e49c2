"""The central intervals of a forecast, in percent, and the names of their columns."""

from __future__ import annotations

INTERVALS = (50, 80, 95)
BOUNDS = tuple(f"{side}_{percent}" for percent in INTERVALS for side in ("lower", "upper"))
COVERED = tuple(f"covered_{percent}" for percent in INTERVALS)
