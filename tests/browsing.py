"""What the tests in a browser share."""

from __future__ import annotations

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
PHONE, DESKTOP = 390, 1280
WAIT_SECONDS = 60.0
Scheme = Literal["light", "dark"]


@dataclass
class WorkerCheck:
    """A page as a browser has it, and what it complained of and asked for meanwhile."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def ask(self, program: str, given: object = None) -> Any:
        """What JavaScript answers in the page."""
        return self.page.evaluate(program, given)

    def until(self, program: str, given: object = None) -> None:
        """Wait until JavaScript answers true; Playwright's own way needs `eval`, which the page forbids."""
        end = time.monotonic() + WAIT_SECONDS
        while not self.ask(program, given):
            assert time.monotonic() < end, f"never came true: {program}"
            self.page.wait_for_timeout(50)
