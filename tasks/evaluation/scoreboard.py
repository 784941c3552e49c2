"""The scores of the published forecasts by span and by horizon, and the coverage alarms."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from closecast.storage.core.errors import BadInput
from closecast.storage.core.intervals import COVERED, INTERVALS
from closecast.storage.prices.decisions import Splits, factors_to_last_day
from closecast.storage.tables.views import SPANS
from closecast.tasks.core.formatting import (
    UNKNOWN,
    format_figure,
    format_p_value,
    format_price,
    format_share,
    markdown_table,
)
from closecast.tasks.core.metrics import mean_absolute_error, root_mean_squared_error
from closecast.tasks.core.quantiles import INTERVAL_INDEXES, LEVELS
from closecast.tasks.core.types import Floats
from closecast.tasks.evaluation.binomial import binomial_at_most
from closecast.tasks.evaluation.components import (
    Columns,
    ComponentComparison,
    compare_best_baseline,
    component_scores,
)
from closecast.tasks.evaluation.significance import CONFIDENCE

ERRORS = ["error", "naive_error"]
FIGURES = (*ERRORS, "crps", "naive_crps")
# The columns that a scoreboard is made from: those of the table `scores`, and one of the forecasts.
SCORE_COLUMNS = ("target_day", "horizon", *FIGURES, *COVERED, "pit", "component_names", "component_crps")
COLUMNS = (*SCORE_COLUMNS, "basis")

ALARM_DAYS = 180
# The 1st to 99th percentile of the coverage of a good model over that many next days.
HEALTHY = {80: (0.73, 0.85), 95: (0.92, 0.98)}


@dataclass(frozen=True)
class Proportion:
    """A share of `days` and its 95 % interval; see `proportion`."""

    days: int
    share: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Span:
    """The forecasts of the last `days` days, of all days for None; undefined figures are None.

    `coverage` is by percent of the interval. Ratios are to the naive forecast, the last close: of mean CRPS,
    of RMSE and of MAE; errors are in the quote currency, across a split in the units of the last day.
    `best_baseline` had the lowest mean CRPS on these days.
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
class HorizonScore:
    """All forecasts of one horizon; the fields are as those of a `Span`, with the coverage of 90 %, too."""

    horizon: int
    forecasts: int
    crps_ratio: float | None
    best_baseline: ComponentComparison | None
    coverage: dict[int, Proportion | None]


@dataclass(frozen=True)
class Scoreboard:
    """Spans of one horizon that end on the day `last`, and a `HorizonScore` for each horizon.

    These are of the forecasts by models; `fallbacks` have a `HorizonScore` for each horizon of the others.
    `alarms` are the active ones; `no_alarm` says why there can be none, or is None.
    """

    last: date | None
    spans: tuple[Span, ...]
    alarms: tuple[str, ...]
    no_alarm: str | None
    horizon: int
    horizons: tuple[HorizonScore, ...]
    fallbacks: tuple[HorizonScore, ...]

    @property
    def all_days(self) -> Span:
        """The span of all forecasts."""
        return self.spans[-1]

    def of(self, horizon: int, *, fallback: bool) -> HorizonScore | None:
        """The forecasts of one horizon by models, or the fallbacks; None if none was scored."""
        scores = self.fallbacks if fallback else self.horizons
        return next((one for one in scores if one.horizon == horizon), None)


def scoreboard(rows: pd.DataFrame, splits: Splits = (), *, horizon: int = 1) -> Scoreboard:
    """The scoreboard of one product and profile, up to the newest target day.

    Args:
        rows: one row per target day and horizon, in any order, with the columns `COLUMNS`; CRPS, coverage,
            PIT and components are null for a point without intervals. Errors are in the units of the origin.
        splits: of the product: errors from before a split are rescaled to the units after it.
        horizon: that of the spans. Alarms are for the next day, for which their limits were measured.

    Raises:
        BadInput: a target day and horizon has two rows.
    """
    types = (
        {"target_day": "datetime64[s]", "horizon": "int64"}
        | dict.fromkeys((*FIGURES, "pit"), "float64")
        | dict.fromkeys(COVERED, "boolean")
    )
    rows = rows[list(COLUMNS)].astype(types).sort_values("target_day", ignore_index=True)
    rows = rows.astype(dict.fromkeys(COVERED, "float64"))  # 1: covered, 0: not, NaN: unknown
    origins = rows["target_day"] - pd.to_timedelta(rows["horizon"], unit="D")
    rows[ERRORS] = rows[ERRORS].mul(factors_to_last_day(origins, splits), axis=0)
    twice = rows.duplicated(["target_day", "horizon"])
    if twice.any():
        day, ahead = rows.loc[twice, ["target_day", "horizon"]].iloc[0]
        raise BadInput(
            f"a scoreboard needs one row a target day and horizon, got more of {day.date()} for horizon"
            f" {ahead}: leave revisions out"
        )
    without_model = rows["basis"] == "fallback"
    rows, fallbacks = rows[~without_model], rows[without_model]
    own = rows[rows["horizon"] == horizon]
    columns = _columns(own)
    scores = component_scores(columns)
    alarms, no_alarm = _alarms(own) if horizon == 1 else ((), "alarms are for the next day only")
    return Scoreboard(
        last=own["target_day"].iloc[-1].date() if len(own) else None,
        spans=tuple(_span(columns, scores, horizon, days) for days in SPANS),
        alarms=alarms,
        no_alarm=no_alarm,
        horizon=horizon,
        horizons=_horizon_scores(rows),
        fallbacks=_horizon_scores(fallbacks),
    )


def _columns(rows: pd.DataFrame) -> Columns:
    """The columns as plain arrays, (days,): a frame takes longer to slice than its figures to compute."""
    return {name: rows[name].to_numpy() for name in SCORE_COLUMNS}


def proportion(hits: int, days: int, horizon: int = 1) -> Proportion:
    """The share of hits in one day or more, with its exact 95 % interval by Clopper and Pearson (1934).

    Outcomes over a horizon of h days overlap: for the interval, n of them count as n / h independent ones,
    one at least, with the same share of hits.
    """
    independent = max(1, round(days / horizon))
    lower, upper = _clopper_pearson(round(hits / days * independent), independent)
    return Proportion(days, hits / days, lower, upper)


@functools.cache
def _clopper_pearson(hits: int, days: int) -> tuple[float, float]:
    def share_where(most: int, probability: float) -> float:
        low, high = 0.0, 1.0
        while low < (share := (low + high) / 2) < high:  # until no figure lies between them
            low, high = (share, high) if binomial_at_most(most, days, share) > probability else (low, share)
        return share

    tail = (1 - CONFIDENCE) / 2
    low = share_where(hits - 1, 1 - tail) if hits else 0.0
    high = share_where(hits, tail) if hits < days else 1.0
    return low, high


def _span(rows: Columns, scores: pd.DataFrame, horizon: int, days: int | None) -> Span:
    target_days = rows["target_day"]
    if days is not None and len(target_days):
        since = np.searchsorted(target_days, target_days[-1] - np.timedelta64(days, "D"), side="right")
        rows = {name: column[since:] for name, column in rows.items()}
    errors = np.column_stack([rows[name] for name in ERRORS])
    rmse, rmse_ratio = _with_ratio(root_mean_squared_error, errors)
    mae, mae_ratio = _with_ratio(mean_absolute_error, errors)
    coverage = {percent: _coverage(rows[f"covered_{percent}"], horizon) for percent in INTERVALS}
    best = compare_best_baseline(rows, scores, horizon=horizon)
    return Span(days, len(errors), _crps_ratio(rows), best, coverage, rmse, rmse_ratio, mae, mae_ratio)


def _horizon_scores(rows: pd.DataFrame) -> tuple[HorizonScore, ...]:
    columns = _columns(rows)
    horizons = columns["horizon"]
    return tuple(
        _horizon_score({name: column[horizons == ahead] for name, column in columns.items()}, ahead)
        for ahead in np.unique(horizons).tolist()
    )


def _horizon_score(rows: Columns, horizon: int) -> HorizonScore:
    # The table of scores has no column for 90 %; the PIT is linear between the same quantiles.
    low, high = (LEVELS[index] for index in INTERVAL_INDEXES[90])
    pit = rows["pit"]
    covered = {90: np.where(np.isnan(pit), np.nan, (low <= pit) & (pit <= high))}
    covered |= {percent: rows[f"covered_{percent}"] for percent in INTERVALS}
    coverage = {percent: _coverage(covered[percent], horizon) for percent in INTERVAL_INDEXES}
    best = compare_best_baseline(rows, component_scores(rows), horizon=horizon)
    return HorizonScore(horizon, len(pit), _crps_ratio(rows), best, coverage)


def _crps_ratio(rows: Columns) -> float | None:
    # No score is below zero.
    return _with_ratio(mean_absolute_error, np.column_stack([rows["crps"], rows["naive_crps"]]))[1]


def _with_ratio(
    measure: Callable[[Floats, Floats], float], pairs: Floats
) -> tuple[float | None, float | None]:
    """The measure of our errors, (days, 2) with the naive ones, and its ratio to that of the naive ones."""
    errors = pairs[~np.isnan(pairs).any(axis=1)]
    if not len(errors):
        return None, None
    ours, naive = (measure(column, np.zeros(len(errors))) for column in errors.T)
    return ours, ours / naive if naive > 0 else None


def _coverage(covered: Floats, horizon: int) -> Proportion | None:
    hits = covered[~np.isnan(covered)]
    return proportion(int(hits.sum()), len(hits), horizon) if len(hits) else None


def _alarms(rows: pd.DataFrame) -> tuple[tuple[str, ...], str | None]:
    """The alarms over the newest 180 days with a coverage, or why there can be none."""
    scored = rows.dropna(subset=[f"covered_{percent}" for percent in HEALTHY]).tail(ALARM_DAYS)
    if len(rows) and scored.empty:
        return (), "no alarm: these forecasts have no intervals"
    if len(scored) < ALARM_DAYS:
        return (), f"no alarm before {ALARM_DAYS} scored days, {len(scored)} so far"
    alarms = []
    for percent, (low, high) in HEALTHY.items():
        coverage = int(scored[f"covered_{percent}"].sum()) / ALARM_DAYS
        if not low <= coverage <= high:
            alarms.append(
                f"the {percent} % interval covered {format_share(coverage)} of the last {ALARM_DAYS} closes;"
                f" a good model covers {100 * low:.0f} to {100 * high:.0f} %: refit, or look at the data"
            )
    return tuple(alarms), None


def table(board: Scoreboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, one row per span."""
    errors = ["RMSE", "RMSE / naive", "MAE", "MAE / naive"]
    return ["last", *_header(INTERVALS), *errors], [
        [
            "all" if span.days is None else f"{span.days} days",
            *_cells(span),
            format_price(span.rmse),
            format_figure(span.rmse_ratio, ".4f"),
            format_price(span.mae),
            format_figure(span.mae_ratio, ".4f"),
        ]
        for span in board.spans
    ]


def horizon_table(scores: Iterable[HorizonScore]) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, one row per horizon."""
    header = ["days ahead", *_header(INTERVAL_INDEXES)]
    return header, [[str(one.horizon), *_cells(one)] for one in scores]


def horizon_tables(board: Scoreboard) -> dict[str, tuple[list[str], list[list[str]]]]:
    """A table of horizons, if there are several, and one for fallbacks; each by its title."""
    tables = {"By horizon": horizon_table(board.horizons)} if len(board.horizons) > 1 else {}
    fallbacks = {"Fallbacks, by horizon": horizon_table(board.fallbacks)} if board.fallbacks else {}
    return tables | fallbacks


def nothing_scored(board: Scoreboard) -> str | None:
    """The text instead of the spans, if no model's forecast of their horizon was scored yet."""
    if board.last is not None:
        return None
    if board.of(board.horizon, fallback=True):
        return "only fallbacks have been scored so far, which the baselines made without a model"
    return "no forecast has been scored yet"


def _header(percents: Iterable[int]) -> list[str]:
    covered = [f"{percent} % covered" for percent in percents]
    return ["forecasts", "CRPS / naive", "CRPS / best baseline", *covered]


def _cells(figures: Span | HorizonScore) -> list[str]:
    """The cells that a span and a horizon have in common, in the order of `_header`."""
    return [
        f"{figures.forecasts:,}",
        format_figure(figures.crps_ratio, ".4f"),
        _format_best(figures.best_baseline),
        *map(_format_coverage, figures.coverage.values()),
    ]


def markdown(board: Scoreboard) -> str:
    """The spans, then each alarm, or why there can be none, and the tables of horizons, if any."""
    nothing, tables = nothing_scored(board), horizon_tables(board)
    alarms = [f"**Alarm:** {alarm}" for alarm in board.alarms] or [board.no_alarm or "No alarm."]
    parts = [f"{nothing.capitalize()}."] if nothing else [markdown_table(*table(board)), *alarms]
    if tables:
        parts.insert(0, "### Next day")
    for title, horizons in tables.items():
        parts += [f"### {title}", markdown_table(*horizons)]
    return "\n\n".join(parts) + "\n"


def _format_best(best: ComponentComparison | None) -> str:
    if best is None:
        return UNKNOWN
    return f"{format_figure(best.ratio, '.4f')} ({best.component}, p {format_p_value(best.p_value)})"


def _format_coverage(coverage: Proportion | None) -> str:
    if coverage is None:
        return UNKNOWN
    return f"{format_share(coverage.share)} ({100 * coverage.lower:.1f} to {100 * coverage.upper:.1f})"
