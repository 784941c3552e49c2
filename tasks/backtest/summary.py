"""The summary of a backtest: distribution, intervals and point, beside the baselines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storage.core.errors import BadInput, NotEnoughHistory
from tasks.core.formatting import UNKNOWN, format_figure, format_price, format_share, markdown_table
from tasks.core.quantiles import INTERVAL_INDEXES, LEVELS, crps, pit
from tasks.core.tensorflow_runtime import one_blas_thread
from tasks.core.types import Floats
from tasks.evaluation.scoreboard import Proportion, proportion
from tasks.evaluation.significance import Comparison, compare, over

BINS = 20
THIRDS = ("low", "middle", "high")


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
    """How often a central interval held: on all days, and by tercile of the scale."""

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
    """Errors of the point in the quote currency, over the last close's, and over the mean daily change."""

    rmse: float
    rmse_ratio_to_naive: float | None
    mae: float
    mae_ratio_to_naive: float | None
    mase: float | None


@dataclass(frozen=True)
class Direction:
    """Days on which median and close both moved, hits of the sign, and the p value against always up."""

    days: int
    hits: int
    hit_rate: float | None
    always_up_rate: float | None
    p_value: float | None


@dataclass(frozen=True)
class Summary:
    """The figures of one evaluation; None stands where one is undefined.

    A profile that gives a point only has no CRPS, coverage and PIT.
    """

    model: str
    currency: str
    days: int
    first_target_day: date
    last_target_day: date
    crps: dict[str, float]
    against: dict[str, Comparison]
    coverage: tuple[Coverage, ...]
    pit: Uniformity | None
    point: Point
    direction: Direction

    def to_json(self) -> dict[str, Any]:
        """Objects, lists, texts, numbers and nulls only: days as ISO text, nowhere a NaN."""
        plain = json.dumps(asdict(self), default=date.isoformat, allow_nan=False)
        return cast("dict[str, Any]", json.loads(plain))


def summarise(
    evaluation: Evaluation,
    *,
    past_closes: Floats,
    model: str = "calibrated",
    currency: str = "USD",
    seed: int = 2020,
) -> Summary:
    """The summary of `model` against every other component of the evaluation.

    Args:
        past_closes: closes of consecutive days before the first origin, NaN where one is missing, (days,):
            their mean absolute one-day change is the scale of MASE.
        model: the component that the others are compared with.
        currency: of the prices.
        seed: of the bootstrap.

    Raises:
        NotEnoughHistory: no day at all.
        BadInput: shapes that do not agree, days out of order, unknown figures.
    """
    one_blas_thread()
    _check(evaluation, model)
    returns = np.log(evaluation.close / evaluation.last_close)
    quantiles = evaluation.quantiles.get(model)
    scores = {name: crps(returns, rows) for name, rows in evaluation.quantiles.items()}
    return Summary(
        model=model,
        currency=currency,
        days=len(returns),
        first_target_day=pd.Timestamp(evaluation.target_days[0]).date(),
        last_target_day=pd.Timestamp(evaluation.target_days[-1]).date(),
        crps={name: float(score.mean()) for name, score in scores.items()},
        against={
            name: compare(scores[model], score, seed=seed) for name, score in scores.items() if name != model
        },
        coverage=() if quantiles is None else _coverage(returns, quantiles, evaluation.sigma),
        pit=None if quantiles is None else _uniformity(returns, quantiles),
        point=_point(evaluation, past_closes),
        direction=_direction(np.log(evaluation.point / evaluation.last_close), returns),
    )


def _check(evaluation: Evaluation, model: str) -> None:
    days = pd.DatetimeIndex(list(evaluation.target_days))
    if evaluation.quantiles and model not in evaluation.quantiles:
        raise BadInput(f"a summary of {model!r} needs its quantiles, found {sorted(evaluation.quantiles)}")
    if days.empty:
        raise NotEnoughHistory("a summary needs a day whose close is known, found none: take an earlier span")
    if not (days.is_monotonic_increasing and days.is_unique):
        raise BadInput("a summary needs each target day once, oldest first: sort them and drop revisions")
    prices = {name: getattr(evaluation, name) for name in ("last_close", "close", "point")}
    series = {**prices, "sigma": evaluation.sigma} if evaluation.quantiles else prices
    for name, figures in {**series, **evaluation.quantiles}.items():
        shape = (len(days),) if name in series else (len(days), len(LEVELS))
        if figures.shape != shape:
            raise BadInput(f"a summary needs {name} of shape {shape}, found {figures.shape}")
        valid = np.isfinite(figures) & (figures > 0 if name in prices else True)
        if not valid.all():
            first = days[int(np.argmin(valid.reshape(len(days), -1).all(axis=1)))].date()
            raise BadInput(
                f"a summary needs a known {name} on every day, found none on {first}: leave the day out"
            )


def _coverage(came: Floats, quantiles: Floats, sigma: Floats) -> tuple[Coverage, ...]:
    from utilsforecast import losses

    edges = {
        f"model-{side}-{percent}": quantiles[:, at]
        for percent, ends in INTERVAL_INDEXES.items()
        for side, at in zip(("lo", "hi"), ends, strict=True)
    }
    frame = pd.DataFrame({"unique_id": "all", "y": came, **edges})
    frame = pd.concat([frame, frame.assign(unique_id=_thirds(sigma)).dropna(subset="unique_id")])
    found = []
    for percent in INTERVAL_INDEXES:
        shares = losses.coverage(frame, ["model"], percent).set_index("unique_id")["model"].to_dict()
        overall = proportion(round(shares["all"] * len(came)), len(came))
        found.append(Coverage(percent, overall, *(shares.get(name) for name in THIRDS)))
    return tuple(found)


def _thirds(sigma: Floats) -> NDArray[np.object_]:
    """The tercile of each day; None of a scale that hardly moved, which has none."""
    lower, upper = np.quantile(sigma, (1 / 3, 2 / 3))
    if lower == upper:
        return np.full(len(sigma), None, dtype=object)
    which = (sigma > lower).astype(int) + (sigma > upper)
    return np.array([THIRDS[third] for third in which], dtype=object)


def _uniformity(came: Floats, quantiles: Floats) -> Uniformity:
    counts = np.histogram(pit(came, quantiles), bins=BINS, range=(0.0, 1.0))[0]
    below = (came[:, None] <= quantiles).mean(axis=0)
    return Uniformity(
        counts=tuple(counts.tolist()),
        largest_bin_deviation=float(np.abs(counts / len(came) - 1 / BINS).max()),
        kolmogorov_at_levels=float(np.abs(below - np.array(LEVELS)).max()),
    )


def _point(evaluation: Evaluation, past_closes: Floats) -> Point:
    from utilsforecast import losses

    columns = {"y": evaluation.close, "point": evaluation.point, "naive": evaluation.last_close}
    frame = pd.DataFrame({"unique_id": "all", **columns})
    rmse = losses.rmse(frame, ["point", "naive"]).iloc[0]
    mae = losses.mae(frame, ["point", "naive"]).iloc[0]
    changes = np.abs(np.diff(past_closes))
    mase = None
    if np.any(changes > 0):  # NaN is not; a past that never moved is no scale
        past = pd.DataFrame({"unique_id": "all", "y": past_closes})
        mase = float(losses.mase(frame, ["point"], 1, past)["point"].iloc[0])
    rmse_ratio, mae_ratio = (over(float(error["point"]), float(error["naive"])) for error in (rmse, mae))
    return Point(float(rmse["point"]), rmse_ratio, float(mae["point"]), mae_ratio, mase)


def _direction(median: Floats, came: Floats) -> Direction:
    from scipy.stats import binomtest

    moved = (median != 0) & (came != 0)
    days, ups = int(moved.sum()), int((came[moved] > 0).sum())
    hits = int((np.sign(median) == np.sign(came))[moved].sum())
    if not days:
        return Direction(0, 0, None, None, None)
    p_value = float(binomtest(hits, days, ups / days).pvalue)
    return Direction(days, hits, hits / days, ups / days, p_value)


def tables(summary: Summary) -> dict[str, tuple[list[str], list[list[str]]]]:
    """The summary as text: for each title a header and its rows."""
    if summary.pit is None:
        return {"The point forecast": _point_table(summary)}
    return {
        f"CRPS of {summary.model}": _crps_table(summary),
        "Coverage of the central intervals": _coverage_table(summary),
        "The median as a point forecast": _point_table(summary),
        "PIT, 20 bins": _pit_table(summary, summary.pit),
    }


def markdown(summary: Summary) -> str:
    """The summary as markdown: what it covers, then one table after another."""
    span = f"{summary.days:,} days, {summary.first_target_day} to {summary.last_target_day}"
    parts = [f"## {title}\n\n{markdown_table(*table)}" for title, table in tables(summary).items()]
    return "\n\n".join([f"# {summary.model}: {span}", *parts]) + "\n"


def _p_text(p_value: float | None) -> str:
    return "< 1e-15" if p_value is not None and p_value < 1e-15 else format_figure(p_value, ".2g")


def _crps_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    header = ["component", "CRPS", f"{summary.model} / method", "95 % interval", "DM p"]
    rows = [[summary.model, f"{summary.crps[summary.model]:.6f}", UNKNOWN, UNKNOWN, UNKNOWN]]
    for name, found in summary.against.items():
        interval = UNKNOWN if found.lower is None else f"{found.lower:.4f} to {found.upper:.4f}"
        ratio, p_value = format_figure(found.ratio, ".4f"), _p_text(found.p_value)
        rows.append([name, f"{summary.crps[name]:.6f}", ratio, interval, p_value])
    return header, rows


def _coverage_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    header = ["interval", "covered", "95 % interval", *(f"{name} volatility" for name in THIRDS)]
    rows = []
    for band in summary.coverage:
        held = band.overall
        thirds = [format_share(third) for third in (band.low, band.middle, band.high)]
        interval = f"{format_share(held.lower)} to {format_share(held.upper)}"
        rows.append([f"{band.percent} %", format_share(held.share), interval, *thirds])
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
        ["p against always up", _p_text(direction.p_value)],
    ]


def _pit_table(summary: Summary, pit: Uniformity) -> tuple[list[str], list[list[str]]]:
    rows = [
        [f"{n / BINS:.2f} to {(n + 1) / BINS:.2f}", f"{count:,}", format_share(count / summary.days)]
        for n, count in enumerate(pit.counts)
    ]
    rows.append(["largest deviation of a bin from 5 %", UNKNOWN, format_share(pit.largest_bin_deviation)])
    rows.append(["Kolmogorov distance at the levels", UNKNOWN, format_share(pit.kolmogorov_at_levels)])
    return ["PIT", "days", "share"], rows
