"""The calibrator's states: a chain that has one state after each scored outcome, in the order of target days.

A chain belongs to a product and a recipe, and has a branch for each horizon. When an outcome arrives late,
because a gap was filled, the states of its day and of all later days are computed again and added under the
next revision. The current state of a day is that of the highest revision. The old ones stay: a forecast
names the state that it was made with.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
from numpy.typing import NDArray

from closecast.storage.core.home import Home
from closecast.storage.tables.delta import among
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import calibrator, components
from closecast.storage.tables.scores import Scores
from closecast.tasks.calibration.quantile_tracker import update_offsets
from closecast.tasks.core.types import Floats

log = logging.getLogger("closecast.calibration")

# The columns that link a state to its predecessor and to its outcome.
BRANCH_DAY = ["horizon", "target_day"]
LINKS = (*BRANCH_DAY, "revision", "calibrator_version", "prediction_id", "previous_version")
NEAR_DAYS = 30
Row = dict[str, Any]


@dataclass(frozen=True)
class Chain:
    """What the states of a chain have in common."""

    product_id: str
    profile: str
    recipe_version: str
    step: float  # of the tracker, in sigmas

    def states(self, first: date | None, last: date) -> ds.Expression:
        """The filter of the chain's states from the target day `first` (by default all) through `last`."""
        wanted = (ds.field("recipe_version") == self.recipe_version) & (ds.field("target_day") <= last)
        return wanted & (ds.field("target_day") >= first) if first else wanted


@dataclass(frozen=True)
class CalibratorState:
    """Quantile offsets in sigmas, (levels,), after the outcomes up to `target_day`."""

    calibrator_version: str
    target_day: date
    quantile_offsets: Floats


def states_at(
    home: Home, chain: Chain, origin: date, first_offsets: Mapping[int, Floats], moment: datetime
) -> dict[int, CalibratorState]:
    """The states that forecasts from `origin` are made with, by horizon.

    A branch without a state up to `origin` begins there with its first offsets, (levels,) in sigmas, which
    are added to the table.
    """
    table = calibrator(home, chain.product_id)
    snapshot, newest = table.snapshot(), dict[int, Row]()
    # Nearly always the newest days have a state of each branch, and the older ones need not be read.
    for first in (origin - timedelta(days=NEAR_DAYS), None):
        if not first_offsets.keys() - newest.keys():
            break
        branches = _by_horizon(snapshot.read(chain.states(first, origin)).to_pylist())
        newest = {horizon: branch[max(branch)] for horizon, branch in branches.items()}
    new = [
        _row(chain, horizon, origin, 0, None, None, offsets, moment)
        for horizon, offsets in first_offsets.items()
        if horizon not in newest
    ]
    table.add(new)
    newest |= {row["horizon"]: row for row in new}
    return {horizon: _as_state(newest[horizon]) for horizon in first_offsets}


def advance_states(home: Home, chain: Chain, origin: date, moment: datetime) -> int:
    """Extend every branch by the outcomes that were scored up to `origin`; returns how many were added.

    A state that does not follow from the current state before it is computed again. A run on a past day may
    have begun a section of its own, which ends where the next one begins. The caller holds the product's
    lock and has scored the due forecasts.
    """
    table = calibrator(home, chain.product_id)
    snapshot = table.snapshot()
    links = snapshot.read(chain.states(None, origin), LINKS).to_pandas(date_as_object=False)
    settled = _settled(home, chain, links, origin)
    if not settled:
        return 0
    first = min(settled.values())
    branches = _by_horizon(snapshot.read(chain.states(first, origin)).to_pylist())
    rows, new = list[Row](), 0
    for horizon, outcomes in _outcomes(home, chain, after=first, through=origin).items():
        if horizon in settled:
            begun = settled[horizon]
            branch = {day: row for day, row in branches[horizon].items() if day >= begun}
            later = [outcome for outcome in outcomes if outcome["target_day"] > begun]
            further, added = _advanced(chain, horizon, branch, later, moment)
            rows, new = rows + further, new + added
    table.add(rows)
    if len(rows) > new:
        text = "%s: calibrator states from %s on computed again: %d"
        log.info(text, chain.product_id, min(row["target_day"] for row in rows), len(rows) - new)
    return new


def _advanced(
    chain: Chain, horizon: int, branch: Mapping[date, Row], outcomes: Iterable[Row], moment: datetime
) -> tuple[list[Row], int]:
    """The rows to add to a branch, whose first day is settled, and how many of them add an outcome."""
    starts = [day for day, row in branch.items() if row["prediction_id"] is None]
    before, rows, new = branch[min(branch)], list[Row](), 0
    for outcome in outcomes:
        day = outcome["target_day"]
        if day in starts:  # the first offsets of a section include the outcome of its first day
            continue
        earlier = [before, *(branch[start] for start in starts if start < day)]
        before = max(earlier, key=lambda row: row["target_day"])
        state, previous = branch.get(day), before["calibrator_version"]
        learned = state is not None and state["prediction_id"] == outcome["prediction_id"]
        if state and learned and state["previous_version"] == previous:
            before = state
            continue
        new += not learned
        offsets = update_offsets(
            np.array(before["quantile_offsets"]), outcome["close"], outcome["quantiles"], step=chain.step
        )
        revision = state["revision"] + 1 if state else 0
        before = _row(chain, horizon, day, revision, outcome["prediction_id"], previous, offsets, moment)
        rows.append(before)
    return rows, new


def _by_horizon(rows: Sequence[Row]) -> dict[int, dict[date, Row]]:
    """The current states by horizon and day: the highest revision of a day, and the first row of that."""
    branches = defaultdict[int, dict[date, Row]](dict)
    for row in sorted(rows, key=lambda row: int(row["revision"]), reverse=True):
        branches[row["horizon"]].setdefault(row["target_day"], row)
    return branches


def _settled(home: Home, chain: Chain, links: pd.DataFrame, origin: date) -> dict[int, date]:
    """The newest settled day of each branch that an outcome changes, by horizon.

    A state is settled when it follows from the current state before it, and its outcome is that of its day's
    first forecast that has a score and belongs to the chain. This takes a few columns only; the long ones
    are read later, of the days after the settled one.
    """
    if links.empty:
        return {}
    links = links.sort_values([*BRANCH_DAY, "revision"], ascending=[True, True, False], kind="stable")
    links = links.drop_duplicates(BRANCH_DAY)
    follows = links["previous_version"] == links.groupby("horizon")["calibrator_version"].shift()
    broken = links[~follows & links["prediction_id"].notna()]
    first = links["target_day"].min().date() + timedelta(days=1)
    open_days = _open_days(home, chain, links, _forecasts(home, chain, first, origin, ()))
    changing = pd.concat([broken[BRANCH_DAY], open_days]).groupby("horizon")["target_day"].min()
    settled = links[links["target_day"] < _of_horizon(changing, links)]
    newest = settled.groupby("horizon")["target_day"].max()
    return {int(cast("int", horizon)): day.date() for horizon, day in newest.items()}


def _open_days(home: Home, chain: Chain, links: pd.DataFrame, forecasts: pd.DataFrame) -> pd.DataFrame:
    """The horizons and days (`BRANCH_DAY`) whose outcome is not that of their state in `links`.

    After a branch's newest state that is every day with a forecast, whether or not it has an outcome.
    """
    begins = links["prediction_id"].isna()
    begun = links[begins].groupby("horizon")["target_day"].min()
    forecasts = forecasts[forecasts["target_day"] > _of_horizon(begun, forecasts)]
    days = pd.MultiIndex.from_frame(forecasts[BRANCH_DAY])
    learned = (
        links.set_index(BRANCH_DAY)["prediction_id"].reindex(days).to_numpy() == forecasts["prediction_id"]
    )
    # Only one forecast of a day is learned from.
    learned_or_later = learned.groupby([forecasts[name] for name in BRANCH_DAY]).cumsum() > 0
    starts = days.isin(pd.MultiIndex.from_frame(links.loc[begins, BRANCH_DAY]))
    open_forecasts = forecasts[~learned_or_later & ~starts]
    newest = links.groupby("horizon")["target_day"].max()
    late = open_forecasts["target_day"] <= _of_horizon(newest, open_forecasts)
    if late.any():  # nearly always forecasts of another chain, or of a day that never had a close
        ids = open_forecasts["prediction_id"][late].tolist()
        dates = open_forecasts["target_day"][late].dt.date.unique().tolist()
        wanted = among("target_day", dates) & among("prediction_id", ids)
        scored = Scores(home).of_days(chain.product_id, dates, ["prediction_id"])["prediction_id"].to_pylist()
        ours = _members(home, chain, wanted).intersection(scored)
        open_forecasts = open_forecasts[~late | open_forecasts["prediction_id"].isin(ours)]
    open_days: pd.DataFrame = open_forecasts[BRANCH_DAY]
    return open_days


def _of_horizon(days: pd.Series[pd.Timestamp], rows: pd.DataFrame) -> NDArray[np.datetime64]:
    """The day of each row's horizon, (rows,); NaT where `days` has none."""
    return days.reindex(rows["horizon"]).to_numpy()


def _forecasts(home: Home, chain: Chain, first: date, last: date, columns: Sequence[str]) -> pd.DataFrame:
    """The published forecasts and revisions of the chain's profile, with these columns beside the key."""
    names = ["target_day", "prediction_id", "horizon", *columns]
    rows = Predictions(home).between(
        chain.product_id, first=first, last=last, profile=chain.profile, columns=names
    )
    return cast("pd.DataFrame", rows.to_pandas(date_as_object=False))


def _members(home: Home, chain: Chain, wanted: ds.Expression) -> set[str]:
    """Ids of the forecasts that were made with a state of the chain, among the wanted components."""
    columns = ["prediction_id", "calibrator_version"]
    tracked = ds.field("calibrator_version").is_valid()
    rows = components(home, chain.product_id).read(tracked & wanted, columns).to_pylist()
    prefix = f"{chain.recipe_version}:"
    return {row["prediction_id"] for row in rows if row["calibrator_version"].startswith(prefix)}


def _outcomes(home: Home, chain: Chain, *, after: date, through: date) -> dict[int, list[Row]]:
    """The chain's scored forecasts by horizon, oldest target day first.

    Of a day's forecasts only the first is learned from, with the close that it was first scored with.
    """
    first, target = after + timedelta(days=1), ds.field("target_day")
    members = _members(home, chain, (target >= first) & (target <= through))
    columns = ["prediction_id", "close"]
    scores = Scores(home).between(chain.product_id, first=first, last=through, columns=columns).to_pandas()
    forecasts = _forecasts(home, chain, first, through, ["quantiles"])
    ours = forecasts[forecasts["prediction_id"].isin(members)]
    outcomes = ours.merge(scores.drop_duplicates("prediction_id"), on="prediction_id")
    outcomes = outcomes.drop_duplicates(["horizon", "target_day"]).sort_values("target_day", kind="stable")
    outcomes["target_day"] = outcomes["target_day"].dt.date
    return {
        int(cast("int", horizon)): cast("list[Row]", part.to_dict("records"))
        for horizon, part in outcomes.groupby("horizon")
    }


def _row(
    chain: Chain,
    horizon: int,
    day: date,
    revision: int,
    prediction_id: str | None,
    previous: str | None,
    offsets: Floats,
    moment: datetime,
) -> dict[str, Any]:
    parts = f"{chain.product_id}\n{day}\n{prediction_id}\n{previous}\n{horizon}\n".encode()
    digest = hashlib.sha256(parts + offsets.tobytes()).hexdigest()[:16]
    return {
        "calibrator_version": f"{chain.recipe_version}:{digest}",
        "product_id": chain.product_id,
        "profile": chain.profile,
        "horizon": horizon,
        "recipe_version": chain.recipe_version,
        "target_day": day,
        "revision": revision,
        "prediction_id": prediction_id,
        "previous_version": previous,
        "quantile_offsets": offsets.tolist(),
        "created_at": moment,
    }


def _as_state(row: Mapping[str, Any]) -> CalibratorState:
    return CalibratorState(row["calibrator_version"], row["target_day"], np.array(row["quantile_offsets"]))
