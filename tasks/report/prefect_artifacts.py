"""What a person sees of a run in Prefect: forecasts, figures, progress of training, and alarms as events."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event
from prefect.exceptions import PrefectException

from storage.core.home import Home
from storage.models.registry import Models
from storage.tables.predictions import Predictions
from tasks.core.forecast import Forecast
from tasks.core.formatting import artifact_key, markdown_table
from tasks.core.quantiles import INTERVAL_INDEXES, MEDIAN
from tasks.core.steps import step
from tasks.evaluation.scoreboard import Scoreboard
from tasks.evaluation.scoreboard import markdown as scoreboard_markdown
from tasks.evaluation.scoring import read_scoreboard
from tasks.network.epoch import listening
from tasks.prices.gaps import find_gaps
from tasks.prices.ingest import IngestedPrices
from tasks.profiles.base import Profile
from tasks.report.model_section import as_data_address, figure_files

log = logging.getLogger("closecast.artifacts")

# Events about runs that went well and still need somebody, by the names that `automations.yaml` waits for.
COVERAGE_ALARM = "closecast.coverage-alarm"
STALE_MODEL = "closecast.stale-model"
MAX_FORECASTS = 30
# A request to the server takes some milliseconds, and so may an epoch.
EVERY_SECONDS = 1.0


@step(timeout_seconds=120, run_name="{forecast.product_id}")
def show_artifacts(
    home: Home, forecast: Forecast, prices: IngestedPrices, warning: str | None = None
) -> Scoreboard:
    """Publish the run's Markdown, table and image artifacts, and emit the alarms.

    The `warning` is about a model that is too old. Returns the scoreboard of the product and profile.
    """
    product_id, profile = forecast.product_id, forecast.profile
    board = read_scoreboard(home, product_id, profile)
    raise_alarms(forecast, board.alarms, warning)
    create_markdown_artifact(
        forecast_markdown(forecast, prices, board, warning),
        key=artifact_key("forecast", product_id, profile),
        description=f"{product_id}: forecast of the close of {forecast.first.target_day}",
    )
    create_table_artifact(
        newest_forecasts(home, product_id, profile),
        key=artifact_key("forecasts", product_id, profile),
        description=f"{product_id}: the newest {MAX_FORECASTS} forecasts",
    )
    models = Models(home)
    bundle = models.open(models.version(product_id, profile, str(forecast.model_version)))
    for name, file in figure_files(bundle).items():
        create_image_artifact(
            as_data_address(bundle.read(file)),
            key=artifact_key(name, product_id, profile),
            description=f"{product_id}: {name}",
        )
    return board


def raise_alarms(forecast: Forecast, alarms: Sequence[str], age_warning: str | None) -> None:
    """Emit each alarm as an event about the model that made the forecast.

    The scoreboard's `alarms` are logged here; a model that is too old was logged where it was noticed.
    """
    name = forecast.model_name
    for alarm in alarms:
        log.warning("%s: %s", forecast.product_id, alarm)
    stale = [(STALE_MODEL, age_warning)] if age_warning else []
    for event, message in [*((COVERAGE_ALARM, alarm) for alarm in alarms), *stale]:
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


def forecast_markdown(
    forecast: Forecast, prices: IngestedPrices, board: Scoreboard, warning: str | None = None
) -> str:
    """The forecast, what it was made from, its components, and how forecasts did so far."""
    history = prices.history
    parts = [
        f"# {forecast.product_id}: close of {forecast.first.target_day}",
        markdown_table(["", ""], forecast.summary()),
        f"Closes from {history.source}: {len(history.candles)} days, {history.first_day} to {history.origin};"
        f" {prices.new_days} new, {prices.restated_days} restated, {prices.quarantined} quarantined.",
        *(
            f"Gap: {first} to {last}, days missing: {(last - first).days + 1}."
            for first, last in find_gaps(history.candles["day_utc"])
        ),
    ]
    if len(forecast.horizons) > 1:
        parts += ["## The next days", markdown_table(*forecast.fan())]
    if forecast.first.components:
        low, high = INTERVAL_INDEXES[80]
        rows = []
        for name, closes in forecast.first.components.items():
            median, lower, upper = (forecast.price(closes[index]) for index in (MEDIAN, low, high))
            rows.append([name, median, f"{lower} to {upper}"])
        title = f"## Component forecasts of {forecast.first.target_day}"
        parts += [title, markdown_table(["component", "median", "80 %"], rows)]
    if warning:
        parts.append(f"**Warning:** {warning}")
    if board.last is not None:
        parts += ["## Scoreboard", scoreboard_markdown(board)]
    return "\n\n".join(parts)


def newest_forecasts(home: Home, product_id: str, profile: str) -> list[dict[str, Any]]:
    """The newest forecasts, the newest first, as plain rows for a table."""
    names = ("target_day", "point", "last_close", "revision", "model_version", "prediction_id")
    rows = Predictions(home).newest(product_id, profile, MAX_FORECASTS, names).to_pylist()
    return [
        {name: row[name] if isinstance(row[name], float | int) else str(row[name]) for name in names}
        for row in reversed(rows)
    ]


@step(timeout_seconds=120)
def show_products(home: Home, forecasts: Mapping[str, str], reasons: Mapping[str, str]) -> None:
    """Publish each product's forecast, given by its prediction id, or the reason why it has none."""
    table = Predictions(home)
    rows = [table.find(prediction_id, product_id=product) for product, prediction_id in forecasts.items()]
    create_markdown_artifact(
        products_markdown([Forecast.from_rows([row]) for row in rows if row is not None], reasons),
        key="products",
        description=f"products with a forecast: {len(forecasts)}, without one: {len(reasons)}",
    )


def products_markdown(forecasts: Sequence[Forecast], reasons: Mapping[str, str]) -> str:
    """The forecast of each product of a day, or the reason why it has none."""
    rows = []
    for forecast in forecasts:
        prices = dict(forecast.price_summary())
        interval = prices.get("80 %", "a point without intervals")
        day = str(forecast.first.target_day)
        rows.append([forecast.product_id, day, prices["forecast"], interval, prices["last close"]])
    table = markdown_table(["product", "day", "forecast", "80 %", "last close"], rows)
    failed = [f"- **{product}** has no forecast: {reason}" for product, reason in reasons.items()]
    return "\n".join([*([table, ""] if rows else []), *failed]).strip()


@contextmanager
def training_progress(product_id: str, profile: Profile) -> Iterator[None]:
    """Show the epochs of a training in here as a progress artifact of the run."""
    members = int(getattr(profile.settings, "members", 1))
    # With a gate each member trains twice: in the twin, then in the model itself.
    progress = TrainingProgress(product_id, 2 * members if profile.gate_days else members)
    with listening(progress):
        yield
    progress.finish()


class TrainingProgress:
    """A progress artifact of a run, created with the first epoch: most days train nothing.

    The `networks` that train have equal shares of the progress; a member that trains twice is two of them.
    """

    def __init__(self, product_id: str, networks: int) -> None:
        self._product_id, self._networks = product_id, networks
        self._shares: list[float] = []
        self._newest: dict[str, int] = {}  # index of each member's newest network in the shares
        self._percent = 0.0
        self._artifact_id: Any = None
        self._updated_at = 0.0
        self._unavailable = False
        self._lock = threading.Lock()

    def __call__(self, member: str, epoch: int, epochs: int) -> None:
        """Record an epoch; update the artifact unless it was updated just now."""
        with self._lock:
            if epoch == 1 or member not in self._newest:
                self._newest[member] = len(self._shares)
                self._shares.append(0.0)
            self._shares[self._newest[member]] = epoch / epochs
            self._show(100.0 * min(1.0, sum(self._shares) / self._networks))

    def finish(self) -> None:
        """End at 100: without a twin, for which a series may be too short, fewer networks train."""
        with self._lock:
            if self._shares and self._percent < 100.0:
                self._show(100.0)

    def _show(self, percent: float) -> None:
        soon = time.monotonic() - self._updated_at < EVERY_SECONDS
        if self._unavailable or (soon and percent < 100.0):
            return
        self._updated_at, self._percent = time.monotonic(), percent
        try:
            self._update(percent)
        except (httpx.HTTPError, PrefectException):
            # A training is worth more than its progress.
            self._unavailable = True
            log.warning("%s: the progress of training can no longer be shown", self._product_id)

    def _update(self, percent: float) -> None:
        if self._artifact_id is not None:
            update_progress_artifact(self._artifact_id, percent)
            return
        self._artifact_id = create_progress_artifact(
            percent,
            key=artifact_key("training", self._product_id),
            description=f"{self._product_id}: training, networks: {self._networks}",
        )
