"""Which products a home knows, asked where an answer must come at once: by a shell that completes a word."""

from __future__ import annotations

import contextlib
import sqlite3

from storage.home import Home


def stored_products(home: Home) -> list[str]:
    """The products whose closes lie in the home's SQLite, in order; none where they cannot be read."""
    path = home.root / "prices.db"
    if home.database_url is not None or not path.is_file():
        return []
    try:
        address = f"{path.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=1)) as prices:
            rows = prices.execute("SELECT DISTINCT product_id FROM series ORDER BY product_id")
            return [str(product_id) for (product_id,) in rows]
    except sqlite3.Error:
        return []
