"""Events about runs that went well and still need somebody: Prefect's automations send them on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prefect.events import emit_event

from tasks.core.forecast import Forecast

log = logging.getLogger("closecast.alarms")

# The names that `automations.yaml` waits for.
COVERAGE_ALARM = "closecast.coverage-alarm"
STALE_MODEL = "closecast.stale-model"


def raise_alarms(forecast: Forecast, alarms: Sequence[str], age_warning: str | None) -> None:
    """Emit each alarm as an event about the model that made the forecast.

    Args:
        alarms: of the scoreboard, logged here.
        age_warning: about a model that is too old, logged where it was noticed.
    """
    for alarm in alarms:
        log.warning("%s: %s", forecast.product_id, alarm)
        _emit(COVERAGE_ALARM, forecast, alarm)
    if age_warning:
        _emit(STALE_MODEL, forecast, age_warning)


def _emit(event: str, forecast: Forecast, message: str) -> None:
    name = forecast.model_name
    emit_event(
        event=event,
        resource={"prefect.resource.id": name, "prefect.resource.name": name},
        payload={
            "message": f"{forecast.product_id}: {message}",
            "target_day": str(forecast.first.target_day),
            "product_id": forecast.product_id,
            "profile": forecast.profile,
            "model_version": forecast.model_version,
            "prediction_id": forecast.first.prediction_id,
        },
    )
