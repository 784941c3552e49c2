"""The tables of the price database, on either engine. A column of the same name has the same type in each."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import SchemaItem

from closecast.storage.core.candle_schema import COMMENTS, FIGURES, PRICE_VIEWS, PRICES

# From here on a figure is refused; no price is near it.
TOO_LARGE = 1e300
PRICE = f"VALUE > 0 AND VALUE < {TOO_LARGE}"
# Adding nothing turns 02-30 into 03-01, so an impossible day differs from the result.
DAY = "VALUE GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]' AND date(VALUE, '+0 days') IS VALUE"
DAY_POSTGRESQL = "VALUE ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' AND to_char(VALUE::date, 'YYYY-MM-DD') = VALUE"
# By column and dialect; a condition that is not known, for a NULL, counts as met.
CHECKS: dict[str, dict[str | None, str]] = {
    "product_id": {
        "sqlite": "VALUE GLOB '[A-Z0-9]*-[A-Z0-9]*' AND VALUE NOT GLOB '*[^A-Z0-9-]*'"
        " AND VALUE NOT GLOB '*-*-*' AND length(VALUE) <= 33",
        "postgresql": "VALUE ~ '^[A-Z0-9]{1,16}-[A-Z0-9]{1,16}$'",
    },
    "day_utc": {"sqlite": DAY, "postgresql": DAY_POSTGRESQL},
    "through_day_utc": {"sqlite": DAY, "postgresql": DAY_POSTGRESQL},
    "known_from": {
        "sqlite": f"{DAY} AND VALUE >= day_utc",
        "postgresql": f"{DAY_POSTGRESQL} AND VALUE >= day_utc",
    },
    "kind": {None: "VALUE IN ('accepted', 'rejected', 'split')"},
    "factor": {None: "(VALUE IS NOT NULL) = (kind = 'split') AND coalesce(VALUE, 1) > 0"},
    "decided_by": {None: "VALUE IN ('rule', 'user')"},
    **{name: {None: PRICE} for name in PRICES},
    "volume": {None: f"VALUE >= 0 AND VALUE < {TOO_LARGE}"},
    "last_candle_seq": {None: "VALUE >= first_candle_seq"},
}
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# In the order of the bytes, as in SQLite, whatever the database's own language is.
SORTED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
COUNTS = ("seq", "rows", "after_candle_seq", "first_candle_seq", "last_candle_seq", "decision_seq")
TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    **dict.fromkeys(COUNTS, NUMBER),
    **dict.fromkeys(("product_id", "day_utc", "through_day_utc", "known_from"), SORTED),
    **dict.fromkeys((*FIGURES, "factor"), sa.Double().with_variant(sa.REAL(), "sqlite")),
    "checks": sa.LargeBinary(),
}
# PostgreSQL keeps them with its tables and columns; SQLite has none.
DESCRIPTIONS = {
    "candles": "Every observation of every day; of a day the newest row counts",
    "series": "Which source the prices of a product are from, and after which row",
    "quarantine": "Rows of a file or response that were not accepted",
    "data_versions": "What a data version stands for",
    "price_decisions": "What a rule or a person decided about days; the newest known row is in force",
    "pages": "A CRC-32 for each candle of a page, by which a changed one is found",
}
_COMMENTS = COMMENTS | {
    "started_at": "when the series began",
    "data_version": "PRODUCT@SEQ:SHA256",
    "decision_seq": "newest decision that it knows",
    "through_day_utc": "last UTC day that it holds",
    "rows": "candles that it holds",
    "sha256": "digest of its candles and decisions",
    "created_at": "when it was recorded",
    "first_candle_seq": "first candle of the page",
    "last_candle_seq": "last candle of the page",
    "checks": "four bytes for each candle",
}
REFUSE = "BEGIN SELECT RAISE(ABORT, '%(table)s is append-only'); END"
APPEND_ONLY = (
    ("sqlite", f"CREATE TRIGGER %(table)s_no_update BEFORE UPDATE ON %(table)s {REFUSE}"),
    ("sqlite", f"CREATE TRIGGER %(table)s_no_delete BEFORE DELETE ON %(table)s {REFUSE}"),
    (
        "postgresql",
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE"
        " integrity_constraint_violation USING MESSAGE = TG_TABLE_NAME || ' is append-only'; END $$",
    ),
    (
        "postgresql",
        "CREATE TRIGGER %(table)s_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %(table)s"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
    ),
)


def _column(name: str, *parts: sa.Identity, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, TYPES.get(name, sa.Text()), *parts, comment=_COMMENTS[name], **options)


def _table(name: str, key: str, *columns: str, nullable: tuple[str, ...] = ()) -> sa.Table:
    # By default alone: a restored row keeps the number that data versions name.
    numbered = [sa.Identity()] if key == "seq" else []
    parts: list[SchemaItem] = [_column(key, *numbered, primary_key=True, autoincrement=bool(numbered))]
    parts += [_column(column, nullable=column in nullable) for column in columns]
    parts += [
        sa.CheckConstraint(condition.replace("VALUE", column)).ddl_if(dialect)
        for column in columns
        for dialect, condition in CHECKS.get(column, {}).items()
    ]
    table = sa.Table(name, sa.MetaData(), *parts, comment=DESCRIPTIONS[name], sqlite_strict=True)
    for dialect, statement in APPEND_ONLY:
        sa.event.listen(table, "after_create", sa.DDL(statement).execute_if(dialect=dialect))  # type: ignore[no-untyped-call]
    return table


UNKNOWN = ("open", "high", "low", "volume")
CANDLES = _table("candles", *PRICE_VIEWS["candles"], nullable=UNKNOWN)
SERIES = _table("series", "seq", "product_id", "source", "after_candle_seq", "started_at")
QUARANTINE = _table("quarantine", *PRICE_VIEWS["quarantine"], nullable=("day_utc",))
DATA_VERSIONS = _table(
    *("data_versions", "data_version", "product_id", "seq", "decision_seq", "through_day_utc", "rows"),
    *("sha256", "created_at"),
)
PRICE_DECISIONS = _table("price_decisions", *PRICE_VIEWS["price_decisions"], nullable=("factor",))
PAGES = _table("pages", "first_candle_seq", "last_candle_seq", "checks")
TABLES = (CANDLES, SERIES, QUARANTINE, DATA_VERSIONS, PAGES, PRICE_DECISIONS)
sa.Index("candles_newest", *CANDLES.c["product_id", "day_utc", "seq"])
sa.Index("price_decisions_newest", *PRICE_DECISIONS.c["product_id", "day_utc", "seq"])
sa.Index("series_newest", *SERIES.c["product_id", "seq"])
# coalesce: an index holds two NULLs to be different, and the same unreadable row would pile up.
_day_or_none = sa.func.coalesce(QUARANTINE.c.day_utc, sa.text("''"))
_once = (*QUARANTINE.c["product_id", "source"], _day_or_none, *QUARANTINE.c["raw", "reason"])
sa.Index("quarantine_once", *_once, unique=True)
# Each day's newest row of the product's newest series, without rejected days: a view.
CLOSES = sa.table("closes", *map(sa.column, PRICE_VIEWS["closes"]))
