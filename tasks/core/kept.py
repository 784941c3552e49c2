"""Results that a process keeps."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, ParamSpec, TypeVar

import numpy as np
from cachetools import LRUCache, cached

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
KEPT = 256


def kept_by_figures(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Keep the newest results of a slow function: the same arrays and numbers have the same result.

    For fits, whose figures change every few weeks: a process with many days has most of them already. The
    result is shared, so nobody writes to it.
    """
    return cached(LRUCache(KEPT), key=_figures, lock=Lock())(function)


def _figures(*arguments: Any) -> Hashable:
    return tuple((one.shape, one.tobytes()) if isinstance(one, np.ndarray) else one for one in arguments)
