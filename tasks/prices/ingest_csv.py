"""A file's closes into the database, checked; or the closes that are there."""

from __future__ import annotations

import hashlib
import logging
from datetime import date, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from prefect import task
from prefect.assets import materialize

from storage.core.errors import BadFile, BadInput
from storage.core.files import read_bytes
from storage.core.home import Home
from storage.core.progress import tell
from storage.prices.price_store import Prices
from tasks.core.assets import CLOSES, noting
from tasks.core.steps import STEP
from tasks.prices.csv_reader import CsvCandles, read_candles
from tasks.prices.gaps import require_origin
from tasks.prices.series import Counts, Series, check_source, summed_up
from tasks.prices.validation import check_candles

log = logging.getLogger("closecast.ingest")
# A file is opened, read, checked, stored, and what it makes of the series is named by its digest.
STAGES = 5


def ingest_file(
    home: Home,
    product_id: str,
    *,
    source: Literal["sample", "csv"],
    path: Path,
    origin: date | None,
    last_finished_day: date,
    observed_at: datetime,
    min_days: int = 1,
    consecutive_days: int = 1,
    on_duplicate: Literal["refuse", "first", "last"] = "refuse",
    replace_source: bool = False,
) -> Series:
    """Append what a CSV file holds, after the run it is for was found possible.

    Args:
        home: prepared.
        product_id: whose closes the file holds.
        source: the name under which the closes are kept.
        path: of the file.
        origin: the last day that the run may know; the file's last day when None.
        last_finished_day: no later candle enters.
        observed_at: the moment of reading.
        min_days: closes that the model needs up to the origin.
        consecutive_days: of these, the newest ones that no gap may break.
        on_duplicate: as `read_candles`.
        replace_source: start the series over when it has another source.

    Raises:
        BadFile, SourceMismatch, BadDay, StaleSeries, NotEnoughHistory: and nothing was stored.
    """
    data = read_bytes(path)
    tell(path.name, 1, STAGES)
    read = read_candles(data, product_id, name=path.name, on_duplicate=on_duplicate)
    tell(path.name, 2, STAGES)
    with Prices(home) as prices:
        kept = check_source(prices, product_id, source, observed_at, replace_source)
        accepted, quarantined = _checked(prices, product_id, read, path.name, last_finished_day, kept=kept)
        tell(path.name, 3, STAGES)
        known = prices.days(product_id) if kept else pd.Series([], dtype="datetime64[s]")
        days = pd.Series(np.union1d(known, accepted["day_utc"]))
        require_origin(product_id, days, origin, min_days=min_days, consecutive_days=consecutive_days)
        prices.start_series(product_id, source, started_at=observed_at, replace=replace_source)
        appended = prices.append(
            product_id,
            accepted,
            source=source,
            observed_at=observed_at,
            payload_sha256=hashlib.sha256(data).hexdigest(),
            quarantined=quarantined,
        )
        tell(path.name, 4, STAGES)
        log.info(
            "%s: %d rows of %s, %d days new", product_id, len(read.candles), path.name, appended.new_days
        )
        counts = Counts()
        counts.add(appended, quarantined)
        series = summed_up(prices, product_id, origin, observed_at, counts)
    tell(path.name, STAGES, STAGES)
    return series


def _checked(
    prices: Prices, product_id: str, read: CsvCandles, name: str, last_finished_day: date, *, kept: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The accepted candles of a file, and its quarantined rows; `kept`: it joins a stored series."""
    previous = (
        prices.last_close_before(product_id, read.candles["day_utc"].iloc[0].date())
        if kept and len(read.candles)
        else None
    )
    checked = check_candles(read.candles, last_finished_day=last_finished_day, previous=previous)
    quarantined = pd.concat([read.rejected, checked.quarantined], ignore_index=True)
    if checked.accepted.empty and not kept:
        raise BadFile(
            f"{name} holds no candle that can be used, {len(quarantined)} rows were quarantined,"
            f" the first because: {quarantined['reason'].iloc[0]}"
        )
    return checked.accepted, quarantined


def read_stored(
    home: Home,
    product_id: str,
    *,
    origin: date | None,
    observed_at: datetime,
    min_days: int = 1,
    consecutive_days: int = 1,
) -> Series:
    """The closes that are there, with nothing read or fetched.

    Raises:
        BadInput: there are none.
        BadDay, StaleSeries: as they say.
    """
    with Prices(home) as prices:
        if prices.source_of(product_id) is None:
            raise BadInput(f"{product_id} has no closes in {home.root}: name a file with --csv")
        require_origin(
            product_id,
            prices.days(product_id),
            origin,
            min_days=min_days,
            consecutive_days=consecutive_days,
        )
        return summed_up(prices, product_id, origin, observed_at, Counts())


read_file = materialize(
    CLOSES, name="read-csv", task_run_name="read-csv {product_id}", timeout_seconds=900, **STEP
)(noting(ingest_file, Series.facts))
read_database = task(
    name="read-closes", task_run_name="read-closes {product_id}", timeout_seconds=300, **STEP
)(read_stored)
