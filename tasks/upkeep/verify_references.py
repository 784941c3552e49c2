"""The rows of forecasts, of scores and beside them against what they refer to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from storage.models.version import CHAMPION, ModelVersion
from tasks.forecast.publish import prediction_key
from tasks.profiles.calibrated_settings import Recipe

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Closes:
    """Of each whole data version its closes by day; None where the prices cannot be read, which is told."""

    by_version: Mapping[str, Mapping[date, float]] | None

    def wrong_of(self, data_version: str) -> str:
        """What is said of a version that is not among them, empty where nothing can be said."""
        if self.by_version is None or data_version in self.by_version:
            return ""
        return f"its data version {data_version} is missing or changed"

    def of(self, data_version: str) -> Mapping[date, float] | None:
        """The closes of a version."""
        return (self.by_version or {}).get(data_version)


def of_forecasts(
    rows: Rows, versions: Mapping[tuple[str, str, str], ModelVersion] | None, closes: Closes
) -> Iterator[str]:
    """What is wrong with each forecast: its id, its data version, its model."""
    for row in rows:
        what = f"forecast {row['prediction_id']} of {row['product_id']} for {row['target_day']}"
        names = ("product_id", "profile", "data_version", "settings_version", "code_version")
        if (
            prediction_key(origin=row["origin_day"], **{name: row[name] for name in names})
            != row["prediction_id"]
        ):
            yield f"{what}: its id is not the digest of what it says it was made from"
        known = closes.of(row["data_version"])
        if lost := closes.wrong_of(row["data_version"]):
            yield f"{what}: {lost}"
        elif known and (known.get(row["origin_day"]) != row["last_close"] or max(known) > row["origin_day"]):
            yield f"{what}: its data version does not end with its last close"
        if versions is None:
            continue
        version = versions.get((row["product_id"], row["profile"], row["model_version"]))
        if version is None:
            yield f"{what}: its model version {row['model_version']} is missing"
        elif version.tags.get("origin_day", "") > row["origin_day"].isoformat():
            yield f"{what}: its model was trained on later days"


def of_revisions(rows: Rows) -> Iterator[str]:
    """Whether each target day's forecasts are numbered from 0 on, and no id comes twice."""
    for name, count in Counter(row["prediction_id"] for row in rows).items():
        if count > 1:
            yield f"forecast {name} stands in the table {count} times"
    days: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        day = (row["product_id"], row["profile"], row["target_day"])
        days.setdefault(day, []).append(row["revision"])
    for (product_id, profile, target), revisions in days.items():
        if sorted(revisions) != list(range(len(revisions))):
            numbers = ", ".join(map(str, sorted(revisions)))
            yield f"the {profile} forecasts of {product_id} for {target} have the revisions {numbers}"


def of_ingredients(rows: Rows, forecasts: Rows, tracked: Rows) -> Iterator[str]:
    """Whether what stands beside each forecast is there, and the states it names."""
    states = {row["calibrator_version"] for row in tracked}
    beside = {row["prediction_id"] for row in rows}
    for row in rows:
        if row["calibrator_version"] is not None and row["calibrator_version"] not in states:
            yield f"components of forecast {row['prediction_id']}: state {row['calibrator_version']} is missing"
    for row in forecasts:
        if row["profile"] == Recipe.name and row["prediction_id"] not in beside:
            yield f"forecast {row['prediction_id']} has no components"


def of_trackers(rows: Rows, forecasts: Rows) -> Iterator[str]:
    """Whether the state before each state is there, and the forecast it came with."""
    states = {row["calibrator_version"] for row in rows}
    ids = {row["prediction_id"] for row in forecasts}
    for row in rows:
        what = f"state {row['calibrator_version']} of {row['product_id']}'s tracker"
        if row["previous_version"] is not None and row["previous_version"] not in states:
            yield f"{what}: the state before it, {row['previous_version']}, is missing"
        if row["prediction_id"] is not None and row["prediction_id"] not in ids:
            yield f"{what}: its forecast {row['prediction_id']} is missing"


def of_scores(rows: Rows, forecasts: Rows, closes: Closes) -> Iterator[str]:
    """Whether each score is its forecast less its data version's close, once."""
    known = {row["prediction_id"]: row for row in forecasts}
    for row in rows:
        what = f"score of forecast {row['prediction_id']} for {row['target_day']}"
        forecast = known.get(row["prediction_id"])
        if forecast is None or forecast["target_day"] != row["target_day"]:
            yield f"{what}: there is no such forecast"
            continue
        if forecast["point"] - row["close"] != row["error"]:
            yield f"{what}: its error is not the forecast less the close"
        known_closes = closes.of(row["data_version"])
        if lost := closes.wrong_of(row["data_version"]):
            yield f"{what}: {lost}"
        elif known_closes and known_closes.get(row["target_day"]) != row["close"]:
            yield f"{what}: its close is not the one of its data version"
    twice = Counter((row["prediction_id"], row["close"], row["data_version"]) for row in rows)
    for (name, _, _), count in twice.items():
        if count > 1:
            yield f"forecast {name} was scored {count} times by one data version"


def missing_scores(tracked: Rows, scored: Rows) -> Iterator[str]:
    """Forecasts whose outcome moved a tracker: a score comes first, so each has one."""
    known = {row["prediction_id"] for row in scored}
    for row in tracked:
        if row["prediction_id"] is not None and row["prediction_id"] not in known:
            yield f"forecast {row['prediction_id']} of {row['product_id']} was scored, and has no score"


def missing_champions(
    forecasts: Rows, versions: Mapping[tuple[str, str, str], ModelVersion] | None
) -> Iterator[str]:
    """Models that have forecast, with versions and no champion: the first that forecasts is one."""
    if versions is None:
        return
    models = {(row["product_id"], row["profile"]) for row in forecasts}
    champions = {key[:2] for key, version in versions.items() if CHAMPION in version.aliases}
    for product_id, profile in sorted(models & {key[:2] for key in versions} - champions):
        yield f"closecast.{product_id}.{profile} has forecast, and the registry names no champion of it"
