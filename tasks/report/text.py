"""What a report says in words; nothing here promises more than the figures hold."""

from __future__ import annotations

from datetime import UTC, date, timedelta

import pandas as pd

from tasks.core.formatting import usd
from tasks.evaluation.scoreboard import percents
from tasks.report.context import ReportContext

# What each interval means to somebody who has no use for percents.
ODDS = {
    50: ("one day in two", "one in two"),
    80: ("four days in five", "one in five"),
    95: ("nineteen days in twenty", "one in twenty"),
}
# The level of the test of calibration.
SEVERE = 0.05
METHODS = {
    "lstm": "the networks alone, before mixing and tracking",
    "last_close_250": "last close with its newest 250 returns",
    "ewma_t": "EWMA(.94) volatility with Student t",
    "garch_t": "GARCH(1,1) with Student t",
    "har_t": "HAR volatility with weekday and Student t",
}
NO_ADVICE = "It is not advice, and no ground for a trade."
CANNOT = (
    "It does not know whether the next close will be higher or lower. Nothing that was tried here beats"
    " “tomorrow closes where today closed”, and the middle of this forecast is no exception.",
    "It says how far from the last close the next one may be, for one day. It says nothing about the way"
    " there, nor about any later day.",
    "An 80 % interval that is right is wrong one day in five. One miss says nothing; the calibration below"
    " says whether misses are too many.",
)
ARTICLE_CANNOT = (
    "It gives a point and no intervals: it does not say how wrong it may be.",
    "It learned price levels, which do not go beyond the range that it was trained on: once prices leave that"
    " range its errors grow several times.",
    "It is kept because it is where this project began, not because it forecasts well: “tomorrow closes"
    " where today closed” is the better forecast.",
)
NEVER = {
    "sample": "The sample that comes with closecast has no row of them",
    "csv": "They stay until a file is read that has rows of them",
    "coinbase": "Each run asks the exchange for them again",
}


def long_day(day: date) -> str:
    """As `Friday, 18 October 2019`."""
    return f"{day:%A}, {day.day} {day:%B %Y}"


def short_day(day: date) -> str:
    """As `18 Oct 2019`."""
    return f"{day.day} {day:%b %Y}"


def cannot(facts: ReportContext) -> list[str]:
    """What the model of this forecast cannot do, by what it was made from."""
    if facts.row["quantiles"] is None:
        gaps = (
            "training goes across missing days as the article's did"
            if facts.model.bridges_gaps
            else "neither training nor forecast goes across missing days"
        )
        return [*ARTICLE_CANNOT, f"It knows daily closes and nothing else, and {gaps}.", NO_ADVICE]
    said = f"{_knows(facts)} A shock of a kind that the past does not hold is not in its tails."
    return [*CANNOT[:2], said, *CANNOT[2:], NO_ADVICE]


def _knows(facts: ReportContext) -> str:
    """Which inputs the model has, which its rows lacked, and whose days it was trained on, too."""
    lacking = facts.model.left_out
    volume, ranges = (not any(one.startswith(what) for one in lacking) for what in ("volume", "ranges"))
    inputs = {
        (True, True): "daily prices and volumes",
        (True, False): "daily prices (open, high, low, close)",
        (False, True): "daily closes and volumes",
        (False, False): "daily closes",
    }[ranges, volume]
    pooled, own = facts.model.pooled, facts.product_id
    never = "no news, no order book" + ("" if pooled else ", no other market")
    said = [f"It knows {inputs} of {own} and nothing else: {never}."]
    if lacking:
        said.append(f"More than a tenth of its rows have no {' and no '.join(lacking)}, which is left out.")
    if pooled:
        said.append(
            f"Its networks were trained on the days of {' and '.join(pooled)} as well, but a forecast"
            f" looks at {own} alone."
        )
    return " ".join(said)


def gaps(facts: ReportContext) -> str:
    """What becomes of missing days, which depends on where the closes come from."""
    said = NEVER.get(facts.health.source, "Nothing fills them by itself")
    return f"{said}, and no forecast's input goes across one."


def intervals(facts: ReportContext) -> list[dict[str, str]]:
    """Each interval as figures and as a sentence, the narrowest first."""
    if facts.row["quantiles"] is None:
        return []
    found = []
    for percent, (often, seldom) in ODDS.items():
        lower, upper = (facts.row[f"{side}_{percent}"] for side in ("lower", "upper"))
        last = facts.row["last_close"]
        found.append(
            {
                "name": f"{percent} %",
                "lower": usd(lower),
                "upper": usd(upper),
                "change": f"{lower / last - 1:+.1%} to {upper / last - 1:+.1%}",
                "sentence": f"{often.capitalize()} the close should lie in it, {seldom} outside.",
                "held": held(facts, percent),
            }
        )
    return found


def held(facts: ReportContext, percent: int) -> str:
    """How often an interval held so far, with what that is worth."""
    if facts.row["quantiles"] is None:
        return "has no interval"
    span = facts.board.spans[-1].coverage[percent] if facts.board.spans else None
    if span is None:
        return "none scored yet"
    said = f"{percents(span.share)} of {count(span.days, 'day')}"
    range_ = f"({100 * span.lower:.0f} to {100 * span.upper:.0f} %)"
    # No line ends before a percent sign.
    return f"{said} {range_}".replace(" %", "\u00a0%")


def middle(facts: ReportContext) -> str:
    """The point forecast against the last close."""
    row = facts.row
    change = row["point"] / row["last_close"] - 1.0
    if row["quantiles"] is None:
        return f"{change:+.2%} on the last close; a point without intervals"
    return (
        f"{change:+.2%} on the last close: the middle of the forecast, as likely to be passed as not."
        " It does not say where the price will go"
    )


def record(facts: ReportContext) -> str:
    """How the forecasts did so far, in a sentence or two."""
    every = facts.board.spans[-1] if facts.board.spans else None
    if every is None or not every.forecasts:
        return "No forecast has been scored yet: none of their days has come, or the closes are not there."
    said = [f"{count(every.forecasts, 'forecast')} scored."]
    if every.crps_ratio is not None:
        side = "better than" if every.crps_ratio < 1 else "no better than"
        said.append(
            f"Their mean CRPS of the log return was {every.crps_ratio:.3f} times that of the last close with"
            f" its newest 250 returns, {side} naive on these days."
        )
    if every.rmse_ratio is not None:
        said.append(
            f"The point's RMSE was {every.rmse_ratio:.3f} times that of the last close"
            f" ({'which it beat' if every.rmse_ratio < 1 else 'which it did not beat'} here)."
        )
    if every.forecasts < 30:
        said.append("That is too few to say anything about the next ones.")
    return " ".join(said)


def late(facts: ReportContext) -> str | None:
    """How many of the forecasts were made after their day was over, which a page must not hide."""
    over = pd.to_datetime(facts.past["target_day"]).dt.tz_localize(UTC) + timedelta(days=1)
    made = pd.to_datetime(facts.past["created_at"], utc=True)
    made_late, every = int((made > over).sum()), len(facts.past)
    if not made_late:
        return None
    if made_late == 1:
        which = "The one forecast" if every == 1 else f"One of {every:,} forecasts"
        return (
            f"{which} here was made after its day was over, from the closes up to the day before it:"
            " that tries the method, and nobody could have used it."
        )
    which = f"{made_late:,} of {every:,} forecasts" if made_late < every else f"All {every:,} forecasts"
    return (
        f"{which} here were made after their day was over, each from the closes up to the day before it:"
        " that tries the method, and nobody could have used them."
    )


def notes(facts: ReportContext) -> list[str]:
    """What a person should know first: alarms, an old model, a revision, prices that have gone on."""
    found = [*stale(facts), *(f"Coverage alarm: {alarm}." for alarm in facts.board.alarms)]
    if facts.model.too_old:
        found.append(
            f"The model is {facts.model.age_days} days old, more than the {facts.model.max_days} after which"
            " a successor is overdue: look at `closecast versions`."
        )
    if facts.revisions:
        newest = facts.revisions[-1]
        found.append(
            f"This day was forecast again since ({count(len(facts.revisions), 'revision')}): the newest says"
            f" {usd(newest['point'])}. The first one is the published one, and is what gets scored."
        )
    ahead = facts.health.last_day
    if ahead and ahead >= facts.row["target_day"]:
        found.append(
            f"The close of this day has come, prices are stored up to {short_day(ahead)}: the next run scores"
            " it and forecasts on."
        )
    return found


def stale(facts: ReportContext) -> list[str]:
    """That the day of the newest forecast was over when the page was written, and what helps; or nothing."""
    if facts.row["target_day"] >= facts.day:
        return []
    newest = max(facts.row["origin_day"], facts.health.last_day or facts.row["origin_day"])
    helps = {
        "sample": "The sample ends there; `closecast run --source coinbase --replace-source` starts over with"
        " those of the exchange.",
        "csv": "`closecast run` with a file that goes on brings a newer one.",
    }.get(
        facts.health.source,
        "`closecast run` brings a newer one; where runs are scheduled, they have stopped or fail.",
    )
    return [
        f"The newest close is of {short_day(newest)}, {count((facts.day - newest).days, 'day')} before this"
        f" was written: the day of the newest forecast is over. {helps}"
    ]


def age(facts: ReportContext) -> str:
    """Whether the day of the newest forecast is still to come on the day of the page."""
    behind = (facts.day - facts.row["target_day"]).days
    if behind > 0:
        return f"passed {count(behind, 'day')} before this page was written"
    return "today" if behind == 0 else "to come"


def uniform_words(facts: ReportContext) -> str:
    """What the histogram of the PIT shows: bins outside of the band of chance, and a test of all of them."""
    if facts.uniform is None:
        return ""
    outside = sum(not facts.uniform.lower <= n <= facts.uniform.upper for n in facts.uniform.counts)
    said = f"{outside} of {len(facts.uniform.counts)} bars lie outside of the band"
    p_value = facts.uniform.p_value
    if p_value is None:
        return f"{said}; too few closes ({facts.uniform.days}) to test all bars together."
    figure = f"p = {p_value:.2g}" if p_value >= 0.001 else "p below .001"
    judged = "more than chance alone leads to" if p_value < SEVERE else "no more than chance alone leads to"
    return f"{said}. All bars together differ {judged} (χ² test at 5 %, {figure})."


def coverage_words(facts: ReportContext) -> str:
    """How the newest point of the running coverage lies to its band."""
    if facts.running.empty:
        return ""
    newest = facts.running.iloc[-1]
    said = []
    for percent in ODDS:
        share, lower, upper = (newest[f"{kind}_{percent}"] for kind in ("running", "lower", "upper"))
        where = "within" if lower <= share <= upper else "below" if share < lower else "above"
        said.append(f"{percent} % interval: {percents(share)}, {where} its band")
    return f"Over the last {int(newest['days'])} scored days: {'; '.join(said)}."


def count(number: int, what: str) -> str:
    """As `1 day` or `1,200 days`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
