"""The notes at the top of a page: what a reader should know first, the most urgent first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from closecast.tasks.core.formatting import count
from closecast.tasks.report.context import ReportContext
from closecast.tasks.report.text import listed, short_day

NEWER_CLOSES = {
    "sample": "The sample ends there; `closecast run --source coinbase --replace-source` starts over with the"
    " closes of the exchange.",
    "csv": "`closecast run` with a file of later days makes newer forecasts.",
}


class Note(NamedTuple):
    """Something unusual about a page: its state in a word or two, for the index, and a sentence."""

    state: str
    sentence: str


def notes(context: ReportContext) -> list[Note]:
    """The notes of a page: old closes, alarms and an old model, then how the forecast was made."""
    return [*_old_closes(context), *_alarms(context), *_ways(context), *_later(context)]


def _old_closes(context: ReportContext) -> Iterator[Note]:
    day, newest_day = context.day, context.last_day
    if newest_day < context.asked.first.target_day < day:  # else newer closes are stored, see `_later`
        remedy = NEWER_CLOSES.get(
            context.history.source,
            "`closecast run` fetches newer ones; if runs are scheduled, they have stopped or fail.",
        )
        yield Note(
            "old closes",
            f"The newest close is of {short_day(newest_day)}, {count((day - newest_day).days, 'day')} before"
            f" this page was written: the first day of the newest forecast is over. {remedy}",
        )


def _alarms(context: ReportContext) -> Iterator[Note]:
    model = context.model
    for alarm in context.board.alarms:
        yield Note("coverage alarm", f"Coverage alarm: {alarm}.")
    if model and model.too_old:
        yield Note(
            "old model",
            f"The model is {model.age_days} days old; after {model.max_age_days} days a successor is overdue:"
            " look at `closecast versions`.",
        )


def _ways(context: ReportContext) -> Iterator[Note]:
    """Notes on how the forecast was made: more than a day ahead, or not by the product's own model."""
    forecast, model = context.asked, context.model
    days, origin = forecast.first.horizon, short_day(forecast.origin_day)
    if forecast.basis == "fallback":
        closes = count(len(context.history.candles), "close")
        reason = (
            f"no model could forecast from the {closes} up to {origin}, which are too few, or lack one of the"
            " newest days"
        )
        if context.forecast.basis != "fallback":
            reason = f"no model forecasts {days} days ahead"
        yield Note(
            "fallback",
            f"This is a fallback, made by the baselines alone: {reason}. Fallbacks are scored separately.",
        )
    if forecast.basis == "pool" and model:
        yield Note(
            "pool",
            f"The model was trained on {listed(model.pooled)} alone: {forecast.product_id} is too young for"
            " its own.",
        )
    if days > 1:
        yield Note(
            f"{days} days ahead",
            f"The newest known close is of {origin}: this is the forecast of the close {days} days"
            " after it. No price was invented for the days between.",
        )


def _later(context: ReportContext) -> Iterator[Note]:
    """What came after the forecast: a revision, or its close."""
    forecast, newest_day = context.asked, context.last_day
    if context.revisions:
        again, newest = count(len(context.revisions), "revision"), context.revisions[-1].first.point
        which = "This day" if forecast.first.horizon == 1 else short_day(context.forecast.first.target_day)
        yield Note(
            "revised",
            f"{which} was forecast again ({again}); the newest point is {forecast.price(newest)}. The first"
            " forecast is the published one, and is scored.",
        )
    if newest_day >= forecast.first.target_day:
        yield Note(
            "close known",
            f"The close of this day is known, prices are stored up to {short_day(newest_day)}: the next"
            " run scores the forecast and makes a new one.",
        )
