"""The registry's addresses `closecast:/…` for MLflow, which stay valid when a home is moved."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from closecast.flows.settings import home_at
from closecast.storage.core.home import Home
from closecast.storage.models.bundles import MANIFEST
from closecast.storage.models.registry import Models

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


def artifact_repository(uri: str, tracking_uri: str | None, registry_uri: str | None) -> ArtifactRepository:
    """The checked files of the version whose bundle has that address, in MLflow's form.

    They are one copy per process, removed at exit, because MLflow writes its own files beside them. `Damaged`
    if there is no such version, or a file of it was changed.
    """
    import mlflow
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    models = Models(_home_of(registry_uri or tracking_uri or mlflow.get_registry_uri()))
    version = models.of_artifact(uri)
    bundle = models.open(version)
    bundle.verify()
    folder = _folder_of(version.manifest_sha256)
    if not (folder / MANIFEST).is_file():  # it is written last
        bundle.copy_to(folder)
    return LocalArtifactRepository(folder.as_uri(), tracking_uri, registry_uri)


@functools.cache
def _folder_of(manifest_sha256: str) -> Path:  # noqa: ARG001 (a folder for each)
    folder = Path(tempfile.mkdtemp(prefix="closecast-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _home_of(registry_uri: str) -> Home:
    """The home of a registry's file; for a server, that of CLOSECAST_HOME."""
    scheme, _, path = registry_uri.partition(":///")
    file = Path(path)
    if scheme == "sqlite" and file == Home(file.parent).registry:
        return Home(file.parent.absolute())
    return home_at()
