"""What a person sees of a run in Prefect: the forecast, the last ones, the figures."""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import httpx
import pyarrow.dataset as ds
from prefect import task
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from storage.core.home import Home
from storage.models.registry import Models
from storage.tables.delta import all_of
from storage.tables.predictions import Predictions
from storage.tables.schemas import components
from tasks.core.formatting import artifact_key, usd
from tasks.core.quantiles import INTERVAL_INDEXES, MEDIAN
from tasks.core.steps import STEP
from tasks.evaluation.scoreboard import Scoreboard
from tasks.evaluation.scoreboard import markdown as scoreboard_markdown
from tasks.evaluation.scoring import board_of
from tasks.prices.series import Series
from tasks.report.events import raise_alarms

log = logging.getLogger("closecast.artifacts")

LAST_FORECASTS = 30
# A request to the server takes some milliseconds, and so may an epoch.
EVERY_SECONDS = 1.0
LOW, HIGH = INTERVAL_INDEXES[80]


def forecast_markdown(
    row: Mapping[str, Any],
    series: Series,
    board: Scoreboard | None = None,
    warning: str | None = None,
    baselines: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """The forecast, what it was made from, the state of the data, and how forecasts did so far."""
    change = row["point"] / row["last_close"] - 1.0
    lines = [
        f"# {row['product_id']}: close of {row['target_day']}",
        "",
        "| | |",
        "|---|---|",
        f"| forecast | **{usd(row['point'])}** ({change:+.2%} on the last close) |",
        f"| last close ({row['origin_day']}), the naive forecast | {usd(row['last_close'])} |",
        *(
            f"| {level} % | {usd(row[f'lower_{level}'])} to {usd(row[f'upper_{level}'])} |"
            for level in (50, 80, 95)
            if row["quantiles"] is not None
        ),
        f"| profile | {row['profile']}{'' if row['quantiles'] else ': a point without intervals'} |",
        f"| revision | {row['revision']} |",
        f"| model | closecast.{row['product_id']}.{row['profile']} version {row['model_version']} |",
        f"| data | `{row['data_version']}` |",
        f"| settings | `{row['settings_version']}` |",
        f"| code | `{row['code_version']}` |",
        f"| prediction | `{row['prediction_id']}` |",
        "",
        f"Closes from {series.source}: {series.days} days, {series.first_day} to {series.origin};"
        f" {series.new_days} new, {series.restated_days} restated, {series.quarantined} quarantined.",
    ]
    for first, last in series.gaps:
        lines.append(f"\nHole: {first} to {last}, {(last - first).days + 1} days.")
    if baselines:
        lines += ["", "## Beside it", "", "| from the same past | median | 80 % |", "|---|---|---|"]
        lines += [
            f"| {name} | {usd(quantiles[MEDIAN])} | {usd(quantiles[LOW])} to {usd(quantiles[HIGH])} |"
            for name, quantiles in baselines.items()
        ]
    lines += [f"\n**Warning:** {text}" for text in (warning,) if text]
    if board is not None and board.last is not None:
        lines += ["", "## Scoreboard", "", scoreboard_markdown(board)]
    return "\n".join(lines)


def beside(home: Home, row: Mapping[str, Any]) -> dict[str, list[float]]:
    """The quantiles in USD of every method that was kept with a forecast, (23,) each, by its name."""
    wanted = all_of(*(ds.field(name) == row[name] for name in ("prediction_id", "target_day")))
    table = components(home, row["product_id"])
    found = table.read(wanted, ["component", "quantiles"]).to_pylist()
    return {one["component"]: one["quantiles"] for one in found}


def last_forecasts(home: Home, product_id: str, profile: str) -> list[dict[str, Any]]:
    """The newest forecasts, the newest first, as plain rows for a table."""
    names = ("target_day", "point", "last_close", "revision", "model_version", "prediction_id")
    rows = Predictions(home).newest(product_id, profile, LAST_FORECASTS, names).to_pylist()
    return [
        {name: row[name] if isinstance(row[name], float | int) else str(row[name]) for name in names}
        for row in reversed(rows)
    ]


@task(name="show-artifacts", task_run_name="show-artifacts {series.product_id}", timeout_seconds=120, **STEP)
def show_artifacts(home: Home, row: dict[str, Any], series: Series, warning: str | None = None) -> None:
    """Publish the run's markdown, table and image artifacts, and warn of what the scoreboard alarms about."""
    product_id, profile = row["product_id"], row["profile"]
    board = board_of(home, product_id, profile)
    raise_alarms(row, board.alarms, warning)
    create_markdown_artifact(
        forecast_markdown(row, series, board, warning, beside(home, row)),
        key=artifact_key("forecast", product_id, profile),
        description=f"{product_id}: forecast of the close of {row['target_day']}",
    )
    create_table_artifact(
        last_forecasts(home, product_id, profile),
        key=artifact_key("forecasts", product_id, profile),
        description=f"{product_id}: the last {LAST_FORECASTS} forecasts",
    )
    models = Models(home)
    bundle = models.open(models.version(product_id, profile, row["model_version"]))
    for name in (name for name in bundle.manifest if name.startswith("figures/")):
        figure, png = PurePosixPath(name).stem, bundle.read(name)
        create_image_artifact(
            # The picture itself, so that it is seen wherever the UI is opened.
            "data:image/png;base64," + base64.b64encode(png).decode(),
            key=artifact_key(figure, product_id, profile),
            description=f"{product_id}: {figure}",
        )


def products_markdown(rows: Sequence[Mapping[str, Any]], failed: Mapping[str, str]) -> str:
    """What became of each product of a day: its forecast, or why it has none."""
    lines = ["| product | day | forecast | 80 % | last close |", "|---|---|---|---|---|"]
    for row in rows:
        low, high = row["lower_80"], row["upper_80"]
        band = f"{usd(low)} to {usd(high)}" if low is not None else "a point without intervals"
        lines.append(
            f"| {row['product_id']} | {row['target_day']} | **{usd(row['point'])}** | {band} |"
            f" {usd(row['last_close'])} |"
        )
    reasons = [f"- **{product}** has no forecast: {reason}" for product, reason in failed.items()]
    return "\n".join([*(lines if rows else []), "", *reasons]).strip()


@task(name="show-products", task_run_name="show-products", timeout_seconds=120, **STEP)
def show_products(home: Home, made: Mapping[str, str], failed: Mapping[str, str]) -> None:
    """Publish what became of each product.

    Args:
        home: of the forecasts.
        made: the prediction id of each product that has its forecast.
        failed: the reason of each that has none.
    """
    table = Predictions(home)
    found = [table.find(prediction_id, product_id=product) for product, prediction_id in made.items()]
    create_markdown_artifact(
        products_markdown([row for row in found if row is not None], failed),
        key="products",
        description=f"forecasts made: {len(made)}, without one: {len(failed)}",
    )


class TrainingProgress:
    """A progress artifact of a run, created with the first epoch: most days train nothing.

    Args:
        product_id: of the model.
        members: how many members train, each with an equal share of the progress.
    """

    def __init__(self, product_id: str, members: int) -> None:
        self._product_id, self._members = product_id, members
        self._shares: dict[str, float] = {}
        self._artifact_id: Any = None
        self._updated_at, self._unavailable = 0.0, False
        self._lock = threading.Lock()

    def __call__(self, member: str, epoch: int, epochs: int) -> None:
        """Record an epoch; update the artifact unless it was updated just now."""
        from prefect.exceptions import PrefectException

        with self._lock:
            self._shares[member] = epoch / epochs
            done = len(self._shares) == self._members and min(self._shares.values()) >= 1.0
            if self._unavailable or (not done and time.monotonic() - self._updated_at < EVERY_SECONDS):
                return
            self._updated_at = time.monotonic()
            try:
                self._update(100.0 * min(1.0, sum(self._shares.values()) / self._members))
            except (httpx.HTTPError, PrefectException):
                # A training is worth more than its progress.
                self._unavailable = True
                log.warning("%s: the progress of training can no longer be shown", self._product_id)

    def _update(self, percent: float) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if self._artifact_id is not None:
            update_progress_artifact(self._artifact_id, percent)
            return
        self._artifact_id = create_progress_artifact(
            percent,
            key=artifact_key("training", self._product_id),
            description=f"{self._product_id}: training, {self._members} members",
        )
