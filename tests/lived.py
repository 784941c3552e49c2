"""A home in which some days have passed: forecasts under their own ids, scored, with a tracker."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from storage.core.home import Home
from tests.calibrated import CODE, LENIENT, MADE, Runs, day, made_home, quick
from tests.engines import copy_home
from tests.helpers import BTC

DAYS = 4


def key_of(runs: Runs, number: int) -> str:
    """The id of the forecast from the day of that number."""
    from tasks.forecast.publish import prediction_key

    return prediction_key(
        product_id=BTC,
        origin=day(number),
        profile=runs.recipe.name,
        data_version=runs.data(number),
        settings_version=runs.recipe.version,
        code_version=CODE,
    )


def live(runs: Runs, number: int) -> dict[str, Any]:
    """The steps of the day of that number."""
    runs.score(number)
    return runs.publish(number, key_of(runs, number), runs.choose(number).version)


@functools.cache
def _lived(folder: Path) -> Path:
    root = folder / "lived"
    copy_home(made_home(folder), root)
    runs = Runs(Home(root), quick(**LENIENT))
    for number in range(MADE, MADE + DAYS):
        live(runs, number)
    return root


def lived_runs(factory: pytest.TempPathFactory, place: Path) -> Runs:
    """A copy, in `place`, of a home with forecasts from days 600 to 603, made once a session."""
    return Runs(copy_home(_lived(factory.getbasetemp()), place), quick(**LENIENT))
