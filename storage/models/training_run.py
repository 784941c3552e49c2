"""MLflow's run of a training: its time, settings, figures by epoch, and training data."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput
    from mlflow.tracking import MlflowClient

METRICS_A_CALL = 1000  # MLflow takes no more
DIGEST_LENGTH = 32  # MLflow takes 36 characters


@dataclass(frozen=True)
class TrainingData:
    """One product's closes in a training: an MLflow dataset."""

    product_id: str
    data_version: str
    series: str | None = None  # `SOURCE@AFTER`
    facts: Mapping[str, object] = field(default_factory=dict)  # plain values, such as the number of days


@dataclass(frozen=True)
class TrainingRun:
    """What MLflow stores about a training."""

    key: str  # digests what it was trained from
    params: Mapping[str, object] = field(default_factory=dict)  # the settings
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)  # by name, for each epoch (epochs,)
    data: Sequence[TrainingData] = ()
    span: tuple[float, float] | None = None  # `time.monotonic()` at its start and its end


def log_run(client: MlflowClient, experiment: str, folder: Path, run: TrainingRun, title: str) -> str:
    """Record a training that is done, in the experiment of that name; returns MLflow's id of the run.

    `folder` is where MLflow would put files of the experiment's runs, which have none.
    """
    from mlflow.entities import Metric, Param
    from mlflow.utils.time import get_current_time_millis

    # After the client, which announces that MLflow is loaded.
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment, folder.resolve().as_uri())
    for orphan in client.search_runs([number], f"tags.key = '{run.key}'"):
        client.delete_run(orphan.info.run_id)  # it was killed before it reached the registry
    now: int = get_current_time_millis()  # type: ignore[no-untyped-call]
    elapsed = time.monotonic()
    start, end = (now - round(1000 * (elapsed - moment)) for moment in run.span or (elapsed, elapsed))
    created = client.create_run(number, start_time=start, tags={"key": run.key}, run_name=title)
    run_id = str(created.info.run_id)
    figures = [Metric(name, value, end, 0) for name, value in run.metrics.items()]
    figures += [
        Metric(name, float(value), end, epoch)
        for name, values in run.curves.items()
        for epoch, value in enumerate(values, start=1)
    ]
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in run.params.items()])
    for first in range(0, len(figures), METRICS_A_CALL):
        client.log_batch(run_id, metrics=figures[first : first + METRICS_A_CALL])
    if run.data:
        client.log_inputs(run_id, datasets=[_dataset(one) for one in run.data])
    client.set_terminated(run_id, end_time=end)
    return run_id


def _dataset(data: TrainingData) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = {"data_version": data.data_version} | ({"series": data.series} if data.series else {})
    dataset = Dataset(
        name=data.product_id,
        digest=data.data_version.rpartition(":")[2][:DIGEST_LENGTH],
        source_type="code",  # of MLflow's kinds the one that needs no address, which a move would change
        source=json.dumps({"tags": source}),
        profile=json.dumps(data.facts) if data.facts else None,
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
