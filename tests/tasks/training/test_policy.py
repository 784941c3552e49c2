"""When a model is replaced, by every kind of history that it may have."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from closecast.tasks.profiles.base import Policy
from closecast.tasks.training.policy import (
    Decision,
    ModelCandidate,
    age_warning,
    champion_at,
    decide,
    pending_at,
)
from tests.helpers import FIRST

POLICY = Policy()


def on(days: int) -> Any:
    return FIRST + timedelta(days=days)


def candidate(
    version: int,
    origin: int,
    trained: int | None = None,
    training_kind: Any = "refit",
    status: Any = "accepted",
    basis: Any = "model",
) -> ModelCandidate:
    """A version of that day; by default training looked at all but its newest 180 days."""
    through = on(origin - 180 if trained is None else trained)
    return ModelCandidate(str(version), on(origin), through, training_kind, status, basis)


REFIT = candidate(1, 0)
SHORT = candidate(1, 0, trained=0)  # a first champion of a short series, trained on all of it
REFUSED = candidate(2, 90, status="refused")
PENDING = candidate(2, 90, status="pending")
TUNED = candidate(2, 30, training_kind="fine-tune")
BACK = candidate(2, 90, status="rolled-back")
POOL = candidate(1, 0, trained=0, basis="pool")
POOL_AGAIN = candidate(2, 90, trained=90, basis="pool")
OWN = candidate(3, 150, trained=150)  # the first of the product's own windows
OWN_BACK = candidate(3, 150, trained=150, status="rolled-back")
TUNED_BACK = candidate(2, 30, training_kind="fine-tune", status="rolled-back")


@pytest.mark.parametrize(
    ("versions", "day", "action"),
    [
        pytest.param([], 0, "refit", id="no champion"),
        pytest.param([REFUSED], 95, "refit", id="only a refused one"),
        pytest.param([REFIT], 0, "keep", id="the same day again"),
        pytest.param([REFIT], 29, "keep", id="a day before the fine-tuning"),
        pytest.param([REFIT], 30, "fine-tune", id="fine-tuning due"),
        pytest.param([REFIT], 89, "fine-tune", id="a day before the refit"),
        pytest.param([REFIT], 90, "refit", id="refit due"),
        pytest.param([REFIT, TUNED], 59, "keep", id="fine-tuned a month ago less a day"),
        pytest.param([REFIT, TUNED], 60, "fine-tune", id="fine-tuned a month ago"),
        pytest.param([REFIT, TUNED], 90, "refit", id="a fine-tuning is no refit"),
        pytest.param([REFIT, REFUSED], 91, "keep", id="refused yesterday"),
        pytest.param([REFIT, REFUSED], 120, "fine-tune", id="refused a month ago"),
        pytest.param([REFIT, REFUSED], 179, "fine-tune", id="refused 89 days ago"),
        pytest.param([REFIT, REFUSED], 180, "refit", id="refused 90 days ago"),
        pytest.param([REFIT, PENDING], 119, "keep", id="tried and not judged"),
        pytest.param([REFIT, PENDING], 180, "refit", id="tried and not judged 90 days ago"),
        pytest.param([SHORT], 179, "keep", id="179 days unseen"),
        pytest.param([SHORT], 180, "refit", id="180 days unseen"),
        pytest.param([REFIT, BACK], 120, "keep", id="rolled back: no fine-tuning"),
        pytest.param([REFIT, BACK], 179, "keep", id="rolled back: not a day early"),
        pytest.param([REFIT, BACK], 180, "refit", id="rolled back: the next refit"),
        pytest.param([REFIT, TUNED_BACK], 89, "keep", id="a fine-tuning rolled back"),
        pytest.param([REFIT, TUNED_BACK], 90, "refit", id="a fine-tuning rolled back: the next refit"),
        pytest.param(
            [REFIT, BACK, candidate(3, 180, status="refused")],
            220,
            "keep",
            id="rolled back, and the next refit refused",
        ),
        pytest.param(
            [REFIT, BACK, candidate(3, 180)], 210, "fine-tune", id="rolled back, and the next refit accepted"
        ),
        pytest.param(
            [candidate(1, 0, status="rolled-back"), candidate(2, 90)], 120, "fine-tune", id="forward"
        ),
        pytest.param([REFIT, candidate(2, 300)], 29, "keep", id="a later version is invisible"),
        pytest.param([REFIT, candidate(2, 91)], 90, "refit", id="tomorrow's version is invisible"),
        pytest.param([candidate(2, 300)], 100, "refit", id="before the first version"),
        pytest.param([REFIT, candidate(2, 91, status="rolled-back")], 40, "fine-tune", id="back later"),
        pytest.param(
            [candidate(1, 0, trained=-149)], 30, "keep", id="179 days unseen by a fine-tuning's champion"
        ),
        pytest.param([candidate(1, 0, trained=-150)], 30, "fine-tune", id="180 days unseen by it"),
        # The refit that it came from was pruned.
        pytest.param([TUNED], 119, "fine-tune", id="no refit is left: a day before the next"),
        pytest.param([TUNED], 120, "refit", id="no refit is left: counted from the champion"),
    ],
)
def test_what_is_due(versions: list[ModelCandidate], day: int, action: str) -> None:
    assert decide(versions, on(day), POLICY).action == action
    assert decide(versions[::-1], on(day), POLICY).action == action  # the order does not count


@pytest.mark.parametrize(
    ("policy", "day", "action"),
    [
        ({"fine_tune_every_days": 0}, 89, "keep"),
        ({"fine_tune_every_days": 0}, 90, "refit"),
        ({"fine_tune_every_days": 7}, 7, "fine-tune"),
        ({"refit_every_days": 91}, 90, "fine-tune"),
        ({"refit_every_days": 0}, 0, "refit"),
    ],
)
def test_the_periods_are_settings(policy: dict[str, int], day: int, action: str) -> None:
    assert decide([REFIT], on(day), Policy(**policy)).action == action


@pytest.mark.parametrize(
    ("versions", "day", "basis", "action"),
    [
        pytest.param([], 0, "pool", "refit", id="no champion"),
        pytest.param([POOL], 89, "pool", "keep", id="a model of the pool is not fine-tuned"),
        pytest.param([POOL], 90, "pool", "refit", id="nor does its refit wait for unseen days"),
        pytest.param([POOL, POOL_AGAIN], 179, "pool", "keep", id="refitted 89 days ago"),
        pytest.param([POOL, POOL_AGAIN], 95, "model", "refit", id="old enough: at once"),
        pytest.param([POOL, POOL_AGAIN, OWN], 180, "model", "keep", id="its own model is too fresh to judge"),
        pytest.param([POOL, POOL_AGAIN, OWN], 330, "model", "refit", id="its own model has its first gate"),
        pytest.param([POOL, POOL_AGAIN, OWN_BACK], 151, "model", "keep", id="rolled back to the pool's"),
        pytest.param([POOL, POOL_AGAIN, OWN_BACK], 239, "model", "keep", id="rolled back: not a day early"),
        pytest.param([POOL, POOL_AGAIN, OWN_BACK], 240, "model", "refit", id="rolled back: the next refit"),
        pytest.param([OWN], 151, "pool", "keep", id="a day was rejected: too young again"),
        pytest.param([POOL, POOL_AGAIN, OWN], 100, "pool", "keep", id="a past day of its youth"),
    ],
)
def test_due_trainings_of_a_young_product(
    versions: list[ModelCandidate], day: int, basis: Any, action: str
) -> None:
    assert decide(versions, on(day), POLICY, basis=basis).action == action


def test_without_a_gate_nothing_waits_for_unseen_days() -> None:
    assert decide([SHORT], on(90), POLICY, gated=False).action == "refit"
    assert decide([SHORT], on(30), POLICY, gated=False).action == "fine-tune"


def test_the_reason_names_versions_and_days() -> None:
    # Versions of later days may be there, and champions of other settings.
    nothing = f"there is no champion of these settings as of {on(0)}"
    assert decide([], on(0), POLICY).reason == decide([REFUSED], on(0), POLICY).reason == nothing
    assert decide([REFIT, REFUSED], on(180), POLICY).reason == f"the last refit was on {on(90)}"
    assert decide([REFIT, REFUSED], on(120), POLICY).reason == f"the last training was on {on(90)}"
    assert decide([REFIT], on(5), POLICY).reason == f"version 1 was made on {on(0)}"
    own = "the product has enough closes for a model on its own windows"
    assert decide([POOL], on(5), POLICY) == Decision("refit", own)


def test_without_enough_closes_nothing_is_trained() -> None:
    few = Decision("keep", "neither the product nor another one has enough closes for a model")
    for versions in ([], [REFIT]):
        assert decide(versions, on(95), POLICY, basis="fallback") == few
        assert decide(versions, on(95), Policy(refit_every_days=0), basis="fallback") == few
    waits = decide([SHORT], on(100), POLICY).reason
    assert f"waits until {on(180)}" in waits
    assert "not seen 100 of the 180 days" in waits
    assert "rolled back to version 1" in decide([REFIT, BACK], on(120), POLICY).reason


def test_the_champion_is_the_newest_accepted_version_up_to_the_origin() -> None:
    versions = [candidate(3, 30), REFIT, candidate(10, 60), candidate(9, 60)]
    versions.append(candidate(11, 90, status="refused"))
    champions = [champion_at(versions, on(day)) for day in (-1, 0, 29, 30, 59, 60, 500)]
    assert [one and one.version for one in champions] == [None, "1", "1", "3", "3", "10", "10"]
    for status in ("pending", "refused", "rolled-back"):
        assert champion_at([candidate(1, 0, status=status)], on(10)) is None


def test_the_newest_pending_challenger_up_to_the_origin_is_judged() -> None:
    versions = [REFIT, PENDING, candidate(3, 91, status="refused")]
    assert pending_at(versions, on(89)) is None
    assert pending_at(versions, on(90)) == PENDING
    assert pending_at([REFIT, REFUSED, BACK], on(500)) is None
    later = [candidate(10, 95, status="pending"), candidate(9, 95, status="pending")]
    for order in ([PENDING, *later], [*later, PENDING], [later[1], PENDING, later[0]]):
        newest = pending_at(order, on(100))
        assert newest
        assert newest.version == "10"


def test_a_model_older_than_180_days_raises_a_warning() -> None:
    assert age_warning(REFIT, on(180), POLICY) is None
    warning = age_warning(REFIT, on(181), POLICY)
    assert warning
    assert "version 1 was made 181 days ago" in warning
    assert "\n" not in warning
    assert age_warning(REFIT, on(31), Policy(max_model_age_days=30))
