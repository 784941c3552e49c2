from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from closecast.storage.core.errors import BadInput, Damaged, HomeUnusable
from closecast.storage.core.home import Home
from closecast.storage.prices.raw_responses import keep_raw, raw_sha256s, read_raw

pytestmark = pytest.mark.folder


def test_a_response_is_kept_once_under_its_hash(tmp_path: Path) -> None:
    home = Home(tmp_path)
    payload = b"[[1571270400, 1, 2, 1.5, 1.5, 10]]"
    sha256 = keep_raw(home, payload)
    assert sha256 == hashlib.sha256(payload).hexdigest()
    path = tmp_path / "raw" / sha256[:2] / f"{sha256}.json.gz"
    before = path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()
    assert keep_raw(home, payload) == sha256
    assert (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) == before
    assert read_raw(home, sha256) == payload
    assert raw_sha256s(home) == [sha256]
    # The same response makes the same file in any home.
    other = Home(tmp_path / "other")
    keep_raw(other, payload)
    assert (tmp_path / "other" / "raw" / sha256[:2] / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("harm", ["other", "cut", "plain", "gone"])
def test_a_changed_response_is_damaged(tmp_path: Path, harm: str) -> None:
    home = Home(tmp_path)
    sha256 = keep_raw(home, b"[]" * 1000)
    path = tmp_path / "raw" / sha256[:2] / f"{sha256}.json.gz"
    if harm == "gone":
        path.unlink()
    else:
        spoilt = {"other": gzip.compress(b"[1]"), "cut": path.read_bytes()[:-12], "plain": b"[]"}
        path.write_bytes(spoilt[harm])
    with pytest.raises(Damaged) as error:
        read_raw(home, sha256)
    assert sha256 in str(error.value)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_a_hash_is_checked_before_it_is_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="64 hexadecimal digits"):
        read_raw(Home(tmp_path), name)


def test_a_file_instead_of_the_raw_folder_raises_home_unusable(tmp_path: Path) -> None:
    (tmp_path / "raw").touch()
    with pytest.raises(HomeUnusable, match="cannot be written"):
        keep_raw(Home(tmp_path), b"[]")
