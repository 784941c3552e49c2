"""The sentences of a report; none claims more than the figures show."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from closecast.storage.core.intervals import INTERVALS
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.formatting import (
    UNKNOWN,
    count,
    distance_decimals,
    format_p_value,
    format_price,
    format_share,
)
from closecast.tasks.evaluation.components import ComponentComparison
from closecast.tasks.evaluation.scoreboard import HorizonScore, Span
from closecast.tasks.evaluation.significance import is_enough
from closecast.tasks.profiles.baselines import BASELINES, DRIFT
from closecast.tasks.report.context import ReportContext

LABELS = {"_": " ", "sha256": "SHA-256", "rmse": "RMSE", "mae": "MAE", "crps": "CRPS"}
# The level of the test of calibration.
SIGNIFICANCE = 0.05
# Of the networks' losses, in the chart.
COLOURS = 5
# The tags of a version that hold the gate's figures, without their prefix.
GATE = ("first_day", "last_day", "days", "champion", "champion_crps", "challenger_crps", "ratio", "limit")
COMPONENTS = {
    "last_close_250": "last close with its newest 250 returns",
    "ewma_weekday_t": "EWMA(.94) volatility with weekday and Student t",
    "ewma_t": "EWMA(.94) volatility of returns with Student t",
    "garch_weekday_t": "GARCH(1,1) with weekday and Student t",
    "har_120_t": "HAR volatility with a memory of 120 days, weekday and Student t",
}


def long_day(day: date) -> str:
    """As `Friday, 18 October 2019`."""
    return f"{day:%A}, {day.day} {day:%B %Y}"


def short_day(day: date) -> str:
    """As `18 Oct 2019`."""
    return f"{day_month(day)} {day:%Y}"


def day_month(day: date) -> str:
    """As `18 Oct`, if the year is known."""
    return f"{day.day} {day:%b}"


def listed(names: Sequence[object]) -> str:
    """As `one`, `one and two`, or `one, two and three`."""
    *others, last = map(str, names)
    return f"{', '.join(others)} and {last}" if others else last


def component_name(component: str) -> str:
    """A component forecast in words: a baseline's method, or the model's own."""
    if component not in BASELINES:
        return "the model alone, before mixing and tracking"
    method = COMPONENTS[component.removesuffix(DRIFT)]
    shifted = ", shifted by the mean return of all earlier days" if component.endswith(DRIFT) else ""
    return method + shifted


def covered(context: ReportContext, percent: int) -> str:
    """How often an interval covered the close so far, with the interval of the true share."""
    if not context.has_intervals:
        return "no interval"
    coverage = context.record.coverage[percent] if context.record else None
    if coverage is None:
        return "none scored yet"
    text = f"{format_share(coverage.share)} of {count(coverage.days, 'day')}"
    # No line ends before a percent sign.
    return f"{text} ({100 * coverage.lower:.0f} to {100 * coverage.upper:.0f} %)".replace(" %", "\u00a0%")


def headline(forecast: Forecast) -> tuple[str, str] | None:
    """Both ends of the 80 % interval, rounded so that its width has three digits, but to no more than units.

    None for a point.
    """
    ends = forecast.first.interval(80)
    if ends is None:
        return None
    low, high = forecast.amounts(*ends)
    width = ends[1] - ends[0]
    if width <= 0:
        return low, high
    decimals = min(len(low.partition(".")[2]), max(0, 2 - math.floor(math.log10(width))))
    return format_price(ends[0], decimals=decimals), format_price(ends[1], decimals=decimals)


def since_previous(context: ReportContext) -> str | None:
    """How the median and the width of the 80 % interval moved since the forecast of the day before.

    None if there is none to compare with.
    """
    new, old = context.asked, context.previous
    if old is None:
        return None
    moved = percent(new.first.point / old.first.point - 1, signed=True)
    what = "median" if context.has_intervals else "point"
    text = f"{what} {moved}, it was {new.price(old.first.point)}"
    ends = old.first.interval(80)
    if ends:
        text += _width_change(new, old)
    if ends and old.first.target_day == new.origin_day:
        inside = ends[0] <= new.last_close <= ends[1]
        text += f". The close of that day was {'inside' if inside else 'outside'} its 80 % interval"
    return f"{text}.".replace(" %", "\u00a0%")


def _width_change(new: Forecast, old: Forecast) -> str:
    widths = [width_80(forecast) for forecast in (new, old)]
    if not all(widths):
        return ""
    change = widths[0] / widths[1] - 1
    how = f"{100 * abs(change):.0f} % {'wider' if change > 0 else 'narrower'}"
    text = f"; 80 % interval {how if abs(change) >= 0.005 else 'as wide'}"
    return f"{text}, {percent(widths[0])} of the last close, it was {percent(widths[1])}"


def width_80(forecast: Forecast) -> float:
    """The width of the 80 % interval as a share of the last close, 0 for a point."""
    low, high = forecast.first.interval(80) or (0.0, 0.0)
    return (high - low) / forecast.last_close


def percent(share: float, *, signed: bool = False) -> str:
    """A share in percent with two digits at least, as `5.7 %` or `+0.12 %`; no line ends before its sign."""
    decimals = min(max(2 if signed else 0, distance_decimals(0.0, 100 * share)), 10)
    return f"{100 * share:{'+z' if signed else ''}.{decimals}f}\u00a0%"


def against_best(span: Span) -> str:
    """How the forecasts did against the strongest baseline of a span, with the p value.

    A point has only the last close as a baseline, and no test.
    """
    best = span.best_baseline
    if best is None or best.ratio is None:
        if span.rmse_ratio is None:
            return ""
        how = "lower" if span.rmse_ratio < 1 else "not better"
        return f"The point's RMSE was {span.rmse_ratio:.3f} times that of the last close: {how}."
    return (
        f"Their mean CRPS of the log return was {best.ratio:.3f} times that of the strongest baseline on"
        f" these days, {component_name(best.component)}: {verdict(best)}."
    )


def ratio_to_best(record: HorizonScore | None) -> str:
    """The CRPS of a horizon over that of its strongest baseline, with the p value, as `1.004 (p 0.65)`."""
    best = record.best_baseline if record else None
    if best is None or best.ratio is None:
        return UNKNOWN
    p_value = "" if best.p_value is None else f" (p {format_p_value(best.p_value)})"
    return f"{best.ratio:.3f}{p_value}"


def verdict(best: ComponentComparison) -> str:
    """Whether forecasts of the next day are better than a baseline, as far as the test can tell."""
    if best.ratio is None or best.p_value is None:
        return "no difference to test" if is_enough(best.days, horizon=1) else "too few days to test"
    p_value = f"(p {format_p_value(best.p_value)})"
    if best.ratio >= 1:
        return f"{'worse' if best.p_value < SIGNIFICANCE else 'not better'} {p_value}"
    if best.p_value < SIGNIFICANCE:
        return f"better {p_value}"
    return f"not shown to be better {p_value}, the difference may be chance"


def fan(context: ReportContext) -> str:
    """What the chart of the days ahead shows, and where its lines are not forecasts."""
    forecast, days = context.forecast, len(context.closes)
    past = count(days, "day") if days > 1 else "day"
    text = f"The last {past} up to {short_day(forecast.origin_day)}, with a gap where a day is missing, and"
    if not context.has_intervals:
        return f"{text} the forecast, as a point."
    if len(forecast.horizons) == 1:
        return f"{text} the forecast of the next day."
    text += " on the same time scale the days ahead. Each interval is for the close of its own day."
    ahead = itertools.pairwise(one.horizon for one in forecast.horizons)
    ends = sorted({end for pair in ahead if pair[1] > pair[0] + 1 for end in pair})
    if ends:
        text += f" Between {listed(ends)} days ahead nothing is forecast; straight lines connect the dots."
    return text


def drift(context: ReportContext) -> str:
    """The horizons whose best baseline has a drift, and what that means for the naive ratio."""
    best = {one.horizon: one.best_baseline for one in context.board.horizons}
    drifting = [str(horizon) for horizon, one in best.items() if one and one.component.endswith(DRIFT)]
    if not drifting:
        return "No best baseline has a drift: the mean return of all earlier days did not help here."
    return (
        f"A baseline with `{DRIFT}` is shifted by the mean return of all earlier days. Such a baseline is the"
        f" best {listed(drifting)} days ahead, so part of the gain on the naive forecast may be drift there."
    )


def calibration(context: ReportContext) -> str:
    """How many bars of the PIT histogram are outside the bounds of chance, and the test of all of them."""
    pit = context.pit
    assert pit is not None  # noqa: S101 (the sentence stands below the histogram)
    outside = sum(not pit.lower <= bar <= pit.upper for bar in pit.counts)
    text = f"{outside} of {len(pit.counts)} bars lie outside the band"
    if pit.p_value is None:
        return f"{text}; too few closes ({pit.days}) to test all bars together."
    p_value = f"p = {pit.p_value:.2g}" if pit.p_value >= 0.001 else "p below .001"
    more = "more" if pit.p_value < SIGNIFICANCE else "no more"
    return f"{text}. All bars together differ {more} than by chance (χ² test at 5 %, {p_value})."


def coverage(context: ReportContext) -> str:
    """The newest running coverage, compared with its bounds of chance."""
    newest = context.coverage.iloc[-1]
    parts = []
    for percent in INTERVALS:
        share, lower, upper = (newest[f"{kind}_{percent}"] for kind in ("running", "lower", "upper"))
        where = "within" if lower <= share <= upper else "below" if share < lower else "above"
        parts.append(f"{percent} % interval: {format_share(share)}, {where} its band")
    return f"Over the last {int(newest['days'])} scored days: {'; '.join(parts)}."


def losses_key(losses: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The legend of the chart of losses: each a mark and a text."""
    networks = losses["networks"]
    has_validation = any(loss is not None for network in networks for loss in network["validation"])
    rows = [("training", "training loss")]
    if has_validation:
        rows += [("validation", "validation loss"), ("best", "the epoch whose weights are kept")]
    if len(networks) == 1:
        return [(f"{mark} alone", words) for mark, words in rows]
    by_colour = [networks[number::COLOURS] for number in range(min(COLOURS, len(networks)))]
    return rows + [
        (f"colour{number}", ", ".join(network["name"] for network in same))
        for number, same in enumerate(by_colour)
    ]


def lineage(context: ReportContext) -> list[tuple[str, str]]:
    """What the forecast and its model were made from, each a label and a text."""
    forecast, model = context.asked, context.model
    rows = [
        *forecast.version_summary(),
        ("created", f"{forecast.created_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("origin", f"{forecast.origin_day}, the last close that it knew"),
    ]
    if model is None or forecast.model_version is None:
        return rows
    tags = model.lineage.tags().items()
    warning = "" if model.max_age_days is None else f"; a warning begins after {model.max_age_days}"
    rows += [
        ("age of the model", f"{count(model.age_days, 'day')} on the origin{warning}"),
        *((f"model's {label(name)}", text.replace(",", ", ")) for name, text in tags),
        ("model's gate", model.version.tags.get("gate", "")),
        ("model's manifest SHA-256", model.version.manifest_sha256),
    ]
    return [(label, text) for label, text in rows if text not in ("", "none")]


def gate(context: ReportContext) -> list[tuple[str, str]]:
    """The gate's figures of the model as a challenger, each a label and a text; none without a gate."""
    tags = context.model.version.tags if context.model else {}
    if "gate_ratio" not in tags:
        return []
    return [(label(name), _short(tags.get(f"gate_{name}", UNKNOWN))) for name in GATE]


def label(name: str) -> str:
    """The name of a tag or a figure as text for people."""
    for part, shown in LABELS.items():
        name = name.replace(part, shown)
    return name


def _short(text: str) -> str:
    """A figure to five digits; a count, a day or other text is unchanged."""
    try:
        return text if text.isdecimal() else f"{float(text):.5g}"
    except ValueError:
        return text
