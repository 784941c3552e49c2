"""The home: the folder for everything made at run time."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from closecast.storage.core.errors import BadProduct, HomeUnusable, did_you_mean
from closecast.storage.core.files import check_writable, unwritable
from closecast.storage.core.location import LocalPath, Location
from closecast.storage.core.s3_path import S3Path

# The package's folder. In a checkout its rooms are links to the folders beside it.
PACKAGE = Path(__file__).parents[2]
# Lies in a home while a backup is moved into its place.
RESTORING = ".restoring"
PRODUCT_ID = re.compile(r"[A-Z0-9]{1,16}-[A-Z0-9]{1,16}")
# Written without a dash, as in BTCUSD, a product ends with one of these.
_JOINED = re.compile(r"(.+?)(USDT|USDC|USD|EUR|GBP|JPY|BTC|ETH)")
# What would end the address of the registry, and what no message could show in one line.
_NOT_IN_ROOT = re.compile(r"[\x00-\x1f\x7f?]")
# What Delta, which opens a table by its path as an address, reads as something else or stops at.
_NOT_IN_TABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff?\\\[\]^|]|%[0-9A-Fa-f]{2}")


def check_product_id(product_id: str) -> str:
    """Return the id unchanged, or raise `BadProduct` before it reaches a path, a URL or SQL."""
    if not PRODUCT_ID.fullmatch(product_id):
        raise BadProduct(
            "product ids look like BTC-USD (capital letters and digits around one dash),"
            f" not {product_id!r:.60}{_meant(product_id)}"
        )
    return product_id


def _meant(text: str) -> str:
    """A hint at the id meant by btc-usd, BTC/USD or BTCUSD, or nothing."""
    words = re.findall("[A-Z0-9]+", text.upper()) if text.isascii() and len(text) < 40 else []
    if len(words) == 1 and (joined := _JOINED.fullmatch(words[0])):
        words = list(joined.groups())
    meant = "-".join(words)
    return f" (did you mean {meant}?)" if PRODUCT_ID.fullmatch(meant) else ""


def similar_product(product_id: str, products: Iterable[str]) -> str:
    """A hint at the product that is spelt nearly the same, or nothing."""
    return did_you_mean(product_id, products, similarity=0.75)


def choose_location(root: Path, storage_url: str | None) -> Location:
    """The home's folder, or the bucket of an address; `BadSetting` if that is not one of S3."""
    return LocalPath(root) if storage_url is None else S3Path.of(storage_url)


@dataclass(frozen=True)
class _Below:
    """A file or folder that is always in the home, by its name."""

    name: str

    def __get__(self, home: Home, _: type[Home]) -> Path:
        return home.root / self.name


@dataclass(frozen=True)
class _Shared:
    """A table or folder that machines may share, by its name."""

    name: str

    def __get__(self, home: Home, _: type[Home]) -> Location:
        return home.shared / self.name


@dataclass(frozen=True)
class Home:
    """The names of a home's parts; only `prepare` touches the disk.

    `database_url` moves the prices elsewhere, `storage_url` the tables, the models' bundles and the raw
    responses.
    """

    root: Path
    database_url: str | None = field(default=None, repr=False)  # it may hold a password
    storage_url: str | None = field(default=None, repr=False)

    @property
    def shared(self) -> Location:
        """Where the parts are that machines may share: the home itself, or the bucket of `storage_url`."""
        return choose_location(self.root, self.storage_url)

    @property
    def is_elsewhere(self) -> bool:
        """Whether an address moves part of it to where other machines may have written."""
        return self.database_url is not None or self.storage_url is not None

    @property
    def label(self) -> str:
        """The name of this home in a Prefect server that several homes use; empty for the default home.

        It is the name of the folder, or of the bucket's prefix, with four digits of the hash of its whole
        address, so it is the same in every process that works on the home.
        """
        root = os.path.realpath(self.root)
        if not self.is_elsewhere and root == os.path.realpath(default_root()):
            return ""
        places = [_without_login(url) if url else root for url in (self.database_url, self.storage_url)]
        name = re.sub(r"[^a-z0-9]+", "-", places[1].rstrip("/").rpartition("/")[2].lower()).strip("-")
        return f"{name[:20] or 'home'}-{hashlib.sha256(repr(places).encode()).hexdigest()[:4]}"

    def table(self, name: str) -> Location:
        """Location of a Delta table, by its name in `closecast.storage.tables.schemas`."""
        return self.shared / name

    predictions, scores, components = _Shared("predictions"), _Shared("scores"), _Shared("components")
    calibrator, backtests = _Shared("calibrator"), _Shared("backtests")
    raw = _Shared("raw")  # the exchange's responses, compressed, by content hash
    registry = _Below("mlflow.db")
    models = _Below("models")  # bundles
    folds = _Below("folds")  # models of backtests, so that an interrupted one continues
    reports, locks, logs = _Below("reports"), _Below("locks"), _Below("logs")

    def prepare(self, *, restoring: bool = False) -> Home:
        """Make the folders that every run needs, and prove that they can be written.

        With `restoring`, accept a home to which a backup was restored in part.

        Raises:
            HomeUnusable: a folder cannot be made or written, a backup was restored in part, or tables cannot
                be opened by the path.
        """
        _check_characters(_NOT_IN_ROOT, os.path.abspath(self.root))  # noqa: PTH100
        for path in (self.root, *(path for path in self.root.glob("*") if path.is_symlink())):
            _check_characters(_NOT_IN_TABLE, os.path.realpath(path))  # as Delta follows links
        if not restoring and (self.root / RESTORING).exists():
            raise HomeUnusable(
                f"a backup was restored to {self.root} only in part: run `closecast restore` again"
            )
        for folder in (self.root, self.models, self.locks, self.logs):
            try:
                check_writable(folder)
            except OSError as error:
                raise unwritable(folder, error) from error
        return self


def _without_login(url: str) -> str:
    """The engine in an address, without the login and the options, which may change."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"


def _check_characters(forbidden: re.Pattern[str], path: str) -> None:
    if match := forbidden.search(path):
        raise HomeUnusable(
            f"a home without {match[0]!r} in its path is needed, not {path!r:.300}: paths are used as"
            " addresses, in which it has another meaning; choose another home with --home or"
            " CLOSECAST_HOME"
        )


def prefect_home(home: Home) -> Path:
    """The folder for Prefect's own files: `~/.prefect`, or one in the home where that cannot be written."""
    try:
        usual = Path("~/.prefect").expanduser()
        check_writable(usual)
    except (OSError, RuntimeError):  # a service account without a home folder, a read-only one
        return home.root / "prefect"
    return usual


def checkout() -> Path | None:
    """The folder of closecast's source tree, or None if the package is installed without it."""
    return PACKAGE.resolve().parent if (PACKAGE / "storage").is_symlink() else None


def default_root() -> Path:
    """`data/` of the checkout, or the user's data folder for an installed package."""
    if folder := checkout():
        return folder / "data"
    # An account may have no folder: then the `~` stays, and is refused where this home is opened.
    shared = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")  # noqa: PTH111
    return Path(shared) / "closecast"
