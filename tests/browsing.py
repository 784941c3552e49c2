"""What the tests in a browser share."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
# It is started as root in CI, and looks up nothing on its own.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE, DESKTOP = 360, 1280
WAIT_SECONDS = 60.0
Scheme = Literal["light", "dark"]


@contextlib.contextmanager
def chromium(absent: Callable[[str], object] = sys.exit) -> Iterator[Any]:
    """An installed Chromium without a window, driven by Playwright; `absent` is told where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        absent("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class BrowserPage:
    """An open page, with the errors and the requests of its time."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def evaluate(self, expression: str, given: object = None) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.page.evaluate(expression, given)

    def until(self, expression: str, given: object = None) -> None:
        """Wait until an expression is true; Playwright's own way needs `eval`, which the page forbids."""
        end = time.monotonic() + WAIT_SECONDS
        while not self.evaluate(expression, given):
            assert time.monotonic() < end, f"never became true: {expression}"
            self.page.wait_for_timeout(50)
