"""When a model is replaced: what is due, which version forecasts, how long a rollback lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from closecast.tasks.core.forecast import Basis
from closecast.tasks.core.model import TrainingKind
from closecast.tasks.profiles.base import Policy

Status = Literal["pending", "accepted", "refused", "rolled-back"]
# On fewer days than these the gate would toss a coin: it does not judge on them.
MIN_UNSEEN_DAYS = 180


@dataclass(frozen=True)
class ModelCandidate:
    """A model version as the policy sees it."""

    version: str
    origin: date  # the last day of the candles that it was made from
    trained_through: date  # the newest day that training looked at, the twin's where it has one
    training_kind: TrainingKind
    status: Status
    basis: Basis = "model"  # whose windows it was trained on


@dataclass(frozen=True)
class Decision:
    """What a run does about its model, and why."""

    action: Literal["keep", "refit", "fine-tune"]
    reason: str


def champion_at(candidates: Sequence[ModelCandidate], origin: date) -> ModelCandidate | None:
    """The version that forecasts from `origin`: the newest accepted one that was not made later."""
    return _newest(candidates, origin, "accepted")


def pending_at(candidates: Sequence[ModelCandidate], origin: date) -> ModelCandidate | None:
    """A challenger that was trained but not judged, because its run was killed in between."""
    return _newest(candidates, origin, "pending")


def decide(
    candidates: Sequence[ModelCandidate],
    origin: date,
    policy: Policy,
    *,
    gated: bool = True,
    basis: Basis = "model",
) -> Decision:
    """What is due on `origin`, where `basis` is that of a model trained now.

    Both periods count from the newest attempt, whatever its result: a refused challenger is not tried again
    the next day, and a rollback is not undone before the next refit is due. With a gate, a refit waits until
    there are enough days that the champion has not seen. A model of the pool has no gate and is not
    fine-tuned; the first model on the product's own windows replaces it at once.
    """
    if basis == "fallback":
        return Decision("keep", "neither the product nor another one has enough closes for a model")
    if not policy.refit_every_days:
        return Decision("refit", "the profile trains on each data version")
    champion = champion_at(candidates, origin)
    if champion is None:
        return Decision("refit", f"there is no champion of these settings as of {origin}")
    past = [one for one in candidates if one.origin <= origin]
    if basis == "model" and all(one.basis == "pool" for one in past):
        return Decision("refit", "the product has enough closes for a model on its own windows")
    pooled = "pool" in (basis, champion.basis)
    last = max(one.origin for one in past)
    last_refit = max((one.origin for one in past if one.training_kind == "refit"), default=champion.origin)
    unseen = (origin - champion.trained_through).days
    ripe = unseen >= MIN_UNSEEN_DAYS or pooled or not gated
    if (origin - last_refit).days >= policy.refit_every_days:
        if not ripe:
            ripe_on = champion.trained_through + timedelta(MIN_UNSEEN_DAYS)
            return Decision(
                "keep",
                f"a refit is due, but waits until {ripe_on}: the champion has not seen {unseen} of the"
                f" {MIN_UNSEEN_DAYS} days that the gate needs",
            )
        return Decision("refit", f"the last refit was on {last_refit}")
    if any(one.status == "rolled-back" and _order(one) > _order(champion) for one in past):
        return Decision("keep", f"rolled back to version {champion.version} until the next refit")
    fine_tune = policy.fine_tune_every_days
    if fine_tune and (origin - last).days >= fine_tune and ripe and not pooled:
        return Decision("fine-tune", f"the last training was on {last}")
    return Decision("keep", f"version {champion.version} was made on {champion.origin}")


def why_no_gate(champion: ModelCandidate | None, basis: Basis) -> str | None:
    """Why a challenger of that basis is accepted without a gate, or None if it must pass one."""
    if basis == "pool":
        return "none: trained on other products alone"
    if champion is None:
        return "no champion to compare with"
    return "none: the champion was trained on other products alone" if champion.basis == "pool" else None


def age_warning(champion: ModelCandidate, origin: date, policy: Policy) -> str | None:
    """The warning about a model that has had no successor for too long, or None."""
    age = (origin - champion.origin).days
    if age <= policy.max_model_age_days:
        return None
    return (
        f"version {champion.version} was made {age} days ago, more than max_model_age_days"
        f" ({policy.max_model_age_days}), and no challenger has replaced it: see `closecast versions`"
    )


def _newest(candidates: Sequence[ModelCandidate], origin: date, status: Status) -> ModelCandidate | None:
    past = [one for one in candidates if one.status == status and one.origin <= origin]
    return max(past, key=_order, default=None)


def _order(candidate: ModelCandidate) -> tuple[date, int]:
    return candidate.origin, int(candidate.version)
