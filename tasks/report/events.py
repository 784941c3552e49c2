"""What somebody should be told of although the run went well: events that Prefect's automations send on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.events import emit_event

log = logging.getLogger("closecast.alarms")

# The names that `automations.yaml` waits for.
COVERAGE_ALARM = "closecast.coverage-alarm"
STALE_MODEL = "closecast.stale-model"


def raise_alarms(row: Mapping[str, Any], coverage: Sequence[str], stale: str | None) -> None:
    """Log each alarm, and emit it as an event about the model that made the forecast.

    Args:
        row: of the forecast.
        coverage: the sentences of the scoreboard about intervals that no longer hold.
        stale: the warning about a model that is too old, logged where it was found.
    """
    for text in coverage:
        log.warning("%s: %s", row["product_id"], text)
        _emit(COVERAGE_ALARM, row, text)
    if stale:
        _emit(STALE_MODEL, row, stale)


def _emit(event: str, row: Mapping[str, Any], text: str) -> None:
    name = f"closecast.{row['product_id']}.{row['profile']}"
    emit_event(
        event=event,
        resource={"prefect.resource.id": name, "prefect.resource.name": name},
        payload={
            "message": f"{row['product_id']}: {text}",
            "target_day": str(row["target_day"]),
            **{key: row[key] for key in ("product_id", "profile", "model_version", "prediction_id")},
        },
    )
