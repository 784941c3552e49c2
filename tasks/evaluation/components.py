"""The published forecasts against the component forecasts beside them, and the best baseline among these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.core.types import Floats
from tasks.evaluation.significance import MIN_DAYS, diebold_mariano, ratio
from tasks.profiles.baselines import BASELINES


@dataclass(frozen=True)
class ComponentComparison:
    """A component forecast on the same days: its mean CRPS, ours over it, and the Diebold-Mariano p value.

    The p value is None over fewer than 30 days.
    """

    component: str
    days: int
    crps: float
    ratio: float | None
    p_value: float | None


def component_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The CRPS of each component forecast from a row a target day of the table `scores`, oldest first.

    Returns:
        A column a component, NaN where a day has none; the index is `target_day`, datetime64[s].
    """
    pairs = zip(scores["component_names"], scores["component_crps"], strict=True)
    rows = [{} if names is None else dict(zip(names, crps, strict=True)) for names, crps in pairs]
    days = pd.Index(scores["target_day"].astype("datetime64[s]"), name="target_day")
    return pd.DataFrame(rows, index=days, dtype=np.float64).sort_index()


def compare_components(forecasts: pd.DataFrame, scores: pd.DataFrame) -> list[ComponentComparison]:
    """Our forecasts (`target_day`, `crps`) against each column of scores, on the days that both have."""
    return [_compare(forecasts, scores[[name]], str(name)) for name in scores.columns]


def compare_best_baseline(forecasts: pd.DataFrame, scores: pd.DataFrame) -> ComponentComparison | None:
    """Our forecasts (`target_day`, `crps`) against `best_baseline`, on the days that every baseline has.

    `scores` are as `component_scores` gives them. None where there is no such day.
    """
    scores = scores[scores.index.isin(forecasts.dropna(subset="crps")["target_day"])]
    known = [name for name in BASELINES if name in scores and scores[name].notna().any()]
    baselines = scores[known].dropna()
    best = best_baseline({name: baselines[name].to_numpy(np.float64) for name in known})
    return _compare(forecasts, baselines[[best]], best) if best else None


def best_baseline(scores: Mapping[str, Floats]) -> str | None:
    """The baseline of the lowest mean CRPS, (days,) each; None without a baseline or a day.

    It is chosen after the fact, from the very days that it is compared on: the bar is against us.
    """
    means = {name: scores[name].mean() for name in BASELINES if name in scores and len(scores[name])}
    return min(means, key=lambda name: means[name]) if means else None


def _compare(forecasts: pd.DataFrame, scores: pd.DataFrame, component: str) -> ComponentComparison:
    both = forecasts.set_index("target_day")[["crps"]].join(scores, how="inner").dropna().sort_index()
    ours, theirs = both.to_numpy(np.float64).T
    mean = float(theirs.mean())
    p_value = diebold_mariano(ours, theirs) if len(both) >= MIN_DAYS else None
    return ComponentComparison(component, len(both), mean, ratio(float(ours.mean()), mean), p_value)
