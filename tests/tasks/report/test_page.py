from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from closecast.storage.core.errors import BadInput, Damaged, HomeUnusable
from closecast.storage.core.home import Home
from closecast.storage.core.sealed import open_json, seal_json
from closecast.storage.models.registry import Models
from closecast.storage.prices.decisions import Decision
from closecast.storage.prices.price_store import Prices
from closecast.storage.reports import Reports
from closecast.storage.tables.predictions import Predictions
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.quantiles import LEVELS
from closecast.tasks.evaluation.components import ComponentComparison
from closecast.tasks.evaluation.scoring import score_due
from closecast.tasks.prices.ingest import IngestRequest, read_stored
from closecast.tasks.profiles.named import profile_named
from closecast.tasks.report.context import ReportContext, products_with_forecasts, read_context
from closecast.tasks.report.notes import notes
from closecast.tasks.report.page import render, render_index, write_page, write_report
from closecast.tasks.report.text import headline, since_previous, verdict
from tests.helpers import BTC, NOW, PROJECT, SHA, made_up, modules_after, store
from tests.pages import (
    DAY,
    HORIZONS,
    empty_home,
    lineage,
    one_day,
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
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._text += " "

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem != "style":
            self._text += data

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
def page(full: Home) -> Page:
    return page_of(full)


@pytest.fixture
def empty(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Home:
    return empty_home(tmp_path_factory, tmp_path / "empty")


def put_five_days(home: Home, **changed: Any) -> Page:
    """Five closes and a forecast without an outcome, by a model of that lineage; their page."""
    version = store(home, made_up(5))
    put_model(home, replace(lineage(version, date(2019, 1, 5)), **changed))
    put_forecasts(home, made_up(5), version, 1)
    return page_of(home, day=date(2019, 1, 6))


def test_the_forecast_its_intervals_and_its_lineage(page: Page, context: ReportContext) -> None:
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
        "in USD, at the end of the day, UTC; and the days ahead up to 25 Mar 2020",
        "target day today",
        "80 % interval and median as forecast from 23 Feb 2020",
        "Between 3, 7 and 30 days ahead nothing is forecast; straight lines connect the dots.",
        "the close of each of these days may be, each day separately, but not the path there.",
        "days ahead forecasts CRPS / naive CRPS / best baseline 50 % covered 80 % covered 90 % covered 95 %",
        "They are the losses of its twin, trained without the newest 180 days, which the gate judges.",
        "model's twin trained through 2019-07-17",
        "forecasts CRPS / naive CRPS / best baseline 50 % covered 80 % covered 95 % covered RMSE",
        "118 forecasts of the next day scored. Their mean CRPS of the log return was ",
        " times that of the strongest baseline on these days, ",
        "since the forecast for 24 Feb median ",
        " %. The close of that day was ",
        "training loss validation loss the epoch whose weights are kept network 1 network 2",
        "the model alone, before mixing and tracking",
        "No alarm before 180 scored days, 118 so far.",
        "of 10 bars lie outside the band. All bars together differ",
        "Over the last 90 scored days: 50 % interval: ",
        "42 days on the origin; a warning begins after 180",
    ],
)
def test_sentences_of_the_page(page: Page, text: str) -> None:
    assert text in page.text


def test_the_next_days_are_a_table(page: Page, context: ReportContext) -> None:
    horizons = context.forecast.horizons
    assert [one.horizon for one in horizons] == list(HORIZONS)
    for one in horizons:
        (low, high), (lowest, highest) = (one.interval(percent) or (0.0, 0.0) for percent in (80, 95))
        day = f"{one.target_day.day} {one.target_day:%b}"
        ends = f"{low:,.2f} to {high:,.2f} {lowest:,.2f} to {highest:,.2f}"
        assert f"{day} {one.horizon} {one.point:,.2f} {ends}" in page.text


@pytest.mark.parametrize(
    ("low", "high", "ends"),
    [
        (7812.4614, 8271.4121, ("7,812", "8,271")),
        (98765.4321, 123456.789, ("98,765", "123,457")),
        (150.1234, 165.8765, ("150.1", "165.9")),
        (1.0734, 1.0892, ("1.0734", "1.0892")),
        (0.99978, 1.00031, ("0.999780", "1.000310")),
        (0.0000075931, 0.0000082004, ("0.000007593", "0.000008200")),
        (1.25, 1.25, ("1.25", "1.25")),
    ],
)
def test_the_headline_is_rounded_to_suit_the_width(
    context: ReportContext, low: float, high: float, ends: tuple[str, str]
) -> None:
    first = context.asked.first
    quantiles = tuple(low + (high - low) * (level - 0.1) / 0.8 for level in LEVELS)
    asked = replace(context.asked, last_close=low, horizons=(replace(first, quantiles=quantiles),))
    assert headline(asked) == ends
    page = Page(render(replace(context, asked=asked)))
    assert f"4 in 5: the close of 25 Feb 2020 should be between {' and '.join(ends)} USD median" in page.text


@pytest.mark.parametrize(
    ("factor", "spread", "sentence"),
    [
        (1.02, 1.0, "median +2.00 %, it was "),
        (0.98, 1.12, "; 80 % interval 12 % wider, "),
        (1.0, 0.9, "; 80 % interval 10 % narrower, "),
        (1.0, 1.001, "; 80 % interval as wide, "),
    ],
)
def test_the_change_since_the_forecast_before(
    context: ReportContext, factor: float, spread: float, sentence: str
) -> None:
    old = context.asked.first
    quantiles = tuple(factor * (old.point + (one - old.point) * spread) for one in old.quantiles or ())
    new = replace(
        context.asked,
        last_close=context.asked.last_close * factor,
        horizons=(replace(old, point=factor * old.point, quantiles=quantiles),),
    )
    changed = replace(context, asked=new, previous=context.asked)
    text = (since_previous(changed) or "").replace("\u00a0", " ")
    assert sentence in text
    assert "The close of that day" not in text  # the new forecast starts from another day
    assert since_previous(replace(context, previous=None)) is None


@pytest.mark.parametrize(
    ("ratio", "p_value", "sentence"),
    [
        (0.91234, 0.0123, "0.912 times that of the strongest baseline on these days, {}: better (p 0.012)."),
        (0.991, 0.4, ": not shown to be better (p 0.4), the difference may be chance."),
        (1.004, 0.65, ": not better (p 0.65)."),
        (1.1, 1e-20, ": worse (p < 1e-15)."),
        (1.0, None, ": no difference to test."),
    ],
)
def test_the_prose_compares_with_the_strongest_baseline(
    context: ReportContext, ratio: float, p_value: float | None, sentence: str
) -> None:
    best = ComponentComparison("garch_weekday_t", 118, 0.01, ratio, p_value)
    spans = (*context.board.spans[:-1], replace(context.board.all_days, best_baseline=best))
    page = Page(render(replace(context, board=replace(context.board, spans=spans))))
    assert verdict(replace(best, days=29, p_value=None)) == "too few days to test"
    assert sentence.format("GARCH(1,1) with weekday and Student t") in page.text


def test_a_single_day_is_no_fan(copied: Home) -> None:
    put_newer(copied, horizons=(1,))
    page = page_of(copied)
    assert len(page.figures["fan"]["ahead"]["days"]) == 1
    assert "the next one may be, but not the path there, nor any later day" in page.text
    assert "The next days" not in page.text
    # The run of the day before forecast further.
    assert "as forecast from 24 Feb 2020" in page.text


@pytest.mark.parametrize(
    ("component", "sentence"),
    [
        ("har_120_t", "No best baseline has a drift"),
        (
            "har_120_t_drift",
            "Such a baseline is the best 7 and 30 days ahead, so part of the gain on the naive forecast",
        ),
    ],
)
def test_a_best_baseline_with_a_drift_is_pointed_out(
    context: ReportContext, component: str, sentence: str
) -> None:
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


def test_notes_of_an_old_page_and_an_old_model(copied: Home) -> None:
    context = read_context(copied, BTC, "calibrated", date(2020, 5, 1))
    old = Page(render(replace(context, model=replace(context.model, age_days=360)))).text
    assert "target day 66 days before this page was written" in old
    assert "The newest close is of 24 Feb 2020, 67 days before this page was written: the first day of" in old
    assert "closecast run with a file of later days makes newer forecasts" in old
    assert "The model is 360 days old; after 180 days a successor is overdue" in old
    store(copied, made_up(422))
    assert "The close of this day is known, prices are stored up to 26 Feb 2020" in page_of(copied).text
    newer = read_context(copied, BTC, "calibrated", date(2020, 5, 1))
    assert [note.state for note in notes(newer)] == ["close known"]  # a file of later days is not needed


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({}, "the daily candles of BTC-USD and nothing else: no news, no order book, no other market."),
        (
            {"columns_left_out": ("ranges (open, high, low)", "volume")},
            "More than a tenth of them have no ranges (open, high, low) and no volume, which is left out.",
        ),
        (
            {"pooled_data_versions": {"LTC-USD": "x", "ETH-USD": "y", "SOL-USD": "z"}},
            "no order book. It was trained on the days of ETH-USD, LTC-USD and SOL-USD as well",
        ),
    ],
)
def test_limits_name_the_inputs_of_the_model(empty: Home, changed: dict[str, Any], sentence: str) -> None:
    text = put_five_days(empty, **changed).text
    assert sentence in text
    assert ("no other market" in text) == ("pooled_data_versions" not in changed)


@pytest.mark.parametrize(
    ("source", "bridges", "sentence"),
    [
        (
            "coinbase",
            False,
            "Each run asks the exchange for these days again. No price is invented for them: the",
        ),
        ("sample", False, "The sample that comes with closecast has no rows for these days. No price"),
        ("csv", True, "until a file with rows for these days is imported. Training bridges gaps"),
        ("other", False, "Nothing fills them by itself. No price is invented"),
    ],
)
def test_the_remedy_for_a_gap_depends_on_the_source(
    context: ReportContext, source: str, bridges: bool, sentence: str
) -> None:
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
    context: ReportContext, late: int, forecasts: int, sentence: str
) -> None:
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
    assert "missing 3 days in 1 gap quarantined 1 row restated 1 close; 2 days only in other figures" in text
    assert "Gaps: 20 Jan 2020 to 22 Jan 2020. They stay until a file with rows for these days" in text
    assert "close is -1" in text
    assert " 1,234.50 " in text


def test_decisions_are_listed(copied: Home) -> None:
    assert "Decided" not in page_of(copied).text
    split = Decision(date(2019, 5, 1), "split", date(2019, 6, 1), "user", 0.001)
    with Prices(copied) as prices:
        prices.decide(BTC, split, decided_at=NOW)
    text = page_of(copied).text
    assert "2019-05-01 split 0.001 2019-06-01 user 2020-" in text
    assert "; 1 decision" in text


def test_the_page_is_one_file_that_fetches_nothing(page: Page, context: ReportContext, full: Home) -> None:
    assert render(context) == render(read_context(full, BTC, "calibrated", DAY))  # to the byte
    assert Reports(full).page(BTC, "calibrated").stat().st_size < TWO_MEGABYTES
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
    names = ("product_id", "profile", "point", "change", "interval", "covered", "against_best", "run_url")
    good: dict[str, Any] = {**dict.fromkeys(names, EVIL), "target_day": "2020-01-01", "notes": [[EVIL, EVIL]]}
    good |= {"forecasts": 1, "page": f"javascript:{EVIL}"}
    broken = [{"page": EVIL}, {**good, "notes": 5}, {**good, "point": {}}, {**good, "target_day": "?"}]
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
    for text in ("No forecast has been scored yet", "Nothing is scored yet", "Calibration is shown once"):
        assert text in page.text
    assert "none scored yet" in page.text


def test_few_scores_are_not_drawn_as_coverage(empty: Home) -> None:
    put_product(empty, count=11)
    page = page_of(empty)
    assert sorted(page.figures) == ["fan", "losses", "past", "pit", "width"]
    assert "Drawn from 20 scored days on." in page.text
    assert "too few to say anything" in page.text


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
    assert "The point's RMSE was " in page.text
    assert "since the forecast for 24 Feb point " in page.text
    index = Page(Reports(empty).index.read_text()).text
    assert "none, a point" in index
    assert "none scored yet" not in index


def test_the_published_forecast_is_shown_and_a_revision_noted(copied: Home) -> None:
    put_newer(copied, 420, prediction_id="again", point=77777.0)
    assert read_context(copied, BTC, "calibrated", DAY).forecast.first.revision == 0
    assert "forecast again (1 revision); the newest point is 77,777.00 USD" in page_of(copied).text


def put_fallback(home: Home, forecast: Forecast, horizon: int) -> Forecast:
    """A fallback of the same run for a day that the model does not forecast."""
    one = one_day("further", forecast.origin_day, horizon, forecast.last_close, forecast.profile, None)
    added = replace(forecast, basis="fallback", model_version=None, horizons=(one,))
    Predictions(home).publish(added.rows())
    return added


def test_without_a_newer_close_the_page_is_headed_by_the_forecast_asked_for(copied: Home) -> None:
    before = read_context(copied, BTC, "calibrated", DAY)
    forecast, reports = before.forecast, Reports(copied)
    path = reports.page(BTC, "calibrated")
    write_report(copied, BTC, "calibrated", day=DAY)
    # A day later nothing was traded: the second row of the same run is tomorrow's forecast.
    later: Any = {"day": DAY + timedelta(days=1), "as_of": DAY}
    write_page(copied, forecast, before.history, **later)
    page, second = Page(path.read_text(encoding="utf-8")), forecast.at(2)
    assert second is not None
    assert (
        "Close of Wednesday, 26 February 2020, in USD, at the end of the day, UTC: 2 days ahead, from 24 Feb"
        in (page.text)
    )
    low, high = second.interval(80) or (0.0, 0.0)
    assert f"80 % {low:,.2f} USD to {high:,.2f} USD" in page.text
    assert f"reproduce {second.prediction_id}" in page.text
    assert "the forecast of the close 2 days after it. No price was invented" in page.text
    covered = before.board.of(2, fallback=False)
    assert f"of {covered and covered.forecasts} days" in page.text
    assert page.figures["fan"]["ahead"]["days"][0] == str(DAY)  # the run's fan stays whole
    index = Page(reports.index.read_text()).text
    assert "26 Feb 2020" in index
    assert "2 days after it" in index
    # A run that asks again writes nothing, nor does one that asks for a day before.
    written = path.stat().st_mtime_ns
    write_page(copied, forecast, before.history, **later)
    write_page(copied, forecast, before.history, day=DAY, as_of=forecast.origin_day)
    assert path.stat().st_mtime_ns == written
    # The command keeps the head; without a page it has the newest forecast's.
    assert "Close of Wednesday, 26 February 2020" in page_of(copied).text
    write_page(copied, forecast, before.history, **later)
    assert "26 Feb 2020" in Page(reports.index.read_text()).text
    path.unlink()
    assert "Close of Tuesday, 25 February 2020" in page_of(copied).text


def test_a_day_that_no_model_forecasts_is_headed_by_its_fallback(copied: Home) -> None:
    forecast = read_context(copied, BTC, "calibrated", DAY).forecast
    put_fallback(copied, forecast, 9)
    as_of = forecast.origin_day + timedelta(days=8)
    context = read_context(copied, BTC, "calibrated", as_of, target_day=as_of + timedelta(days=1))
    page = Page(render(context))
    assert "9 days ahead, from 24 Feb 2020" in page.text
    assert "a fallback, made by the baselines alone: no model forecasts 9 days ahead" in page.text
    assert "model none: a fallback, made by the baselines alone" in page.text
    assert "Covered so far: none scored yet" in page.text
    assert "which made the forecasts of the other days" in page.text
    assert "age of the model" not in page.text
    assert len(page.figures["fan"]["ahead"]["days"]) == len(HORIZONS)


def test_a_product_without_a_model_has_a_page(empty: Home) -> None:
    candles = made_up(90)
    put_forecasts(empty, candles, store(empty, candles), 10, basis="fallback")
    history = read_stored(empty, IngestRequest(BTC, None, NOW, DAY)).history
    score_due(empty, history, profile_named("calibrated"), NOW)
    page = page_of(empty)
    assert "no model could forecast from the 90 closes up to" in page.text
    assert page.text.count("Only fallbacks have been scored") == 2
    assert "Fallbacks, by days ahead" in page.text
    assert "of 9 days" in page.text  # the coverage of fallbacks of the next day
    assert sorted(page.figures) == ["fan", "past", "width"]
    for word in ("Training", "None", "Versions of the model"):
        assert word not in page.text
    assert "old closes, fallback 2 notes The newest close" in Page(Reports(empty).index.read_text()).text


def test_fallbacks_count_in_no_figure_of_the_models(copied: Home) -> None:
    before = read_context(copied, BTC, "calibrated", DAY)
    candles = made_up(424)
    put_forecasts(copied, candles, store(copied, candles), 3, basis="fallback")
    history = read_stored(copied, IngestRequest(BTC, None, NOW, date(2020, 2, 29))).history
    score_due(copied, history, profile_named("calibrated"), NOW)
    context = read_context(copied, BTC, "calibrated", DAY)
    assert (len(context.scored), before.pit and before.pit.days) == (118 + 4, 118)
    # Of the last two forecasts by models the closes are known by now.
    assert context.pit
    assert context.pit.days == 120
    assert len(context.coverage) == len(before.coverage) + 2
    assert {one.days for one in context.components} == {120}
    page = Page(render(context))
    assert "120 forecasts of the next day scored, and fallbacks separately" in page.text
    assert page.text.count("2020 fallback ") == 2


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
    assert "EUR +1.00% no interval – current" in article
    for shown, point, interval in ((index.text, True, True), (article, True, False)):
        assert ("none, a point" in shown, "An interval shows how far" in shown) == (point, interval)
    assert "none, a point" not in Page(render_index(summaries[:1], DAY)).text
    # A page that no run replaces is marked, with its notes.
    old = Page(
        render_index([{**summaries[0], "notes": [["coverage alarm", "It is."]]}], date(2020, 2, 27))
    ).text
    assert "2 days old , coverage alarm 1 note It is." in old
    assert "1 page, 1 with notes: BTC-USD calibrated . Each row shows its page as last written" in old


def test_the_notes_are_one_banner_with_the_most_urgent_first(copied: Home) -> None:
    put_newer(copied, 420, prediction_id="again")
    context = read_context(copied, BTC, "calibrated", date(2020, 5, 1))
    board = replace(context.board, alarms=("the 80 % interval covered 60.0 %",))
    model = replace(context.model, age_days=360)
    old = replace(context, board=board, model=model)
    assert [one.state for one in notes(old)] == ["old closes", "coverage alarm", "old model", "revised"]
    page = Page(render(old))
    assert [given.get("id") for _, given in page.tags if given.get("role") == "note"] == ["notes"]
    ends = [page.text.index(one.sentence.replace("`", "")[:40]) for one in notes(old)]
    assert ends == sorted(ends)
    quiet = read_context(copied, BTC, "calibrated", DAY)
    (banner,) = [
        given for _, given in Page(render(replace(quiet, revisions=()))).tags if "data-target" in given
    ]
    assert "hidden" in banner


RUN = "0192f0aa-0000-7000-8000-000000000001"


def test_a_page_links_to_the_run_of_its_forecast(copied: Home) -> None:
    forecast, path = put_newer(copied, flow_run_id=RUN), Reports(copied).page(BTC, "calibrated")
    history = read_context(copied, BTC, "calibrated", DAY).history
    as_of, address = forecast.origin_day, f"https://prefect.example/runs/flow-run/{RUN}"
    for url in (
        "https://prefect.example/runs/flow-run/another",
        address.replace("//", "//user:secret@"),
        f"{address}?key=secret",
        f"javascript:alert(1)/{RUN}",
        None,
        address,
    ):
        path.unlink(missing_ok=True)
        write_page(copied, forecast, history, day=DAY, as_of=as_of, run_url=url)
        page = Page(path.read_text(encoding="utf-8"))
        assert (url in page.attributes("href")) == (url == address)
        assert ("its run in Prefect" in page.text) == (url == address)
        assert "secret" not in page.text
    # The command knows no server, and keeps the link.
    assert address in page_of(copied).attributes("href")
    # The next forecast was made outside of Prefect.
    newer = put_newer(copied, 422)
    write_page(copied, newer, history, day=DAY, as_of=newer.origin_day)
    assert "its run in Prefect" not in path.read_text(encoding="utf-8")


def test_a_run_writes_a_page_that_is_missing_or_out_of_date_and_no_other(
    copied: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports, context = Reports(copied), read_context(copied, BTC, "calibrated", DAY)
    path = reports.page(BTC, "calibrated")

    def writes(forecast: Forecast) -> bool:
        before = path.stat().st_mtime_ns if path.exists() else None
        write_page(copied, forecast, context.history, day=DAY, as_of=forecast.origin_day)
        return path.stat().st_mtime_ns != before

    path.unlink(missing_ok=True)
    assert writes(context.forecast)
    with monkeypatch.context() as patch:
        patch.setattr("closecast.tasks.report.page.read_context", None)  # nothing is even read
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
    complete = open_json(summary.read_bytes(), path.stem)
    summary.write_bytes(seal_json({**complete, "forecasts": complete["forecasts"] - 2}, path.stem))
    assert writes(backfilled[-1])
    assert open_json(summary.read_bytes(), path.stem) == complete


@pytest.mark.parametrize("kind", [HomeUnusable, Damaged])
def test_a_report_that_fails_tells_that_the_forecast_is_stored(empty: Home, kind: type[Exception]) -> None:
    put_product(empty, count=2)
    context = read_context(empty, BTC, "calibrated", DAY)
    in_the_way = empty.reports if kind is HomeUnusable else next(empty.models.rglob("losses.json"))
    in_the_way.write_text("{}")
    with pytest.raises(kind, match=r"is stored, its report is not: .*`closecast report --product BTC-USD"):
        write_page(empty, context.forecast, context.history, day=DAY, as_of=context.forecast.origin_day)


def test_a_page_loads_neither_tensorflow_nor_matplotlib_nor_prefect(full: Home) -> None:
    script = (
        "from datetime import date; from pathlib import Path\n"
        "from closecast.storage.core.home import Home; from closecast.tasks.report.page import write_report\n"
        f"write_report(Home(Path({str(full.root)!r})), 'BTC-USD', 'calibrated', day=date(2020, 2, 25))"
    )
    assert not {"tensorflow", "keras", "matplotlib.pyplot", "prefect"} & modules_after(script)


def test_the_charts_library_is_the_declared_version() -> None:
    folder = PROJECT / "tasks" / "report" / "templates"
    declared = json.loads((PROJECT / "charts" / "package.json").read_text())["dependencies"]["echarts"]
    library = (folder / "echarts.min.js").read_text(encoding="ascii")
    assert library.startswith(f"/*! Apache ECharts {declared}, Apache License 2.0")
    for script in (library, (folder / "report.js").read_text()):
        assert not re.search(r"</script|<!--|\beval\(|new Function|fetch\(|XMLHttpRequest\(", script)
