"""Candles as observed, the check of each, their series, quarantined rows, and the versions of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import op

if TYPE_CHECKING:
    from storage.prices.engine_base import SchemaTypes

revision = "prices_1"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("candles", "series", "quarantine", "data_versions", "pages")
OBSERVED = "source TEXT NOT NULL, observed_at TEXT NOT NULL, payload_sha256 TEXT NOT NULL"


def upgrade() -> None:
    """Make the tables, the view of the closes, and the triggers that keep each table append-only."""
    config = op.get_context().config
    assert config is not None  # noqa: S101 (env.py runs with one)
    engine = config.attributes["engine"]
    triggers = [statement for table in TABLES for statement in engine.append_only(table)]
    for statement in (*tables(engine.types), *INDEXES, CLOSES, *triggers):
        op.execute(statement)


def price_check(column: str) -> str:
    """The condition that `column` holds a finite price above zero (NULL passes a CHECK)."""
    return f"CHECK ({column} > 0 AND {column} < 1e300)"


def tables(types: SchemaTypes) -> list[str]:
    """The statements that make the tables."""
    product = f"product_id {types.text} NOT NULL CHECK ({types.product})"
    day = types.day.format(day="day_utc")
    prices = ", ".join(f"{name} {types.real} {price_check(name)}" for name in ("open", "high", "low"))
    columns = {
        "candles": f"""seq {types.seq}, {product},
  day_utc {types.text} NOT NULL CHECK ({day}),
  {prices},
  close {types.real} NOT NULL {price_check("close")},
  volume {types.real} CHECK (volume >= 0 AND volume < 1e300),
  {OBSERVED}""",
        "series": f"""seq {types.seq}, {product},
  source TEXT NOT NULL,
  after_candle_seq {types.integer} NOT NULL,
  started_at TEXT NOT NULL""",
        "quarantine": f"""seq {types.seq}, {product},
  day_utc {types.text} CHECK ({day} OR day_utc IS NULL),
  raw TEXT NOT NULL,
  reason TEXT NOT NULL,
  {OBSERVED}""",
        "data_versions": f"""data_version TEXT NOT NULL PRIMARY KEY, {product},
  seq {types.integer} NOT NULL,
  through_day_utc {types.text} NOT NULL CHECK ({types.day.format(day="through_day_utc")}),
  rows {types.integer} NOT NULL,
  sha256 TEXT NOT NULL,
  created_at TEXT NOT NULL""",
        # A CRC-32 for each candle of a page, so that verify can name a changed one.
        "pages": f"""first_candle_seq {types.integer} NOT NULL PRIMARY KEY,
  last_candle_seq {types.integer} NOT NULL CHECK (last_candle_seq >= first_candle_seq),
  checks {types.binary} NOT NULL""",
    }
    return [f"CREATE TABLE {name} (\n  {columns[name]}\n) {types.strict}" for name in TABLES]


INDEXES = (
    "CREATE INDEX candles_newest ON candles (product_id, day_utc, seq)",
    "CREATE INDEX series_newest ON series (product_id, seq)",
    # coalesce: an index holds two NULLs to be different, and the same unreadable row would pile up.
    "CREATE UNIQUE INDEX quarantine_once"
    " ON quarantine (product_id, source, coalesce(day_utc, ''), raw, reason)",
)

# Each day's newest row of the product's newest series.
CLOSES = """CREATE VIEW closes AS
SELECT c.product_id, c.day_utc, c.close, c.open, c.high, c.low, c.volume,
       c.seq, c.source, c.observed_at
FROM series s
JOIN candles c ON c.product_id = s.product_id AND c.source = s.source AND c.seq > s.after_candle_seq
WHERE s.seq = (SELECT max(t.seq) FROM series t WHERE t.product_id = s.product_id)
  AND c.seq = (SELECT max(n.seq) FROM candles n WHERE n.product_id = c.product_id AND n.day_utc = c.day_utc)
"""
