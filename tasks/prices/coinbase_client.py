"""Coinbase → candles: a polite client of `GET /products/{product_id}/candles`.

The client asks, keeps the pace and asks again; what an answer is worth is for
tasks/prices/coinbase_responses.py, what a row holds for tasks/prices/coinbase_rows.py. Whether the candles
are plausible is for tasks/prices/validation.py.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

import pandas as pd
import requests
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)
from urllib3.exceptions import HTTPError, LocationValueError

from storage.core.errors import BadDay, BadSetting, ExchangeUnavailable
from storage.core.home import check_product_id
from tasks.prices.coinbase_responses import judge, made_at, one_line, read_body, why
from tasks.prices.coinbase_rows import DAY, read_rows
from tasks.prices.session import Passing, Session, within

COINBASE = "https://api.exchange.coinbase.com"
MAX_DAYS = 300  # of a page, both ends included: the exchange refuses more

log = logging.getLogger("closecast.fetch")


@dataclass(frozen=True)
class Page:
    """One answer of the exchange.

    `first` and `last` are the inclusive span that was asked for; `payload` is the body, decompressed.
    `candles` (a candle_frame) holds only days of the span, oldest first, not yet checked for plausibility;
    `rejected` (a rejected_frame) holds the rows that cannot be read as a candle.
    """

    first: date
    last: date
    payload: bytes
    candles: pd.DataFrame
    rejected: pd.DataFrame


class Client:
    """The exchange's daily candles, asked for politely: a context manager that closes its connections.

    Args:
        base_url: http or https address of the exchange, without a query.
        connect_timeout, read_timeout: seconds to wait for the connection, and for each next byte.
        total_timeout: seconds after which an answer that is not at its end is given up.
        min_interval: seconds between the starts of two requests, at least 0.1, whatever happens.
        attempts: how often a page is asked for while the trouble may pass.
        empty_attempts: how often an empty page is asked for before it is believed.
        longest_wait: seconds, the bound of the exponential waits between attempts, without their jitter.
        patience: seconds after the first request, of any page, when no other is begun: whatever the exchange
            does, the last of them ends `longest_wait` + `connect_timeout` + `total_timeout` + 1 s after it.
        sleep: waits that many seconds; for tests.

    Raises:
        BadSetting: an address or a number that cannot be used.
    """

    def __init__(
        self,
        base_url: str = COINBASE,
        *,
        connect_timeout: float = 5.0,
        read_timeout: float = 15.0,
        total_timeout: float = 30.0,
        min_interval: float = 0.11,
        attempts: int = 6,
        empty_attempts: int = 3,
        longest_wait: float = 20.0,
        patience: float = 780.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url, self._host = _check_url(base_url)
        if not min_interval >= 0.1:
            raise BadSetting(f"min_interval needs at least 0.1 s (10 requests a second), not {min_interval}")
        limits = (connect_timeout, read_timeout, total_timeout, patience)
        if not all(limit > 0 for limit in limits) or min(attempts, empty_attempts) < 1:
            raise BadSetting("the client's time-outs need to be above 0 and its attempts at least 1")
        self._timeouts, self._total_timeout = (connect_timeout, read_timeout), total_timeout
        self._attempts, self._empty_attempts = attempts, empty_attempts
        self._longest_wait, self._min_interval, self._sleep = longest_wait, min_interval, sleep
        self._pace, self._next_start = threading.Lock(), -math.inf
        self._patience, self._last_start = patience, math.inf
        self._session = Session()
        # The candles are public: no name and password of a netrc file or of the address goes with a request.
        self._session.auth = _nobody
        self._session.headers["User-Agent"] = f"closecast/{_version()}"
        self._session.headers["Accept"] = "application/json"
        # A proxy of the environment cannot reach this machine's own loopback.
        self._session.trust_env = self._host not in ("localhost", "::1") and not self._host.startswith("127.")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def pages(self, product_id: str, first: date, last: date) -> Iterator[Page]:
        """The days from `first` to `last`, both included, in pages of at most 300, the oldest first.

        Nothing is asked for a page before it is taken. No day after `last` is ever asked for or returned, so
        `last` must be a finished day. No pages where `first` is after `last`.

        Raises:
            BadProduct, ExchangeRefused, ExchangeUnavailable: as `page`.
        """
        check_product_id(product_id)
        return (self.page(product_id, start, end) for start, end in spans(first, last))

    def page(self, product_id: str, first: date, last: date, *, expect_rows: bool = True) -> Page:
        """One span of at most 300 days, both ends included.

        Where rows are expected an empty page is asked for again, then accepted: days without trades exist.

        Raises:
            BadProduct: malformed, or not known to the exchange.
            BadDay: a span that is backwards or too long.
            ExchangeRefused: the exchange said no (4xx, a redirect, a body past all measure).
            ExchangeUnavailable: no answer that can be used after every attempt, or out of patience.
        """
        check_product_id(product_id)
        if not 1 <= (last - first).days + 1 <= MAX_DAYS:
            raise BadDay(f"a page needs 1 to {MAX_DAYS} days, oldest first, not {first} to {last}")
        what = f"{product_id} {first} to {last}"
        believe = Retrying(
            sleep=self._sleep,
            stop=stop_after_attempt(self._empty_attempts if expect_rows else 1),
            wait=wait_random(0.2, 0.6),
            retry=retry_if_result(_is_empty),
            before_sleep=lambda state: _warn(what, "no candles", state, self._empty_attempts),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        page: Page = believe(self._insist, what, product_id, first, last)
        log.info("%s: %d candles", what, len(page.candles))
        return page

    def _insist(self, what: str, product_id: str, first: date, last: date) -> Page:
        """Ask until an answer can be used or the attempts are used up."""
        insist = Retrying(
            sleep=self._sleep,
            stop=stop_after_attempt(self._attempts),
            wait=wait_exponential(multiplier=0.5, max=self._longest_wait) + wait_random(0, 0.5),
            retry=retry_if_exception_type(Passing),
            before_sleep=lambda state: _warn(what, _failure(state), state, self._attempts),
            reraise=True,
        )
        try:
            return insist(self._ask, product_id, first, last)
        except Passing as error:
            raise ExchangeUnavailable(
                f"the exchange at {self._host} gave no usable answer for {what}:"
                f" asked {self._attempts} times, last came {error};"
                " check the network and run again later (--source sample works offline)"
            ) from error

    def _ask(self, product_id: str, first: date, last: date) -> Page:
        """One request."""
        self._wait_for_turn()
        query = {
            "granularity": str(DAY),
            "start": f"{first.isoformat()}T00:00:00Z",
            "end": f"{last.isoformat()}T00:00:00Z",
        }
        try:
            with (
                within(self._total_timeout),
                self._session.get(
                    f"{self.base_url}/products/{product_id}/candles",
                    params=query,
                    timeout=self._timeouts,
                    stream=True,
                    allow_redirects=False,
                ) as response,
            ):
                payload = read_body(response)
        except (requests.exceptions.InvalidURL, LocationValueError) as error:
            raise BadSetting(f"the exchange's address {self._host} cannot be used: {why(error)}") from error
        except (OSError, HTTPError) as error:  # requests' own are OSErrors
            raise Passing(why(error)) from error
        candles, rejected = read_rows(judge(response, payload, product_id), first, last)
        _refuse_unfinished(candles, made_at(response))
        return Page(first, last, payload, candles, rejected)

    def _wait_for_turn(self) -> None:
        """Keep the starts of requests apart, also those of other threads and of retries."""
        with self._pace:
            wait = self._next_start - time.monotonic()
            if wait > 0:
                self._sleep(wait)
            now = time.monotonic()
            self._last_start = min(self._last_start, now + self._patience)
            if now > self._last_start:
                raise ExchangeUnavailable(
                    f"all pages of the exchange at {self._host} were needed within {self._patience:g} s, and"
                    " it was slower; those that came are kept: run again later to go on from there"
                )
            self._next_start = now + self._min_interval


def spans(first: date, last: date, *, days: int = MAX_DAYS) -> list[tuple[date, date]]:
    """Cut the days from `first` to `last`, both included, into spans of at most `days`, the oldest first.

    Raises:
        BadSetting: `days` is not 1 to 300.
    """
    if not 1 <= days <= MAX_DAYS:
        raise BadSetting(f"a span needs 1 to {MAX_DAYS} days, not {days}")
    length = (last - first).days + 1
    return [
        (first + timedelta(days=n), first + timedelta(days=min(n + days, length) - 1))
        for n in range(0, length, days)
    ]


def _check_url(base_url: str) -> tuple[str, str]:
    """The address without a trailing slash, and its host."""
    try:
        parts = urlsplit(base_url)
        host = parts.hostname or ""
        usable = parts.scheme in ("http", "https") and host and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        usable = False
    if "@" in base_url:  # its text is shown nowhere: there may be a password in it
        raise BadSetting(
            "the exchange's address needs the form https://host, without a name or a password;"
            " correct CLOSECAST_COINBASE_URL"
        )
    if not usable or parts.query or parts.fragment:
        raise BadSetting(
            f"the exchange's address needs the form https://host, not {one_line(base_url)!r};"
            " correct CLOSECAST_COINBASE_URL"
        )
    return base_url.rstrip("/"), host


def _refuse_unfinished(candles: pd.DataFrame, made: datetime | None) -> None:
    """Do not take a candle from before its day was over by the exchange's own clock.

    It came out of a cache, or this machine's clock is wrong: the open candle looks like any other.
    """
    if made is None or candles.empty:
        return
    last = candles["day_utc"].iloc[-1].date()
    if made.date() <= last:
        raise Passing(
            f"a candle of {last} made at {made:%Y-%m-%d %H:%M} UTC by the exchange's clock, when that day was"
            " not over; compare this machine's clock"
        )


def _nobody(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _is_empty(page: Page) -> bool:
    return page.candles.empty and page.rejected.empty


def _failure(state: RetryCallState) -> str:
    return str(state.outcome.exception()) if state.outcome else ""


def _warn(what: str, came: str, state: RetryCallState, attempts: int) -> None:
    wait = state.next_action.sleep if state.next_action else 0.0
    log.warning(
        "%s: %s; asked %d of %d times, again in %.1f s", what, came, state.attempt_number, attempts, wait
    )


def _version() -> str:
    try:
        return version("closecast")
    except PackageNotFoundError:  # a source tree that is not installed
        return "0"
