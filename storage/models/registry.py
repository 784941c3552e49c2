"""Model versions: an MLflow registry that names bundles, which are folders under the home."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.core.errors import Damaged, HomeUnusable
from storage.core.files import check_no_links, fsync_folder
from storage.core.home import Home
from storage.models.bundles import Bundle, Draft, open_bundle, share_bundle
from storage.models.mlflow_database import registry_client, registry_exists

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
    from mlflow.tracking import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
METRICS_A_CALL = 1000  # what MLflow takes
_FOLDER = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]*")  # a plain name: it becomes part of a path


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


class Models:
    """The registry and the bundles of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._client: MlflowClient | None = None
        self._seen = False

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
        check_no_links(parent)
        folder = parent / f".draft-{uuid.uuid4().hex}"
        try:
            # A run that was killed leaves its draft; the product's lock is held, so nobody is at work in it.
            for left in parent.glob(".draft-*"):
                check_no_links(left)
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
        bundle = hashlib.sha256(key.encode()).hexdigest()[:16]
        if self.home.is_shared:
            # Of two machines that trained the same at once, neither's files get between the other's.
            bundle += f"-{manifest_sha256[:16]}"
        folder = self.home.models / name / bundle
        check_no_links(folder)
        if folder.exists():  # a run was killed between the rename and the registry
            shutil.rmtree(folder)
        draft.folder.rename(folder)
        for place in (folder.parent, self.home.models):
            fsync_folder(place)
        share_bundle(self.home, name, bundle)
        made_on = tags.get("origin_day") or tags.get("data_version", "")
        run_id = self._log_run(name, f"{name} {made_on}".strip(), key, params, metrics, curves)
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

    def challenge(self, version: ModelVersion) -> None:
        """Name it the challenger: the newest version that was not accepted (yet)."""
        self.client.set_registered_model_alias(version.name, CHALLENGER, version.version)

    def settle(self, version: ModelVersion) -> None:
        """Take the challenger's name from it, if it has it."""
        now = self.version(version.product_id, version.profile, version.version)
        if CHALLENGER in now.aliases:
            self.client.delete_registered_model_alias(version.name, CHALLENGER)

    def mark(
        self, version: ModelVersion, tags: Mapping[str, str], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Write down what became of a version: the figures on its run, then its tags in their order."""
        from mlflow.entities import Metric

        registered = self.client.get_model_version(version.name, version.version)
        if metrics and registered.run_id:
            stamp = registered.creation_timestamp
            figures = [Metric(name, value, stamp, 0) for name, value in metrics.items()]
            self.client.log_batch(registered.run_id, metrics=figures)
        for name, value in tags.items():
            self.client.set_model_version_tag(version.name, version.version, name, value)

    def delete(self, version: ModelVersion) -> None:
        """Take a version out of the registry, its run too; no later version gets its number.

        Its bundle is left for whoever sweeps: what the registry names has its bundle at any moment.
        """
        run_id = self.client.get_model_version(version.name, version.version).run_id
        self.client.delete_model_version(version.name, version.version)
        if run_id:
            self.client.delete_run(run_id)

    def champion(self, product_id: str, profile: str) -> ModelVersion | None:
        """The version that forecasts, or None before the first."""
        name = registered_name(product_id, profile)
        return self._one(lambda: self.client.get_model_version_by_alias(name, CHAMPION))

    def version(self, product_id: str, profile: str, version: str) -> ModelVersion:
        """A version by its number.

        Raises:
            Damaged: there is none.
        """
        name = registered_name(product_id, profile)
        found = self._one(lambda: self.client.get_model_version(name, version))
        if found is None:
            raise Damaged(f"{name} has no version {version}: see `closecast versions`")
        return found

    def _one(self, ask: Callable[[], RegisteredVersion]) -> ModelVersion | None:
        """What MLflow answers, without a look at all the other versions; None where there is no such."""
        if not self._there():
            return None
        from mlflow.exceptions import MlflowException

        try:
            row = ask()
        except MlflowException as error:
            # An alias or a number that nobody has, and a number that is none.
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return _as_version(row, row.aliases)

    def versions(self, product_id: str | None = None, profile: str | None = None) -> list[ModelVersion]:
        """All versions, newest first within each model; of one product or profile when named."""
        if not self._there():
            return []
        found = []
        for model, rows in self._registered(product_id, profile):
            aliases: dict[str, list[str]] = {}
            for alias, number in model.aliases.items():
                aliases.setdefault(str(number), []).append(alias)
            found += [_as_version(row, aliases.get(str(row.version), [])) for row in rows]
        return [
            version
            for version in found
            if product_id in (None, version.product_id) and profile in (None, version.profile)
        ]

    def lost(self) -> list[tuple[str, str, str]]:
        """Each alias that names a version which is not there: model, alias, number."""
        if not self._there():
            return []
        found = []
        for model, rows in self._registered():
            there = {str(row.version) for row in rows}
            found += [
                (model.name, alias, str(number))
                for alias, number in sorted(model.aliases.items())
                if str(number) not in there
            ]
        return found

    def _registered(
        self, product_id: str | None = None, profile: str | None = None
    ) -> Iterator[tuple[Any, Iterator[RegisteredVersion]]]:
        """Each registered model with its versions, the newest first."""
        # Of one product among thousands only its own are asked for.
        named = f"name LIKE '{registered_name(product_id or '%', profile or '%')}'"
        for model in self._pages(self.client.search_registered_models, filter_string=named):
            yield (
                model,
                self._pages(self.client.search_model_versions, filter_string=f"name='{model.name}'"),
            )

    def open(self, version: ModelVersion) -> Bundle:
        """The version's bundle, found under this home wherever that was moved to.

        Raises:
            Damaged: it is missing or changed.
        """
        return open_bundle(self.home, version.name, version.bundle, version.manifest_sha256)

    def _there(self) -> bool:
        """Whether there is a registry; once it is there, it stays."""
        self._seen = self._seen or self._client is not None or registry_exists(self.home)
        return self._seen

    @property
    def client(self) -> MlflowClient:
        """MLflow's client on the home's own registry; made on first use."""
        if self._client is None:
            self._client = registry_client(self.home)
        return self._client

    def _log_run(
        self,
        name: str,
        title: str,
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
        run = self.client.create_run(experiment.experiment_id, tags={"key": key}, run_name=title)
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
    product_id, _, profile = row.name.removeprefix("closecast.").rpartition(".")
    if lost := sorted({"bundle", "manifest_sha256"} - row.tags.keys()):
        raise Damaged(
            f"the registry has no {' and no '.join(lost)} of {row.name} version {row.version}:"
            " restore it from a backup"
        )
    if not _FOLDER.fullmatch(row.tags["bundle"]):
        raise Damaged(
            f"the bundle of {row.name} version {row.version} needs the name of a folder, and the registry"
            f" says {row.tags['bundle']!r:.80}: restore it from a backup"
        )
    return ModelVersion(
        product_id=product_id,
        profile=profile,
        version=str(row.version),
        bundle=row.tags["bundle"],
        manifest_sha256=row.tags["manifest_sha256"],
        aliases=tuple(sorted(aliases or [])),
        tags=dict(row.tags),
    )
