"""The sentences of a report; none promises more than the figures hold."""

from __future__ import annotations

import itertools
from datetime import date

from storage.core.intervals import INTERVALS
from tasks.core.formatting import UNKNOWN, format_share
from tasks.profiles.baselines import BASELINES, DRIFT
from tasks.report.context import ReportContext

# The level of the test of calibration.
SIGNIFICANCE = 0.05
# The tags of a version that hold the gate's figures, without their prefix.
GATE = ("first_day", "last_day", "days", "champion", "champion_crps", "challenger_crps", "ratio", "limit")
COMPONENTS = {
    "last_close_250": "last close with its newest 250 returns",
    "ewma_weekday_t": "EWMA(.94) volatility with weekday and Student t",
    "garch_weekday_t": "GARCH(1,1) with weekday and Student t",
    "har_120_t": "HAR volatility with a memory of 120 days, weekday and Student t",
}
NEWER_CLOSES = {
    "sample": "The sample ends there; `closecast run --source coinbase --replace-source` starts over with the"
    " closes of the exchange.",
    "csv": "`closecast run` with a file of later days forecasts on.",
}


def long_day(day: date) -> str:
    """As `Friday, 18 October 2019`."""
    return f"{day:%A}, {day.day} {day:%B %Y}"


def short_day(day: date) -> str:
    """As `18 Oct 2019`."""
    return f"{day_month(day)} {day:%Y}"


def day_month(day: date) -> str:
    """As `18 Oct`, where the year is known."""
    return f"{day.day} {day:%b}"


def count(number: int, noun: str) -> str:
    """As `1 day` or `1,200 days`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def component_name(component: str) -> str:
    """A component forecast in words: a baseline's method, or the model's own."""
    if component not in BASELINES:
        return "the model alone, before mixing and tracking"
    method = COMPONENTS[component.removesuffix(DRIFT)]
    return f"{method}, moved by the mean return of all days before" if component.endswith(DRIFT) else method


def covered(context: ReportContext, percent: int) -> str:
    """How often an interval covered the close so far, with the range of the true share."""
    if not context.has_intervals:
        return "no interval"
    coverage = context.board.all_days.coverage[percent]
    if coverage is None:
        return "none scored yet"
    text = f"{format_share(coverage.share)} of {count(coverage.days, 'day')}"
    # No line ends before a percent sign.
    return f"{text} ({100 * coverage.lower:.0f} to {100 * coverage.upper:.0f} %)".replace(" %", "\u00a0%")


def notes(context: ReportContext) -> list[str]:
    """What a reader should know first: old closes, alarms, an old model, a revision."""
    forecast, model, day, newest_day = context.forecast, context.model, context.day, context.last_day
    lines = []
    if forecast.first.target_day < day:
        remedy = NEWER_CLOSES.get(
            context.history.source,
            "`closecast run` fetches newer ones; where runs are scheduled, they have stopped or fail.",
        )
        lines.append(
            f"The newest close is of {short_day(newest_day)}, {count((day - newest_day).days, 'day')} before"
            f" this page was written: the first day of the newest forecast is over. {remedy}"
        )
    lines += [f"Coverage alarm: {alarm}." for alarm in context.board.alarms]
    if model.too_old:
        lines.append(
            f"The model is {model.age_days} days old; after {model.max_age_days} days a successor is overdue:"
            " look at `closecast versions`."
        )
    if context.revisions:
        again, newest = count(len(context.revisions), "revision"), context.revisions[-1].first.point
        lines.append(
            f"This day was forecast again ({again}); the newest point is {forecast.price(newest)}. The first"
            " forecast is the published one, and is scored."
        )
    if newest_day >= forecast.first.target_day:
        lines.append(
            f"The close of this day is known, prices are stored up to {short_day(newest_day)}: the next"
            " run scores the forecast and makes a new one."
        )
    return lines


def fan(context: ReportContext) -> str:
    """What the chart of the days ahead shows, and where its lines are no forecasts."""
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
        days_ahead = f"{', '.join(map(str, ends[:-1]))} and {ends[-1]} days ahead"
        text += f" Between {days_ahead} nothing is forecast: straight lines lead across."
    return text


def drift(context: ReportContext) -> str:
    """How many days ahead the best baseline is one with a drift, and what that tells of the naive ratio."""
    best = {one.horizon: one.best_baseline for one in context.board.horizons}
    drifting = [str(horizon) for horizon, one in best.items() if one and one.component.endswith(DRIFT)]
    if not drifting:
        return "No best baseline has a drift: the mean return of all days before was of no help here."
    return (
        f"With `{DRIFT}` a baseline is moved by the mean return of all days before. Such a one is the best"
        f" {', '.join(drifting)} days ahead: there, part of what is gained on naive may be mere drift."
    )


def calibration(context: ReportContext) -> str:
    """How many bars of the PIT histogram lie outside the bounds of chance, and the test of all of them."""
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
    """The newest running coverage against its bounds of chance."""
    newest = context.coverage.iloc[-1]
    parts = []
    for percent in INTERVALS:
        share, lower, upper = (newest[f"{kind}_{percent}"] for kind in ("running", "lower", "upper"))
        where = "within" if lower <= share <= upper else "below" if share < lower else "above"
        parts.append(f"{percent} % interval: {format_share(share)}, {where} its band")
    return f"Over the last {int(newest['days'])} scored days: {'; '.join(parts)}."


def lineage(context: ReportContext) -> list[tuple[str, str]]:
    """What the forecast and its model were made from, a label and a text each."""
    forecast, model = context.forecast, context.model
    tags = model.lineage.tags().items()
    warning = "" if model.max_age_days is None else f"; a warning begins after {model.max_age_days}"
    rows = [
        *forecast.version_summary(),
        ("created", f"{forecast.created_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("origin", f"{forecast.origin_day}, the last close that it knew"),
        ("age of the model", f"{count(model.age_days, 'day')} on the origin{warning}"),
        *((f"model's {label(name)}", text.replace(",", ", ")) for name, text in tags),
        ("model's gate", model.version.tags.get("gate", "")),
        ("model's manifest SHA-256", model.version.manifest_sha256),
    ]
    return [(label, text) for label, text in rows if text not in ("", "none")]


def gate(context: ReportContext) -> list[tuple[str, str]]:
    """The gate's figures of the model as a challenger, a label and a text each; none without a gate."""
    tags = context.model.version.tags
    if "gate_ratio" not in tags:
        return []
    return [(label(name), _short(tags.get(f"gate_{name}", UNKNOWN))) for name in GATE]


def label(name: str) -> str:
    """The name of a tag or a figure as people read it."""
    return name.replace("_", " ").replace("sha256", "SHA-256").replace("rmse", "RMSE").replace("mae", "MAE")


def _short(text: str) -> str:
    """A figure to five digits; a count, a day or any other text as it is."""
    try:
        return text if text.isdecimal() else f"{float(text):.5g}"
    except ValueError:
        return text
