"""Model versions: an MLflow registry that names bundles, which are folders under the home."""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from storage.core.errors import Damaged
from storage.core.files import check_no_links, fsync_folder
from storage.core.home import Home
from storage.models.bundles import Bundle, Draft, fetch_bundle, new_draft, share_bundle
from storage.models.mlflow_database import registry_client
from storage.prices.engine import database_engine

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
_FOLDER = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]*")  # a plain name: it becomes part of a path
METRICS_A_CALL = 1000  # MLflow takes no more
_NAMED = "WHERE name LIKE :name ESCAPE '\\'"
_QUERIES = (
    # MLflow keeps a row of a deleted version, so that no other gets its number.
    f"SELECT name, version FROM model_versions {_NAMED}"  # noqa: S608 (no text from outside)
    " AND coalesce(current_stage, '') <> 'Deleted_Internal' ORDER BY name, version DESC",
    f"SELECT name, version, key, value FROM model_version_tags {_NAMED}",  # noqa: S608
    f"SELECT name, version, alias FROM registered_model_aliases {_NAMED} ORDER BY name, alias",  # noqa: S608
)


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
        """The name under which MLflow registers the model."""
        return registered_name(self.product_id, self.profile)

    @classmethod
    def of_tags(cls, name: str, version: str, tags: Mapping[str, str], aliases: Sequence[str] = ()) -> Self:
        """A version of MLflow's; `Damaged` where it names no bundle, or one that is no plain folder."""
        product_id, _, profile = name.removeprefix("closecast.").rpartition(".")
        bundle, manifest_sha256 = (tags.get(tag, "") for tag in ("bundle", "manifest_sha256"))
        if not _FOLDER.fullmatch(bundle):
            raise Damaged(
                f"the bundle of {name} version {version} needs the name of a folder, and the registry has"
                f" {bundle!r:.80}: restore it from a backup"
            )
        return cls(product_id, profile, version, bundle, manifest_sha256, tuple(sorted(aliases)), tags)


def registered_name(product_id: str, profile: str) -> str:
    """`closecast.PRODUCT.PROFILE`."""
    return f"closecast.{product_id}.{profile}"


class Models:
    """The registry and the bundles of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def find(self, product_id: str, profile: str, key: str) -> ModelVersion | None:
        """The version that was trained under `key`, None where there is none; `Damaged` where it changed."""
        for version in self.versions(product_id, profile):
            if version.tags.get("key") == key:
                self.open(version).verify()
                return version
        return None

    @contextlib.contextmanager
    def draft(self, product_id: str, profile: str) -> Iterator[Draft]:
        """A bundle to fill, removed afterwards unless `register` renamed it; the product's lock is held."""
        parent = self.home.models / registered_name(product_id, profile)
        check_no_links(parent, *parent.glob(".draft-*"))
        with new_draft(parent) as draft:
            for orphan in {*parent.glob(".draft-*")} - {draft.folder}:  # of a killed run
                shutil.rmtree(orphan)
            yield draft

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
        """Seal the draft, rename it to its final folder, and only then add the version to the registry.

        `key` digests what it was trained from, and names its folder. The version gets `tags`, its lineage;
        MLflow's run gets `params`, the settings, `metrics` and `curves`, a figure for each epoch (epochs,).
        """
        manifest_sha256 = draft.seal()
        name = registered_name(product_id, profile)
        bundle = self.home.shared.bundle_name(key, manifest_sha256)
        folder = self.home.models / name / bundle
        check_no_links(folder)
        if folder.exists():  # a run was killed between the rename and the registry
            shutil.rmtree(folder)
        draft.folder.rename(folder)
        fsync_folder(folder.parent)
        fsync_folder(self.home.models)
        share_bundle(self.home, name, bundle)
        origin = tags.get("origin_day") or tags.get("data_version", "")
        run_id = self._log_run(name, f"{name} {origin}".strip(), key, params, metrics, curves)
        if not self.client.search_registered_models(filter_string=f"name='{name}'"):
            self.client.create_registered_model(name)
        tags = {**tags, "key": key, "bundle": folder.name, "manifest_sha256": manifest_sha256}
        source = folder.resolve().as_uri()
        version = self.client.create_model_version(name, source=source, run_id=run_id, tags=tags)
        return ModelVersion.of_tags(name, str(version.version), tags)

    def promote(self, version: ModelVersion) -> None:
        """Make it the champion, which forecasts from then on."""
        self.client.set_registered_model_alias(version.name, CHAMPION, version.version)

    def challenge(self, version: ModelVersion) -> None:
        """Make it the challenger: the newest version that the gate has not accepted."""
        self.client.set_registered_model_alias(version.name, CHALLENGER, version.version)

    def settle(self, version: ModelVersion) -> None:
        """Remove the challenger's alias from it, if it has it."""
        if CHALLENGER in self.version(version.product_id, version.profile, version.version).aliases:
            self.client.delete_registered_model_alias(version.name, CHALLENGER)

    def mark(
        self, version: ModelVersion, tags: Mapping[str, str], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Record the decision on a version: the metrics on its run, then its tags in their order."""
        registered = self.client.get_model_version(version.name, version.version)
        from mlflow.entities import Metric  # after the client, which announces that MLflow is loaded

        if metrics and registered.run_id:
            stamp = registered.creation_timestamp
            figures = [Metric(name, value, stamp, 0) for name, value in metrics.items()]
            self.client.log_batch(registered.run_id, metrics=figures)
        for name, value in tags.items():
            self.client.set_model_version_tag(version.name, version.version, name, value)

    def delete(self, version: ModelVersion) -> None:
        """Delete a version and its run from the registry; no later version gets its number.

        Its bundle stays until the home is pruned: a version in the registry has its bundle at any moment.
        """
        run_id = self.client.get_model_version(version.name, version.version).run_id
        self.client.delete_model_version(version.name, version.version)
        if run_id:
            self.client.delete_run(run_id)

    def champion(self, product_id: str, profile: str) -> ModelVersion | None:
        """The version that forecasts, None before the first."""
        versions = self.versions(product_id, profile)
        return next((version for version in versions if CHAMPION in version.aliases), None)

    def version(self, product_id: str, profile: str, version: str) -> ModelVersion:
        """A version by its number; `Damaged` where there is none."""
        for stored in self.versions(product_id, profile):
            if stored.version == version:
                return stored
        raise Damaged(
            f"{registered_name(product_id, profile)} has no version {version}: see `closecast versions`"
        )

    def versions(self, product_id: str | None = None, profile: str | None = None) -> list[ModelVersion]:
        """All versions, newest first within each model; of one product, or its one profile, when named."""
        versions, tags, aliases = self._read(product_id, profile)
        named, tagged = defaultdict[Any, list[str]](list), defaultdict[Any, dict[str, str]](dict)
        for name, version, alias in aliases:
            named[name, version].append(alias)
        for name, version, tag, value in tags:
            tagged[name, version][tag] = value
        return [
            ModelVersion.of_tags(name, str(version), tagged[name, version], named[name, version])
            for name, version in versions
        ]

    def lost(self) -> list[tuple[str, str, str]]:
        """Each alias whose version is missing: model, alias, number."""
        versions, _, aliases = self._read()
        present = set(versions)
        return [
            (name, alias, str(version)) for name, version, alias in aliases if (name, version) not in present
        ]

    def _read(self, product_id: str | None = None, profile: str | None = None) -> list[list[tuple[Any, ...]]]:
        """Versions, tags and aliases, straight from MLflow's tables: its client takes seconds to load."""
        name = registered_name(product_id or "%", profile or "%")
        # To LIKE, an underscore is any character.
        name = re.sub(r"([_\\])", r"\\\1", name)
        return database_engine(self.home).registry_rows(_QUERIES, {"name": name})

    def open(self, version: ModelVersion) -> Bundle:
        """The version's bundle, in this home wherever that was moved to; `Damaged` where it changed."""
        sha256 = version.manifest_sha256
        return Bundle(fetch_bundle(self.home, version.name, version.bundle, sha256), sha256)

    @functools.cached_property
    def client(self) -> MlflowClient:
        """MLflow's client on the home's own registry; made on first use."""
        return registry_client(self.home)

    def _log_run(
        self,
        name: str,
        title: str,
        key: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        curves: Mapping[str, np.ndarray[Any, Any]],
    ) -> str:
        client, folder = self.client, (self.home.models / name).resolve().as_uri()
        from mlflow.entities import Metric, Param  # after the client, as in `mark`

        experiment = client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else client.create_experiment(name, folder)
        for orphan in client.search_runs([number], f"tags.key = '{key}'"):
            client.delete_run(orphan.info.run_id)  # it was killed before it reached the registry
        run = client.create_run(number, tags={"key": key}, run_name=title)
        run_id, stamp = str(run.info.run_id), run.info.start_time
        figures = [Metric(metric, value, stamp, 0) for metric, value in metrics.items()]
        figures += [
            Metric(curve, float(value), stamp, epoch)
            for curve, values in curves.items()
            for epoch, value in enumerate(values, start=1)
        ]
        client.log_batch(run_id, params=[Param(param, str(value)) for param, value in params.items()])
        for first in range(0, len(figures), METRICS_A_CALL):
            client.log_batch(run_id, metrics=figures[first : first + METRICS_A_CALL])
        client.set_terminated(run_id)
        return run_id
