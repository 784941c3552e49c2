"""The rows of the tables against each other and against what they refer to: checks in SQL, by DuckDB."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from storage.core.errors import Damaged
from storage.core.home import Home
from storage.tables.delta import as_dataset, reading, snapshot
from storage.tables.schemas import DAILY_TABLES, TABLES
from storage.tables.sql import CONFIG

if TYPE_CHECKING:
    pass

Tables = dict[str, pa.Table | None]


@dataclass(frozen=True)
class Check:
    """A query for rows that contradict others, and the sentence about each."""

    finding: str  # with the query's columns in braces
    sql: str  # one SELECT over the tables


def light_rows(home: Home) -> tuple[Tables, list[str]]:
    """The rows of the tables without their lists, all at one moment, and why some cannot be read.

    A table that cannot be read, or that lost its log, is None; `table_files` reports it as well.
    """
    rows, findings = Tables.fromkeys(DAILY_TABLES), list[str]()
    folders = [home.table(name) for name in DAILY_TABLES]
    try:
        tables = snapshot(folders)
    except Damaged:
        return rows, []
    for name, folder, table in zip(DAILY_TABLES, folders, tables, strict=True):
        light = [field.name for field in TABLES[name].arrow if not pa.types.is_list(field.type)]
        if table is None:
            rows[name] = None if folder.files() else TABLES[name].arrow.empty_table().select(light)
            continue
        try:
            with reading(folder):
                stored = as_dataset(table, folder).to_table()
        except Damaged as error:
            findings.append(str(error))
            continue
        if lacking := sorted(set(TABLES[name].arrow.names).difference(stored.column_names)):
            findings.append(
                f"the table {folder} has the columns of another, it lacks {', '.join(lacking)}:"
                " restore it from a backup"
            )
        else:
            rows[name] = stored.select(light)
    return rows, findings


def failed_checks(tables: Tables, checks: Sequence[Check]) -> list[str]:
    """The findings of the checks, sorted within each; a check of a table that is None is skipped."""
    import duckdb

    findings = list[str]()
    with duckdb.connect(":memory:", config=CONFIG) as connection:
        for name, table in tables.items():
            if table is not None:
                connection.register(name, table)
        for check in checks:
            words = set(re.findall(r"\w+", check.sql))
            if any(tables[name] is None for name in tables.keys() & words):
                continue
            # As text: DuckDB has one for a day out of Python's range, too.
            rows = connection.sql(f"SELECT COLUMNS(*)::VARCHAR FROM ({check.sql})")  # noqa: S608
            texts = [dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]
            findings += sorted(check.finding.format(**text) for text in texts)
    return findings
