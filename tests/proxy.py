"""A proxy before a Prefect server, which refuses some of its paths."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
from typing import Literal
from urllib.parse import urlsplit

Refusal = Literal["500", "401", "page", "hang", "hang up"]
RESPONSES = {
    "500": b"500 Internal Server Error\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    "401": b"401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    "page": b"200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\nConnection: close\r\n\r\n<p/>",
}


class Proxy(socketserver.ThreadingTCPServer):
    """Hands requests on to the API, one a connection, except those that it refuses.

    `refused` are the refusals by a pattern of "METHOD /path"; `seen` are those requests in their order.
    """

    daemon_threads = True

    def __init__(self, api: str) -> None:
        self.upstream = urlsplit(api)
        self.refused: dict[str, Refusal] = {}
        self.seen: list[str] = []
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        self.api = f"http://127.0.0.1:{self.server_address[1]}{self.upstream.path}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class Handler(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := self.request.recv(65536)):
                    return
                data += more
            request = b" ".join(data.split(b" ", 2)[:2]).decode()
            for pattern, refusal in self.server.refused.items():
                if re.match(pattern, request):
                    self.server.seen.append(request)
                    self.refuse(refusal)
                    return
            self.hand_on(data)

    def refuse(self, refusal: Refusal) -> None:
        if refusal in RESPONSES:
            self.request.sendall(b"HTTP/1.1 " + RESPONSES[refusal])
            self.request.shutdown(socket.SHUT_WR)
            while self.request.recv(65536):
                pass
        elif refusal == "hang":
            self.server.closing.wait(600)

    def hand_on(self, data: bytes) -> None:
        head, _, body = data.partition(b"\r\n\r\n")
        if b"upgrade: websocket" not in head.lower():  # so that each request is seen
            head = re.sub(rb"(?im)^connection:.*\r\n", b"", head) + b"\r\nConnection: close"
        upstream = self.server.upstream
        with socket.create_connection((upstream.hostname, upstream.port)) as other:
            other.sendall(head + b"\r\n\r\n" + body)
            thread = threading.Thread(target=pump, args=(other, self.request), daemon=True)
            thread.start()
            pump(self.request, other)
            thread.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
