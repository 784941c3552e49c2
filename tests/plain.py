"""Another program at a home's price database: with none of our settings, on either engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from closecast.storage.core.home import Home


class Plain:
    """A connection that commits each statement; `?` stands for a value."""

    # A text where a figure was needed is refused by PostgreSQL's driver, not by a rule of the table.
    refused = (sa.exc.IntegrityError, sa.exc.DataError)

    def __init__(self, home: Home) -> None:
        url = home.database_url or f"sqlite:///{home.root / 'prices.db'}"
        self.is_sqlite = url.startswith("sqlite")
        self._engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        self._connection = self._engine.connect()

    def execute(self, statement: str, values: Sequence[object] = ()) -> Any:
        if values and not self.is_sqlite:
            statement = statement.replace("?", "%s")
        return self._connection.exec_driver_sql(statement, tuple(values) or None)

    def drop_triggers(self) -> None:
        """Take away what keeps rows from being changed."""
        if self.is_sqlite:
            for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                self.execute(f"DROP TRIGGER {name}")
            return
        for table in ("candles", "series", "quarantine", "data_versions", "pages"):
            self.execute(f"DROP TRIGGER {table}_append_only ON {table}")

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()
