# ruff: noqa: D102 (the protocol documents the methods)
"""The engine S3: a prefix of a bucket or an object in it, as a `Location`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from closecast.storage.core.errors import BadFile, BadSetting, HomeUnusable

if TYPE_CHECKING:
    from obstore.store import S3Store

    from closecast.storage.core.location import Location

# Bucket names as S3 wants them; a prefix of plain words, none of which is `.` or `..`.
_ADDRESS = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){0,8})/?"
)
OWNER_FILE = "closecast.json"
RETRIES = 5
RETRY_SECONDS = 60


@dataclass(frozen=True, order=True)
class S3Path:
    """An object or a prefix in a bucket: a `Location`.

    Credentials come from AWS's own variables, which Delta reads too: AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP and their like. An object is
    durable when the server responds.
    """

    bucket: str
    key: str = ""

    @classmethod
    def of(cls, url: str) -> S3Path:
        """The prefix that CLOSECAST_STORAGE_URL names; `BadSetting` if it is not `s3://BUCKET/PREFIX`."""
        match = _ADDRESS.fullmatch(url)
        if not match or ".." in match[1]:
            # The URL is not shown: somebody may have put a password into it.
            raise BadSetting(
                "CLOSECAST_STORAGE_URL must be s3://BUCKET or s3://BUCKET/PREFIX in letters, digits, dots"
                ", dashes and underscores; credentials go into AWS_ACCESS_KEY_ID and its like"
            )
        return cls(match[1], match[2].strip("/"))

    def __truediv__(self, name: str) -> S3Path:
        return S3Path(self.bucket, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> S3Path:
        return S3Path(self.bucket, self.key.rpartition("/")[0])

    def relative_to(self, other: S3Path) -> PurePosixPath:
        return PurePosixPath(self.key).relative_to(other.key)

    def is_file(self) -> bool:
        with contextlib.suppress(FileNotFoundError), self._server("read") as store:
            store.head(self.key)
            return True
        return False

    def is_symlink(self) -> bool:
        return False

    def is_dir(self) -> bool:
        return next(self._listed(), None) is not None

    def folder_names(self) -> list[str]:
        with self._server("listed") as store:
            prefixes = store.list_with_delimiter(self._prefix)["common_prefixes"]
        return [prefix.rstrip("/").rpartition("/")[2] for prefix in prefixes]

    def files(self, *, after: str | None = None) -> list[S3Path]:
        return sorted(self._listed(after))

    def names_beside(self, folder: str) -> list[str]:  # noqa: ARG002 (as the protocol says)
        return []

    def read_bytes(self) -> bytes:
        with self._server("read") as store:
            return bytes(store.get(self.key).bytes())

    def open_regular(self) -> io.BytesIO:
        return io.BytesIO(self.read_bytes())

    def sha256(self) -> str:
        try:
            return hashlib.sha256(self.read_bytes()).hexdigest()
        except FileNotFoundError as error:
            raise BadFile(f"the file {self} cannot be read: it is missing; check its name") from error

    def put(self, content: bytes) -> None:
        with self._server("written") as store:
            store.put(self.key, content)

    def create(self, content: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError

        with self._server("written") as store:
            try:
                store.put(self.key, content, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def unlink(self) -> None:
        with self._server("deleted") as store:
            store.delete(self.key)

    def check_no_links(self, *, deep: bool = False) -> None: ...

    def check_regular(self) -> None: ...

    def check_reachable(self) -> None:
        self.is_dir()

    def claim(self, identity: Callable[[], str], address: str) -> None:
        """Prove that the bucket can be written, refuses to write twice, and belongs to that price database.

        One request where all is well: the owner file exists, and the server reports that.
        """
        file, owner = self / OWNER_FILE, {"closecast": 1, "database": identity()}
        content = f"{json.dumps(owner)}\n".encode()
        if file.create(content) and file.create(content):
            with contextlib.suppress(HomeUnusable):
                file.unlink()
            raise HomeUnusable(
                f"the server of {self} overwrites an object in spite of If-None-Match, so commits would be"
                " lost: choose a server that supports conditional writes"
            )
        try:
            stored = json.loads(file.read_bytes())
        except ValueError as error:
            raise HomeUnusable(f"{file} is not closecast's: choose another prefix") from error
        if stored != owner:
            raise HomeUnusable(
                f"{self} belongs to another price database than {address}: choose another prefix, or delete"
                f" {file} if the database was moved"
            )

    def bundle_name(self, key: str, manifest_sha256: str) -> str:
        # Two machines that train the same at once never mix their files.
        return f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{manifest_sha256[:16]}"

    def artifact_uri(self, name: str) -> str:
        return str(self / name)

    def resolve(self) -> S3Path:
        return self

    def located(self, uri: str) -> S3Path:
        if not uri.startswith(f"{self}/"):  # an address of S3 has its `..` resolved
            raise ValueError(uri)
        return S3Path(self.bucket, uri.removeprefix(f"s3://{self.bucket}/"))

    @property
    def storage_options(self) -> dict[str, str]:
        # Delta's commits rest on the server's refusal to write what is there.
        retries = {"max_retries": str(RETRIES), "retry_timeout": f"{RETRY_SECONDS}s"}
        return {"aws_conditional_put": "etag", **retries}

    def arrow_filesystem(self) -> None: ...

    def sync(self, paths: Iterable[Location]) -> None: ...

    def read_lines(self, *, after: int = -1) -> list[str]:
        return _lines_of(self.files(after=f"{after:020d}" if after >= 0 else None))

    def add_lines(self, number: int, lines: list[str]) -> None:
        """Nothing can be added to an object, so each number has its own, or after a rewrite all up to it."""
        path = self / f"{number:020d}"
        path.put((_text_of(path) + "".join(f"{line}\n" for line in lines)).encode())

    def rewrite_lines(self, change: Callable[[list[str]], list[str]]) -> None:
        """Lines that are added meanwhile stay beside them."""
        objects = self.files()
        if objects:
            lines = change(_lines_of(objects))
            objects[-1].put("".join(f"{line}\n" for line in lines).encode())
        for path in objects[:-1]:
            path.unlink()

    def _listed(self, after: str | None = None) -> Iterator[S3Path]:
        offset = None if after is None else (self / after).key
        with self._server("listed") as store:
            for page in store.list(self._prefix, offset=offset):
                yield from (S3Path(self.bucket, item["path"]) for item in page)

    @property
    def _prefix(self) -> str | None:
        return f"{self.key}/" if self.key else None

    @contextlib.contextmanager
    def _server(self, done: str) -> Iterator[S3Store]:
        from obstore.exceptions import BaseError

        try:
            yield _store(self.bucket)
        except BaseError as error:
            raise HomeUnusable(
                f"{self} cannot be {done}: {s3_reason(error)}; check the server and the AWS_ variables"
            ) from error


def _lines_of(objects: list[S3Path]) -> list[str]:
    with ThreadPoolExecutor(16) as pool:  # each is small, and the way to the server long
        return "".join(pool.map(_text_of, objects)).split("\n")


def _text_of(path: S3Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:  # merged into another since it was listed
        return ""


def s3_reason(error: Exception) -> str:
    """The reason in an S3 client's error of many lines, in a few words."""
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
