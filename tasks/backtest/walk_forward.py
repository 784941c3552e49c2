"""Walk-forward evaluation: each fold trains and forecasts with the functions of the daily run.

A fold begins with a refit and ends before the next. Folds are prepared wherever and whenever the task runner
likes, each as if its refit passed the gate: models, gates within the fold and predictions are made and
cached. Then they are walked in order, which decides about the refits and moves the tracker; that finds nearly
all that it needs in the cache, and makes the rest, as after a refit that was refused.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import operator
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow.dataset as ds
from pydantic import BaseModel

from closecast.storage.core.errors import NotEnoughHistory
from closecast.storage.core.home import Home
from closecast.storage.models.backtest_cache import STATE, BacktestCache
from closecast.storage.tables.schemas import backtests
from closecast.tasks.backtest.plan import Plan, origins_between, read_histories
from closecast.tasks.calibration.quantile_tracker import Tracker, to_prices, untracked
from closecast.tasks.core.forecast import Basis
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.model import TrainingKind
from closecast.tasks.core.quantiles import LEVELS, MEDIAN
from closecast.tasks.core.types import Rows
from closecast.tasks.profiles.base import FittedModel, Predicted, quantiles_and_sigmas
from closecast.tasks.training.gate import judge
from closecast.tasks.training.policy import ModelCandidate, Status, champion_at, decide, why_no_gate
from closecast.tasks.training.registration import read_bundle, train_model, training_basis, write_bundle

log = logging.getLogger("closecast.backtest")

# In place of a model's name where there is none, or none that can forecast from the origin.
FALLBACK = "fallback"


class WalkState(BaseModel, frozen=True):
    """The state of a walk: the versions with their names in the cache, the tracker, the gates so far."""

    candidates: tuple[ModelCandidate, ...] = ()
    models: dict[str, str] = {}
    offsets: dict[int, tuple[float, ...]] | None = None
    waiting: tuple[tuple[date, int, tuple[float, ...]], ...] = ()  # forecasts without an outcome yet
    gates: tuple[str, ...] = ()
    rows: int = 0  # in the table, of all folds so far


def clear_cache(home: Home, plan: Plan) -> None:
    """Delete what killed runs left and what was changed since; the backtest's lock is held.

    If the table has lost rows, all folds are walked again.
    """
    cache = BacktestCache(home, plan.backtest_id)
    cache.remove_drafts()
    cache.remove_damaged()
    if (last := cache.last_state()) is None:
        return
    own = ds.field("backtest_id") == plan.backtest_id
    stored = backtests(home, plan.product_id).read(own, ["fold"]).num_rows
    if stored < WalkState.model_validate(last).rows:
        log.warning("%s: rows of this backtest are missing: its folds are run again", plan.product_id)
        cache.remove_states()


def prepare_fold(home: Home, plan: Plan, fold: int) -> None:
    """Make and cache what the fold's walk needs if its refit passes the gate."""
    cache = BacktestCache(home, plan.backtest_id)
    if not cache.has_figures(f"{STATE}{fold}") and plan.folds[fold] not in plan.decided:
        walk = _FoldWalk(home, plan, fold, cache)
        for model, rows in walk.champions(walk.decided(WalkState())):
            walk.predicted(model, rows)


def walk_fold(home: Home, plan: Plan, fold: int) -> None:
    """Walk the fold's origins as the days would, and store their rows; the fold before was walked."""
    cache = BacktestCache(home, plan.backtest_id)
    if cache.has_figures(f"{STATE}{fold}"):
        return
    before = WalkState.model_validate(cache.read(f"{STATE}{fold - 1}") if fold else {})
    walk = _FoldWalk(home, plan, fold, cache)
    state, rows = walk.decided(before), list[dict[str, Any]]()
    for model, origins in walk.champions(state):
        state, added = walk.forecasts(state, model, origins)
        rows += added
    backtests(home).add(rows)
    state = state.model_copy(update={"rows": before.rows + len(rows)})
    cache.write(f"{STATE}{fold}", state.model_dump(mode="json"))


def folds_left(home: Home, plan: Plan) -> list[int]:
    """The folds that are not walked yet."""
    cache = BacktestCache(home, plan.backtest_id)
    return [fold for fold in range(len(plan.folds)) if not cache.has_figures(f"{STATE}{fold}")]


class _FoldWalk:
    """One fold, with everything that its walk needs."""

    def __init__(self, home: Home, plan: Plan, fold: int, cache: BacktestCache) -> None:
        self.plan, self.profile, self.fold, self.cache = plan, plan.profile, fold, cache
        self.outcomes, self.pool = read_histories(home, plan)
        first, last = plan.span(fold)
        # All its origins know the same decisions; beyond the last one only outcomes are read.
        changes = self.outcomes.knowledge_changes(first, last)
        known = changes[0] - timedelta(days=1) if changes else last
        self.history = self.outcomes.as_known(known, last + timedelta(days=max(self.profile.horizons)))
        self.origins = origins_between(self.history, self.profile, first, last)

    def decided(self, state: WalkState) -> WalkState:
        """The state after every decision of the fold."""
        for row in self.origins:
            state = self._decided(state, self.history.days[row], self._basis(row))
        return state

    def _basis(self, row: int) -> Basis:
        """What a model from that origin is trained on."""
        if row + 1 >= self.profile.min_days:
            return "model"
        return training_basis(self.profile, *self._known(self.history.days[row]))

    def _known(self, origin: date) -> tuple[PriceHistory, dict[str, PriceHistory]]:
        """The product's history and the others' as they are known on that day."""
        pool = {product: history.until(origin) for product, history in self.pool.items()}
        return self.history.until(origin), pool

    def champions(self, state: WalkState) -> Iterator[tuple[str, Rows]]:
        """The models that forecast in the fold, or `FALLBACK`, each with its origins."""
        names = []
        for row in self.origins:
            champion = champion_at(state.candidates, self.history.days[row])
            name = state.models[champion.version] if champion else FALLBACK
            names.append(name if champion and row in self._origins_of(name) else FALLBACK)
        for model, group in itertools.groupby(zip(names, self.origins, strict=True), operator.itemgetter(0)):
            yield model, np.array([origin for _, origin in group])

    @functools.cache  # noqa: B019 (a walk lives as long as its fold)
    def _origins_of(self, model: str) -> frozenset[int]:
        """The rows that a model can forecast from."""
        return frozenset(self.profile.origins(self.history.candles, self._model(model)).tolist())

    def _decided(self, state: WalkState, origin: date, basis: Basis) -> WalkState:
        """The state after the work due on `origin`; the same object if nothing is due or possible."""
        profile = self.profile
        gated = profile.gate_days > 0
        decision = decide(state.candidates, origin, profile.policy, gated=gated, basis=basis)
        if decision.action == "keep":
            return state
        champion = champion_at(state.candidates, origin)
        parent = state.models[champion.version] if champion and decision.action == "fine-tune" else None
        try:
            name = self._trained("pool" if basis == "pool" else decision.action, parent, origin)
        except NotEnoughHistory:
            if not profile.levels:
                raise
            return state
        challenger = self._model(name)
        status: Status = "accepted"
        gates = state.gates
        if champion and gated and not why_no_gate(champion, basis):
            passed, text = self._judged(state.models[champion.version], name, origin)
            status = "accepted" if passed else "refused"
            gates = (*gates, f"{origin} {decision.action} {text}")
        version = str(len(state.candidates) + 1)
        candidate = ModelCandidate(
            version, origin, challenger.judged.trained_through, decision.action, status, basis
        )
        offsets = state.offsets
        if offsets is None and challenger.quantile_offsets is not None:
            offsets = {horizon: tuple(own.tolist()) for horizon, own in challenger.quantile_offsets.items()}
        changes = {"candidates": (*state.candidates, candidate), "models": {**state.models, version: name}}
        return state.model_copy(update={**changes, "offsets": offsets, "gates": gates})

    def _judged(self, champion: str, challenger: str, origin: date) -> tuple[bool, str]:
        """Whether the challenger passes the gate on these candles, and the gate's figures as text."""

        def judged() -> tuple[bool, str]:
            candles = self.history.until(origin).candles
            gate = judge(self.profile, self._model(champion), self._model(challenger), candles)
            return gate.passed, str(gate)

        passed, text = self._cached(f"gate-{challenger}-after-{champion}", judged)
        return passed, text

    def _cached(self, key: str, make: Callable[[], Any]) -> Any:
        cached = self.cache.read(key)
        if cached is None:
            cached = make()
            self.cache.write(key, cached)
        return cached

    def _trained(self, how: TrainingKind | Literal["pool"], parent: str | None, origin: date) -> str:
        """The name in the cache of a model that was trained on the days up to `origin`."""
        name = f"{how}-{origin}"
        if parent:  # the parent's own name would hold its parent's, and so on: a file's name has an end
            name += f"-of-{hashlib.sha256(parent.encode()).hexdigest()[:12]}"
        if not self.cache.has(name):
            trained_on = (parent, self._model(parent)) if parent else None
            fitted, lineage = train_model(self.profile, *self._known(origin), parent=trained_on)
            with self.cache.draft(name) as draft:
                write_bundle(draft, self.profile, fitted, lineage)
        return name

    def _model(self, name: str) -> FittedModel:
        fitted: FittedModel = read_bundle(self.cache.open(name), self.profile).fitted
        return fitted

    def predicted(self, model: str, rows: Rows) -> dict[int, Predicted]:
        """The model's predictions from these origins, by horizon; JSON keeps every bit."""
        history, profile = self.history, self.profile
        first, last = history.days[rows[[0, -1]]]

        def predicted() -> dict[str, Any]:
            if model == FALLBACK:
                made = profile.fallback(history.candles, rows, profile.horizons)
            else:
                made = profile.predict(self._model(model), history.candles, rows)
            return {str(horizon): one.to_json() for horizon, one in made.items()}

        cached = self._cached(f"predicted-{model}-{first}-{last}", predicted)
        return {horizon: Predicted.from_json(cached[str(horizon)]) for horizon in profile.horizons}

    def forecasts(self, state: WalkState, model: str, rows: Rows) -> tuple[WalkState, list[dict[str, Any]]]:
        """A model's forecasts from the origin rows, as table rows; the state after them."""
        profile, history = self.profile, self.history
        last, predicted = history.closes[rows], self.predicted(model, rows)
        if not profile.levels:
            points = {horizon: one.points for horizon, one in predicted.items()}
            return state, [
                row
                for horizon, own in points.items()
                for row in self._rows(profile.name, horizon, model, rows, {"point": own})
            ]
        offsets = {horizon: np.array(own) for horizon, own in (state.offsets or {}).items()}
        waiting = [(day, horizon, np.array(closes)) for day, horizon, closes in state.waiting]
        tracker = Tracker(offsets, profile.tracker_step, waiting)
        quantiles, sigmas = quantiles_and_sigmas(predicted)
        if model == FALLBACK:
            prices = untracked(history, rows, quantiles)
        else:
            prices = tracker.track(history, rows, quantiles, sigmas)
        added: list[dict[str, Any]] = []
        for horizon, one in predicted.items():
            components = {profile.name: prices[horizon]}
            for name, returns in one.components.items():
                components[name] = np.stack([to_prices(*pair) for pair in zip(returns, last, strict=True)])
            for name, closes in components.items():
                figures = {"point": closes[:, MEDIAN], "sigma": one.sigma, "quantiles": closes}
                added += self._rows(name, horizon, model, rows, figures)
        learned = {horizon: tuple(own.tolist()) for horizon, own in tracker.offsets.items()}
        left = tuple((day, horizon, tuple(closes.tolist())) for day, horizon, closes in tracker.waiting)
        changes = {"offsets": learned or state.offsets, "waiting": left}
        return state.model_copy(update=changes), added

    def _rows(
        self, component: str, horizon: int, model: str, rows: Rows, figures: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """The table rows of one component and horizon, for the origins whose outcome is known.

        Of the figures, (origins, ...), only a point has neither sigma nor quantiles.
        """
        days, closes = self.history.days, self.history.closes
        targets = days[rows] + timedelta(days=horizon)
        outcomes = [self.outcomes.outcome(*span) for span in zip(days[rows], targets, strict=True)]
        known = np.array([close is not None for close in outcomes])
        known_rows = rows[known]
        columns = {
            "origin_day": days[known_rows].tolist(),
            "target_day": targets[known].tolist(),
            "last_close": closes[known_rows].tolist(),
            "close": [close for close in outcomes if close is not None],
            **{name: figure[known].tolist() for name, figure in figures.items()},
        }
        shared = {
            "backtest_id": self.plan.backtest_id,
            "product_id": self.plan.product_id,
            "profile": self.profile.name,
            "fold": self.fold,
            "horizon": horizon,
            "component": component,
            "model": model if component in (self.profile.name, self.profile.component) else component,
            "basis": _basis_of(model),
            "created_at": self.plan.created_at,
            **dict.fromkeys(("sigma", "quantiles")),
            "quantile_levels": LEVELS if "quantiles" in figures else None,
        }
        each = zip(*columns.values(), strict=True)
        return [shared | dict(zip(columns, values, strict=True)) for values in each]


def _basis_of(model: str) -> Basis:
    """The basis of a model by its name in the cache, or of `FALLBACK`."""
    if model == FALLBACK:
        return "fallback"
    return "pool" if model.startswith("pool-") else "model"
