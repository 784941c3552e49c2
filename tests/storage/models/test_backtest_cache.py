from __future__ import annotations

from pathlib import Path

import pytest

from closecast.storage.core.errors import Damaged, HomeUnusable
from closecast.storage.core.home import Home
from closecast.storage.models.backtest_cache import BacktestCache
from tests.helpers import die, one_line
from tests.processes import run_process


@pytest.fixture
def folds(tmp_path: Path) -> BacktestCache:
    return BacktestCache(Home(tmp_path), "abc")


def put(folds: BacktestCache, name: str, figure: int) -> None:
    with folds.draft(name) as draft:
        draft.write_json("figures.json", {"figure": figure})
        draft.write("deep/er.bin", b"bytes")


def names(folds: BacktestCache) -> list[str]:
    return sorted(path.name for path in folds.folder.iterdir())


def broken(folds: BacktestCache) -> None:
    with folds.draft("model-1") as draft:
        draft.write("weights.bin", b"half")
        raise RuntimeError("stop")


def killed(root: Path) -> None:
    with BacktestCache(Home(root), "abc").draft("model-1") as draft:
        draft.write_json("figures.json", {"figure": 1})
        draft.seal()
        die()


def test_a_model_is_read_as_it_was_written(folds: BacktestCache, tmp_path: Path) -> None:
    assert not folds.has("model-1")
    put(folds, "model-1", 7)
    assert folds.has("model-1")
    assert not folds.has("model-2")
    assert names(folds) == ["model-1"]
    bundle = BacktestCache(Home(tmp_path), "abc").open("model-1")
    assert bundle.read_json("figures.json") == {"figure": 7}
    assert bundle.read("deep/er.bin") == b"bytes"
    assert not BacktestCache(Home(tmp_path), "other").has("model-1")
    with folds.draft("model-1") as draft:  # replaces it whole
        draft.write("new.bin", b"new")
    assert folds.open("model-1").manifest.keys() == {"new.bin"}
    assert not (folds.folder / "model-1" / "deep" / "er.bin").exists()


def test_a_draft_that_fails_leaves_nothing(folds: BacktestCache) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        broken(folds)
    assert not folds.has("model-1")
    assert names(folds) == []
    put(folds, "model-1", 9)
    with pytest.raises(RuntimeError, match="stop"):
        broken(folds)
    assert folds.open("model-1").read_json("figures.json") == {"figure": 9}


def test_a_killed_draft_is_not_seen_and_removed_alone(folds: BacktestCache, tmp_path: Path) -> None:
    assert run_process(killed, tmp_path) == -9
    assert not folds.has("model-1")
    assert all(name.startswith(".draft-") for name in names(folds))
    put(folds, "model-1", 2)
    folds.remove_drafts()
    assert names(folds) == ["model-1"]
    assert folds.open("model-1").read_json("figures.json") == {"figure": 2}


def test_a_missing_or_damaged_model_names_the_remedy(folds: BacktestCache) -> None:
    with pytest.raises(Damaged, match="the next run of the backtest makes it again"):
        folds.open("model-1")
    put(folds, "model-1", 1)
    (folds.folder / "model-1" / "figures.json").write_bytes(b"other")
    with pytest.raises(Damaged, match=r"figures\.json is not the file that was stored"):
        folds.open("model-1").read_json("figures.json")
    (folds.folder / "model-1" / "manifest.json").write_bytes(b"{")
    with pytest.raises(Damaged, match="is not a complete model"):
        folds.open("model-1")


def test_figures_come_back_to_the_last_bit(folds: BacktestCache) -> None:
    assert folds.read("state") is None
    content = {"quantile_offsets": [0.1 + 0.2, 1e-300, -0.0], "day": "2019-01-01"}
    folds.write("state", content)
    assert folds.read("state") == content
    folds.write("state", [1, None])
    assert folds.read("state") == [1, None]
    assert names(folds) == ["state.json"]
    with pytest.raises(ValueError):
        folds.write("state", float("nan"))
    assert folds.read("state") == [1, None]


def test_figures_of_another_name_or_backtest_are_refused(folds: BacktestCache, tmp_path: Path) -> None:
    folds.write("state", 1)
    other = BacktestCache(Home(tmp_path), "other")
    other.write("state", 2)
    for path in (folds.folder / "other.json", other.folder / "state.json"):
        path.write_bytes((folds.folder / "state.json").read_bytes())
    for cache, name in ((folds, "other"), (other, "state")):
        with pytest.raises(Damaged, match="not the file that was stored"):
            cache.read(name)


def test_changed_files_are_removed_with_every_state(
    folds: BacktestCache, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("fold-0", "fold-1", "predicted-1", "predicted-2"):
        folds.write(name, [0.5])
    put(folds, "model-1", 1)
    put(folds, "model-2", 2)
    folds.remove_damaged()
    assert len(names(folds)) == 6
    assert caplog.text == ""
    changed = folds.folder / "predicted-1.json"
    changed.write_bytes(changed.read_bytes().replace(b"0.5", b"0.7"))
    (folds.folder / "model-2" / "deep" / "er.bin").write_bytes(b"other")
    folds.remove_damaged()
    assert names(folds) == ["model-1", "predicted-2.json"]
    assert "files of an earlier run have changed (2, such as model-2) and are made again" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"1", b"[]", b'{"content": 1}'])
def test_damaged_figures_name_the_remedy(folds: BacktestCache, content: bytes) -> None:
    folds.write("state", 1)
    (folds.folder / "state.json").write_bytes(content)
    with pytest.raises(Damaged, match="the next run of the backtest makes it again", check=one_line):
        folds.read("state")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "folds").write_bytes(b"a file")
    folds = BacktestCache(Home(tmp_path), "abc")
    with pytest.raises(HomeUnusable, match="folds"):
        folds.write("state", 1)
    with pytest.raises(HomeUnusable, match="folds"), folds.draft("model-1"):
        pass
