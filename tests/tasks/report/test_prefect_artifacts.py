from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tasks.prices.series import Series

from storage.core.home import Home
from storage.tables.predictions import Predictions
from storage.tables.schemas import components
from tasks.core.formatting import artifact_key
from tasks.evaluation.scoreboard import scoreboard
from tasks.report.prefect_artifacts import LAST_FORECASTS, beside, forecast_markdown, last_forecasts
from tests.helpers import BTC, NOW

FIRST = date(2020, 1, 1)
SIDES = (("lower", -1), ("upper", 1))


def row(offset: int = 0, **more: object) -> dict[str, Any]:
    texts = ("model_version", "data_version", "settings_version", "code_version")
    point_only = {f"{side}_{level}": None for side in ("lower", "upper") for level in (50, 80, 95)}
    return {
        "prediction_id": f"id-{offset}",
        "product_id": BTC,
        "origin_day": FIRST + timedelta(days=offset),
        "target_day": FIRST + timedelta(days=offset + 1),
        "horizon": 1,
        "profile": "article",
        **{name: f"{name}-{offset}" for name in texts},
        "last_close": 8000.0,
        "point": 8100.5,
        **point_only,
        "quantile_levels": None,
        "quantiles": None,
        "created_at": NOW,
        "flow_run_id": None,
        **more,
    }


def series(**more: Any) -> Series:
    given: dict[str, Any] = {
        "product_id": BTC,
        "source": "coinbase",
        "origin": FIRST,
        "data_version": "x",
        "first_day": date(2015, 7, 20),
        "days": 1626,
        "new_days": 3,
        "restated_days": 2,
        "quarantined": 1,
        "gaps": (),
    }
    return Series(**given | more)


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        (("forecast", "BTC-USD", "article"), "forecast-btc-usd-article"),
        (("Prices", "1INCH-USD"), "prices-1inch-usd"),
        (("a_b", " c.d "), "a-b-c-d"),
    ],
)
def test_keys_as_prefect_takes_them(parts: tuple[str, ...], key: str) -> None:
    assert artifact_key(*parts) == key
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key)


def test_the_markdown_says_what_and_from_what() -> None:
    text = forecast_markdown(row() | {"revision": 0}, series())
    assert text.startswith("# BTC-USD: close of 2020-01-02\n")
    assert "**8,100.50 USD** (+1.26% on the last close)" in text
    assert "| last close (2020-01-01), the naive forecast | 8,000.00 USD |" in text
    for name in ("model_version", "data_version", "settings_version", "code_version", "id-0"):
        assert name in text
    assert "1626 days, 2015-07-20 to 2020-01-01; 3 new, 2 restated, 1 quarantined." in text
    assert "Gap" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") == 3 for line in table)


def test_the_markdown_names_every_hole() -> None:
    gaps = ((date(2019, 3, 20), date(2019, 3, 31)), (date(2019, 5, 1), date(2019, 5, 1)))
    text = forecast_markdown(row() | {"revision": 2}, series(gaps=gaps))
    assert "\nHole: 2019-03-20 to 2019-03-31, 12 days." in text
    assert "\nHole: 2019-05-01 to 2019-05-01, 1 days." in text
    assert "| revision | 2 |" in text


def test_the_last_forecasts_newest_first(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    assert last_forecasts(home, BTC, "article") == []
    table = Predictions(home)
    for offset in (2, 0, 1):
        table.publish([row(offset)])
    table.publish([row(1, prediction_id="revised")])
    table.publish([row(9, product_id="ETH-USD")])
    table.publish([row(8, profile="calibrated")])
    found = last_forecasts(home, BTC, "article")
    assert [entry["prediction_id"] for entry in found] == ["id-2", "revised", "id-1", "id-0"]
    assert found[1] == {
        "target_day": "2020-01-03",
        "point": 8100.5,
        "last_close": 8000.0,
        "revision": 1,
        "model_version": "model_version-1",
        "prediction_id": "revised",
    }
    assert LAST_FORECASTS == 30


def test_intervals_baselines_warnings_and_alarms_are_shown() -> None:
    bands = {f"{side}_{level}": 8000.0 + sign * level for side, sign in SIDES for level in (50, 80, 95)}
    quantiles = [7900.0 + 10 * n for n in range(23)]
    said = row(profile="calibrated", revision=0, quantiles=quantiles, **bands)
    calm = forecast_markdown(said, series())
    assert "| 80 % | 7,920.00 USD to 8,080.00 USD |" in calm
    assert "a point without intervals" not in calm
    for word in ("Warning", "Alarm", "Scoreboard", "Beside it"):
        assert word not in calm
    missed = {"crps": 0.02, "naive_crps": 0.02, "covered_50": False, "covered_80": False, "covered_95": False}
    scores = pd.DataFrame(
        [
            {"target_day": FIRST + timedelta(days=n), "error": 1.0, "naive_error": 1.0, "pit": 0.99} | missed
            for n in range(180)
        ]
    )
    loud = forecast_markdown(said, series(), scoreboard(scores), "an old model", {"garch_t": quantiles})
    assert "**Warning:** an old model" in loud
    for level in (80, 95):
        assert loud.count(f"**Alarm:** the {level} % interval held 0.0 %") == 1
    assert "## Scoreboard" in loud
    assert "| garch_t | 8,010.00 USD | 7,930.00 USD to 8,090.00 USD |" in loud


def test_what_stands_beside_a_forecast_is_its_own(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    assert beside(home, row()) == {}
    kept = {"product_id": BTC, "component": "har_t"}
    components(home).add(
        [
            {**kept, "target_day": row(n)["target_day"], "prediction_id": f"id-{n}"}
            | {"quantiles": [float(n)] * 23}
            for n in range(2)
        ]
    )
    assert beside(home, row(1)) == {"har_t": [1.0] * 23}
