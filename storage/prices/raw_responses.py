"""The exchange's responses, kept unchanged under the SHA-256 of their content."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib

from closecast.storage.core.errors import BadInput, Damaged, reason_of
from closecast.storage.core.home import Home
from closecast.storage.core.location import Location

SUFFIX = ".json.gz"


def keep_raw(home: Home, payload: bytes) -> str:
    """Keep a response unchanged and compressed, once, however often it comes; returns its SHA-256 in hex.

    Raises:
        HomeUnusable: the home cannot be written, or there is a link in the path.
    """
    sha256 = hashlib.sha256(payload).hexdigest()
    # Without the time in its header, the same response makes the same file.
    _location(home, sha256).create(gzip.compress(payload, mtime=0))
    return sha256


def read_raw(home: Home, sha256: str) -> bytes:
    """The response with that hash.

    Raises:
        BadInput: not a SHA-256 in hex.
        Damaged: it is missing, or its content has another hash.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise BadInput(f"a SHA-256 is 64 hexadecimal digits, not {sha256!r:.80}")
    path = _location(home, sha256)
    try:
        payload = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise Damaged(
            f"the raw response {path} cannot be read: {reason_of(error)}; restore it from a backup"
        ) from error
    if hashlib.sha256(payload).hexdigest() != sha256:
        raise Damaged(
            f"the raw response {path} does not have the SHA-256 in its name; restore it from a backup"
        )
    return payload


def raw_sha256s(home: Home) -> list[str]:
    """The SHA-256 of every response that is kept, by its name."""
    return [path.name.removesuffix(SUFFIX) for path in home.raw.files() if path.name.endswith(SUFFIX)]


def _location(home: Home, sha256: str) -> Location:
    return home.raw / sha256[:2] / f"{sha256}{SUFFIX}"
