"""Profile `article`: its split and scaler, its training, and its forecast layer by layer."""

from __future__ import annotations

import functools
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import MinMaxScaler

from closecast.storage.core.errors import Damaged, NotEnoughHistory
from closecast.storage.core.home import Home
from closecast.storage.models.bundles import Bundle, Draft
from closecast.storage.models.registry import Models
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.types import Floats
from closecast.tasks.network.forward import forward
from closecast.tasks.prices.file_reader import read_candles
from closecast.tasks.prices.ingest import IngestRequest, read_stored
from closecast.tasks.profiles.article import ArticleProfile, MinMax, Split
from closecast.tasks.profiles.base import FittedModel
from closecast.tasks.profiles.named import own_files
from closecast.tasks.training.registration import weights_digest
from closecast.tasks.training.selection import select_model
from tests.helpers import (
    ARTICLE_FILE,
    BTC,
    FIRST,
    NOW,
    PROJECT,
    SMALL,
    made_up,
    needs_prices,
    store,
    trained_home,
    without,
)

SAMPLE = PROJECT / "data" / "sample" / "coinbase_btc-usd_daily.csv"
PROFILE = ArticleProfile(SMALL)
closes_of_any_price = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(1e-9, 1e12))


@functools.cache
def article() -> pd.DataFrame:
    return read_candles(ARTICLE_FILE.read_bytes(), BTC).candles


def split_of(closes: pd.DataFrame, **changed: Any) -> Split:
    return ArticleProfile(changed).split(closes)


def fit(candles: pd.DataFrame, **changed: Any) -> FittedModel:
    history = PriceHistory(BTC, candles, "BTC-USD@1:ab", "csv@0")
    return ArticleProfile(SMALL | changed).fit(history, {})


def point(fitted: FittedModel, candles: pd.DataFrame) -> float:
    """The forecast from the last day."""
    points = PROFILE.predict(fitted, candles, np.array([len(candles) - 1]))[1].points
    assert points is not None
    return float(points[0])


@functools.cache
def fitted() -> FittedModel:
    return fit(made_up())


# The scaler


@given(closes_of_any_price, closes_of_any_price)
def test_the_scaler_is_scikit_learns_to_the_last_bit(fitted_on: Floats, closes: Floats) -> None:
    theirs = MinMaxScaler().fit(fitted_on.reshape(-1, 1))
    scaled = theirs.transform(closes.reshape(-1, 1))
    ours = MinMax.fit(fitted_on)
    assert MinMax(**json.loads(json.dumps(vars(ours)))) == ours
    assert ours.forward(closes).tobytes() == scaled.tobytes()
    assert ours.back(scaled).tobytes() == theirs.inverse_transform(scaled).tobytes()
    assert (ours.minimum, ours.maximum) == (fitted_on.min(), fitted_on.max())
    there_and_back = ours.back(ours.forward(fitted_on))
    np.testing.assert_allclose(there_and_back, fitted_on, rtol=1e-9, atol=fitted_on.max() * 1e-12)


# The split


@needs_prices
@pytest.mark.parametrize("scaler_fit", ["train", "all"])
def test_the_articles_split(scaler_fit: str) -> None:
    split = split_of(article(), scaler_fit=scaler_fit)
    assert len(article()) == 2001
    assert (split.train_rows, len(split.train), len(split.test)) == (1600, 1595, 396)
    assert (split.fitted, len(split.train) - split.fitted) == (1435, 160)
    # In this file the lowest and the highest close lie in the training part, so both scalers are the same.
    assert (split.scaler.minimum, split.scaler.maximum) == (120.0, 19650.0)
    assert round(float(split.train.inputs[0, 0, 0]), 8) == 0.01280082
    assert article()["close"].iloc[0] == 370.0


def test_the_samples_split() -> None:
    # 1770 rows, of which 1416 are for training and validation; the gap lies in the test part.
    sample = read_candles(SAMPLE.read_bytes(), BTC).candles
    split = split_of(sample)
    assert (split.train_rows, len(split.train), split.fitted, len(split.test)) == (1416, 1411, 1269, 349)
    assert (split.scaler.minimum, split.scaler.maximum) == (120.0, 19650.0)
    assert round(float(split.train.inputs[0, 0, 0]), 8) == 0.01280082  # 370
    unbridged = split_of(sample, bridge_gaps=False)
    assert (len(unbridged.train), len(unbridged.test)) == (1411, 344)


def test_the_test_part_reaches_training_only_through_a_scaler_of_all_rows() -> None:
    closes, other = made_up(60), made_up(60)
    other.loc[48:, "close"] *= 9
    first, second = split_of(closes), split_of(other)
    assert first.scaler == second.scaler
    assert first.scaler.maximum == closes["close"].iloc[:48].max()
    assert first.train.inputs.tobytes() == second.train.inputs.tobytes()
    assert first.train.targets.tobytes() == second.train.targets.tobytes()
    assert first.test.targets.tobytes() != second.test.targets.tobytes()
    leaked = split_of(other, scaler_fit="all")
    assert leaked.scaler.maximum == other["close"].max()
    assert leaked.train.inputs.tobytes() != first.train.inputs.tobytes()


@pytest.mark.parametrize(
    ("gap", "lost"), [(10, (5, 0)), (46, (2, 0)), (47, (1, 0)), (48, (0, 0)), (52, (0, 4))]
)
def test_windows_lost_to_a_gap_by_hand(gap: int, lost: tuple[int, int]) -> None:
    """Of 60 rows with a gap of 3 days before row `gap`, rows 48 and later are the test part."""
    first = FIRST + timedelta(days=gap)
    closes = without(made_up(63), first, first + timedelta(days=2))
    bridged, split = (split_of(closes, bridge_gaps=bridge) for bridge in (True, False))
    assert (len(bridged.train), len(bridged.test)) == (43, 7)
    assert (43 - len(split.train), 7 - len(split.test)) == lost


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(50, 95), st.integers(5, 50))
def test_min_days_are_enough_and_one_less_is_not(lookback: int, share: int, validation: int) -> None:
    profile = ArticleProfile(
        {"lookback": lookback, "train_share": share / 100, "validation_split": validation / 100}
    )
    needed = profile.min_days
    split = profile.split(made_up(needed))
    assert 0 < split.fitted < len(split.train)
    assert len(split.test) > 0
    with pytest.raises(NotEnoughHistory, match=f"needs {needed} days of closes, found {needed - 1}"):
        profile.split(made_up(needed - 1))


def test_gaps_that_leave_no_windows_are_refused() -> None:
    # Of the older days every fifth but one is missing: they make one window, and none is left to validate.
    rows = [n for n in range(80) if n % 5 or n == 30 or n > 60]
    gapped = made_up(80).iloc[rows].reset_index(drop=True)
    changed = {"lookback": 8, "train_share": 0.75}
    with pytest.raises(NotEnoughHistory, match="between the gaps"):
        split_of(gapped, **changed, bridge_gaps=False)
    assert split_of(gapped, **changed).fitted > 0


# The training


def test_the_test_part_is_compared_with_the_naive_forecast() -> None:
    closes, model = made_up(), fitted()
    (losses,) = model.training.losses
    assert (len(losses.training), len(losses.validation)) == (2, 2)
    assert model.training.windows == {"train": 40, "validation": 5, "test": 9}
    test = model.state.test
    assert list(test) == ["day_utc", "close", "last_close", "point"]
    # Targets and last closes, from the closes themselves.
    actual = closes.set_index("day_utc")["close"]
    assert test["close"].tolist() == actual.loc[test["day_utc"]].tolist()
    assert test["last_close"].tolist() == actual.shift(1).loc[test["day_utc"]].tolist()
    assert test["day_utc"].iloc[[0, -1]].tolist() == closes["day_utc"].iloc[[51, 59]].tolist()
    split = PROFILE.split(closes)
    outputs = forward(model.state.weights, split.test.inputs, activation="sigmoid", leaky_slope=0.5)
    points = split.scaler.back(outputs[:, 0])
    assert test["point"].tolist() == points.tolist()
    rmse = np.sqrt(np.mean((test["point"] - test["close"]) ** 2))
    assert model.training.metrics["test_rmse"] == pytest.approx(rmse)
    naive = np.sqrt(np.mean(np.diff(closes["close"])[50:] ** 2))
    assert model.training.metrics["naive_rmse"] == pytest.approx(naive)


def test_fit_takes_the_given_epochs_and_no_held_out_day() -> None:
    """`epochs` overrides the setting; the days that are held out change no bit."""
    history = PriceHistory(BTC, made_up(70), "BTC-USD@1:ab", "csv@0")
    model = PROFILE.fit(history, {}, holdout_days=10, epochs=1)
    assert len(model.training.losses[0].training) == 1
    assert model.trained_through == FIRST + timedelta(days=59)
    assert weights_digest(PROFILE, model) == weights_digest(PROFILE, fit(made_up(), epochs=1))


def test_a_constant_series_is_fitted() -> None:
    model = fit(made_up().assign(close=7.0))
    assert model.state.test["point"].notna().all()
    assert model.training.metrics["naive_rmse"] == 0.0


# The forecast


def test_the_forecast_layer_by_layer() -> None:
    import keras

    closes, model = made_up(), fitted()
    kernel, recurrent, bias, out, shift = model.state.weights
    low, high = closes["close"].iloc[:48].min(), closes["close"].iloc[:48].max()
    sigmoid = keras.activations.get("sigmoid")
    hidden = state = np.zeros((1, 4), dtype=np.float32)
    for close in closes["close"].iloc[-3:]:
        x = np.array([[(close - low) / (high - low)]], dtype=np.float32)
        gates = np.split(x @ kernel + hidden @ recurrent + bias, 4, axis=1)
        i, f, c, o = (np.asarray(sigmoid(gate)) for gate in gates)
        state = f * state + i * c
        hidden = o * np.asarray(sigmoid(state))
    leaky = np.where(hidden > 0, hidden, 0.5 * hidden)
    expected = (leaky @ out + shift)[0, 0] * (high - low) + low
    assert point(model, closes) == pytest.approx(expected, rel=1e-5)


def test_the_forecast_depends_only_on_its_window() -> None:
    closes, model = made_up(), fitted()
    expected = point(model, closes)
    assert point(model, closes.tail(3).reset_index(drop=True)) == expected
    later = PROFILE.predict(model, made_up(70), np.array([40, 59, 65]))[1].points
    assert later is not None
    assert later[1] == expected
    changed = closes.copy()
    changed.loc[:56, "close"] *= 2
    assert point(model, changed) == expected
    changed.loc[57:57, "close"] *= 1.1
    assert point(model, changed) != expected


def test_origins_have_a_window_without_a_gap() -> None:
    gap = FIRST + timedelta(days=30)
    assert PROFILE.origins(without(made_up(40), gap, gap)).tolist() == [*range(2, 30), *range(32, 39)]


# The bundle and the version


def test_a_bundle_loads_to_the_last_bit(tmp_path: Path) -> None:
    draft = Draft(tmp_path)
    PROFILE.save(fitted(), draft)
    bundle = Bundle(draft.folder, draft.seal())
    loaded = FittedModel(PROFILE.load(bundle), fitted().trained_through)
    assert weights_digest(PROFILE, loaded) == weights_digest(PROFILE, fitted())
    assert loaded.state.scaler == fitted().state.scaler
    assert point(loaded, made_up()) == point(fitted(), made_up())
    for name in ("model.weights.h5", "scaler.json"):
        data = bytearray((tmp_path / name).read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Damaged, match=name):
            PROFILE.load(bundle)
        data[len(data) // 2] ^= 1
        (tmp_path / name).write_bytes(data)


def test_each_data_version_is_trained_once_and_accepted_without_a_gate(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, data_version, version = trained_home(tmp_path_factory, tmp_path / "home")

    def select(origin: date | None = None) -> str:
        prices = read_stored(home, IngestRequest(BTC, origin, NOW, NOW.date()))
        return select_model(home, PROFILE, prices).version

    models = Models(home)
    first = models.version(BTC, "article", version)
    assert (first.tags["data_version"], first.tags["status"]) == (data_version, "accepted")
    assert first.tags["gate"] == "none: profile article has no gate"
    names = {"model.weights.h5", "settings.json", "scaler.json", "calibration.json", "losses.json"}
    figures = {f"figures/{name}.png" for name in ("prices", "losses", "predicted")}
    mlflows = {"MLmodel", "README.md", "requirements.txt", "input_example.json", "serving_input_example.json"}
    assert set(models.open(first).manifest) == names | figures | mlflows | {"lineage.json"}
    store(home, made_up(61).tail(1))
    with monkeypatch.context() as patch:
        patch.setattr(ArticleProfile, "fit", lambda *_, **__: pytest.fail("trained again"))
        assert select(FIRST + timedelta(days=59)) == version
    assert select() == "2"
    champion = models.champion(BTC, "article")
    assert champion
    assert champion.version == "2"
    assert own_files(PROFILE) == ()


def test_too_few_days_register_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    store(home, made_up(5))
    prices = read_stored(home, IngestRequest(BTC, None, NOW, NOW.date()))
    with pytest.raises(NotEnoughHistory):
        select_model(home, PROFILE, prices)
    assert not Models(home).versions()
    assert not list(home.models.iterdir())


def test_the_fallback_of_a_point_is_the_last_close() -> None:
    frame = made_up(40)
    fallback = PROFILE.fallback(frame, np.array([30, 39]), (1, 9))
    assert {horizon: one.points.tolist() for horizon, one in fallback.items() if one.points is not None} == {
        horizon: frame["close"][[30, 39]].tolist() for horizon in (1, 9)
    }
    assert all(one.quantiles is None for one in fallback.values())
