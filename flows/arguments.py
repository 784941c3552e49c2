"""Arguments of the Python functions, checked as the command line checks its options."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import pandas as pd

from closecast.flows.cli.options import check_span, parse_day
from closecast.storage.core.errors import BadDay, BadSetting
from closecast.storage.core.files import absolute_path

# pandas' Timestamp is a datetime.
Day: TypeAlias = date | datetime | np.datetime64 | str
Folder: TypeAlias = str | os.PathLike[str]


def parse_any_day(value: Day | None) -> date | None:
    """A UTC day from a date, a moment at its midnight, or text such as 2019-10-17; else `BadDay`."""
    if value is None or type(value) is date:
        return value
    if isinstance(value, str):
        return parse_day(value)
    if not isinstance(value, date | np.datetime64) or pd.isna(value):
        raise BadDay(f"a day is needed, such as a date or '2019-10-17', not {value!r:.60}")
    if isinstance(value, np.datetime64) and np.datetime_data(value)[0] in "YM":
        raise BadDay(f"a day is needed, not the month or year {value}")
    moment = pd.Timestamp(value)
    if moment.utcoffset() or moment != moment.normalize():
        raise BadDay(f"a UTC day is needed, not the moment {moment}: take its date in UTC")
    return moment.date()


def parse_span(first: Day | None, last: Day | None) -> tuple[date | None, date | None]:
    """The first and the last day; `BadDay` where one is none, or the last is before the first."""
    return check_span(parse_any_day(first), parse_any_day(last))


def check_path(name: str, value: Folder | None) -> Path | None:
    """A path, with `~` as the user's folder; raises `BadSetting` for anything else."""
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(text, str) or not text:
        raise BadSetting(f"{name} needs a path, not {value!r:.60}")
    return absolute_path(text) if text.startswith("~") else Path(text)


def check_text(name: str, value: str | None) -> str | None:
    """A text or None; raises `BadSetting` for anything else."""
    if value is not None and not isinstance(value, str):
        raise BadSetting(f"{name} needs a text, not {value!r:.60}")
    return value


def check_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings by name; raises `BadSetting` for anything else."""
    if not isinstance(settings or {}, Mapping) or not all(isinstance(name, str) for name in settings or ()):
        raise BadSetting(f'settings need names with values, such as {{"members": 5}}, not {settings!r:.60}')
    return dict(settings or {})


def check_whole(name: str, value: SupportsIndex, low: int = 1, high: int | None = None) -> int:
    """A whole number within the limits; raises `BadSetting` for anything else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if number < low or (high is not None and number > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise BadSetting(f"{name} needs a whole number {limits}, not {value!r:.60}")
    return number


def check_horizon(horizon: SupportsIndex | None) -> int | None:
    """Days ahead, one or more, or None for every horizon."""
    return None if horizon is None else check_whole("horizon", horizon)
