from __future__ import annotations

import threading
from contextvars import copy_context

import numpy as np

from tasks.network.architectures import article_network
from tasks.network.progress import listening, report_epoch
from tasks.network.trainer import TrainingSettings, train


def test_a_listener_hears_the_threads_of_its_own_run_alone() -> None:
    heard: dict[str, list[str]] = {"one": [], "other": []}

    def train_in_threads(run: str) -> None:
        with listening(lambda member, *_: heard[run].append(member)):
            threads = [
                threading.Thread(target=copy_context().run, args=(report_epoch, f"{run} {number}", 1, 1))
                for number in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        report_epoch("after the run", 1, 1)

    runs = [threading.Thread(target=train_in_threads, args=(run,)) for run in heard]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    expected = {run: [f"{run} {number}" for number in range(3)] for run in heard}
    assert {run: sorted(members) for run, members in heard.items()} == expected


def test_a_training_reports_each_epoch() -> None:
    epochs: list[tuple[str, int, int]] = []
    network = article_network(lookback=3, units=2, activation="sigmoid", leaky_slope=0.5, dropout=0.1, seed=1)
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(20, 3, 1)), draw.normal(size=(20, 1))
    settings = TrainingSettings(learning_rate=1e-3, batch_size=8, epochs=3)
    with listening(lambda *epoch: epochs.append(epoch)):
        train(network, x, y, validation_split=0.2, settings=settings, seed=1, compiled=False)
    assert epochs == [("", 1, 3), ("", 2, 3), ("", 3, 3)]
