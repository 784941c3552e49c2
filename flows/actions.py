"""What a person does between the runs: plain functions that the command line calls.

Each loads what it needs itself, so that an import does not wait for the report's libraries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows import clock
from storage.core.errors import BadInput, BadSetting
from storage.core.home import Home
from storage.locks.bucket_owner import prepare_home
from storage.locks.locks import product_lock
from storage.prices.price_store import Prices
from tasks.prices.csv_reader import OnDuplicate
from tasks.prices.ingest import IngestedPrices, IngestRequest, source_of
from tasks.prices.ingest_csv import ingest_file

if TYPE_CHECKING:
    from storage.upkeep.compaction import Compaction
    from tasks.evaluation.scoreboard import Scoreboard
    from tasks.profiles.base import Profile
    from tasks.upkeep.pruning import UnusedItem


@dataclass(frozen=True)
class Upkeep:
    """The compaction of each table, and what was pruned, or would be."""

    tables: tuple[Compaction, ...]
    pruned: tuple[UnusedItem, ...]


def import_file(
    home: Home,
    product_id: str,
    path: Path,
    *,
    on_duplicate: OnDuplicate = "refuse",
    replace_source: bool = False,
) -> IngestedPrices:
    """Append a CSV file's candles to the product's series, all of them or none.

    Raises:
        ClosecastError: as `ingest_file`.
    """
    moment = clock.now()
    request = IngestRequest(
        product_id,
        None,
        moment,
        clock.last_complete_day(moment),
        on_duplicate=on_duplicate,
        replace_source=replace_source,
    )
    with product_lock(home, product_id), Prices(home) as prices:
        return ingest_file(prices, request, source="csv", path=path)


def score_forecasts(home: Home, product_id: str, profile: Profile, horizon: int = 1) -> Scoreboard:
    """Score the forecasts whose target day is among the stored closes, and read the scoreboard.

    The product's pages are written again when anything was scored. Nothing is fetched.

    Raises:
        BadInput: the product has no closes.
        BadSetting: the profile has no such horizon, and no scored forecast either.
    """
    from tasks.evaluation.scoring import read_scoreboard, score_stored

    moment = clock.now()
    prepare_home(home)
    if source_of(home, product_id) is None:
        raise BadInput(
            f"{product_id} has no closes in {home.root}, so no forecast: make one with"
            f" `closecast run --product {product_id}`"
        )
    with product_lock(home, product_id):
        request = IngestRequest(product_id, None, moment, clock.last_complete_day(moment))
        if score_stored(home, request, profile):
            write_reports(home, product_id)
    board = read_scoreboard(home, product_id, profile.name, horizon=horizon)
    require_horizon(profile, horizon, *(one.horizon for one in board.horizons))
    return board


def require_horizon(profile: Profile, horizon: int, *stored: int) -> None:
    """Require a horizon that the profile has, or that it had with other settings.

    Raises:
        BadSetting: it is none of these.
    """
    known = sorted({*profile.horizons, *stored})
    if horizon not in known:
        raise BadSetting(
            f"profile {profile.name} has no horizon {horizon}, only {', '.join(map(str, known))}"
        )


def write_reports(home: Home, product_id: str | None = None, profile: str | None = None) -> Path:
    """Write the page of every product and profile with a forecast, or of those named, and the index.

    Returns the path of the page, or of the index where there is more than one.
    """
    from storage.reports import Reports
    from tasks.report.context import products_with_forecasts
    from tasks.report.page import write_report

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
    paths = [write_report(home, product, name, day=clock.now().date()) for product, name in pairs]
    return paths[0] if len(paths) == 1 else Reports(home).index


def roll_back(home: Home, product_id: str, profile: Profile, to: str | None) -> tuple[str, str]:
    """Move the product's champion back; the numbers of the version before and after."""
    from tasks.training.rollback import roll_back_champion

    if not profile.policy.refit_every_days:
        raise BadSetting(
            f"profile {profile.name} is trained again on all data at each run: it cannot be rolled back"
        )
    with product_lock(home, product_id):
        return roll_back_champion(home, product_id, profile.name, to)


def maintain_home(home: Home, *, prune: bool, dry_run: bool) -> Upkeep:
    """Compact the tables and prune, or list what that would do."""
    from tasks.upkeep.pruning import compact_tables, prune_home

    tables = compact_tables(prepare_home(home), dry_run=dry_run)
    pruned = prune_home(home, moment=clock.now(), dry_run=dry_run) if prune else []
    return Upkeep(tuple(tables), tuple(pruned))
