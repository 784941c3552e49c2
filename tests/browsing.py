"""What the tests in a browser share."""

from __future__ import annotations

import shutil
import time
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
NO_CHROMIUM = "no Chromium here: apt-get install chromium"
WAIT_SECONDS = 60.0
Scheme = Literal["light", "dark"]


def find_chromium() -> str | None:
    """The path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


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
