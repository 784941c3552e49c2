"""Walk-forward evaluation: each fold trains and forecasts by the very functions of the day.

A fold begins with a refit and ends before the next. Folds are prepared wherever and whenever the task runner
likes, each as if its refit passed the gate: models, gates within the fold and predictions are made and
cached. Then they are walked in order, which decides about the refits and moves the tracker; that finds nearly
all that it needs in the cache, and makes the rest, as after a refit that was refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from storage.core.home import Home
from storage.models.backtest_cache import BacktestCache
from storage.tables.schemas import backtests
from tasks.backtest.plan import Plan, origins_between, read_histories
from tasks.calibration.quantile_tracker import to_prices, track
from tasks.core.model import TrainingKind
from tasks.core.quantiles import LEVELS, MEDIAN
from tasks.core.steps import step
from tasks.core.types import Floats, Rows
from tasks.profiles.base import FittedModel, Predicted
from tasks.training.gate import judge
from tasks.training.policy import ModelCandidate, Status, champion_at, decide
from tasks.training.registration import read_bundle, train_model, write_bundle


@dataclass(frozen=True)
class WalkState:
    """Where a walk stands: the versions with their names in the cache, the tracker, the gates so far."""

    candidates: tuple[ModelCandidate, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    offsets: tuple[float, ...] | None = None
    gates: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same state."""
        plain: dict[str, Any] = TypeAdapter(WalkState).dump_python(self, mode="json")
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any] | None) -> WalkState:
        """The inverse of `to_json`; of nothing the state before the first origin."""
        return TypeAdapter(WalkState).validate_python(plain or {})


@step(timeout_seconds=7200, run_name="{fold}")
def prepare_fold(home: Home, plan: Plan, fold: int) -> None:
    """Make and cache what the fold's walk will need if its refit passes the gate."""
    cache = BacktestCache(home, plan.backtest_id)
    if cache.read(f"fold-{fold}") is None:
        _FoldWalk(home, plan, fold, cache).through(WalkState())


@step(timeout_seconds=7200, run_name="{fold}")
def walk_fold(home: Home, plan: Plan, fold: int) -> int:
    """Walk the fold's origins as the days would; returns how many rows that added to the table.

    The fold before must have been walked.
    """
    cache = BacktestCache(home, plan.backtest_id)
    if cache.read(f"fold-{fold}") is not None:
        return 0
    before = WalkState.from_json(cache.read(f"fold-{fold - 1}") if fold else None)
    state, rows = _FoldWalk(home, plan, fold, cache).through(before)
    added = backtests(home).add(rows)
    cache.write(f"fold-{fold}", state.to_json())
    return added


class _FoldWalk:
    """One fold with what it is walked by."""

    def __init__(self, home: Home, plan: Plan, fold: int, cache: BacktestCache) -> None:
        self.plan, self.profile, self.fold, self.cache = plan, plan.profile, fold, cache
        history, self.pool = read_histories(home, plan)
        self.history = history.until(plan.span(fold)[1] + timedelta(days=1))

    def through(self, state: WalkState) -> tuple[WalkState, list[dict[str, Any]]]:
        """The state after the fold, and its rows: the origins between two decisions share their champion."""
        first, last = self.plan.span(self.fold)
        origins = origins_between(self.history.candles, self.profile, first, last)
        days = self.history.days
        rows: list[dict[str, Any]] = []
        start = 0
        for number, origin in enumerate(origins):
            before = champion_at(state.candidates, days[origin])
            later = self._decided(state, days[origin])
            if later is not state and before is not None and number > start:
                state, added = self._forecasts(state, before, origins[start:number])
                rows, start = rows + added, number
                later = replace(later, offsets=state.offsets)
            state = later
        champion = champion_at(state.candidates, last)
        assert champion is not None  # noqa: S101 (the first refit has no champion to be refused for)
        state, added = self._forecasts(state, champion, origins[start:])
        return state, rows + added

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
        accepted, gates = True, state.gates
        if champion is not None and profile.gate_days:
            accepted, text = self._judged(state.models[champion.version], name, origin)
            gates = (*gates, f"{origin} {decision.action} {text}")
        status: Status = "accepted" if accepted else "refused"
        version = str(len(state.candidates) + 1)
        candidate = ModelCandidate(version, origin, challenger.trained_through, decision.action, status)
        offsets = state.offsets
        if offsets is None and challenger.quantile_offsets is not None:
            offsets = tuple(challenger.quantile_offsets.tolist())
        return WalkState((*state.candidates, candidate), {**state.models, version: name}, offsets, gates)

    def _judged(self, champion: str, challenger: str, origin: date) -> tuple[bool, str]:
        """Whether the challenger passes the gate on these candles, and the gate's figures as text."""

        def judged() -> dict[str, Any]:
            candles = self.history.until(origin).candles
            gate = judge(self.profile, self._model(champion), self._model(challenger), candles)
            return {"passed": gate.passed, "text": str(gate)}

        cached = self._cached(f"gate-{challenger}-after-{champion}", judged)
        return cached["passed"], cached["text"]

    def _cached(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
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

    def _predicted(self, model: str, rows: Rows) -> Predicted:
        """The model's predictions from these origins; JSON keeps every bit."""
        history, horizon = self.history, self.profile.horizons[0]
        first, last = history.days[rows[[0, -1]]]

        def predicted() -> dict[str, Any]:
            return self.profile.predict(self._model(model), history.candles, rows)[horizon].to_json()

        return Predicted.from_json(self._cached(f"predicted-{model}-{first}-{last}", predicted))

    def _forecasts(
        self, state: WalkState, champion: ModelCandidate, rows: Rows
    ) -> tuple[WalkState, list[dict[str, Any]]]:
        """The champion's forecasts from the origin rows, as table rows; the state after them."""
        profile, model = self.profile, state.models[champion.version]
        last, actual = self.history.closes[rows], self.history.closes[rows + 1]
        predicted = self._predicted(model, rows)
        if predicted.quantiles is None or predicted.sigma is None:
            assert predicted.points is not None  # noqa: S101 (a profile gives the one or the other)
            return state, self._rows(profile.name, model, rows, predicted.points)
        offsets, sigma = np.array(state.offsets), predicted.sigma
        prices, offsets = track(predicted.quantiles, sigma, last, actual, offsets, step=profile.tracker_step)
        components = {profile.name: prices}
        for name, quantiles in predicted.components.items():
            components[name] = np.stack([to_prices(*pair) for pair in zip(quantiles, last, strict=True)])
        added: list[dict[str, Any]] = []
        for name, quantiles in components.items():
            maker = model if name in (profile.name, profile.component) else name
            added += self._rows(name, maker, rows, quantiles[:, MEDIAN], quantiles, sigma)
        return replace(state, offsets=tuple(offsets.tolist())), added

    def _rows(
        self,
        component: str,
        model: str,
        rows: Rows,
        points: Floats,
        quantiles: Floats | None = None,
        sigma: Floats | None = None,
    ) -> list[dict[str, Any]]:
        """The table rows of one component."""
        days, closes = self.history.days, self.history.closes
        shared = {
            "backtest_id": self.plan.backtest_id,
            "product_id": self.plan.product_id,
            "profile": self.profile.name,
            "fold": self.fold,
            "horizon": self.profile.horizons[0],
            "quantile_levels": None if quantiles is None else list(LEVELS),
            "created_at": self.plan.created_at,
            "component": component,
            "model": model,
        }
        return [
            {
                **shared,
                "origin_day": days[row],
                "target_day": days[row + 1],
                "last_close": float(closes[row]),
                "close": float(closes[row + 1]),
                "sigma": None if sigma is None else float(sigma[number]),
                "quantiles": None if quantiles is None else quantiles[number].tolist(),
                "point": float(points[number]),
            }
            for number, row in enumerate(rows)
        ]
