"""The SHA-256 of each file of a table in a bucket, where nothing can be added to an object.

So each commit has a list of its own, `_sha256sums/VERSION`, which two writers write alike; upkeep makes
one of them all.
"""

from __future__ import annotations

from storage.core.files import sha256_file
from storage.core.s3_path import S3Path
from storage.tables.checksums import CHECKSUMS, LOG, added_files, read_checksums

# So many commits back those are looked for whose run was killed before it recorded them.
LOOK_BACK = 20


def record_commits(folder: S3Path, newest: int) -> None:
    """Record the commit of that number, and those before it that are not recorded yet.

    Raises:
        HomeUnusable: the bucket cannot be written.
    """
    before = f"{newest - LOOK_BACK:020d}" if newest > LOOK_BACK else None
    names, known = ({path.name for path in (folder / of).files(after=before)} for of in (LOG, CHECKSUMS))
    # One list may stand for all up to its number, after they were made one.
    floor = min((int(name) for name in known if name.isdecimal()), default=-1)
    for name in sorted(names):
        number, _, suffix = name.partition(".")
        if number.isdecimal() and int(number) <= newest:
            late = number not in known and int(number) > floor
            if (suffix == "json" and late) or (suffix == "checkpoint.parquet" and number == f"{newest:020d}"):
                _record(folder, int(number), names)


def _record(folder: S3Path, number: int, names: set[str]) -> None:
    """Write the list of a commit: its data files, its checkpoint if there is one, and last its entry."""
    entry, checkpoint = (folder / LOG / f"{number:020d}{end}" for end in (".json", ".checkpoint.parquet"))
    paths = [*added_files(folder, entry), *([checkpoint] if checkpoint.name in names else []), entry]
    lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / CHECKSUMS / f"{number:020d}").write_bytes("".join(lines).encode())


def merge_checksums(folder: S3Path) -> None:
    """Make one list of all, without the files that are gone; what is recorded meanwhile stays beside it."""
    lists = (folder / CHECKSUMS).files()
    if not lists:
        return
    there = {path.relative_to(folder).as_posix() for path in folder.files()}
    lines = [
        f"{sha256}  {name}\n" for name, sha256 in sorted(read_checksums(folder).items()) if name in there
    ]
    lists[-1].write_bytes("".join(lines).encode())
    for path in lists[:-1]:
        path.unlink()
