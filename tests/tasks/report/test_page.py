from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from storage.core.errors import BadInput, Damaged, HomeUnusable
from storage.core.home import Home
from storage.models.registry import Models
from storage.prices.price_store import Prices
from storage.reports import Reports
from tasks.report import page as report
from tasks.report.context import ReportContext, gather, products_of
from tasks.report.page import render, render_index, report_of_run, write_report
from tasks.report.text import gaps
from tests.helpers import BTC, NOW, PROJECT, SHA, made_up, store
from tests.pages import DAY, empty_home, full_home, put_days, put_model, put_product, spoil

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}</style></title>"
TWO_MEGABYTES = 2_000_000


class Page(HTMLParser):
    """What a browser would find: tags, the text that is seen, programs."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.programs: list[str] = []
        self.seen = ""
        self._in: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._in.append(tag)
            if tag == "script":
                self.programs.append("")

    def handle_endtag(self, tag: str) -> None:
        self.seen += " "
        if tag in ("script", "style"):
            self._in.pop()

    def handle_data(self, data: str) -> None:
        if not self._in:
            self.seen += data
        elif self._in == ["script"]:
            self.programs[-1] += data

    def named(self, name: str) -> list[str]:
        return [found[name] or "" for _, found in self.tags if name in found]

    @property
    def text(self) -> str:
        return " ".join(self.seen.split())

    @property
    def figures(self) -> dict[str, Any]:
        return json.loads(self.programs[0])


def page_of(home: Home, profile: str = "calibrated", product_id: str = BTC, day: date = DAY) -> Page:
    return Page(write_report(home, product_id, profile, day=day).read_text(encoding="utf-8"))


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


def test_the_forecast_in_words(page: Page, home: Home) -> None:
    row = gather(home, BTC, "calibrated", DAY).row
    assert str(row["target_day"]) == "2020-02-25"
    assert "Close of Tuesday, 25 February 2020, in USD, at the end of the day, UTC" in page.text
    assert f"{row['point']:,.2f} USD" in page.text
    for percent in (50, 80, 95):
        low, high = row[f"lower_{percent}"], row[f"upper_{percent}"]
        assert f"{percent} % {low:,.2f} USD to {high:,.2f} USD" in page.text
    assert "Four days in five the close should lie in it, one in five outside." in page.text
    assert "its day today" in page.text


def test_what_the_model_cannot_do_stands_on_it(page: Page) -> None:
    assert "What it cannot do" in page.text
    assert "does not know whether the next close will be higher or lower" in page.text
    assert "no ground for a trade" in page.text


def facts_with(
    home: Home, *, product_id: str = BTC, profile: str = "calibrated", **changed: Any
) -> ReportContext:
    """The facts of a home with others in the model's place."""
    facts = gather(home, product_id, profile, DAY)
    return replace(facts, model=replace(facts.model, **changed))


VOLUME, RANGES = "volume", "ranges (open, high, low)"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {},
            "It knows daily prices and volumes of BTC-USD and nothing else: no news, no order book, no other",
        ),
        (
            {"left_out": (VOLUME,)},
            "It knows daily prices (open, high, low, close) of BTC-USD and nothing else",
        ),
        ({"left_out": (RANGES,)}, "It knows daily closes and volumes of BTC-USD and nothing else"),
        (
            {"left_out": (RANGES, VOLUME)},
            "It knows daily closes of BTC-USD and nothing else: no news, no order book, no other market. More"
            " than a tenth of its rows have no ranges (open, high, low) and no volume, which is left out.",
        ),
        (
            {"pooled": ("ETH-USD", "LTC-USD")},
            "nothing else: no news, no order book. Its networks were trained on the days of ETH-USD and"
            " LTC-USD as well",
        ),
    ],
)
def test_what_it_knows_is_what_it_was_made_from(home: Home, changed: dict[str, Any], said: str) -> None:
    text = Page(render(facts_with(home, **changed))).text
    assert said in text
    assert ("no other market" in text) == ("pooled" not in changed)
    assert ("volumes" in text) == (VOLUME not in changed.get("left_out", ()))


def test_lineage_of_the_stored_version_is_what_the_words_are_made_of(empty: Home) -> None:
    candles = made_up(5)
    version = store(empty, candles)
    lineage = {"columns_left_out": [VOLUME]}
    put_model(empty, data_version=version, origin_day="2019-01-05", lineage=lineage, pooled="ETH-USD,LTC-USD")
    put_days(empty, candles, version, 1)
    model = gather(empty, BTC, "calibrated", date(2019, 1, 6)).model
    assert (model.left_out, model.pooled) == ((VOLUME,), ("ETH-USD", "LTC-USD"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("coinbase", "Each run asks the exchange for them again"),
        ("sample", "The sample that comes with closecast has no row of them"),
        ("csv", "They stay until a file is read that has rows of them"),
        ("none", "Nothing fills them by itself"),
    ],
)
def test_holes_are_asked_for_where_there_is_somebody_to_ask(home: Home, source: str, said: str) -> None:
    facts = gather(home, BTC, "calibrated", DAY)
    facts = replace(facts, health=replace(facts.health, source=source))
    text = Page(render(facts)).text
    assert said in text
    assert ("again" in gaps(facts)) == (source == "coinbase")


def test_one_is_not_many(home: Home) -> None:
    facts = gather(home, BTC, "calibrated", DAY)
    assert "The one version of the model" in Page(render(facts)).text
    made = facts.past.assign(created_at=pd.Timestamp("2021-01-01", tz="UTC"))
    one = replace(facts, past=made.tail(1))
    assert "The one forecast here was made after its day was over" in Page(render(one)).text
    few = replace(facts, past=pd.concat([facts.past.head(2), made.tail(1)]))
    assert "One of 3 forecasts here was made after its day was over" in Page(render(few)).text


def test_a_cheap_coin_is_in_fixed_point(home: Home) -> None:
    facts = gather(home, BTC, "calibrated", DAY)
    row = facts.row | {"point": 0.00000673683, "last_close": 0.0000067, "lower_80": 0.0000061}
    page = Page(render(replace(facts, row=row)))
    assert "0.0000067368 USD" in page.text
    assert "0.0000061000 USD to" in page.text
    assert not re.search(r"\de-\d", page.text)
    board = replace(facts.board, spans=(replace(facts.board.spans[-1], rmse=0.00000021, mae=0.0000001),))
    assert " 0.00000021000 " in Page(render(replace(facts, board=board))).text


def test_record_scoreboard_and_baselines(page: Page) -> None:
    assert "118 forecasts scored." in page.text
    for head in ("CRPS / naive", "80 % held", "RMSE / naive", "30 days", "365 days"):
        assert head in page.text
    for method in ("har_t", "garch_t", "ewma_t", "last_close_250", "lstm"):
        assert method in page.text
    assert "no alarm is possible yet, 118 of 180 days" in page.text
    assert "made after their day was over" not in page.text


def test_calibration(page: Page) -> None:
    assert "of 10 bars lie outside of the band. All bars together differ" in page.text
    assert "The CRPS is that of the log return of the close, so it has no unit" in page.text
    assert "Over the last 90 scored days: 50 % interval: " in page.text
    assert sum(page.figures["pit"]["counts"]) == 118


def test_lineage_and_age_of_the_model(page: Page, home: Home) -> None:
    row = gather(home, BTC, "calibrated", DAY).row
    for text in (row["prediction_id"], row["data_version"], row["settings_version"], row["code_version"]):
        assert text in page.text
    assert "closecast.BTC-USD.calibrated version 1" in page.text
    assert "42 days on the origin; a warning begins after 180" in page.text


def test_the_gates_figures(copied: Home) -> None:
    assert "The gate" not in page_of(copied).text
    models = Models(copied)
    tags = {"gate": "passed: CRPS ratio 0.9912", "gate_ratio": "0.99123456", "gate_days": "180"}
    models.mark(models.version(BTC, "calibrated", "1"), tags)
    text = page_of(copied).text
    assert "passed: CRPS ratio 0.9912" in text
    assert "The gate Before this version forecast" in text
    assert "days 180 champion –" in text
    assert "ratio 0.99123 limit –" in text


def test_data_health(copied: Home) -> None:
    spoil(copied, "close is -1")
    text = page_of(copied).text
    assert "missing 3 days in 1 gap quarantined 1 row restated 1 close" in text
    assert "Holes: 20 Jan 2020 to 22 Jan 2020. They stay until a file is read that has rows of them" in text
    assert "close is -1" in text
    assert "1,234.50 USD" in text


def test_a_day_with_another_volume_alone_is_no_restated_close(copied: Home) -> None:
    row = made_up(420).iloc[[100, 101]].assign(volume=[3.0, 4.0])
    with Prices(copied) as prices:
        prices.append(BTC, row, source="csv", observed_at=NOW, payload_sha256=SHA, quarantined=pd.DataFrame())
    text = page_of(copied).text
    assert "restated 0 closes; 2 days in other figures alone" in text
    assert "First close" not in text


def test_everything_is_in_one_file_that_asks_for_nothing(page: Page, home: Home) -> None:
    path = Reports(home).page(BTC, "calibrated")
    assert path.stat().st_size < TWO_MEGABYTES
    assert page.named("src") == []
    assert all(not one.startswith(("http", "//")) for one in page.named("href"))
    assert [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "base", "form")] == []
    # Nothing that is not in the page's own programs may run, and nothing may be fetched.
    (policy,) = [found["content"] or "" for tag, found in page.tags if "http-equiv" in found]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    hashes = re.findall(r"'sha256-([^']+)'", policy)
    programs = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in page.programs[1:]]
    assert programs == hashes
    assert "unsafe-eval" not in policy


def test_the_same_home_and_day_give_the_same_bytes(home: Home) -> None:
    facts = [gather(home, BTC, "calibrated", DAY) for _ in range(2)]
    assert render(facts[0]) == render(facts[1])
    assert "1 May 2020" not in render(facts[0])
    assert "The newest close is of" not in render(facts[0])
    later = gather(home, BTC, "calibrated", date(2020, 5, 1))
    text = Page(render(later)).text
    assert "passed 66 days before this page was written" in text
    assert (
        "The newest close is of 24 Feb 2020, 67 days before this was written: the day of the newest" in text
    )
    assert "a file that goes on brings a newer one" in text


def test_every_stored_text_is_escaped(copied: Home) -> None:
    spoil(copied, EVIL)
    models = Models(copied)
    tags = dict.fromkeys(
        ("gate", "pooled", "git_commit", "training_kind", "status", "gate_ratio", "gate_days"), EVIL
    )
    models.mark(models.version(BTC, "calibrated", "1"), tags)
    candles = made_up(421)
    version = store(copied, candles)
    evil = dict.fromkeys(("prediction_id", "settings_version", "code_version"), EVIL)
    put_days(copied, candles, version, 1, **evil)
    page = page_of(copied)
    assert page.text.count(" ".join(EVIL.split())) >= 8
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 3
    assert "img" not in names
    assert "onerror" not in {name for _, found in page.tags for name in found}
    assert "7*7" in page.text


def test_a_hostile_brief_is_words_in_the_index() -> None:
    good = {"product_id": EVIL, "profile": EVIL, "target_day": "2020-01-01", "point": 2.0}
    good |= {"last_close": 1.0, "lower_80": None, "upper_80": None, "scored": 0}
    good |= {"crps_ratio": None, "held_80": EVIL, "notes": [EVIL], "page": f"javascript:{EVIL}"}
    page = Page(render_index([good, {"page": EVIL}, {**good, "notes": 5}, {**good, "last_close": 0}], DAY))
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == []
    assert page.text.count(" ".join(EVIL.split())) >= 5
    assert page.text.count("cannot be read") == 3
    assert not any(one.startswith("javascript:") for one in page.named("href"))


def test_no_forecast_yet(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    with pytest.raises(
        BadInput, match=r"none of BTC-USD by profile calibrated: make one with `closecast run"
    ):
        write_report(home, BTC, "calibrated", day=DAY)
    assert not home.reports.exists()
    assert products_of(home) == []
    assert "No forecast has a page yet" in Page(render_index([], DAY)).text


def test_one_day_and_nothing_scored(empty: Home) -> None:
    candles = made_up(5)
    version = store(empty, candles)
    put_model(empty, data_version=version, origin_day="2019-01-05")
    put_days(empty, candles, version, 1)
    page = page_of(empty, day=date(2019, 1, 6))
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
    assert "too few to say anything" in page.text


def test_the_article_alone(empty: Home) -> None:
    put_product(empty, profile="article", count=40)
    page = page_of(empty, "article")
    assert sorted(page.figures) == ["fan", "losses", "past"]
    assert page.figures["fan"]["quantiles"] == []
    assert "a point and no intervals" in page.text
    assert "the better forecast" in page.text
    assert "test RMSE 1,088.25 USD" in page.text
    pictures = [found for tag, found in page.tags if tag == "img"]
    assert len(pictures) == 3
    assert all(str(one["src"]).startswith("data:image/png;base64,") and one["alt"] for one in pictures)
    assert "38 forecasts scored" in page.text
    assert "age of the model 0 days on the origin" in page.text
    assert "Calibration" not in page.text
    assert "CRPS is that of" not in page.text
    assert "neither training nor forecast goes across missing days" in page.text
    bridged = Page(render(facts_with(empty, profile="article", bridges_gaps=True))).text
    assert "training goes across missing days" in bridged
    index = Page(Reports(empty).index.read_text()).text
    assert "none has no interval –" in index
    assert "none scored yet" not in index


def test_forecasts_made_after_their_day_are_called_so(empty: Home) -> None:
    candles = made_up(60)
    version = store(empty, candles)
    put_model(empty, data_version=version)
    put_days(empty, candles, version, 3, created_at=made_up(90)["day_utc"].iloc[-1].tz_localize("UTC"))
    text = page_of(empty).text
    assert "All 3 forecasts here were made after their day was over" in text
    assert "age of the model 0 days" in text


def test_a_revision_is_told_and_the_published_one_shown(copied: Home) -> None:
    candles = made_up(420)
    version = store(copied, candles)
    put_days(copied, candles, version, 1, prediction_id="again", point=77777.0)
    facts = gather(copied, BTC, "calibrated", DAY)
    assert facts.row["revision"] == 0
    assert "forecast again since (1 revision): the newest says 77,777.00 USD" in page_of(copied).text


def test_an_old_model_is_told(copied: Home) -> None:
    models = Models(copied)
    models.mark(models.version(BTC, "calibrated", "1"), {"origin_day": "2019-03-01"})
    assert "The model is 360 days old, more than the 180" in page_of(copied).text


def test_a_close_that_has_come_is_told(copied: Home) -> None:
    store(copied, made_up(422))
    assert "The close of this day has come, prices are stored up to 26 Feb 2020" in page_of(copied).text


def test_three_products_and_their_index(copied: Home) -> None:
    put_product(copied, "ETH-USD", count=3, seed=2)
    put_product(copied, "LTC-USD", "article", count=3, seed=3)
    found = products_of(copied)
    assert found == [(BTC, "calibrated"), ("ETH-USD", "calibrated"), ("LTC-USD", "article")]
    for product, profile in found:
        write_report(copied, product, profile, day=DAY)
    index = Page(Reports(copied).index.read_text())
    pages = ["BTC-USD.calibrated.html", "ETH-USD.calibrated.html", "LTC-USD.article.html"]
    assert [one for one in index.named("href") if one.endswith(".html")] == pages
    assert index.text.count("25 Feb 2020") == 3
    assert "118 days" in index.text
    # What a row has not is not explained, what it has is.
    assert "a point alone" in index.text
    assert "An interval says how far" in index.text
    briefs = Reports(copied).summaries()
    article = Page(render_index([one for one in briefs if one["profile"] == "article"], DAY)).text
    assert "a point alone" in article
    assert "An interval says how far" not in article
    assert "a point alone" not in Page(render_index(briefs[:1], DAY)).text
    # A page that was left is told, with what was noted on it.
    late = Page(render_index([{**briefs[0], "notes": ["Coverage alarm"]}], date(2020, 2, 27))).text
    assert "Coverage alarm 2 days past" in late


def test_a_run_writes_what_is_missing_or_new_and_nothing_else(
    copied: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports, row = Reports(copied), gather(copied, BTC, "calibrated", DAY).row
    path = reports.page(BTC, "calibrated")

    def writes(row: dict[str, Any]) -> bool:
        before = path.stat().st_mtime_ns if path.exists() else None
        report_of_run(copied, row, day=DAY)
        return path.stat().st_mtime_ns != before

    path.unlink(missing_ok=True)
    assert writes(row)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.report.page.gather", None)  # nothing is even read
        assert not writes(row)
    reports.index.unlink()
    assert writes(row)
    path.with_suffix(".json").write_text("{}")
    assert writes(row)
    # The run of the next day was ended between its row and its page.
    candles = made_up(421)
    new = put_days(copied, candles, store(copied, candles), 1)[0]
    assert writes(new)
    assert not writes(new)
    assert not writes(row)


def test_a_page_from_the_middle_of_a_run_that_fills_in_is_written_again(copied: Home) -> None:
    """All forecasts of such a run have one moment."""
    candles = made_up(423)
    last = put_days(copied, candles, store(copied, candles), 3, created_at=NOW)[-1]
    brief = Reports(copied).page(BTC, "calibrated").with_suffix(".json")
    write_report(copied, BTC, "calibrated", day=DAY)
    known = json.loads(brief.read_text())
    brief.write_text(json.dumps({**known, "forecasts": known["forecasts"] - 2}))
    report_of_run(copied, last, day=DAY)
    assert json.loads(brief.read_text())["forecasts"] == known["forecasts"]


def test_a_note_s_command_is_shown_as_one() -> None:
    said = str(report._coded("so `closecast run` <b>"))
    assert said == "so <code>closecast run</code> &lt;b&gt;"


def blocked(home: Home) -> None:
    home.reports.write_text("in the way")


def damaged(home: Home) -> None:
    next(home.models.rglob("losses.json")).write_text("{}")


@pytest.mark.parametrize(("harm", "kind"), [(blocked, HomeUnusable), (damaged, Damaged)])
def test_a_report_that_fails_says_that_the_forecast_is_kept(
    empty: Home, harm: Callable[[Home], None], kind: type[Exception]
) -> None:
    put_product(empty, count=2)
    row = gather(empty, BTC, "calibrated", DAY).row
    harm(empty)
    with pytest.raises(kind, match=r"is stored, its report is not: .*`closecast report --product BTC-USD"):
        report_of_run(empty, row, day=DAY)


def test_neither_tensorflow_nor_matplotlib_nor_prefects_server_is_loaded(home: Home) -> None:
    program = (
        "import sys; from datetime import date; from pathlib import Path\n"
        "from storage.core.home import Home\n"
        "from tasks.report.page import write_report\n"
        f"write_report(Home(Path({str(home.root)!r})), 'BTC-USD', 'calibrated', day=date(2020, 2, 25))\n"
        "assert not {'tensorflow', 'keras', 'matplotlib.pyplot', 'torch'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT, timeout=200)


def test_the_library_is_the_one_that_is_named() -> None:
    folder = PROJECT / "tasks" / "templates"
    wanted = json.loads((PROJECT / "charts" / "package.json").read_text())["dependencies"]["echarts"]
    text = (folder / "echarts.min.js").read_text(encoding="ascii")
    assert text.startswith(f"/*! Apache ECharts {wanted}, Apache License 2.0")
    for name in ("echarts.min.js", "report.js"):
        assert not re.search(
            r"</script|<!--|\beval\(|new Function|fetch\(|XMLHttpRequest\(", (folder / name).read_text()
        )
