"""Forecasts scored by hand, between the runs that score them daily."""

from __future__ import annotations

from datetime import datetime

from flows import clock
from flows.reporting import write_reports
from flows.settings import Article, Profile
from storage.core.errors import BadInput
from storage.core.home import Home
from storage.locks.bucket_owner import prepare_home
from storage.locks.locks import product_lock
from storage.prices.price_store import Prices
from tasks.evaluation.scoreboard import Scoreboard
from tasks.evaluation.scoring import board_of, score_and_track
from tasks.prices.series import source_of


def score_forecasts(home: Home, product_id: str, recipe: Profile) -> Scoreboard:
    """Score the forecasts whose day is among the stored closes, and read the scoreboard.

    The product's pages are written anew when anything was scored. Nothing is fetched: `closecast run` or
    `import` brings closes.

    Raises:
        BadInput: the home knows no such product.
    """
    moment = clock.now()
    prepare_home(home)
    if source_of(home, product_id) is None:
        raise BadInput(
            f"{product_id} has no closes in {home.root}, so no forecast: make one with"
            f" `closecast run --product {product_id}`"
        )
    with product_lock(home, product_id):
        if score_stored(home, product_id, recipe, moment):
            write_reports(home, product_id)
    return board_of(home, product_id, recipe.name)


def score_stored(home: Home, product_id: str, recipe: Profile, moment: datetime) -> int:
    """Score, with the product's lock held, what the stored closes tell of; how many scores are new."""
    with Prices(home) as prices:
        last = prices.last_day(product_id)
        version = prices.data_version(product_id, last, created_at=moment) if last else None
    if version is None:
        return 0
    settings = None if isinstance(recipe, Article) else recipe.model_dump(mode="json")
    return score_and_track(home, product_id, data_version=version, settings=settings, moment=moment)
