"""Candles as observed, the check of each, their series, quarantined rows, decisions, data versions.

The tables are the current ones: a later revision that changes one writes its old form here first.
"""

from __future__ import annotations

from alembic import op

from closecast.storage.prices.schema import TABLES

revision = "prices_2"
down_revision = None
branch_labels = None
depends_on = None

CLOSES = """CREATE VIEW closes AS
SELECT c.product_id, c.day_utc, c.close, c.open, c.high, c.low, c.volume,
       c.seq, c.source, c.observed_at
FROM series s
JOIN candles c ON c.product_id = s.product_id AND c.source = s.source AND c.seq > s.after_candle_seq
WHERE s.seq = (SELECT max(t.seq) FROM series t WHERE t.product_id = s.product_id)
  AND c.seq = (SELECT max(n.seq) FROM candles n WHERE n.product_id = c.product_id AND n.day_utc = c.day_utc)
  AND coalesce((SELECT d.kind FROM price_decisions d
                WHERE d.product_id = c.product_id AND d.day_utc = c.day_utc
                  AND d.after_candle_seq > s.after_candle_seq
                ORDER BY d.seq DESC LIMIT 1), '') <> 'rejected'
"""


def upgrade() -> None:
    """Make the tables, with the triggers that keep each append-only, and the view of the closes."""
    for table in TABLES:
        table.create(op.get_bind())
    op.execute(CLOSES)
