"""The report in a browser: drawn, in order, within its width, and accessible."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from closecast.storage.core.home import Home
from closecast.storage.reports import Reports
from closecast.tasks.report.page import write_report
from tests.browsing import DESKTOP, PHONE, BrowserPage, Scheme, chromium
from tests.engines import absent
from tests.helpers import BTC
from tests.pages import DAY, empty_home, put_product

pytestmark = pytest.mark.engines

Visit = Callable[..., BrowserPage]
WIDTHS = pytest.mark.parametrize("width", [PHONE, DESKTOP])
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
NAMES = ("BTC-USD.calibrated.html", "ETH-EUR.article.html", "index.html")
# A part of each chart's tooltip.
TIPS = {
    "coverage": "covered ",
    "fan": "close: ",
    "losses": "epoch",
    "past": "outcome: ",
    "pit": "expected: ",
    "width": " wide",
}
CHARTS = tuple(TIPS)
# Everything drawn in a chart with something to see: a path with a size, in a colour.
MARKS = """name => [...document.querySelectorAll(`#chart-${name} svg path, #chart-${name} svg polyline`)]
    .filter(mark => { const box = mark.getBBox(); return box.width + box.height > 0; }).length"""
TIP = """name => [...document.querySelectorAll(`#chart-${name} .tip`)]
    .filter(one => getComputedStyle(one).visibility === 'visible' && getComputedStyle(one).opacity > 0)
    .map(one => one.innerText).join(' ')"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, or the test is skipped where it is not installed."""
    with chromium(absent) as opened:
        yield opened


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., BrowserPage]]:
    """Open a file in the browser, at a width and in a theme."""
    contexts = []

    def open_page(path: Path, width: int = DESKTOP, scheme: Scheme = "light", **more: Any) -> BrowserPage:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            has_touch=width < 600,
            is_mobile=width < 600,
            **more,
        )
        contexts.append(context)
        browser_page = BrowserPage(context.new_page())
        browser_page.page.on("console", lambda line: browser_page.errors.append(f"{line.type}: {line.text}"))
        browser_page.page.on("pageerror", lambda error: browser_page.errors.append(str(error)))
        browser_page.page.on("request", lambda request: browser_page.requests.append(request.url))
        browser_page.page.goto(path.as_uri())
        return browser_page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a page of each profile and one of a cheap coin, and the index of all."""
    home = empty_home(tmp_path_factory, tmp_path_factory.mktemp("browser") / "home")
    put_product(home)
    put_product(home, "ETH-EUR", "article", count=60, seed=2)
    put_product(home, "SHIB-USD", count=60, seed=3, price=1e-9)
    write_report(home, BTC, "calibrated", day=DAY)
    write_report(home, "SHIB-USD", "calibrated", day=DAY)
    write_report(home, "ETH-EUR", "article", day=DAY)
    return home


@pytest.fixture
def report(pages: Home) -> Path:
    return Reports(pages).page(BTC, "calibrated")


def open_details(view: BrowserPage) -> None:
    for details in view.page.locator("details").all():
        details.locator("summary").click()


def middle(view: BrowserPage, name: str, across: float = 0.4) -> tuple[float, float]:
    """A point within a chart, which is brought into view."""
    canvas = view.page.locator(f"#chart-{name}")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    return box["x"] + across * box["width"], box["y"] + 0.4 * box["height"]


def labels(view: BrowserPage, name: str) -> list[str]:
    texts: list[str] = view.evaluate(
        "name => [...document.querySelectorAll(`#chart-${name} svg text`)].map(one => one.textContent)", name
    )
    return texts


@WIDTHS
@SCHEMES
def test_every_chart_and_the_next_days_are_seen_at_once(
    visit: Visit, report: Path, width: int, scheme: str
) -> None:
    view = visit(report, width, scheme)
    assert view.evaluate("document.documentElement.dataset.drawn").split() == list(CHARTS)
    for name in CHARTS:
        assert view.evaluate(MARKS, name) >= 5, name
        assert labels(view, name), name
    table = view.page.get_by_role("table", name="The next days, in USD")
    assert table.locator("tbody tr").count() == 5
    assert table.is_visible()
    assert view.errors == []
    # Nothing but the file itself was requested.
    assert view.requests == [report.as_uri()]


@WIDTHS
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wider_than_the_window(visit: Visit, pages: Home, width: int, name: str) -> None:
    view = visit(pages.reports / name, width)
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    open_details(view)
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.errors == []


def test_no_table_on_a_phone_is_wider_than_its_place(visit: Visit, pages: Home) -> None:
    for name in (*NAMES, "SHIB-USD.calibrated.html"):
        view = visit(pages.reports / name, PHONE)
        open_details(view)
        wide = """[...document.querySelectorAll('.scroll:has(table)')]
            .filter(one => one.scrollWidth > one.clientWidth).map(one => one.ariaLabel)"""
        assert view.evaluate(wide) == [], name


@WIDTHS
@SCHEMES
@pytest.mark.parametrize("name", NAMES)
def test_axe_reports_no_violation(visit: Visit, pages: Home, width: int, scheme: str, name: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    view = visit(pages.reports / name, width, scheme)
    open_details(view)
    violations = Axe().run(view.page).response["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in violations] == []


@pytest.mark.parametrize("name", CHARTS)
def test_the_pointer_shows_the_figures(visit: Visit, report: Path, name: str) -> None:
    view = visit(report)
    assert view.evaluate(TIP, name) == ""
    view.page.mouse.move(*middle(view, name))
    view.until(f"({TIP})({name!r}).length > 10")
    tip = view.evaluate(TIP, name)
    assert TIPS[name] in tip
    assert "undefined" not in tip
    assert "NaN" not in tip
    if name == "fan":
        view.page.mouse.move(*middle(view, "fan", 0.8))
        view.until(f"({TIP})('fan').includes('80 %')")
        tip = view.evaluate(TIP, "fan")
        assert re.match(r"\d+ \w+ 2020, \d+ days ahead\nmedian: [\d,.]+\n50 %: ", tip)
        assert "NaN" not in tip


def test_buttons_zoom_and_are_marked_as_pressed(visit: Visit, report: Path) -> None:
    view = visit(report)
    pressed = "name => document.querySelector(`button[data-chart=${name}][aria-pressed=true]`)?.textContent"
    assert view.evaluate(pressed, "past") == "90 days"
    before = labels(view, "past")
    view.page.locator("#figure-past button", has_text="30 days").click()
    assert view.evaluate(pressed, "past") == "30 days"
    assert labels(view, "past") != before
    view.page.locator("#figure-past button", has_text="all").click()
    assert view.evaluate(pressed, "past") == "all"
    assert any("Nov" in one for one in labels(view, "past"))
    assert view.errors == []


def test_ctrl_with_the_wheel_zooms_and_the_wheel_scrolls(visit: Visit, report: Path) -> None:
    view = visit(report)
    view.page.mouse.move(*middle(view, "past"))
    before, top = labels(view, "past"), view.evaluate("scrollY")
    view.page.mouse.wheel(0, 200)
    view.until(f"scrollY > {top}")
    assert labels(view, "past") == before
    view.page.mouse.move(*middle(view, "past"))
    view.page.keyboard.down("Control")
    view.page.mouse.wheel(0, -600)
    shown = "[...document.querySelectorAll('#chart-past svg text')].map(one => one.textContent).join()"
    view.until(f"before => {shown} !== before", ",".join(before))
    view.page.keyboard.up("Control")


def test_the_keyboard_reaches_everything_in_order_with_a_visible_focus(visit: Visit, report: Path) -> None:
    view = visit(report)
    focus = """() => { const one = document.activeElement, style = getComputedStyle(one);
        const box = one.getBoundingClientRect();
        return [one.id || one.dataset.chart || one.tagName, one.textContent.trim().slice(0, 20),
                style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2, box.top + scrollY]; }"""
    stops: list[list[Any]] = []
    for _ in range(80):
        view.page.keyboard.press("Tab")
        stops.append(view.evaluate(focus))
        if stops[-1][0] == "BODY":
            break
    stops = [one for one in stops if one[0] != "BODY"]
    assert all(visible for _, _, visible, _ in stops), stops
    names = [name for name, *_ in stops]
    assert stops[0][1] == "Skip to the forecast"
    charts = [name for name in names if name.startswith("chart-")]
    assert charts == ["chart-fan", "chart-past", "chart-width", "chart-pit", "chart-coverage", "chart-losses"]
    assert {"fan", "past"} <= set(names)  # the buttons
    assert names.count("SUMMARY") == 4
    assert [text for _, text, *_ in stops].count("CSV") == len(CHARTS)


def test_arrows_walk_through_a_chart_and_are_announced(visit: Visit, report: Path) -> None:
    view = visit(report)
    view.page.locator("#chart-past").focus()
    view.page.keyboard.press("End")
    announced = "document.getElementById('live-past').textContent"
    view.until(f"{announced}.includes('close')")
    newest = view.evaluate(announced)
    assert newest.startswith("24 Feb 2020; actual close: ")
    assert "80 %: " in newest
    view.page.keyboard.press("ArrowLeft")
    view.until(f"{announced}.startsWith('23 Feb 2020')")


def test_arrows_walk_through_each_day_ahead_and_on_to_the_closes(visit: Visit, report: Path) -> None:
    view = visit(report)
    view.page.locator("#chart-fan").focus()
    announced = "document.getElementById('live-fan').textContent"
    figures = json.loads(view.page.locator("#figures").text_content())["fan"]
    heads = ["25 Mar 2020, 30 days ahead", "2 Mar 2020, 7 days", "27 Feb 2020, 3 days", "26 Feb 2020, 2 days"]
    for head in [*heads, "25 Feb 2020, 1 day ahead"]:
        view.page.keyboard.press("ArrowLeft")
        view.until(f"{announced}.startsWith({head!r})")
        assert "; median: " in view.evaluate(announced)
        assert "; 95 %: " in view.evaluate(announced)
    # On this day the run before has a forecast, too, which was for its second day.
    low, high = (f"{figures['earlier'][name][1]:,.2f}" for name in ("lower_80", "upper_80"))
    assert view.evaluate(announced).endswith(f"; 80 % as forecast from 23 Feb: {low} to {high}")
    view.page.keyboard.press("ArrowLeft")
    view.until(f"{announced} === '24 Feb 2020; close: {figures['ahead']['last']:,.2f}'")


def test_the_fan_is_on_a_true_time_axis(visit: Visit, report: Path) -> None:
    view = visit(report)
    across = """[...document.querySelectorAll('#chart-fan svg path')]
        .filter(one => one.getAttribute('fill') === '#1f5fa8')
        .filter(one => Math.max(one.getBBox().width, one.getBBox().height) < 6)
        .map(one => one.getBoundingClientRect().x).sort((one, other) => one - other)"""
    first, second, third, seventh, last = view.evaluate(across)
    day = second - first
    assert third - second == pytest.approx(day, rel=0.02)
    assert seventh - third == pytest.approx(4 * day, rel=0.02)
    assert last - seventh == pytest.approx(23 * day, rel=0.02)
    assert view.page.locator(".mark.earlier").is_visible()


def test_the_theme_changes_while_the_page_is_open(visit: Visit, report: Path) -> None:
    view = visit(report, scheme="light")
    paint = "() => document.querySelector('#chart-fan svg').innerHTML"
    light = view.evaluate(paint)
    view.page.emulate_media(color_scheme="dark")
    view.until("light => document.querySelector('#chart-fan svg').innerHTML !== light", light)
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert view.errors == []


def test_a_window_made_narrow_keeps_its_charts_within_it(visit: Visit, report: Path) -> None:
    view = visit(report)
    view.page.set_viewport_size({"width": 420, "height": 900})
    view.until("document.querySelector('#chart-past svg').getBoundingClientRect().width < 420")
    assert view.evaluate("document.documentElement.scrollWidth") <= 420
    assert view.errors == []


def test_without_javascript_the_text_remains(visit: Visit, report: Path) -> None:
    view = visit(report, java_script_enabled=False)
    text = view.page.inner_text("body")
    assert "4 in 5: the close of 25 Feb 2020 should be between" in text
    assert "Four days in five" in text
    assert "The charts need JavaScript" in text
    # Before anything else, and no empty boxes where the charts would be.
    assert text.index("The charts need JavaScript") < text.index("Four days in five")
    assert not any(one.is_visible() for one in view.page.locator(".canvas, .tools, .key").all())


def downloaded(view: BrowserPage, name: str) -> tuple[str, list[dict[str, str]]]:
    """The name and the rows of the file that a chart's button saves."""
    with view.page.expect_download() as info:
        view.page.locator(f"button[data-csv={name}]").click()
    with Path(info.value.path()).open(encoding="utf-8", newline="") as file:
        return info.value.suggested_filename, list(csv.DictReader(file))


def test_the_figures_of_each_chart_are_saved_as_csv_without_a_server(visit: Visit, report: Path) -> None:
    view = visit(report)
    figures = json.loads(view.page.locator("#figures").text_content())
    rows = {}
    for name in CHARTS:
        file, rows[name] = downloaded(view, name)
        assert file == f"BTC-USD.calibrated.2020-02-25.{name}.csv"
        assert rows[name]
        assert None not in rows[name][0]  # no cell without a head
    past, ahead = figures["past"], figures["fan"]["ahead"]
    assert [row["day"] for row in rows["past"]] == past["days"]
    for name in ("point", "lower_80", "close"):
        assert [float(row[name]) for row in rows["past"]] == past[name]
    assert {row["covered_80"] for row in rows["past"]} == {"true", "false"}
    forecasts = [row for row in rows["fan"] if row["series"] == "forecast from 2020-02-24"]
    assert [row["day"] for row in forecasts] == ahead["days"]
    assert [float(row["upper_95"]) for row in forecasts] == ahead["upper_95"]
    assert "" in {row["close_or_median"] for row in rows["fan"] if row["series"] == "close"}  # the gap
    assert [row["network"] for row in rows["losses"]] == ["network 1"] * 3 + ["network 2"] * 2
    assert rows["losses"][1]["validation_loss"] == ""
    assert [float(row["closes"]) for row in rows["pit"]] == figures["pit"]["counts"]
    assert view.requests == [report.as_uri()]
    assert view.errors == []


@WIDTHS
def test_a_cheap_coins_labels_lie_within_their_charts(visit: Visit, pages: Home, width: int) -> None:
    view = visit(Reports(pages).page("SHIB-USD", "calibrated"), width)
    for name in ("fan", "past"):
        beyond = view.evaluate(
            """name => { const box = document.querySelector(`#chart-${name} svg`).getBoundingClientRect();
            return [...document.querySelectorAll(`#chart-${name} svg text`)].filter(one => {
                const it = one.getBoundingClientRect();
                return it.left < box.left - 0.5 || it.right > box.right + 0.5;
            }).map(one => one.textContent); }""",
            name,
        )
        assert beyond == [], name
        assert not any("e-" in one for one in labels(view, name))
    figures = json.loads(view.page.locator("#figures").text_content())["fan"]
    last = f"{figures['ahead']['point'][-1]:.{figures['decimals']}f}"
    assert last.startswith("0.00000")
    assert last in labels(view, "fan")


@pytest.mark.parametrize(
    ("now", "note"),
    [
        ("2020-02-25T23:59:00Z", None),
        (
            "2020-02-26T00:01:00Z",
            "This page is 1 day old, and the first day of its forecast is over. The next run",
        ),
        (
            "2020-03-01T12:00:00Z",
            "This page is 5 days old, and the first day of its forecast is over. If runs",
        ),
    ],
)
def test_an_old_page_is_marked_by_the_readers_clock(
    visit: Visit, report: Path, now: str, note: str | None
) -> None:
    view = visit(report, timezone_id="Pacific/Auckland")
    view.page.clock.set_fixed_time(now)
    view.page.reload()
    shown = view.page.locator("#old")
    assert shown.count() == (1 if note else 0)
    assert view.page.get_by_role("note").count() == shown.count()
    if note:
        assert shown.inner_text().startswith(note)
    assert view.errors == []


@pytest.mark.parametrize(("media", "width"), [("screen", DESKTOP), ("print", 700)])
def test_the_scoreboard_is_shown_and_printed_whole(
    visit: Visit, report: Path, media: str, width: int
) -> None:
    view = visit(report, width)
    view.page.emulate_media(media=media)
    wide = "one => [one.clientWidth, one.scrollWidth, getComputedStyle(one).overflowX]"
    for box in view.page.locator("#scores .scroll").all():
        shown, needed, overflow = box.evaluate(wide)
        assert needed <= shown
        assert media == "screen" or overflow == "visible"


def test_no_axis_repeats_a_label(visit: Visit, tmp_path: Path, report: Path) -> None:
    html = report.read_text(encoding="utf-8")
    before, tag, rest = html.partition('id="figures">')
    figures, end, after = rest.partition("</script>")
    changed = json.loads(figures)
    close = {"training": [1.4712, 1.4698], "validation": [1.4731, 1.4722]}
    changed["losses"] = {"networks": [{"name": "network", "best": 2, **close}]}
    page = tmp_path / "page.html"
    page.write_text(before + tag + json.dumps(changed) + end + after, encoding="utf-8")
    view = visit(page)
    axis = [one for one in labels(view, "losses") if "." in one]
    assert len(axis) >= 4
    assert len(set(axis)) == len(axis)


def test_the_coverage_begins_at_the_lowest_point(visit: Visit, report: Path) -> None:
    view = visit(report)
    figures = json.loads(view.page.locator("#figures").text_content())["coverage"]
    lowest = min(min(figures[f"{kind}_50"]) for kind in ("running", "lower"))
    shown = min(int(one.removesuffix(" %")) for one in labels(view, "coverage") if one.endswith(" %"))
    assert shown == math.floor(10 * lowest) * 10


def test_an_injected_script_does_not_run(visit: Visit, report: Path, tmp_path: Path) -> None:
    """Even where escaping would fail, the page's policy lets no other program run and fetches nothing."""
    evil = (
        "<script>document.title = 'owned'</script><img src='http://127.0.0.1:9/x' onerror='document.title=1'>"
    )
    page = tmp_path / "page.html"
    page.write_text(report.read_text(encoding="utf-8").replace("<main", f"{evil}<main", 1), encoding="utf-8")
    view = visit(page)
    assert view.page.title().startswith("BTC-USD: forecast")
    assert any("Content Security Policy" in one for one in view.errors)
    assert view.evaluate("document.documentElement.dataset.drawn").split() == list(CHARTS)


def test_the_article_shows_its_three_figures(visit: Visit, pages: Home) -> None:
    view = visit(Reports(pages).page("ETH-EUR", "article"))
    assert view.evaluate("document.documentElement.dataset.drawn") == "fan losses past"
    assert (
        view.evaluate("[...document.images].map(one => one.naturalWidth > 0 && one.alt.length > 20)")
        == [True] * 3
    )
    assert view.errors == []


def test_the_index_leads_to_the_pages(visit: Visit, pages: Home) -> None:
    view = visit(Reports(pages).index)
    view.page.get_by_role("link", name="BTC-USD").click()
    assert view.page.title().startswith("BTC-USD: forecast")
    view.page.get_by_role("link", name="closecast").click()
    assert view.page.title() == "closecast: all forecasts"
