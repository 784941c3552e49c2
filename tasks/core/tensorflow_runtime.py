"""Loads TensorFlow and the matrix libraries the same way everywhere, for the same bits on every machine."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import threading
from types import ModuleType

from closecast.storage.core.logs import native_stderr_to_log
from closecast.storage.core.progress import announced
from closecast.storage.core.provenance import library_version, processor

_loading = threading.Lock()


def tensorflow() -> ModuleType:
    """Import TensorFlow (4 to 6 s), on one intra-op thread of the CPU, without its start-up lines.

    Our networks are small: threads and GPUs cost more than they gain. One thread also sums in one
    order, so the bits are the same on every machine size, with or without a GPU. Members train in threads of
    their own; TensorFlow runs as many of them at once as it has inter-op threads.
    """
    with _loading:  # two threads may need it at once, and it is announced once
        return _load_tensorflow()


@functools.cache
def _load_tensorflow() -> ModuleType:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with announced("loading TensorFlow"), native_stderr_to_log():
        import tensorflow as tf

        # Devices and thread counts are fixed after the first operation, which may have been somebody else's.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(cores())
        tf.constant(0) + 1  # TensorFlow prints the devices on the first operation
    return tf  # type: ignore[no-any-return]


@functools.cache
def one_blas_thread() -> None:
    """Limit the matrix libraries of NumPy and SciPy to one thread, for the life of the process.

    They split a sum by the number of cores, so the last bits of a fit would depend on the machine, or on
    OMP_NUM_THREADS, which Dask sets for its workers. The limit is per process: taken back by one thread,
    it would be gone for all.
    """
    import scipy.linalg  # noqa: F401 (loads SciPy's library: only what is loaded is limited)
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")


def cores() -> int:
    """Cores that this process may train on: its affinity, or 1 in a worker of a pool, which has siblings."""
    if multiprocessing.parent_process() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def library_versions() -> dict[str, str]:
    """The versions and the machine that decide a network's bits, for its lineage."""
    import platform

    names = ("tensorflow", "keras", "numpy", "pandas", "scipy", "scikit-learn")
    return {
        "python": platform.python_version(),
        **{name: library_version(name) for name in names},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
    }
