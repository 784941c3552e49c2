"""Where tables and bundles lie: in a folder, or under a prefix of a bucket of S3."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from storage.core.errors import BadSetting, HomeUnusable

if TYPE_CHECKING:
    from obstore.store import S3Store

# Bucket names as S3 wants them; a prefix of plain words, none of which is `.` or `..`.
_ADDRESS = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){0,8})/?"
)
READERS = 16
RETRIES = 5
RETRY_SECONDS = 60
# Delta's own words for the same. Its commits rest on the server's refusal to write what is there.
DELTA_OPTIONS = {
    "aws_conditional_put": "etag",
    "max_retries": str(RETRIES),
    "retry_timeout": f"{RETRY_SECONDS}s",
}


@dataclass(frozen=True, order=True)
class S3Path:
    """An object or a prefix in a bucket: what closecast needs of `pathlib.Path`, under the same names.

    Who may read it is said by AWS's own variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
    AWS_ENDPOINT_URL, AWS_ALLOW_HTTP and their like, as Delta reads them too.

    Raises (all that ask the server):
        HomeUnusable: it cannot be reached, or refuses.
    """

    bucket: str
    key: str = ""

    @classmethod
    def of(cls, url: str) -> S3Path:
        """What CLOSECAST_STORAGE_URL says.

        Raises:
            BadSetting: it is not `s3://BUCKET` or `s3://BUCKET/PREFIX`.
        """
        found = _ADDRESS.fullmatch(url)
        if not found or ".." in found[1]:
            # Not shown: somebody may have put a password into it.
            raise BadSetting(
                "CLOSECAST_STORAGE_URL must be s3://BUCKET or s3://BUCKET/PREFIX in letters, digits, dots"
                ", dashes and underscores; credentials go into AWS_ACCESS_KEY_ID and its like"
            )
        return cls(found[1], found[2].strip("/"))

    def __truediv__(self, name: str) -> S3Path:
        return S3Path(self.bucket, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """What stands after the last slash."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> S3Path:
        """The prefix that it lies in."""
        return S3Path(self.bucket, self.key.rpartition("/")[0])

    def relative_to(self, other: S3Path) -> PurePosixPath:
        """Its key from `other` on."""
        return PurePosixPath(self.key).relative_to(other.key)

    def read_bytes(self) -> bytes:
        """The object's content.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._asking("read") as store:
            return bytes(store.get(self.key).bytes())

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The object's content as a stream."""
        assert mode == "rb"  # noqa: S101 (nothing is written so)
        return io.BytesIO(self.read_bytes())

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object's content as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Put the content there, whole or not at all, in place of what was there."""
        with self._asking("written") as store:
            store.put(self.key, content)

    def create(self, content: bytes) -> bool:
        """Put the content there unless there is something; whether it was put."""
        from obstore.exceptions import AlreadyExistsError

        with self._asking("written") as store:
            try:
                store.put(self.key, content, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def unlink(self) -> None:
        """Delete the object, if there is one."""
        with self._asking("deleted") as store:
            store.delete(self.key)

    def is_file(self) -> bool:
        """Whether there is an object of that very key."""
        with contextlib.suppress(FileNotFoundError), self._asking("read") as store:
            store.head(self.key)
            return True
        return False

    def is_dir(self) -> bool:
        """Whether something lies below it."""
        return next(self._listed(), None) is not None

    def exists(self) -> bool:
        """Whether it is an object, or something lies below it."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[S3Path]:
        """What lies directly below it, prefixes too."""
        with self._asking("listed") as store:
            found = store.list_with_delimiter(self._prefix)
        names = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        return (S3Path(self.bucket, name.rstrip("/")) for name in names)

    def files(self, *, after: str | None = None) -> list[S3Path]:
        """Every object below it, sorted; with `after` only those whose name there comes later."""
        return sorted(self._listed(after))

    def _listed(self, after: str | None = None) -> Iterator[S3Path]:
        offset = None if after is None else (self / after).key
        with self._asking("listed") as store:
            for page in store.list(self._prefix, offset=offset):
                yield from (S3Path(self.bucket, one["path"]) for one in page)

    @property
    def _prefix(self) -> str | None:
        return f"{self.key}/" if self.key else None

    @contextlib.contextmanager
    def _asking(self, done: str) -> Iterator[S3Store]:
        from obstore.exceptions import BaseError

        try:
            yield _store(self.bucket)
        except BaseError as error:
            raise HomeUnusable(
                f"{self} cannot be {done}: {s3_reason(error)}; see to the server and the AWS_ variables"
            ) from error


Location = Path | S3Path


def files_below(folder: Location) -> list[Any]:
    """Every file below a folder or prefix, sorted, of the same kind as it."""
    if isinstance(folder, S3Path):
        return folder.files()
    return sorted(path for path in folder.rglob("*") if path.is_file())


def lines_in_bucket(prefix: S3Path) -> list[str]:
    """The lines of every object below a prefix, in the order of their names."""
    with ThreadPoolExecutor(READERS) as pool:  # each is small, and the way to the server long
        texts = list(pool.map(_text_of, prefix.files()))
    return "".join(texts).split("\n")


def _text_of(path: S3Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:  # merged into another since it was listed
        return ""


def s3_reason(error: Exception) -> str:
    """What an S3 client says, in a few words of the many lines it goes on over."""
    text = str(error).partition("Debug source:")[0]
    code = re.search(r"<Code>(\w+)</Code>", text)
    short = " ".join(text.partition("<")[0].split()).rpartition(" - ")[2].rstrip(": ")
    return f"{short[:200]} ({code[1]})" if code else short[:200]


@functools.cache
def _store(bucket: str) -> S3Store:
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise BadSetting(
            "CLOSECAST_STORAGE_URL needs a package that is not installed: pip install 'closecast[s3]'"
        ) from error
    patience = timedelta(seconds=RETRY_SECONDS)
    return S3Store(bucket, retry_config={"max_retries": RETRIES, "retry_timeout": patience})
