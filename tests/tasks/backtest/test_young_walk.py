"""A young product's backtest: the folds of its youth, and the forecasts that its days would have made."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from closecast.storage.core.home import Home
from closecast.storage.tables.schemas import backtests
from closecast.tasks.backtest.plan import Plan, plan_backtest
from closecast.tasks.backtest.result import finish_backtest
from closecast.tasks.backtest.walk_forward import prepare_fold
from tests.calibrated import Runs, day, empty_runs, quick
from tests.helpers import BTC, FIRST, NOW, made_up, store
from tests.tasks.training.test_young import YOUNG

ETH = "ETH-USD"


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """BTC-USD with 260 days, and ETH-USD, which has its 200th close on BTC-USD's 100th day."""
    home = empty_runs(tmp_path_factory, tmp_path / "home").home
    store(home, made_up(260))
    store(home, made_up(360, FIRST - timedelta(days=100), seed=2), product_id=ETH)
    return home


def plan(home: Home, start: int, end: int, **changed: Any) -> Plan:
    profile = quick(**YOUNG | changed)
    return plan_backtest(home, BTC, profile, start=day(start), end=day(end), moment=NOW)


@pytest.mark.parametrize(
    ("start", "end", "changed", "folds"),
    [
        # The baselines alone until the older product has closes enough, then a refit a month, and on the
        # 200th day one on its own windows, whose successor waits for 180 unseen days.
        (60, 240, {}, [60, 100, 130, 160, 190, 200]),
        (110, 199, {}, [110, 140, 170]),
        (60, 240, {"min_pool_days": 120}, [60, 120, 150, 180, 200]),
        (60, 240, {"min_pool_days": 200}, [60, 200]),
        (60, 90, {}, [60]),
        (210, 240, {}, [210]),
    ],
)
def test_folds_of_a_young_product(
    home: Home, start: int, end: int, changed: dict[str, Any], folds: list[int]
) -> None:
    result = plan(home, start, end, **changed)
    assert [(one - day(1)).days + 1 for one in result.folds] == folds
    assert result.origins == end - start + 1
    young = start < 200 and end >= 100 and changed.get("min_pool_days") != 200
    assert list(result.pooled) == ([ETH] if young else [])


@pytest.mark.parametrize(("start", "end", "bases"), [(99, 101, "fpp"), (199, 201, "pmm")])
def test_the_walk_makes_the_forecasts_of_the_days(home: Home, start: int, end: int, bases: str) -> None:
    """Through the day on which the pool can train, and the one on which the product is grown."""
    tested = plan(home, start, end)
    for fold in reversed(range(len(tested.folds))):
        prepare_fold(home, tested, fold)
    result = finish_backtest(home, tested)
    rows = [row for row in backtests(home).read().to_pylist() if row["horizon"] == 3]
    walked = {row["origin_day"]: row for row in rows if row["component"] == "calibrated"}
    assert [row["basis"][0] for _, row in sorted(walked.items())] == list(bases)
    for row in rows:  # the baselines' rows, too, have the basis of their forecast
        assert row["basis"] == walked[row["origin_day"]]["basis"]
    assert result.gates == ()
    runs = Runs(home, tested.profile)  # type: ignore[arg-type]
    for number in range(start, end + 1):
        made = runs.live(number)
        row = walked[made.origin_day]
        assert (made.basis, made.horizons[1].quantiles) == (row["basis"], tuple(row["quantiles"]))
