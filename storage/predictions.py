"""The Delta tables of forecasts and of their scores: append-only, partitioned by product."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from storage.errors import Damaged, HomeBusy, HomeUnusable
from storage.files import fsync_folder
from storage.home import Home

if TYPE_CHECKING:
    from deltalake import DeltaTable

ATTEMPTS = 20
PREDICTIONS = pa.schema(
    [
        pa.field("prediction_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("origin_day", pa.date32(), nullable=False),
        pa.field("target_day", pa.date32(), nullable=False),
        pa.field("horizon", pa.int32(), nullable=False),
        pa.field("profile", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("data_version", pa.string(), nullable=False),
        pa.field("settings_version", pa.string(), nullable=False),
        pa.field("code_version", pa.string(), nullable=False),
        pa.field("last_close_usd", pa.float64(), nullable=False),
        pa.field("point_usd", pa.float64(), nullable=False),
        *(
            pa.field(f"{side}_{level}_usd", pa.float64())
            for level in (50, 80, 95)
            for side in ("lower", "upper")
        ),
        pa.field("quantile_levels", pa.list_(pa.float64())),
        pa.field("quantiles_usd", pa.list_(pa.float64())),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("flow_run_id", pa.string()),
        pa.field("revision", pa.int32(), nullable=False),
    ]
)
SCORES = pa.schema(
    [
        pa.field("prediction_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("target_day", pa.date32(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("close_usd", "error_usd", "naive_error_usd")),
        *(pa.field(name, pa.float64()) for name in ("crps", "naive_crps")),
        *(pa.field(f"hit_{level}", pa.bool_()) for level in (50, 80, 95)),
        pa.field("pit", pa.float64()),
        pa.field("data_version", pa.string(), nullable=False),
        pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


@dataclass(frozen=True)
class Published:
    """What became of a forecast: `new` is False when its key was there before."""

    prediction_id: str
    revision: int
    new: bool


class Predictions:
    """The forecasts of one home: the first of a target day is published, later ones are revisions.

    They are counted for each profile on its own.
    """

    def __init__(self, home: Home) -> None:
        self.folder = home.predictions

    def find(
        self, prediction_id: str, *, product_id: str | None = None, target_day: date | None = None
    ) -> dict[str, Any] | None:
        """The row of that id, or None; where product and day are known, only their files are read."""
        wanted = _all_of(
            ds.field("prediction_id") == prediction_id,
            *([ds.field("product_id") == product_id] if product_id else []),
            *([ds.field("target_day") == target_day] if target_day else []),
        )
        rows = self.read(wanted).to_pylist()
        return rows[0] if rows else None

    def publish(self, row: Mapping[str, object]) -> Published:
        """Add a forecast unless its `prediction_id` is there; its `revision` is counted here.

        Args:
            row: every column of `PREDICTIONS` but `revision`.

        Raises:
            HomeUnusable: the table cannot be written.
            HomeBusy: others write to it all the time.
            Damaged: there is a table that cannot be read.
        """
        from deltalake.exceptions import CommitFailedError

        # Somebody else's commit came between: look again, count again, write again.
        again = Retrying(
            retry=retry_if_exception_type(CommitFailedError),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            stop=stop_after_attempt(ATTEMPTS),
            reraise=True,
        )
        try:
            return again(self._publish_once, row)
        except CommitFailedError as error:
            raise HomeBusy(
                f"other runs wrote to {self.folder} each of the {ATTEMPTS} times that this one tried:"
                " try again when they are done"
            ) from error

    def _publish_once(self, row: Mapping[str, object]) -> Published:
        prediction_id = str(row["prediction_id"])
        table = self._open_or_create()
        same_day = _all_of(*(ds.field(name) == row[name] for name in ("product_id", "profile", "target_day")))
        with _reading(self.folder):
            dataset = table.to_pyarrow_dataset()
            earlier = dataset.to_table(["prediction_id", "revision"], same_day).to_pylist()
        for known in earlier:
            if known["prediction_id"] == prediction_id:
                return Published(prediction_id, known["revision"], new=False)
        revision = 1 + max((known["revision"] for known in earlier), default=-1)
        source = pa.Table.from_pylist([{**row, "revision": revision}], schema=PREDICTIONS)
        # A merge, not an append: a commit since our look that touches the same product makes it fail.
        with _writing(self.folder):
            done = (
                table.merge(
                    source,
                    "s.product_id = t.product_id AND s.prediction_id = t.prediction_id",
                    source_alias="s",
                    target_alias="t",
                )
                .when_not_matched_insert_all()
                .execute()
            )
            _sync(self.folder, table)
        return Published(prediction_id, revision, new=done["num_target_rows_inserted"] == 1)

    def between(
        self,
        product_id: str | None = None,
        first: date | None = None,
        last: date | None = None,
        profile: str | None = None,
    ) -> pa.Table:
        """Forecasts whose target day lies in the inclusive span, by target day, then revision."""
        target = ds.field("target_day")
        wanted = _all_of(
            *([ds.field("product_id") == product_id] if product_id else []),
            *([ds.field("profile") == profile] if profile else []),
            *([target >= first] if first else []),
            *([target <= last] if last else []),
        )
        order = [(name, "ascending") for name in ("target_day", "product_id", "profile", "revision")]
        return self.read(wanted).sort_by(order)

    def read(self, wanted: ds.Expression | None = None) -> pa.Table:
        """The rows that match, in the schema of the design, with no row when there is no table yet."""
        dataset = self.dataset()
        if dataset is None:
            return PREDICTIONS.empty_table()
        with _reading(self.folder):
            return dataset.to_table(PREDICTIONS.names, wanted).cast(PREDICTIONS)

    def dataset(self) -> ds.Dataset | None:
        """The table as a PyArrow dataset, or None before the first forecast."""
        return open_dataset(self.folder)

    def _open_or_create(self) -> DeltaTable:
        from deltalake import DeltaTable

        table = _open(self.folder)
        if table is not None:
            return table
        with _writing(self.folder):
            table = DeltaTable.create(
                str(self.folder), PREDICTIONS, mode="ignore", partition_by=["product_id"], name="predictions"
            )
            _sync(self.folder, table)
        return table


def open_dataset(folder: Path) -> ds.Dataset | None:
    """A Delta table as a PyArrow dataset, or None when there is none.

    Raises:
        Damaged: there is one that cannot be read.
    """
    table = _open(folder)
    if table is None:
        return None
    with _reading(folder):
        return table.to_pyarrow_dataset()


def _open(folder: Path) -> DeltaTable | None:
    if not (folder / "_delta_log").is_dir():
        return None
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    with _reading(folder):
        try:
            return DeltaTable(str(folder))
        except TableNotFoundError:  # a first run was killed before its first commit
            return None


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise Damaged(
            f"the table {folder} cannot be read: restore it from a backup ({_line(error)})"
        ) from error


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except CommitFailedError:
        raise
    except (DeltaError, OSError) as error:
        raise HomeUnusable(
            f"the table {folder} cannot be written: {_line(error)}; make room, or choose another --home"
        ) from error


def _sync(folder: Path, table: DeltaTable) -> None:
    """Make the newest commit durable: Delta itself leaves that to the disk's good will."""
    entry = folder / "_delta_log" / f"{table.version():020d}.json"
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    added = [folder / unquote(action["add"]["path"]) for action in actions if "add" in action]
    for path in [*added, entry]:  # the log last: it must not name a file that is not there
        with path.open("rb") as written:
            os.fsync(written.fileno())
        fsync_folder(path.parent)
    fsync_folder(folder)


def _all_of(*tests: ds.Expression) -> ds.Expression | None:
    return functools.reduce(operator.and_, tests) if tests else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
