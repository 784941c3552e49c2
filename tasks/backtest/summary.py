"""The summary of a backtest: distribution, intervals and point, compared with the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from closecast.tasks.core.formatting import (
    UNKNOWN,
    format_figure,
    format_p_value,
    format_price,
    format_share,
    markdown_table,
)
from closecast.tasks.core.metrics import mean_absolute_error, root_mean_squared_error
from closecast.tasks.core.quantiles import INTERVAL_INDEXES, LEVELS, covered, crps, pit
from closecast.tasks.core.tensorflow_runtime import one_blas_thread
from closecast.tasks.core.types import Floats
from closecast.tasks.evaluation.components import best_baseline
from closecast.tasks.evaluation.scoreboard import Proportion, proportion
from closecast.tasks.evaluation.significance import Comparison, compare, ratio

BINS = 20
SEED = 2020  # of the bootstrap
TERCILES = ("low", "middle", "high")
# Shown for each horizon, whichever baseline is best: the simplest one that knows how volatile the days are.
SHORT_MEMORY = "ewma_weekday_t"
# What fallbacks, which are made from baselines themselves, are compared with.
BESIDE_FALLBACKS = ("last_close_250", SHORT_MEMORY)
NOT_COMPARED = Comparison(None, None, None, None)


@dataclass(frozen=True)
class Evaluation:
    """The forecasts of n target days, oldest first, and their outcomes.

    Shapes are (n,), prices in the quote currency; `sigma` is the daily volatility at each origin, NaN for a
    point; `quantiles` holds for each component those of the log return of `close` on `last_close`, at
    `LEVELS`, (n, 23), and nothing for a profile that gives a point only.
    """

    target_days: Sequence[date]
    last_close: Floats
    close: Floats
    sigma: Floats
    point: Floats
    quantiles: Mapping[str, Floats]


@dataclass(frozen=True)
class Coverage:
    """Coverage of a central interval: over all days, and by tercile of sigma."""

    percent: int
    overall: Proportion
    low: float | None
    middle: float | None
    high: float | None


@dataclass(frozen=True)
class Uniformity:
    """Counts of the PIT in 20 equal bins, max |count/n - 1/20|, and max |F(u) - u| over the 23 levels u."""

    counts: tuple[int, ...]
    largest_bin_deviation: float
    kolmogorov_at_levels: float


@dataclass(frozen=True)
class Point:
    """Errors of the point in the quote currency, over the last close's, and over the mean past change.

    That is the change over the horizon.
    """

    rmse: float
    rmse_ratio_to_naive: float | None
    mae: float
    mae_ratio_to_naive: float | None
    mase: float | None


@dataclass(frozen=True)
class Direction:
    """Days on which point and close both moved, hits of the sign, and the p value against always up.

    The p value is of independent days: None beyond the next day, where outcomes overlap.
    """

    days: int
    hits: int
    hit_rate: float | None
    always_up_rate: float | None
    p_value: float | None


@dataclass(frozen=True)
class Summary:
    """The figures of one evaluation; None means undefined.

    Either of the forecasts by models, or of the fallbacks. `best_baseline` is the component in `against` that
    was best on these days. A profile that gives a point only has no CRPS, coverage and PIT.
    """

    model: str
    fallback: bool
    currency: str
    horizon: int
    days: int
    first_target_day: date
    last_target_day: date
    crps: dict[str, float]
    against: dict[str, Comparison]
    best_baseline: str | None
    coverage: tuple[Coverage, ...]
    pit: Uniformity | None
    point: Point
    direction: Direction

    @property
    def span(self) -> str:
        """Its days as text for people."""
        ahead = "" if self.horizon == 1 else f", {self.horizon} days ahead"
        by = ", only fallbacks, which the baselines made without a model" if self.fallback else ""
        return f"{self.days:,} days, {self.first_target_day} to {self.last_target_day}{ahead}{by}"


def summarise(
    evaluation: Evaluation,
    past_closes: Floats,
    *,
    model: str,
    currency: str,
    horizon: int = 1,
    fallback: bool = False,
) -> Summary:
    """The summary of `model` against every other component of the evaluation.

    `past_closes` are those of consecutive days before the first origin, NaN where one is missing, (days,):
    their mean absolute change over the horizon is the scale of MASE.
    """
    one_blas_thread()
    returns = np.log(evaluation.close / evaluation.last_close)
    quantiles = evaluation.quantiles.get(model)
    scores = {name: crps(returns, rows) for name, rows in evaluation.quantiles.items()}
    return Summary(
        model=model,
        fallback=fallback,
        currency=currency,
        horizon=horizon,
        days=len(returns),
        first_target_day=evaluation.target_days[0],
        last_target_day=evaluation.target_days[-1],
        crps={name: float(score.mean()) for name, score in scores.items()},
        against={
            name: compare(scores[model], score, horizon=horizon, seed=SEED)
            for name, score in scores.items()
            if name != model
        },
        best_baseline=best_baseline(scores, horizon=horizon),
        coverage=() if quantiles is None else _coverage(returns, quantiles, evaluation.sigma, horizon),
        pit=None if quantiles is None else _uniformity(returns, quantiles),
        point=_point(evaluation, past_closes, horizon),
        direction=_direction(np.log(evaluation.point / evaluation.last_close), returns, horizon),
    )


def _coverage(returns: Floats, quantiles: Floats, sigma: Floats, horizon: int) -> tuple[Coverage, ...]:
    lower, upper = np.quantile(sigma, (1 / 3, 2 / 3))
    tercile = (sigma > lower).astype(int) + (sigma > upper)
    coverage = []
    for percent in INTERVAL_INDEXES:
        hits = covered(returns, quantiles, percent)
        parts = [hits[tercile == n] for n in range(len(TERCILES))]
        # A sigma that hardly moved has no terciles.
        shares = [float(part.mean()) if lower < upper and part.size else None for part in parts]
        coverage.append(Coverage(percent, proportion(int(hits.sum()), len(hits), horizon), *shares))
    return tuple(coverage)


def _uniformity(returns: Floats, quantiles: Floats) -> Uniformity:
    counts = np.histogram(pit(returns, quantiles), bins=BINS, range=(0.0, 1.0))[0]
    below = (returns[:, None] <= quantiles).mean(axis=0)
    return Uniformity(
        counts=tuple(counts.tolist()),
        largest_bin_deviation=float(np.abs(counts / len(returns) - 1 / BINS).max()),
        kolmogorov_at_levels=float(np.abs(below - np.array(LEVELS)).max()),
    )


def _point(evaluation: Evaluation, past_closes: Floats, horizon: int) -> Point:
    close, point, naive = evaluation.close, evaluation.point, evaluation.last_close
    rmse, mae = root_mean_squared_error(point, close), mean_absolute_error(point, close)
    changes = np.abs(past_closes[horizon:] - past_closes[:-horizon])
    return Point(
        rmse=rmse,
        rmse_ratio_to_naive=ratio(rmse, root_mean_squared_error(naive, close)),
        mae=mae,
        mae_ratio_to_naive=ratio(mae, mean_absolute_error(naive, close)),
        # NaN is not above zero; a past that never moved is no scale.
        mase=mae / float(np.nanmean(changes)) if np.any(changes > 0) else None,
    )


def _direction(predicted: Floats, returns: Floats, horizon: int) -> Direction:
    from scipy.stats import binomtest

    moved = (predicted != 0) & (returns != 0)
    days, ups = int(moved.sum()), int((returns[moved] > 0).sum())
    hits = int((np.sign(predicted) == np.sign(returns))[moved].sum())
    if not days:
        return Direction(0, 0, None, None, None)
    p_value = float(binomtest(hits, days, ups / days).pvalue) if horizon == 1 else None
    return Direction(days, hits, hits / days, ups / days, p_value)


def tables(
    summary: Summary, summaries: Sequence[Summary] = ()
) -> dict[str, tuple[list[str], list[list[str]]]]:
    """The summary as text: for each title a header and its rows; the last are those of all horizons.

    Fallbacks have a separate table of horizons.
    """
    models, fallbacks = ([one for one in summaries if one.fallback == kind] for kind in (False, True))
    apart = {"Fallbacks, by horizon": _fallback_table(fallbacks)} if fallbacks else {}
    if summary.pit is None:
        return {"The point forecast": _point_table(summary), **apart}
    best = f"; the best baseline is {summary.best_baseline}" if summary.best_baseline else ""
    by_horizon = {"By horizon": _horizon_table(models)} if len(models) > 1 else {}
    return {
        f"CRPS of {summary.model}{best}": _crps_table(summary),
        "Coverage of the central intervals": _coverage_table(summary),
        "The median as a point forecast": _point_table(summary),
        "PIT, 20 bins": _pit_table(summary, summary.pit),
        **by_horizon,
        **apart,
    }


def markdown(summaries: Sequence[Summary]) -> str:
    """The first summary as Markdown: its span, then one table after another."""
    first = summaries[0]
    parts = [f"## {title}\n\n{markdown_table(*table)}" for title, table in tables(first, summaries).items()]
    return "\n\n".join([f"# {first.model}: {first.span}", *parts]) + "\n"


def _horizon_table(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    header = ["days ahead", "days", "CRPS", "best baseline", "CRPS ratio", "95 % interval", "DM p"]
    header += [f"CRPS / {SHORT_MEMORY}", *(f"{percent} % covered" for percent in INTERVAL_INDEXES)]
    rows = []
    for summary in summaries:
        best, short = summary.best_baseline, summary.against.get(SHORT_MEMORY, NOT_COMPARED)
        against = summary.against[best] if best else NOT_COMPARED
        figures = [str(summary.horizon), f"{summary.days:,}", format_price(summary.crps[summary.model])]
        figures += [best or UNKNOWN, *_comparison_cells(against)]
        covered = [format_share(coverage.overall.share) for coverage in summary.coverage]
        rows.append([*figures, format_figure(short.ratio, ".4f"), *covered])
    return header, rows


def _fallback_table(fallbacks: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    header = ["days ahead", "days", "CRPS", *(f"CRPS / {name}" for name in BESIDE_FALLBACKS)]
    rows = []
    for one in fallbacks:
        figures = [str(one.horizon), f"{one.days:,}", format_figure(one.crps.get(one.model), ".6f")]
        ratios = (one.against.get(name, NOT_COMPARED).ratio for name in BESIDE_FALLBACKS)
        covered = [format_share(coverage.overall.share) for coverage in one.coverage]
        # A point has none of the figures.
        covered = covered or [UNKNOWN] * len(INTERVAL_INDEXES)
        rows.append([*figures, *(format_figure(ratio, ".4f") for ratio in ratios), *covered])
    return [*header, *(f"{percent} % covered" for percent in INTERVAL_INDEXES)], rows


def _crps_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    header = ["component", "CRPS", f"{summary.model} / component", "95 % interval", "DM p"]
    rows = [[summary.model, format_price(summary.crps[summary.model]), UNKNOWN, UNKNOWN, UNKNOWN]]
    for name, against in summary.against.items():
        rows.append([name, format_price(summary.crps[name]), *_comparison_cells(against)])
    return header, rows


def _comparison_cells(against: Comparison) -> list[str]:
    interval = UNKNOWN if against.lower is None else f"{against.lower:.4f} to {against.upper:.4f}"
    return [format_figure(against.ratio, ".4f"), interval, format_p_value(against.p_value)]


def _coverage_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    header = ["interval", "covered", "95 % interval", *(f"{name} volatility" for name in TERCILES)]
    rows = []
    for coverage in summary.coverage:
        overall = coverage.overall
        terciles = [format_share(share) for share in (coverage.low, coverage.middle, coverage.high)]
        interval = f"{format_share(overall.lower)} to {format_share(overall.upper)}"
        rows.append([f"{coverage.percent} %", format_share(overall.share), interval, *terciles])
    return header, rows


def _point_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    point, direction = summary.point, summary.direction
    return ["measure", "figure"], [
        ["RMSE", format_price(point.rmse, summary.currency)],
        ["RMSE / naive", format_figure(point.rmse_ratio_to_naive, ".4f")],
        ["MAE", format_price(point.mae, summary.currency)],
        ["MAE / naive", format_figure(point.mae_ratio_to_naive, ".4f")],
        ["MASE", format_figure(point.mase, ".4f")],
        ["direction hit", f"{format_share(direction.hit_rate)} of {direction.days:,} days"],
        ["always up hit", format_share(direction.always_up_rate)],
        ["p against always up", format_p_value(direction.p_value)],
    ]


def _pit_table(summary: Summary, pit: Uniformity) -> tuple[list[str], list[list[str]]]:
    rows = [
        [f"{n / BINS:.2f} to {(n + 1) / BINS:.2f}", f"{count:,}", format_share(count / summary.days)]
        for n, count in enumerate(pit.counts)
    ]
    rows.append(["largest deviation of a bin from 5 %", UNKNOWN, format_share(pit.largest_bin_deviation)])
    rows.append(["Kolmogorov distance at the levels", UNKNOWN, format_share(pit.kolmogorov_at_levels)])
    return ["PIT", "days", "share"], rows
