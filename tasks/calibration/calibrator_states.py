"""The tracker's states: one after each scored outcome, in the order of days, each exactly once.

A chain of states belongs to a product and a recipe. When an outcome comes late (a gap that is filled), the
states of its day and of all later days are made anew beside the old ones, under the next revision: of a day,
the highest revision counts, and a forecast keeps naming the state that it was made with.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from storage.core.home import Home
from storage.tables.delta import among
from storage.tables.predictions import Predictions
from storage.tables.schemas import calibrator, components
from storage.tables.scores import Scores
from tasks.calibration.quantile_tracker import advance
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.min_max import Floats

log = logging.getLogger("closecast.track")

OWN = "lstm"  # the method under which the ensemble's word stands among the components
# How a state hangs together with the one before it, and with its outcome.
LINKS = ("target_day", "revision", "calibrator_version", "prediction_id", "previous_version")
NEAR_DAYS = 30


@dataclass(frozen=True)
class State:
    """Corrections in scales, (23,), after the outcomes up to `target_day`."""

    calibrator_version: str
    target_day: date
    quantile_offsets: Floats


@dataclass(frozen=True)
class _Outcome:
    target_day: date
    prediction_id: str
    close: float
    quantiles: Floats


def state_at(home: Home, product_id: str, recipe: Recipe, origin: date) -> State | None:
    """The state that a forecast from `origin` is made with, None before the chain's first."""
    table = calibrator(home, product_id)
    at = table.snapshot()
    # Nearly always one of the newest days has it; what came in between is not read.
    for first in (origin - timedelta(days=NEAR_DAYS), None):
        rows = at.read(_of_chain(recipe, first, origin)).to_pylist()
        if branch := _branch(rows):
            return _as_state(branch[max(branch)])
    return None


def first_state(
    home: Home, product_id: str, recipe: Recipe, origin: date, quantile_offsets: Floats, moment: datetime
) -> State:
    """Begin a chain on `origin` with the quantile_offsets of the model's own warm-up."""
    row = _row(product_id, recipe, origin, 0, None, None, quantile_offsets, moment)
    calibrator(home).add([row])
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
    table = calibrator(home, product_id)
    at = table.snapshot()
    chain = _of_chain(recipe, None, origin)
    settled = _settled(home, product_id, recipe, at.read(chain, LINKS), origin)
    if settled is None:
        return 0
    after = _of_chain(recipe, settled, origin)
    branch = _branch(at.read(after).to_pylist())
    starts = [day for day, row in branch.items() if row["prediction_id"] is None]
    before, rows, new = branch[settled], [], 0
    for outcome in _outcomes(home, product_id, recipe, after=settled, through=origin):
        day = outcome.target_day
        if day in starts:  # the warm-up there has taken that day in
            continue
        before = max([before, *(branch[start] for start in starts if start < day)], key=_target_day)
        known = branch.get(day)
        if known and _follows(known, outcome, before):
            before = known
            continue
        new += not known or known["prediction_id"] != outcome.prediction_id
        quantile_offsets = advance(
            _corrections(before), outcome.close, outcome.quantiles, step=recipe.tracker_step
        )
        before = _row(
            product_id,
            recipe,
            day,
            known["revision"] + 1 if known else 0,
            outcome.prediction_id,
            before["calibrator_version"],
            quantile_offsets,
            moment,
        )
        rows.append(before)
    table.add(rows)
    if len(rows) > new:
        first = rows[0]["target_day"]
        log.info("%s: %d states of the tracker made anew from %s on", product_id, len(rows) - new, first)
    return new


def _follows(known: Mapping[str, Any], outcome: _Outcome, before: Mapping[str, Any]) -> bool:
    """Whether a state took in that outcome, and came from the state before."""
    return bool(
        known["prediction_id"] == outcome.prediction_id
        and known["previous_version"] == before["calibrator_version"]
    )


def _target_day(row: Mapping[str, Any]) -> date:
    day: date = row["target_day"]
    return day


def _of_chain(recipe: Recipe, first: date | None, last: date) -> ds.Expression:
    """The states of a recipe whose day lies in the inclusive span."""
    wanted = (ds.field("recipe_version") == recipe.recipe_version) & (ds.field("target_day") <= last)
    return wanted & (ds.field("target_day") >= first) if first else wanted


def _branch(rows: Sequence[dict[str, Any]]) -> dict[date, dict[str, Any]]:
    """The states that count, by day."""
    found: dict[date, dict[str, Any]] = {}
    for row in rows:
        known = found.get(row["target_day"])
        if known is None or row["revision"] > known["revision"]:
            found[row["target_day"]] = row
    return found


def _settled(home: Home, product_id: str, recipe: Recipe, states: pa.Table, origin: date) -> date | None:
    """The newest day up to which no outcome changes the chain; None when none changes it at all.

    A state is settled when it came from the one that counts before it and took in the first of its day's
    forecasts that has a score and is of the chain. Of all days a few columns are compared here, so that what
    is long need be read of those after the settled day alone.

    Args:
        home: as `advance_tracker`.
        product_id: whose chain.
        recipe: whose chain.
        states: the columns `LINKS` of every state up to the origin.
        origin: the last day that the run may know.
    """
    links = states.to_pandas(date_as_object=False)
    links = links.sort_values(["target_day", "revision"], ascending=[True, False], kind="stable")
    links = links.drop_duplicates("target_day")
    days, begun = links["target_day"], links["prediction_id"].isna()
    if not begun.any():
        return None
    follows = begun | (links["previous_version"] == links["calibrator_version"].shift())
    changing = [days[~follows].min(), _open_days(home, product_id, recipe, links, origin).min()]
    first = min((day for day in changing if not pd.isna(day)), default=None)
    return None if first is None else cast("pd.Timestamp", days[days < first].max()).date()


def _open_days(
    home: Home, product_id: str, recipe: Recipe, links: pd.DataFrame, origin: date
) -> pd.Series[pd.Timestamp]:
    """The days whose outcome is not the one that their state in `links` took in.

    After the newest state that is every day with a forecast: whether it has an outcome is not asked here.
    """
    starts = links["target_day"][links["prediction_id"].isna()]
    forecasts = (
        Predictions(home)
        .between(
            product_id,
            first=starts.min().date() + timedelta(days=1),
            last=origin,
            profile=recipe.name,
            columns=["target_day", "prediction_id"],
        )
        .to_pandas(date_as_object=False)
    )
    days = forecasts["target_day"]
    took_in = forecasts["prediction_id"] == days.map(links.set_index("target_day")["prediction_id"])
    passed = took_in.groupby(days).cumsum() > 0  # what comes after it on its day teaches nothing
    left = forecasts[~passed & ~days.isin(starts)]
    late = left["target_day"] <= links["target_day"].max()
    if late.any():  # nearly always of another chain, or waiting for a close that never came
        names = left["prediction_id"][late].tolist()
        dates = left["target_day"][late].dt.date.unique().tolist()
        wanted = among("target_day", dates) & among("prediction_id", names)
        scored = Scores(home).of_days(product_id, dates, ["prediction_id"])["prediction_id"].to_pylist()
        known = _made_by(home, product_id, recipe, wanted).intersection(scored)
        left = left[~late | left["prediction_id"].isin(known)]
    open_days: pd.Series[pd.Timestamp] = left["target_day"]
    return open_days


def _made_by(home: Home, product_id: str, recipe: Recipe, wanted: ds.Expression) -> set[str]:
    """The forecasts of the chain among the components that match."""
    ours = ds.field("component") == OWN
    made = (
        components(home, product_id).read(ours & wanted, ["prediction_id", "calibrator_version"]).to_pylist()
    )
    return {
        row["prediction_id"]
        for row in made
        if row["calibrator_version"].startswith(f"{recipe.recipe_version}:")
    }


def _outcomes(home: Home, product_id: str, recipe: Recipe, *, after: date, through: date) -> list[_Outcome]:
    """The chain's scored forecasts by day: of each day its first, with the close that was known first."""
    first = after + timedelta(days=1)
    target = ds.field("target_day")
    chain = _made_by(home, product_id, recipe, (target >= first) & (target <= through))
    columns = ["prediction_id", "close"]
    closes: dict[str, float] = {}
    for row in Scores(home).read(product_id, first=first, last=through, columns=columns).to_pylist():
        closes.setdefault(row["prediction_id"], row["close"])
    columns = ["target_day", "prediction_id", "quantiles"]
    rows = Predictions(home).between(
        product_id, first=first, last=through, profile=recipe.name, columns=columns
    )
    found: dict[date, _Outcome] = {}
    for row in rows.to_pylist():
        day, name = row["target_day"], row["prediction_id"]
        if name in chain and name in closes and day not in found:
            found[day] = _Outcome(day, name, closes[name], np.array(row["quantiles"]))
    return [found[day] for day in sorted(found)]


def _row(
    product_id: str,
    recipe: Recipe,
    day: date,
    revision: int,
    prediction_id: str | None,
    previous: str | None,
    quantile_offsets: Floats,
    moment: datetime,
) -> dict[str, Any]:
    parts = f"{product_id}\n{day}\n{prediction_id}\n{previous}\n".encode() + quantile_offsets.tobytes()
    return {
        "calibrator_version": f"{recipe.recipe_version}:{hashlib.sha256(parts).hexdigest()[:16]}",
        "product_id": product_id,
        "profile": recipe.name,
        "horizon": recipe.horizon,
        "recipe_version": recipe.recipe_version,
        "target_day": day,
        "revision": revision,
        "prediction_id": prediction_id,
        "previous_version": previous,
        "quantile_offsets": quantile_offsets.tolist(),
        "created_at": moment,
    }


def _as_state(row: Mapping[str, Any]) -> State:
    return State(row["calibrator_version"], row["target_day"], _corrections(row))


def _corrections(row: Mapping[str, Any]) -> Floats:
    return np.array(row["quantile_offsets"], dtype=np.float64)
