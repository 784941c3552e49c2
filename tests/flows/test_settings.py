"""The environment of a run, and the settings that a command line names."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from closecast.flows.cli.prefect_server import defaults, is_configured
from closecast.flows.settings import environment, home_at
from closecast.storage.core.errors import BadFile, BadSetting
from closecast.tasks.profiles.named import profile_named
from tests.helpers import PROJECT


def test_the_version_is_a_digest_of_every_setting() -> None:
    plain = profile_named("article")
    assert plain.version.startswith("article-")
    fields = plain.settings.model_dump(mode="json")
    assert profile_named("article", fields).version == plain.version
    changed = {
        **{name: value + 1 for name, value in fields.items() if type(value) is int},
        **{name: value / 2 for name, value in fields.items() if type(value) is float},
        **{name: not value for name, value in fields.items() if type(value) is bool},
        "scaler_fit": "all",
        "activation": "tanh",
    }
    assert set(changed) == set(fields)
    versions = {profile_named("article", {name: value}).version for name, value in changed.items()}
    assert len(versions | {plain.version}) == len(changed) + 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", None),
        ("lookback", 0),
        ("train_share", 0.0),
        ("validation_split", 1e-17),  # so near to nothing that no series would be long enough
        ("train_share", 1 - 1e-12),
        ("dropout", 1.0),
        ("learning_rate", float("inf")),
        ("activation", "softmax"),
        ("seed", 2**32),
        ("batch_size", 10**12),
        ("units", "x" * 1000),
    ],
)
def test_values_out_of_range_are_refused_in_one_short_line(field: str, value: object) -> None:
    with pytest.raises(BadSetting, match=rf"^setting {field}: .{{,500}}$"):
        profile_named("article", {field: value})


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "COINBASE_URL", "DATABASE_URL", "STORAGE_URL"):
        monkeypatch.setenv(f"CLOSECAST_{name}", "")
    assert environment().coinbase_url == "https://api.exchange.coinbase.com"
    assert (home_at().root, home_at().database_url) == (PROJECT / "data", None)


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSECAST_HOEM", "x")
    with pytest.raises(BadSetting, match=r"did you mean CLOSECAST_HOME\?"):
        home_at()


def test_a_home_is_an_absolute_path_with_its_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert home_at("here").root == tmp_path / "here"
    assert home_at(Path("a/../b")).root == tmp_path / "b"
    assert home_at("~/data").root == tmp_path / "user" / "data"
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert home_at("link").root == tmp_path / "link"
    assert not list((tmp_path).glob("here"))  # no folder is made


def test_a_workers_run_needs_the_whole_path_of_its_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works in a temporary folder, with which a home below it would be deleted."""
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "0ff77e33-f358-474f-869b-4c282d016f7d")
    with pytest.raises(BadSetting, match=r"needs an absolute path for its home.*not 'data'.*CLOSECAST_HOME"):
        home_at("data")
    assert home_at(tmp_path).root == tmp_path
    assert home_at().root == PROJECT / "data"


def test_an_account_without_a_folder_has_a_home_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: object) -> None:
        raise KeyError

    monkeypatch.setattr("closecast.storage.core.home.checkout", lambda: None)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_DATA_HOME", "PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    home = home_at(tmp_path / "home")
    assert defaults(home)["PREFECT_HOME"] == str(home.root / "prefect")
    assert defaults(home)["HOME"] == str(home.root)
    assert home.label
    assert not is_configured()
    with pytest.raises(BadFile, match="knows no folder of that user"):
        home_at()
