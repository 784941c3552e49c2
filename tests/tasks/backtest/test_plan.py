"""The plan of a backtest: its span, its origins, its folds, and its id."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from closecast.storage.core.errors import BadDay, NotEnoughHistory
from closecast.storage.core.home import Home
from closecast.tasks.backtest.plan import Plan, plan_backtest, read_histories
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.base import Profile
from tests.calibrated import candles, day, quick
from tests.helpers import BTC, NOW, SMALL, home_with, made_up, one_line, store, without


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_with(tmp_path, candles())


def plan(home: Home, start: int | None, end: int | None, profile: Profile | None = None) -> Plan:
    first, last = (None if number is None else day(number) for number in (start, end))
    return plan_backtest(home, BTC, profile or quick(), start=first, end=last, moment=NOW)


def numbers(days: tuple[date, ...]) -> list[int]:
    return [(one - day(1)).days + 1 for one in days]


def test_the_default_span_is_the_last_year_with_outcomes(home: Home) -> None:
    result = plan(home, None, None)
    assert (result.start, result.end) == (day(635), day(999))
    assert result.origins == 365


def test_the_default_span_of_a_young_product_begins_with_its_first_forecast(tmp_path: Path) -> None:
    home = home_with(tmp_path, made_up(200))
    result = plan(home, None, None)
    assert (result.start, result.end, result.origins) == (day(60), day(199), 140)
    with pytest.raises(NotEnoughHistory, match="needs 60 days before it, but there are 29"):
        plan(home, None, 29)


@pytest.mark.parametrize(
    ("start", "end", "folds"),
    [
        # From 580 days on the first model leaves 180 days to the gate: refits every 90 days.
        (610, 990, [610, 700, 790, 880, 970]),
        # A shorter series trains on all days, and the first refit waits for 180 unseen ones.
        (450, 720, [450, 630, 720]),
        (610, 610, [610]),
    ],
)
def test_folds_begin_where_a_refit_is_due(home: Home, start: int, end: int, folds: list[int]) -> None:
    result = plan(home, start, end)
    assert numbers(result.folds) == folds
    assert result.origins == end - start + 1
    spans = [result.span(fold) for fold in range(len(folds))]
    assert [first for first, _ in spans] == list(result.folds)
    assert [last for _, last in spans] == [
        *(first - timedelta(days=1) for first in result.folds[1:]),
        result.end,
    ]


def test_the_article_is_refitted_at_every_origin(home: Home) -> None:
    result = plan(home, 60, 63, ArticleProfile(SMALL))
    assert numbers(result.folds) == [60, 61, 62, 63]
    weekly = plan(home, 60, 70, ArticleProfile(SMALL | {"refit_every_days": 7}))
    assert numbers(weekly.folds) == [60, 67]


def test_origins_are_the_days_with_a_close_and_an_outcome(tmp_path: Path) -> None:
    home = home_with(tmp_path, without(candles(), day(620), day(621)))
    assert plan(home, 610, 660).origins == 51 - 2
    next_day = quick(horizons=(1,))
    assert plan(home, 610, 660, next_day).origins == 51 - 3  # of 619 the outcome is missing, too


def test_days_before_the_first_model_are_a_fold_of_their_own(home: Home) -> None:
    result = plan(home, 60, 410)
    assert numbers(result.folds) == [60, 400]
    assert result.origins == 351
    assert numbers(plan(home, 60, 399).folds) == [60]


def test_the_id_digests_everything_that_goes_in(home: Home) -> None:
    ids = [plan(home, 610, 640).backtest_id for _ in range(2)]
    ids += [plan(home, *span).backtest_id for span in ((611, 640), (610, 641))]
    ids.append(plan(home, 610, 640, quick(seed=7)).backtest_id)
    store(home, made_up(1001).tail(1))  # after the last outcome
    ids.append(plan(home, 610, 640).backtest_id)
    assert len(set(ids)) == 4
    assert ids[0] == ids[1] == ids[-1]


def test_pool_products_are_pinned_to_data_versions(home: Home) -> None:
    store(home, made_up(700, seed=2), product_id="ETH-USD")
    store(home, made_up(100, day(800), seed=3), product_id="LTC-USD")
    profile = quick(pool_products=(BTC, "ETH-USD", "LTC-USD", "XRP-USD"))
    result = plan(home, 610, 640, profile)
    assert list(result.pooled) == ["ETH-USD"]
    history, pool = read_histories(home, result)
    assert history.data_version == result.data_version
    assert history.origin == day(647)  # the outcomes over seven days
    assert pool["ETH-USD"].origin == day(640)
    assert pool["ETH-USD"].product_id == "ETH-USD"


@pytest.mark.parametrize(
    ("kind", "span", "message"),
    [
        (BadDay, (1000, 1000), f"end by {day(999)}, the last origin"),
        (BadDay, (999, 998), "it must start before it ends"),
        (
            NotEnoughHistory,
            (59, 999),
            "profile calibrated needs 60 days before it, but there are 59 .* --start",
        ),
    ],
)
def test_a_span_that_cannot_be_tested_is_refused(
    home: Home, kind: type[Exception], span: tuple[int, int], message: str
) -> None:
    with pytest.raises(kind, match=message, check=one_line):
        plan(home, *span)


def test_a_product_without_closes_or_outcomes_is_refused(home: Home, tmp_path: Path) -> None:
    given: Any = {"start": None, "end": None, "moment": NOW}
    with pytest.raises(NotEnoughHistory, match="ADA-USD has no closes"):
        plan_backtest(home, "ADA-USD", quick(), **given)
    every_second = candles().iloc[::2].reset_index(drop=True)
    store(home, every_second, product_id="ETH-USD")
    with pytest.raises(NotEnoughHistory, match="needs closes on its days, and after them: no day from"):
        plan_backtest(home, "ETH-USD", quick(), **given)  # over 1, 3 and 7 days
