"""What Prefect's page shows of a run: forecasts, figures, and the progress of a training."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from closecast.storage.core.home import Home
from closecast.storage.models.registry import Models
from closecast.storage.tables.predictions import Predictions
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.formatting import artifact_key, markdown_table
from closecast.tasks.core.quantiles import INTERVAL_INDEXES, MEDIAN
from closecast.tasks.core.steps import step
from closecast.tasks.evaluation.scoreboard import Scoreboard
from closecast.tasks.evaluation.scoreboard import markdown as scoreboard_markdown
from closecast.tasks.evaluation.scoring import read_scoreboard
from closecast.tasks.network.epoch import listening
from closecast.tasks.prices.gaps import find_gaps
from closecast.tasks.prices.ingest import IngestedPrices
from closecast.tasks.profiles.base import Profile
from closecast.tasks.report.events import announce_forecast, raise_alarms
from closecast.tasks.report.model_section import as_data_address, figure_files
from closecast.tasks.report.side_calls import Progress, create_artifact, show_artifact, side_call

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

MAX_FORECASTS = 30


@step(timeout_seconds=120, run_name="{forecast.product_id}")
def show_artifacts(
    home: Home, forecast: Forecast, run: Forecast, prices: IngestedPrices, warning: str | None = None
) -> Scoreboard:
    """Announce a run's forecast, emit the alarms, and publish the Markdown, table and image artifacts.

    `forecast` is the requested one, of one day. The `warning` is about a model that is too old or missing.
    Returns the scoreboard of the product and profile. A refusal by Prefect's server is a warning.
    """
    product_id, profile = forecast.product_id, forecast.profile
    board = read_scoreboard(home, product_id, profile, prices.history.splits_in_force)
    announce_forecast(home, forecast)
    raise_alarms(home, forecast, board.alarms, warning)
    markdown = forecast_markdown(forecast, run, prices, board, warning)
    rows, figures = newest_forecasts(home, product_id, profile), _figures(home, run)

    def key(name: str) -> str:
        return artifact_key(name, product_id, profile, home.label)

    def show(client: SyncPrefectClient) -> None:
        of_target = f"{product_id}: forecast of the close of {forecast.target}"
        create_artifact(client, "markdown", key("forecast"), markdown, of_target)
        newest = f"{product_id}: the newest {MAX_FORECASTS} forecasts"
        create_artifact(client, "table", key("forecasts"), rows, newest)
        for name, address in figures.items():
            of_version = f"{product_id}: {name} of version {run.model_version}"
            create_artifact(client, "image", key(name), address, of_version)

    side_call(f"the artifacts of {product_id}", show)
    return board


def _figures(home: Home, run: Forecast) -> dict[str, str]:
    """The figures of the version that this run's day trained, as data addresses, by their names.

    Later days show none: Prefect's database would keep the same 80 kB for each of them.
    """
    if run.model_version is None:
        return {}
    models = Models(home)
    version = models.version(run.product_id, run.profile, run.model_version)
    if version.tags["origin_day"] != str(run.origin_day):
        return {}
    bundle = models.open(version)
    return {name: as_data_address(bundle.read(file)) for name, file in figure_files(bundle).items()}


def forecast_markdown(
    forecast: Forecast, run: Forecast, prices: IngestedPrices, board: Scoreboard, warning: str | None = None
) -> str:
    """The requested forecast, its versions, its run, its components, and the scores so far."""
    history = prices.history
    parts = [
        f"# {forecast.product_id}: close of {forecast.target}",
        markdown_table(["", ""], forecast.summary()),
        f"Closes from {history.source}: {len(history.candles)} days, {history.first_day} to {history.origin};"
        f" {prices.new_days} new, {prices.restated_days} restated, {prices.quarantined} quarantined.",
        *(
            f"Gap: {first} to {last}, days missing: {(last - first).days + 1}."
            for first, last in find_gaps(history.candles["day_utc"])
        ),
    ]
    if len(run.horizons) > 1:
        parts += ["## The next days", markdown_table(*run.fan())]
    if forecast.first.components:
        low, high = INTERVAL_INDEXES[80]
        rows = []
        for name, closes in forecast.first.components.items():
            rows.append([name, forecast.price(closes[MEDIAN]), forecast.prices(closes[low], closes[high])])
        title = f"## Component forecasts of {forecast.first.target_day}"
        parts += [title, markdown_table(["component", "median", "80 %"], rows)]
    if warning:
        parts.append(f"**Warning:** {warning}")
    if board.last is not None or board.fallbacks:
        parts += ["## Scoreboard", scoreboard_markdown(board)]
    return "\n\n".join(parts)


def newest_forecasts(home: Home, product_id: str, profile: str) -> list[dict[str, Any]]:
    """The newest forecasts, the newest first, as plain rows for a table."""
    names = (
        *("target_day", "lower_80", "point", "upper_80", "lower_95", "upper_95", "last_close"),
        *("quote_currency", "revision", "basis", "model_version", "prediction_id"),
    )
    rows = Predictions(home).newest(product_id, profile, MAX_FORECASTS, names).to_pylist()
    return [
        {name: row[name] if isinstance(row[name], float | int) else str(row[name] or "") for name in names}
        for row in reversed(rows)
    ]


@step(timeout_seconds=120)
def show_products(home: Home, forecasts: Mapping[str, str], reasons: Mapping[str, str]) -> None:
    """Publish each product's forecast, given by its prediction id, or the reason why it has none."""
    table = Predictions(home)
    rows = [table.find(prediction_id, product_id=product) for product, prediction_id in forecasts.items()]
    show_artifact(
        "markdown",
        artifact_key("products", home.label),
        products_markdown([Forecast.from_rows([row]) for row in rows if row is not None], reasons),
        f"products with a forecast: {len(forecasts)}, without one: {len(reasons)}",
    )


def products_markdown(forecasts: Sequence[Forecast], reasons: Mapping[str, str]) -> str:
    """The forecast of each product of a day, or the reason why it has none."""
    rows = []
    for forecast in forecasts:
        prices = dict(forecast.price_summary())
        interval = prices.get("80 %", "a point without intervals")
        by = {"pool": " (pool)", "fallback": " (fallback)"}.get(forecast.basis, "")
        rows.append(
            [forecast.product_id, forecast.target + by, prices["forecast"], interval, prices["last close"]]
        )
    table = markdown_table(["product", "day", "forecast", "80 %", "last close"], rows)
    failed = [f"- **{product}** has no forecast: {reason}" for product, reason in reasons.items()]
    return "\n".join([*([table, ""] if rows else []), *failed]).strip()


@contextmanager
def training_progress(home: Home, product_id: str, profile: Profile) -> Iterator[None]:
    """Show the epochs of a training in the block as a progress artifact of the run."""
    members = int(getattr(profile.settings, "members", 1))
    # With a gate each member trains twice: in the twin, then in the model itself.
    networks = 2 * members if profile.gate_days else members
    key, description = artifact_key("training", product_id, home.label), f"{product_id}: training"
    progress = TrainingProgress(Progress(key, f"{description}, networks: {networks}"), networks)
    with listening(progress):
        yield
    progress.finish()


class TrainingProgress:
    """The progress of networks that train, as an artifact from the first epoch on: most days train nothing.

    The `networks` have equal shares of the progress; a member that trains twice is two of them.
    """

    def __init__(self, progress: Progress, networks: int) -> None:
        self._progress, self._networks = progress, networks
        self._shares: dict[str, list[float]] = {}  # of each member's networks
        self._lock = threading.Lock()

    def __call__(self, member: str, epoch: int, epochs: int) -> None:
        """Record an epoch."""
        with self._lock:
            shares = self._shares.setdefault(member, [])
            if epoch == 1 or not shares:
                shares.append(0.0)
            shares[-1] = epoch / epochs
            percent = 100.0 * min(1.0, sum(map(sum, self._shares.values())) / self._networks)
        self._progress.show(percent)

    def finish(self) -> None:
        """End at 100: without a twin, for which a series may be too short, fewer networks train."""
        if self._shares:
            self._progress.show(100.0)
