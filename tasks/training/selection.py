"""The model of a day: the champion, or a challenger that passes the gate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from storage.core.home import Home
from storage.core.provenance import code_version
from storage.models.registry import CHAMPION, Models, ModelVersion
from tasks.core.model import TrainingKind
from tasks.core.steps import step
from tasks.prices.ingest import IngestedPrices
from tasks.profiles.base import FittedModel, Profile
from tasks.profiles.named import own_files
from tasks.training.gate import judge
from tasks.training.policy import ModelCandidate, age_warning, champion_at, decide, pending_at
from tasks.training.registration import as_candidate, load_model, model_key, register, train_model

log = logging.getLogger("closecast.selection")


@dataclass(frozen=True)
class ModelSelection:
    """The version that forecasts, why it is that one, and a warning for people."""

    version: str
    reason: str
    warning: str | None = None

    def facts(self) -> dict[str, Any]:
        """What Prefect records with the model."""
        return asdict(self)


@step(timeout_seconds=3600, run_name="{prices.history.product_id}")
def select_model(home: Home, profile: Profile, prices: IngestedPrices) -> ModelSelection:
    """Decide what is due, train a challenger if so, let the gate judge it, and name the champion.

    The product's lock is held. A run that is killed on the way leaves a challenger that the next run judges,
    or nothing.

    Raises:
        NotEnoughHistory: too few closes.
    """
    selection, origin = _Selection(Models(home), profile, prices), prices.history.origin
    candidates = selection.candidates()  # again only after something has changed
    if pending := pending_at(candidates, origin):
        selection.judge(selection.version(pending))
        candidates = selection.candidates()
    decision = decide(candidates, origin, profile.policy, gated=profile.gate_days > 0)
    log.info("%s: %s, because %s", prices.history.product_id, decision.action, decision.reason)
    if decision.action != "keep":
        challenger = selection.train(decision.action, candidates)
        if challenger.tags["status"] == "pending":
            selection.judge(challenger)
        candidates = selection.candidates()
    champion = champion_at(candidates, origin)
    assert champion is not None  # noqa: S101 (the first refit has no champion to be refused for)
    selection.promote(champion, candidates)
    warning = age_warning(champion, origin, profile.policy)
    if warning:
        log.warning("%s: %s", prices.history.product_id, warning)
    return ModelSelection(champion.version, decision.reason, warning)


def is_training_due(home: Home, profile: Profile, prices: IngestedPrices) -> bool:
    """Whether `select_model` would train for these prices: only then is TensorFlow needed."""
    origin = prices.history.origin
    candidates = _Selection(Models(home), profile, prices).candidates()
    if pending_at(candidates, origin):
        return False  # a killed run has trained it
    return decide(candidates, origin, profile.policy, gated=profile.gate_days > 0).action != "keep"


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
        log.info("%s: training on %d closes up to %s", self.product_id, len(history.candles), history.origin)
        trained_on = (parent, self.fitted(parent)) if parent else None
        fitted, lineage = train_model(
            profile, history, pool, parent=trained_on, not_pooled=self.prices.not_pooled
        )
        for inputs in lineage.columns_left_out:
            log.warning("%s: trained without %s, which most candles lack", self.product_id, inputs)
        for product, reason in lineage.not_pooled.items():
            log.info("%s: trained without %s, which %s", self.product_id, product, reason)
        return register(self.models, profile, fitted, lineage, history, key)

    def judge(self, version: ModelVersion) -> None:
        """Accept or refuse a challenger, and write the gate's figures to it before its status."""
        models, profile = self.models, self.profile
        models.challenge(version)
        candidate = as_candidate(version)
        champion = champion_at(self.candidates(), candidate.origin)
        if not profile.gate_days:
            models.mark(version, {"gate": f"none: profile {profile.name} has no gate", "status": "accepted"})
            return
        if champion is None:
            models.mark(version, {"gate": "no champion to compare with", "status": "accepted"})
            return
        candles = self.history.until(candidate.origin).candles
        gate = judge(profile, self.fitted(champion.version), self.fitted(version.version), candles)
        text = "%s: version %s against version %s %s"
        log.info(text, self.product_id, version.version, champion.version, gate)
        status = "accepted" if gate.passed else "refused"
        tags = {**gate.tags(), "gate_champion": champion.version, "gate": str(gate), "status": status}
        models.mark(version, tags, gate.metrics())

    def promote(self, champion: ModelCandidate, candidates: Sequence[ModelCandidate]) -> None:
        """Move the alias to the champion of this day, but not from a later day's champion of the recipe."""
        version = self.version(champion)
        self.models.settle(version)
        current = self.models.champion(self.product_id, self.profile.name)
        later = [
            one.version for one in candidates if one.status == "accepted" and one.origin > champion.origin
        ]
        if CHAMPION not in version.aliases and (current is None or current.version not in later):
            self.models.promote(version)
