"""The scores of the published forecasts by span, and whether their intervals still hold."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from storage.core.errors import BadInput
from storage.core.intervals import COVERED, INTERVALS
from tasks.core.formatting import (
    UNKNOWN,
    format_figure,
    format_p_value,
    format_price,
    format_share,
    markdown_table,
)
from tasks.core.metrics import mean_absolute_error, root_mean_squared_error
from tasks.core.types import Floats
from tasks.evaluation.components import ComponentComparison, compare_best_baseline, component_scores
from tasks.evaluation.significance import CONFIDENCE

SPANS = (30, 90, 365, None)
FIGURES = ("error", "naive_error", "crps", "naive_crps")
# The columns of the table `scores` that a scoreboard is made from.
COLUMNS = ("target_day", *FIGURES, *COVERED, "component_names", "component_crps")

ALARM_DAYS = 180
# The 1st to 99th percentile of the coverage of a good model over that many days.
HEALTHY = {80: (0.73, 0.85), 95: (0.92, 0.98)}


@dataclass(frozen=True)
class Proportion:
    """A share of `days` and its 95 % interval by Clopper and Pearson."""

    days: int
    share: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Span:
    """The forecasts of the last `days` days, of all when None; None stands where a figure is undefined.

    `coverage` is by percent of the interval. Ratios are to the naive forecast, the last close: of mean CRPS,
    of RMSE and of MAE; errors are in the quote currency. `best_baseline` had the lowest mean CRPS on these
    days.
    """

    days: int | None
    forecasts: int
    crps_ratio: float | None
    best_baseline: ComponentComparison | None
    coverage: dict[int, Proportion | None]
    rmse: float | None
    rmse_ratio: float | None
    mae: float | None
    mae_ratio: float | None


@dataclass(frozen=True)
class Scoreboard:
    """Spans that end on the day `last`, the alarms that are on, and why there can be none, if so."""

    last: date | None
    spans: tuple[Span, ...]
    alarms: tuple[str, ...]
    no_alarm: str | None

    @property
    def all_days(self) -> Span:
        """The span of all forecasts."""
        return self.spans[-1]


def scoreboard(rows: pd.DataFrame) -> Scoreboard:
    """The scoreboard of one product and profile, up to the newest target day.

    Args:
        rows: a row a target day, in any order, with the columns `COLUMNS`; CRPS, coverage and components are
            null for a point without intervals.

    Raises:
        BadInput: two rows of one target day.
    """
    types = (
        {"target_day": "datetime64[s]"}
        | dict.fromkeys(FIGURES, "float64")
        | dict.fromkeys(COVERED, "boolean")
    )
    rows = rows[list(COLUMNS)].astype(types).sort_values("target_day", ignore_index=True)
    days = rows["target_day"]
    if days.duplicated().any():
        twice = days[days.duplicated()].iloc[0].date()
        raise BadInput(f"a scoreboard needs one row a target day, got more of {twice}: leave revisions out")
    alarms, no_alarm = _alarms(rows)
    last = days.iloc[-1].date() if len(rows) else None
    scores = component_scores(rows)
    return Scoreboard(last, tuple(_span(rows, scores, span) for span in SPANS), alarms, no_alarm)


@functools.cache
def proportion(hits: int, days: int) -> Proportion:
    """The share of hits in one day or more, with its exact 95 % interval by Clopper and Pearson (1934).

    From the terms of the binomial distribution: loading SciPy takes longer.
    """
    counts = np.arange(days + 1)
    factorials = np.cumsum(np.log(np.maximum(counts, 1)))  # their logarithms
    chances = factorials[-1] - factorials - factorials[::-1]  # log of the ways to get so many hits

    def at_most(most: int, share: float) -> float:
        some = counts[: most + 1]
        terms = chances[: most + 1] + some * np.log(share) + (days - some) * np.log1p(-share)
        return float(np.exp(terms).sum())

    def share_where(most: int, probability: float) -> float:
        low, high = 0.0, 1.0
        while low < (share := (low + high) / 2) < high:  # until no figure lies between them
            low, high = (share, high) if at_most(most, share) > probability else (low, share)
        return share

    tail = (1 - CONFIDENCE) / 2
    low = share_where(hits - 1, 1 - tail) if hits else 0.0
    high = share_where(hits, tail) if hits < days else 1.0
    return Proportion(days, hits / days, low, high)


def _span(rows: pd.DataFrame, scores: pd.DataFrame, days: int | None) -> Span:
    if days is not None:
        rows = rows[rows["target_day"] > rows["target_day"].max() - pd.Timedelta(days, unit="D")]
    rmse, rmse_ratio = _with_ratio(root_mean_squared_error, rows[["error", "naive_error"]])
    mae, mae_ratio = _with_ratio(mean_absolute_error, rows[["error", "naive_error"]])
    _, crps_ratio = _with_ratio(mean_absolute_error, rows[["crps", "naive_crps"]])  # no score is below zero
    coverage = {percent: _coverage(rows[f"covered_{percent}"].dropna()) for percent in INTERVALS}
    best = compare_best_baseline(rows, scores)
    return Span(days, len(rows), crps_ratio, best, coverage, rmse, rmse_ratio, mae, mae_ratio)


def _with_ratio(
    measure: Callable[[Floats, Floats], float], pairs: pd.DataFrame
) -> tuple[float | None, float | None]:
    """The measure of our errors and its ratio to that of the naive ones beside them."""
    errors = pairs.dropna().to_numpy()
    if not len(errors):
        return None, None
    ours, naive = (measure(column, np.zeros(len(errors))) for column in errors.T)
    return ours, ours / naive if naive > 0 else None


def _coverage(covered: pd.Series[bool]) -> Proportion | None:
    return proportion(int(covered.sum()), len(covered)) if len(covered) else None


def _alarms(rows: pd.DataFrame) -> tuple[tuple[str, ...], str | None]:
    """The alarms over the newest 180 days with a coverage, or why there can be none."""
    scored = rows.dropna(subset=[f"covered_{percent}" for percent in HEALTHY]).tail(ALARM_DAYS)
    if len(rows) and scored.empty:
        return (), "no alarm is possible: these forecasts have no intervals"
    if len(scored) < ALARM_DAYS:
        return (), f"no alarm is possible yet, {len(scored)} of {ALARM_DAYS} days"
    alarms = []
    for percent, (low, high) in HEALTHY.items():
        coverage = int(scored[f"covered_{percent}"].sum()) / ALARM_DAYS
        if not low <= coverage <= high:
            alarms.append(
                f"the {percent} % interval covered {format_share(coverage)} of the last {ALARM_DAYS} closes,"
                f" a good model covers {100 * low:.0f} to {100 * high:.0f} %: refit, or look at the data"
            )
    return tuple(alarms), None


def table(board: Scoreboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, a row a span."""
    intervals = [f"{percent} % covered" for percent in INTERVALS]
    errors = ["RMSE", "RMSE / naive", "MAE", "MAE / naive"]
    header = ["last", "forecasts", "CRPS / naive", "CRPS / best baseline", *intervals, *errors]
    return header, [
        [
            "all" if span.days is None else f"{span.days} days",
            f"{span.forecasts:,}",
            format_figure(span.crps_ratio, ".4f"),
            _format_best(span.best_baseline),
            *(_format_coverage(span.coverage[percent]) for percent in INTERVALS),
            format_price(span.rmse),
            format_figure(span.rmse_ratio, ".4f"),
            format_price(span.mae),
            format_figure(span.mae_ratio, ".4f"),
        ]
        for span in board.spans
    ]


def markdown(board: Scoreboard) -> str:
    """The table, and below it each alarm, or why there can be none."""
    alarms = [f"**Alarm:** {alarm}" for alarm in board.alarms]
    notes = alarms or [board.no_alarm or "No alarm."]
    return "\n\n".join([markdown_table(*table(board)), *notes]) + "\n"


def _format_best(best: ComponentComparison | None) -> str:
    if best is None:
        return UNKNOWN
    return f"{format_figure(best.ratio, '.4f')} ({best.component}, p {format_p_value(best.p_value)})"


def _format_coverage(coverage: Proportion | None) -> str:
    if coverage is None:
        return UNKNOWN
    return f"{format_share(coverage.share)} ({100 * coverage.lower:.1f} to {100 * coverage.upper:.1f})"
