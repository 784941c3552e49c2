"""Events of a run, by the names that `automations.yaml` waits for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.utilities.urls import url_for

from closecast.storage.core.home import Home
from closecast.tasks.core.forecast import Forecast

log = logging.getLogger("closecast.artifacts")

DELIVERED = "closecast.forecast-delivered"
# Of runs that went well and still need somebody.
COVERAGE_ALARM = "closecast.coverage-alarm"
STALE_MODEL = "closecast.stale-model"


def announce_forecast(home: Home, forecast: Forecast) -> None:
    """Emit the event that a day's forecast was delivered, once: in the run that published it.

    A forecast that another run has stored is not announced again, and a revision not at all.
    """
    row = forecast.first
    if forecast.flow_run_id != flow_run.get_id() or row.revision:
        return
    low, high = row.interval(80) or (None, None)
    text = f"the close of {forecast.target}: {forecast.price(row.point)}"
    if low is not None and high is not None:
        text += f", with 80 % probability {forecast.prices(low, high)}"
    facts = {
        "origin_day": str(forecast.origin_day),
        "point": row.point,
        "median": row.point if row.quantiles else None,
        "lower_80": low,
        "upper_80": high,
        "quote_currency": forecast.quote_currency,
        "basis": forecast.basis,
        "run_url": run_url(),
    }
    _emit(DELIVERED, home, forecast, text, facts)


def run_url() -> str | None:
    """The address of the flow run in Prefect's UI, as Prefect itself makes it, without a name or a password.

    None outside a run, and if the server has no UI, such as the temporary one of a command.
    """
    run_id = flow_run.get_id()
    if run_id is None or not get_current_settings().server.ui.enabled:
        return None
    parts = urlsplit(url_for("flow-run", obj_id=run_id) or "")
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return address.geturl() or None


def raise_alarms(home: Home, forecast: Forecast, alarms: Sequence[str], age_warning: str | None) -> None:
    """Emit each alarm as an event about the model that made the forecast.

    The scoreboard's `alarms` are logged here; a model that is too old was logged when it was noticed. A
    product without a model cannot have a stale one.
    """
    for alarm in alarms:
        log.warning("%s: %s", forecast.product_id, alarm)
    stale = [(STALE_MODEL, age_warning)] if age_warning and forecast.model_version else []
    for event, message in [*((COVERAGE_ALARM, alarm) for alarm in alarms), *stale]:
        _emit(event, home, forecast, message)


def _emit(
    event: str, home: Home, forecast: Forecast, message: str, facts: dict[str, Any] | None = None
) -> None:
    """Hand an event to Prefect's thread, which sends it; Prefect logs what the server refuses."""
    label = f" ({home.label})" if home.label else ""
    name = forecast.model_name + (f".{home.label}" if home.label else "")
    emit_event(
        event=event,
        resource={"prefect.resource.id": name, "prefect.resource.name": name},
        payload={
            "message": f"{forecast.product_id}{label}: {message}",
            "target_day": str(forecast.first.target_day),
            "product_id": forecast.product_id,
            "profile": forecast.profile,
            "home": home.label or "default",
            "model_version": forecast.model_version,
            "prediction_id": forecast.first.prediction_id,
            **(facts or {}),
        },
    )
