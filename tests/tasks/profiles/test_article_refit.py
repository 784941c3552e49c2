from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from tasks.profiles.article_fit import fit_article
from tasks.profiles.article_refit import model_key, refit_version

from storage.core.errors import BadInput, Damaged, NotEnoughHistory
from storage.core.home import Home
from storage.models.registry import Models
from tasks.network.architectures import arrays_sha256, article_network
from tasks.network.trainer import train
from tasks.profiles import article_fit as fit
from tasks.profiles import article_refit as refit
from tests.helpers import BTC, SMALL, VERSIONS, made_up, store, trained_home


@pytest.fixture
def trained(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str, str]:
    return trained_home(tmp_path_factory, tmp_path / "home")


def again(home: Home, data_version: str, **changed: Any) -> str:
    return refit_version(home, BTC, "article", data_version=data_version, **VERSIONS | changed)


def never(*_: object, **__: object) -> None:
    raise AssertionError("nothing was to be trained")


def test_a_version_and_all_of_its_bundle(trained: tuple[Home, str, str]) -> None:
    home, data_version, number = trained
    version = Models(home).version(BTC, "article", number)
    bundle = Models(home).open(version)
    bundle.verify()
    assert set(bundle.manifest) == {
        "model.weights.h5",
        "scaler.json",
        "settings.json",
        "losses.json",
        "lineage.json",
        "figures/prices.png",
        "figures/losses.png",
        "figures/predicted.png",
    }
    assert bundle.read_json("settings.json") == SMALL
    lineage = bundle.read_json("lineage.json")
    assert lineage["windows"] == {"train": 40, "validation": 5, "test": 9}
    assert lineage["gaps"] == []
    assert lineage["libraries"]["keras"]
    for name in ("data_version", "settings_version", "code_version", "training_kind", "weights_sha256"):
        assert version.tags[name] == lineage[name]
    assert (lineage["data_version"], lineage["training_kind"]) == (data_version, "refit")
    losses = bundle.read_json("losses.json")
    assert [len(losses[name]) for name in ("loss", "val_loss")] == [2, 2]
    names = ("lookback", "horizon", "units", "activation", "leaky_slope", "dropout", "seed")
    network = article_network(**{name: SMALL[name] for name in names})
    bundle.load_weights(network)
    assert arrays_sha256(network.get_weights()) == lineage["weights_sha256"]
    assert bundle.read("figures/losses.png").startswith(b"\x89PNG")
    assert Models(home).champion(BTC, "article") is None  # publishing promotes


def test_what_is_stored_is_what_training_gave(trained: tuple[Home, str, str]) -> None:
    home, _, number = trained
    bundle = Models(home).open(Models(home).version(BTC, "article", number))
    fitted = fit_article(made_up(), **SMALL)
    assert arrays_sha256(fitted.network.get_weights()) == bundle.read_json("lineage.json")["weights_sha256"]
    assert bundle.read_json("losses.json") == {
        "loss": fitted.losses.training.tolist(),
        "val_loss": fitted.losses.validation.tolist(),
    }
    assert bundle.read_json("scaler.json") == fitted.split.scaler.as_json()


def test_the_same_again_is_not_trained_again(
    trained: tuple[Home, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, data_version, number = trained
    monkeypatch.setattr(refit, "fit_article", never)
    assert again(home, data_version) == number
    store(home, made_up(70))  # the older data version is still the same
    assert again(home, data_version) == number
    assert len(Models(home).versions()) == 1
    for changed in ({"settings_version": "article-other"}, {"code_version": "0.0.1+test"}):
        with pytest.raises(AssertionError, match="nothing was to be trained"):
            again(home, data_version, **changed)


def test_other_data_is_another_version(
    trained: tuple[Home, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "train", functools.partial(train, compiled=False))
    home, data_version, _ = trained
    later = store(home, made_up(61))
    assert again(home, later) == "2"
    assert [version.tags["data_version"] for version in Models(home).versions(BTC)] == [later, data_version]


def test_a_damaged_version_is_not_silently_replaced(
    trained: tuple[Home, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, data_version, number = trained
    monkeypatch.setattr(refit, "fit_article", never)
    bundle = Models(home).open(Models(home).version(BTC, "article", number))
    (bundle.folder / "figures" / "prices.png").write_bytes(b"")
    with pytest.raises(Damaged, match=r"prices\.png"):
        again(home, data_version)


def test_failures_register_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path).prepare()
    with pytest.raises(BadInput):
        again(home, "BTC-USD@1:ab")
    few = store(home, made_up(5))
    with pytest.raises(NotEnoughHistory):
        again(home, few)
    assert not home.registry.exists()
    assert not list(home.models.iterdir())


def test_the_key_knows_every_part() -> None:
    parts = ["BTC-USD", "article", "BTC-USD@1:ab", "article-1", "0+1"]
    keys = {model_key(*parts)}
    for n in range(len(parts)):
        keys.add(model_key(*parts[:n], parts[n] + "x", *parts[n + 1 :]))
    assert len(keys) == 6
    assert model_key(*parts) == model_key(*json.loads(json.dumps(parts)))
