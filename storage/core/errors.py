"""Every error that closecast raises on purpose.

Drawn as one tree::

    ClosecastError
    ├── BadInput                what was given cannot be used
    │   ├── BadProduct          a product id of the wrong form, or one that the exchange does not know
    │   ├── BadDay              a day in the future, before the listing, or malformed
    │   ├── BadFile             a file that is missing, empty, foreign or contradicts itself
    │   ├── BadSetting          an unknown profile, a misspelt setting, a value out of range
    │   ├── BadQuery            SQL that cannot be answered, or that is more than one SELECT
    │   └── SourceMismatch      prices of a second source for a product that has one
    ├── NotEnoughHistory        fewer consecutive days than the model needs
    ├── StaleSeries             the origin's day is missing from the closes
    ├── NotReproduced           a forecast that was made again came out otherwise
    ├── ProductsFailed          some of several products have no forecast
    ├── PrefectUnavailable      no Prefect server is named, or it does not answer
    ├── ClusterUnusable         no Dask scheduler answers, or its workers cannot do the work
    ├── ExchangeError           the exchange
    │   ├── ExchangeRefused     said no, and would say it again (4xx)
    │   └── ExchangeUnavailable did not give an answer that can be used, however often asked
    └── StorageError            the home
        ├── HomeUnusable        cannot be written, or holds a file where a folder should be
        ├── HomeBusy            is held by another run for longer than is worth waiting
        └── Damaged             holds something whose hash is not the recorded one

Each message is one line: what was needed, what came, what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class ClosecastError(Exception):
    """The base of everything raised on purpose; its text is fit for a terminal."""


class BadInput(ClosecastError):
    """What was given cannot be used."""


class BadProduct(BadInput):
    """A product id of the wrong form, or one that the exchange does not know."""


class BadDay(BadInput):
    """A day in the future, before the listing, or malformed."""


class BadFile(BadInput):
    """A file that is missing, empty, foreign or contradicts itself."""


class BadSetting(BadInput):
    """An unknown profile, a misspelt setting, a value out of range."""


class BadQuery(BadInput):
    """SQL that cannot be answered, or that is more than one SELECT."""


class SourceMismatch(BadInput):
    """Prices of a second source for a product that already has one."""


class NotEnoughHistory(ClosecastError):
    """Fewer consecutive days than the model needs."""


class StaleSeries(ClosecastError):
    """The origin's day is missing from the closes."""


class NotReproduced(ClosecastError):
    """A forecast that was made again came out otherwise."""


class ProductsFailed(ClosecastError):
    """Some of several products have no forecast; the text names each with its reason.

    Attributes:
        made: the forecasts of the others.
    """

    def __init__(self, message: str, made: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.made = tuple(made)


class PrefectUnavailable(ClosecastError):
    """No Prefect server is named, or it does not answer."""


class ClusterUnusable(ClosecastError):
    """No Dask scheduler answers, or its workers cannot do the work."""


class ExchangeError(ClosecastError):
    """The exchange gave no prices."""


class ExchangeRefused(ExchangeError):
    """The exchange said no, and would say it again."""


class ExchangeUnavailable(ExchangeError):
    """The exchange gave no answer that can be used, however often it was asked."""


class StorageError(ClosecastError):
    """The home cannot be used."""


class HomeUnusable(StorageError):
    """The home cannot be written, or holds a file where a folder should be."""


class HomeBusy(StorageError):
    """Another run holds the product for longer than is worth waiting."""


class Damaged(StorageError):
    """Something stored does not have the hash that was recorded for it."""
