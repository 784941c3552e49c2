"""The rows of the tables against each other and against what they refer to: checks in SQL, by DuckDB."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from closecast.storage.core.errors import Damaged
from closecast.storage.core.home import Home
from closecast.storage.tables.delta import snapshot
from closecast.storage.tables.opening import as_dataset, open_table, reading
from closecast.storage.tables.schemas import DAILY_TABLES, TABLES, backtests
from closecast.storage.tables.sql import CONFIG

if TYPE_CHECKING:
    import duckdb

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

    A check has a finding, with a query's columns in braces, and one SELECT for the rows that it is true of.
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
                try:
                    findings += sorted(_lines(connection, finding, sql))
                except (duckdb.Error, ValueError) as error:  # text that is not UTF-8, for instance
                    reason = " ".join(str(error).split())[:200]
                    findings.append(f"it cannot be checked whether {finding!r} is true: {reason}")
    return findings


def _lines(connection: duckdb.DuckDBPyConnection, finding: str, sql: str) -> Iterator[str]:
    # As text: DuckDB has one for a day out of Python's range, too.
    rows = connection.sql(f"SELECT COLUMNS(*)::VARCHAR FROM ({sql})")  # noqa: S608
    for row in rows.fetchall():
        yield finding.format(**dict(zip(rows.columns, row, strict=True)))


def rows_of_backtests(home: Home) -> pa.Table | None:
    """How many rows each backtest has in the table: `backtest_id`, `found`; None if it is damaged."""
    with contextlib.suppress(Damaged):
        ids = backtests(home).read(None, ["backtest_id"])
        counts = ids.group_by("backtest_id").aggregate([([], "count_all")])
        return counts.rename_columns(["backtest_id", "found"])
    return None


def versions_of_tables(home: Home) -> pa.Table:
    """The version of each table, -1 where there is none; without those that cannot be opened."""
    versions: dict[str, int] = {}
    for name in TABLES:
        with contextlib.suppress(Damaged):
            table = open_table(home.table(name))
            if table is not None or not home.table(name).files():
                versions[name] = -1 if table is None else table.version()
    return pa.table(
        {"name": pa.array([*versions], pa.string()), "version": pa.array([*versions.values()], pa.int64())}
    )
