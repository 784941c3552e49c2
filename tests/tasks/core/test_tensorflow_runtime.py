from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from unittest.mock import MagicMock, call

import pytest

from closecast.tasks.core import tensorflow_runtime
from closecast.tasks.core.tensorflow_runtime import cores
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
        "from closecast.tasks.core.tensorflow_runtime import one_blas_thread, tensorflow\n"
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


def test_graphics_cards_are_hidden_before_the_first_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", loaded := MagicMock())
    tensorflow_runtime._load_tensorflow.__wrapped__()
    calls = loaded.mock_calls
    assert calls.index(call.config.set_visible_devices([], "GPU")) < calls.index(call.constant(0))
