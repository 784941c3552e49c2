"""Bundles: the folders that model versions consist of.

A bundle is complete or absent: it is written beside its final folder, synced, and renamed. Its manifest has
the SHA-256 of each file, and the registry has the SHA-256 of the manifest. If machines share
models, a bundle is copied to `Home.shared` before the registry names it, and fetched to a home when needed.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from closecast.storage.core.errors import Damaged, HomeUnusable, reason_of
from closecast.storage.core.files import check_no_links
from closecast.storage.core.home import Home
from closecast.storage.core.location import LocalPath, Location
from closecast.storage.core.sealed import as_json

MANIFEST = "manifest.json"
WEIGHTS = "model.weights.h5"


class Network(Protocol):
    """The part of a Keras model that is needed here; Keras itself is not imported."""

    def save_weights(self, filepath: str) -> None: ...  # noqa: D102
    def load_weights(self, filepath: str) -> None: ...  # noqa: D102


class Draft:
    """A bundle that is being written."""

    def __init__(self, folder: Path) -> None:
        self.folder = LocalPath(folder)

    def part(self, name: str) -> Draft:
        """A folder of the bundle, to be filled as a bundle is."""
        (self.folder / name).mkdir()
        return Draft(self.folder / name)

    def write_json(self, name: str, content: object) -> None:
        """Store plain figures, sorted by name; NaN is refused, floats keep every bit."""
        self.write(name, as_json(content))

    def write(self, name: str, content: bytes) -> None:
        """Store a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def write_weights(self, network: Network, name: str = WEIGHTS) -> None:
        """Store a network's weights as HDF5: only arrays, no code."""
        network.save_weights(str(self.folder / name))

    def seal(self) -> str:
        """Write the manifest, sync everything, and return the manifest's SHA-256."""
        files = self.folder.files()
        self.write_json(MANIFEST, {str(path.relative_to(self.folder)): path.sha256() for path in files})
        self.folder.sync([*files, self.folder / MANIFEST])
        return (self.folder / MANIFEST).sha256()


@contextlib.contextmanager
def new_draft(parent: Path) -> Iterator[Draft]:
    """A draft in a new folder, removed afterwards unless renamed; `HomeUnusable` if it cannot be written."""
    folder = parent / f".draft-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
        yield Draft(folder)
    except OSError as error:
        raise HomeUnusable(
            f"the model cannot be stored in {parent}: {reason_of(error)}; make room"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Bundle:
    """A stored bundle, whose files are checked against the manifest before they are used."""

    def __init__(
        self, folder: Location, manifest_sha256: str, remedy: str = "restore it from a backup"
    ) -> None:
        self.folder, self._manifest_sha256, self._remedy = folder, manifest_sha256, remedy
        self._prefix = ""
        self.manifest: dict[str, str] = json.loads(self._read(MANIFEST, manifest_sha256))
        if not isinstance(self.manifest, dict):
            raise Damaged(f"the manifest of {folder} lists no files: {self._remedy}")
        for name in self.manifest:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or "\0" in name:
                raise Damaged(f"the manifest of {folder} names {name!r:.80}: {self._remedy}")

    def part(self, name: str) -> Bundle:
        """A folder of the bundle, to be read as a bundle is."""
        part = copy.copy(self)
        part._prefix = f"{self._prefix}{name}/"
        return part

    def read(self, name: str) -> bytes:
        """A file's bytes; `Damaged` if they are not the recorded ones."""
        name = self._prefix + name
        if name not in self.manifest:
            raise Damaged(f"the manifest of {self.folder} lacks {name!r:.80}: {self._remedy}")
        return self._read(name, self.manifest[name])

    def read_json(self, name: str) -> Any:
        """A JSON file's content."""
        return json.loads(self.read(name))

    def read_weights(
        self, shapes: Mapping[str, tuple[int, ...]], name: str = WEIGHTS
    ) -> list[NDArray[np.float32]]:
        """The weights that a network stored, in the order of `shapes`; Keras is not imported.

        `shapes` has each array's name in the file; `Damaged` if the file lacks an array of that shape.
        """
        import h5py

        content = io.BytesIO(self.read(name))
        try:
            with h5py.File(content) as file:
                return [self._array(file, array, shape, name) for array, shape in shapes.items()]
        except OSError as error:
            raise Damaged(f"{self.folder / name} is not an HDF5 file: {self._remedy}") from error

    def _array(self, file: Any, array: str, shape: tuple[int, ...], name: str) -> NDArray[np.float32]:
        stored = file.get(array)
        if getattr(stored, "shape", None) != shape or stored.dtype != np.float32:
            raise Damaged(
                f"{self.folder / name} needs float32 weights {array} of the shape {shape}, but has others:"
                f" {self._remedy}"
            )
        weights: NDArray[np.float32] = stored[...]
        return weights

    def load_weights(self, network: Network, name: str = WEIGHTS) -> None:
        """Load the stored weights into a network of the same layers; the bundle is in a folder."""
        self.read(name)
        network.load_weights(str(self.folder / (self._prefix + name)))

    def verify(self) -> None:
        """Check every file of the manifest."""
        for name in self.manifest:
            self._read(name, self.manifest[name])

    def copy_to(self, folder: Path) -> None:
        """Write every file, checked, to an empty folder; `Damaged` if one is not as it was stored."""
        for name in (*self.manifest, MANIFEST):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._read(name, self.manifest.get(name, self._manifest_sha256)))

    def check(self) -> tuple[int, list[str]]:
        """How many files the bundle has, and a line for each that is not as it was stored."""
        findings = []
        for name in self.manifest:
            try:
                self._read(name, self.manifest[name])
            except Damaged as error:
                findings.append(str(error))
        own = {self.folder / name for name in (*self.manifest, MANIFEST)}
        foreign = [path for path in self.folder.files() if path not in own]
        return len(own), findings + [f"{path} does not belong to its bundle" for path in foreign]

    def _read(self, name: str, sha256: str) -> bytes:
        path = self.folder / name
        if any(each.is_symlink() for each in (self.folder, path.parent, path)):  # its target may change
            raise Damaged(f"{path} is a link, and bundles have no links: restore the folder from a backup")
        try:
            content = path.read_bytes()
        except OSError as error:
            state = "missing" if isinstance(error, FileNotFoundError) else f"not readable ({error.strerror})"
            raise Damaged(f"{path} is {state}: {self._remedy}") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Damaged(f"{path} is not the file that was stored: {self._remedy}")
        return content


def shared_bundle(home: Home, model: str, bundle: str) -> Location:
    """The shared location of a registered model's bundle; in a home that is not shared, the bundle itself."""
    return home.shared / "models" / model / bundle


def share_bundle(home: Home, model: str, bundle: str) -> None:
    """Copy a sealed bundle to its shared location, its manifest last: with a manifest it is complete."""
    folder, shared = LocalPath(home.models / model / bundle), shared_bundle(home, model, bundle)
    if shared != folder:
        for path in sorted(folder.files(), key=lambda path: path == folder / MANIFEST):
            (shared / path.relative_to(folder).as_posix()).put(path.read_bytes())


def fetch_bundle(home: Home, model: str, bundle: str, manifest_sha256: str) -> LocalPath:
    """The bundle's folder in this home; if it is not complete, it is fetched from the shared location.

    Two processes may fetch at once: each file is written completely, and is the same.
    """
    folder, shared = LocalPath(home.models / model / bundle), shared_bundle(home, model, bundle)
    if shared != folder:
        try:
            Bundle(folder, manifest_sha256).verify()
        except Damaged:
            stored = Bundle(shared, manifest_sha256)
            contents = {name: stored.read(name) for name in stored.manifest}
            check_no_links(folder, *folder.rglob("*"))
            for name, content in contents.items():
                (folder / name).put(content)
            (folder / MANIFEST).put((shared / MANIFEST).read_bytes())
    return folder
