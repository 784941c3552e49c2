"""References among forecasts, scores, components, calibrator states, models and data versions.

In addition to the stored tables the checks read what `verify` makes: `expected_id` of a forecast, the
registry's `model_versions`, the intact `data_versions` with their last close, and `closes`, those of the
scored days; the `versions` of the tables, and those `recorded` in commits of others; the rows of `backtests`
and `folds`; the `pages` of the report.
"""

from __future__ import annotations

from collections.abc import Mapping


def _rows_of(table: str, subject: str, findings: Mapping[str, str]) -> dict[str, str]:
    """Findings about single rows of a table, each with the joins and conditions that select the rows."""
    select = f"SELECT {table}.* FROM {table}"  # noqa: S608 (tables of ours)
    return {f"{subject}: {finding}": f"{select} {condition}" for finding, condition in findings.items()}


# Each finding, with a query's columns in braces, and the query for the rows that it is true of.
REFERENCES = {
    "forecast {prediction_id} is in the table {times} times": """
        SELECT prediction_id, count(*) AS times FROM predictions GROUP BY ALL HAVING times > 1
    """,
    "the {profile} forecasts of {product_id} for {target_day} have the revisions {revisions}": """
        SELECT product_id, profile, target_day, horizon,
            string_agg(revision, ', ' ORDER BY revision) AS revisions
        FROM predictions GROUP BY product_id, profile, target_day, horizon
        HAVING min(revision) <> 0 OR max(revision) <> count(*) - 1 OR count(DISTINCT revision) <> count(*)
    """,
    "closecast.{product_id}.{profile} has forecasts and model versions, but no champion": """
        SELECT DISTINCT product_id, profile FROM predictions
        SEMI JOIN model_versions USING (product_id, profile)
        ANTI JOIN (SELECT * FROM model_versions WHERE is_champion) USING (product_id, profile)
    """,
    **_rows_of(
        "predictions",
        "forecast {prediction_id} of {product_id} for {target_day}",
        {
            "its id is not the digest of what it was made from": """
                WHERE prediction_id IS DISTINCT FROM expected_id""",
            "its data version {data_version} is missing or changed": """
                ANTI JOIN data_versions USING (data_version)""",
            "its data version does not end with its last close": """
                JOIN data_versions USING (data_version)
                WHERE last_day <> origin_day OR data_versions.last_close <> predictions.last_close""",
            "its model version {model_version} is missing": """
                ANTI JOIN model_versions USING (product_id, profile, model_version)
                WHERE basis <> 'fallback'""",
            "its model was trained on later days": """
                JOIN model_versions USING (product_id, profile, model_version)
                WHERE model_versions.origin_day > predictions.origin_day::VARCHAR""",
            "it has no components": """
                ANTI JOIN components USING (prediction_id) WHERE lower_50 IS NOT NULL""",
            "it has components, but no quantiles": """
                SEMI JOIN components USING (prediction_id) WHERE lower_50 IS NULL""",
        },
    ),
    "component {component} of forecast {prediction_id}: state {calibrator_version} is missing": """
        SELECT * FROM components ANTI JOIN calibrator USING (calibrator_version)
        WHERE calibrator_version IS NOT NULL
    """,
    **_rows_of(
        "calibrator",
        "state {calibrator_version} of {product_id}'s calibrator",
        {
            "the previous state, {previous_version}, is missing": """
                WHERE previous_version IS NOT NULL
                AND previous_version NOT IN (SELECT calibrator_version FROM calibrator)""",
            "its forecast {prediction_id} is missing": """
                ANTI JOIN predictions USING (prediction_id) WHERE prediction_id IS NOT NULL""",
            # A score is written before the state that learns from it.
            "its forecast {prediction_id} has no score": """
                ANTI JOIN scores USING (prediction_id) WHERE prediction_id IS NOT NULL""",
        },
    ),
    **_rows_of(
        "scores",
        "score of forecast {prediction_id} for {target_day}",
        {
            "there is no such forecast": """
                ANTI JOIN predictions USING (product_id, prediction_id, target_day, horizon)""",
            "its error is not the forecast less the close": """
                JOIN predictions USING (prediction_id) WHERE point - close IS DISTINCT FROM error""",
            "its data version {data_version} is missing or changed": """
                ANTI JOIN data_versions USING (data_version)""",
            "its close is not the one of its data version": """
                SEMI JOIN data_versions USING (data_version)
                ANTI JOIN closes USING (data_version, target_day, close)""",
        },
    ),
    "the table {name} is at commit {version}, but {recorded_by} was written after its commit {seen}": """
        SELECT name, versions.version AS version, recorded_by, recorded.version AS seen
        FROM recorded JOIN versions USING (name) WHERE recorded.version > versions.version
    """,
    "the page of {product_id} by {profile} was written with {written} forecasts, but there are {found}": """
        SELECT product_id, profile, written, count(prediction_id) AS found
        FROM pages LEFT JOIN (SELECT * FROM predictions WHERE horizon = 1) USING (product_id, profile)
        GROUP BY ALL HAVING found < written
    """,
    "backtest {backtest_id} has {found} rows, but its folds made {made}": """
        SELECT backtest_id, made, coalesce(found, 0) AS found
        FROM folds LEFT JOIN backtests USING (backtest_id) WHERE coalesce(found, 0) < made
    """,
    "forecast {prediction_id} was scored {times} times at once with one data version": """
        SELECT prediction_id, count(*) AS times FROM scores
        GROUP BY prediction_id, close, data_version, scored_at HAVING times > 1
    """,
}
