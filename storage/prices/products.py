"""Which products a home knows, asked where an answer must come at once: by a shell that completes a word."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from storage.core.home import Home

if TYPE_CHECKING:
    import sqlalchemy as sa

PRODUCTS = "SELECT DISTINCT product_id FROM series ORDER BY product_id"
PATIENCE_SECONDS = 2


def stored_products(home: Home) -> list[str]:
    """The products whose closes are stored, in order; none where they cannot be read at once.

    Raises:
        BadSetting: CLOSECAST_DATABASE_URL is no address, or its driver is missing.
    """
    if home.database_url is None:
        return _in_sqlite(home.root / "prices.db")  # without SQLAlchemy, which takes longer to load
    from storage.prices.database import database_address

    url = database_address(home)
    return _in_sqlite(Path(url.database or "")) if url.get_backend_name() == "sqlite" else _in_postgresql(url)


def _in_sqlite(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        address = f"{path.resolve().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=1)) as prices:
            return [str(product_id) for (product_id,) in prices.execute(PRODUCTS)]
    except sqlite3.Error:
        return []


def _in_postgresql(url: sa.URL) -> list[str]:
    import sqlalchemy as sa

    from storage.prices.database import make_engine

    how = {
        "connect_timeout": PATIENCE_SECONDS,
        "options": f"-c statement_timeout={PATIENCE_SECONDS}s -c default_transaction_read_only=on",
    }
    engine = make_engine(url, connect_args=how)
    try:
        with engine.connect() as prices:
            return [str(product_id) for product_id in prices.scalars(sa.text(PRODUCTS))]
    except sa.exc.SQLAlchemyError:
        return []
    finally:
        engine.dispose()
