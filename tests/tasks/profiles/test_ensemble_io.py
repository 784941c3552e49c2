from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.ensemble_io import ensemble_sha256, read_ensemble, write_ensemble

from storage.core.errors import Damaged
from storage.models.bundles import Bundle, Draft
from tasks.core.quantiles import LEVELS
from tasks.features.inputs import Columns, make_inputs
from tasks.network.architectures import calibrated_network
from tasks.network.trainer import Losses
from tasks.profiles.ensemble import Ensemble, Trained, ensemble_quantiles, trainer_for
from tests.helpers import made_up

RECIPE = Recipe(lookback=5, units=3, members=2, pool_products=())
CORRECTIONS = np.linspace(-0.1, 0.1, 23) / 3
SHAPE: dict[str, Any] = {"lookback": 5, "units": 3, "dropout": 0.1, "head_sd": 0.02}


def made(features: int = 11) -> Trained:
    """An ensemble that was never trained, which a file does not mind."""
    members = tuple(calibrated_network(features=features, seed=n, **SHAPE).get_weights() for n in (1, 2))
    losses = Losses(np.array([1.5, 1.25]), np.array([1.4, 1.3]), 2)
    all_given = features == 11
    ensemble = Ensemble(Columns(ranges=all_given, volume=all_given), members, date(2020, 1, 2))
    return Trained(ensemble, date(2019, 7, 6), (losses, losses), {"train": 9})


def written(folder: Path, trained: Trained) -> Bundle:
    folder.mkdir()
    draft = Draft(folder)
    write_ensemble(draft, trained, RECIPE, CORRECTIONS, {"product_id": "BTC-USD"})
    return Bundle(folder, draft.seal())


@pytest.mark.parametrize("features", [11, 7])
def test_it_comes_back_to_the_last_bit(tmp_path: Path, features: int) -> None:
    trained = made(features)
    bundle = written(tmp_path / "bundle", trained)
    with trainer_for(RECIPE, features).borrow(trained.ensemble.members[0]):
        pass  # the network that it is read with has other weights meanwhile
    stored = read_ensemble(bundle, RECIPE)
    assert stored.ensemble.columns == trained.ensemble.columns
    assert stored.ensemble.trained_through == date(2020, 1, 2)
    assert ensemble_sha256(stored.ensemble) == ensemble_sha256(trained.ensemble)
    assert stored.quantile_offsets.tobytes() == CORRECTIONS.tobytes()
    inputs = make_inputs(made_up(100), RECIPE.input_settings, trained.ensemble.columns)
    rows = np.array([60, 99])
    before, after = (
        ensemble_quantiles(one, inputs, rows, RECIPE) for one in (trained.ensemble, stored.ensemble)
    )
    assert after.tobytes() == before.tobytes()


def test_what_lies_in_the_bundle(tmp_path: Path) -> None:
    bundle = written(tmp_path / "bundle", made())
    assert sorted(bundle.manifest) == [
        "calibration.json",
        "ensemble.json",
        "lineage.json",
        "losses.json",
        "member-1.weights.h5",
        "member-2.weights.h5",
        "settings.json",
    ]
    assert Recipe.model_validate(bundle.read_json("settings.json")) == RECIPE
    assert bundle.read_json("calibration.json")["levels"] == list(LEVELS)
    assert bundle.read_json("lineage.json") == {"product_id": "BTC-USD"}
    first, _ = bundle.read_json("losses.json")["members"]
    assert first == {"loss": [1.5, 1.25], "val_loss": [1.4, 1.3], "best_epoch": 2}


def test_losses_without_validation_can_be_written(tmp_path: Path) -> None:
    tuned = Losses(np.array([1.0]), np.array([np.nan]), 1)
    bundle = written(tmp_path / "bundle", replace(made(), losses=(tuned,)))
    assert bundle.read_json("losses.json")["members"][0]["val_loss"] == [None]


@pytest.mark.parametrize("name", ["member-2.weights.h5", "calibration.json", "ensemble.json"])
def test_a_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    bundle = written(tmp_path / "bundle", made())
    path = bundle.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match="is not the file that was stored"):
        read_ensemble(bundle, RECIPE)


def test_a_missing_member_is_found(tmp_path: Path) -> None:
    bundle = written(tmp_path / "bundle", made())
    (bundle.folder / "member-1.weights.h5").unlink()
    with pytest.raises(Damaged):
        read_ensemble(bundle, RECIPE)


def test_a_member_of_another_bundle_is_not_taken(tmp_path: Path) -> None:
    first, second = written(tmp_path / "first", made()), written(tmp_path / "second", made(7))
    name = "member-1.weights.h5"
    (first.folder / name).write_bytes((second.folder / name).read_bytes())
    with pytest.raises(Damaged):
        read_ensemble(first, RECIPE)


def test_the_digest_is_of_all_members_in_their_order() -> None:
    ensemble = made().ensemble
    turned = replace(ensemble, members=ensemble.members[::-1])
    one = replace(ensemble, members=ensemble.members[:1])
    assert len({ensemble_sha256(each) for each in (ensemble, turned, one)}) == 3
    assert ensemble_sha256(made().ensemble) == ensemble_sha256(ensemble)
