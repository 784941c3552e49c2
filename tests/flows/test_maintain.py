"""Upkeep: what is compacted, what is pruned, and above all what is not."""

from __future__ import annotations

import os
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from closecast.flows import clock
from closecast.flows.actions import maintain_home
from closecast.flows.maintain import maintain
from closecast.storage.core.errors import Damaged, HomeBusy
from closecast.storage.core.home import Home
from closecast.storage.locks.locks import backtest_lock, product_lock
from closecast.storage.models.backtest_cache import BacktestCache
from closecast.storage.models.registry import CHAMPION, Models, ModelVersion
from closecast.storage.models.training_run import TrainingRun
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import backtests
from closecast.tasks.training.policy import decide
from closecast.tasks.training.registration import as_candidate
from closecast.tasks.upkeep import pruning
from closecast.tasks.upkeep.pruning import MAX_FILES, keep_few_files, needed_versions, prune_home
from tests.calibrated import forecast_by_hand, put_forecast, quick
from tests.flows.conftest import flow_runs_of
from tests.helpers import BTC, NOW, die
from tests.processes import run_process
from tests.storage.tables.rows import ROWS

ETH = "ETH-USD"


def tags_of(origin: int, status: str, training_kind: str = "refit", **tags: str) -> dict[str, str]:
    day = date(2020, 1, 1) + timedelta(days=origin)
    own = {"status": status, "training_kind": training_kind, "origin_day": str(day), "basis": "model"}
    own |= {"trained_through": str(day - timedelta(200)), "recipe_version": "r", "series": "csv@0"}
    return {**own, "parent": "none", **tags}


def register(
    home: Home, origin: int, status: str = "accepted", *, product_id: str = BTC, profile: str = "calibrated"
) -> str:
    """A version as a run registers it, its bundle a few bytes."""
    models, tags = Models(home), tags_of(origin, status)
    with models.draft(product_id, profile) as draft:
        draft.write_json("lineage.json", tags)
        run = TrainingRun(f"{product_id} {profile} {origin} {status}", {"epochs": 1}, {"rmse": 1.0})
        return models.register(draft, product_id, profile, run, tags=tags).version


def forecast(home: Home, number: int, version: str) -> None:
    """A stored forecast by a version."""
    (row,) = forecast_by_hand(number, f"p{number}", profile=quick()).rows()
    Predictions(home).publish([{**row, "model_version": version}])


def versions(home: Home, product_id: str = BTC) -> dict[str, ModelVersion]:
    return {version.version: version for version in Models(home).versions(product_id)}


def pruned(home: Home, *, dry_run: bool = False) -> list[str]:
    items = prune_home(home, moment=NOW, dry_run=dry_run)
    return [item.description.split(" (")[0] for item in items]


def bundles(home: Home) -> set[str]:
    """The folders of models, after a check that everything registered has its bundle as it was stored."""
    models = Models(home)
    for version in models.versions():
        models.open(version).verify()
    return {path.name for path in home.models.glob("*/*")}


@pytest.fixture
def grown(home: Home) -> Home:
    """Six versions: 1 has a forecast, 2 and 3 have none, 4 was refused, 5 is the champion, 6 is pending."""
    for origin, status in enumerate(["accepted", "accepted", "refused", "refused", "accepted", "pending"]):
        register(home, 90 * origin, status)
    forecast(home, 700, "1")
    models = Models(home)
    models.promote(versions(home)["5"])
    models.challenge(versions(home)["6"])
    return home


def test_unused_versions_are_deleted(grown: Home) -> None:
    unused = [f"closecast.BTC-USD.calibrated version {number}" for number in "234"]
    before = versions(grown)
    assert pruned(grown, dry_run=True) == unused
    assert versions(grown) == before
    assert pruned(grown) == unused
    assert set(versions(grown)) == {"1", "5", "6"}
    assert bundles(grown) == {before[number].bundle for number in "156"}
    assert pruned(grown) == []
    assert register(grown, 90, "refused") == "7"  # the same again, after it was deleted
    assert len(pruned(grown)) == 1
    assert register(grown, 91, "refused") == "8"


def test_a_forecast_keeps_only_versions_of_its_own_product_and_profile(home: Home) -> None:
    for product_id in (BTC, ETH):
        for origin in (0, 90):
            register(home, origin, product_id=product_id)
    register(home, 0, profile="article")
    forecast(home, 700, "1")
    assert pruned(home) == ["closecast.ETH-USD.calibrated version 1"]


def registered(
    number: int, origin: int, status: str, training_kind: str = "refit", **tags: str
) -> ModelVersion:
    tags = tags_of(origin, status, training_kind, **tags)
    return ModelVersion(BTC, "calibrated", str(number), f"b{number}", "ab", tags=tags)


@pytest.mark.parametrize(
    "statuses",
    [
        ["accepted", "refused", "refused"],
        ["accepted", "accepted", "rolled-back", "refused"],
        ["accepted", "rolled-back", "rolled-back", "refused", "refused"],
        ["refused", "accepted", "pending", "refused"],
        ["accepted", "accepted", "accepted", "accepted"],
        ["rolled-back", "accepted", "refused", "refused", "refused"],
    ],
)
@pytest.mark.parametrize("fine_tuned", [(), (1,), (2, 3), (3,), (1, 2, 3, 4)])
def test_decisions_do_not_depend_on_pruned_versions(statuses: list[str], fine_tuned: tuple[int, ...]) -> None:
    versions = [
        registered(n + 1, 30 * n, status, "fine-tune" if n in fine_tuned else "refit")
        for n, status in enumerate(statuses)
    ]
    needed = needed_versions(versions, set())
    kept = [version for version in versions if version.version in needed]
    policy = quick().policy
    for days in range(30 * len(versions), 30 * len(versions) + 100, 7):
        origin = date(2020, 1, 1) + timedelta(days=days)
        before, after = ([as_candidate(version) for version in some] for some in (versions, kept))
        assert decide(after, origin, policy) == decide(before, origin, policy)


def test_parents_of_kept_versions_are_kept() -> None:
    versions = [
        registered(1, 0, "accepted"),
        registered(2, 30, "accepted", "fine-tune", parent="1"),
        registered(3, 60, "accepted", "fine-tune", parent="2"),
        registered(4, 61, "accepted"),
        registered(5, 62, "accepted"),
    ]
    assert needed_versions(versions, set()) == {"5"}
    assert needed_versions(versions, {"3"}) == {"1", "2", "3", "5"}
    assert needed_versions(versions[:3], set()) == {"1", "2", "3"}


def test_each_recipe_and_series_keeps_its_own_newest() -> None:
    versions = [
        registered(1, 0, "accepted"),
        registered(2, 1, "accepted", recipe_version="other"),
        registered(3, 2, "accepted", series="csv@900"),
        registered(4, 3, "accepted"),
        ModelVersion(BTC, "article", "5", "b5", "ab"),
        ModelVersion(BTC, "article", "6", "b6", "ab"),
        ModelVersion(BTC, "article", "7", "b7", "ab", aliases=(CHAMPION,)),
    ]
    assert needed_versions(versions[:4], set()) == {"2", "3", "4"}
    assert needed_versions(versions[4:6], {"5"}) == {"5", "6"}
    assert needed_versions(versions[4:], set()) == {"7"}


def prune_and_die(root: Path, name: str) -> None:
    if name == "delete_run":
        from mlflow.tracking import MlflowClient

        MlflowClient.delete_run = die  # type: ignore[method-assign]
    else:
        setattr(pruning, name, die)
    prune_home(Home(root), moment=NOW)


@pytest.mark.parametrize("name", ["remove_bundle", "delete_run"])
def test_a_killed_pruning_leaves_whole_versions_and_the_next_completes_it(grown: Home, name: str) -> None:
    assert run_process(prune_and_die, grown.root, name) == -9
    assert set(versions(grown)) == {"1", "3", "4", "5", "6"}
    assert len(bundles(grown)) == 6
    assert len(pruned(grown)) == 3
    assert set(versions(grown)) == {"1", "5", "6"}
    assert len(bundles(grown)) == 3


def test_drafts_and_orphaned_bundles_are_deleted(home: Home) -> None:
    register(home, 0)
    bundle = next(home.models.glob("*/*"))
    (bundle.parent / ".draft-ab").mkdir()
    (bundle.parent / "0123").mkdir()
    orphan = home.models / "closecast.LTC-USD.article" / "4567"
    orphan.mkdir(parents=True)
    foreign = home.models / "closecast.mine.own" / "x"
    foreign.mkdir(parents=True)
    assert len(pruned(home)) == 3
    assert not orphan.exists()
    assert bundles(home) == {bundle.name, "x"}


def test_nothing_is_deleted_during_a_run_of_the_product(grown: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "product_lock", lambda *given: product_lock(*given, wait_seconds=0.1))
    with product_lock(grown, BTC), pytest.raises(HomeBusy):
        prune_home(grown, moment=NOW)
    assert len(versions(grown)) == len(bundles(grown)) == 6


def test_nothing_is_deleted_where_the_registry_lacks_versions_of_forecasts(grown: Home) -> None:
    before = bundles(grown)
    grown.registry.unlink()
    with pytest.raises(Damaged, match="version 1"):
        prune_home(grown, moment=NOW, dry_run=True)
    assert bundles(grown) == before


def put_backtest(home: Home, name: str, *, days_ago: float) -> Path:
    """The models of a backtest that nobody has touched for so long."""
    with BacktestCache(home, name).draft("refit-2020-01-01") as draft:
        draft.write("weights.h5", b"weights")
    BacktestCache(home, name).write("fold-0", {"known": []})
    folder = home.folds / name
    stamp = (NOW - timedelta(days=days_ago)).timestamp()
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (stamp, stamp))
    return folder


def finish(home: Home, name: str) -> None:
    """A stored row of that backtest."""
    assert backtests(home).add([ROWS["backtests"] | {"backtest_id": name}]) == 1


def test_unfinished_backtests_are_deleted_after_30_days(home: Home) -> None:
    kept = [
        put_backtest(home, "with-rows", days_ago=400),
        put_backtest(home, "young", days_ago=29),
        put_backtest(home, "at-work", days_ago=400),
    ]
    finish(home, "with-rows")
    touched = put_backtest(home, "touched", days_ago=400)
    stamp = NOW.timestamp()
    os.utime(touched / "fold-0.json", (stamp, stamp))
    old = put_backtest(home, "old", days_ago=31)
    with backtest_lock(home, "at-work"):
        assert pruned(home) == ["the unfinished backtest old"]
    assert not old.exists()
    assert all(folder.is_dir() for folder in [*kept, touched])
    assert pruned(home, dry_run=True) == ["the unfinished backtest at-work"]
    assert kept[2].is_dir()


def test_maintain_home_compacts_every_table_and_plans_without_a_change(grown: Home) -> None:
    forecast(grown, 701, "1")
    finish(grown, "b")
    tables, unused = maintain_home(grown, prune=True, dry_run=True)
    assert [table.table for table in tables] == ["predictions", "backtests"]
    assert (len(unused), len(versions(grown))) == (3, 6)
    tables, unused = maintain_home(grown, prune=False, dry_run=False)
    assert [(table.files_before, table.files_after) for table in tables] == [(2, 1), (1, 1)]
    assert not (grown.root / "scores").exists()
    assert (len(unused), len(versions(grown))) == (0, 6)


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_prunes_only_on_request(grown: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: datetime(2026, 1, 1, tzinfo=NOW.tzinfo))
    old = put_backtest(grown, "old", days_ago=0)
    assert maintain(str(grown.root)) == []
    assert len(versions(grown)) == 6
    assert old.is_dir()
    assert len(maintain(str(grown.root), prune=True)) == 4
    assert set(versions(grown)) == {"1", "5", "6"}
    assert not old.exists()
    assert [run.state_name for run in flow_runs_of(grown)] == ["Completed"] * 2


def test_a_run_compacts_a_product_with_many_files(home: Home) -> None:
    for number in range(1, MAX_FILES + 1):
        put_forecast(home, number, f"p{number}")
    (other,) = forecast_by_hand(1, "e").rows()
    Predictions(home).publish([other | {"product_id": ETH}])
    assert keep_few_files(home, BTC) == []
    put_forecast(home, MAX_FILES + 1, "last")
    assert keep_few_files(home, ETH) == []
    with FileLock(home.locks / "maintain.lock"):  # another process compacts
        assert keep_few_files(home, BTC) == []
    files = {table.table: (table.files_before, table.files_after) for table in keep_few_files(home, BTC)}
    assert files["predictions"] == (MAX_FILES + 2, 2)
    assert Predictions(home).read().num_rows == MAX_FILES + 2
    assert keep_few_files(home, BTC) == []
