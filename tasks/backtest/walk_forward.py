"""Walk-forward evaluation: each fold trains and forecasts by the very functions of the day.

A fold begins with a refit and ends before the next. Folds are prepared wherever and whenever the task runner
likes, each as if its refit passed the gate: models, gates within the fold and predictions are made and
cached. Then they are walked in order, which decides about the refits and moves the tracker; that finds nearly
all that it needs in the cache, and makes the rest, as after a refit that was refused.
"""

from __future__ import annotations

import hashlib
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import numpy as np
from pydantic import BaseModel

from storage.core.home import Home
from storage.models.backtest_cache import BacktestCache
from storage.tables.schemas import backtests
from tasks.backtest.plan import Plan, origins_between, read_histories
from tasks.calibration.quantile_tracker import Tracker, to_prices
from tasks.core.model import TrainingKind
from tasks.core.quantiles import LEVELS, MEDIAN
from tasks.core.types import Rows
from tasks.features.volatility import rows_after
from tasks.profiles.base import FittedModel, Predicted, quantiles_and_sigmas
from tasks.training.gate import judge
from tasks.training.policy import ModelCandidate, Status, champion_at, decide
from tasks.training.registration import read_bundle, train_model, write_bundle


class WalkState(BaseModel, frozen=True):
    """Where a walk stands: the versions with their names in the cache, the tracker, the gates so far."""

    candidates: tuple[ModelCandidate, ...] = ()
    models: dict[str, str] = {}
    offsets: dict[int, tuple[float, ...]] | None = None
    waiting: tuple[tuple[date, int, tuple[float, ...]], ...] = ()  # forecasts without an outcome yet
    gates: tuple[str, ...] = ()


def prepare_fold(home: Home, plan: Plan, fold: int) -> None:
    """Make and cache what the fold's walk will need if its refit passes the gate."""
    cache = BacktestCache(home, plan.backtest_id)
    if cache.read(f"fold-{fold}") is None:
        walk = _FoldWalk(home, plan, fold, cache)
        for model, rows in walk.champions(walk.decided(WalkState())):
            walk.predicted(model, rows)


def walk_fold(home: Home, plan: Plan, fold: int) -> None:
    """Walk the fold's origins as the days would, and store their rows; the fold before was walked."""
    cache = BacktestCache(home, plan.backtest_id)
    if cache.read(f"fold-{fold}") is not None:
        return
    before = WalkState.model_validate(cache.read(f"fold-{fold - 1}") if fold else {})
    walk = _FoldWalk(home, plan, fold, cache)
    state, rows = walk.decided(before), list[dict[str, Any]]()
    for model, origins in walk.champions(state):
        state, added = walk.forecasts(state, model, origins)
        rows += added
    backtests(home).add(rows)
    cache.write(f"fold-{fold}", state.model_dump(mode="json"))


def folds_left(home: Home, plan: Plan) -> list[int]:
    """The folds that are not walked yet."""
    cache = BacktestCache(home, plan.backtest_id)
    return [fold for fold in range(len(plan.folds)) if cache.read(f"fold-{fold}") is None]


class _FoldWalk:
    """One fold with what it is walked by."""

    def __init__(self, home: Home, plan: Plan, fold: int, cache: BacktestCache) -> None:
        self.plan, self.profile, self.fold, self.cache = plan, plan.profile, fold, cache
        history, self.pool = read_histories(home, plan)
        # Beyond the fold's last origin only outcomes are read.
        self.history = history.until(plan.span(fold)[1] + timedelta(days=max(self.profile.horizons)))
        self.origins = origins_between(self.history.candles, self.profile, *plan.span(fold))

    def decided(self, state: WalkState) -> WalkState:
        """The state after every decision of the fold."""
        for day in self.history.days[self.origins]:
            state = self._decided(state, day)
        return state

    def champions(self, state: WalkState) -> Iterator[tuple[str, Rows]]:
        """The models that forecast in the fold, each with its origins."""
        names = []
        for day in self.history.days[self.origins]:
            champion = champion_at(state.candidates, day)
            assert champion is not None  # noqa: S101 (the first refit has no champion to be refused for)
            names.append(state.models[champion.version])
        for model, group in itertools.groupby(zip(names, self.origins, strict=True), operator.itemgetter(0)):
            yield model, np.array([origin for _, origin in group])

    def _decided(self, state: WalkState, origin: date) -> WalkState:
        """The state after what is due on `origin` was done, the same object when nothing is."""
        profile = self.profile
        decision = decide(state.candidates, origin, profile.policy, gated=profile.gate_days > 0)
        if decision.action == "keep":
            return state
        champion = champion_at(state.candidates, origin)
        parent = state.models[champion.version] if champion and decision.action == "fine-tune" else None
        name = self._trained(decision.action, parent, origin)
        challenger = self._model(name)
        status: Status = "accepted"
        gates = state.gates
        if champion is not None and profile.gate_days:
            passed, text = self._judged(state.models[champion.version], name, origin)
            status = "accepted" if passed else "refused"
            gates = (*gates, f"{origin} {decision.action} {text}")
        version = str(len(state.candidates) + 1)
        candidate = ModelCandidate(
            version, origin, challenger.judged.trained_through, decision.action, status
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

    def _trained(self, training_kind: TrainingKind, parent: str | None, origin: date) -> str:
        """The name in the cache of a model that was trained on the days up to `origin`."""
        name = f"{training_kind}-{origin}"
        if parent:  # the parent's own name would hold its parent's, and so on: a file's name has an end
            name += f"-of-{hashlib.sha256(parent.encode()).hexdigest()[:12]}"
        if not self.cache.has(name):
            pool = {product: history.until(origin) for product, history in self.pool.items()}
            trained_on = (parent, self._model(parent)) if parent else None
            fitted, lineage = train_model(self.profile, self.history.until(origin), pool, parent=trained_on)
            with self.cache.draft(name) as draft:
                write_bundle(draft, self.profile, fitted, lineage)
        return name

    def _model(self, name: str) -> FittedModel:
        fitted: FittedModel = read_bundle(self.cache.open(name), self.profile).fitted
        return fitted

    def predicted(self, model: str, rows: Rows) -> dict[int, Predicted]:
        """The model's predictions from these origins, by horizon; JSON keeps every bit."""
        history = self.history
        first, last = history.days[rows[[0, -1]]]

        def predicted() -> dict[str, Any]:
            made = self.profile.predict(self._model(model), history.candles, rows)
            return {str(horizon): one.to_json() for horizon, one in made.items()}

        cached = self._cached(f"predicted-{model}-{first}-{last}", predicted)
        return {horizon: Predicted.from_json(cached[str(horizon)]) for horizon in self.profile.horizons}

    def forecasts(self, state: WalkState, model: str, rows: Rows) -> tuple[WalkState, list[dict[str, Any]]]:
        """A model's forecasts from the origin rows, as table rows; the state after them."""
        profile, history = self.profile, self.history
        last, predicted = history.closes[rows], self.predicted(model, rows)
        if state.offsets is None:
            points = {horizon: one.points for horizon, one in predicted.items()}
            return state, [
                row
                for horizon, own in points.items()
                for row in self._rows(profile.name, horizon, model, rows, {"point": own})
            ]
        offsets = {horizon: np.array(own) for horizon, own in state.offsets.items()}
        waiting = [(day, horizon, np.array(closes)) for day, horizon, closes in state.waiting]
        tracker = Tracker(offsets, profile.tracker_step, waiting)
        prices = tracker.track(history, rows, *quantiles_and_sigmas(predicted))
        added: list[dict[str, Any]] = []
        for horizon, one in predicted.items():
            components = {profile.name: prices[horizon]}
            for name, quantiles in one.components.items():
                components[name] = np.stack([to_prices(*pair) for pair in zip(quantiles, last, strict=True)])
            for name, closes in components.items():
                maker = model if name in (profile.name, profile.component) else name
                figures = {"point": closes[:, MEDIAN], "sigma": one.sigma, "quantiles": closes}
                added += self._rows(name, horizon, maker, rows, figures)
        learned = {horizon: tuple(own.tolist()) for horizon, own in tracker.offsets.items()}
        left = tuple((day, horizon, tuple(closes.tolist())) for day, horizon, closes in tracker.waiting)
        return state.model_copy(update={"offsets": learned, "waiting": left}), added

    def _rows(
        self, component: str, horizon: int, model: str, rows: Rows, figures: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """The table rows of one component and horizon, for the origins whose outcome is known.

        Of the figures, (origins, ...), only a point has neither sigma nor quantiles.
        """
        days, closes = self.history.days, self.history.closes
        after = rows_after(self.history.candles, horizon)[rows]
        known = after >= 0
        known_rows, outcomes = rows[known], after[known]
        columns = {
            "origin_day": days[known_rows].tolist(),
            "target_day": days[outcomes].tolist(),
            "last_close": closes[known_rows].tolist(),
            "close": closes[outcomes].tolist(),
            **{name: figure[known].tolist() for name, figure in figures.items()},
        }
        shared = {
            "backtest_id": self.plan.backtest_id,
            "product_id": self.plan.product_id,
            "profile": self.profile.name,
            "fold": self.fold,
            "horizon": horizon,
            "component": component,
            "model": model,
            "created_at": self.plan.created_at,
            **dict.fromkeys(("sigma", "quantiles")),
            "quantile_levels": LEVELS if "quantiles" in figures else None,
        }
        each = zip(*columns.values(), strict=True)
        return [shared | dict(zip(columns, values, strict=True)) for values in each]
