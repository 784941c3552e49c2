"""What a person does between the runs, where no command is needed to see it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from closecast.flows.actions import require_horizon, score_forecasts, write_reports
from closecast.storage.core.errors import BadSetting, Damaged
from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.report import context, page
from tests.calibrated import candles, forecast_by_hand, quick
from tests.helpers import BTC, store


def test_a_horizon_that_a_profile_lacks_is_refused_by_those_it_has() -> None:
    profile = quick(horizons=(1, 3, 7))
    require_horizon(profile, 3)
    require_horizon(profile, 14, 1, 14)  # other settings forecast it before
    with pytest.raises(BadSetting, match=r"profile calibrated has no horizon 14, only 1, 3, 7$"):
        require_horizon(profile, 14)
    with pytest.raises(BadSetting, match=r"profile article has no horizon 7, only 1$"):
        require_horizon(ArticleProfile(), 7)


def test_the_horizon_of_a_fallback_can_be_scored(home: Home) -> None:
    version = store(home, candles())
    for horizon in (1, 9):
        made = forecast_by_hand(600, f"ahead-{horizon}", profile=quick(), horizon=horizon)
        fallback = replace(made, basis="fallback", model_version=None, data_version=version)
        Predictions(home).publish(fallback.rows())
    board = score_forecasts(home, BTC, quick().name, quick, 9)
    assert [(one.horizon, one.forecasts) for one in board.fallbacks] == [(1, 1), (9, 1)]
    assert (board.last, board.horizons) == (None, ())
    with pytest.raises(BadSetting, match=r"no horizon 10, only 1, 3, 7, 9$"):
        score_forecasts(home, BTC, quick().name, quick, 10)


def test_a_profile_is_loaded_only_for_a_forecast_that_is_due(home: Home) -> None:
    version = store(home, candles())

    def load() -> CalibratedProfile:
        raise LookupError

    assert score_forecasts(home, BTC, "calibrated", load).fallbacks == ()
    made = forecast_by_hand(600, "due", profile=quick())
    fallback = replace(made, basis="fallback", model_version=None, data_version=version)
    Predictions(home).publish(fallback.rows())
    with pytest.raises(LookupError):
        score_forecasts(home, BTC, "calibrated", load)
    board = score_forecasts(home, BTC, "calibrated", quick)
    assert [one.forecasts for one in board.fallbacks] == [1]
    assert score_forecasts(home, BTC, "calibrated", load) == board


def test_a_damaged_page_stops_none_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write(home: Home, product_id: str, profile: str, *, day: date) -> Path:
        if product_id == BTC:
            raise Damaged("losses.json is not the file that was stored")
        written.append(product_id)
        return home.reports / f"{product_id}.{profile}.html"

    pairs = [(BTC, "calibrated"), ("ETH-USD", "calibrated"), ("LTC-USD", "article")]
    monkeypatch.setattr(context, "products_with_forecasts", lambda home: pairs)
    monkeypatch.setattr(page, "write_report", write)
    home = Home(tmp_path)
    with pytest.raises(Damaged, match=r"^1 of 3 pages .* all others are: BTC-USD by calibrated: losses"):
        write_reports(home)
    assert written == ["ETH-USD", "LTC-USD"]
    assert write_reports(home, "ETH-USD") == home.reports / "ETH-USD.calibrated.html"
    with pytest.raises(Damaged, match=r"^losses"):
        write_reports(home, BTC)
