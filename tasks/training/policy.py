"""When a model is replaced: what is due, who forecasts, and what a rollback holds on to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from tasks.profiles.calibrated_settings import Policy

TrainingKind = Literal["refit", "fine-tune"]
Status = Literal["pending", "accepted", "refused", "rolled-back"]
# Fewer days than these are a coin flip: the gate does not judge on them.
MIN_UNSEEN_DAYS = 180


@dataclass(frozen=True)
class ModelCandidate:
    """A model version as the policy sees it.

    `origin` is the last day of the candles it was made from, `trained_through` the newest one that training
    looked at.
    """

    version: str
    origin: date
    trained_through: date
    training_kind: TrainingKind
    status: Status


@dataclass(frozen=True)
class Decision:
    """What a run does about its model, and why."""

    action: Literal["keep", "refit", "fine-tune"]
    why: str


def champion_of(known: Sequence[ModelCandidate], origin: date) -> ModelCandidate | None:
    """The version that forecasts from `origin`: the newest accepted one that knows nothing later."""
    accepted = [one for one in known if one.status == "accepted" and one.origin <= origin]
    return max(accepted, key=_order, default=None)


def unfinished(known: Sequence[ModelCandidate], origin: date) -> ModelCandidate | None:
    """A challenger that was trained and not judged yet: its run was ended in between."""
    pending = [one for one in known if one.status == "pending" and one.origin <= origin]
    return max(pending, key=_order, default=None)


def decide(known: Sequence[ModelCandidate], origin: date, policy: Policy) -> Decision:
    """What is due on `origin`.

    Both periods count from the newest attempt, whatever became of it: a challenger that was refused is not
    tried again the next day, and a rollback is not undone before the next refit is due.
    """
    champion = champion_of(known, origin)
    if champion is None:
        return Decision("refit", "there is no champion yet")
    past = [one for one in known if one.origin <= origin]
    last = max(one.origin for one in past)
    last_refit = max((one.origin for one in past if one.training_kind == "refit"), default=champion.origin)
    unseen = (origin - champion.trained_through).days
    if (origin - last_refit).days >= policy.refit_every_days:
        if unseen < MIN_UNSEEN_DAYS:
            return Decision(
                "keep",
                f"a refit is due, and waits until {champion.trained_through + timedelta(MIN_UNSEEN_DAYS)}:"
                f" the champion has not seen {unseen} of the {MIN_UNSEEN_DAYS} days it would be judged on",
            )
        return Decision("refit", f"the last refit is of {last_refit}")
    if any(one.status == "rolled-back" and _order(one) > _order(champion) for one in past):
        return Decision("keep", f"rolled back to version {champion.version}, until a refit takes its place")
    fine_tune = policy.fine_tune_every_days
    if fine_tune and (origin - last).days >= fine_tune and unseen >= MIN_UNSEEN_DAYS:
        return Decision("fine-tune", f"the last training is of {last}")
    return Decision("keep", f"version {champion.version} was made on {champion.origin}")


def too_old(champion: ModelCandidate, origin: date, policy: Policy) -> str | None:
    """The warning about a model that has had no successor for too long, or None."""
    age = (origin - champion.origin).days
    if age <= policy.max_model_age_days:
        return None
    return (
        f"version {champion.version} was made {age} days ago, more than max_model_age_days"
        f" ({policy.max_model_age_days}), and no challenger has replaced it: look at `closecast versions`"
    )


def _order(one: ModelCandidate) -> tuple[date, int]:
    return one.origin, int(one.version)
