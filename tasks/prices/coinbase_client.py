"""A client of the exchange's `GET /products/{product_id}/candles`, which keeps the pace and retries."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass
from datetime import date, timedelta
from http.client import IncompleteRead
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import requests
import tenacity

from closecast.storage.core.errors import BadDay, BadSetting, ExchangeUnavailable
from closecast.storage.core.home import check_product_id
from closecast.storage.core.masking import masked_address
from closecast.storage.core.provenance import code_version
from closecast.tasks.core.formatting import count
from closecast.tasks.prices.coinbase_responses import (
    DAY,
    TransientError,
    printable,
    read_body,
    read_rows,
    rows_of,
    sent_at,
)

COINBASE = "https://api.exchange.coinbase.com"
MAX_DAYS = 300  # of a page, both ends included: the exchange refuses more
CONNECT_TIMEOUT = 5.0  # seconds
MIN_INTERVAL = 0.11  # seconds between the starts of two requests: the exchange allows 10 a second

log = logging.getLogger("closecast.fetch")


@dataclass(frozen=True)
class Page:
    """The response to a request for an inclusive span of days."""

    first: date
    last: date
    payload: bytes  # the body, decompressed
    candles: pd.DataFrame  # a candle_frame of days of the span, oldest first, not yet validated
    rejected: pd.DataFrame  # a rejected_frame of the rows that are not readable as a candle


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, because requests would read the whole body of a redirect that must not be followed."""


@dataclass(eq=False)
class Client:
    """A client for daily candles: a context manager that closes its connections.

    The last request ends at most `max_wait` + `total_timeout` + 1 s after the patience is over; a longer
    Retry-After header ends the client's work at once. An address that cannot be used raises `BadSetting`.
    """

    base_url: str = COINBASE  # http or https, without a query
    _: KW_ONLY
    read_timeout: float = 15.0  # seconds to wait for each next byte
    total_timeout: float = 30.0  # seconds for a whole response, however it trickles
    attempts: int = 6  # requests for a page while errors are transient
    empty_attempts: int = 3  # requests for a page before an empty one is accepted
    max_wait: float = 20.0  # seconds, of the exponential waits without jitter; a Retry-After may be longer
    patience: float = 780.0  # seconds after the first request in which others may start
    sleep: Callable[[float], None] = time.sleep  # waits that many seconds; for tests

    def __post_init__(self) -> None:
        self._host = host_of(self.base_url)
        self._pace, self._next_start, self._last_start = threading.Lock(), -math.inf, math.inf
        self._session = _Session()
        self._session.auth = lambda request: request  # the candles are public: no password of a netrc file
        self._session.headers["User-Agent"] = f"closecast/{code_version().partition('+')[0]}"
        self._session.headers["Accept"] = "application/json"
        # A proxy of the environment cannot reach this machine.
        is_loopback = self._host in ("localhost", "::1") or self._host.startswith("127.")
        self._session.trust_env = not is_loopback

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def page(self, product_id: str, first: date, last: date, *, expect_rows: bool = True) -> Page:
        """One span of at most 300 days, both ends included; `last` must be a finished day.

        With `expect_rows` an empty page is requested again, then accepted: days without trades exist.

        Raises:
            BadProduct: malformed, or not on the exchange.
            BadDay: a span that is backwards or too long.
            ExchangeRefused: a 4xx, a redirect, or a body beyond the limit.
            ExchangeUnavailable: no usable response after every attempt, or out of patience.
        """
        check_product_id(product_id)
        if not 1 <= (last - first).days + 1 <= MAX_DAYS:
            raise BadDay(f"a page needs 1 to {MAX_DAYS} days, oldest first, not {first} to {last}")
        label = f"{product_id} {first} to {last}"

        def retrying(attempts: int, **rules: Any) -> tenacity.Retrying:
            return tenacity.Retrying(
                sleep=self.sleep,
                stop=tenacity.stop_after_attempt(attempts),
                before_sleep=lambda state: _warn(label, state, attempts),
                **rules,
            )

        until_usable = retrying(
            self.attempts,
            wait=_longer_of_asked_and(
                tenacity.wait_exponential(multiplier=0.5, max=self.max_wait) + tenacity.wait_random(0, 0.5)
            ),
            retry=tenacity.retry_if_exception_type(TransientError),
            reraise=True,
        )
        until_filled = retrying(
            self.empty_attempts if expect_rows else 1,
            wait=tenacity.wait_random(0.2, 0.6),
            retry=tenacity.retry_if_result(lambda page: page.candles.empty and page.rejected.empty),
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )
        try:
            page: Page = until_filled(until_usable, self._request, product_id, first, last)
        except TransientError as error:
            raise ExchangeUnavailable(
                f"the exchange at {self._host} gave no usable response for {label}"
                f" in {self.attempts} attempts, the last one: {error};"
                " check the network and run again later (--source sample works offline)"
            ) from error
        # Before a product's first day every page is empty: the run says so once.
        level = logging.DEBUG if page.candles.empty else logging.INFO
        log.log(level, "%s: %s", label, count(len(page.candles), "candle"))
        return page

    def _request(self, product_id: str, first: date, last: date) -> Page:
        self._wait_for_turn()
        query = {"granularity": DAY, "start": f"{first}T00:00:00Z", "end": f"{last}T00:00:00Z"}
        try:
            response, body = self._get(f"{self.base_url.rstrip('/')}/products/{product_id}/candles", query)
        except requests.RequestException as error:
            raise TransientError(_reason_of(error)) from error
        try:
            rows = rows_of(response, body, product_id)
        except TransientError as error:
            self._require_patience(error)
            raise
        candles, rejected = read_rows(rows, first, last)
        moment = sent_at(response)
        newest = candles["day_utc"].iloc[-1].date() if len(candles) else date.min
        if moment and moment.date() <= newest:
            # From a cache, or this machine's clock is wrong: an open candle looks like any other.
            raise TransientError(
                f"a candle of {newest} sent at {moment:%Y-%m-%d %H:%M} UTC by the exchange's clock, before"
                " that day was over; compare this machine's clock"
            )
        return Page(first, last, body, candles, rejected)

    def _get(self, url: str, query: dict[str, Any]) -> tuple[requests.Response, bytes]:
        """A response and its whole body within the total time-out.

        The time-outs of requests start again with each byte, so a response that trickles would never end. It
        is awaited in a thread of its own, which is abandoned when time is up; it ends with the process at the
        latest.
        """
        future: Future[tuple[requests.Response, bytes]] = Future()
        timeouts = (CONNECT_TIMEOUT, self.read_timeout)

        def fetch() -> None:
            try:
                with self._session.get(
                    url, params=query, timeout=timeouts, stream=True, allow_redirects=False
                ) as response:
                    future.set_result((response, read_body(response)))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=fetch, name="closecast-http", daemon=True).start()
        try:
            return future.result(self.total_timeout)
        except TimeoutError as error:
            raise TransientError(f"no complete response within {self.total_timeout:g} s") from error

    def _require_patience(self, error: TransientError) -> None:
        """Give up at once if the exchange asks for a longer wait than this client's patience."""
        left = self._last_start - time.monotonic()
        if error.retry_after > left:
            raise ExchangeUnavailable(
                f"the exchange at {self._host} asks for a pause of {error.retry_after:.0f} s ({error}),"
                f" but this run waits at most {max(left, 0.0):.0f} s more; the pages so far are kept: run"
                " again later to continue from there"
            ) from error

    def _wait_for_turn(self) -> None:
        """Keep the starts of requests apart, also those of other threads and of retries."""
        with self._pace:
            wait = self._next_start - time.monotonic()
            if wait > 0:
                self.sleep(wait)
            now = time.monotonic()
            self._last_start = min(self._last_start, now + self.patience)
            if now > self._last_start:
                raise ExchangeUnavailable(
                    f"all pages of the exchange at {self._host} were needed within {self.patience:g} s, but"
                    " it was slower; the pages so far are kept: run again later to continue from there"
                )
            self._next_start = now + MIN_INTERVAL


def spans(first: date, last: date) -> list[tuple[date, date]]:
    """The days from `first` to `last`, both included, in spans of at most MAX_DAYS, the oldest first."""
    length = (last - first).days + 1
    return [
        (first + timedelta(days=n), first + timedelta(days=min(n + MAX_DAYS, length) - 1))
        for n in range(0, length, MAX_DAYS)
    ]


def host_of(base_url: str) -> str:
    """The host of the exchange's address; `BadSetting` where it cannot be used."""
    try:
        url = urlsplit(str(requests.Request("GET", base_url).prepare().url))
        host = url.hostname or ""
        usable = url.scheme in ("http", "https") and bool(host.encode("idna")) and url.port != 0
    except (ValueError, UnicodeError):  # an address, a host or a port that is none
        usable = False
    if not usable or "@" in base_url or url.query or url.fragment:
        raise BadSetting(
            "the exchange's address needs the form https://host, without a name, a password or a query, not"
            f" {printable(masked_address(base_url))!r}; correct CLOSECAST_COINBASE_URL"
        )
    return host


def _reason_of(error: BaseException) -> str:
    """A short reason for a failed request: the operating system's, if there is one."""
    cause: BaseException | None = error
    text = type(error).__name__
    while cause is not None:
        match cause:
            case requests.Timeout() | TimeoutError():
                return "no response in time"
            case requests.exceptions.ContentDecodingError():
                return "a damaged gzip body"
            case IncompleteRead():
                return "a body cut short"
            case OSError(errno=int(number)) if number:
                return (os.strerror(number) if number > 0 else printable(str(cause.strerror))).lower()
        text = printable(str(cause)) or text
        cause = cause.__cause__ or cause.__context__
    return text


def _longer_of_asked_and(usual: tenacity.wait.wait_base) -> Callable[[tenacity.RetryCallState], float]:
    """Wait as usual, or as long as a Retry-After header of the exchange asks, if that is longer."""

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome and state.outcome.exception()
        return max(usual(state), getattr(error, "retry_after", 0.0))

    return wait


def _warn(label: str, state: tenacity.RetryCallState, attempts: int) -> None:
    problem = (state.outcome and state.outcome.exception()) or "no candles"
    wait = state.next_action.sleep if state.next_action else 0.0
    text = "%s: %s; attempt %d of %d, again in %.1f s"
    log.warning(text, label, problem, state.attempt_number, attempts, wait)
