"""The networks of a young product: trained on the windows of older ones, each over its own sigma."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from closecast.tasks.core.history import PriceHistory
from closecast.tasks.features.inputs import Columns, columns_of
from closecast.tasks.profiles.base import Histories
from closecast.tasks.profiles.baselines import pool_tails
from closecast.tasks.profiles.calibrated_settings import CalibratedSettings
from closecast.tasks.profiles.ensemble import Ensemble, TrainedEnsemble, fit_ensemble

# A product whose closes end so long before those of the others has no days to validate on.
MAX_LAG_DAYS = 30


def fit_pool_ensemble(
    history: PriceHistory, pool: Histories, settings: CalibratedSettings
) -> TrainedEnsemble:
    """Train every member on the pool, for as many epochs as its newest days found best.

    The first product of the pool that is still traded gives the validation days; on these, too, the members
    then train.

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
        searched.training,  # its losses: those of the second have no validation
        windows={f"pooled {first}": windows.pop("train"), **windows},
        not_pooled={**trained.training.not_pooled, **lacking},
    )
    return replace(trained, ensemble=replace(trained.ensemble, tails=tails), training=training)


def shown_candles(ensemble: Ensemble, candles: pd.DataFrame) -> pd.DataFrame:
    """The candles as the ensemble is shown them: networks of the pool without ranges know closes alone."""
    return _shown(candles, ensemble.columns) if ensemble.tails else candles


def _shown(candles: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    # A sigma from ranges and one from closes differ in what they are of a return.
    return candles if columns.ranges else candles.assign(**dict.fromkeys(("open", "high", "low"), np.nan))


def _columns(
    history: PriceHistory, pool: Histories, settings: CalibratedSettings
) -> tuple[Columns, dict[str, PriceHistory], dict[str, str]]:
    """The columns of the product's own candles, the pool's products that have them, what the others lack.

    Where no product has them, the columns that all have in common.
    """
    own = columns_of(history.candles, share=settings.column_share)
    theirs = {name: columns_of(one.candles, share=settings.column_share) for name, one in pool.items()}
    lacking = {
        name: f"has no {' and no '.join(own.lacking(columns))}"
        for name, columns in theirs.items()
        if own.lacking(columns)
    }
    if len(lacking) < len(pool):
        return own, {name: one for name, one in pool.items() if name not in lacking}, lacking
    every = own, *theirs.values()
    return Columns(all(one.ranges for one in every), all(one.volume for one in every)), dict(pool), {}
