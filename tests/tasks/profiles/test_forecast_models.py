from __future__ import annotations

import functools
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tasks.profiles.forecast_models import PointForecast, read_article

from storage.core.errors import Damaged, NotEnoughHistory
from storage.core.home import Home
from storage.models.bundles import Bundle
from storage.models.registry import Models
from storage.prices.price_store import Prices
from tasks.profiles import forecast_models as module
from tests.helpers import BTC, FIRST, NOW, SHA, made_up, store, trained_home, without

ORIGIN = FIRST + timedelta(days=59)


def forecast_article(bundle: Bundle, closes: pd.DataFrame) -> PointForecast:
    """What a stored model says."""
    return module.forecast_article(read_article(bundle), closes)


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return trained_home(tmp_path_factory, tmp_path / "home")[0]


def champion(home: Home) -> Bundle:
    models = Models(home)
    return models.open(models.version(BTC, "article", "1"))


def test_it_is_the_networks_own_word_in_usd(home: Home) -> None:
    import keras

    bundle, closes = champion(home), made_up()
    said = forecast_article(bundle, closes)
    assert said.last_close == closes["close"].iloc[-1]
    # Layer by layer, from the stored weights.
    kernel, recurrent, bias, out, shift = _weights(bundle)
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
    assert said.point == pytest.approx(expected, rel=1e-5)


def _weights(bundle: Bundle) -> list[np.ndarray]:
    from tasks.network.architectures import article_network

    network = article_network(
        lookback=3, horizon=1, units=4, activation="sigmoid", leaky_slope=0.5, dropout=0.1, seed=7
    )
    bundle.load_weights(network)
    return list(network.get_weights())


def test_what_came_before_the_window_does_not_matter(home: Home) -> None:
    bundle, closes = champion(home), made_up()
    said = forecast_article(bundle, closes)
    assert forecast_article(bundle, closes.tail(3).reset_index(drop=True)) == said
    changed = closes.copy()
    changed.loc[:56, "close"] *= 2
    assert forecast_article(bundle, changed) == said
    changed.loc[57, "close"] *= 1.1
    assert forecast_article(bundle, changed) != said


def test_later_days_and_restatements_never_change_a_forecast(
    home: Home, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    data_version = trained_home(tmp_path_factory, tmp_path / "other")[1]
    bundle = champion(home)
    with Prices(home) as prices:
        known = prices.closes_at(data_version)
    said = forecast_article(bundle, known)
    store(home, made_up(90))  # thirty days more
    restated = made_up(60).assign(close=made_up(60)["close"] * 1.01)
    store(home, restated)
    with Prices(home) as prices:
        prices.start_series(BTC, "coinbase", started_at=NOW, replace=True)
        prices.append(BTC, made_up(60, seed=5), source="coinbase", observed_at=NOW, payload_sha256=SHA)
        again = prices.closes_at(data_version)
    for column in known:
        assert again[column].to_numpy().tobytes() == known[column].to_numpy().tobytes()
    assert forecast_article(champion(home), again) == said
    assert isinstance(said, PointForecast)


def test_a_hole_in_the_input_is_refused(home: Home) -> None:
    bundle = champion(home)
    yesterday = ORIGIN - timedelta(days=1)
    with pytest.raises(NotEnoughHistory, match=r"needs 3 consecutive days .* found 1 "):
        forecast_article(bundle, without(made_up(), yesterday, yesterday))
    older = ORIGIN - timedelta(days=3)
    whole = forecast_article(bundle, made_up())
    assert forecast_article(bundle, without(made_up(), older, older)) == whole


@pytest.mark.parametrize("name", ["model.weights.h5", "scaler.json", "settings.json"])
def test_a_changed_bundle_makes_no_forecast(home: Home, name: str) -> None:
    bundle = champion(home)
    data = bytearray((bundle.folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.folder / name).write_bytes(data)
    with pytest.raises(Damaged, match=name):
        forecast_article(bundle, made_up())


def test_two_homes_one_forecast(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.root, tmp_path / "copy")
    ask = functools.partial(forecast_article, closes=made_up())
    assert ask(champion(home)) == ask(champion(Home(tmp_path / "copy")))
