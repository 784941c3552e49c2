"""The rows of the tables against each other and against what they refer to: checks in SQL, by DuckDB."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pyarrow as pa

from storage.core.errors import Damaged
from storage.core.home import Home
from storage.tables.delta import snapshot
from storage.tables.opening import as_dataset, reading
from storage.tables.schemas import DAILY_TABLES, TABLES
from storage.tables.sql import CONFIG

Tables = dict[str, pa.Table | None]


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
        schema = TABLES[name].arrow
        light = [field.name for field in schema if not pa.types.is_list(field.type)]
        if table is None:
            rows[name] = None if folder.files() else schema.empty_table().select(light)
            continue
        try:
            with reading(folder):
                dataset = as_dataset(table, folder)
                lacking = sorted({*schema.names}.difference(dataset.schema.names))
                rows[name] = None if lacking else dataset.to_table(light)
        except Damaged as error:
            findings.append(str(error))
            continue
        if lacking:
            findings.append(
                f"the table {folder} has the columns of another, it lacks {', '.join(lacking)}:"
                " restore it from a backup"
            )
    return rows, findings


def failed_checks(tables: Tables, checks: Mapping[str, str]) -> list[str]:
    """The findings of the checks, sorted within each; a check of a table that is None is skipped.

    Args:
        checks: by the finding, with a query's columns in braces, one SELECT for the rows that it is true of.
    """
    import duckdb

    findings = list[str]()
    with duckdb.connect(":memory:", config=CONFIG) as connection:
        for name, table in tables.items():
            if table is not None:
                connection.register(name, table)
        for finding, sql in checks.items():
            words = set(re.findall(r"\w+", sql))
            if all(tables[name] is not None for name in tables.keys() & words):
                # As text: DuckDB has one for a day out of Python's range, too.
                rows = connection.sql(f"SELECT COLUMNS(*)::VARCHAR FROM ({sql})")  # noqa: S608
                texts = (dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall())
                findings += sorted(finding.format(**text) for text in texts)
    return findings
