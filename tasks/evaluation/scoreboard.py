"""How the published forecasts of late did, and whether their intervals still hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from storage.core.errors import BadInput
from tasks.core.formatting import UNKNOWN, format_figure, format_price, format_share, markdown_table
from tasks.core.metrics import mean_absolute_error, root_mean_squared_error
from tasks.core.types import Floats

WINDOWS = (30, 90, 365, None)
PERCENTS = (50, 80, 95)
SURE = 0.95
# What it is made from.
FIGURES = ("error", "naive_error", "crps", "naive_crps")
HITS = tuple(f"hit_{percent}" for percent in PERCENTS)
COLUMNS = ("target_day", *FIGURES, *HITS)

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

    `coverage` maps each percent of 50, 80 and 95 to how often that interval held. Ratios are to the naive
    forecast, the last close: of mean CRPS, of RMSE and of MAE.
    """

    days: int | None
    forecasts: int
    crps_ratio: float | None
    coverage: dict[int, Proportion | None]
    rmse: float | None
    rmse_ratio: float | None
    mae: float | None
    mae_ratio: float | None


@dataclass(frozen=True)
class Scoreboard:
    """Spans that end at `last`, the sentences of the alarms that are on, and why none can be, if so."""

    last: date | None
    spans: tuple[Span, ...]
    alarms: tuple[str, ...]
    no_alarm: str | None


def scoreboard(rows: pd.DataFrame, *, last: date | None = None) -> Scoreboard:
    """The scoreboard of one product and profile.

    Args:
        rows: a row a target day, in any order, with the columns `COLUMNS`; CRPS and hits are null for a
            point without intervals.
        last: the day that the spans end with; by default the newest target day.

    Raises:
        BadInput: two rows of one target day.
    """
    rows = _typed(rows)
    days = rows["target_day"]
    if days.duplicated().any():
        twice = days[days.duplicated()].iloc[0].date()
        raise BadInput(f"a scoreboard needs one row a target day, found more of {twice}: leave revisions out")
    if last is None and len(rows):
        last = days.iloc[-1].date()
    known = rows[days <= pd.Timestamp(last)] if last else rows
    alarms, no_alarm = _alarms(known)
    return Scoreboard(last, tuple(_span(known, n, last) for n in WINDOWS), alarms, no_alarm)


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that count, each of one type whatever stood for null, oldest day first."""
    types = {
        "target_day": "datetime64[s]",
        **dict.fromkeys(FIGURES, "float64"),
        **dict.fromkeys(HITS, "boolean"),
    }
    return rows[list(types)].astype(types).sort_values("target_day", ignore_index=True)


def proportion(hits: int, days: int) -> Proportion:
    """The share of hits in one day or more, with its exact 95 % interval by Clopper and Pearson (1934)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, days).proportion_ci(SURE, method="exact")
    return Proportion(days, hits / days, float(interval.low), float(interval.high))


def _span(rows: pd.DataFrame, days: int | None, last: date | None) -> Span:
    if days is not None and last is not None:
        rows = rows[rows["target_day"] > pd.Timestamp(last) - pd.Timedelta(days, unit="D")]
    errors = rows[["error", "naive_error"]].dropna().to_numpy()
    scores = rows[["crps", "naive_crps"]].dropna().to_numpy()
    rmse, rmse_ratio = _with_ratio(root_mean_squared_error, errors)
    mae, mae_ratio = _with_ratio(mean_absolute_error, errors)
    return Span(
        days=days,
        forecasts=len(rows),
        crps_ratio=_with_ratio(mean_absolute_error, scores)[1],  # no score is below zero
        coverage={percent: _held(rows[f"hit_{percent}"].dropna()) for percent in PERCENTS},
        rmse=rmse,
        rmse_ratio=rmse_ratio,
        mae=mae,
        mae_ratio=mae_ratio,
    )


def _with_ratio(
    measure: Callable[[Floats, Floats], float], errors: Floats
) -> tuple[float | None, float | None]:
    """The measure of ours, and over naive's, of errors of shape (days, 2)."""
    if not len(errors):
        return None, None
    ours, naive = (measure(column, np.zeros(len(errors))) for column in errors.T)
    return ours, ours / naive if naive > 0 else None


def _held(hits: pd.Series[bool]) -> Proportion | None:
    return proportion(int(hits.sum()), len(hits)) if len(hits) else None


def _alarms(rows: pd.DataFrame) -> tuple[tuple[str, ...], str | None]:
    """The alarms over the newest 180 days that were scored, or why there can be none."""
    scored = rows.dropna(subset=[f"hit_{percent}" for percent in HEALTHY]).tail(ALARM_DAYS)
    if len(rows) and scored.empty:
        return (), "no alarm is possible: these forecasts have no intervals"
    if len(scored) < ALARM_DAYS:
        return (), f"no alarm is possible yet, {len(scored)} of {ALARM_DAYS} days"
    alarms = []
    for percent, (low, high) in HEALTHY.items():
        held = int(scored[f"hit_{percent}"].sum()) / ALARM_DAYS
        if not low <= held <= high:
            alarms.append(
                f"the {percent} % interval held {format_share(held)} of the last {ALARM_DAYS} days,"
                f" {100 * low:.0f} to {100 * high:.0f} % is what a good model shows:"
                " refit, or look at the data"
            )
    return tuple(alarms), None


def table(board: Scoreboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, a row a span."""
    bands = [f"{percent} % covered" for percent in PERCENTS]
    header = [
        "last",
        "forecasts",
        "CRPS / naive",
        *bands,
        "RMSE",
        "RMSE / naive",
        "MAE",
        "MAE / naive",
    ]
    return header, [
        [
            "all" if span.days is None else f"{span.days} days",
            f"{span.forecasts:,}",
            format_figure(span.crps_ratio, ".4f"),
            *(_band(span.coverage[percent]) for percent in PERCENTS),
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


def _band(held: Proportion | None) -> str:
    if held is None:
        return UNKNOWN
    return f"{format_share(held.share)} ({100 * held.lower:.1f} to {100 * held.upper:.1f})"
