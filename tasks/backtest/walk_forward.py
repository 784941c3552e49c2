"""Walk-forward evaluation: each fold trains and forecasts by the very functions of the day.

A fold begins with a refit and ends before the next. Folds are prepared wherever and whenever the task runner
likes, each as if its refit passed the gate: models, gates within the fold and predictions are made and
cached. Then they are walked in order, which decides about the refits and moves the tracker; that finds nearly
all that it needs in the cache, and makes the rest, as after a refit that was refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import numpy as np

from storage.core.home import Home
from storage.models.backtest_cache import BacktestCache
from storage.tables.schemas import backtests
from tasks.backtest.plan import Plan, origins_between, read_histories
from tasks.calibration.quantile_tracker import to_prices, track
from tasks.core.history import PriceHistory
from tasks.core.model import TrainingKind
from tasks.core.quantiles import LEVELS, MEDIAN
from tasks.core.steps import step
from tasks.core.types import Floats, Rows
from tasks.profiles.base import FittedModel, Histories, Predicted
from tasks.training.gate import judge
from tasks.training.policy import ModelCandidate, champion_at, decide
from tasks.training.registration import make_lineage, read_bundle, write_bundle
from tasks.training.selection import holdout_days


@dataclass(frozen=True)
class WalkState:
    """Where a walk stands: the versions with their names in the cache, the tracker, the gates so far."""

    candidates: tuple[ModelCandidate, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    offsets: Floats | None = None
    gates: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same state."""
        candidates = json.loads(json.dumps([asdict(one) for one in self.candidates], default=date.isoformat))
        offsets = None if self.offsets is None else self.offsets.tolist()
        return {
            "candidates": candidates,
            "models": dict(self.models),
            "offsets": offsets,
            "gates": list(self.gates),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any] | None) -> WalkState:
        """The inverse of `to_json`; of nothing the state before the first origin."""
        if plain is None:
            return cls()
        days = ("origin", "trained_through")
        candidates = tuple(
            ModelCandidate(**{**one, **{name: date.fromisoformat(one[name]) for name in days}})
            for one in plain["candidates"]
        )
        offsets = None if plain["offsets"] is None else np.array(plain["offsets"])
        return cls(candidates, plain["models"], offsets, tuple(plain["gates"]))


@step(timeout_seconds=7200, run_name="{fold}")
def prepare_fold(home: Home, plan: Plan, fold: int) -> None:
    """Make and cache what the fold's walk will need if its refit passes the gate."""
    walk = _FoldWalk(home, plan, fold)
    if walk.cache.read(f"fold-{fold}") is None:
        walk.through(WalkState())


@step(timeout_seconds=7200, run_name="{fold}")
def walk_fold(home: Home, plan: Plan, fold: int) -> int:
    """Walk the fold's origins as the days would; returns how many rows that added to the table.

    The fold before must have been walked.
    """
    walk = _FoldWalk(home, plan, fold)
    if walk.cache.read(f"fold-{fold}") is not None:
        return 0
    before = WalkState.from_json(walk.cache.read(f"fold-{fold - 1}") if fold else None)
    state, rows = walk.through(before)
    added = backtests(home).add(rows)
    walk.cache.write(f"fold-{fold}", state.to_json())
    return added


@dataclass(frozen=True)
class _FoldWalk:
    """One fold with what it is walked by."""

    home: Home
    plan: Plan
    fold: int

    @cached_property
    def cache(self) -> BacktestCache:
        return BacktestCache(self.home, self.plan.backtest_id)

    @cached_property
    def _histories(self) -> tuple[PriceHistory, dict[str, PriceHistory]]:
        history, pool = read_histories(self.home, self.plan)
        return history.until(self.plan.span(self.fold)[1] + timedelta(days=1)), pool

    def _until(self, origin: date) -> tuple[PriceHistory, Histories]:
        history, pool = self._histories
        return history.until(origin), {product: one.until(origin) for product, one in pool.items()}

    def through(self, state: WalkState) -> tuple[WalkState, list[dict[str, Any]]]:
        """The state after the fold, and its rows: the origins between two decisions share their champion."""
        first, last = self.plan.span(self.fold)
        history, _ = self._histories
        origins, days = origins_between(history.candles, self.plan.profile, first, last), history.days
        rows: list[dict[str, Any]] = []
        start = 0
        for number, origin in enumerate(origins):
            before = champion_at(state.candidates, days[origin])
            later = self._decided(state, days[origin])
            if later is not state and before is not None and number > start:
                state, made = self._forecasts(state, before, origins[start:number])
                rows, start = rows + made, number
                later = replace(later, offsets=state.offsets)
            state = later
        champion = champion_at(state.candidates, last)
        assert champion is not None  # noqa: S101 (the first refit has no champion to be refused for)
        state, made = self._forecasts(state, champion, origins[start:])
        return state, rows + made

    def _decided(self, state: WalkState, origin: date) -> WalkState:
        """The state after what is due on `origin` was done, the same object when nothing is."""
        profile = self.plan.profile
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
        candidate = ModelCandidate(
            version=str(len(state.candidates) + 1),
            origin=origin,
            trained_through=challenger.trained_through,
            training_kind=decision.action,
            status="accepted" if accepted else "refused",
        )
        offsets = challenger.quantile_offsets if state.offsets is None else state.offsets
        models = {**state.models, candidate.version: name}
        return WalkState((*state.candidates, candidate), models, offsets, gates)

    def _judged(self, champion: str, challenger: str, origin: date) -> tuple[bool, str]:
        """Whether the challenger passes the gate on these candles, and the gate's figures as text."""
        key = f"gate-{challenger}-after-{champion}"
        cached = self.cache.read(key)
        if cached is None:
            candles = self._until(origin)[0].candles
            gate = judge(self.plan.profile, self._model(champion), self._model(challenger), candles)
            cached = {"passed": gate.passed, "text": str(gate)}
            self.cache.write(key, cached)
        return cached["passed"], cached["text"]

    def _trained(self, training_kind: TrainingKind, parent: str | None, origin: date) -> str:
        """The name in the cache of a model that was trained on the days up to `origin`."""
        name = f"{training_kind}-{origin}"
        if parent:  # the parent's own name would hold its parent's, and so on: a file's name has an end
            name += f"-of-{hashlib.sha256(parent.encode()).hexdigest()[:12]}"
        if self.cache.has(name):
            return name
        profile, (history, pool) = self.plan.profile, self._until(origin)
        days = holdout_days(profile, history)
        if parent:
            fitted = profile.fine_tune(self._model(parent), history, pool, holdout_days=days)
        else:
            fitted = profile.fit(history, pool, holdout_days=days)
        lineage = make_lineage(
            profile,
            fitted,
            history,
            pool,
            training_kind=training_kind,
            parent=parent,
            holdout_days=days,
            not_pooled={},
        )
        with self.cache.draft(name) as draft:
            write_bundle(draft, profile, fitted, lineage)
        return name

    def _model(self, name: str) -> FittedModel:
        fitted: FittedModel = read_bundle(self.cache.open(name), self.plan.profile).fitted
        return fitted

    def _predicted(self, model: str, rows: Rows) -> Predicted:
        """The model's predictions from these origins; JSON keeps every bit."""
        history, _ = self._histories
        days = history.days[rows]
        key = f"predicted-{model}-{days[0]}-{days[-1]}"
        cached = self.cache.read(key)
        if cached is not None:
            return Predicted.from_json(cached)
        profile = self.plan.profile
        predicted = profile.predict(self._model(model), history.candles, rows)[profile.horizons[0]]
        self.cache.write(key, predicted.to_json())
        return predicted

    def _forecasts(
        self, state: WalkState, champion: ModelCandidate, rows: Rows
    ) -> tuple[WalkState, list[dict[str, Any]]]:
        """The champion's forecasts from the origin rows, as table rows; the state after them."""
        profile, model = self.plan.profile, state.models[champion.version]
        history, _ = self._histories
        last, actual = history.closes[rows], history.closes[rows + 1]
        predicted = self._predicted(model, rows)
        if predicted.quantiles is None or predicted.sigma is None:
            assert predicted.points is not None  # noqa: S101 (a profile gives the one or the other)
            return state, self._rows(model, rows, profile.name, None, predicted.points, None)
        assert state.offsets is not None  # noqa: S101 (a distribution's model has offsets)
        prices, offsets = track(
            predicted.quantiles, predicted.sigma, last, actual, state.offsets, step=profile.tracker_step
        )
        components: dict[str, Floats] = {profile.name: prices}
        for component, quantiles in predicted.components.items():
            components[component] = np.stack(
                [to_prices(row, close) for row, close in zip(quantiles, last, strict=True)]
            )
        made = [
            row
            for component, quantiles in components.items()
            for row in self._rows(
                model if component in (profile.name, profile.component) else component,
                rows,
                component,
                quantiles,
                quantiles[:, MEDIAN],
                predicted.sigma,
            )
        ]
        return replace(state, offsets=offsets), made

    def _rows(
        self,
        model: str,
        rows: Rows,
        component: str,
        quantiles: Floats | None,
        points: Floats,
        sigma: Floats | None,
    ) -> list[dict[str, Any]]:
        """The table rows of one component."""
        history, _ = self._histories
        shared = {
            "backtest_id": self.plan.backtest_id,
            "product_id": self.plan.product_id,
            "profile": self.plan.profile.name,
            "fold": self.fold,
            "horizon": self.plan.profile.horizons[0],
            "quantile_levels": None if quantiles is None else list(LEVELS),
            "created_at": self.plan.created_at,
            "component": component,
            "model": model,
        }
        return [
            {
                **shared,
                "origin_day": history.days[row],
                "target_day": history.days[row + 1],
                "last_close": float(history.closes[row]),
                "close": float(history.closes[row + 1]),
                "sigma": None if sigma is None else float(sigma[number]),
                "quantiles": None if quantiles is None else quantiles[number].tolist(),
                "point": float(points[number]),
            }
            for number, row in enumerate(rows)
        ]
