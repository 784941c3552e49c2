"""Hostile input: product ids, arguments, files, responses, secrets; nothing that is read is run."""

from __future__ import annotations

import ast
import gzip
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from prefect import Flow
from prefect.cache_policies import NO_CACHE

from closecast.flows.settings import dask_address, environment
from closecast.storage.core.errors import BadSetting, ClosecastError, ExchangeError, HomeUnusable
from closecast.storage.core.home import Home
from closecast.storage.prices.database import Database
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.predictions import Predictions
from closecast.tasks.core.steps import task_of
from closecast.tasks.prices.coinbase_client import Client
from tests.exchange import Exchange, Response
from tests.helpers import BTC, PROJECT, made_up, store
from tests.processes import closecast_here, closecast_process

SOURCES = [
    *(PROJECT / "closecast").glob("*.py"),
    *(p for r in ("flows", "tasks", "storage") for p in (PROJECT / r).rglob("*.py")),
]
SECRET = "hunter2-in-the-clear"  # noqa: S105


FORBIDDEN = (
    r"^(import (.*, )?|from )(pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal|pty|keras.models)\b",
    r"^(eval|exec|compile|__import__)\(",
    r"\b(popen|spawnl|spawnv|execv|read_pickle|to_pickle|os\.system|models\.load_model)\(",
    r"\b(enable_unsafe_deserialization\(|shell=True|allow_pickle=True|safe_mode=False)",
)


def offences(tree: ast.AST) -> list[str]:
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom | ast.Call))
    return [text for text in map(ast.unparse, nodes) if any(re.search(one, text) for one in FORBIDDEN)]


def test_no_pickle_no_eval_no_shell() -> None:
    for path in SOURCES:
        assert offences(ast.parse(path.read_text(encoding="utf-8"))) == [], path


def test_forbidden_code_would_be_found() -> None:
    for text in (
        "import os, pickle",
        "from joblib import load",
        "eval('1')",
        "os.system('x')",
        "subprocess.run('x', shell=True)",
        "np.load(p, allow_pickle=True)",
        "keras.models.load_model(p)",
        "from keras.models import load_model",
        "load(p, safe_mode=False)",
    ):
        assert offences(ast.parse(text)), text


def test_no_result_of_prefect_is_kept_as_a_pickle() -> None:
    from closecast.flows import backtest, daily, maintain

    members = {
        id(member): member for module in (backtest, daily, maintain) for member in vars(module).values()
    }
    flows = [member for member in members.values() if isinstance(member, Flow)]
    steps = [task_of(member) for member in members.values() if hasattr(member, "task_options")]
    assert (len(flows) >= 3, len(steps) >= 8) == (True, True)
    assert [flow.name for flow in flows if flow.persist_result is not False] == []
    for step in steps:
        assert (step.persist_result, step.cache_policy) == (False, NO_CACHE), step.name


WITH_A_PRODUCT = ("predictions", "versions", "score", "rollback", "report", "run", "backtest")


def test_hostile_arguments_are_refused_in_one_line(home: Home) -> None:
    """SQL, paths and markup in every argument: one line, and the prices are as they were."""
    store(home, made_up(10))
    words = [
        "'; DROP TABLE candles; --", "../../../etc/passwd", "[bold]x[/]", "$(touch /tmp/owned)", "\x1b[2J",
        "1" * 5000,
    ]  # fmt: skip
    for word in words:
        for command in (
            *([command, f"--product={word}"] for command in WITH_A_PRODUCT),
            ["predictions", f"--from={word}"],
            ["reproduce", word],
            ["rollback", "--product", BTC, f"--to={word}"],
            ["score", f"--profile={word}"],
            ["report", f"--profile={word}"],
            ["run", "--set", f"{word}=1"],
            ["run", f"--as-of={word}"],
            ["import", word, "--product", BTC],
            ["sql", word],
            ["restore", word],
        ):
            code, out, err = closecast_here(*command, "--home", str(home.root))
            assert code in (1, 2), (command, out, err)
            assert err.count("\n") == 1, (command, err)
            assert "\x1b" not in err
            assert len(err) < 1500, command
    with Prices(home) as prices:
        assert prices.table("candles").num_rows == 10
    assert not Path("/tmp/owned").exists()  # noqa: S108


def peak_of(*words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A command in a process of its own, and its peak memory in GB; of addresses it gets 10 GB."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (10 * 2**30, 10 * 2**30))\n"
        "import closecast, atexit\n"
        "status = lambda: open('/proc/self/status').read()\n"
        "atexit.register(lambda: print('PEAK', status().split('VmHWM:')[1].split()[0]))\n"
        f"sys.argv = ['closecast', *{list(words)!r}]\nclosecast.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    return done, float(done.stdout.rpartition("PEAK ")[2]) / 2**20


def test_a_line_of_two_gigabytes_is_refused_without_reading_it(home: Home, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.csv"
    with bomb.open("wb") as file:
        file.write(b"date,close\n2020-01-01,")
        file.truncate(2 * 2**30)
    began = time.monotonic()
    done, peak = peak_of("import", str(bomb), "--product", BTC, "--home", str(home.root))
    assert done.returncode == 1
    assert "larger" in done.stderr
    assert done.stderr.count("\n") == 1
    assert peak < 0.5
    assert time.monotonic() - began < 20


# Made by their tests, not where they are collected.
BOMBS: dict[str, Callable[[], bytes]] = {
    "columns": lambda: b",".join(b"c%d" % n for n in range(10_000)) + b"\n" + b"1," * 9_999 + b"1\n",
    "columns below the header": lambda: b"date,close\n" + b"1," * 10_000 + b"\n",
    "a line of 20 MB": lambda: b"date,close\n2020-01-01," + b"9" * 20_000_000 + b"\n",
    "empty lines": lambda: b"\n" * 5_000_000,
    "nothing but quotes": lambda: b'"' * 5_000_000,
    "nothing but delimiters": lambda: b"," * 5_000_000,
    "zeros": lambda: bytes(1_000_000),
    "unpacked it is large": lambda: gzip.compress(b"date,close\n" + b"2020-01-01,1\n" * 25_000_000, 1),
    "JSON in JSON": lambda: b"[" * 1_000_000,
    "a deep JSON": lambda: b'{"a":' * 900 + b"1" + b"}" * 900,
    "a zip": lambda: b"PK\x03\x04" + bytes(100),
    "half a character": lambda: b"date,close\n2020-01-01,1\xe2\x82",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly_and_in_one_line(name: str, home: Home, tmp_path: Path) -> None:
    file = tmp_path / "bomb.csv"
    file.write_bytes(BOMBS[name]())
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, out, err = closecast_here("import", str(file), "--product", BTC, "--home", str(home.root))
    assert code == 1, (out, err)
    assert err.count("\n") == 1
    assert len(err) < 700
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # a GB


def test_ctrl_c_ends_a_query_that_would_not_end(home: Home) -> None:
    endless = "select count(*) from range(100000000000) a, range(1000) b"
    command = [sys.executable, "-m", "closecast", "sql", endless, "--home", str(home.root)]
    Prices(home).__enter__().__exit__()
    with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(4)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err.startswith("closecast: interrupted")


def test_a_query_for_all_the_memory_is_refused(home: Home) -> None:
    greedy = "select list(repeat('x', 999999) || a.range) from range(10000000) a"
    done, peak = peak_of("sql", greedy, "--home", str(home.root))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert peak < 5


def error_of(response: Response) -> BaseException | None:
    with (
        Exchange({BTC: made_up(5)}, faults=[response] * 9) as ex,
        Client(ex.url, attempts=2, empty_attempts=1, total_timeout=2, sleep=lambda _: None) as client,
    ):
        try:
            client.page(BTC, date(2019, 1, 1), date(2019, 1, 5))
        except ClosecastError as error:
            return error
    return None


def spaces(wbits: int) -> bytes:
    """A quarter of a GB of spaces in brackets, packed by zlib (15) or gzip (31), never whole in memory."""
    packer = zlib.compressobj(1, wbits=wbits)
    parts = [b"[", *[b" " * 2**20] * 2**8, b"]"]
    return b"".join([*map(packer.compress, parts), packer.flush()])


def packed(body: bytes, *encodings: str) -> Response:
    return Response(200, body, headers=(("Content-Encoding", ", ".join(encodings)),))


RESPONSES: dict[str, Callable[[], Response]] = {
    "gzip": lambda: packed(spaces(31), "gzip"),
    "gzip twice": lambda: packed(gzip.compress(spaces(31)), "gzip", "gzip"),
    "deflate": lambda: packed(spaces(15), "deflate"),
    "nested": lambda: Response(200, b"[" * 200_000),
    "long": lambda: Response(200, b"[" + b"1," * 2**21 + b"1]"),
    "header": lambda: Response(200, b"[]", headers=(("X-Long", "x" * 200_000),)),
    "headers": lambda: Response(200, b"[]", headers=tuple((f"X-{n}", "x") for n in range(20_000))),
    "message": lambda: Response(200, b'{"message": "' + b"x\\n" * 100_000 + b'"}'),
    "control": lambda: Response(400, b'{"message": "\\u001b[2J\\u0007evil\\r\\nline"}'),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_bombs_of_the_exchange_are_an_error_in_bounded_memory(name: str) -> None:
    response = RESPONSES[name]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = error_of(response)
    assert isinstance(error, ExchangeError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # 256 MB
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 1000


def test_a_number_of_millions_of_digits_costs_its_row() -> None:
    began = time.monotonic()
    assert error_of(Response(200, b"[[" + b"9" * 2**21 + b"]]")) is None
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("status", "to"),
    [(301, "http://127.0.0.1:{port}/stolen"), (302, "file:///etc/passwd"), (308, "/elsewhere")],
)
def test_no_redirect_is_followed(status: int, to: str) -> None:
    with Exchange({}) as other, Exchange({BTC: made_up(5)}) as ex:
        target = to.format(port=other.url.rpartition(":")[2])
        ex.faults.append(Response(status, b"", headers=(("Location", target),)))
        message = f"{status}: a redirect to {re.escape(target)}, which is not followed"
        with Client(ex.url, attempts=2) as client, pytest.raises(ExchangeError, match=message):
            client.page(BTC, date(2019, 1, 1), date(2019, 1, 5))
        assert (len(ex.requests), len(other.requests)) == (1, 0)


def test_no_password_goes_with_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text(f"default login me password {SECRET}\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with Exchange({BTC: made_up(5)}) as ex, Client(ex.url) as client:
        # As with any host that is not this machine: netrc and the rest of the environment count.
        client._session.trust_env = True
        client.page(BTC, date(2019, 1, 1), date(2019, 1, 5))
    assert all({"Authorization", "Cookie"}.isdisjoint(request.headers) for request in ex.requests)
    assert ex.requests


def test_a_password_in_an_address_is_shown_nowhere(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    for url in (
        f"postgresql+psycopg://me:{SECRET}@nowhere.invalid/prices",
        f"postgresql://me:{SECRET}@nowhere.invalid/prices?password={SECRET}",
        f"nonsense://me:{SECRET}@nowhere",
        f"not a url {SECRET}",
        f"sqlite:////nowhere/at/all.db?key={SECRET}",
    ):
        with pytest.raises((BadSetting, HomeUnusable)) as error:
            Database(Home(home.root, url)).close()
        said.append(str(error.value))
        assert SECRET not in repr(Home(home.root, url))
    for url in (
        f"https://me:{SECRET}@exchange.example",
        f"nonsense//me:{SECRET}@x",
        f"https://exchange.example/a?key={SECRET}",
        f"https://exchange.example#{SECRET}",
        f"me:{SECRET}@exchange.example",
    ):
        with pytest.raises(BadSetting) as error:
            Client(url)
        said.append(str(error.value))
        monkeypatch.setenv("CLOSECAST_COINBASE_URL", url)
        assert environment().coinbase_url == url
        said.append(repr(environment()))
    for address in (
        f"tcp://me:{SECRET}@nowhere:8786",
        f"me:{SECRET}@nowhere:1",
        f"nowhere:8786?key={SECRET}",
    ):
        monkeypatch.setenv("CLOSECAST_DASK_ADDRESS", address)
        for asked in (None, address):
            with pytest.raises(BadSetting, match="looks like tcp://HOST:8786") as error:
                dask_address(asked)
            said.append(str(error.value))
    assert SECRET not in "\n".join([*said, caplog.text])


def test_an_address_that_another_error_quotes_is_masked() -> None:
    url = f"https://me:{SECRET}@exchange.example/products?key={SECRET}"
    error = ClosecastError(f"no response from {url} within 3 s")
    assert str(error) == "no response from https://***@exchange.example/products?*** within 3 s"
    assert SECRET not in repr(error)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", f"postgresql+psycopg://me:{SECRET}@127.0.0.1:9/prices"),
        ("COINBASE_URL", f"https://127.0.0.1:9/a?key={SECRET}"),
        ("DASK_ADDRESS", f"tcp://me:{SECRET}@127.0.0.1:9"),
        ("STORAGE_URL", f"s3://me:{SECRET}@bucket?key={SECRET}"),
    ],
)
def test_a_password_is_in_no_output_and_no_log_file(
    tmp_path: Path, prefect_server: str, name: str, url: str
) -> None:
    """Nor in what Prefect keeps of the run: its parameters, states, logs and artifacts."""
    from prefect.settings import PREFECT_HOME

    home = tmp_path / "home"
    told = {f"CLOSECAST_{name}": url, "PREFECT_API_URL": prefect_server}
    words = ["run", "--source", "coinbase", "--home", str(home)]
    if name == "DASK_ADDRESS":  # of a backtest
        store(Home(home).prepare(), made_up(400))
        words = ["backtest", "--profile", "article", "--home", str(home)]
    done = closecast_process(*words, variables={**os.environ, **told})
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    folders = (tmp_path, PREFECT_HOME.value())
    written = [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert SECRET.encode() not in b"".join([*written, done.stdout.encode(), done.stderr.encode()])
    if name == "STORAGE_URL":  # no home can be opened
        return
    assert Predictions(Home(home)).read().num_rows == 0
