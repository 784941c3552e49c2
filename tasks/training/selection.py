"""The model of a day: the champion, or a challenger that passes the gate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from storage.core.home import Home
from storage.core.provenance import code_version
from storage.models.registry import CHAMPION, Models, ModelVersion
from tasks.core.history import PriceHistory
from tasks.core.model import TrainingKind
from tasks.core.steps import step
from tasks.prices.ingest import IngestedPrices
from tasks.profiles.base import FittedModel, Histories, Profile
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


@dataclass(frozen=True)
class SelectionContext:
    """What the selection of one product's model works with."""

    models: Models
    profile: Profile
    history: PriceHistory
    pool: Histories
    not_pooled: dict[str, str]

    def candidates(self) -> list[ModelCandidate]:
        """The versions that could forecast by this recipe on this series of prices."""
        wanted = (self.profile.recipe_version, self.history.series)
        return [
            as_candidate(version)
            for version in self.models.versions(self.history.product_id, self.profile.name)
            if (version.tags["recipe_version"], version.tags["series"]) == wanted
        ]

    def fitted(self, version: str) -> FittedModel:
        """A version's fitted model."""
        fitted: FittedModel = load_model(self.models, self.profile, self.history.product_id, version).fitted
        return fitted


@step(timeout_seconds=3600, run_name="{prices.history.product_id}")
def select_model(home: Home, profile: Profile, prices: IngestedPrices) -> ModelSelection:
    """Decide what is due, train a challenger if so, let the gate judge it, and name the champion.

    The product's lock is held. A run that is killed on the way leaves a challenger that the next run judges,
    or nothing.

    Raises:
        NotEnoughHistory: too few closes.
    """
    history = prices.history
    context = SelectionContext(Models(home), profile, history, prices.pool, dict(prices.not_pooled))
    candidates = context.candidates()  # again only after something has changed
    if pending := pending_at(candidates, history.origin):
        _judge(context, context.models.version(history.product_id, profile.name, pending.version))
        candidates = context.candidates()
    decision = decide(candidates, history.origin, profile.policy, gated=profile.gate_days > 0)
    log.info("%s: %s, because %s", history.product_id, decision.action, decision.reason)
    if decision.action != "keep":
        challenger = _challenger(context, decision.action, candidates)
        if challenger.tags["status"] == "pending":
            _judge(context, challenger)
        candidates = context.candidates()
    champion = champion_at(candidates, history.origin)
    assert champion is not None  # noqa: S101 (the first refit has no champion to be refused for)
    _promote(context, champion, candidates)
    warning = age_warning(champion, history.origin, profile.policy)
    if warning:
        log.warning("%s: %s", history.product_id, warning)
    return ModelSelection(champion.version, decision.reason, warning)


def _challenger(
    context: SelectionContext, training_kind: TrainingKind, candidates: Sequence[ModelCandidate]
) -> ModelVersion:
    """Train and register a version, unless the same was trained before."""
    models, profile, history = context.models, context.profile, context.history
    champion = champion_at(candidates, history.origin)
    parent = champion.version if champion and training_kind == "fine-tune" else None
    key = model_key(
        history.product_id,
        profile.name,
        history.data_version,
        profile.recipe_version,
        code_version(*own_files(profile)),
        training_kind,
        parent or "",
        *(one.data_version for one in context.pool.values()),
    )
    if known := models.find(history.product_id, profile.name, key):
        log.info("%s: version %s was trained on this data before", history.product_id, known.version)
        return known
    log.info("%s: training on %d closes up to %s", history.product_id, len(history.candles), history.origin)
    fitted, lineage = train_model(
        profile,
        history,
        context.pool,
        parent=(parent, context.fitted(parent)) if parent else None,
        not_pooled=context.not_pooled,
    )
    for inputs in lineage.columns_left_out:
        log.warning("%s: trained without %s, which most candles lack", history.product_id, inputs)
    for product, reason in lineage.not_pooled.items():
        log.info("%s: trained without %s, which %s", history.product_id, product, reason)
    return register(models, profile, fitted, lineage, history, key)


def _judge(context: SelectionContext, version: ModelVersion) -> None:
    """Accept or refuse a challenger, and write the gate's figures to it before its status."""
    models, profile = context.models, context.profile
    models.challenge(version)
    candidate = as_candidate(version)
    champion = champion_at(context.candidates(), candidate.origin)
    if not profile.gate_days:
        models.mark(version, {"gate": f"none: profile {profile.name} has no gate", "status": "accepted"})
    elif champion is None:
        models.mark(version, {"gate": "no champion to compare with", "status": "accepted"})
    else:
        candles = context.history.until(candidate.origin).candles
        gate = judge(profile, context.fitted(champion.version), context.fitted(version.version), candles)
        text = "%s: version %s against version %s %s"
        log.info(text, version.product_id, version.version, champion.version, gate)
        status = "accepted" if gate.passed else "refused"
        tags = {**gate.tags(), "gate_champion": champion.version, "gate": str(gate), "status": status}
        models.mark(version, tags, gate.metrics())


def _promote(
    context: SelectionContext, champion: ModelCandidate, candidates: Sequence[ModelCandidate]
) -> None:
    """Move the alias to the champion of this day, but not from a later day's champion of the recipe."""
    models, product_id, profile = context.models, context.history.product_id, context.profile.name
    version = models.version(product_id, profile, champion.version)
    models.settle(version)
    current = models.champion(product_id, profile)
    later = [one.version for one in candidates if one.status == "accepted" and one.origin > champion.origin]
    if current is not None and current.version in later:
        return
    if CHAMPION not in version.aliases:
        models.promote(version)
