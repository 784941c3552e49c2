"""Model versions: an MLflow registry (SQLite) that names bundles (folders) under the home.

A bundle is whole or it is not there: it is written beside its place, synced, and renamed into it;
its manifest holds the SHA-256 of each file, and the registry holds the SHA-256 of the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from storage.errors import BadFile, Damaged, HomeUnusable
from storage.files import fsync_folder, sha256_file
from storage.home import Home
from storage.registry import registry_client

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
    from mlflow.tracking import MlflowClient

MANIFEST = "manifest.json"
WEIGHTS = "model.weights.h5"
CHAMPION = "champion"
METRICS_A_CALL = 1000  # what MLflow takes


class Network(Protocol):
    """What is needed of a Keras model here; Keras itself is not imported."""

    def save_weights(self, filepath: str) -> None:
        """Write the weights to a file whose name ends in `.weights.h5`."""

    def load_weights(self, filepath: str) -> None:
        """Read them back."""


@dataclass(frozen=True)
class ModelVersion:
    """One version of the registered model `closecast.PRODUCT.PROFILE`."""

    product_id: str
    profile: str
    version: str
    bundle: str
    manifest_sha256: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name under which MLflow knows the model."""
        return registered_name(self.product_id, self.profile)


def registered_name(product_id: str, profile: str) -> str:
    """`closecast.PRODUCT.PROFILE`."""
    return f"closecast.{product_id}.{profile}"


class Draft:
    """A bundle in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_json(self, name: str, content: object) -> None:
        """Store plain figures, sorted by name; NaN is refused, floats keep every bit."""
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
        self.write(name, (text + "\n").encode())

    def write(self, name: str, content: bytes) -> None:
        """Store a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def write_weights(self, network: Network) -> None:
        """Store a network's weights as HDF5: arrays, and nothing that could run."""
        network.save_weights(str(self.folder / WEIGHTS))

    def seal(self) -> str:
        """Write the manifest, sync everything, and return the manifest's SHA-256."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        self.write_json(MANIFEST, {str(path.relative_to(self.folder)): sha256_file(path) for path in files})
        for path in [*files, self.folder / MANIFEST]:
            with path.open("rb") as written:
                os.fsync(written.fileno())
        for folder in {path.parent for path in files} | {self.folder}:
            fsync_folder(folder)
        return sha256_file(self.folder / MANIFEST)


class Bundle:
    """A stored bundle, read file by file, each checked against the manifest first."""

    def __init__(self, folder: Path, manifest_sha256: str) -> None:
        self.folder = folder
        found = self._sha256(folder / MANIFEST)
        if found != manifest_sha256:
            raise Damaged(
                f"{folder / MANIFEST} has SHA-256 {found[:12]}, the registry says {manifest_sha256[:12]}:"
                " restore the folder from a backup"
            )
        self.manifest: dict[str, str] = json.loads((folder / MANIFEST).read_bytes())

    def path(self, name: str) -> Path:
        """The file's path, after its bytes were found to be the recorded ones.

        Raises:
            Damaged: the file is missing, unlisted or changed.
        """
        path = self.folder / name
        if name not in self.manifest or self._sha256(path) != self.manifest[name]:
            raise Damaged(f"{path} is not the file that was stored: restore the folder from a backup")
        return path

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return self.path(name).read_bytes()

    def read_json(self, name: str) -> Any:
        """A JSON file's content."""
        return json.loads(self.read(name))

    def load_weights(self, network: Network) -> None:
        """Put the stored weights into a network of the same layers."""
        network.load_weights(str(self.path(WEIGHTS)))

    def verify(self) -> None:
        """Check every file of the manifest."""
        for name in self.manifest:
            self.path(name)

    @staticmethod
    def _sha256(path: Path) -> str:
        try:
            return sha256_file(path)
        except BadFile as error:
            raise Damaged(f"{error}, or restore it from a backup") from error


class Models:
    """The registry and the bundles of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._client: MlflowClient | None = None

    def find(self, product_id: str, profile: str, key: str) -> ModelVersion | None:
        """The version that was trained under `key`, when it is whole.

        Raises:
            Damaged: it is registered and its files are not the registered ones.
        """
        for version in self.versions(product_id, profile):
            if version.tags.get("key") == key:
                self.open(version).verify()
                return version
        return None

    @contextlib.contextmanager
    def draft(self, product_id: str, profile: str) -> Iterator[Draft]:
        """A folder to fill, removed afterwards unless `register` moved it to its place."""
        parent = self.home.models / registered_name(product_id, profile)
        folder = parent / f".draft-{uuid.uuid4().hex}"
        try:
            # A run that was killed leaves its draft; the product's lock is held, so nobody is at work in it.
            for left in parent.glob(".draft-*"):
                shutil.rmtree(left)
            folder.mkdir(parents=True)
            yield Draft(folder)
        except OSError as error:
            raise HomeUnusable(
                f"the model cannot be stored in {parent}: {error.strerror or error}"
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def register(
        self,
        draft: Draft,
        *,
        product_id: str,
        profile: str,
        key: str,
        tags: Mapping[str, str],
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        curves: Mapping[str, np.ndarray[Any, Any]],
    ) -> ModelVersion:
        """Seal the draft, move it to its place, and only then let the registry know of it.

        Args:
            draft: filled.
            product_id: of the model.
            profile: of the model.
            key: what it was trained from; also names its folder.
            tags: lineage, on the version.
            params: settings, on the run.
            metrics: figures, on the run.
            curves: figures of each epoch, (epochs,), on the run.
        """
        manifest_sha256 = draft.seal()
        name = registered_name(product_id, profile)
        folder = self.home.models / name / hashlib.sha256(key.encode()).hexdigest()[:16]
        if folder.exists():  # a run was killed between the rename and the registry
            shutil.rmtree(folder)
        draft.folder.rename(folder)
        for place in (folder.parent, self.home.models):
            fsync_folder(place)
        run_id = self._log_run(name, key, params, metrics, curves)
        with _unless_there():
            self.client.create_registered_model(name)
        version = self.client.create_model_version(
            name,
            source=folder.resolve().as_uri(),
            run_id=run_id,
            tags={**tags, "key": key, "bundle": folder.name, "manifest_sha256": manifest_sha256},
        )
        return _as_version(version)

    def promote(self, version: ModelVersion) -> None:
        """Make it the champion: the last step, after which forecasts are made with it."""
        self.client.set_registered_model_alias(version.name, CHAMPION, version.version)

    def champion(self, product_id: str, profile: str) -> ModelVersion | None:
        """The version that forecasts, or None before the first."""
        return next((v for v in self.versions(product_id, profile) if CHAMPION in v.aliases), None)

    def version(self, product_id: str, profile: str, version: str) -> ModelVersion:
        """A version by its number.

        Raises:
            Damaged: there is none.
        """
        for found in self.versions(product_id, profile):
            if found.version == version:
                return found
        raise Damaged(
            f"{registered_name(product_id, profile)} has no version {version}: see `closecast versions`"
        )

    def versions(self, product_id: str | None = None, profile: str | None = None) -> list[ModelVersion]:
        """All versions, newest first within each model; of one product or profile when named."""
        if not self.home.registry.is_file():
            return []
        found = []
        for model in self._pages(self.client.search_registered_models):
            aliases: dict[str, list[str]] = {}
            for alias, number in model.aliases.items():
                aliases.setdefault(str(number), []).append(alias)
            rows = self._pages(self.client.search_model_versions, filter_string=f"name='{model.name}'")
            found += [_as_version(row, aliases.get(str(row.version), [])) for row in rows]
        return [
            version
            for version in found
            if product_id in (None, version.product_id) and profile in (None, version.profile)
        ]

    def open(self, version: ModelVersion) -> Bundle:
        """The version's bundle, found under this home wherever that was moved to."""
        return Bundle(self.home.models / version.name / version.bundle, version.manifest_sha256)

    @property
    def client(self) -> MlflowClient:
        """MLflow's client on the home's own registry; made on first use."""
        if self._client is None:
            self._client = registry_client(self.home)
        return self._client

    def _log_run(
        self,
        name: str,
        key: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        curves: Mapping[str, np.ndarray[Any, Any]],
    ) -> str:
        from mlflow.entities import Metric, Param

        place = (self.home.models / name).resolve().as_uri()
        with _unless_there():
            self.client.create_experiment(name, artifact_location=place)
        experiment = self.client.get_experiment_by_name(name)
        assert experiment is not None  # noqa: S101 (it was made above, or by somebody before)
        for left in self.client.search_runs([experiment.experiment_id], f"tags.key = '{key}'"):
            self.client.delete_run(left.info.run_id)  # a run was killed before the registry
        run = self.client.create_run(experiment.experiment_id, tags={"key": key})
        stamp = run.info.start_time
        figures = [Metric(metric, value, stamp, 0) for metric, value in metrics.items()]
        figures += [
            Metric(curve, float(value), stamp, epoch)
            for curve, values in curves.items()
            for epoch, value in enumerate(values, start=1)
        ]
        settings = [Param(param, str(value)) for param, value in params.items()]
        self.client.log_batch(run.info.run_id, params=settings)
        for first in range(0, len(figures), METRICS_A_CALL):
            self.client.log_batch(run.info.run_id, metrics=figures[first : first + METRICS_A_CALL])
        self.client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    @staticmethod
    def _pages(search: Any, **how: Any) -> Iterator[Any]:
        token = None
        while True:
            page = search(page_token=token, **how)
            yield from page
            token = page.token
            if not token:
                return


@contextlib.contextmanager
def _unless_there() -> Iterator[None]:
    """Create what two first runs may both find missing: the second one is told so, and goes on."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _as_version(row: RegisteredVersion, aliases: list[str] | None = None) -> ModelVersion:
    product_id, profile = row.name.removeprefix("closecast.").rsplit(".", 1)
    return ModelVersion(
        product_id=product_id,
        profile=profile,
        version=str(row.version),
        bundle=row.tags["bundle"],
        manifest_sha256=row.tags["manifest_sha256"],
        aliases=tuple(sorted(aliases or [])),
        tags=dict(row.tags),
    )
