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

from closecast.storage.core.errors import Damaged
from closecast.storage.core.files import check_no_links, fsync_folder
from closecast.storage.core.home import Home
from closecast.storage.models.bundles import Bundle, Draft, fetch_bundle, new_draft, share_bundle
from closecast.storage.models.mlflow_database import registry_client
from closecast.storage.models.training_run import TrainingRun, log_run
from closecast.storage.prices.engine import database_engine

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
_FOLDER = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]*")  # a plain name: it becomes part of a path
_NAMED = "WHERE name LIKE :name ESCAPE '\\'"
_QUERIES = (
    # MLflow keeps a row of a deleted version, so that no other gets its number.
    f"SELECT name, version FROM model_versions {_NAMED}"  # noqa: S608 (no text from outside)
    " AND coalesce(current_stage, '') <> 'Deleted_Internal' ORDER BY name, version DESC",
    f"SELECT name, version, key, value FROM model_version_tags {_NAMED}",  # noqa: S608
    f"SELECT name, version, alias FROM registered_model_aliases {_NAMED} ORDER BY name, alias",  # noqa: S608
)


# Of the run that each version names: tags, settings, each figure of one step, and each epoch of the others.
_RUN = "FROM model_versions v JOIN {table} t ON t.run_uuid = v.run_id WHERE v.name LIKE :name ESCAPE '\\'"
_RUN_QUERIES = tuple(
    f"SELECT v.name, v.version, {columns} {_RUN.format(table=table)}{order}"
    for columns, table, order in (
        ("t.key, t.value", "tags", ""),
        ("t.key, t.value", "params", ""),
        ("t.key, t.step, t.value", "metrics", " ORDER BY v.name, v.version, t.key, t.step"),
    )
)


@dataclass(frozen=True)
class RecordedRun:
    """What MLflow has of a version's run: a figure of step 0 is a metric, those of later steps a curve."""

    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[float, ...]] = field(default_factory=dict)


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

    @property
    def order(self) -> tuple[str, int]:
        """By the day that it was trained up to, then by number."""
        return self.tags.get("origin_day", ""), int(self.version)

    @classmethod
    def of_tags(cls, name: str, version: str, tags: Mapping[str, str], aliases: Sequence[str] = ()) -> Self:
        """The version for one of MLflow's; `Damaged` if it names no bundle, or not a plain folder."""
        product_id, _, profile = name.removeprefix("closecast.").rpartition(".")
        bundle, manifest_sha256 = (tags.get(tag, "") for tag in ("bundle", "manifest_sha256"))
        if not _FOLDER.fullmatch(bundle):
            raise Damaged(
                f"the bundle of {name} version {version} needs the name of a folder, but the registry has"
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
        """The version that was trained under `key`, None if there is none; `Damaged` if it changed."""
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
        product_id: str,
        profile: str,
        run: TrainingRun,
        *,
        tags: Mapping[str, str],
        description: str | None = None,
    ) -> ModelVersion:
        """Seal the draft, rename it to its final folder, and only then add the version to the registry.

        The key of its `run` names the folder; `tags` are its lineage, the `description` is Markdown.
        """
        manifest_sha256 = draft.seal()
        name = registered_name(product_id, profile)
        bundle = self.home.shared.bundle_name(run.key, manifest_sha256)
        folder = self.home.models / name / bundle
        check_no_links(folder)
        if folder.exists():  # a run was killed between the rename and the registry
            shutil.rmtree(folder)
        draft.folder.rename(folder)
        fsync_folder(folder.parent)
        fsync_folder(self.home.models)
        share_bundle(self.home, name, bundle)
        origin = tags.get("origin_day") or tags.get("data_version", "")
        run_id = log_run(self.client, name, self.home.models / name, run, f"{name} {origin}".strip())
        if not self.client.search_registered_models(filter_string=f"name='{name}'"):
            self.client.create_registered_model(name)
        tags = {**tags, "key": run.key, "bundle": folder.name, "manifest_sha256": manifest_sha256}
        source = self.home.shared.artifact_uri(f"models/{name}/{bundle}")
        version = self.client.create_model_version(
            name, source=source, run_id=run_id, tags=tags, description=description
        )
        return ModelVersion.of_tags(name, str(version.version), tags)

    def promote(self, version: ModelVersion) -> None:
        """Make the version the champion, which makes the forecasts from then on."""
        self.client.set_registered_model_alias(version.name, CHAMPION, version.version)

    def challenge(self, version: ModelVersion) -> None:
        """Make the version the challenger: the newest one that the gate has not accepted."""
        self.client.set_registered_model_alias(version.name, CHALLENGER, version.version)

    def settle(self, version: ModelVersion) -> None:
        """Remove the challenger's alias from the version, if it has it."""
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

    def describe(self, version: ModelVersion, description: str) -> None:
        """Replace the version's description, which is Markdown."""
        self.client.update_model_version(version.name, version.version, description)

    def of_artifact(self, uri: str) -> ModelVersion:
        """The version whose bundle has that address in the registry; `Damaged` if there is none."""
        for version in self.versions():
            # The scheme is that of the home in which it was registered, and may since be another.
            if uri.endswith(f"/models/{version.name}/{version.bundle}"):
                return version
        raise Damaged(f"no version in {self.home.root} has the bundle {uri!r:.200}: see `closecast versions`")

    def delete(self, version: ModelVersion) -> None:
        """Delete a version and its run from the registry; no later version gets its number.

        Its bundle stays until the home is pruned, so every version in the registry always has its bundle.
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
        """A version by its number; `Damaged` if there is none."""
        for stored in self.versions(product_id, profile):
            if stored.version == version:
                return stored
        raise Damaged(
            f"{registered_name(product_id, profile)} has no version {version}: see `closecast versions`"
        )

    def versions(self, product_id: str | None = None, profile: str | None = None) -> list[ModelVersion]:
        """All versions, newest first within each model; only those of one product or profile if named."""
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

    def recorded_runs(self) -> dict[tuple[str, str], RecordedRun]:
        """MLflow's run of every version, by the version's name and number."""
        tags, params, figures = database_engine(self.home).registry_rows(
            _RUN_QUERIES, {"name": "closecast.%"}
        )
        runs = defaultdict[tuple[str, str], RecordedRun](RecordedRun)
        for name, version, key, value in tags:
            runs[name, str(version)].tags[key] = value
        for name, version, key, value in params:
            runs[name, str(version)].params[key] = value
        for name, version, key, step, value in figures:
            run = runs[name, str(version)]
            if step:
                run.curves[key] = (*run.curves.get(key, ()), value)
            else:
                run.metrics[key] = value
        return runs

    def _read(self, product_id: str | None = None, profile: str | None = None) -> list[list[tuple[Any, ...]]]:
        """Versions, tags and aliases, read from MLflow's tables, because its client takes seconds to load."""
        name = registered_name(product_id or "%", profile or "%")
        # To LIKE, an underscore is any character.
        name = re.sub(r"([_\\])", r"\\\1", name)
        return database_engine(self.home).registry_rows(_QUERIES, {"name": name})

    def open(self, version: ModelVersion) -> Bundle:
        """The version's bundle, in this home even if it was moved; `Damaged` if it changed."""
        sha256 = version.manifest_sha256
        return Bundle(fetch_bundle(self.home, version.name, version.bundle, sha256), sha256)

    @functools.cached_property
    def client(self) -> MlflowClient:
        """MLflow's client on the home's own registry; made on first use."""
        return registry_client(self.home)
