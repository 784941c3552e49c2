"""TensorFlow, loaded once, quietly, and the same way everywhere."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
from types import ModuleType

from storage.core.logs import native_stderr_to_log
from storage.core.provenance import processor


@functools.cache
def tensorflow() -> ModuleType:
    """Import TensorFlow (4 to 6 s), on one intra-op thread, without its start-up lines.

    One thread, since our networks are small: threads cost more than they bring, and a sum
    made in one order is the same to the last bit on every machine size. Members that train side
    by side are threads of ours, and TensorFlow lets as many of them in as there are inter-op threads.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with native_stderr_to_log():
        import tensorflow as tf

        # After somebody else's first operation the thread counts are fixed; then theirs hold.
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(cores())
        tf.constant(0) + 1  # the devices are named on the first operation
    return tf  # type: ignore[no-any-return]


@functools.cache
def one_blas_thread() -> None:
    """Have NumPy's and SciPy's matrix libraries calculate in one thread from here on.

    They share a sum out by the cores that there are, and so a fit ended elsewhere in its last bits on another
    machine, or in a worker that was started with OMP_NUM_THREADS=1, as Dask's are. For good, since a limit
    that is taken back holds for all threads of the process, and takes it back for all of them.
    """
    import arch  # noqa: F401 (what it loads is limited, and what is loaded later is not)
    import scipy.linalg
    import scipy.optimize  # noqa: F401
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")


def cores() -> int:
    """On how many cores this process may train: those it may run on, but one in a pool's worker.

    Its siblings have the others.
    """
    if multiprocessing.parent_process() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """The versions that decide a network's bits, and the machine, for its lineage."""
    import platform
    from importlib.metadata import version

    names = ("tensorflow", "keras", "numpy", "pandas", "scipy", "scikit-learn")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
    }
