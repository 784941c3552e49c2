from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest

from tasks.core.tensorflow_runtime import cores
from tests.helpers import PROJECT


@pytest.mark.skipif(sys.platform != "linux", reason="the cores of a process are set by Linux's call")
def test_a_process_trains_on_the_cores_that_it_may_run_on() -> None:
    before = os.sched_getaffinity(0)
    assert cores() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_worker_of_a_pool_leaves_the_other_cores_to_its_siblings() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(cores) == 1


def test_every_matrix_library_has_one_thread() -> None:
    """Those that arch, scikit-learn and TensorFlow load later are NumPy's and SciPy's."""
    program = (
        "import numpy, threadpoolctl\n"
        "from tasks.core.tensorflow_runtime import one_blas_thread, tensorflow\n"
        "one_blas_thread()\n"
        "tensorflow()\n"
        "import arch, scipy.optimize, sklearn.preprocessing\n"
        "print(*(one['num_threads'] for one in threadpoolctl.threadpool_info() if one['user_api'] == 'blas'))"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, check=True, capture_output=True, text=True, timeout=200
    )
    assert set(done.stdout.split()) == {"1"}
