"""Results that a process keeps."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from hashlib import sha256
from threading import Lock
from typing import Any, ParamSpec, TypeVar

import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray

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
    return tuple(_digest(one) if isinstance(one, np.ndarray) else one for one in arguments)


def _digest(array: NDArray[Any]) -> Hashable:
    return array.shape, sha256(array.tobytes()).digest()
