"""The model registry against the bundles: tags, status, the gate's figures, and MLflow's runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc

from closecast.storage.core.errors import Damaged
from closecast.storage.core.files import check_regular
from closecast.storage.core.home import Home
from closecast.storage.core.location import LocalPath
from closecast.storage.models.bundles import Bundle
from closecast.storage.models.mlflow_database import registry_integrity
from closecast.storage.models.registry import CHAMPION, Models, ModelVersion, RecordedRun
from closecast.storage.prices.engine import database_engine
from closecast.storage.prices.integrity import report_damage
from closecast.storage.upkeep.file_integrity import bundle_files
from closecast.storage.upkeep.references import Tables
from closecast.tasks.core.settings import settings_digest
from closecast.tasks.training.gate import Gate
from closecast.tasks.training.policy import Status
from closecast.tasks.training.registration import read_lineage, run_figures
from closecast.tasks.upkeep.verification import Verification

STATUSES = get_args(Status)
TEXTS = ("product_id", "profile", "model_version", "origin_day")
MODEL_VERSIONS = pa.schema([*((name, pa.string()) for name in TEXTS), ("is_champion", pa.bool_())])
NO_RUN = RecordedRun()


def check_models(home: Home, result: Verification, tables: Tables) -> None:
    """Check the registry and the bundles; where it can be read the tables get `model_versions`."""
    engine = database_engine(home)
    forecasts = tables["predictions"]
    by_models = forecasts is not None and pc.any(pc.not_equal(forecasts["basis"], "fallback")).as_py()
    if by_models and not engine.registry_exists():
        with result.surviving("databases", engine.registry_address):
            check_regular(home.registry)
            result.add("databases", 0, [f"the model registry {engine.registry_address} is missing"])
        return
    damage = registry_integrity(home)
    result.add("databases", int(engine.registry_exists()), [f"{home.registry}: {line}" for line in damage])
    if damage:
        return
    with result.surviving("model versions", f"the model registry {home.registry}"), report_damage():
        models = Models(home)
        versions, runs = models.versions(), models.recorded_runs()
        lost = [
            f"{name}: {alias} is version {number}, which is missing" for name, alias, number in models.lost()
        ]
        result.add("model versions", 0, lost)
        for version in versions:
            files, findings = bundle_files(home, version)
            result.add("files of models", files, findings)
            result.add("model versions", 1)
            if not findings:
                run = runs.get((version.name, version.version), NO_RUN)
                with result.surviving("model versions", f"{version.name} version {version.version}"):
                    result.add("model versions", 0, list(_version_findings(home, version, run)))
        tables["model_versions"] = _table_of(versions)


def _table_of(versions: list[ModelVersion]) -> pa.Table:
    columns = [
        [version.product_id for version in versions],
        [version.profile for version in versions],
        [version.version for version in versions],
        [version.tags.get("origin_day", "") for version in versions],
        [CHAMPION in version.aliases for version in versions],
    ]
    return pa.table(columns, schema=MODEL_VERSIONS)


def _version_findings(home: Home, version: ModelVersion, run: RecordedRun) -> Iterator[str]:
    """Compare what the registry has of a version with its bundle, and with itself."""
    subject = f"{version.name} version {version.version}"
    status = version.tags.get("status")
    if status not in STATUSES:
        yield f"{subject}: its status is none of {', '.join(STATUSES)}"
    elif CHAMPION in version.aliases and status != "accepted":
        yield f"{subject}: it is the champion, but its status is {status}"
    yield from (f"{subject}: {finding}" for finding in _gate_findings(version.tags, run.metrics))
    key = version.tags.get("key", "")
    if not _is_named_by(version, key) or run.tags.get("key") != key:
        yield f"{subject}: its key is not the one that its bundle and its run are named by"
    bundle = Models(home).open(version)
    try:
        lineage = read_lineage(bundle)
    except Damaged as error:
        yield str(error)
        return
    registered = {**version.tags, "product_id": version.product_id, "profile": version.profile}
    expected = {**lineage.tags(), "product_id": lineage.product_id, "profile": lineage.profile}
    for name, value in expected.items():
        if registered.get(name) != value:
            yield f"{subject}: the registry and the bundle differ in {name}"
    if lineage.settings_version != f"{version.profile}-{settings_digest(bundle.read_json('settings.json'))}":
        yield f"{subject}: its settings are not those of its settings_version"
    for name in _other_figures(bundle, run):
        yield f"{subject}: MLflow's run and the bundle differ in {name}"


def _is_named_by(version: ModelVersion, key: str) -> bool:
    """Whether the bundle has the name of that key; names stay as they are when a home moves to a bucket."""
    stem, _, suffix = version.bundle.partition("-")
    return stem == LocalPath().bundle_name(key, "") and suffix in ("", version.manifest_sha256[:16])


def _gate_findings(tags: Mapping[str, str], metrics: Mapping[str, float]) -> Iterator[str]:
    """Compare a version's status with what the gate recorded; a pending one is not judged yet."""
    status, text = tags.get("status"), tags.get("gate", "")
    if status == "pending":
        return
    refused = status == "refused"
    if "gate_passed" not in tags:
        if refused != text.startswith("not judged"):
            yield f"its status is {status}, but its gate says {text!r:.80}"
        return
    gate = Gate.from_tags(tags)
    if refused == gate.passed or text != str(gate):
        yield f"its status is {status}, its gate says {text!r:.80}, and the gate's figures say {gate}"
    if any(metrics.get(name) != value for name, value in gate.metrics().items()):
        yield "the gate's figures in its tags and in its run differ"


def _other_figures(bundle: Bundle, run: RecordedRun) -> Iterator[str]:
    """The names of settings and figures of a run that are not those of the bundle."""
    for name, value in bundle.read_json("settings.json").items():
        if run.params.get(name) != str(value):
            yield name
    metrics, curves = run_figures(read_lineage(bundle), bundle.read_json("losses.json"))
    for name, figure in metrics.items():
        if run.metrics.get(name) != figure:
            yield name
    for name, losses in curves.items():
        if run.curves.get(name) != tuple(losses):
            yield name
