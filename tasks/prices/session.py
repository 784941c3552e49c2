"""A session whose answers are at their end in time, whatever the other side does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError


class Passing(Exception):
    """An answer that may be better the next time; its text says what came."""


class Session(requests.Session):
    """A session whose answers `within` can end, and that does not look where a redirect leads.

    The time-outs of requests are for each next byte: a head that comes a byte at a time, or a compressed
    body that never holds anything, would be waited for as long as it lasts. And requests follows the
    Location a long way also where redirects are not allowed: it reads the whole body first.
    """

    def __init__(self) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere; the name is requests' own."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End the answer that this thread waits for in here, by a Session, when the time is over.

    Raises:
        Passing: it was.
    """
    limit = _Limit()
    timer = threading.Timer(seconds, limit.end)
    timer.daemon = True
    _waiting.limit = limit
    timer.start()
    try:
        yield
    except (OSError, HTTPError):
        if not limit.over:
            raise
    finally:
        timer.cancel()
        _waiting.limit = None
    if limit.over:
        raise Passing("an answer that did not end in time")


class _Limit:
    """Whether the time is over, and the connection to end then."""

    def __init__(self) -> None:
        self.over = False
        self._lock = threading.Lock()
        self._connection: Any = None

    def watch(self, connection: Any) -> None:
        with self._lock:
            self._connection = connection
        if self.over:
            self.end()

    def end(self) -> None:
        with self._lock:
            self.over = True
            if isinstance(self._connection, socket.socket):
                # Not the method of a TLS socket, which is not made for two threads at once.
                with suppress(OSError):
                    socket.socket.shutdown(self._connection, socket.SHUT_RDWR)


class _Waiting(threading.local):
    limit: _Limit | None = None


_waiting = _Waiting()


class _Http(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3's own
        if _waiting.limit:
            _waiting.limit.watch(self.sock)
        return super().getresponse()


class _Https(_Http, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def proxy_manager_for(self, *args: Any, **more: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(*args, **more)
        manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        return manager
