"""A file's candles into the database, all of them or none."""

from __future__ import annotations

import hashlib
import logging
from datetime import date
from pathlib import Path
from typing import Literal

import pandas as pd

from closecast.storage.core.errors import BadFile
from closecast.storage.core.files import read_bytes
from closecast.storage.core.progress import report_progress
from closecast.storage.prices.price_store import Prices
from closecast.tasks.core.formatting import count
from closecast.tasks.prices.file_checks import MAX_UNREADABLE_SHARE
from closecast.tasks.prices.file_reader import DEFAULTS, FileCandles, read_candles
from closecast.tasks.prices.file_summary import FileSummary, remarks, summarize
from closecast.tasks.prices.file_table import FileOptions
from closecast.tasks.prices.ingest import Counts, IngestedPrices, IngestRequest, known_days, read_prices
from closecast.tasks.prices.validation import Checked, check_candles

log = logging.getLogger("closecast.ingest")

MAX_WRONG = 3  # days that cannot be prices, and that a file may have in any case
STAGES = 5  # a file is opened, parsed, checked, stored, and the series is read back


def ingest_file(
    prices: Prices,
    request: IngestRequest,
    *,
    source: Literal["sample", "csv"],
    path: Path,
    options: FileOptions = DEFAULTS,
) -> IngestedPrices:
    """Append the candles of a file, then check that a run with them is possible.

    Raises:
        BadFile, SourceMismatch: nothing was stored.
        BadDay, StaleSeries, NotEnoughHistory: the candles were stored, for a later run.
    """
    data, product_id = read_bytes(path), request.product_id
    report_progress(path.name, 1, STAGES)
    read = read_candles(data, product_id, name=path.name, options=options)
    candles = read.candles
    report_progress(path.name, 2, STAGES)
    before = prices.source_of(product_id)
    joins = before == source
    first = candles["day_utc"].iloc[0].date()
    checked = check_candles(
        candles,
        last_finished_day=request.last_finished_day,
        previous=prices.last_close_before(product_id, first) if joins else None,
        stored=prices.recorded(product_id) if joins else None,
    )
    _check_prices(path, read, checked, request.last_finished_day, joins=joins)
    report_progress(path.name, 3, STAGES)
    # A file of the user's is kept also where the run is refused; but the sample, which is always there, and
    # what replaces another series, only if they serve the run.
    if not joins and (before or source == "sample"):
        later = [one.day for one in checked.decisions if request.origin and one.known_from > request.origin]
        days = checked.accepted["day_utc"]
        request.require_origin(days[~days.isin(pd.to_datetime(later))])
    prices.start_series(product_id, source, started_at=request.observed_at, replace=request.replace_source)
    counts, sha256 = Counts(), hashlib.sha256(data).hexdigest()
    appended = counts.store(prices, request, checked, read.rejected, source=source, payload_sha256=sha256)
    report_progress(path.name, 4, STAGES)
    for remark in remarks(read.reading):
        log.info("%s: %s", product_id, remark)
    rows, new = count(len(candles), "row"), count(appended.new_days, "new day")
    log.info("%s: %s of %s, %s", product_id, rows, path.name, new)
    counts.warn(product_id)
    request.require_origin(known_days(prices, request))
    ingested = counts.finish(read_prices(prices, request))
    report_progress(path.name, STAGES, STAGES)
    return ingested


def preview_file(
    path: Path,
    product_id: str | None,
    *,
    last_finished_day: date,
    options: FileOptions = DEFAULTS,
) -> FileSummary:
    """What an import of the file into a new series would read, or its `BadFile`; nothing is stored."""
    read = read_candles(read_bytes(path), product_id, name=path.name, options=options)
    checked = check_candles(read.candles, last_finished_day=last_finished_day)
    _check_prices(path, read, checked, last_finished_day)
    return summarize(path.name, product_id, read, checked)


def _check_prices(
    path: Path, read: FileCandles, checked: Checked, last_finished_day: date, *, joins: bool = False
) -> None:
    """Refuse a file whose closes contradict each other on many days, or on all of its newest ones.

    So it is where some closes are of another unit, another coin or another column. Days that are not over
    are no contradiction. A file without a candle can only join a series.
    """
    last, jumps = str(last_finished_day), len(checked.decisions)
    wrong = checked.quarantined[checked.quarantined["day_utc"] <= last]
    days = read.candles["day_utc"].dt.strftime("%Y-%m-%d")
    days = days[days <= last]
    newest = days[~days.isin(wrong["day_utc"])].max() if len(wrong) < len(days) else ""
    many = len(wrong) + jumps > max(MAX_WRONG, MAX_UNREADABLE_SHARE * len(days))
    if len(wrong) and (many or (wrong["day_utc"] > newest).sum() > MAX_WRONG):
        raise BadFile(
            f"{path.name}: closes of one product are needed, but {len(wrong) + jumps} of {len(days)} days"
            f" cannot be or jump, the first because {wrong['reason'].iloc[0]}; say how to read them with"
            " --decimal, --dates, --symbol or --columns date=…,close=…"
        )
    if checked.accepted.empty and not joins:
        reasons = [*read.rejected["reason"], *checked.quarantined["reason"]]
        raise BadFile(
            f"{path.name} has no usable candle: {len(reasons)} rows were quarantined, the first"
            f" because: {reasons[0]}"
        )
