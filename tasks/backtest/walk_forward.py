"""Rolling-origin evaluation: each fold trains and forecasts by the very functions of the day.

A fold begins with a refit and ends before the next. Folds are prepared wherever and whenever the task
runner likes, each as if its refit passed the gate: models, gates within the fold and quantiles are made and
kept. Then they are walked through in order, which decides about the refits and moves the tracker; it finds
nearly all that it needs, and makes what it does not find, as after a refit that was refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from prefect import task

from storage.core.home import Home
from storage.models.backtest_cache import Folds
from storage.tables.schemas import backtests
from tasks.backtest.plan import Plan, candles_until, origins_between
from tasks.calibration.calibrator_states import OWN
from tasks.calibration.quantile_tracker import to_prices, track
from tasks.core.quantiles import LEVELS, MEDIAN
from tasks.core.steps import STEP
from tasks.core.types import Floats
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.distribution import Said, first_quantile_offsets, say
from tasks.profiles.ensemble import fine_tune_ensemble, fit_ensemble
from tasks.profiles.ensemble_io import Stored, read_ensemble, write_ensemble
from tasks.training.gate import gate
from tasks.training.policy import ModelCandidate, TrainingKind, champion_of, decide

log = logging.getLogger("closecast.backtest")


@dataclass(frozen=True)
class _Walk:
    """Where a walk stands: the versions so far with their folders, and the tracker."""

    known: tuple[ModelCandidate, ...] = ()
    names: Mapping[str, str] | None = None
    quantile_offsets: Floats | None = None
    gates: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        plain = json.loads(json.dumps([asdict(one) for one in self.known], default=date.isoformat))
        quantile_offsets = None if self.quantile_offsets is None else self.quantile_offsets.tolist()
        return {
            "known": plain,
            "names": self.names,
            "quantile_offsets": quantile_offsets,
            "gates": list(self.gates),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any] | None) -> _Walk:
        if plain is None:
            return cls()
        days = ("origin", "trained_through")
        known = tuple(
            ModelCandidate(**{**one, **{name: date.fromisoformat(one[name]) for name in days}})
            for one in plain["known"]
        )
        return cls(known, plain["names"], np.array(plain["quantile_offsets"]), tuple(plain["gates"]))


def prepare_fold(home: Home, plan: Plan, fold: int) -> None:
    """Make and keep what the fold's walk will ask for if its refit passes the gate."""
    if Folds(home, plan.backtest_id).read(f"fold-{fold}") is None:
        _through(home, plan, fold, _Walk())


def walk_fold(home: Home, plan: Plan, fold: int) -> int:
    """Walk through the fold's origins as the days would; returns how many rows that added to the table.

    Args:
        home: prepared.
        plan: of the backtest.
        fold: its number; the fold before must have been walked.
    """
    folds = Folds(home, plan.backtest_id)
    if folds.read(f"fold-{fold}") is not None:
        return 0
    before = _Walk.from_json(folds.read(f"fold-{fold - 1}") if fold else None)
    walk, rows = _through(home, plan, fold, before)
    added = backtests(home).add(rows)
    folds.write(f"fold-{fold}", walk.as_json())
    return added


def _through(home: Home, plan: Plan, fold: int, walk: _Walk) -> tuple[_Walk, list[dict[str, Any]]]:
    """The walk after the fold, and its rows: the origins between two decisions share their champion."""
    folds, recipe = Folds(home, plan.backtest_id), plan.recipe
    first, last = plan.span(fold)
    candles, _ = candles_until(home, plan, last + timedelta(days=1))
    origins = origins_between(candles, recipe, first, last)
    days = candles["day_utc"].dt.date.to_numpy()
    rows: list[dict[str, Any]] = []
    start = 0
    for place, row in enumerate(origins):
        before = champion_of(walk.known, days[row])
        later = _decided(home, plan, walk, days[row])
        if later is not walk and before is not None and place > start:
            walk, found = _forecasts(folds, plan, fold, walk, before, candles, origins[start:place])
            rows, start = rows + found, place
            later = replace(later, quantile_offsets=walk.quantile_offsets)
        walk = later
    champion = champion_of(walk.known, last)
    assert champion is not None  # noqa: S101 (the first refit has nobody to be refused by)
    walk, found = _forecasts(folds, plan, fold, walk, champion, candles, origins[start:])
    return walk, rows + found


def _decided(home: Home, plan: Plan, walk: _Walk, origin: date) -> _Walk:
    """The walk after what is due on `origin` was done, the same object when nothing is."""
    recipe = plan.recipe
    decision = decide(walk.known, origin, recipe)
    if decision.action == "keep":
        return walk
    folds = Folds(home, plan.backtest_id)
    candles, pools = candles_until(home, plan, origin)
    champion = champion_of(walk.known, origin)
    names = dict(walk.names or {})
    if decision.action == "refit":
        name = _refitted(folds, recipe, candles, pools, origin)
    else:
        assert champion is not None  # noqa: S101 (only a champion is fine-tuned)
        name = _fine_tuned(folds, recipe, names[champion.version], candles, pools, origin)
    challenger = _read(folds, name, recipe)
    accepted, gates = True, walk.gates
    if champion is not None:
        accepted, text = _judged(folds, recipe, names[champion.version], name, candles)
        gates = (*gates, f"{origin} {decision.action} {text}")
    training_kind: TrainingKind = decision.action
    one = ModelCandidate(
        version=str(len(walk.known) + 1),
        origin=origin,
        trained_through=challenger.ensemble.trained_through,
        training_kind=training_kind,
        status="accepted" if accepted else "refused",
    )
    quantile_offsets = challenger.quantile_offsets if walk.quantile_offsets is None else walk.quantile_offsets
    return _Walk((*walk.known, one), {**names, one.version: name}, quantile_offsets, gates)


def _judged(
    folds: Folds, recipe: Recipe, champion: str, challenger: str, candles: pd.DataFrame
) -> tuple[bool, str]:
    """Whether the challenger passes the gate on these candles, and its figures in words."""
    key = f"gate-{challenger}-after-{champion}"
    kept = folds.read(key)
    if kept is None:
        before, after = (_read(folds, name, recipe).ensemble for name in (champion, challenger))
        said = gate(before, after, candles, recipe)
        kept = {"passed": said.passed, "text": str(said)}
        folds.write(key, kept)
    return kept["passed"], kept["text"]


def _refitted(
    folds: Folds,
    recipe: Recipe,
    candles: pd.DataFrame,
    pools: Mapping[str, pd.DataFrame],
    origin: date,
) -> str:
    name = f"refit-{origin}"
    if not folds.has(name):
        trained = fit_ensemble(candles, recipe, pools)
        quantile_offsets = first_quantile_offsets(trained, candles, recipe)
        lineage = {"origin_day": str(origin), "training_kind": "refit"}
        with folds.draft(name) as draft:
            write_ensemble(draft, trained, recipe, quantile_offsets, lineage)
    return name


def _fine_tuned(
    folds: Folds,
    recipe: Recipe,
    parent: str,
    candles: pd.DataFrame,
    pools: Mapping[str, pd.DataFrame],
    origin: date,
) -> str:
    # The parent's own name would hold its parent's, and so on: a file's name has an end.
    name = f"fine-tune-{origin}-of-{hashlib.sha256(parent.encode()).hexdigest()[:12]}"
    if not folds.has(name):
        before = _read(folds, parent, recipe)
        trained = fine_tune_ensemble(before.ensemble, candles, recipe, pools)
        lineage = {"origin_day": str(origin), "training_kind": "fine-tune", "parent": parent}
        with folds.draft(name) as draft:
            write_ensemble(draft, trained, recipe, before.quantile_offsets, lineage)
    return name


def _forecasts(
    folds: Folds,
    plan: Plan,
    fold: int,
    walk: _Walk,
    champion: ModelCandidate,
    candles: pd.DataFrame,
    rows: NDArray[np.int64],
) -> tuple[_Walk, list[dict[str, Any]]]:
    """The champion's forecasts from the origin rows, one table row a method and origin; the tracker after."""
    assert walk.names is not None  # noqa: S101 (there is a champion)
    assert walk.quantile_offsets is not None  # noqa: S101
    recipe, name = plan.recipe, walk.names[champion.version]
    said = _said(folds, recipe, name, candles, rows)
    closes = candles["close"].to_numpy(dtype=np.float64)
    days = candles["day_utc"].dt.date.to_numpy()
    last, came = closes[rows], closes[rows + 1]
    tracked, quantile_offsets = track(
        said.mixed, said.scales, last, came, walk.quantile_offsets, step=recipe.tracker_step
    )
    methods: dict[str, Floats] = {recipe.name: tracked}
    for method, quantiles in {OWN: said.own, **said.baselines}.items():
        methods[method] = np.stack([to_prices(row, usd) for row, usd in zip(quantiles, last, strict=True)])
    common = {
        "backtest_id": plan.backtest_id,
        "product_id": plan.product_id,
        "profile": recipe.name,
        "fold": fold,
        "horizon": recipe.horizon,
        "quantile_levels": list(LEVELS),
        "created_at": plan.created_at,
    }
    found = [
        {
            **common,
            "component": method,
            "model": name if method in (OWN, recipe.name) else method,
            "origin_day": days[row],
            "target_day": days[row + 1],
            "last_close": float(last[place]),
            "close": float(came[place]),
            "sigma": float(said.scales[place]),
            "quantiles": quantiles[place].tolist(),
            "point": float(quantiles[place][MEDIAN]),
        }
        for method, quantiles in methods.items()
        for place, row in enumerate(rows)
    ]
    return replace(walk, quantile_offsets=quantile_offsets), found


def _said(folds: Folds, recipe: Recipe, name: str, candles: pd.DataFrame, rows: NDArray[np.int64]) -> Said:
    """What the model and the baselines say from these origins; JSON keeps every bit."""
    days = candles["day_utc"].dt.date.to_numpy()[rows]
    key = f"said-{name}-{days[0]}-{days[-1]}"
    kept = folds.read(key)
    if kept is None:
        said = say(_read(folds, name, recipe).ensemble, candles, rows, recipe)
        folds.write(key, said.as_json())
        return said
    return Said.from_json(kept)


def _read(folds: Folds, name: str, recipe: Recipe) -> Stored:
    return read_ensemble(folds.open(name), recipe)


prepare_one = task(name="prepare-fold", task_run_name="prepare-fold {fold}", timeout_seconds=7200, **STEP)(
    prepare_fold
)
walk_one = task(name="walk-fold", task_run_name="walk-fold {fold}", timeout_seconds=7200, **STEP)(walk_fold)
