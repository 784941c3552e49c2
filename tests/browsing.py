"""What the tests in a browser share."""

from __future__ import annotations

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
Scheme = Literal["light", "dark"]


@dataclass
class Seen:
    """A page as a browser has it, and what it complained of and asked for meanwhile."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def ask(self, program: str, given: object = None) -> Any:
        """What JavaScript answers in the page."""
        return self.page.evaluate(program, given)
