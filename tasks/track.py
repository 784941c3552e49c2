"""The tracker's states: one after each scored outcome, in the order of days, each exactly once.

A chain of states belongs to a product and a recipe. When an outcome comes late (a hole that is filled), the
states of its day and of all later days are made anew beside the old ones, under the next revision: of a day,
the highest revision counts, and a forecast keeps naming the state that it was made with.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from storage.home import Home
from storage.ledger import ingredients, trackers
from storage.predictions import Predictions
from storage.scores import Scores
from tasks.calibrate import advance
from tasks.recipe import Recipe
from tasks.scale import Floats

log = logging.getLogger("closecast.track")

OWN = "lstm"  # the method under which the ensemble's word stands among the ingredients


@dataclass(frozen=True)
class State:
    """Corrections in scales, (23,), after the outcomes up to `target_day`."""

    tracker_version: str
    target_day: date
    corrections: Floats


@dataclass(frozen=True)
class _Outcome:
    target_day: date
    prediction_id: str
    close_usd: float
    quantiles_usd: Floats


def state_at(home: Home, product_id: str, recipe: Recipe, origin: date) -> State | None:
    """The state that a forecast from `origin` is made with, None before the chain's first."""
    past = [row for row in _branch(home, product_id, recipe).values() if row["target_day"] <= origin]
    return _as_state(max(past, key=lambda row: row["target_day"])) if past else None


def first_state(
    home: Home, product_id: str, recipe: Recipe, origin: date, corrections: Floats, moment: datetime
) -> State:
    """Begin a chain on `origin` with the corrections of the model's own warm-up."""
    row = _row(product_id, recipe, origin, 0, None, None, corrections, moment)
    trackers(home).add([row])
    return _as_state(row)


def advance_tracker(home: Home, product_id: str, recipe: Recipe, origin: date, moment: datetime) -> int:
    """Bring the chain up to every outcome that was scored up to `origin`; returns how many were taken in.

    A state stays when it came from the state that now counts before it, and is made anew otherwise. A run on
    a day of the past may have begun a stretch of its own, which ends where the next one begins.

    Args:
        home: prepared, with the product's lock held, the due forecasts scored.
        product_id: whose chain.
        recipe: whose chain.
        origin: the last day that the run may know.
        moment: of the run.
    """
    branch = _branch(home, product_id, recipe)
    if not branch:
        return 0
    taken = {row["prediction_id"] for row in branch.values()}
    starts = [day for day, row in branch.items() if row["prediction_id"] is None]
    before, rows = branch[min(starts)], []
    for outcome in _outcomes(home, product_id, recipe, after=min(starts), through=origin):
        day = outcome.target_day
        if day in starts:  # the warm-up there has taken that day in
            continue
        before = max([before, *(branch[start] for start in starts if start < day)], key=_target_day)
        known = branch.get(day)
        if known and _follows(known, outcome, before):
            before = known
            continue
        corrections = advance(
            _corrections(before), outcome.close_usd, outcome.quantiles_usd, step=recipe.tracker_step
        )
        before = _row(
            product_id,
            recipe,
            day,
            known["revision"] + 1 if known else 0,
            outcome.prediction_id,
            before["tracker_version"],
            corrections,
            moment,
        )
        rows.append(before)
    trackers(home).add(rows)
    new = sum(row["prediction_id"] not in taken for row in rows)
    if len(rows) > new:
        first = rows[0]["target_day"]
        log.info("%s: %d states of the tracker made anew from %s on", product_id, len(rows) - new, first)
    return new


def _follows(known: Mapping[str, Any], outcome: _Outcome, before: Mapping[str, Any]) -> bool:
    """Whether a state took in that outcome, and came from the state before."""
    return bool(
        known["prediction_id"] == outcome.prediction_id
        and known["previous_version"] == before["tracker_version"]
    )


def _target_day(row: Mapping[str, Any]) -> date:
    day: date = row["target_day"]
    return day


def _branch(home: Home, product_id: str, recipe: Recipe) -> dict[date, dict[str, Any]]:
    """The states that count, by day."""
    wanted = (ds.field("product_id") == product_id) & (ds.field("recipe_version") == recipe.recipe_version)
    found: dict[date, dict[str, Any]] = {}
    for row in trackers(home).read(wanted).to_pylist():
        known = found.get(row["target_day"])
        if known is None or row["revision"] > known["revision"]:
            found[row["target_day"]] = row
    return found


def _outcomes(home: Home, product_id: str, recipe: Recipe, *, after: date, through: date) -> list[_Outcome]:
    """The chain's scored forecasts by day: of each day its first, with the close that was known first."""
    ours = (ds.field("product_id") == product_id) & (ds.field("method") == OWN)
    made = ingredients(home).read(ours, ["prediction_id", "tracker_version"]).to_pylist()
    chain = {
        row["prediction_id"] for row in made if row["tracker_version"].startswith(f"{recipe.recipe_version}:")
    }
    closes: dict[str, float] = {}
    for row in Scores(home).read(product_id, last=through).to_pylist():
        closes.setdefault(row["prediction_id"], row["close_usd"])
    found: dict[date, _Outcome] = {}
    for row in Predictions(home).between(product_id, last=through, profile=recipe.name).to_pylist():
        day, name = row["target_day"], row["prediction_id"]
        if name in chain and name in closes and day > after and day not in found:
            found[day] = _Outcome(day, name, closes[name], np.array(row["quantiles_usd"]))
    return [found[day] for day in sorted(found)]


def _row(
    product_id: str,
    recipe: Recipe,
    day: date,
    revision: int,
    prediction_id: str | None,
    previous: str | None,
    corrections: Floats,
    moment: datetime,
) -> dict[str, Any]:
    parts = f"{product_id}\n{day}\n{prediction_id}\n{previous}\n".encode() + corrections.tobytes()
    return {
        "tracker_version": f"{recipe.recipe_version}:{hashlib.sha256(parts).hexdigest()[:16]}",
        "product_id": product_id,
        "profile": recipe.name,
        "recipe_version": recipe.recipe_version,
        "target_day": day,
        "revision": revision,
        "prediction_id": prediction_id,
        "previous_version": previous,
        "corrections": corrections.tolist(),
        "created_at": moment,
    }


def _as_state(row: Mapping[str, Any]) -> State:
    return State(row["tracker_version"], row["target_day"], _corrections(row))


def _corrections(row: Mapping[str, Any]) -> Floats:
    return np.array(row["corrections"], dtype=np.float64)
