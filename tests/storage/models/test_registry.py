from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from closecast.storage.core.errors import Damaged, HomeUnusable
from closecast.storage.core.files import sha256_file
from closecast.storage.core.home import Home
from closecast.storage.models.bundles import Draft
from closecast.storage.models.mlflow_database import registry_client, registry_integrity
from closecast.storage.models.registry import CHAMPION, Models, ModelVersion
from closecast.storage.models.training_run import TrainingRun
from tests.helpers import BTC, die_at, modules_after, one_line
from tests.processes import run_at_once, run_process

LINEAGE = {
    "origin_day": "2020-01-30",
    "data_version": "BTC-USD@9:ab",
    "code_version": "0+1",
    "settings_version": "article-1",
}


class Arrays:
    """Something that has weights, as a network has."""

    def __init__(self, content: bytes = b"weights") -> None:
        self.content = content

    def save_weights(self, filepath: str) -> None:
        Path(filepath).write_bytes(self.content)

    def load_weights(self, filepath: str) -> None:
        self.content = Path(filepath).read_bytes()


def register(home: Home, key: str = "one", product_id: str = BTC, **changes: Any) -> ModelVersion:
    models = Models(home)
    recorded = {"metrics": {"test_rmse": 1.5}, "curves": {"loss": np.array([0.5, 0.25])}, **changes}
    with models.draft(product_id, "article") as draft:
        draft.write_weights(Arrays(key.encode()))
        draft.write_json("settings.json", {"epochs": 2, "rate": 0.1 + 0.2})
        draft.write("figures/prices.png", b"\x89PNG")
        return models.register(
            draft, product_id, "article", TrainingRun(key, {"epochs": 2}, **recorded), tags=LINEAGE
        )


def drafts(home: Home) -> list[Path]:
    return list(home.models.rglob(".draft-*"))


def test_a_registered_version_has_its_bundle_and_lineage(home: Home) -> None:
    version = register(home)
    assert (version.name, version.version, version.aliases) == ("closecast.BTC-USD.article", "1", ())
    (listed,) = Models(home).versions()
    assert listed == version
    assert LINEAGE.items() <= listed.tags.items()
    bundle = Models(home).open(listed)
    bundle.verify()
    assert bundle.read_json("settings.json") == {"epochs": 2, "rate": 0.1 + 0.2}
    network = Arrays(b"")
    bundle.load_weights(network)
    assert network.content == b"one"
    assert not drafts(home)
    files = {str(path.relative_to(bundle.folder)) for path in bundle.folder.files()}
    assert files == {"manifest.json", "model.weights.h5", "settings.json", "figures/prices.png"}
    assert set(bundle.manifest) == files - {"manifest.json"}


def test_the_run_records_settings_metrics_and_every_epoch(home: Home) -> None:
    epochs = np.arange(1500.0)  # more than one call of MLflow's takes
    version = register(home, curves={"loss": epochs})
    client = Models(home).client
    run = client.get_run(client.get_model_version(version.name, version.version).run_id or "")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"{version.name} {LINEAGE['origin_day']}"
    assert run.data.params == {"epochs": "2"}
    assert metrics_of(home, version) == {"test_rmse": [1.5], "loss": epochs.tolist()}


@pytest.mark.sqlite
def test_a_damaged_registry_is_one_line(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    register(home)
    content = home.registry.read_bytes()
    home.registry.write_bytes(content[:4096] + bytes(len(content) - 4096))
    with pytest.raises(HomeUnusable, match=r"needs a model registry .* at .*mlflow\.db: .*malformed"):
        Models(home).versions(BTC)
    assert capfd.readouterr().err == ""


def test_versions_are_listed_newest_first_and_by_product(home: Home) -> None:
    for key in ("one", "two", "three"):
        register(home, key)
    register(home, "one", "ETH-USD")
    models = Models(home)
    assert [version.version for version in models.versions(BTC)] == ["3", "2", "1"]
    assert [version.tags["key"] for version in models.versions(BTC)] == ["three", "two", "one"]
    assert [version.product_id for version in models.versions("ETH-USD")] == ["ETH-USD"]
    assert len(models.versions()) == 4
    assert models.versions(BTC, "calibrated") == []
    two = models.version(BTC, "article", "2")
    assert two == models.find(BTC, "article", "two")
    for product_id, profile, key in (
        (BTC, "article", "four"),
        ("ETH-USD", "article", "two"),
        (BTC, "c", "one"),
    ):
        assert models.find(product_id, profile, key) is None
    for number in ("4", "none"):
        with pytest.raises(Damaged, match=f"closecast.BTC-USD.article has no version {number}: see"):
            models.version(BTC, "article", number)


def test_versions_tags_and_aliases_are_those_of_mlflow_s_own_client(home: Home) -> None:
    versions = [register(home, key) for key in ("one", "two", "three", "four")]
    other = register(home, "one", "ADA-USD")
    models = Models(home)
    models.promote(versions[0])
    models.promote(other)
    models.challenge(versions[2])
    models.mark(versions[1], {"gate": "refused: 0.5 %", "key2": ""})
    models.delete(versions[3])

    def of_client(version: ModelVersion) -> ModelVersion:
        row = models.client.get_model_version(version.name, version.version)
        return ModelVersion.of_tags(row.name, str(row.version), row.tags, row.aliases)

    listed = models.versions()
    assert [of_client(version) for version in listed] == listed
    numbers = {(row.name, str(row.version)) for row in models.client.search_model_versions()}
    assert {(version.name, version.version) for version in listed} == numbers
    champion = models.client.get_model_version_by_alias(versions[0].name, CHAMPION)
    assert models.champion(BTC, "article") == models.version(BTC, "article", str(champion.version))


@pytest.mark.folder
def test_a_moved_home_still_loads_its_models(home: Home, tmp_path: Path) -> None:
    Models(home).promote(register(home))
    moved = replace(home, root=tmp_path / "elsewhere")
    home.root.rename(moved.root)
    champion = Models(moved).champion(BTC, "article")
    Models(moved).open(champion).verify()
    assert Models(moved).find(BTC, "article", "one") == champion
    assert register(moved, "two").version == "2"
    assert not home.root.exists()


NAMES = ["model.weights.h5", "settings.json", "figures/prices.png", "manifest.json"]


def spoil_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.folder
@pytest.mark.parametrize("spoil", [spoil_byte, Path.unlink, make_folder])
def test_a_changed_file_is_named_and_not_loaded(home: Home, spoil: Callable[[Path], None]) -> None:
    version = register(home)
    models = Models(home)
    folder = home.models / version.name / version.bundle
    shutil.copytree(folder, home.root / "kept")
    for name in NAMES:
        spoil(folder / name)
        with pytest.raises(Damaged, match=f"{folder / name}.* restore", check=one_line):
            models.open(version).read(name)
        with pytest.raises(Damaged):
            models.find(BTC, "article", "one")
        shutil.rmtree(folder)
        shutil.copytree(home.root / "kept", folder)
        models.open(version).verify()


@pytest.mark.folder
def test_a_manifest_changed_with_its_file_is_detected(home: Home) -> None:
    version = register(home)
    folder = home.models / version.name / version.bundle
    (folder / "settings.json").write_text('{"epochs": 3}\n')
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings.json"] = sha256_file(folder / "settings.json")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    with pytest.raises(Damaged, match=r"manifest\.json"):
        Models(home).open(version)


def test_a_file_outside_the_manifest_is_not_read(home: Home) -> None:
    version = register(home)
    bundle = Models(home).open(version)
    (bundle.folder / "more.json").put(b"{}")
    with pytest.raises(Damaged, match=r"more\.json"):
        bundle.read("more.json")
    with pytest.raises(Damaged):
        bundle.read("../../../mlflow.db")


def test_nan_is_not_stored_and_the_draft_is_removed(home: Home) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"), Models(home).draft(BTC, "article") as draft:
        draft.write_json("losses.json", [1.0, math.nan])
    assert not drafts(home)
    assert Models(home).versions() == []


def test_a_folder_that_cannot_be_written_is_one_line(home: Home) -> None:
    (home.models / "closecast.BTC-USD.article").write_text("a file")
    with pytest.raises(HomeUnusable, match=r"closecast\.BTC-USD\.article", check=one_line):
        register(home)


def metrics_of(home: Home, version: ModelVersion) -> dict[str, list[float]]:
    """Every value of each metric of the version's run."""
    client = Models(home).client
    run_id = client.get_model_version(version.name, version.version).run_id
    names = client.get_run(run_id).data.metrics
    return {name: [point.value for point in client.get_metric_history(run_id, name)] for name in names}


def aliases(home: Home) -> dict[str, str]:
    return {alias: version.version for version in Models(home).versions() for alias in version.aliases}


def test_mark_records_tags_and_metrics_once(home: Home) -> None:
    models, first, second = Models(home), register(home, "one"), register(home, "two")
    models.mark(first, {"gate": "refused: 1.5", "status": "refused"}, {"gate_ratio": 1.5, "gate_days": 180.0})
    tags = models.version(BTC, "article", first.version).tags
    assert (tags["gate"], tags["status"]) == ("refused: 1.5", "refused")
    assert LINEAGE.items() <= tags.items()
    trained = {"test_rmse": [1.5], "loss": [0.5, 0.25]}
    assert metrics_of(home, first) == trained | {"gate_ratio": [1.5], "gate_days": [180.0]}
    # A run that was killed in between marks again.
    models.mark(first, {"status": "refused"}, {"gate_ratio": 1.5, "gate_days": 180.0})
    assert metrics_of(home, first)["gate_ratio"] == [1.5]
    models.mark(first, {"status": "accepted"})
    assert models.version(BTC, "article", first.version).tags["status"] == "accepted"
    assert "status" not in models.version(BTC, "article", second.version).tags
    assert metrics_of(home, second) == trained


def test_promote_challenge_and_settle_move_one_alias(home: Home) -> None:
    models, first, second = Models(home), register(home, "one"), register(home, "two")
    register(home, "one", "ETH-USD")
    assert models.champion(BTC, "article") is None  # registering promotes nobody
    models.promote(second)
    models.promote(first)
    assert models.champion("ETH-USD", "article") is None
    models.challenge(first)
    assert aliases(home) == {"champion": "1", "challenger": "1"}
    assert models.champion(BTC, "article") == models.version(BTC, "article", "1")
    models.challenge(second)
    assert aliases(home) == {"champion": "1", "challenger": "2"}
    models.settle(first)  # it does not have the name
    assert aliases(home) == {"champion": "1", "challenger": "2"}
    models.settle(second)
    models.settle(second)
    assert aliases(home) == {"champion": "1"}


MODELS = (
    "from pathlib import Path; from closecast.storage.core.home import Home;"
    " from closecast.storage.models.registry import Models"
)


def test_reading_makes_no_registry(tmp_path: Path) -> None:
    program = (
        f"{MODELS}; models = Models(Home(Path({str(tmp_path)!r})));"
        " assert models.versions() == [] and models.champion('BTC-USD', 'article') is None"
    )
    assert not {"mlflow", "tensorflow", "keras"} & modules_after(program)
    assert not list(tmp_path.iterdir())


@pytest.mark.folder
def test_a_home_in_a_relative_folder_is_read(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    register(home)
    monkeypatch.chdir(home.root.parent)
    relative = Home(Path(home.root.name))
    assert Models(relative).versions() == Models(home).versions()
    assert registry_integrity(relative) == []


def kill_at(home: Home, point: str) -> None:
    """Register, and be killed before (`name`) or just after (`name+`) one of its steps."""
    from mlflow.tracking import MlflowClient

    name = point.rstrip("+")
    owner: Any = {"rename": Path, "write_json": Draft}.get(name, MlflowClient)
    die_at(owner, name, after=point.endswith("+"))
    register(home, "one")


POINTS = [
    "write_json",
    "rename",
    "rename+",
    "create_run+",
    "set_terminated+",
    "create_model_version+",
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_while_registering(home: Home, point: str) -> None:
    assert run_process(kill_at, home, point) == -9
    for version in Models(home).versions():
        Models(home).open(version).verify()  # what is registered is whole
    registered = Models(home).find(BTC, "article", "one")
    assert (registered is not None) == (point == "create_model_version+")
    version = registered or register(home, "one")
    Models(home).open(version).verify()
    assert [version.tags["key"] for version in Models(home).versions()] == ["one"]
    register(home, "two")
    assert not drafts(home)
    client = Models(home).client
    experiment = client.get_experiment_by_name(version.name)
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["key"] for run in runs) == ["one", "two"]
    assert len(list((home.models / version.name).iterdir())) == 2


def make_registry(home: Home) -> None:
    """Make the registry, and be killed in the middle of its many steps."""
    from alembic.runtime.migration import HeadMaintainer

    die_at(HeadMaintainer, "update_to_step", call=10, after=True)
    registry_client(home)


def test_killed_while_the_registry_is_set_up(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    assert run_process(make_registry, home) == -9
    assert Models(home).versions() == []
    assert not home.registry.exists()
    assert register(home).version == "1"
    assert not list(tmp_path.glob(".mlflow-draft*"))


def register_for(home: Home, product_id: str) -> None:
    register(home, "one", product_id)


def test_two_products_set_up_the_registry_at_once(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()  # without the registry made before
    run_at_once(register_for, (home, BTC), (home, "ETH-USD"))
    assert sorted(version.product_id for version in Models(home).versions()) == [BTC, "ETH-USD"]
