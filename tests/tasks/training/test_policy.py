from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tasks.profiles.calibrated_settings import Policy

from tasks.training.policy import ModelCandidate, champion_of, decide, too_old, unfinished
from tests.helpers import FIRST

POLICY = Policy()


def on(days: int) -> Any:
    return FIRST + timedelta(days=days)


def known(
    version: int, origin: int, seen: int | None = None, training_kind: Any = "refit", status: Any = "accepted"
) -> ModelCandidate:
    """A version made on that day, which has seen all but the newest 180 days unless told."""
    return ModelCandidate(
        str(version), on(origin), on(origin - 180 if seen is None else seen), training_kind, status
    )


FIRST_ONE = known(1, 0)
SHORT = known(1, 0, seen=0)  # a first champion of a short series, trained on all of it
REFUSED = known(2, 90, status="refused")
PENDING = known(2, 90, status="pending")
TUNED = known(2, 30, training_kind="fine-tune")
BACK = known(2, 90, status="rolled-back")
TUNED_BACK = known(2, 30, training_kind="fine-tune", status="rolled-back")


@pytest.mark.parametrize(
    ("versions", "day", "action"),
    [
        pytest.param([], 0, "refit", id="no champion"),
        pytest.param([REFUSED], 95, "refit", id="only a refused one"),
        pytest.param([FIRST_ONE], 0, "keep", id="the same day again"),
        pytest.param([FIRST_ONE], 29, "keep", id="a day before the fine-tuning"),
        pytest.param([FIRST_ONE], 30, "fine-tune", id="fine-tuning due"),
        pytest.param([FIRST_ONE], 89, "fine-tune", id="a day before the refit"),
        pytest.param([FIRST_ONE], 90, "refit", id="refit due"),
        pytest.param([FIRST_ONE], 1000, "refit", id="refit long due"),
        pytest.param([FIRST_ONE, TUNED], 59, "keep", id="fine-tuned a month ago less a day"),
        pytest.param([FIRST_ONE, TUNED], 60, "fine-tune", id="fine-tuned a month ago"),
        pytest.param([FIRST_ONE, TUNED], 90, "refit", id="a fine-tuning is no refit"),
        pytest.param([FIRST_ONE, REFUSED], 91, "keep", id="refused yesterday"),
        pytest.param([FIRST_ONE, REFUSED], 120, "fine-tune", id="refused a month ago"),
        pytest.param([FIRST_ONE, REFUSED], 179, "fine-tune", id="refused 89 days ago"),
        pytest.param([FIRST_ONE, REFUSED], 180, "refit", id="refused 90 days ago"),
        pytest.param([FIRST_ONE, PENDING], 119, "keep", id="tried and not judged"),
        pytest.param([FIRST_ONE, PENDING], 180, "refit", id="tried and not judged 90 days ago"),
        pytest.param([SHORT], 30, "keep", id="nothing unseen to judge a fine-tuning on"),
        pytest.param([SHORT], 90, "keep", id="nothing unseen to judge a refit on"),
        pytest.param([SHORT], 179, "keep", id="179 days unseen"),
        pytest.param([SHORT], 180, "refit", id="180 days unseen"),
        pytest.param([FIRST_ONE, BACK], 120, "keep", id="rolled back: no fine-tuning"),
        pytest.param([FIRST_ONE, BACK], 179, "keep", id="rolled back: not a day early"),
        pytest.param([FIRST_ONE, BACK], 180, "refit", id="rolled back: the next refit"),
        pytest.param([FIRST_ONE, TUNED_BACK], 89, "keep", id="a fine-tuning rolled back"),
        pytest.param([FIRST_ONE, TUNED_BACK], 90, "refit", id="a fine-tuning rolled back: the next refit"),
        pytest.param(
            [FIRST_ONE, BACK, known(3, 180, status="refused")],
            220,
            "keep",
            id="rolled back, and the next refit refused",
        ),
        pytest.param(
            [FIRST_ONE, BACK, known(3, 180)], 210, "fine-tune", id="rolled back, and the next refit accepted"
        ),
        pytest.param([known(1, 0, status="rolled-back"), known(2, 90)], 120, "fine-tune", id="forward"),
        pytest.param([FIRST_ONE, known(2, 300)], 29, "keep", id="a later version is invisible"),
        pytest.param([FIRST_ONE, known(2, 91)], 90, "refit", id="tomorrow's version is invisible"),
        pytest.param([known(2, 300)], 100, "refit", id="before the first version"),
        pytest.param([FIRST_ONE, known(2, 91, status="rolled-back")], 40, "fine-tune", id="back later"),
        pytest.param([known(1, 0, seen=-149)], 30, "keep", id="179 days unseen by a fine-tuning's champion"),
        pytest.param([known(1, 0, seen=-150)], 30, "fine-tune", id="180 days unseen by it"),
        # The refit that it came from was pruned.
        pytest.param([TUNED], 119, "fine-tune", id="no refit is left: a day before the next"),
        pytest.param([TUNED], 120, "refit", id="no refit is left: counted from the champion"),
    ],
)
def test_what_is_due(versions: list[ModelCandidate], day: int, action: str) -> None:
    assert decide(versions, on(day), POLICY).action == action
    assert decide(versions[::-1], on(day), POLICY).action == action  # the order tells nothing


def test_the_periods_are_settings() -> None:
    assert decide([FIRST_ONE], on(89), Policy(fine_tune_every_days=0)).action == "keep"
    assert decide([FIRST_ONE], on(90), Policy(fine_tune_every_days=0)).action == "refit"
    assert decide([FIRST_ONE], on(7), Policy(fine_tune_every_days=7)).action == "fine-tune"
    assert decide([FIRST_ONE], on(90), Policy(refit_every_days=91)).action == "fine-tune"


def test_why() -> None:
    assert decide([], on(0), POLICY).why == "there is no champion yet"
    assert decide([FIRST_ONE, REFUSED], on(180), POLICY).why == f"the last refit is of {on(90)}"
    assert decide([FIRST_ONE, REFUSED], on(120), POLICY).why == f"the last training is of {on(90)}"
    assert decide([FIRST_ONE], on(5), POLICY).why == f"version 1 was made on {on(0)}"
    waits = decide([SHORT], on(100), POLICY).why
    assert f"waits until {on(180)}" in waits
    assert "not seen 100 of the 180 days" in waits
    assert "rolled back to version 1" in decide([FIRST_ONE, BACK], on(120), POLICY).why


def test_who_forecasts() -> None:
    versions = [known(3, 30), FIRST_ONE, known(10, 60), known(9, 60), known(11, 90, status="refused")]
    found = [champion_of(versions, on(day)) for day in (-1, 0, 29, 30, 59, 60, 500)]
    assert [one and one.version for one in found] == [None, "1", "1", "3", "3", "10", "10"]
    for status in ("pending", "refused", "rolled-back"):
        assert champion_of([known(1, 0, status=status)], on(10)) is None


def test_what_a_killed_run_left() -> None:
    versions = [FIRST_ONE, PENDING, known(3, 91, status="refused")]
    assert unfinished(versions, on(89)) is None
    assert unfinished(versions, on(90)) == PENDING
    assert unfinished([FIRST_ONE, REFUSED, BACK], on(500)) is None
    later = [known(10, 95, status="pending"), known(9, 95, status="pending")]
    for order in ([PENDING, *later], [*later, PENDING], [later[1], PENDING, later[0]]):
        found = unfinished(order, on(100))
        assert found
        assert found.version == "10"


def test_too_old() -> None:
    assert too_old(FIRST_ONE, on(180), POLICY) is None
    warning = too_old(FIRST_ONE, on(181), POLICY)
    assert warning
    assert "version 1 was made 181 days ago" in warning
    assert "\n" not in warning
    assert too_old(FIRST_ONE, on(31), Policy(max_model_age_days=30))
