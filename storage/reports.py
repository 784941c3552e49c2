"""The reports of a home: a page for each product and profile, its account of itself, an index of all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.core.errors import BadSetting, HomeUnusable
from storage.core.files import check_no_links, fsync_folder, write_atomic
from storage.core.home import Home, check_product_id
from storage.locks.locks import reports_lock

INDEX = "index.html"
PROFILE = re.compile(r"[a-z][a-z0-9-]{0,31}")
# Of a page's own account of itself; a larger one is somebody else's file.
MAX_BYTES = 65_536


class Reports:
    """`reports/PRODUCT.PROFILE.html`, a `.json` beside each that the index is made from, and `index.html`."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.folder = home.reports

    @property
    def index(self) -> Path:
        """The page over all the others."""
        return self.folder / INDEX

    def page(self, product_id: str, profile: str) -> Path:
        """Where the page of a product and profile lies, or would.

        Raises:
            BadProduct, BadSetting: a name that could lead elsewhere.
        """
        if not PROFILE.fullmatch(profile):
            raise BadSetting(f"a profile is named in small letters, such as calibrated, not {profile!r:.60}")
        return self.folder / f"{check_product_id(product_id)}.{profile}.html"

    def brief(self, product_id: str, profile: str) -> dict[str, Any]:
        """What the page says of itself; nothing when it or the index is not there or cannot be read."""
        page = self.page(product_id, profile)
        return _brief(page.with_suffix(".json")) if page.is_file() and self.index.is_file() else {}

    def write(
        self,
        product_id: str,
        profile: str,
        *,
        page: str,
        brief: Mapping[str, object],
        index_of: Callable[[Sequence[Mapping[str, Any]]], str],
    ) -> Path:
        """Put a page in its place, then its account of itself, then the index made anew from all of them.

        Args:
            product_id: of the page.
            profile: of the page.
            page: HTML.
            brief: what the index says of it, plain figures and texts.
            index_of: makes the index's HTML from every page's brief, by name; `page` is added to each.

        Returns:
            The page's path.

        Raises:
            HomeUnusable: the folder cannot be written, or a link lies in the way.
            HomeBusy: others write the index all the time.
        """
        path = self.page(product_id, profile)
        check_no_links(path, path.with_suffix(".json"), self.index)
        try:
            self.folder.mkdir(exist_ok=True)
            self._home.locks.mkdir(exist_ok=True)
        except OSError as error:
            raise HomeUnusable(
                f"the folder {self.folder} cannot be made: {error.strerror or error}; make room or rights"
            ) from error
        write_atomic(path, page.encode())
        text = json.dumps(dict(brief), indent=1, sort_keys=True, allow_nan=False)
        write_atomic(path.with_suffix(".json"), f"{text}\n".encode())
        with reports_lock(self._home):
            write_atomic(self.index, index_of(self.briefs()).encode())
        fsync_folder(self._home.root)
        return path

    def briefs(self) -> list[dict[str, Any]]:
        """What each page says of itself, by its name; of one that cannot be read, its name alone."""
        found = []
        for path in sorted(self.folder.glob("*.html")):
            if path.name == INDEX or path.name.startswith("."):
                continue
            found.append({**_brief(path.with_suffix(".json")), "page": path.name})
        return found


def _brief(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        # The index is of what can be told; the page itself may be whole.
        return {}
    return content if isinstance(content, dict) else {}
