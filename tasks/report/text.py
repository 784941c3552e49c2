"""The sentences of a report; none promises more than the figures hold."""

from __future__ import annotations

from datetime import UTC, date, timedelta

import pandas as pd

from storage.core.intervals import INTERVALS
from tasks.core.formatting import UNKNOWN, format_share
from tasks.profiles.baselines import BASELINES
from tasks.report.context import ReportContext

# What each interval means to somebody who does not think in percent.
ODDS = {
    50: ("one day in two", "one in two"),
    80: ("four days in five", "one in five"),
    95: ("nineteen days in twenty", "one in twenty"),
}
# The level of the test of calibration.
SIGNIFICANCE = 0.05
FEW_SCORES = 30
# The tags of a version that hold the gate's figures, without their prefix.
GATE = ("first_day", "last_day", "days", "champion", "champion_crps", "challenger_crps", "ratio", "limit")
COMPONENTS = {
    "last_close_250": "last close with its newest 250 returns",
    "ewma_t": "EWMA(.94) volatility with Student t",
    "garch_t": "GARCH(1,1) with Student t",
    "har_t": "HAR volatility with weekday and Student t",
}
NO_DIRECTION = (
    "It does not know whether the next close will be higher or lower. Nothing that was tried here beats"
    " “tomorrow closes where today closed”, and {} is no exception."
)
ONE_MISS = (
    "An 80 % interval that is right is wrong one day in five. One miss means nothing; the calibration below"
    " shows whether there are too many."
)
DISTANCE = (
    "It forecasts how far from the last close the next one may be, for one day: not the way there, nor any"
    " later day."
)
POINT_ONLY = "It gives a point and no intervals: it does not tell how wrong it may be."
NEW_SHOCK = "A shock of a kind that the past does not hold is not in its tails."
NO_ADVICE = "It is not advice, and no ground for a trade."
GAPS = {
    "sample": "The sample that comes with closecast has no row of these days",
    "csv": "They stay until a file with rows of these days is imported",
    "coinbase": "Each run asks the exchange for these days again",
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
    return f"{day.day} {day:%b %Y}"


def count(number: int, noun: str) -> str:
    """As `1 day` or `1,200 days`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def component_name(component: str) -> str:
    """A component forecast in words: a baseline's method, or the model's own."""
    alone = "" if component in BASELINES else "the model alone, before mixing and tracking"
    return COMPONENTS.get(component, alone or component)


def limits(context: ReportContext) -> list[str]:
    """What the model of this forecast cannot do, by what it was made from."""
    if not context.has_intervals:
        return [NO_DIRECTION.format("this point"), POINT_ONLY, _inputs(context), NO_ADVICE]
    middle = NO_DIRECTION.format("the middle of this forecast")
    return [middle, DISTANCE, f"{_inputs(context)} {NEW_SHOCK}", ONE_MISS, NO_ADVICE]


def _inputs(context: ReportContext) -> str:
    """What the model knows, which inputs its candles lack, and what else it was trained on."""
    product_id, pooled = context.forecast.product_id, context.model.pooled
    others = "" if pooled else ", no other market"
    sentences = [
        f"It knows the daily candles of {product_id} and nothing else: no news, no order book{others}."
    ]
    if left_out := context.model.lineage.columns_left_out:
        sentences.append(f"More than a tenth of them have no {' and no '.join(left_out)}, which is left out.")
    if pooled:
        sentences.append(
            f"It was trained on the days of {' and '.join(pooled)} as well, but a forecast looks at"
            f" {product_id} alone."
        )
    return " ".join(sentences)


def gaps(context: ReportContext) -> str:
    """What happens to missing days, which depends on the source of the closes."""
    filled = GAPS.get(context.data.source, "Nothing fills them by itself")
    if context.model.bridges_gaps:
        return f"{filled}. Training goes across a gap as if its days were not missing, a forecast does not."
    return f"{filled}, and no input goes across one."


def intervals(context: ReportContext) -> list[dict[str, str]]:
    """Each interval as figures and as a sentence, the narrowest first."""
    forecast, texts = context.forecast, dict(context.forecast.price_summary())
    rows = []
    for percent, (often, seldom) in ODDS.items() if context.has_intervals else ():
        lower, upper = forecast.first.interval(percent) or (0.0, 0.0)
        rows.append(
            {
                "name": f"{percent} %",
                "prices": texts[f"{percent} %"],
                "change": f"{forecast.change(lower)} to {forecast.change(upper)}",
                "sentence": f"{often.capitalize()} the close should lie in it, {seldom} outside.",
                "covered": covered(context, percent),
            }
        )
    return rows


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


def middle(context: ReportContext) -> str:
    """The point forecast against the last close."""
    change = f"{context.forecast.change(context.forecast.first.point)} on the last close"
    if not context.has_intervals:
        return f"{change}; a point without intervals"
    return f"{change}: the median, as likely to be exceeded as not. It does not tell where the price will go"


def record(context: ReportContext) -> str:
    """How the forecasts did so far, in a few sentences."""
    span = context.board.all_days
    if not span.forecasts:
        return "No forecast has been scored yet: their days are not over, or the closes are not stored."
    sentences = [f"{count(span.forecasts, 'forecast')} scored."]
    if span.crps_ratio is not None:
        better = "better" if span.crps_ratio < 1 else "no better"
        sentences.append(
            f"Their mean CRPS of the log return was {span.crps_ratio:.3f} times that of the last close with"
            f" its newest 250 returns: {better} than naive on these days."
        )
    if span.rmse_ratio is not None:
        better = "better" if span.rmse_ratio < 1 else "no better"
        sentences.append(
            f"The point's RMSE was {span.rmse_ratio:.3f} times that of the last close: {better} than naive."
        )
    if span.forecasts < FEW_SCORES:
        sentences.append("These are too few to tell anything about the next ones.")
    return " ".join(sentences)


def late(context: ReportContext) -> str | None:
    """How many of the forecasts were made after their day was over, which a page must not hide."""
    ends = pd.to_datetime(context.past["target_day"]).dt.tz_localize(UTC) + timedelta(days=1)
    made_late = int((pd.to_datetime(context.past["created_at"], utc=True) > ends).sum())
    if not made_late:
        return None
    return (
        f"{made_late:,} of {count(len(context.past), 'forecast')} here {'was' if made_late == 1 else 'were'}"
        " made after the target day was over, from the closes up to the day before it: that tests the method,"
        " and nobody could have used it."
    )


def notes(context: ReportContext) -> list[str]:
    """What a reader should know first: old closes, alarms, an old model, a revision."""
    forecast, model, last_day = context.forecast, context.model, context.data.last_day
    lines = [*_stale(context), *(f"Coverage alarm: {alarm}." for alarm in context.board.alarms)]
    if model.too_old:
        lines.append(
            f"The model is {model.age_days} days old; after {model.max_age_days} days a successor is overdue:"
            " look at `closecast versions`."
        )
    if context.revisions:
        newest = context.revisions[-1]
        lines.append(
            f"This day was forecast again ({count(len(context.revisions), 'revision')}); the newest point is"
            f" {forecast.price(newest.first.point)}. The first forecast is the published one, and is scored."
        )
    if last_day and last_day >= forecast.first.target_day:
        lines.append(
            f"The close of this day is known, prices are stored up to {short_day(last_day)}: the next run"
            " scores the forecast and makes a new one."
        )
    return lines


def _stale(context: ReportContext) -> list[str]:
    """That the target day was over when the page was written, and what helps; or nothing."""
    forecast, day = context.forecast, context.day
    if forecast.first.target_day >= day:
        return []
    newest = max(forecast.origin_day, context.data.last_day or forecast.origin_day)
    remedy = NEWER_CLOSES.get(
        context.data.source,
        "`closecast run` fetches newer ones; where runs are scheduled, they have stopped or fail.",
    )
    return [
        f"The newest close is of {short_day(newest)}, {count((day - newest).days, 'day')} before this page"
        f" was written: the day of the newest forecast is over. {remedy}"
    ]


def age(context: ReportContext) -> str:
    """Whether the target day is still to come on the day of the page."""
    behind = (context.day - context.forecast.first.target_day).days
    if behind > 0:
        return f"over {count(behind, 'day')} before this page was written"
    return "today" if behind == 0 else "to come"


def calibration(context: ReportContext) -> str:
    """How many bars of the PIT histogram lie outside the bounds of chance, and the test of all of them."""
    pit = context.pit
    if pit is None:
        return ""
    outside = sum(not pit.lower <= bar <= pit.upper for bar in pit.counts)
    text = f"{outside} of {len(pit.counts)} bars lie outside the band"
    if pit.p_value is None:
        return f"{text}; too few closes ({pit.days}) to test all bars together."
    p_value = f"p = {pit.p_value:.2g}" if pit.p_value >= 0.001 else "p below .001"
    more = "more" if pit.p_value < SIGNIFICANCE else "no more"
    return f"{text}. All bars together differ {more} than by chance (χ² test at 5 %, {p_value})."


def coverage(context: ReportContext) -> str:
    """The newest running coverage against its bounds of chance."""
    if context.coverage.empty:
        return ""
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
    tags = {
        name.replace("_", " ").replace("sha256", "SHA-256"): text
        for name, text in model.lineage.tags().items()
    }
    warning = "" if model.max_age_days is None else f"; a warning begins after {model.max_age_days}"
    rows = [
        *forecast.version_summary(),
        ("created", f"{forecast.created_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("origin", f"{forecast.origin_day}, the last close that it knew"),
        ("age of the model", f"{count(model.age_days, 'day')} on the origin{warning}"),
        *((f"model's {name}", text.replace(",", ", ")) for name, text in tags.items()),
        ("model's gate", model.version.tags.get("gate", "")),
        ("model's manifest SHA-256", model.version.manifest_sha256),
    ]
    return [(label, text) for label, text in rows if text not in ("", "none")]


def gate(context: ReportContext) -> list[tuple[str, str]]:
    """The gate's figures of the model as a challenger, a label and a text each; none without a gate."""
    tags = context.model.version.tags
    if "gate_ratio" not in tags:
        return []
    return [(name.replace("_", " "), _figure(tags.get(f"gate_{name}", UNKNOWN))) for name in GATE]


def metrics(context: ReportContext) -> list[tuple[str, str]]:
    """The figures of the profile's own test, a label and a text each; errors are prices."""
    return [
        (
            name.replace("_", " ").replace("rmse", "RMSE").replace("mae", "MAE"),
            context.forecast.price(value) if name.endswith(("rmse", "mae")) else f"{value:,.4f}",
        )
        for name, value in sorted(context.model.lineage.metrics.items())
    ]


def _figure(text: str) -> str:
    try:
        return text if text.isdecimal() else f"{float(text):.5g}"
    except ValueError:
        return text
