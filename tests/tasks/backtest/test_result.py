"""A walked backtest read back from its table."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.core.home import Home
from storage.models.backtest_cache import BacktestCache
from storage.tables.schemas import BACKTESTS, backtests
from tasks.backtest import result
from tasks.backtest.plan import plan_backtest
from tasks.backtest.result import read_evaluation, read_result
from tasks.backtest.summary import summarise
from tasks.core.quantiles import LEVELS
from tests.calibrated import candles, close, day, quick, spread
from tests.helpers import BTC, NOW, store, without

NUMBERS = range(610, 640)


def row(backtest_id: str, number: int, component: str) -> dict[str, Any]:
    last = close(number)
    return {
        **dict.fromkeys(BACKTESTS.arrow.names),
        "backtest_id": backtest_id,
        "product_id": BTC,
        "profile": "calibrated",
        "component": component,
        "origin_day": day(number),
        "target_day": day(number + 1),
        "horizon": 1,
        "fold": 0,
        "model": "m",
        "last_close": last,
        "close": close(number + 1),
        "point": last * 1.01,
        "sigma": 0.03,
        "quantile_levels": list(LEVELS),
        "quantiles": spread(last),
        "created_at": NOW,
    }


def put_rows(home: Home, backtest_id: str, *components: str) -> None:
    """Rows of these components, the last day first."""
    backtests(home).add(
        [row(backtest_id, number, name) for number in reversed(NUMBERS) for name in components]
    )


def test_quantiles_are_of_the_log_return_in_the_order_of_days(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    put_rows(home, "one", "calibrated", "har_t")
    put_rows(home, "other", "calibrated")
    evaluation = read_evaluation(home, BTC, "one", "calibrated")
    assert evaluation.target_days == [day(number + 1) for number in NUMBERS]
    assert evaluation.last_close.tolist() == [close(number) for number in NUMBERS]
    assert evaluation.close.tolist() == [close(number + 1) for number in NUMBERS]
    assert evaluation.point.tolist() == [close(number) * 1.01 for number in NUMBERS]
    assert set(evaluation.quantiles) == {"calibrated", "har_t"}
    expected = [math.log(price / close(610)) for price in spread(close(610))]
    np.testing.assert_allclose(evaluation.quantiles["har_t"][0], expected, rtol=0, atol=1e-15)


def test_the_summary_is_scaled_by_the_days_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path).prepare()
    store(home, without(candles(), day(300), day(301)))
    plan = plan_backtest(home, BTC, quick(), start=day(610), end=day(639), moment=NOW)
    put_rows(home, plan.backtest_id, "calibrated", "last_close_250")
    BacktestCache(home, plan.backtest_id).write("fold-0", {"gates": ["a gate"]})
    honest, past = summarise, []

    def spy(evaluation: Any, past_closes: Any, **more: Any) -> Any:
        past.append(past_closes)
        return honest(evaluation, past_closes, **more)

    monkeypatch.setattr(result, "summarise", spy)
    read = read_result(home, plan)
    assert (read.backtest_id, read.gates) == (plan.backtest_id, ("a gate",))
    assert (read.summary.days, read.summary.currency) == (30, "USD")
    assert read.summary.last_target_day == day(639) + timedelta(days=1)
    (closes,) = past
    assert len(closes) == 609  # a calendar day each, with the gap as NaN
    assert np.flatnonzero(np.isnan(closes)).tolist() == [299, 300]
    assert closes[-1] == close(609)
