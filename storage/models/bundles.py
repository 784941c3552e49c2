"""Bundles: the folders that model versions consist of.

A bundle is whole or it is not there: it is written beside its final folder, synced, and renamed; its manifest
holds the SHA-256 of each file, and the registry holds the SHA-256 of the manifest. Where machines share
models, a bundle is copied to `Home.shared` before the registry names it, and fetched to a home when needed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from storage.core.errors import BadFile, Damaged
from storage.core.files import sha256_file
from storage.core.home import Home
from storage.core.location import LocalPath, Location

MANIFEST = "manifest.json"
WEIGHTS = "model.weights.h5"


class Network(Protocol):
    """The part of a Keras model that is needed here; Keras itself is not imported."""

    def save_weights(self, filepath: str) -> None: ...  # noqa: D102
    def load_weights(self, filepath: str) -> None: ...  # noqa: D102


class Draft:
    """A bundle that is being written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_json(self, name: str, content: object) -> None:
        """Store plain figures, sorted by name; NaN is refused, floats keep every bit."""
        self.write(name, as_json(content))

    def write(self, name: str, content: bytes) -> None:
        """Store a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def write_weights(self, network: Network, name: str = WEIGHTS) -> None:
        """Store a network's weights as HDF5: arrays, and nothing that could run."""
        network.save_weights(str(self.folder / name))

    def seal(self) -> str:
        """Write the manifest, sync everything, and return the manifest's SHA-256."""
        folder = LocalPath(self.folder)
        files = folder.files()
        self.write_json(MANIFEST, {str(path.relative_to(folder)): path.sha256() for path in files})
        folder.sync([*files, folder / MANIFEST])
        return sha256_file(self.folder / MANIFEST)


class Bundle:
    """A stored bundle, whose files are checked against the manifest before they are read."""

    def __init__(self, folder: Path, manifest_sha256: str) -> None:
        self.folder = folder
        _damaged_by_links(folder, folder / MANIFEST)
        actual = self._sha256(folder / MANIFEST)
        if actual != manifest_sha256:
            raise Damaged(
                f"{folder / MANIFEST} has SHA-256 {actual[:12]}, the registry has {manifest_sha256[:12]}:"
                " restore the folder from a backup"
            )
        self.manifest: dict[str, str] = json.loads((folder / MANIFEST).read_bytes())

    def path(self, name: str) -> Path:
        """The path of a file whose content is the recorded one; `Damaged` where it is any other."""
        path = self.folder / name
        _damaged_by_links(path.parent, path)
        if name not in self.manifest or self._sha256(path) != self.manifest[name]:
            raise Damaged(f"{path} is not the file that was stored: restore the folder from a backup")
        return path

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return self.path(name).read_bytes()

    def read_json(self, name: str) -> Any:
        """A JSON file's content."""
        return json.loads(self.read(name))

    def load_weights(self, network: Network, name: str = WEIGHTS) -> None:
        """Load the stored weights into a network of the same layers."""
        network.load_weights(str(self.path(name)))

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


def as_json(content: object) -> bytes:
    """Plain figures as JSON, sorted by name, every bit kept; ValueError for NaN and infinity."""
    return f"{json.dumps(content, indent=2, sort_keys=True, allow_nan=False)}\n".encode()


def shared_bundle(home: Home, model: str, bundle: str) -> Location:
    """Where machines share the bundle of a registered model; in a home of its own, the bundle itself."""
    return home.shared / "models" / model / bundle


def share_bundle(home: Home, model: str, bundle: str) -> None:
    """Copy a sealed bundle to where machines share it, its manifest last: with a manifest it is whole."""
    folder, shared = LocalPath(home.models / model / bundle), shared_bundle(home, model, bundle)
    if shared != folder:
        for path in sorted(folder.files(), key=lambda path: path == folder / MANIFEST):
            (shared / path.relative_to(folder).as_posix()).put(path.read_bytes())


def fetch_bundle(home: Home, model: str, bundle: str, manifest_sha256: str) -> Path:
    """The bundle's folder in this home; missing or changed files come from where machines share it.

    Two processes may fetch at once: each file is written whole, and is the same.

    Raises:
        Damaged: a shared file is not the one that was stored.
        HomeUnusable: the bucket cannot be read, or the home not written.
    """
    folder, shared = LocalPath(home.models / model / bundle), shared_bundle(home, model, bundle)
    if shared != folder:
        same = _has(folder / MANIFEST, manifest_sha256)
        manifest = (folder if same else shared) / MANIFEST
        content = _checked(manifest, manifest_sha256)
        for name, sha256 in _listed(content, shared).items():
            if not _has(folder / name, sha256):
                (folder / name).put(_checked(shared / name, sha256))
        if not same:
            (folder / MANIFEST).put(content)
    return folder


def shared_files(home: Home, model: str, bundle: str, manifest_sha256: str) -> tuple[int, list[str]]:
    """How many shared files of a bundle were checked, none in a home of its own, and the findings."""
    shared = shared_bundle(home, model, bundle)
    if shared == LocalPath(home.models / model / bundle):
        return 0, []
    try:
        listed = _listed(_checked(shared / MANIFEST, manifest_sha256), shared)
    except Damaged as error:
        return 1, [str(error)]
    messages = []
    for name, sha256 in listed.items():
        try:
            _checked(shared / name, sha256)
        except Damaged as error:
            messages.append(str(error))
    own = {shared / name for name in (*listed, MANIFEST)}
    foreign = [path for path in shared.files() if path not in own]
    return len(own), messages + [f"{path} does not belong to its bundle" for path in foreign]


def _has(path: Location, sha256: str) -> bool:
    try:
        return path.sha256() == sha256
    except BadFile:
        return False


def _checked(path: Location, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing: restore it from a backup") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(f"{path} is not the file that was stored: restore it from a backup")
    return content


def _listed(manifest: bytes, folder: Location) -> dict[str, str]:
    """The SHA-256 of each file of a manifest, none of which leads out of the folder."""
    listed: dict[str, str] = json.loads(manifest)
    for name in listed:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise Damaged(f"the manifest of {folder} names {name!r:.80}: restore it from a backup")
    return listed


def _damaged_by_links(*paths: Path) -> None:
    """What a link leads to can change after its hash was taken."""
    for path in paths:
        if path.is_symlink():
            raise Damaged(f"{path} is a link, a bundle has none: restore the folder from a backup")
