"""Bundles: the folders that model versions are made of.

A bundle is whole or it is not there: it is written beside its place, synced, and renamed into it;
its manifest holds the SHA-256 of each file, and the registry holds the SHA-256 of the manifest.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

from storage.core.errors import BadFile, Damaged
from storage.core.files import fsync_folder, sha256_file

MANIFEST = "manifest.json"
WEIGHTS = "model.weights.h5"


class Network(Protocol):
    """What is needed of a Keras model here; Keras itself is not imported."""

    def save_weights(self, filepath: str) -> None:
        """Write the weights to a file whose name ends in `.weights.h5`."""

    def load_weights(self, filepath: str) -> None:
        """Read them back."""


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

    def write_weights(self, network: Network, name: str = WEIGHTS) -> None:
        """Store a network's weights as HDF5: arrays, and nothing that could run."""
        network.save_weights(str(self.folder / name))

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
        _damaged_by_links(folder, folder / MANIFEST)
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
        """Put the stored weights into a network of the same layers."""
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


def _damaged_by_links(*paths: Path) -> None:
    """What a link leads to can be another thing after its hash was taken."""
    for path in paths:
        if path.is_symlink():
            raise Damaged(f"{path} is a link, a bundle has none: restore the folder from a backup")
