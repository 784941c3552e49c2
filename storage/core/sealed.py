"""Files with their own SHA-256: JSON and HTML of which nothing else stores a digest."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

_SEAL = re.compile(rb"<!-- sha256 ([0-9a-f]{64}) -->\n\Z")
CHANGED = "it is not the file that was stored"


def as_json(content: object) -> bytes:
    """Plain figures as JSON, sorted by name, every bit kept; ValueError for NaN and infinity."""
    return f"{json.dumps(content, indent=2, sort_keys=True, allow_nan=False)}\n".encode()


def seal_json(content: object, about: str) -> bytes:
    """The file of some content, under a digest of it and of what it is about, such as its name."""
    return as_json({"content": content, "sha256": _sha256(as_json(content), about)})


def open_json(data: bytes, about: str) -> Any:
    """The content of a file of `seal_json`; ValueError where it is not the stored one."""
    try:
        stored = json.loads(data)
        content, sha256 = stored["content"], stored["sha256"]
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(CHANGED) from error
    if sha256 != _sha256(as_json(content), about):
        raise ValueError(CHANGED)
    return content


def seal_html(page: str, about: str) -> bytes:
    """The file of a page, with a digest of it and of what it is about in a comment at the end."""
    content = page.encode()
    return content + f"<!-- sha256 {_sha256(content, about)} -->\n".encode()


def is_sealed_html(data: bytes, about: str) -> bool:
    """Whether a page ends with its own digest."""
    seal = _SEAL.search(data)
    return seal is not None and _sha256(data[: seal.start()], about).encode() == seal[1]


def _sha256(content: bytes, about: str) -> str:
    return hashlib.sha256(f"{about}\n".encode() + content).hexdigest()
