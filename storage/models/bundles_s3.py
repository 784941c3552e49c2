"""Bundles that machines share: in the bucket before the registry names them, brought to a home when needed.

Their files are known by their hashes, so that a home's copy is as good as the bucket's.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from storage.core.errors import BadFile, Damaged, HomeUnusable
from storage.core.files import sha256_file, write_atomic
from storage.core.s3_path import S3Path
from storage.models.bundles import MANIFEST

if TYPE_CHECKING:
    from storage.models.version import ModelVersion


def place_of(bucket: S3Path, model: str, bundle: str) -> S3Path:
    """Where a bundle lies in the bucket."""
    return bucket / "models" / model / bundle


def share(folder: Path, place: S3Path) -> None:
    """Put a sealed bundle into the bucket, its manifest last: what has a manifest is whole.

    Raises:
        HomeUnusable: the bucket cannot be written.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in [*files, folder / MANIFEST]:
        (place / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())


def bring(place: S3Path, folder: Path, manifest_sha256: str) -> None:
    """Bring every file of a bundle that a home does not have, or has otherwise; the manifest last.

    Two processes may do it at once: each file is there whole or not at all, and is the same.

    Raises:
        Damaged: what is in the bucket is not what was stored.
        HomeUnusable: the bucket cannot be read, or the home not written.
    """
    if _sha256(folder / MANIFEST) == manifest_sha256:
        text = (folder / MANIFEST).read_bytes()
    else:
        text = _whole(place / MANIFEST, manifest_sha256)
    for name, sha256 in _files_of(text, place).items():
        if _sha256(folder / name) != sha256:
            _put(folder / name, _whole(place / name, sha256))
    if _sha256(folder / MANIFEST) != manifest_sha256:
        _put(folder / MANIFEST, text)


def shared_files(bucket: S3Path, version: ModelVersion) -> tuple[int, list[str]]:
    """How many files of a version's bundle in the bucket were looked at, and what is wrong with them."""
    place, wrong = place_of(bucket, version.name, version.bundle), list[str]()
    try:
        listed = _files_of(_whole(place / MANIFEST, version.manifest_sha256), place)
    except Damaged as error:
        return 1, [str(error)]
    for name, sha256 in listed.items():
        try:
            _whole(place / name, sha256)
        except Damaged as error:
            wrong.append(str(error))
    known = {place / name for name in (*listed, MANIFEST)}
    foreign = [path for path in place.files() if path not in known]
    return len(known), wrong + [f"{path} does not belong to its bundle" for path in foreign]


def _files_of(manifest: bytes, place: S3Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(manifest)
    for name in found:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise Damaged(f"the manifest of {place} names {name!r:.80}: restore it from a backup")
    return found


def _whole(path: S3Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing: restore it from a backup") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(f"{path} is not the file that was stored: restore it from a backup")
    return content


def _sha256(path: Path) -> str | None:
    try:
        return sha256_file(path)
    except BadFile:
        return None


def _put(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HomeUnusable(f"{path.parent} cannot be made: {error.strerror or error}") from error
    write_atomic(path, content)
