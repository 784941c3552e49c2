"""The model of a day: the champion, or a challenger that passes the gate."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from closecast.storage.core.errors import NotEnoughHistory
from closecast.storage.core.home import Home
from closecast.storage.core.provenance import code_version
from closecast.storage.models.registry import CHAMPION, Models, ModelVersion
from closecast.tasks.core.model import TrainingKind
from closecast.tasks.core.steps import step
from closecast.tasks.prices.ingest import IngestedPrices
from closecast.tasks.profiles.base import FittedModel, Profile
from closecast.tasks.profiles.named import own_files
from closecast.tasks.training.gate import judge
from closecast.tasks.training.mlflow_model import model_card
from closecast.tasks.training.policy import (
    Decision,
    ModelCandidate,
    age_warning,
    champion_at,
    decide,
    pending_at,
    why_no_gate,
)
from closecast.tasks.training.registration import (
    as_candidate,
    load_model,
    model_key,
    read_lineage,
    register,
    train_model,
    training_basis,
    training_pool,
)

log = logging.getLogger("closecast.selection")


@dataclass(frozen=True)
class ModelSelection:
    """The version that forecasts, or None, with the reason and a warning for people."""

    version: str | None
    reason: str
    warning: str | None = None

    def facts(self) -> dict[str, Any]:
        """What Prefect records with the model."""
        return asdict(self)


@step(timeout_seconds=3600, run_name="{prices.history.product_id}")
def select_model(home: Home, profile: Profile, prices: IngestedPrices) -> ModelSelection:
    """Decide what is due, train a challenger if so, let the gate judge it, and name the champion.

    The product's lock is held. A killed run leaves a challenger that the next run judges, or nothing. A
    product that is too young for a model, and has no other to learn from, gets no version.
    """
    selection, origin = _Selection(Models(home), profile, prices), prices.history.origin
    candidates = selection.candidates()  # again only after something has changed
    if pending := pending_at(candidates, origin):
        selection.judge(selection.version(pending))
        candidates = selection.candidates()
    decision = selection.decide(candidates)
    log.info("%s: %s, because %s", prices.history.product_id, decision.action, decision.reason)
    warning = None
    if decision.action != "keep":
        try:
            challenger = selection.train(decision.action, candidates)
        except NotEnoughHistory as error:
            if not profile.levels:  # a point has no fallback that tells more than the last close
                raise
            warning = str(error)
        else:
            if challenger.tags["status"] == "pending":
                selection.judge(challenger)
            candidates = selection.candidates()
    champion = champion_at(candidates, origin)
    if champion is None:
        closes = len(prices.history.candles)
        needed = f"a model needs {profile.min_days} closes, or a product that has them to learn from"
        warning = warning or f"{needed}, and there are {closes}: the baselines forecast"
    else:
        selection.promote(champion, candidates)
        warning = warning or age_warning(champion, origin, profile.policy)
    if warning:
        log.warning("%s: %s", prices.history.product_id, warning)
    return ModelSelection(champion.version if champion else None, decision.reason, warning)


def is_training_due(home: Home, profile: Profile, prices: IngestedPrices) -> bool:
    """Whether `select_model` would train for these prices: only then is TensorFlow needed."""
    selection = _Selection(Models(home), profile, prices)
    candidates = selection.candidates()
    if pending_at(candidates, prices.history.origin):
        return False  # a killed run has trained it
    return selection.decide(candidates).action != "keep"


class _Selection:
    """The steps of one product's selection."""

    def __init__(self, models: Models, profile: Profile, prices: IngestedPrices) -> None:
        self.models, self.profile, self.prices = models, profile, prices
        self.history = prices.history
        self.product_id = prices.history.product_id

    def candidates(self) -> list[ModelCandidate]:
        """The versions that could forecast by this recipe on this series of prices."""
        wanted = (self.profile.recipe_version, self.history.series)
        return [
            as_candidate(version)
            for version in self.models.versions(self.product_id, self.profile.name)
            if (version.tags["recipe_version"], version.tags["series"]) == wanted
        ]

    def decide(self, candidates: Sequence[ModelCandidate]) -> Decision:
        """What is due on the last day of the prices."""
        profile, basis = self.profile, training_basis(self.profile, self.history, self.prices.pool)
        gated = profile.gate_days > 0
        return decide(candidates, self.history.origin, profile.policy, gated=gated, basis=basis)

    def version(self, candidate: ModelCandidate) -> ModelVersion:
        return self.models.version(self.product_id, self.profile.name, candidate.version)

    def fitted(self, version: str) -> FittedModel:
        fitted: FittedModel = load_model(self.models, self.profile, self.product_id, version).fitted
        return fitted

    def train(self, training_kind: TrainingKind, candidates: Sequence[ModelCandidate]) -> ModelVersion:
        """Train and register a version, unless the same was trained before."""
        profile, history, pool = self.profile, self.history, self.prices.pool
        champion = champion_at(candidates, history.origin)
        parent = champion.version if champion and training_kind == "fine-tune" else None
        key = model_key(
            self.product_id,
            profile.name,
            history.data_version,
            profile.recipe_version,
            code_version(*own_files(profile)),
            training_kind,
            parent or "",
            *(one.data_version for one in pool.values()),
        )
        if known := self.models.find(self.product_id, profile.name, key):
            log.info("%s: version %s was trained on this data before", self.product_id, known.version)
            return known
        self._log_training()
        trained_on = (parent, self.fitted(parent)) if parent else None
        start = time.monotonic()
        fitted, lineage = train_model(
            profile, history, pool, parent=trained_on, not_pooled=self.prices.not_pooled
        )
        span = start, time.monotonic()
        for inputs in lineage.columns_left_out:
            log.warning("%s: trained without %s, which most candles lack", self.product_id, inputs)
        for product, reason in lineage.not_pooled.items():
            log.info("%s: trained without %s, which %s", self.product_id, product, reason)
        return register(self.models, profile, fitted, lineage, history, key, span)

    def judge(self, version: ModelVersion) -> None:
        """Accept or refuse a challenger, and write the gate's figures to it before its status."""
        models, profile = self.models, self.profile
        models.challenge(version)
        candidate = as_candidate(version)
        champion = champion_at(self.candidates(), candidate.origin)
        reason: str | None = f"none: profile {profile.name} has no gate"
        if profile.gate_days:
            reason = why_no_gate(champion, candidate.basis)
        if reason:
            why = reason.removeprefix("none: ")
            self._describe(version, f"Accepted without a comparison: {why}.")
            models.mark(version, {"gate": reason, "status": "accepted"})
            return
        assert champion is not None  # noqa: S101 (else there is no gate)
        candles = self.history.until(candidate.origin).candles
        gate = judge(profile, self.fitted(champion.version), self.fitted(version.version), candles)
        text = "%s: version %s against version %s %s"
        log.info(text, self.product_id, version.version, champion.version, gate)
        status = "accepted" if gate.passed else "refused"
        tags = {**gate.tags(), "gate_champion": champion.version, "gate": str(gate), "status": status}
        self._describe(version, f"Against version {champion.version} {gate}.")
        models.mark(version, tags, gate.metrics())

    def _describe(self, version: ModelVersion, gate: str) -> None:
        """Put the gate's figures on the version's card, before its status: a killed run does both again."""
        lineage = read_lineage(self.models.open(version))
        self.models.describe(version, model_card(self.profile, lineage, gate))

    def _log_training(self) -> None:
        history, pool = self.history, training_pool(self.profile, self.history, self.prices.pool)
        if training_basis(self.profile, history, pool) == "pool":
            text = (
                "%s: %d closes up to %s are too few for a model on its own windows: training on those of %s"
            )
            names = ", ".join(pool)
            log.warning(text, self.product_id, len(history.candles), history.origin, names)
        else:
            text = "%s: training on %d closes up to %s"
            log.info(text, self.product_id, len(history.candles), history.origin)

    def promote(self, champion: ModelCandidate, candidates: Sequence[ModelCandidate]) -> None:
        """Move the alias to the champion of this day, unless a later day's champion of the recipe has it."""
        version = self.version(champion)
        self.models.settle(version)
        current = self.models.champion(self.product_id, self.profile.name)
        later = [
            one.version for one in candidates if one.status == "accepted" and one.origin > champion.origin
        ]
        if CHAMPION not in version.aliases and (current is None or current.version not in later):
            self.models.promote(version)
