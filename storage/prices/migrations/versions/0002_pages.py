"""A check of each candle, so that a changed one can be named: a row for each page that was stored."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; candles that were stored before have no check of their own."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    integer, binary, strict = ("INTEGER", "BLOB", "STRICT") if sqlite else ("BIGINT", "BYTEA", "")
    op.execute(f"""CREATE TABLE pages (
  first_candle_seq {integer} NOT NULL PRIMARY KEY,
  last_candle_seq {integer} NOT NULL CHECK (last_candle_seq >= first_candle_seq),
  checks {binary} NOT NULL
) {strict}""")
    if not sqlite:
        op.execute(
            "CREATE TRIGGER pages_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON pages"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER pages_no_{verb.lower()} BEFORE {verb} ON pages"
            " BEGIN SELECT RAISE(ABORT, 'pages is append-only'); END"
        )
