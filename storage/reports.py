"""The reports of a home: a page for each product and profile with a summary beside it, and an index."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from closecast.storage.core.errors import BadSetting, reason_of
from closecast.storage.core.files import check_no_links, fsync_folder, make_folder, open_file, write_atomic
from closecast.storage.core.home import PRODUCT_ID, Home, check_product_id
from closecast.storage.core.sealed import CHANGED, is_sealed_html, open_json, seal_html, seal_json
from closecast.storage.locks.locks import reports_lock

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
            raise BadSetting(
                f"a profile name in lower case is needed, such as calibrated, not {profile!r:.60}"
            )
        return self.folder / f"{check_product_id(product_id)}.{profile}.html"

    def summary(self, product_id: str, profile: str) -> dict[str, Any]:
        """The summary of a page; empty when page, index or summary is missing or cannot be read."""
        page = self.page(product_id, profile)
        return _summary(page) if page.is_file() and self.index.is_file() else {}

    def summaries(self) -> list[dict[str, Any]]:
        """Each page's summary with its file name as `page`, by name; of an unreadable one `page` alone."""
        pages = (path for path in self._files() if path.suffix == ".html" and path != self.index)
        return [{**_summary(path), "page": path.name} for path in pages]

    def _files(self) -> list[Path]:
        """Pages, summaries and the index, by name; what others put into the folder is theirs."""
        paths = [path for path in sorted(self.folder.glob("*")) if path == self.index or _is_named(path)]
        return [path for path in paths if path.exists()]  # a link may lead nowhere

    def counts(self) -> list[dict[str, Any]]:
        """Product and profile of each page, and how many forecasts of the next day it was `written` of."""
        found = ((one, one.get("forecasts")) for one in self.summaries())
        return [
            {"product_id": str(one.get("product_id")), "profile": str(one.get("profile")), "written": count}
            for one, count in found
            if isinstance(count, int)
        ]

    def write(
        self,
        product_id: str,
        profile: str,
        *,
        page: str,
        summary: Mapping[str, object],
        render_index: Callable[[Sequence[Mapping[str, Any]]], str],
    ) -> Path:
        """Write a page's HTML, its summary, and the index made from all `summaries`; the page's path."""
        path = self.page(product_id, profile)
        check_no_links(path, path.with_suffix(".json"), self.index)
        make_folder(self.folder)
        make_folder(self._home.locks)
        write_atomic(path, seal_html(page, path.stem))
        write_atomic(path.with_suffix(".json"), seal_json(dict(summary), path.stem))
        with reports_lock(self._home):
            write_atomic(self.index, seal_html(render_index(self.summaries()), self.index.stem))
        fsync_folder(self._home.root)
        return path

    def check(self, expected: Iterable[tuple[str, str]], *, written: bool = False) -> tuple[int, list[str]]:
        """Check every file; returns their number, and a line for each that is not as it was written.

        Product and profile of each page that must be there are `expected`; a home whose pages were all
        written by another machine has none of them. `written`: a table has recorded pages in this home.
        """
        files = self._files()
        findings = [line for path in files for line in _findings(path)]
        pages = {self.folder / f"{product_id}.{profile}.html" for product_id, profile in expected}
        wanted = {*pages, *(page.with_suffix(".json") for page in pages), *([self.index] if pages else [])}
        if written or (self._home.locks / "reports.lock").exists():  # a page was written here
            missing = sorted(wanted.difference(files))
            findings += [f"{path} is missing: `closecast report` writes it again" for path in missing]
        return len(files), findings


def _is_named(path: Path) -> bool:
    product_id, _, profile = path.stem.partition(".")
    is_ours = PRODUCT_ID.fullmatch(product_id) and PROFILE.fullmatch(profile)
    return bool(is_ours) and path.suffix in (".html", ".json")


def _findings(path: Path) -> Iterator[str]:
    """A line where a file is not the one that was written."""
    try:
        if path.suffix == ".json":
            open_json(_content(path), path.stem)
        elif not is_sealed_html(_content(path), path.stem):
            raise ValueError(CHANGED)
    except FileNotFoundError:  # it was deleted since
        return
    except (OSError, ValueError) as error:
        yield f"{path} cannot be trusted: {reason_of(error)}; `closecast report` writes it again"


def _content(path: Path, limit: int = -1) -> bytes:
    with open_file(path) as file:
        return file.read(limit)


def _summary(page: Path) -> dict[str, Any]:
    try:
        content = open_json(_content(page.with_suffix(".json"), MAX_BYTES), page.stem)
    except (OSError, ValueError):  # the page itself may be whole
        return {}
    return content if isinstance(content, dict) else {}
