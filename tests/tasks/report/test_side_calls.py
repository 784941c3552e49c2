"""Side calls to a server that refuses, hangs, hangs up, or is none of Prefect's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from closecast.tasks.report import side_calls
from closecast.tasks.report.side_calls import Progress, create_artifact, show_artifact, side_call
from tests.serve_demo import free_port

ANSWERS = ("500", "hang", "hang up", "a page")


class Server(ThreadingHTTPServer):
    """Answers every request in one way; `bodies` are those that it received."""

    def __init__(self) -> None:
        self.answer, self.bodies, self.requests = "ok", list[Any](), 0
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.requests += 1
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match self.server.answer:
            case "hang":
                self.server.closing.wait(20)
            case "hang up":
                self.connection.close()
            case "500":
                self.respond(500, b"{}")
            case "a page":
                self.respond(200, b"<html>log in</html>")
            case _:
                self.server.bodies.append(body)
                self.respond(201, json.dumps({"id": str(uuid4()), **body}).encode())

    def do_PATCH(self) -> None:
        self.do_POST()

    def do_GET(self) -> None:  # the client asks for a token against forged requests, and needs none
        self.respond(404, b"{}")

    def respond(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(side_calls, "SECONDS", 0.2)
    monkeypatch.setattr(side_calls, "EVERY_SECONDS", 0.0)
    # Of the event that Prefect emits about each artifact.
    monkeypatch.setattr("prefect.events.utilities.should_emit_events", lambda: False)
    with Server() as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{started.server_port}/api"}):
            yield started
        started.closing.set()
        started.shutdown()


def test_a_call_that_the_server_takes_is_one_request(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"day": "2020-01-01", "ratio": float("nan"), "close": 1.5}]
    show_artifact("table", "a-table", rows, "two figures")
    (body,) = server.bodies
    assert (body["key"], body["type"], body["description"]) == ("a-table", "table", "two figures")
    assert json.loads(body["data"]) == [{"day": "2020-01-01", "ratio": None, "close": 1.5}]
    assert caplog.messages == []


@pytest.mark.parametrize("answer", ANSWERS)
def test_refusals_by_the_server_are_warnings(
    server: Server, answer: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("prefect.client.base.time.sleep", slept.append)
    server.answer = answer
    began = time.monotonic()
    assert not side_call("a note", lambda client: create_artifact(client, "markdown", "note", "x", ""))
    assert time.monotonic() - began < 5
    (message,) = caplog.messages
    assert message.startswith("a note: refused by Prefect's server, the run continues without it: ")
    assert server.requests <= 2
    assert len(slept) <= 1


def test_a_missing_server_is_a_warning_and_a_mistake_of_ours_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        show_artifact("markdown", "note", "x", "")
        assert len(caplog.messages) == 1

        def mistake(_: object) -> None:
            raise AttributeError("a mistake")

        with pytest.raises(AttributeError):
            side_call("a note", mistake)


def test_progress_that_is_refused_is_not_tried_again(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    progress = Progress("training-btc-usd", "BTC-USD: training")
    progress.show(10.0)
    server.answer = "500"
    for percent in (20.0, 30.0, 100.0):
        progress.show(percent)
    assert [body["data"] for body in server.bodies] == [10.0]
    assert server.requests == 2
    assert len(caplog.messages) == 1
