"""Another program at a home's price database: with none of our settings, on either engine."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from storage.core.home import Home


class Plain:
    """A connection that commits each statement; `?` stands for a value."""

    def __init__(self, home: Home) -> None:
        self.is_sqlite = home.database_url is None or home.database_url.startswith("sqlite")
        self.refused: tuple[type[Exception], ...] = (sqlite3.IntegrityError,)
        if self.is_sqlite:
            self._connection: Any = sqlite3.connect(home.root / "prices.db", isolation_level=None)
            return
        import psycopg

        url = sa.make_url(home.database_url or "")
        self._connection = psycopg.connect(
            host=url.host, port=url.port, user=url.username, password=url.password, dbname=url.database,
            autocommit=True,
        )  # fmt: skip
        # A text where a figure was needed is refused on the way, not by a rule of the table.
        self.refused = (psycopg.errors.IntegrityError, psycopg.errors.DataError)

    def execute(self, statement: str, values: Sequence[object] = ()) -> Any:
        """A statement's cursor."""
        if self.is_sqlite:
            return self._connection.execute(statement, values)
        return self._connection.execute(statement.replace("?", "%s") if values else statement, values or None)

    def drop_triggers(self) -> None:
        """Take away what keeps rows from being changed."""
        if self.is_sqlite:
            for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                self.execute(f"DROP TRIGGER {name}")
            return
        for table in ("candles", "series", "quarantine", "data_versions", "pages"):
            self.execute(f"DROP TRIGGER {table}_append_only ON {table}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
