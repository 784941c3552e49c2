"""The published forecasts compared with their component forecasts, and the best baseline among these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from closecast.storage.core.errors import Damaged
from closecast.tasks.core.types import Floats
from closecast.tasks.evaluation.significance import diebold_mariano, is_enough, ratio
from closecast.tasks.profiles.baselines import baselines_of

Columns: TypeAlias = Mapping[str, Any]  # arrays, (days,), or the columns of a frame


@dataclass(frozen=True)
class ComponentComparison:
    """A component forecast on the same days: its mean CRPS, ours over it, and the Diebold-Mariano p value.

    The p value is None over fewer than 30 days, or ten times the horizon.
    """

    component: str
    days: int
    crps: float
    ratio: float | None
    p_value: float | None


def component_scores(scores: Columns | pd.DataFrame) -> pd.DataFrame:
    """The CRPS of each component forecast, from one horizon's rows of `scores`, oldest target day first.

    Returns:
        One column per component, NaN if a day has none; the index is `target_day`, datetime64[s].

    Raises:
        Damaged: a score has components without a CRPS each, as a changed file may read.
    """
    days = pd.Index(np.asarray(scores["target_day"], "datetime64[s]"), name="target_day")
    columns = dict[str, Floats]()
    pairs = zip(scores["component_names"], scores["component_crps"], strict=True)
    try:
        for place, (names, crps) in enumerate(pairs):
            for name, figure in () if names is None else zip(names, crps, strict=True):
                if name not in columns:
                    columns[name] = np.full(len(days), np.nan)
                columns[name][place] = figure
    except (TypeError, ValueError) as error:
        raise Damaged(
            "each component of a score needs a CRPS, and a stored score lacks some: `closecast verify` names"
            " the changed file; restore it from a backup"
        ) from error
    return pd.DataFrame(columns, index=days, dtype=np.float64).sort_index()


def compare_components(
    forecasts: Columns | pd.DataFrame, scores: pd.DataFrame, *, horizon: int = 1
) -> list[ComponentComparison]:
    """Our forecasts (`target_day`, `crps`) against each column of scores, on the days that both have."""
    ours, theirs = _by_day(forecasts, scores)
    return [_compare(ours, crps, name, horizon) for name, crps in theirs.items()]


def compare_best_baseline(
    forecasts: Columns | pd.DataFrame, scores: pd.DataFrame, *, horizon: int = 1
) -> ComponentComparison | None:
    """Our forecasts (`target_day`, `crps`) against `best_baseline`, on the days that every baseline has.

    `scores` are as `component_scores` gives them, of the same horizon. None if there is no such day.
    """
    ours, theirs = _by_day(forecasts, scores)
    known = {
        name: theirs[name]
        for name in baselines_of(horizon)
        if name in theirs and not np.isnan(theirs[name]).all()
    }
    complete = ~np.isnan(np.array([*known.values()])).any(axis=0)
    best = best_baseline({name: crps[complete] for name, crps in known.items()}, horizon=horizon)
    return _compare(ours[complete], known[best][complete], best, horizon) if best else None


def best_baseline(scores: Mapping[str, Floats], *, horizon: int = 1) -> str | None:
    """The horizon's baseline of the lowest mean CRPS, (days,) each; None without a baseline or a day.

    It is chosen after the fact, from the days that it is compared on, which favours it.
    """
    means = {
        name: scores[name].mean() for name in baselines_of(horizon) if name in scores and len(scores[name])
    }
    return min(means, key=lambda name: means[name]) if means else None


def _by_day(forecasts: Columns | pd.DataFrame, scores: pd.DataFrame) -> tuple[Floats, dict[str, Floats]]:
    """The CRPS of our forecasts that have one, oldest first, and of each component; NaN: it has none."""
    crps, days = np.asarray(forecasts["crps"], np.float64), np.asarray(forecasts["target_day"])
    known = np.flatnonzero(~np.isnan(crps))
    order = known[np.argsort(days[known], kind="stable")]
    theirs = scores.reindex(days[order]).to_numpy(np.float64)
    return crps[order], dict(zip(map(str, scores.columns), theirs.T, strict=True))


def _compare(ours: Floats, theirs: Floats, component: str, horizon: int) -> ComponentComparison:
    both = ~np.isnan(theirs)
    ours, theirs = ours[both], theirs[both]
    mean = float(theirs.mean())
    p_value = diebold_mariano(ours, theirs, horizon=horizon) if is_enough(len(ours), horizon) else None
    return ComponentComparison(component, len(ours), mean, ratio(float(ours.mean()), mean), p_value)
