"""A real Chromium, where one is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.core.home import Home
from tasks.report.page import write_report
from tests.browsing import DESKTOP, FLAGS, NO_CHROMIUM, BrowserPage, Scheme, find_chromium
from tests.helpers import BTC
from tests.pages import DAY, empty_home, put_product


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, driven by Playwright."""
    path = find_chromium()
    if path is None:
        fail = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        fail(NO_CHROMIUM)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield chromium
        chromium.close()


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


@pytest.fixture(scope="session")
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
