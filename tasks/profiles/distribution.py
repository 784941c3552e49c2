"""What is said of the days after some origins, before the tracker: the ensemble's word and the baselines'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.calibration.quantile_tracker import mix, track
from tasks.core.quantiles import LEVELS
from tasks.core.types import Floats
from tasks.features.inputs import make_inputs, usable_rows
from tasks.profiles.baselines import BASELINES, MIN_RETURNS, baseline_quantiles
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.ensemble import Ensemble, Trained, ensemble_quantiles

MIXED_WITH = "har_t"


@dataclass(frozen=True)
class Said:
    """Quantiles of the log return after each origin, (rows, 23), and each origin's scale `s`, (rows,).

    `mixed` is what the tracker starts from: the ensemble's own and HAR's in the recipe's shares.
    """

    own: Floats
    baselines: Mapping[str, Floats]
    mixed: Floats
    scales: Floats

    def as_json(self) -> dict[str, Any]:
        """Plain lists, from which `from_json` makes the same bits."""
        baselines = {method: quantiles.tolist() for method, quantiles in self.baselines.items()}
        arrays = {name: getattr(self, name).tolist() for name in ("own", "mixed", "scales")}
        return {**arrays, "baselines": baselines}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Said:
        """The inverse of `as_json`."""
        baselines = {method: np.array(quantiles) for method, quantiles in plain["baselines"].items()}
        own, mixed, scales = (np.array(plain[name]) for name in ("own", "mixed", "scales"))
        return cls(own, baselines, mixed, scales)


def say(
    ensemble: Ensemble,
    candles: pd.DataFrame,
    rows: NDArray[np.int64],
    recipe: Recipe,
    *,
    methods: Sequence[str] = BASELINES,
) -> Said:
    """Forecast from each origin row, all of which must be usable.

    Args:
        ensemble: the champion.
        candles: a candle frame; of an origin's forecast, only its row and those before count.
        rows: of the origins.
        recipe: as it was trained.
        methods: the baselines that are wanted; what the recipe mixes in must be among them.

    Raises:
        NotEnoughHistory: a baseline lacks the returns it needs.
    """
    inputs = make_inputs(candles, recipe.input_settings, ensemble.columns)
    own = ensemble_quantiles(ensemble, inputs, rows, recipe)
    baselines = baseline_quantiles(candles, rows, components=methods) if len(rows) and methods else {}
    mixed = own
    if recipe.har_share and len(rows):
        mixed = mix(own, baselines[MIXED_WITH], share=recipe.har_share)
    return Said(own, baselines, mixed, inputs.sigma[rows])


def first_quantile_offsets(trained: Trained, candles: pd.DataFrame, recipe: Recipe) -> Floats:
    """The tracker's state before its first forecast, (23,): followed through the days not learned from.

    Args:
        trained: just refitted.
        candles: those it was fitted on.
        recipe: how.
    """
    ensemble = trained.ensemble
    inputs = make_inputs(candles, recipe.input_settings, ensemble.columns)
    rows = usable_rows(inputs, lookback=recipe.lookback)
    rows = rows[(inputs.days[rows] >= np.datetime64(trained.fitted_through)) & (rows < len(candles) - 1)]
    known = np.cumsum(np.isfinite(inputs.returns))
    needed = MIN_RETURNS if recipe.har_share else 0
    rows = rows[np.isfinite(inputs.targets[rows]) & (known[rows] >= needed)]
    zero = np.zeros(len(LEVELS))
    if not len(rows):
        return zero
    said = say(ensemble, candles, rows, recipe, methods=(MIXED_WITH,) if recipe.har_share else ())
    closes = candles["close"].to_numpy(dtype=np.float64)
    _, quantile_offsets = track(
        said.mixed, said.scales, closes[rows], closes[rows + 1], zero, step=recipe.tracker_step
    )
    return quantile_offsets
