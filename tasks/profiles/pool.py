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

# A product is still traded if its closes end at most so many days before the newest of the pool.
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
    columns, able, lacking = _columns(history, pool, settings)
    shown = {name: replace(one, candles=_shown(one.candles, columns)) for name, one in able.items()}
    through = max(one.origin for one in shown.values())
    first = next(name for name, one in shown.items() if (through - one.origin).days <= MAX_LAG_DAYS)
    others = {name: one for name, one in shown.items() if name != first}
    arguments = shown[first], others, settings, through
    searched = fit_ensemble(*arguments, columns=columns)
    trained = fit_ensemble(*arguments, searched.training.best_epoch, columns=columns)
    tails = pool_tails([one.candles for one in shown.values()], settings.horizons)
    windows = dict(trained.training.windows)
    training = replace(
        searched.training,  # with its losses: the second training has no validation
        windows={f"pooled {first}": windows.pop("train"), **windows},
        not_pooled={**trained.training.not_pooled, **lacking},
    )
    return replace(trained, ensemble=replace(trained.ensemble, tails=tails), training=training)


def shown_candles(ensemble: Ensemble, candles: pd.DataFrame) -> pd.DataFrame:
    """The candles that the ensemble uses: closes alone if the networks of a pool use no ranges."""
    return _shown(candles, ensemble.columns) if ensemble.tails else candles


def _shown(candles: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    # The ratio of a sigma from ranges to one from closes differs from market to market.
    return candles if columns.ranges else candles.assign(**dict.fromkeys(("open", "high", "low"), np.nan))


def _columns(
    history: PriceHistory, pool: Histories, settings: CalibratedSettings
) -> tuple[Columns, dict[str, PriceHistory], dict[str, str]]:
    """The columns of the inputs, the pool's products that have them, and what the others lack.

    These are the columns of the product's own candles or, if no product has these, those that all have.
    """
    own = columns_of(history.candles, share=settings.column_share)
    lacking = {name: reason for name, one in pool.items() if (reason := lacking_columns(own, one, settings))}
    if len(lacking) < len(pool):
        return own, {name: one for name, one in pool.items() if name not in lacking}, lacking
    every = [own, *(columns_of(one.candles, share=settings.column_share) for one in pool.values())]
    return Columns(all(one.ranges for one in every), all(one.volume for one in every)), dict(pool), {}
