"""Every error that closecast raises on purpose, as one tree.

Each message is one line: what was needed, what was found, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Self

from closecast.storage.core.masking import masked


def did_you_mean(name: str, names: Iterable[str], *, similarity: float = 0.6) -> str:
    """A hint at the closest of the names that is at least so similar, or nothing."""
    closest = difflib.get_close_matches(name, list(names), n=1, cutoff=similarity)
    return f" (did you mean {closest[0]}?)" if closest else ""


def reason_of(error: BaseException) -> str:
    """The system's words for an error, without its number and file; else the error's own text."""
    return str(getattr(error, "strerror", None) or error)


class ClosecastError(Exception):
    """The base of the tree; its text is fit for a terminal, and addresses in it are masked."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(masked(one) if isinstance(one, str) else one for one in arguments))


class BadInput(ClosecastError):
    """The input cannot be used."""


class BadProduct(BadInput):
    """A product id of the wrong form, or unknown to the exchange."""


class BadDay(BadInput):
    """A day in the future, before the listing, or malformed."""


class BadFile(BadInput):
    """A file that is missing, empty, foreign or contradicts itself."""


class BadSetting(BadInput):
    """An unknown profile, a misspelt setting, a value out of range."""


class BadQuery(BadInput):
    """SQL that fails, or that is more than one SELECT."""


class SourceMismatch(BadInput):
    """Prices of a second source for a product that already has one."""


class NotEnoughHistory(ClosecastError):
    """Fewer consecutive days than the model needs."""


class StaleSeries(ClosecastError):
    """The origin's day is missing from the closes."""


class NotReproduced(ClosecastError):
    """A forecast computed again has other figures."""


class ProductsFailed(ClosecastError):
    """Some of several products have no forecast; the text names each with its reason.

    Attributes:
        forecasts: the ids of the other products' forecasts.
    """

    def __init__(self, message: str, forecasts: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.forecasts = tuple(forecasts)


class PrefectUnavailable(ClosecastError):
    """No Prefect server is named, or it does not respond."""

    @classmethod
    def of_server(cls, address: str) -> Self:
        """That the configured server is down, hangs, or is no server of Prefect's."""
        return cls(f"the Prefect server at {address} does not respond: start it, or correct PREFECT_API_URL")

    @classmethod
    def of_temporary_server(cls, reason: str = "") -> Self:
        """That the temporary server of a run did not come up."""
        return cls(
            f"Prefect's temporary server did not come up {reason}".rstrip()
            + ": set PREFECT_API_URL to a server that runs, or"
            " PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS to more seconds; `prefect server start`"
            " shows what stops it"
        )


class ClusterUnusable(ClosecastError):
    """No Dask scheduler responds, or its workers cannot do the work."""


class WorkerLost(ClosecastError):
    """A worker process of this machine was killed."""


class ExchangeError(ClosecastError):
    """The exchange gave no prices."""


class ExchangeRefused(ExchangeError):
    """The exchange refused the request, and would again."""


class ExchangeUnavailable(ExchangeError):
    """The exchange sent no usable response, however often it was asked."""


class StorageError(ClosecastError):
    """The home cannot be used."""


class HomeUnusable(StorageError):
    """The home cannot be written, or holds a file where a folder should be."""


class HomeBusy(StorageError):
    """Another run holds the product or the tables for too long."""


class Damaged(StorageError):
    """Stored data does not have its recorded hash."""
