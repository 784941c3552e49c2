from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storage.core.errors import BadInput, Damaged, HomeUnusable
from storage.core.home import Home
from storage.models.registry import Models
from storage.prices.price_store import Prices
from storage.reports import Reports
from tasks.core.forecast import Forecast
from tasks.evaluation.components import ComponentComparison
from tasks.profiles.baselines import BASELINES
from tasks.report.context import products_with_forecasts, read_context
from tasks.report.page import render, render_index, write_page, write_report
from tasks.report.text import component_name
from tests.helpers import BTC, NOW, PROJECT, SHA, made_up, modules_after, store
from tests.pages import (
    DAY,
    HORIZONS,
    empty_home,
    full_home,
    lineage,
    put_forecasts,
    put_model,
    put_product,
    spoil,
)

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}</style></title>"
TWO_MEGABYTES = 2_000_000


class Page(HTMLParser):
    """A page as a browser reads it: tags, visible text, scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._text = ""
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open.append(tag)
            if tag == "script":
                self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._text += " "
        if tag in ("script", "style"):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open:
            self._text += data
        elif self._open == ["script"]:
            self.scripts[-1] += data

    def attributes(self, name: str) -> list[str]:
        return [given[name] or "" for _, given in self.tags if name in given]

    @property
    def text(self) -> str:
        return " ".join(self._text.split())

    @property
    def figures(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


def page_of(home: Home, profile: str = "calibrated", product_id: str = BTC, day: date = DAY) -> Page:
    return Page(write_report(home, product_id, profile, day=day).read_text(encoding="utf-8"))


def put_newer(home: Home, days: int = 421, **changed: Any) -> Forecast:
    """A forecast from more days, or another one of the same day."""
    candles = made_up(days)
    return put_forecasts(home, candles, store(home, candles), 1, **changed)[-1]


def mark(home: Home, **tags: str) -> None:
    models = Models(home)
    models.mark(models.version(BTC, "calibrated", "1"), tags)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return full_home(tmp_path_factory, tmp_path_factory.mktemp("report") / "home")


@pytest.fixture(scope="module")
def page(home: Home) -> Page:
    return page_of(home)


@pytest.fixture
def empty(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Home:
    return empty_home(tmp_path_factory, tmp_path / "empty")


@pytest.fixture
def copied(home: Home, tmp_path: Path) -> Home:
    shutil.copytree(home.root, tmp_path / "copy")
    return Home(tmp_path / "copy")


def put_five_days(home: Home, **changed: Any) -> Page:
    """Five closes and a forecast without an outcome, by a model of that lineage; their page."""
    version = store(home, made_up(5))
    put_model(home, replace(lineage(version, date(2019, 1, 5)), **changed))
    put_forecasts(home, made_up(5), version, 1)
    return page_of(home, day=date(2019, 1, 6))


def test_the_forecast_its_intervals_and_its_lineage(page: Page, home: Home) -> None:
    context = read_context(home, BTC, "calibrated", DAY)
    forecast, tags = context.forecast, context.model.lineage.tags()
    for percent in (50, 80, 95):
        low, high = forecast.first.interval(percent) or (0.0, 0.0)
        assert f"{percent} % {low:,.2f} USD to {high:,.2f} USD" in page.text
    versions = dict(forecast.version_summary()).values()
    for text in (f"{forecast.first.point:,.2f} USD", *versions, *tags.values()):
        assert text == "none" or text in page.text
    assert sum(page.figures["pit"]["counts"]) == 118


@pytest.mark.parametrize(
    "text",
    [
        "Close of Tuesday, 25 February 2020, in USD, at the end of the day, UTC",
        "target day today",
        "Four days in five the close should lie in it, one in five outside.",
        "does not know whether the next close will be higher or lower",
        "no ground for a trade",
        "118 forecasts of the next day scored.",
        "at the end of the day, UTC; and the days ahead up to 25 Mar 2020",
        "80 % interval and median as forecast from 23 Feb 2020",
        "Between 3, 7 and 30 days ahead nothing is forecast: straight lines lead across.",
        "The next days, in USD Day Days ahead Median 80 % 95 % 25 Feb 1 ",
        "the close of each of these days may be, each day for itself: not the way there.",
        "days ahead forecasts CRPS / naive CRPS / best baseline 50 % covered 80 % covered 90 % covered 95 %",
        "over h days, n of them count as n / h in the ranges of coverage",
        "They are the losses of its twin, trained without the newest 180 days, which the gate judges.",
        "model's twin trained through 2019-07-17",
        "forecasts CRPS / naive CRPS / best baseline 50 % covered 80 % covered 95 % covered RMSE",
        "HAR volatility with a memory of 120 days, weekday and Student t",
        "Against the best baseline, ",
        "the model alone, before mixing and tracking",
        "no alarm is possible yet, 118 of 180 days",
        "The CRPS is that of the log return of the close, so it has no unit",
        "of 10 bars lie outside the band. All bars together differ",
        "Over the last 90 scored days: 50 % interval: ",
        "42 days on the origin; a warning begins after 180",
    ],
)
def test_sentences_of_the_page(page: Page, text: str) -> None:
    assert text in page.text


def test_the_next_days_are_a_table(page: Page, home: Home) -> None:
    horizons = read_context(home, BTC, "calibrated", DAY).forecast.horizons
    assert [one.horizon for one in horizons] == list(HORIZONS)
    for one in horizons:
        (low, high), (lowest, highest) = (one.interval(percent) or (0.0, 0.0) for percent in (80, 95))
        day = f"{one.target_day.day} {one.target_day:%b}"
        ends = f"{low:,.2f} to {high:,.2f} {lowest:,.2f} to {highest:,.2f}"
        assert f"{day} {one.horizon} {one.point:,.2f} {ends}" in page.text


def test_a_single_day_is_no_fan(copied: Home) -> None:
    put_newer(copied, horizons=(1,))
    page = page_of(copied)
    assert len(page.figures["fan"]["ahead"]["days"]) == 1
    assert "for one day: not the way there, nor any later day" in page.text
    assert "The next days" not in page.text
    # The run of the day before forecast further.
    assert "as forecast from 24 Feb 2020" in page.text


@pytest.mark.parametrize(
    ("component", "sentence"),
    [
        ("har_120_t", "No best baseline has a drift"),
        (
            "har_120_t_drift",
            "Such a one is the best 7, 30 days ahead: there, part of what is gained on naive",
        ),
    ],
)
def test_a_best_baseline_with_a_drift_is_pointed_out(home: Home, component: str, sentence: str) -> None:
    context = read_context(home, BTC, "calibrated", DAY)
    horizons = [
        replace(
            one,
            best_baseline=ComponentComparison(
                component if one.horizon > 3 else "har_120_t", 99, 0.1, 0.9, 0.01
            ),
        )
        for one in context.board.horizons
    ]
    page = Page(render(replace(context, board=replace(context.board, horizons=tuple(horizons)))))
    assert sentence in page.text
    assert f"({component}, p 0.01)" in page.text


def test_every_baseline_has_words() -> None:
    names = {component_name(baseline) for baseline in BASELINES}
    assert len(names) == len(BASELINES)
    assert component_name("har_120_t_drift").endswith(
        "Student t, moved by the mean return of all days before"
    )


def test_notes_of_an_old_page_and_an_old_model(copied: Home) -> None:
    context = read_context(copied, BTC, "calibrated", date(2020, 5, 1))
    old = Page(render(replace(context, model=replace(context.model, age_days=360)))).text
    assert "over 66 days before this page was written" in old
    assert "The newest close is of 24 Feb 2020, 67 days before this page was written: the first day of" in old
    assert "closecast run with a file of later days forecasts on" in old
    assert "The model is 360 days old; after 180 days a successor is overdue" in old
    store(copied, made_up(422))
    assert "The close of this day is known, prices are stored up to 26 Feb 2020" in page_of(copied).text


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({}, "the daily candles of BTC-USD and nothing else: no news, no order book, no other market."),
        (
            {"columns_left_out": ("ranges (open, high, low)", "volume")},
            "More than a tenth of them have no ranges (open, high, low) and no volume, which is left out.",
        ),
        (
            {"pooled_data_versions": {"LTC-USD": "x", "ETH-USD": "y"}},
            "no order book. It was trained on the days of ETH-USD and LTC-USD as well",
        ),
    ],
)
def test_limits_name_what_the_model_was_made_from(
    empty: Home, changed: dict[str, Any], sentence: str
) -> None:
    text = put_five_days(empty, **changed).text
    assert sentence in text
    assert ("no other market" in text) == ("pooled_data_versions" not in changed)


@pytest.mark.parametrize(
    ("source", "bridges", "sentence"),
    [
        ("coinbase", False, "Each run asks the exchange for these days again, and no input goes across one."),
        ("sample", False, "The sample that comes with closecast has no row of these days, and no input"),
        ("csv", True, "until a file with rows of these days is imported. Training goes across a gap"),
        ("other", False, "Nothing fills them by itself, and no input goes across one."),
    ],
)
def test_what_fills_a_gap_depends_on_the_source(
    home: Home, source: str, bridges: bool, sentence: str
) -> None:
    context = read_context(home, BTC, "calibrated", DAY)
    history = replace(context.history, series=f"{source}@0")
    model = replace(context.model, bridges_gaps=bridges)
    assert sentence in Page(render(replace(context, history=history, model=model))).text


@pytest.mark.parametrize(
    ("late", "forecasts", "sentence"),
    [
        (1, 1, "1 of 1 forecast here was"),
        (1, 3, "1 of 3 forecasts here was"),
        (3, 3, "3 of 3 forecasts here were"),
    ],
)
def test_forecasts_made_after_their_day_are_counted(
    home: Home, late: int, forecasts: int, sentence: str
) -> None:
    context = read_context(home, BTC, "calibrated", DAY)
    past = context.past.tail(forecasts)
    created = past["created_at"].where(np.arange(forecasts) >= late, pd.Timestamp("2021-01-01", tz="UTC"))
    some = replace(context, past=past.assign(created_at=created))
    assert f"{sentence} made after the target day was over" in Page(render(some)).text


def test_a_cheap_coin_is_in_fixed_point(empty: Home) -> None:
    put_product(empty, count=40, price=1e-9)
    context = read_context(empty, BTC, "calibrated", DAY)
    page = Page(render(context))
    assert f"{context.forecast.first.point:.10f} USD" in page.text
    assert not re.search(r"\de-\d", page.text)
    board = replace(context.board, spans=(replace(context.board.all_days, rmse=0.00000021, mae=0.0000001),))
    assert " 0.00000021000 " in Page(render(replace(context, board=board))).text


def test_the_gates_figures(copied: Home) -> None:
    assert "The gate" not in page_of(copied).text
    mark(copied, gate="passed: CRPS ratio 0.9912", gate_ratio="0.99123456", gate_days="180")
    text = page_of(copied).text
    assert "passed: CRPS ratio 0.9912" in text
    assert (
        "Before this version became champion, its twin, trained without the newest 180 days, had to" in text
    )
    assert "days 180 champion –" in text
    assert "ratio 0.99123 limit –" in text


def test_data_health(copied: Home) -> None:
    spoil(copied, "close is -1")
    other_volume = made_up(420).iloc[[101, 102]].assign(volume=[3.0, 4.0])
    with Prices(copied) as prices:
        prices.append(BTC, other_volume, source="csv", observed_at=NOW, payload_sha256=SHA)
    text = page_of(copied).text
    assert "missing 3 days in 1 gap quarantined 1 row restated 1 close; 2 days in other figures alone" in text
    assert "Gaps: 20 Jan 2020 to 22 Jan 2020. They stay until a file with rows of these days" in text
    assert "close is -1" in text
    assert " 1,234.50 " in text


def test_the_page_is_one_file_that_fetches_nothing(page: Page, home: Home) -> None:
    context = read_context(home, BTC, "calibrated", DAY)
    assert render(context) == render(read_context(home, BTC, "calibrated", DAY))  # to the byte
    assert Reports(home).page(BTC, "calibrated").stat().st_size < TWO_MEGABYTES
    assert page.attributes("src") == []
    assert not any(address.startswith(("http", "//")) for address in page.attributes("href"))
    assert [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "base", "form")] == []
    # No script but the page's own may run, and nothing may be fetched.
    (policy,) = [given["content"] or "" for _, given in page.tags if "http-equiv" in given]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    digests = [hashlib.sha256(script.encode()).digest() for script in page.scripts[1:]]
    assert re.findall(r"'sha256-([^']+)'", policy) == [base64.b64encode(one).decode() for one in digests]
    assert "unsafe-eval" not in policy


def test_every_stored_text_is_escaped(copied: Home) -> None:
    spoil(copied, EVIL)
    mark(copied, **dict.fromkeys(("gate", "training_kind", "status", "gate_ratio", "gate_days"), EVIL))
    put_newer(copied, prediction_id=EVIL, settings_version=EVIL, code_version=EVIL)
    page = page_of(copied)
    assert page.text.count(" ".join(EVIL.split())) >= 8
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 3
    assert "img" not in names
    assert "onerror" not in {name for _, given in page.tags for name in given}
    assert "7*7" in page.text


def test_a_hostile_summary_is_plain_text_in_the_index() -> None:
    names = ("product_id", "profile", "forecast", "interval", "covered")
    good: dict[str, Any] = {**dict.fromkeys(names, EVIL), "target_day": "2020-01-01", "notes": [EVIL]}
    good |= {"forecasts": 1, "crps_ratio": None, "page": f"javascript:{EVIL}"}
    broken = [{"page": EVIL}, {**good, "notes": 5}, {**good, "forecast": {}}, {**good, "target_day": "?"}]
    page = Page(render_index([good, *broken], DAY))
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == []
    assert page.text.count(" ".join(EVIL.split())) >= 5
    assert page.text.count("cannot be read") == 4
    assert not any(address.startswith("javascript:") for address in page.attributes("href"))


def test_a_home_without_a_forecast_has_no_report(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    reason = "none of BTC-USD by profile calibrated: make one with `closecast run"
    with pytest.raises(BadInput, match=reason):
        write_report(home, BTC, "calibrated", day=DAY)
    assert not home.reports.exists()
    assert products_with_forecasts(home) == []
    assert "No forecast has a page yet" in Page(render_index([], DAY)).text


def test_one_day_and_nothing_scored(empty: Home) -> None:
    page = put_five_days(empty)
    assert sorted(page.figures) == ["fan", "losses"]
    assert len(page.figures["fan"]["days"]) == 5
    for text in ("No forecast has been scored yet", "Nothing is scored yet", "Calibration shows once"):
        assert text in page.text
    assert "none scored yet" in page.text


def test_few_scores_are_not_drawn_as_coverage(empty: Home) -> None:
    put_product(empty, count=11)
    page = page_of(empty)
    assert sorted(page.figures) == ["fan", "losses", "past", "pit"]
    assert "Drawn from 20 scored days on." in page.text
    assert "too few to tell anything" in page.text


def test_a_point_profile_has_no_intervals_and_shows_its_figures(empty: Home) -> None:
    put_product(empty, profile="article", count=40)
    page = page_of(empty, "article")
    assert sorted(page.figures) == ["fan", "losses", "past"]
    assert sorted(page.figures["fan"]["ahead"]) == ["days", "last", "origin", "point"]
    assert page.figures["fan"]["earlier"] is None
    for text in ("a point and no intervals", "38 forecasts of the next day scored", "test RMSE 1,088.25 USD"):
        assert text in page.text
    assert "age of the model 0 days on the origin" in page.text
    pictures = [given for tag, given in page.tags if tag == "img"]
    assert len(pictures) == 3
    assert all(str(one["src"]).startswith("data:image/png;base64,") and one["alt"] for one in pictures)
    for text in ("Calibration", "CRPS is that of", "The next days", "days ahead", "twin"):
        assert text not in page.text
    index = Page(Reports(empty).index.read_text()).text
    assert "none no interval –" in index
    assert "none scored yet" not in index


def test_the_published_forecast_is_shown_and_a_revision_noted(copied: Home) -> None:
    put_newer(copied, 420, prediction_id="again", point=77777.0)
    assert read_context(copied, BTC, "calibrated", DAY).forecast.first.revision == 0
    assert "forecast again (1 revision); the newest point is 77,777.00 USD" in page_of(copied).text


def test_three_products_and_their_index(copied: Home) -> None:
    put_product(copied, "ETH-USD", count=3, seed=2)
    put_product(copied, "LTC-EUR", "article", count=3, seed=3)
    pairs = products_with_forecasts(copied)
    assert pairs == [(BTC, "calibrated"), ("ETH-USD", "calibrated"), ("LTC-EUR", "article")]
    for product, profile in pairs:
        write_report(copied, product, profile, day=DAY)
    index = Page(Reports(copied).index.read_text())
    pages = ["BTC-USD.calibrated.html", "ETH-USD.calibrated.html", "LTC-EUR.article.html"]
    assert [address for address in index.attributes("href") if address.endswith(".html")] == pages
    assert index.text.count("25 Feb 2020") == 3
    assert "118 days" in index.text
    # The notes below the table explain only what is in it.
    summaries = Reports(copied).summaries()
    article = Page(render_index(summaries[2:], DAY)).text
    assert "EUR (+1.00% on the last close)" in article
    for shown, point, interval in ((index.text, True, True), (article, True, False)):
        assert ("a point alone" in shown, "An interval tells how far" in shown) == (point, interval)
    assert "a point alone" not in Page(render_index(summaries[:1], DAY)).text
    # A page that no run replaces is marked, with its notes.
    old = Page(render_index([{**summaries[0], "notes": ["Coverage alarm"]}], date(2020, 2, 27))).text
    assert "Coverage alarm 2 days old" in old


def test_a_run_writes_a_page_that_is_missing_or_out_of_date_and_no_other(
    copied: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports, context = Reports(copied), read_context(copied, BTC, "calibrated", DAY)
    path = reports.page(BTC, "calibrated")

    def writes(forecast: Forecast) -> bool:
        before = path.stat().st_mtime_ns if path.exists() else None
        write_page(copied, forecast, context.history, day=DAY)
        return path.stat().st_mtime_ns != before

    path.unlink(missing_ok=True)
    assert writes(context.forecast)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.report.page.read_context", None)  # nothing is even read
        assert not writes(context.forecast)
    reports.index.unlink()
    assert writes(context.forecast)
    path.with_suffix(".json").write_text("{}")
    assert writes(context.forecast)
    # The run of the next day was killed between its row and its page.
    newer = put_newer(copied)
    assert writes(newer)
    assert not writes(newer)
    assert not writes(context.forecast)
    # A page from the middle of a backfill, whose forecasts have one `created_at`.
    moment, candles = datetime(2020, 3, 1, tzinfo=UTC), made_up(424)
    backfilled = put_forecasts(copied, candles, store(copied, candles), 3, created_at=moment)
    assert writes(backfilled[0])
    summary = path.with_suffix(".json")
    complete = json.loads(summary.read_text())
    summary.write_text(json.dumps({**complete, "forecasts": complete["forecasts"] - 2}))
    assert writes(backfilled[-1])
    assert json.loads(summary.read_text()) == complete


@pytest.mark.parametrize("kind", [HomeUnusable, Damaged])
def test_a_report_that_fails_tells_that_the_forecast_is_stored(empty: Home, kind: type[Exception]) -> None:
    put_product(empty, count=2)
    context = read_context(empty, BTC, "calibrated", DAY)
    in_the_way = empty.reports if kind is HomeUnusable else next(empty.models.rglob("losses.json"))
    in_the_way.write_text("{}")
    with pytest.raises(kind, match=r"is stored, its report is not: .*`closecast report --product BTC-USD"):
        write_page(empty, context.forecast, context.history, day=DAY)


def test_a_page_loads_neither_tensorflow_nor_matplotlib_nor_prefect(home: Home) -> None:
    script = (
        "from datetime import date; from pathlib import Path\n"
        "from storage.core.home import Home; from tasks.report.page import write_report\n"
        f"write_report(Home(Path({str(home.root)!r})), 'BTC-USD', 'calibrated', day=date(2020, 2, 25))"
    )
    assert not {"tensorflow", "keras", "matplotlib.pyplot", "prefect"} & modules_after(script)


def test_the_charts_library_is_the_declared_version() -> None:
    folder = PROJECT / "tasks" / "report" / "templates"
    declared = json.loads((PROJECT / "charts" / "package.json").read_text())["dependencies"]["echarts"]
    library = (folder / "echarts.min.js").read_text(encoding="ascii")
    assert library.startswith(f"/*! Apache ECharts {declared}, Apache License 2.0")
    for script in (library, (folder / "report.js").read_text()):
        assert not re.search(r"</script|<!--|\beval\(|new Function|fetch\(|XMLHttpRequest\(", script)
