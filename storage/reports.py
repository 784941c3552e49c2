"""The reports of a home: a page for each product and profile with a summary beside it, and an index."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.core.errors import BadSetting
from storage.core.files import check_no_links, fsync_folder, make_folder, write_atomic
from storage.core.home import Home, check_product_id
from storage.locks.locks import reports_lock

INDEX = "index.html"
PROFILE = re.compile(r"[a-z][a-z0-9_]{0,31}")
# Of a page's summary; a larger file is somebody else's.
MAX_BYTES = 65_536


class Reports:
    """`reports/PRODUCT.PROFILE.html`, a `.json` beside each that the index is made from, and `index.html`."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.folder = home.reports
        self.index = home.reports / INDEX

    def page(self, product_id: str, profile: str) -> Path:
        """The path of a page, whether it exists or not; BadInput for a name that could lead elsewhere."""
        if not PROFILE.fullmatch(profile):
            raise BadSetting(f"a profile is named in small letters, such as calibrated, not {profile!r:.60}")
        return self.folder / f"{check_product_id(product_id)}.{profile}.html"

    def summary(self, product_id: str, profile: str) -> dict[str, Any]:
        """The summary of a page; empty when page, index or summary is missing or cannot be read."""
        page = self.page(product_id, profile)
        return _summary(page) if page.is_file() and self.index.is_file() else {}

    def summaries(self) -> list[dict[str, Any]]:
        """Each page's summary with its file name as `page`, by name; of an unreadable one `page` alone."""
        pages = (path for path in sorted(self.folder.glob("[!.]*.html")) if path.name != INDEX)
        return [{**_summary(path), "page": path.name} for path in pages]

    def write(
        self,
        product_id: str,
        profile: str,
        *,
        page: str,
        summary: Mapping[str, object],
        render_index: Callable[[Sequence[Mapping[str, Any]]], str],
    ) -> Path:
        """Write a page's HTML, its summary, and the index of all pages; returns the page's path.

        `render_index` makes the index's HTML from `summaries`.
        """
        path = self.page(product_id, profile)
        check_no_links(path, path.with_suffix(".json"), self.index)
        make_folder(self.folder)
        make_folder(self._home.locks)
        write_atomic(path, page.encode())
        text = json.dumps(dict(summary), indent=1, sort_keys=True, allow_nan=False)
        write_atomic(path.with_suffix(".json"), f"{text}\n".encode())
        with reports_lock(self._home):
            write_atomic(self.index, render_index(self.summaries()).encode())
        fsync_folder(self._home.root)
        return path


def _summary(page: Path) -> dict[str, Any]:
    try:
        with page.with_suffix(".json").open("rb") as file:
            content = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):  # the page itself may be whole
        return {}
    return content if isinstance(content, dict) else {}
