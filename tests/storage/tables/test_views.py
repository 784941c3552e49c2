"""The views that are made from others, what other tools read of a table, and quantiles as columns."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from closecast.storage.core.home import Home
from closecast.storage.tables.predictions import Predictions, with_quantile_columns
from closecast.storage.tables.schemas import TABLES
from closecast.storage.tables.sql import VIEWS, query
from closecast.storage.upkeep.compaction import compact_table
from closecast.tasks.evaluation.scoring import read_scoreboard
from tests.helpers import BTC, FIRST, publish_all
from tests.storage.tables.rows import ROWS, forecast, table

ETH = "ETH-USD"


def scored_home(home: Home) -> Home:
    """Forecasts of 400 days by a model, some by the baselines, revised and restated, and a point's."""
    random = np.random.default_rng(3)
    predictions: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for number in range(400):
        for horizon, profile in ((1, "calibrated"), (7, "calibrated"), (1, "article")):
            basis = "fallback" if profile == "calibrated" and number % 50 == 7 else "model"
            name = f"{profile} {number} {horizon}"
            target = FIRST + timedelta(days=number + horizon)
            days: dict[str, Any] = {"target_day": target, "horizon": horizon}
            predictions.append(forecast(name, number, profile=profile, basis=basis, **days) | {"revision": 0})
            figures: dict[str, Any] = {key: float(random.normal()) for key in ("error", "naive_error")}
            if profile == "calibrated":
                figures |= {key: float(random.uniform(0.01, 0.02)) for key in ("crps", "naive_crps")}
                figures |= {f"covered_{p}": bool(random.uniform() < p / 100) for p in (50, 80, 95)}
            else:
                figures |= dict.fromkeys(("covered_50", "covered_80", "covered_95", "pit"))
            row = {**ROWS["scores"], **days, "prediction_id": name, **figures}
            row |= {"component_names": None, "component_crps": None}
            scores.append(row)
            if number % 40 == 3:  # of one moment the later data version counts: 10 is after 9
                for seq, error in ((10, 5.0), (9, 99.0)):
                    scores.append({**row, "error": error, "data_version": f"{BTC}@{seq}:ab"})
    revision = {**predictions[-3], "prediction_id": "revised", "revision": 1, "basis": "model"}
    table(home, "predictions").add([*predictions, revision])
    rows = {**scores[-1], "prediction_id": "revised", "error": 1e9}
    # Past the rule that a score of the same close is no new one.
    table(home, "scores").add([*scores, rows])
    return home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return scored_home(Home(tmp_path_factory.mktemp("scored")).prepare())


def test_the_scoreboard_of_sql_is_that_of_the_command(home: Home) -> None:
    rows = query(home, "from scoreboard").to_pylist()
    by_key = {(row["profile"], row["horizon"], row["is_fallback"], row["span_days"]): row for row in rows}
    assert len(by_key) == len(rows) == 5 * 4  # fallbacks have a horizon of 1 and of 7
    for profile, horizon in (("calibrated", 1), ("calibrated", 7), ("article", 1)):
        for span in read_scoreboard(home, BTC, profile, (), horizon=horizon).spans:
            row = by_key[profile, horizon, False, span.days]
            assert row["forecasts"] == span.forecasts
            for name in ("crps_ratio", "mae", "mae_ratio", "rmse", "rmse_ratio"):
                expected = getattr(span, name)
                same = expected if expected is None else pytest.approx(expected, rel=1e-12)
                assert row[name] == same, name
            for percent, share in span.coverage.items():
                assert row[f"coverage_{percent}"] == (None if share is None else pytest.approx(share.share))
    fallbacks = read_scoreboard(home, BTC, "calibrated", ()).fallbacks
    assert [by_key["calibrated", one.horizon, True, None]["forecasts"] for one in fallbacks] == [8, 8]


def test_latest_forecasts_are_the_published_ones_from_the_newest_origin(home: Home) -> None:
    rows = query(home, "from latest_forecasts").to_pylist()
    assert [(row["profile"], row["horizon"], row["origin_day"]) for row in rows] == [
        ("article", 1, FIRST + timedelta(days=399)),
        ("calibrated", 1, FIRST + timedelta(days=399)),
        ("calibrated", 7, FIRST + timedelta(days=399)),
    ]
    assert query(home, "from latest_forecasts").schema.names == TABLES["predictions"].arrow.names
    assert query(home, "select count(*) as n from query_table('latest_' || 'forecasts')")["n"][0].as_py() == 3


def test_every_column_of_every_view_has_a_comment(home: Home) -> None:
    rows = query(home, "from columns").to_pylist()
    assert {row["view"] for row in rows} == set(VIEWS) - {"columns"}
    for view in set(VIEWS) - {"columns"}:
        described = query(home, f"from {view} limit 0").schema
        own = {row["column"]: row for row in rows if row["view"] == view}
        assert list(own) == described.names
        assert all(len(row["comment"]) > 6 for row in own.values())
        if view == "scoreboard":
            assert {name: str(described.field(name).type) for name in own} == {
                name: row["type"] for name, row in own.items()
            }


@pytest.mark.folder
def test_other_tools_read_descriptions_and_comments(home: Home) -> None:
    for name in ("predictions", "scores"):
        delta = DeltaTable(str(home.table(name)))
        assert delta.metadata().description == TABLES[name].description
        dataset = delta.to_pyarrow_dataset()
        comments = {field.name: field.metadata[b"comment"] for field in dataset.schema}
        assert all(comments.values())
        assert list(comments) == TABLES[name].arrow.names
        count = dataset.count_rows()
        assert pl.read_delta(str(home.table(name))).height == count
        assert duckdb.sql("select count(*) from dataset").fetchall() == [(count,)]
    assert all(schema.description for schema in TABLES.values())


@pytest.mark.folder
def test_a_glob_of_a_compacted_folder_gives_rows_twice_and_delta_gives_them_once(tmp_path: Path) -> None:
    """The warning of docs/howto/notebook.md."""
    home = Home(tmp_path).prepare()
    for number in range(3):
        publish_all(home, [forecast(str(number), number)])
    folder = str(home.predictions)

    def rows_of(glob: str) -> int:
        return len(duckdb.read_parquet(f"{folder}/{glob}", union_by_name=True).fetchall())

    assert rows_of("**/*.parquet") == 3
    compact_table(home, "predictions")
    assert rows_of("product_id=*/*.parquet") == 6
    assert rows_of("**/*.parquet") > 6  # and those of Delta's own log
    assert len(duckdb.read_parquet(DeltaTable(folder).file_uris()).fetchall()) == 3
    assert pl.read_delta(folder).height == 3
    assert DeltaTable(folder).to_pyarrow_dataset().count_rows() == 3


def test_quantiles_as_columns_sort_by_their_level(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    levels, quantiles = [0.01, 0.05, 0.5, 0.975], [1.0, 2.0, 3.0, 4.0]
    publish_all(home, [
        forecast("a", 0, quantile_levels=levels, quantiles=quantiles),
        forecast("b", 1),
    ])  # fmt: skip
    wide = with_quantile_columns(Predictions(home).between(BTC))
    names = ["q0.010", "q0.050", "q0.500", "q0.975"]
    assert [name for name in wide.column_names if name.startswith("q0")] == names == sorted(names)
    assert [[row[name] for name in names] for row in wide.to_pylist()] == [quantiles, [None] * 4]
    assert not {"quantiles", "quantile_levels"} & set(wide.column_names)
    assert wide.num_rows == 2
    assert with_quantile_columns(Predictions(home).between(ETH)).num_rows == 0
    pq.write_table(wide, tmp_path / "wide.parquet")
    assert pq.read_schema(tmp_path / "wide.parquet").field("q0.500").type == pa.float64()
