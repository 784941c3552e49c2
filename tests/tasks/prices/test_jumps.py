from __future__ import annotations

from dataclasses import asdict
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closecast.storage.core.candle_schema import candle_frame
from closecast.storage.prices.decisions import Decision, RecordedSeries, decision_frame
from closecast.tasks.prices.validation import Checked, check_candles
from tests.helpers import FIRST, made_up
from tests.markets import bad_print, closes_only, crash, doge, redenomination

LAST = date(2030, 1, 1)
EVENT = 30
DAY = FIRST + timedelta(days=EVENT)
NEXT = DAY + timedelta(days=1)


def check(frame: pd.DataFrame, **options: Any) -> Checked:
    return check_candles(frame, last_finished_day=LAST, **options)


def series(frame: pd.DataFrame, *decisions: Decision) -> RecordedSeries:
    rows = frame.assign(seq=np.arange(1, len(frame) + 1))
    numbered = [
        {"seq": number, "day_utc": one.day, "after_candle_seq": 0, **asdict(one)}
        for number, one in enumerate(decisions, start=1)
    ]
    return RecordedSeries(rows, decision_frame(numbered))


def verdict(frame: pd.DataFrame, **options: Any) -> tuple[list[str], list[tuple[date, Any, date]]]:
    """The quarantined days, and the decisions of the rules."""
    checked = check(frame, **options)
    decisions = [(one.day, one.kind, one.known_from) for one in checked.decisions]
    assert len(checked.accepted) + len(checked.quarantined) == len(frame)
    return checked.quarantined["day_utc"].tolist(), decisions


@pytest.mark.parametrize("volume", [0.0, np.nan])
def test_without_known_trades_only_the_next_day_confirms_a_crash(volume: float) -> None:
    crashed = crash(made_up(), EVENT)
    crashed.loc[EVENT, "volume"] = volume
    assert verdict(crashed.head(EVENT + 1)) == ([str(DAY)], [])
    assert verdict(crashed) == ([], [(DAY, "accepted", NEXT)])


def test_a_day_without_trades_confirms_nothing() -> None:
    frame = redenomination(made_up(), EVENT)
    frame.loc[EVENT + 1, "volume"] = 0.0
    assert verdict(frame) == ([str(DAY)], [(NEXT, "accepted", NEXT + timedelta(days=1))])


@pytest.mark.parametrize("factor", [100.0, 4.0, 0.2, 0.001])
@pytest.mark.parametrize("kind", ["print", "level", "closes"])
def test_a_bad_print_is_quarantined_and_the_return_accepts_nothing(factor: float, kind: str) -> None:
    frame = made_up()
    if kind == "print":
        frame = bad_print(frame, EVENT, factor)
    else:
        frame.loc[EVENT, ["open", "high", "low", "close"]] *= factor
    if kind == "closes":
        frame = closes_only(frame)
    quarantined, decisions = verdict(frame)
    assert quarantined == [str(DAY)]
    assert [kind for _, kind, _ in decisions] == (["rejected"] if kind == "print" else [])


def test_a_fall_and_a_recovery_that_both_cross_the_distance_are_true() -> None:
    frame = made_up()
    fallen = crash(frame, EVENT)
    flash = pd.concat([fallen.head(EVENT + 1), frame.tail(len(frame) - EVENT - 1)], ignore_index=True)
    for name in ("open", "low"):
        flash.loc[EVENT + 1, name] = flash["close"][EVENT]
    assert verdict(flash) == ([], [(DAY, "accepted", DAY), (NEXT, "accepted", NEXT)])


def test_the_true_day_of_doge_in_january_2021() -> None:
    true = date(2021, 1, 28)
    assert verdict(doge()) == ([], [(true, "accepted", true)])
    assert verdict(closes_only(doge())) == ([], [(true, "accepted", date(2021, 1, 29))])


def test_an_absurd_page_accepts_nothing_against_stored_closes() -> None:
    frame = made_up()
    page = frame.tail(10).copy()
    page[["open", "high", "low", "close"]] *= 1000
    stored, before = series(frame.head(55)), (FIRST + timedelta(days=49), float(frame["close"][49]))
    quarantined, decisions = verdict(page, stored=stored, previous=before)
    assert (len(quarantined), decisions) == (10, [])


def test_a_gap_is_confirmed_by_the_stored_close_after_it() -> None:
    frame = redenomination(made_up(), EVENT)
    stored = series(frame.drop(index=EVENT).reset_index(drop=True))
    page, previous = frame[frame.index == EVENT], (DAY - timedelta(days=1), float(frame["close"][EVENT - 1]))
    assert verdict(page, stored=stored, previous=previous) == ([], [(DAY, "accepted", NEXT)])


def test_decisions_of_a_person_override_the_rules() -> None:
    frame = redenomination(made_up(), EVENT)
    joined = {"previous": (DAY - timedelta(days=1), float(frame["close"][EVENT - 1]))}
    page = frame.iloc[EVENT:].reset_index(drop=True)
    rejected = series(frame.head(EVENT), Decision(DAY, "rejected", DAY, "user"))
    quarantined, decisions = verdict(page, stored=rejected, **joined)
    assert quarantined == [str(DAY)]
    assert all(day > DAY for day, *_ in decisions)
    split = series(frame.head(EVENT), Decision(DAY, "split", DAY, "user", 0.001))
    assert verdict(page, stored=split, **joined) == ([], [])
    accepted = series(frame.head(EVENT), Decision(DAY, "accepted", DAY, "user"))
    assert verdict(page.head(1), stored=accepted, **joined) == ([], [])


@settings(max_examples=150)
@given(
    returns=st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=20),
    jump=st.floats(1.7, 12) | st.floats(-12, -1.7),
    where=st.integers(5, 18),
    has_opens=st.booleans(),
)
def test_a_shift_of_level_is_known_a_day_later_and_a_spike_never(
    returns: list[float], jump: float, where: int, has_opens: bool
) -> None:
    where = min(where, len(returns) - 1)
    moves = np.array(returns)
    moves[where] = jump
    shifted = np.exp(np.cumsum(np.append(moves, 0.1)))
    spike = np.exp(np.cumsum(np.append(returns, 0.1)))
    spike[where] = shifted[where]
    for closes, is_spike in ((shifted, False), (spike, True)):
        frame = candle_frame(
            {
                "day_utc": [FIRST + timedelta(days=n) for n in range(len(closes))],
                **dict.fromkeys(("open", "high", "low") if has_opens else (), closes),
                "close": closes,
            }
        )
        day = FIRST + timedelta(days=where)
        quarantined, decisions = verdict(frame)
        if is_spike and abs(np.log(spike[where + 1] / spike[where])) > 1.2:
            assert not any(decided == day for decided, *_ in decisions)
        if not is_spike:
            assert (quarantined, decisions) == ([], [(day, "accepted", day + timedelta(days=1))])
