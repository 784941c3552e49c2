from __future__ import annotations

import numpy as np

from closecast.tasks.core.kept import kept_by_figures
from closecast.tasks.core.types import Floats


def test_the_same_figures_are_computed_once() -> None:
    calls: list[tuple[Floats, float]] = []

    @kept_by_figures
    def total(values: Floats, factor: float) -> float:
        calls.append((values, factor))
        return float(values.sum()) * factor

    for values in (np.ones((2, 3)), np.ones((2, 3)), np.ones((3, 2)), np.ones((2, 3)) * 2):
        assert total(values, 2.0) == values.sum() * 2
    assert total(np.ones((2, 3)), 3.0) == 18.0
    assert [(values.shape, factor) for values, factor in calls] == [
        ((2, 3), 2.0),
        ((3, 2), 2.0),
        ((2, 3), 2.0),
        ((2, 3), 3.0),
    ]
