"""What a person does between the runs: plain functions that the command line calls.

Each function imports what it needs, so that importing this module does not load the report's libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from closecast.flows import clock
from closecast.storage.core.errors import BadInput, BadSetting, Damaged
from closecast.storage.core.home import Home
from closecast.storage.locks.bucket_owner import prepare_home
from closecast.storage.locks.locks import product_lock

if TYPE_CHECKING:
    from closecast.storage.prices.decisions import Decision
    from closecast.storage.upkeep.compaction import Compaction
    from closecast.tasks.evaluation.scoreboard import Scoreboard
    from closecast.tasks.prices.file_table import FileOptions
    from closecast.tasks.prices.ingest import IngestedPrices
    from closecast.tasks.prices.quarantine import Choice, DayStatus
    from closecast.tasks.profiles.base import Profile
    from closecast.tasks.upkeep.pruning import UnusedItem


def import_file(
    home: Home,
    product_id: str,
    path: Path,
    *,
    replace_source: bool = False,
    options: FileOptions | None = None,
) -> IngestedPrices:
    """Append a file's candles to the product's series, all of them or none; errors as `ingest_file`."""
    from closecast.storage.prices.price_store import Prices
    from closecast.tasks.prices.file_reader import DEFAULTS
    from closecast.tasks.prices.ingest import IngestRequest
    from closecast.tasks.prices.ingest_file import ingest_file

    moment = clock.now()
    last = clock.last_complete_day(moment)
    request = IngestRequest(product_id, None, moment, last, replace_source=replace_source)
    with product_lock(home, product_id), Prices(home) as prices:
        return ingest_file(prices, request, source="csv", path=path, options=options or DEFAULTS)


def list_quarantine(home: Home, product_id: str | None) -> list[DayStatus]:
    """The quarantined and the decided days of a product, or of all."""
    from closecast.storage.prices.engine import has_prices
    from closecast.storage.prices.price_store import Prices
    from closecast.tasks.prices.quarantine import list_days

    if not has_prices(home):
        return []
    with Prices(home) as prices:
        products = prices.products() if product_id is None else [product_id]
        return [one for product in products for one in list_days(prices, product)]


def decide_day(home: Home, product_id: str, choice: Choice) -> Decision | None:
    """Record what a person decided about a day, and write the product's pages again.

    None if that was already decided. Errors are those of `decide`.
    """
    from closecast.storage.prices.price_store import Prices
    from closecast.storage.tables.predictions import Predictions
    from closecast.tasks.prices.quarantine import decide

    prepare_home(home)
    with product_lock(home, product_id), Prices(home) as prices:
        origins = Predictions(home).between(product_id, columns=["origin_day"])["origin_day"].to_pylist()
        last = max(origins, default=None)
        decision = decide(prices, product_id, choice, last_forecast=last, moment=clock.now())
    if decision and origins:
        write_reports(home, product_id)
    return decision


def score_forecasts(
    home: Home, product_id: str, profile: str, load_profile: Callable[[], Profile], horizon: int = 1
) -> Scoreboard:
    """Score the forecasts whose target day is among the stored closes, and read the scoreboard.

    The product's pages are written again when anything was scored. Nothing is fetched. The profile is loaded
    only if a forecast is due. `BadSetting` for a horizon that it does not have, nor a scored forecast.
    """
    from closecast.tasks.evaluation.scoring import due_forecasts, read_scoreboard, score_due, stored_history
    from closecast.tasks.prices.ingest import IngestRequest

    moment = clock.now()
    prepare_home(home)
    with product_lock(home, product_id):
        request = IngestRequest(product_id, None, moment, clock.last_complete_day(moment))
        history = stored_history(home, request)
        due = due_forecasts(home, history) if history else []
        if history and due and score_due(home, history, load_profile(), moment, due):
            write_reports(home, product_id)
    splits = history.splits_in_force if history else ()
    board = read_scoreboard(home, product_id, profile, splits, horizon=horizon)
    scored = {one.horizon for one in (*board.horizons, *board.fallbacks)}
    if horizon not in {1, *scored}:
        require_horizon(load_profile(), horizon, *scored)
    return board


def require_horizon(profile: Profile, horizon: int, *stored: int) -> None:
    """Raise `BadSetting` for a horizon that the profile has neither now nor, stored, by other settings."""
    known = sorted({*profile.horizons, *stored})
    if horizon not in known:
        raise BadSetting(
            f"profile {profile.name} has no horizon {horizon}, only {', '.join(map(str, known))}"
        )


def write_reports(home: Home, product_id: str | None = None, profile: str | None = None) -> Path:
    """Write the page of every (or the named) product and profile with a forecast, and the index.

    Returns the path of the page, or of the index if there are several.

    Raises:
        BadInput: there is no such forecast.
        Damaged: what a page would show is not what was recorded; the other pages are written.
    """
    from closecast.storage.reports import Reports
    from closecast.tasks.report.context import products_with_forecasts
    from closecast.tasks.report.page import write_report

    pairs = [
        (product, name)
        for product, name in products_with_forecasts(home)
        if product_id in (None, product) and profile in (None, name)
    ]
    if not pairs:
        whose = f" of {product_id}" if product_id else ""
        how = f" by profile {profile}" if profile else ""
        options = f" --product {product_id}" if product_id else ""
        options += f" --profile {profile}" if profile else ""
        raise BadInput(
            f"a report needs a forecast, and {home.root} has none{whose}{how}: make one with"
            f" `closecast run{options}`"
        )
    prepare_home(home)
    day, reasons = clock.now().date(), list[str]()
    if len(pairs) == 1:
        return write_report(home, *pairs[0], day=day)
    for product, name in pairs:
        try:
            write_report(home, product, name, day=day)
        except Damaged as error:  # the other pages may be whole
            reasons.append(f"{product} by {name}: {error}")
    if reasons:
        listed = "; ".join(reasons)
        raise Damaged(f"{len(reasons)} of {len(pairs)} pages are not written, all others are: {listed}")
    return Reports(home).index


def roll_back(home: Home, product_id: str, profile: Profile, to: str | None) -> tuple[str, str]:
    """Roll the product's champion back; returns the version numbers before and after."""
    from closecast.tasks.training.rollback import roll_back_champion

    if not profile.policy.refit_every_days:
        raise BadSetting(
            f"profile {profile.name} is trained again on all data at each run: it cannot be rolled back"
        )
    with product_lock(home, product_id):
        return roll_back_champion(home, product_id, profile.name, to)


def maintain_home(home: Home, *, prune: bool, dry_run: bool) -> tuple[list[Compaction], list[UnusedItem]]:
    """Compact the tables and prune, or only plan it: what is compacted in each table, what is deleted."""
    from closecast.tasks.upkeep.pruning import compact_tables, prune_home

    tables = compact_tables(prepare_home(home), dry_run=dry_run)
    return tables, prune_home(home, moment=clock.now(), dry_run=dry_run) if prune else []
