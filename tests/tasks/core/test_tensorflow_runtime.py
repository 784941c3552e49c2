from __future__ import annotations

import multiprocessing
import os
import sys

import pytest

from tasks.core.tensorflow_runtime import cores


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
