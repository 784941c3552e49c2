"""Tables, bundles and responses in a bucket of a real S3 server, with writers from several machines."""

from __future__ import annotations

import hashlib
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from closecast.storage.core import s3_path
from closecast.storage.core.errors import BadSetting, Damaged, HomeUnusable
from closecast.storage.core.home import Home
from closecast.storage.core.s3_path import S3Path
from closecast.storage.locks.bucket_owner import prepare_home
from closecast.storage.models.mlflow_database import registry_client
from closecast.storage.models.registry import Models, ModelVersion
from closecast.storage.models.training_run import TrainingRun
from closecast.storage.prices.raw_responses import keep_raw, read_raw
from closecast.storage.tables.checksums import CHECKSUMS, read_checksums
from closecast.storage.tables.delta import Table
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.schemas import components
from closecast.storage.upkeep.compaction import compact_table, models_of, orphaned_bundles, remove_bundle
from closecast.storage.upkeep.file_integrity import bundle_files, raw_responses, table_files
from tests.engines import SECRET, SeaweedFS, bucket_for, s3
from tests.helpers import BTC, one_line
from tests.storage.tables.rows import NUMBERS, ROWS, forecast, number

pytestmark = pytest.mark.engines


@pytest.fixture
def server() -> SeaweedFS:
    return s3()


@pytest.fixture
def home(server: SeaweedFS, tmp_path: Path) -> Home:
    lite = f"sqlite:///{tmp_path / 'prices.db'}"
    return prepare_home(Home(tmp_path / "one", lite, bucket_for(tmp_path)))


@pytest.fixture
def bucket(home: Home) -> S3Path:
    assert isinstance(home.shared, S3Path)
    return home.shared


@pytest.fixture
def fresh_stores() -> Iterator[None]:
    s3_path._store.cache_clear()
    yield
    s3_path._store.cache_clear()


def another(home: Home, name: str = "two") -> Home:
    """Another folder of the same machine's database: whatever it holds of the bucket it has fetched."""
    other = replace(home, root=home.root.parent / name)
    other.root.mkdir()
    (other.root / "storage-id").write_bytes((home.root / "storage-id").read_bytes())
    return prepare_home(other)


def test_of_many_at_once_one_writes(bucket: S3Path) -> None:
    """Delta's commits rest on this."""
    for turn in range(10):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, turn=turn: (bucket / f"race-{turn}").create(b"%d" % n), range(8)))
        assert won.count(True) == 1
        assert (bucket / f"race-{turn}").read_bytes() == b"%d" % won.index(True)


@pytest.mark.parametrize("name", ["plain", "a b", "é", "it's %41", "a=b/c=d%20e", "#?&+"])
def test_objects_of_any_name(bucket: S3Path, name: str) -> None:
    path = bucket / "names" / name
    assert not path.is_dir()
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    path.put(b"content")
    assert path.is_file()
    assert path.read_bytes() == b"content"
    assert (bucket / "names").files() == [path]
    assert (bucket / "names").folder_names() == name.split("/")[:-1]
    path.unlink()
    path.unlink()
    assert not (bucket / "names").is_dir()


def test_addresses() -> None:
    assert S3Path.of("s3://bucket") == S3Path.of("s3://bucket/") == S3Path("bucket")
    assert S3Path.of("s3://my.bucket-1/a/b_c.d") == S3Path("my.bucket-1", "a/b_c.d")


@pytest.mark.parametrize(
    "url",
    [
        "", "s3://", "s3:bucket", "gs://bucket", "/folder", "s3://B", "s3://bucket//a", "s3://bucket/../a",
        "s3://bucket/a/..", "s3://bucket/.hidden", f"s3://me:{SECRET}@bucket", "s3://bucket/a?b", "s3://bucket/a\n",
        "s3://bucket/" + "a" * 101, "s3://a..b/c",
    ],
)  # fmt: skip
def test_other_addresses_are_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="s3://BUCKET/PREFIX") as caught:
        prepare_home(Home(tmp_path, storage_url=url))
    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("fresh_stores")
def test_without_its_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(BadSetting, match=r"closecast\[s3\]"):
        s3_path._store("bucket")


@pytest.fixture
def table(bucket: S3Path) -> Table:
    table = Table(bucket / "numbers", NUMBERS)
    for value in range(3):
        table.add([number(value, "a b%41")])
    return table


def test_each_commit_is_recorded_and_checked(table: Table) -> None:
    files = {path.relative_to(table.folder).as_posix() for path in table.folder.files()}
    assert set(read_checksums(table.folder)[0]) == {name for name in files if not name.startswith(CHECKSUMS)}
    assert table_files(table.folder) == (7, [])


def test_changed_and_missing_objects_are_named(table: Table) -> None:
    one, other, _ = (path for path in table.folder.files() if path.suffix == ".parquet")
    one.put(one.read_bytes()[:-1] + b"x")
    other.unlink()
    _, messages = table_files(table.folder)
    assert sorted(messages) == sorted([f"{one} is not the file that was stored", f"{other} is missing"])


def test_the_next_commit_records_that_of_a_killed_run(table: Table) -> None:
    (table.folder / CHECKSUMS / f"{1:020d}").unlink()
    table.add([number(9)])
    assert table_files(table.folder) == (9, [])
    assert (table.folder / CHECKSUMS / f"{1:020d}").is_file()


def test_a_compaction_leaves_few_files_and_one_list(home: Home) -> None:
    table, lists = components(home), home.components / CHECKSUMS
    for value in range(6):
        table.add([ROWS["components"] | {"prediction_id": f"p{value}"}])
    before = table.read().sort_by("prediction_id")
    for _ in range(3):  # without commits in between, too, each keeps every checksum
        compaction = compact_table(home, "components")
        assert compaction.files_after == 1
        assert table.read().sort_by("prediction_id") == before
        assert len(lists.files()) == 1
        assert table_files(home.components)[1] == []
    table.add([ROWS["components"] | {"prediction_id": "later"}])
    assert table_files(home.components)[1] == []


def register(home: Home, key: str = "one", content: bytes = b"weights") -> ModelVersion:
    models = Models(home)
    with models.draft(BTC, "article") as draft:
        draft.write("weights/model.bin", content)
        draft.write_json("settings.json", {"epochs": 2})
        return models.register(draft, BTC, "article", TrainingRun(key), tags={})


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty registry: MLflow takes seconds to make one."""
    folder = tmp_path_factory.mktemp("registry")
    home = Home(folder, f"sqlite:///{folder / 'prices.db'}").prepare()
    registry_client(home)
    return home.registry


@pytest.fixture
def version(home: Home, registry: Path) -> ModelVersion:
    shutil.copy(registry, home.registry)
    return register(home)


def opened_elsewhere(home: Home, version: ModelVersion) -> Models:
    other = another(home)
    assert not list(other.models.iterdir())
    assert Models(other).open(version).read("weights/model.bin") == b"weights"
    return Models(other)


def test_a_bundle_is_fetched_once(home: Home, version: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    other = opened_elsewhere(home, version)
    monkeypatch.setattr(S3Path, "read_bytes", None)
    other.open(version).verify()


@pytest.mark.parametrize("changed", ["weights/model.bin", "manifest.json"])
def test_a_changed_copy_is_fetched_again(home: Home, version: ModelVersion, changed: str) -> None:
    path = home.models / version.name / version.bundle / changed
    path.write_bytes(b"other")
    Models(home).open(version).verify()
    path.unlink()
    Models(home).open(version).verify()


@pytest.mark.parametrize("changed", ["weights/model.bin", "manifest.json"])
def test_a_changed_object_never_reaches_a_home(
    home: Home, bucket: S3Path, version: ModelVersion, changed: str
) -> None:
    path = bucket / "models" / version.name / version.bundle / changed
    assert bundle_files(home, version) == (3, [])
    path.put(b"other")
    _, messages = bundle_files(home, version)
    assert messages == [f"{path} is not the file that was stored: restore it from a backup"]
    other = another(home)
    with pytest.raises(Damaged, match="not the file that was stored"):
        Models(other).open(version)
    path.unlink()
    with pytest.raises(Damaged, match="is missing"):
        Models(other).open(version)
    assert bundle_files(home, version)[1] == [f"{path} is missing: restore it from a backup"]


def test_a_manifest_that_leads_out_is_refused(home: Home, bucket: S3Path, version: ModelVersion) -> None:
    manifest = b'{"../../../evil": "' + hashlib.sha256(b"x").hexdigest().encode() + b'"}'
    (bucket / "models" / version.name / version.bundle / "manifest.json").put(manifest)
    forged = replace(version, manifest_sha256=hashlib.sha256(manifest).hexdigest())
    with pytest.raises(Damaged, match="names"):
        Models(another(home)).open(forged)
    assert not list(home.root.parent.rglob("evil"))


def test_two_trainings_of_one_key_do_not_mix(home: Home, version: ModelVersion) -> None:
    later = register(home, content=b"others")
    assert later.bundle != version.bundle
    assert Models(home).open(version).read("weights/model.bin") == b"weights"
    assert Models(home).open(later).read("weights/model.bin") == b"others"


def test_a_shared_orphaned_bundle_is_listed_and_removed(
    home: Home, bucket: S3Path, version: ModelVersion
) -> None:
    orphan = bucket / "models" / version.name / "0123456789abcdef"
    (orphan / "manifest.json").put(b"{}")
    assert models_of(home) == [(BTC, "article")]
    (bundle,) = orphaned_bundles(home, BTC, "article")
    assert bundle.name == orphan.name
    remove_bundle(home, bundle)
    assert not orphan.is_dir()
    remove_bundle(home, home.models / version.name / version.bundle)
    assert (bucket / "models").files() == []
    assert models_of(home) == [(BTC, "article")]  # its empty folder


def test_responses_are_read_that_others_fetched(home: Home, bucket: S3Path) -> None:
    sha256 = keep_raw(home, b"[[1]]")
    assert keep_raw(home, b"[[1]]") == sha256
    other = another(home)
    assert read_raw(other, sha256) == b"[[1]]"
    assert raw_responses(other) == (1, [])
    (path,) = (bucket / "raw").files()
    path.put(b"other")
    with pytest.raises(Damaged):
        read_raw(home, sha256)
    assert len(raw_responses(home)[1]) == 1


def test_a_bucket_belongs_to_one_database(home: Home, tmp_path: Path) -> None:
    with pytest.raises(HomeUnusable, match="belongs to another price database", check=one_line):
        prepare_home(replace(home, root=tmp_path / "three"))
    prepare_home(home)


def test_a_foreign_mark_is_refused(home: Home, bucket: S3Path) -> None:
    (bucket / "closecast.json").put(b"mine!")
    with pytest.raises(HomeUnusable, match="not closecast's"):
        prepare_home(home)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "SignatureDoesNotMatch"),
        ("AWS_ACCESS_KEY_ID", "nobody", "InvalidAccessKeyId"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "error sending"),
    ],
)
@pytest.mark.usefixtures("fresh_stores")
def test_a_server_that_cannot_be_used_is_one_line(
    home: Home, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    Predictions(home).publish([forecast("a")])
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_path, "RETRIES", 1)
    s3_path._store.cache_clear()
    predictions = Predictions(home)
    for use, *args in ((prepare_home, home), (predictions.read,), (predictions.publish, [forecast("b")])):
        with pytest.raises(HomeUnusable, match=message) as caught:
            use(*args)
        assert "\n" not in str(caught.value)
        assert SECRET not in str(caught.value)
        assert len(str(caught.value)) < 500


class _Forgetful(BaseHTTPRequestHandler):
    """An S3 server that ignores conditions, as old ones do."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._respond(200, ETag='"0"')

    def do_DELETE(self) -> None:
        self._respond(204)

    def _respond(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.usefixtures("fresh_stores")
def test_a_server_that_ignores_conditions_is_refused(
    server: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Forgetful) as forgetful:
        threading.Thread(target=forgetful.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{forgetful.server_port}")
        with pytest.raises(HomeUnusable, match="If-None-Match"):
            prepare_home(Home(tmp_path, f"sqlite:///{tmp_path}/prices.db", "s3://bucket/prefix"))
        forgetful.shutdown()
