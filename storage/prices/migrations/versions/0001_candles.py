"""Candles as observed, their series, what was quarantined, and the versions of the data."""

from __future__ import annotations

from itertools import product

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("candles", "series", "quarantine", "data_versions")

# What differs between the two databases; everything else below is common SQL.
SQLITE = {
    "seq": "INTEGER PRIMARY KEY",
    "text": "TEXT",
    "integer": "INTEGER",
    "real": "REAL",
    "strict": "STRICT",
    "product": "product_id GLOB '[A-Z0-9]*-[A-Z0-9]*' AND product_id NOT GLOB '*[^A-Z0-9-]*'"
    " AND product_id NOT GLOB '*-*-*' AND length(product_id) <= 33",
    # Adding nothing turns 02-30 into 03-01, so a day that is none differs from what comes out.
    "day": "{} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]' AND date({}, '+0 days') IS {}",
}
POSTGRESQL = {
    "seq": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    # In the order of the bytes, as SQLite has it, whatever the database's own language is.
    "text": 'TEXT COLLATE "C"',
    "integer": "BIGINT",
    "real": "DOUBLE PRECISION",
    "strict": "",
    "product": "product_id ~ '^[A-Z0-9]{1,16}-[A-Z0-9]{1,16}$'",
    "day": "{} ~ '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}$' AND to_char({}::date, 'YYYY-MM-DD') = {}",
}


def upgrade() -> None:
    """Make the tables, the view of the closes, and the triggers that keep what was written."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    words = SQLITE if sqlite else POSTGRESQL
    make_tables(words)
    make_view()
    if sqlite:
        keep_sqlite()
    else:
        keep_postgresql()


def day_form(words: dict[str, str], column: str) -> str:
    """The condition that `column` holds a day as YYYY-MM-DD."""
    return words["day"].format(column, column, column)


def price_form(column: str) -> str:
    """The condition that `column` holds a finite price above zero (NULL passes a CHECK)."""
    return f"{column} > 0 AND {column} < 1e300"


def make_tables(words: dict[str, str]) -> None:
    """The four tables; every one is only ever added to."""
    prices = "".join(
        f"\n  {name} {words['real']} CHECK ({price_form(f'{name}')})," for name in ("open", "high", "low")
    )
    op.execute(f"""CREATE TABLE candles (
  seq {words["seq"]},
  product_id {words["text"]} NOT NULL CHECK ({words["product"]}),
  day_utc {words["text"]} NOT NULL CHECK ({day_form(words, "day_utc")}),{prices}
  close {words["real"]} NOT NULL CHECK ({price_form("close")}),
  volume {words["real"]} CHECK (volume >= 0 AND volume < 1e300),
  source TEXT NOT NULL,
  observed_at TEXT NOT NULL,
  payload_sha256 TEXT NOT NULL
) {words["strict"]}""")
    op.execute("CREATE INDEX candles_newest ON candles (product_id, day_utc, seq)")
    op.execute(f"""CREATE TABLE series (
  seq {words["seq"]},
  product_id {words["text"]} NOT NULL CHECK ({words["product"]}),
  source TEXT NOT NULL,
  after_candle_seq {words["integer"]} NOT NULL,
  started_at TEXT NOT NULL
) {words["strict"]}""")
    op.execute("CREATE INDEX series_newest ON series (product_id, seq)")
    op.execute(f"""CREATE TABLE quarantine (
  seq {words["seq"]},
  product_id {words["text"]} NOT NULL CHECK ({words["product"]}),
  day_utc {words["text"]} CHECK ({day_form(words, "day_utc")} OR day_utc IS NULL),
  raw TEXT NOT NULL,
  reason TEXT NOT NULL,
  source TEXT NOT NULL,
  observed_at TEXT NOT NULL,
  payload_sha256 TEXT NOT NULL
) {words["strict"]}""")
    # coalesce: an index holds two NULLs to be different, and the same unreadable row would pile up.
    op.execute(
        "CREATE UNIQUE INDEX quarantine_once"
        " ON quarantine (product_id, source, coalesce(day_utc, ''), raw, reason)"
    )
    op.execute(f"""CREATE TABLE data_versions (
  data_version TEXT NOT NULL PRIMARY KEY,
  product_id {words["text"]} NOT NULL CHECK ({words["product"]}),
  seq {words["integer"]} NOT NULL,
  through_day_utc {words["text"]} NOT NULL CHECK ({day_form(words, "through_day_utc")}),
  rows {words["integer"]} NOT NULL,
  sha256 TEXT NOT NULL,
  created_at TEXT NOT NULL
) {words["strict"]}""")


def make_view() -> None:
    """`closes`: each day's newest row of the product's newest series."""
    op.execute("""CREATE VIEW closes AS
SELECT c.product_id, c.day_utc, c.close, c.open, c.high, c.low, c.volume,
       c.seq, c.source, c.observed_at
FROM series s
JOIN candles c ON c.product_id = s.product_id AND c.source = s.source AND c.seq > s.after_candle_seq
WHERE s.seq = (SELECT max(t.seq) FROM series t WHERE t.product_id = s.product_id)
  AND c.seq = (SELECT max(n.seq) FROM candles n WHERE n.product_id = c.product_id AND n.day_utc = c.day_utc)
""")


def keep_sqlite() -> None:
    """Refuse UPDATE and DELETE on the tables of SQLite."""
    for table, verb in product(TABLES, ("UPDATE", "DELETE")):
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table}"
            f" BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )


def keep_postgresql() -> None:
    """Refuse UPDATE, DELETE and TRUNCATE on the tables of PostgreSQL."""
    op.execute("""CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE integrity_constraint_violation USING MESSAGE = TG_TABLE_NAME || ' is append-only'; END $$""")
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
