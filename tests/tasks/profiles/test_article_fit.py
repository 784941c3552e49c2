from __future__ import annotations

import functools
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks.profiles.article_fit import fit_article, min_days, split_article

from storage.core.errors import BadSetting, NotEnoughHistory
from tasks.network.architectures import predict
from tasks.network.trainer import train
from tasks.prices.csv_reader import read_candles
from tasks.profiles import article_fit as fit
from tests.helpers import ARTICLE_FILE, FIRST, PROJECT, SMALL, made_up, needs_prices, without

SAMPLE = PROJECT / "data" / "sample" / "coinbase_btc-usd_daily.csv"
SPLIT: dict[str, Any] = {
    "lookback": 5,
    "horizon": 1,
    "train_share": 0.8,
    "scaler_fit": "train",
    "bridge_gaps": True,
    "validation_split": 0.1,
}


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without XLA, whose compiler takes longer than such small training."""
    monkeypatch.setattr(fit, "train", functools.partial(train, compiled=False))


@functools.cache
def article() -> pd.DataFrame:
    return read_candles(ARTICLE_FILE.read_bytes(), "BTC-USD").candles


@functools.cache
def sample() -> pd.DataFrame:
    return read_candles(SAMPLE.read_bytes(), "BTC-USD").candles


# The article's figures


@needs_prices
@pytest.mark.parametrize("scaler_fit", ["train", "all"])
def test_the_articles_split(scaler_fit: str) -> None:
    split = split_article(article(), **SPLIT | {"scaler_fit": scaler_fit})
    assert len(article()) == 2001
    assert (split.train_rows, len(split.train), len(split.test)) == (1600, 1595, 396)
    assert (split.fitted, len(split.train) - split.fitted) == (1435, 160)
    # In this file both lie in the training part, so the two ways are one.
    assert (split.scaler.minimum, split.scaler.maximum) == (120.0, 19650.0)
    assert round(float(split.train.inputs[0, 0, 0]), 8) == 0.01280082
    assert article()["close"].iloc[0] == 370.0


@needs_prices
def test_the_articles_hole_bridged_and_not() -> None:
    # 2019-03-19 is row 1569, in the training part; of windows of 5 + 1 days 5 would span the gap.
    closes = article()
    assert closes["day_utc"].iloc[1569:1571].dt.strftime("%Y-%m-%d").tolist() == ["2019-03-19", "2019-04-01"]
    split = split_article(closes, **SPLIT | {"bridge_gaps": False})
    assert (len(split.train), len(split.test)) == (1590, 396)
    assert (split.fitted, len(split.train) - split.fitted) == (1431, 159)


def test_the_sample_bridged_and_not() -> None:
    # 1770 rows, of which 1416 to learn from; the gap lies in the test part.
    split = split_article(sample(), **SPLIT)
    assert (split.train_rows, len(split.train), split.fitted, len(split.test)) == (1416, 1411, 1269, 349)
    assert (split.scaler.minimum, split.scaler.maximum) == (120.0, 19650.0)
    assert round(float(split.train.inputs[0, 0, 0]), 8) == 0.01280082  # 370 USD
    closed = split_article(sample(), **SPLIT | {"bridge_gaps": False})
    assert (len(closed.train), len(closed.test)) == (1411, 344)


# The split


def test_the_scaler_sees_what_it_is_told_to() -> None:
    closes = made_up(60)
    closes.loc[[50, 10], "close"] = [100_000.0, 1.0]
    trained, everything = (
        split_article(closes, **SPLIT | {"scaler_fit": which}).scaler for which in ("train", "all")
    )
    assert trained.minimum == everything.minimum == 1.0
    assert trained.maximum == closes["close"].iloc[:48].max()
    assert everything.maximum == 100_000.0


def test_rows_of_the_test_part_do_not_reach_training() -> None:
    closes = made_up(60)
    other = closes.copy()
    other.loc[48:, "close"] *= 9
    first, second = split_article(closes, **SPLIT), split_article(other, **SPLIT)
    assert first.scaler == second.scaler
    assert first.train.inputs.tobytes() == second.train.inputs.tobytes()
    assert first.train.targets.tobytes() == second.train.targets.tobytes()
    assert first.test.targets.tobytes() != second.test.targets.tobytes()
    leaked = split_article(other, **SPLIT | {"scaler_fit": "all"})
    assert leaked.train.inputs.tobytes() != first.train.inputs.tobytes()


@pytest.mark.parametrize(("gap", "lost"), [(10, (5, 0)), (46, (2, 0)), (47, (1, 0)), (52, (0, 4))])
def test_bridging_by_hand(gap: int, lost: tuple[int, int]) -> None:
    """Of 60 rows with a gap of 3 days before row `gap`, rows 48 and later are the test part."""
    first = FIRST + timedelta(days=gap)
    closes = without(made_up(63), first, first + timedelta(days=2))
    bridged, split = (split_article(closes, **SPLIT | {"bridge_gaps": b}) for b in (True, False))
    assert (len(bridged.train), len(bridged.test)) == (43, 7)
    assert (43 - len(split.train), 7 - len(split.test)) == lost


def test_a_hole_between_the_parts_costs_nothing() -> None:
    first = FIRST + timedelta(days=48)
    split = split_article(without(made_up(63), first, first), **SPLIT | {"bridge_gaps": False})
    assert split.train_rows == 49


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(50, 95), st.integers(5, 50))
def test_the_fewest_days_are_enough_and_one_less_is_not(lookback: int, share: int, validation: int) -> None:
    more = {"lookback": lookback, "train_share": share / 100, "validation_split": validation / 100}
    needed = min_days(horizon=1, **more)  # type: ignore[arg-type]
    split = split_article(made_up(needed), **SPLIT | more)
    assert 0 < split.fitted < len(split.train)
    assert len(split.test) > 0
    with pytest.raises(NotEnoughHistory, match=f"needs {needed} days of closes, found {needed - 1}"):
        split_article(made_up(needed - 1), **SPLIT | more)


def test_holes_that_leave_no_windows_to_train_on() -> None:
    # Every fifth day is missing, but for one: that makes one window, and none to validate.
    closes = made_up(80)
    rows = [n for n in range(80) if n % 5 or n == 30 or n > 60]
    broken = closes.iloc[rows].reset_index(drop=True)
    wanted = SPLIT | {"lookback": 8, "bridge_gaps": False}
    with pytest.raises(NotEnoughHistory) as caught:
        split_article(broken, **wanted | {"train_share": 0.75})
    assert "between the gaps" in str(caught.value)
    assert split_article(broken, **wanted | {"bridge_gaps": True}).fitted > 0


# The fit


def test_a_fit_and_its_test_part() -> None:
    closes = made_up(60)
    fitted = fit_article(closes, **SMALL)
    assert (len(fitted.losses.training), len(fitted.losses.validation)) == (2, 2)
    test = fitted.test
    assert list(test) == ["day_utc", "close", "last_close", "point"]
    assert len(test) == len(fitted.split.test) == 60 - 48 - 3
    # Each target with the row before it, from the closes themselves.
    known = closes.set_index("day_utc")["close"]
    assert test["close"].tolist() == known.loc[test["day_utc"]].tolist()
    assert test["last_close"].tolist() == known.shift(1).loc[test["day_utc"]].tolist()
    assert test["day_utc"].iloc[[0, -1]].tolist() == closes["day_utc"].iloc[[51, 59]].tolist()
    said = fitted.split.scaler.back(predict(fitted.network, fitted.split.test.inputs)[:, 0])
    assert test["point"].tolist() == said.tolist()
    error = np.sqrt(np.mean((test["point"] - test["close"]) ** 2))
    assert fitted.metrics["test_rmse"] == pytest.approx(error)
    naive = np.sqrt(np.mean(np.diff(closes["close"])[50:] ** 2))
    assert fitted.metrics["naive_rmse"] == pytest.approx(naive)


def test_no_test_day_follows_a_hole_directly_unless_bridged() -> None:
    gap = (date(2019, 2, 24), date(2019, 2, 26))
    closes = without(made_up(63), *gap)
    after = pd.Timestamp(2019, 2, 27)
    bridged = fit_article(closes, **SMALL | {"epochs": 1}).test
    assert after in bridged["day_utc"].tolist()
    plain = fit_article(closes, **SMALL | {"epochs": 1, "bridge_gaps": False}).test
    assert after not in plain["day_utc"].tolist()
    known = closes.set_index("day_utc")["close"]
    before = known.loc[plain["day_utc"] - pd.Timedelta(days=1)].tolist()
    assert plain["last_close"].tolist() == before


def test_losses_past_all_measure_are_a_wrong_setting() -> None:
    with pytest.raises(BadSetting) as caught:
        fit_article(made_up(60), **SMALL | {"learning_rate": 1e30})
    assert "learning_rate" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_series_that_never_moves() -> None:
    fitted = fit_article(made_up(60).assign(close=7.0), **SMALL)
    assert fitted.test["point"].notna().all()
    assert fitted.metrics["naive_rmse"] == 0.0
