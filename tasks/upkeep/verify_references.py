"""What refers to what among forecasts, scores, components, calibrator states, models and data versions.

Beside the stored tables the checks read what `verify` makes: `expected_id` of a forecast, the registry's
`model_versions`, the whole `data_versions` with their last close, and `closes`, those of the scored days.
"""

from __future__ import annotations

from storage.upkeep.references import Check

FORECAST = "forecast {prediction_id} of {product_id} for {target_day}: "
SCORE = "score of forecast {prediction_id} for {target_day}: "
STATE = "state {calibrator_version} of {product_id}'s calibrator: "

REFERENCES = (
    Check(
        FORECAST + "its id is not the digest of what it was made from",
        "SELECT * FROM predictions WHERE prediction_id IS DISTINCT FROM expected_id",
    ),
    Check(
        "forecast {prediction_id} is in the table {times} times",
        "SELECT prediction_id, count(*) AS times FROM predictions GROUP BY ALL HAVING times > 1",
    ),
    Check(
        "the {profile} forecasts of {product_id} for {target_day} have the revisions {revisions}",
        """SELECT product_id, profile, target_day, horizon,
            string_agg(revision, ', ' ORDER BY revision) AS revisions
        FROM predictions GROUP BY product_id, profile, target_day, horizon
        HAVING min(revision) <> 0 OR max(revision) <> count(*) - 1 OR count(DISTINCT revision) <> count(*)""",
    ),
    Check(
        FORECAST + "its data version {data_version} is missing or changed",
        "SELECT * FROM predictions ANTI JOIN data_versions USING (data_version)",
    ),
    Check(
        FORECAST + "its data version does not end with its last close",
        """SELECT predictions.* FROM predictions JOIN data_versions USING (data_version)
        WHERE last_day <> origin_day OR data_versions.last_close <> predictions.last_close""",
    ),
    Check(
        FORECAST + "its model version {model_version} is missing",
        """SELECT * FROM predictions
        ANTI JOIN model_versions USING (product_id, profile, model_version) WHERE basis <> 'fallback'""",
    ),
    Check(
        FORECAST + "its model was trained on later days",
        """SELECT predictions.* FROM predictions
        JOIN model_versions USING (product_id, profile, model_version)
        WHERE model_versions.origin_day > predictions.origin_day::VARCHAR""",
    ),
    Check(
        "closecast.{product_id}.{profile} has forecasts and model versions, but no champion",
        """SELECT DISTINCT product_id, profile FROM predictions
        SEMI JOIN model_versions USING (product_id, profile)
        ANTI JOIN (SELECT * FROM model_versions WHERE is_champion) USING (product_id, profile)""",
    ),
    Check(
        FORECAST + "it has no components",
        "SELECT * FROM predictions ANTI JOIN components USING (prediction_id) WHERE lower_50 IS NOT NULL",
    ),
    Check(
        FORECAST + "it has components, but no quantiles",
        "SELECT * FROM predictions SEMI JOIN components USING (prediction_id) WHERE lower_50 IS NULL",
    ),
    Check(
        "component {component} of forecast {prediction_id}: state {calibrator_version} is missing",
        """SELECT * FROM components ANTI JOIN calibrator USING (calibrator_version)
        WHERE calibrator_version IS NOT NULL""",
    ),
    Check(
        STATE + "the state before it, {previous_version}, is missing",
        """SELECT * FROM calibrator WHERE previous_version IS NOT NULL
        AND previous_version NOT IN (SELECT calibrator_version FROM calibrator)""",
    ),
    Check(
        STATE + "its forecast {prediction_id} is missing",
        """SELECT * FROM calibrator ANTI JOIN predictions USING (prediction_id)
        WHERE prediction_id IS NOT NULL""",
    ),
    Check(
        # A score is written before the state that learns from it.
        "forecast {prediction_id} of {product_id} was scored, and has no score",
        "SELECT * FROM calibrator ANTI JOIN scores USING (prediction_id) WHERE prediction_id IS NOT NULL",
    ),
    Check(
        SCORE + "there is no such forecast",
        "SELECT * FROM scores ANTI JOIN predictions USING (product_id, prediction_id, target_day, horizon)",
    ),
    Check(
        SCORE + "its error is not the forecast less the close",
        """SELECT scores.* FROM scores JOIN predictions USING (prediction_id)
        WHERE point - close IS DISTINCT FROM error""",
    ),
    Check(
        SCORE + "its data version {data_version} is missing or changed",
        "SELECT * FROM scores ANTI JOIN data_versions USING (data_version)",
    ),
    Check(
        SCORE + "its close is not the one of its data version",
        """SELECT scores.* FROM scores SEMI JOIN data_versions USING (data_version)
        ANTI JOIN closes USING (data_version, target_day, close)""",
    ),
    Check(
        "forecast {prediction_id} was scored {times} times by one data version",
        """SELECT prediction_id, count(*) AS times FROM scores
        GROUP BY prediction_id, close, data_version HAVING times > 1""",
    ),
)
