"""The networks of a young product, trained on the windows of older ones, each in its own sigma."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from closecast.tasks.core.history import PriceHistory
from closecast.tasks.features.inputs import Columns, columns_of
from closecast.tasks.profiles.base import Histories
from closecast.tasks.profiles.baselines import pool_tails
from closecast.tasks.profiles.calibrated_settings import CalibratedSettings
from closecast.tasks.profiles.ensemble import Ensemble, TrainedEnsemble, fit_ensemble, lacking_columns

# A product that ends further behind the newest close of the pool is no longer traded.
MAX_LAG_DAYS = 30


def fit_pool_ensemble(
    history: PriceHistory, pool: Histories, settings: CalibratedSettings
) -> TrainedEnsemble:
    """Train every member on the pool twice: first to find the best epoch, then on all days up to that epoch.

    In the first training the newest days of the first product that is still traded validate.

    Raises:
        NotEnoughHistory: that product has too few windows.
        BadSetting: the losses are not finite with these settings.
    """
    columns, pool, lacking = _columns(history, pool, settings)
    pool = {
        name: replace(other, candles=_without_unused(other.candles, columns)) for name, other in pool.items()
    }
    through = max(other.origin for other in pool.values())
    first = next(name for name, other in pool.items() if (through - other.origin).days <= MAX_LAG_DAYS)
    others = {name: other for name, other in pool.items() if name != first}
    arguments = pool[first], others, settings, through
    searched = fit_ensemble(*arguments, columns=columns)
    trained = fit_ensemble(*arguments, searched.training.best_epoch, columns=columns)
    tails = pool_tails([other.candles for other in pool.values()], settings.horizons)
    windows = dict(trained.training.windows)
    training = replace(
        searched.training,  # with its losses: the second training has no validation
        windows={f"pooled {first}": windows.pop("train"), **windows},
        not_pooled={**trained.training.not_pooled, **lacking},
    )
    return replace(trained, ensemble=replace(trained.ensemble, tails=tails), training=training)


def input_candles(ensemble: Ensemble, candles: pd.DataFrame) -> pd.DataFrame:
    """The candles for the ensemble's inputs: without ranges if networks of a pool do not use them."""
    return _without_unused(candles, ensemble.columns) if ensemble.tails else candles


def _without_unused(candles: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    # The ratio of a sigma from ranges to one from closes differs from market to market.
    return candles if columns.ranges else candles.assign(**dict.fromkeys(("open", "high", "low"), np.nan))


def _columns(
    history: PriceHistory, pool: Histories, settings: CalibratedSettings
) -> tuple[Columns, dict[str, PriceHistory], dict[str, str]]:
    """The columns of the inputs, the pool's products that have them, and what the others lack.

    These are the columns of the product's own candles or, if no product has these, those that all have.
    """
    own = columns_of(history.candles, share=settings.column_share)
    lacking = {
        name: reason for name, other in pool.items() if (reason := lacking_columns(own, other, settings))
    }
    if len(lacking) < len(pool):
        return own, {name: other for name, other in pool.items() if name not in lacking}, lacking
    every = [own, *(columns_of(other.candles, share=settings.column_share) for other in pool.values())]
    common = Columns(all(columns.ranges for columns in every), all(columns.volume for columns in every))
    return common, dict(pool), {}
