"""The home: the one folder that holds everything made at run time."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from storage.core.errors import BadProduct, HomeUnusable
from storage.core.s3_path import Location, S3Path

PROJECT = Path(__file__).resolve().parents[2]
# Lies in a home while a backup is moved into its place.
RESTORING = ".restoring"
PRODUCT_ID = re.compile(r"[A-Z0-9]{1,16}-[A-Z0-9]{1,16}")
# What would end the address of the registry, and what no message could show in one line.
_NO_ROOT = re.compile(r"[\x00-\x1f\x7f?]")
# What Delta, which opens a table by its path as an address, reads as something else or stops at.
_NO_TABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff?\\\[\]^|]|%[0-9A-Fa-f]{2}")


def check_product_id(product_id: str) -> str:
    """Return the id as it came, or refuse it before it reaches a path, a URL or SQL.

    Raises:
        BadProduct: not of the form `BTC-USD`.
    """
    if not PRODUCT_ID.fullmatch(product_id):
        raise BadProduct(
            "product ids look like BTC-USD (capital letters and digits around one dash),"
            f" not {product_id!r:.60}"
        )
    return product_id


@dataclass(frozen=True)
class Home:
    """Where things lie: names only, nothing is opened here but `prepare`'s folders.

    `database_url` moves the prices elsewhere; by default they are `prices.db` in the home. `storage_url`
    moves the tables, the bundles of models and the raw answers to a bucket.
    """

    root: Path
    database_url: str | None = field(default=None, repr=False)  # it may hold a password
    storage_url: str | None = field(default=None, repr=False)

    @property
    def bucket(self) -> S3Path | None:
        """Where what machines share lies, if that is not the home itself.

        Raises:
            BadSetting: `storage_url` is no address of S3.
        """
        return None if self.storage_url is None else S3Path.of(self.storage_url)

    @property
    def _shared(self) -> Location:
        return self.bucket or self.root

    @property
    def mlflow_url(self) -> str:
        """SQLAlchemy address of the model registry."""
        return f"sqlite:///{self.registry}"

    @property
    def registry(self) -> Path:
        """The model registry's database."""
        return self.root / "mlflow.db"

    @property
    def models(self) -> Path:
        """Folder of the model bundles."""
        return self.root / "models"

    @property
    def predictions(self) -> Location:
        """Location of the Delta table of forecasts."""
        return self._shared / "predictions"

    @property
    def scores(self) -> Location:
        """Location of the Delta table of scores."""
        return self._shared / "scores"

    @property
    def components(self) -> Location:
        """Location of the Delta table of what stands beside each forecast."""
        return self._shared / "components"

    @property
    def calibrator(self) -> Location:
        """Location of the Delta table of the calibrator' states."""
        return self._shared / "calibrator"

    @property
    def backtests(self) -> Location:
        """Location of the Delta table of backtests."""
        return self._shared / "backtests"

    @property
    def folds(self) -> Path:
        """Folder of the backtests' models, so that an interrupted one goes on where it was."""
        return self.root / "folds"

    @property
    def raw(self) -> Path:
        """Folder of the exchange's answers, compressed, by content hash."""
        return self.root / "raw"

    @property
    def reports(self) -> Path:
        """Folder of the pages that people look at."""
        return self.root / "reports"

    @property
    def locks(self) -> Path:
        """Folder of the lock files."""
        return self.root / "locks"

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return self.root / "logs"

    def prepare(self, *, restoring: bool = False) -> Home:
        """Make the folders that every run needs, and prove that they can be written.

        Args:
            restoring: go on where a backup was half brought back.

        Raises:
            HomeUnusable: a folder cannot be made or written, or a file stands in its place, or a backup was
                half brought back, or the path is none that tables can be opened by.
            BadSetting: `storage_url` is no address of S3.
        """
        self._check_path()
        if not restoring and (self.root / RESTORING).exists():
            raise HomeUnusable(
                f"a backup was brought back to {self.root} only in part: run `closecast restore` again"
            )
        for folder in (self.root, self.models, self.raw, self.locks, self.logs):
            try:
                _prove_writable(folder)
            except OSError as error:
                raise HomeUnusable(
                    f"the home needs a folder that can be written at {folder}: {error.strerror or error};"
                    " choose another with --home or CLOSECAST_HOME"
                ) from error
        return self

    def _check_path(self) -> None:
        _refuse(_NO_ROOT, os.path.abspath(self.root))  # noqa: PTH100
        for folder in (self.predictions, self.scores, self.components, self.calibrator, self.backtests):
            if isinstance(folder, Path):
                _refuse(_NO_TABLE, os.path.realpath(folder))  # as Delta follows links


def _refuse(pattern: re.Pattern[str], path: str) -> None:
    if found := pattern.search(path):
        raise HomeUnusable(
            f"a home without {found[0]!r} in its path is needed, not {path!r:.300}: its files are opened by"
            " their paths as addresses, in which that means something else; choose another with --home or"
            " CLOSECAST_HOME"
        )


def prefect_home(home: Home) -> Path:
    """Where Prefect keeps its own things: `~/.prefect`, or the home where that cannot be written."""
    usual = Path("~/.prefect").expanduser()
    try:
        _prove_writable(usual)
    except OSError:  # a service account without a home folder, a read-only one
        return home.root / "prefect"
    return usual


def _prove_writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # os.access says yes to root and to read-only mounts: only writing is proof.
    with tempfile.TemporaryFile(dir=folder):
        pass


def default_root() -> Path:
    """`data/` of the project, or the user's data folder where closecast runs without its source tree."""
    if (PROJECT / "pyproject.toml").is_file():
        return PROJECT / "data"
    shared = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(shared) / "closecast"
