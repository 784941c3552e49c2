"""The report as a browser shows it: drawn, in order, within its width, and for everybody."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.core.home import Home
from storage.reports import Reports
from tests.browsing import DESKTOP, PHONE, WorkerCheck
from tests.helpers import BTC

pytestmark = pytest.mark.engines

Look = Callable[..., WorkerCheck]
WIDTHS = pytest.mark.parametrize("width", [PHONE, DESKTOP])
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
PAGES = pytest.mark.parametrize("name", ["BTC-USD.calibrated.html", "ETH-USD.article.html", "index.html"])
CHARTS = ("coverage", "fan", "losses", "past", "pit")
# Everything drawn in a chart with something to see: a path with a size, in a colour.
MARKS = """name => [...document.querySelectorAll(`#chart-${name} svg path, #chart-${name} svg polyline`)]
    .filter(mark => { const box = mark.getBBox(); return box.width + box.height > 0; }).length"""
TIP = """name => [...document.querySelectorAll(`#chart-${name} .tip`)]
    .filter(one => getComputedStyle(one).visibility === 'visible' && getComputedStyle(one).opacity > 0)
    .map(one => one.innerText).join(' ')"""


@pytest.fixture
def report(pages: Home) -> Path:
    return Reports(pages).page(BTC, "calibrated")


def middle(seen: WorkerCheck, name: str, across: float = 0.4) -> tuple[float, float]:
    """A point within a chart, which is brought into view."""
    canvas = seen.page.locator(f"#chart-{name}")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    return box["x"] + across * box["width"], box["y"] + 0.4 * box["height"]


def zoom_of(seen: WorkerCheck, name: str) -> list[str]:
    """The days that a chart's axis names."""
    said: list[str] = seen.ask(
        "name => [...document.querySelectorAll(`#chart-${name} svg text`)].map(one => one.textContent)", name
    )
    return said


@WIDTHS
@SCHEMES
def test_every_chart_is_drawn_without_a_complaint(look: Look, report: Path, width: int, scheme: str) -> None:
    seen = look(report, width, scheme)
    assert seen.ask("document.documentElement.dataset.drawn").split() == list(CHARTS)
    for name in CHARTS:
        assert seen.ask(MARKS, name) >= 5, name
        assert zoom_of(seen, name), name
    assert seen.complaints == []
    # Nothing but the file itself was asked for.
    assert seen.requests == [report.as_uri()]


@WIDTHS
@PAGES
def test_nothing_is_wider_than_the_window(look: Look, pages: Home, width: int, name: str) -> None:
    seen = look(pages.reports / name, width)
    assert seen.ask("document.documentElement.scrollWidth") <= width
    for details in seen.page.locator("details").all():
        details.locator("summary").click()
    assert seen.ask("document.documentElement.scrollWidth") <= width
    assert seen.complaints == []


@WIDTHS
@SCHEMES
@PAGES
def test_axe_finds_nothing(look: Look, pages: Home, width: int, scheme: str, name: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    seen = look(pages.reports / name, width, scheme)
    for details in seen.page.locator("details").all():
        details.locator("summary").click()
    found = Axe().run(seen.page).response["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found] == []


@pytest.mark.parametrize("name", CHARTS)
def test_the_pointer_brings_up_the_figures(look: Look, report: Path, name: str) -> None:
    seen = look(report)
    assert seen.ask(TIP, name) == ""
    seen.page.mouse.move(*middle(seen, name))
    seen.until(f"({TIP})({name!r}).length > 10")
    said = seen.ask(TIP, name)
    wanted = {
        "fan": "close: ",
        "past": "it came: ",
        "pit": "expected: ",
        "coverage": "held ",
        "losses": "epoch",
    }
    assert wanted[name] in said
    assert "undefined" not in said
    assert "NaN" not in said


def test_the_fan_tells_its_intervals(look: Look, report: Path) -> None:
    seen = look(report)
    seen.page.mouse.move(*middle(seen, "fan", 0.8))
    seen.until(f"({TIP})('fan').includes('80 %')")
    assert "25 Feb 2020, forecast" in seen.ask(TIP, "fan")


def test_buttons_zoom_and_say_which_is_on(look: Look, report: Path) -> None:
    seen = look(report)
    pressed = "name => document.querySelector(`button[data-chart=${name}][aria-pressed=true]`)?.textContent"
    assert seen.ask(pressed, "past") == "90 days"
    before = zoom_of(seen, "past")
    seen.page.locator("#figure-past button", has_text="30 days").click()
    assert seen.ask(pressed, "past") == "30 days"
    assert zoom_of(seen, "past") != before
    seen.page.locator("#figure-past button", has_text="all").click()
    assert seen.ask(pressed, "past") == "all"
    assert any("Nov" in one for one in zoom_of(seen, "past"))
    assert seen.complaints == []


def test_ctrl_and_the_wheel_zoom_and_the_wheel_alone_scrolls(look: Look, report: Path) -> None:
    seen = look(report)
    seen.page.mouse.move(*middle(seen, "past"))
    before, top = zoom_of(seen, "past"), seen.ask("scrollY")
    seen.page.mouse.wheel(0, 200)
    seen.until(f"scrollY > {top}")
    assert zoom_of(seen, "past") == before
    seen.page.mouse.move(*middle(seen, "past"))
    seen.page.keyboard.down("Control")
    seen.page.mouse.wheel(0, -600)
    shown = "[...document.querySelectorAll('#chart-past svg text')].map(one => one.textContent).join()"
    seen.until(f"before => {shown} !== before", ",".join(before))
    seen.page.keyboard.up("Control")


def test_the_keyboard_reaches_everything_in_order_and_is_seen(look: Look, report: Path) -> None:
    seen = look(report)
    focus = """() => { const one = document.activeElement, style = getComputedStyle(one);
        const box = one.getBoundingClientRect();
        return [one.id || one.dataset.chart || one.tagName, one.textContent.trim().slice(0, 20),
                style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2, box.top + scrollY]; }"""
    stops: list[list[Any]] = []
    for _ in range(60):
        seen.page.keyboard.press("Tab")
        stops.append(seen.ask(focus))
        if stops[-1][0] == "BODY":
            break
    stops = [one for one in stops if one[0] != "BODY"]
    assert all(visible for _, _, visible, _ in stops), stops
    names = [name for name, *_ in stops]
    assert stops[0][1] == "Skip to the forecast"
    charts = [name for name in names if name.startswith("chart-")]
    assert charts == ["chart-fan", "chart-past", "chart-pit", "chart-coverage", "chart-losses"]
    assert {"fan", "past"} <= set(names)  # the buttons
    assert names.count("SUMMARY") == 4


def test_arrows_walk_through_a_chart_and_a_screen_reader_is_told(look: Look, report: Path) -> None:
    seen = look(report)
    seen.page.locator("#chart-past").focus()
    seen.page.keyboard.press("End")
    said = "document.getElementById('said-past').textContent"
    seen.until(f"{said}.includes('close')")
    newest = seen.ask(said)
    assert newest.startswith("24 Feb 2020; close: ")
    assert "80 %: " in newest
    seen.page.keyboard.press("ArrowLeft")
    seen.until(f"{said}.startsWith('23 Feb 2020')")
    seen.page.locator("#chart-fan").focus()
    seen.page.keyboard.press("End")
    seen.until("document.getElementById('said-fan').textContent.includes('forecast')")


def test_the_theme_changes_while_the_page_is_open(look: Look, report: Path) -> None:
    seen = look(report, scheme="light")
    paint = "() => document.querySelector('#chart-fan svg').innerHTML"
    light = seen.ask(paint)
    seen.page.emulate_media(color_scheme="dark")
    seen.until("light => document.querySelector('#chart-fan svg').innerHTML !== light", light)
    assert seen.ask("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert seen.complaints == []


def test_a_window_made_narrow_keeps_its_charts_within_it(look: Look, report: Path) -> None:
    seen = look(report)
    seen.page.set_viewport_size({"width": 420, "height": 900})
    seen.until("document.querySelector('#chart-past svg').getBoundingClientRect().width < 420")
    assert seen.ask("document.documentElement.scrollWidth") <= 420
    assert seen.complaints == []


def test_without_javascript_the_page_tells_the_same(look: Look, report: Path) -> None:
    seen = look(report, java_script_enabled=False)
    text = seen.page.inner_text("body")
    assert "Four days in five" in text
    assert "The charts need JavaScript" in text
    # Said before anything else, and no empty boxes where the charts would be.
    assert text.index("The charts need JavaScript") < text.index("Four days in five")
    assert not any(one.is_visible() for one in seen.page.locator(".canvas, .zoom, .key").all())


@WIDTHS
def test_a_cheap_coins_labels_lie_within_their_charts(look: Look, pages: Home, width: int) -> None:
    seen = look(Reports(pages).page("SHIB-USD", "calibrated"), width)
    for name in ("fan", "past"):
        beyond = seen.ask(
            """name => { const box = document.querySelector(`#chart-${name} svg`).getBoundingClientRect();
            return [...document.querySelectorAll(`#chart-${name} svg text`)].filter(one => {
                const it = one.getBoundingClientRect();
                return it.left < box.left - 0.5 || it.right > box.right + 0.5;
            }).map(one => one.textContent); }""",
            name,
        )
        assert beyond == [], name
        assert not any("e-" in one for one in zoom_of(seen, name))
    point = seen.page.locator(".figure").inner_text().removesuffix(" USD")
    assert point.startswith("0.00000")
    assert point in zoom_of(seen, "fan")


def test_the_fan_says_the_figures_of_the_page(look: Look, report: Path) -> None:
    seen = look(report)
    assert seen.page.locator(".figure").inner_text().removesuffix(" USD") in zoom_of(seen, "fan")


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("2020-02-25T23:59:00Z", None),
        ("2020-02-26T00:01:00Z", "This page is 1 day old, and the day of its forecast is over. The next run"),
        (
            "2020-03-01T12:00:00Z",
            "This page is 5 days old, and the day of its forecast is over. If it should",
        ),
    ],
)
def test_a_page_that_was_left_says_so_by_the_readers_clock(
    look: Look, report: Path, now: str, said: str | None
) -> None:
    seen = look(report, timezone_id="Pacific/Auckland")
    seen.page.clock.set_fixed_time(now)
    seen.page.reload()
    note = seen.page.locator("#old")
    assert note.is_visible() == (said is not None)
    assert note.inner_text().startswith(said or "") if said else note.text_content() == ""
    assert seen.complaints == []


def test_the_scoreboard_is_printed_whole(look: Look, report: Path) -> None:
    seen = look(report, 700)
    seen.page.emulate_media(media="print")
    wide = "one => [one.clientWidth, one.scrollWidth, getComputedStyle(one).overflowX]"
    for box in seen.page.locator("#scores .scroll").all():
        shown, needed, overflow = box.evaluate(wide)
        assert overflow == "visible"
        assert needed <= shown


def test_no_axis_says_the_same_twice(look: Look, tmp_path: Path, report: Path) -> None:
    html = report.read_text(encoding="utf-8")
    before, tag, rest = html.partition('id="figures">')
    figures, end, after = rest.partition("</script>")
    told = json.loads(figures)
    close = {"training": [1.4712, 1.4698], "validation": [1.4731, 1.4722]}
    told["losses"] = {"members": [{"name": "network", "best": 2, **close}]}
    page = tmp_path / "page.html"
    page.write_text(before + tag + json.dumps(told) + end + after, encoding="utf-8")
    seen = look(page)
    axis = [one for one in zoom_of(seen, "losses") if "." in one]
    assert len(axis) >= 4
    assert len(set(axis)) == len(axis)


def test_the_coverage_begins_at_the_lowest_point(look: Look, report: Path) -> None:
    seen = look(report)
    figures = json.loads(seen.page.locator("#figures").text_content())["coverage"]
    lowest = min(min(figures[f"{kind}_50"]) for kind in ("running", "lower"))
    shown = min(int(one.removesuffix(" %")) for one in zoom_of(seen, "coverage") if one.endswith(" %"))
    assert shown == math.floor(10 * lowest) * 10


def test_what_is_injected_does_not_run(look: Look, report: Path, tmp_path: Path) -> None:
    """Even where escaping would fail, the page's policy lets no other program run and fetches nothing."""
    evil = (
        "<script>document.title = 'owned'</script><img src='http://127.0.0.1:9/x' onerror='document.title=1'>"
    )
    page = tmp_path / "page.html"
    page.write_text(report.read_text(encoding="utf-8").replace("<main", f"{evil}<main", 1), encoding="utf-8")
    seen = look(page)
    assert seen.page.title().startswith("BTC-USD: forecast")
    assert any("Content Security Policy" in one for one in seen.complaints)
    assert seen.ask("document.documentElement.dataset.drawn").split() == list(CHARTS)


def test_the_article_shows_its_three_figures(look: Look, pages: Home) -> None:
    seen = look(Reports(pages).page("ETH-USD", "article"))
    assert seen.ask("document.documentElement.dataset.drawn") == "fan losses past"
    assert (
        seen.ask("[...document.images].map(one => one.naturalWidth > 0 && one.alt.length > 20)") == [True] * 3
    )
    assert seen.complaints == []


def test_the_index_leads_to_the_pages(look: Look, pages: Home) -> None:
    seen = look(Reports(pages).index)
    seen.page.get_by_role("link", name="BTC-USD").click()
    assert seen.page.title().startswith("BTC-USD: forecast")
    seen.page.get_by_role("link", name="closecast").click()
    assert seen.page.title() == "closecast: all forecasts"
