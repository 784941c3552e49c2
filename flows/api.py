"""What `import closecast` offers to scripts and notebooks: a run, a backtest, the stored figures, the models.

Every function uses the same home as the commands, and raises a `ClosecastError` with a one-line message. Days
are UTC, prices are in the product's quote currency. Frames have days as `datetime64[s]` without a time zone,
moments as `datetime64[us, UTC]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from closecast.flows import embedded
from closecast.flows.arguments import (
    Day,
    Folder,
    check_horizon,
    check_path,
    check_settings,
    check_text,
    check_whole,
    parse_any_day,
    parse_span,
)
from closecast.flows.cli.options import existing_home
from closecast.flows.cli.prompt import Options, run_products
from closecast.flows.config import (
    configured_backfill_days,
    configured_product,
    configured_profile,
    configured_source,
)
from closecast.flows.settings import market_of, prepared_home, require_one_kind_of_workers
from closecast.flows.workers import require_importable_script
from closecast.storage.core.errors import BadSetting
from closecast.storage.core.home import Home, check_product_id
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.frames import dated_frame
from closecast.tasks.profiles.named import profile_named

if TYPE_CHECKING:
    import pandas as pd

    from closecast.tasks.backtest.result import BacktestResult
    from closecast.tasks.core.model import Model
    from closecast.tasks.core.settings import Source

# Of the forecast, in the frame of scores.
FORECAST_COLUMNS = ["prediction_id", "profile", "origin_day", "basis", "revision", "last_close", "point"]


def run(
    product_id: str | None = None,
    *,
    as_of: Day | None = None,
    profile: str | None = None,
    source: Source | None = None,
    csv: Folder | None = None,
    settings: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    decimal: str | None = None,
    dates: str | None = None,
    symbol: str | None = None,
    on_duplicate: str = "refuse",
    replace_source: bool = False,
    backfill_days: int | None = None,
    home: Folder | None = None,
    verbose: bool = False,
) -> Forecast:
    """Make the day's forecast as `closecast run` does; a second call returns the stored forecast.

    Prefect runs on the server that you have configured, else on a temporary one that ends with this process.
    The function works in a notebook and in any thread; if two threads call it, the second one waits.

    Args:
        product_id: exchange product; by default the configuration's first one, else BTC-USD.
        as_of: last day that the run may know; by default the newest complete one.
        profile: `calibrated`, `article`, the name of an installed profile, or `package.module:Class`; by
            default the configuration's, else `calibrated`.
        source: `sample`, `coinbase` or `csv`; by default the product's stored source, else the sample.
        csv: file of daily candles.
        settings: fields of the profile to change, such as {"members": 5}.
        columns: the file's columns by heading or number, such as {"date": "Day", "close": "Last"}.
        decimal: the decimal mark of its figures, `point` or `comma`.
        dates: the first part of its dates, `day-first` or `month-first`.
        symbol: the rows to read if the file has several coins.
        on_duplicate: which row counts if the file has a day twice: `refuse`, `first` or `last`.
        replace_source: restart the product's prices from another source.
        backfill_days: also make the forecasts of up to this many missed days, 0 to 366.
        home: folder of all data; by default that of the commands.
        verbose: print the run's log lines.

    Returns:
        The forecast, from the day after `as_of` on. `to_frame()` has one row per day.

    Raises:
        ClosecastError: BadInput, NotEnoughHistory, StaleSeries, ExchangeError, StorageError,
            PrefectUnavailable; data stored before the error stay.
    """
    market = market_of(
        product_id=configured_product(check_text("product_id", product_id)),
        source=source if csv else configured_source(source),
        csv=check_path("csv", csv),
        columns=columns or {},
        decimal=decimal,
        dates=dates,
        symbol=symbol,
        on_duplicate=on_duplicate,
        replace_source=replace_source,
    )
    name, changed = configured_profile(check_text("profile", profile), check_settings(settings))
    profile_named(name, changed)  # refuses a bad one before anything is made
    days = check_whole("backfill_days", configured_backfill_days(backfill_days), 0, 366)
    origin, data_home = parse_any_day(as_of), prepared_home(check_path("home", home))
    options = Options(name, changed, origin, str(data_home.root), days)
    with embedded.session(data_home, verbose=verbose):
        (prediction_id,) = run_products(data_home, [market], options, embedded)
    return _forecast_from(data_home, prediction_id)


def _forecast_from(home: Home, prediction_id: str) -> Forecast:
    """The stored forecast from that day on, without the fallbacks that were added to a model's."""
    from closecast.tasks.forecast.publish import stored_run

    stored = stored_run(home, prediction_id)
    assert stored is not None  # noqa: S101 (it has just been made, or found)
    row = stored.row
    later = [one for one in stored.rows if one["horizon"] >= row["horizon"] and one["basis"] == row["basis"]]
    return Forecast.from_rows(later)


def predictions(
    product_id: str | None = None,
    *,
    first: Day | None = None,
    last: Day | None = None,
    horizon: int | None = None,
    profile: str | None = None,
    home: Folder | None = None,
) -> pd.DataFrame:
    """The stored forecasts, as in `closecast predictions --format csv`.

    Args:
        product_id: only this product.
        first: first target day, included.
        last: last target day, included.
        horizon: only forecasts this many days ahead.
        profile: only this profile.
        home: as for `run`.

    Returns:
        One row per forecast, with every column of the table `predictions`, sorted by target day, horizon and
        revision. Revision 0 is the published forecast.

    Raises:
        ClosecastError: there is no such home or product, or a day is malformed.
    """
    from closecast.storage.tables.predictions import Predictions

    span, horizon = parse_span(first, last), check_horizon(horizon)
    table, profile = Predictions(_home_of(home, product_id)), check_text("profile", profile)
    return dated_frame(table.between(product_id, *span, profile, horizon=horizon))


def scores(
    product_id: str | None = None,
    *,
    first: Day | None = None,
    last: Day | None = None,
    horizon: int | None = None,
    profile: str | None = None,
    home: Folder | None = None,
) -> pd.DataFrame:
    """The newest score of each scored forecast, with columns of the forecast.

    Runs score forecasts; this function only reads. The arguments are those of `predictions`.

    Returns:
        One row per scored forecast, sorted by target day and horizon: the columns of the table `scores`, then
        `profile`, `origin_day`, `basis`, `revision`, `last_close` and `point`.

    Raises:
        ClosecastError: there is no such home or product, or a day is malformed.
    """
    from closecast.storage.tables.predictions import Predictions
    from closecast.storage.tables.scores import Scores

    span, horizon = parse_span(first, last), check_horizon(horizon)
    data_home, profile = _home_of(home, product_id), check_text("profile", profile)
    forecasts = Predictions(data_home).between(product_id, *span, profile, FORECAST_COLUMNS, horizon=horizon)
    newest = dated_frame(Scores(data_home).newest(product_id, *span))
    joined = newest.merge(dated_frame(forecasts), on="prediction_id")
    return joined.sort_values(["target_day", "horizon", "product_id"], kind="stable", ignore_index=True)


def backtest(
    product_id: str | None = None,
    *,
    start: Day | None = None,
    end: Day | None = None,
    profile: str | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int = 1,
    dask: str | None = None,
    home: Folder | None = None,
    verbose: bool = False,
) -> BacktestResult:
    """Evaluate a profile on stored closes by rolling origin, as `closecast backtest` does.

    An interrupted backtest continues where it stopped.

    Args:
        product_id: as for `run`; the backtest uses its stored closes.
        start: first origin; a year before the end by default.
        end: last origin; the newest one with an outcome by default.
        profile: as for `run`.
        settings: as for `run`.
        workers: number of processes on this machine that do the work, 1 to 256. Worker processes import the
            calling script, so with more than one it needs `if __name__ == "__main__":` before its calls.
        dask: address of a Dask scheduler, such as tcp://HOST:8786.
        home: as for `run`.
        verbose: as for `run`.

    Returns:
        The result; `to_frame()` has one row per horizon. Every origin is in the table `backtests`.

    Raises:
        ClosecastError: as `run`, and ClusterUnusable, WorkerLost.
    """
    from closecast.flows import clock
    from closecast.tasks.backtest.plan import plan_backtest

    product_id = configured_product(check_text("product_id", product_id))
    span, dask = parse_span(start, end), check_text("dask", dask)
    name, changed = configured_profile(check_text("profile", profile), check_settings(settings))
    chosen, workers = profile_named(name, changed), check_whole("workers", workers, 1, 256)
    require_one_kind_of_workers(dask, workers)
    if workers > 1:
        require_importable_script()
    data_home = prepared_home(_home_of(home, product_id).root)
    # Refuses what cannot be tested before anything is started.
    plan_backtest(data_home, product_id, chosen, start=span[0], end=span[1], moment=clock.now())
    with embedded.session(data_home, verbose=verbose):
        server = embedded.start(data_home)
        from closecast.flows.backtest import rolling_backtest

        with embedded.ready(server):
            root = str(data_home.root)
            return rolling_backtest(product_id, name, changed, *span, root, dask, workers)


def load_model(
    product_id: str | None = None,
    profile: str | None = None,
    *,
    version: str | int | None = None,
    home: Folder | None = None,
) -> Model:
    """Load a version of a product's model, and check the recorded hashes of its files.

    `lineage` tells what the version was made from, and `fitted` has its networks and first quantile offsets.
    `run` forecasts with the champion and the calibrator's newest offsets.

    Args:
        product_id: as for `run`.
        profile: as for `run`.
        version: its number, or `champion` or `challenger`; the champion by default.
        home: as for `run`.

    Raises:
        BadInput: there is no such product, profile or version.
        Damaged: a file is missing or was changed.
    """
    from closecast.storage.models.registry import CHAMPION, Models
    from closecast.tasks.training.registration import read_bundle

    product_id = configured_product(check_text("product_id", product_id))
    kind, _ = configured_profile(check_text("profile", profile))
    name = profile_named(kind).name
    models = Models(_home_of(home, product_id))
    wanted = CHAMPION if version is None else str(version)
    stored = models.versions(product_id, name)
    found = next((one for one in stored if wanted in (one.version, *one.aliases)), None)
    if found is None:
        known = [", ".join((one.version, *one.aliases)) for one in stored]
        raise BadSetting(
            f"closecast.{product_id}.{name} has no version {wanted:.60}; it has {'; '.join(known)}"
            if known
            else f"closecast.{product_id}.{name} has no version yet: make a run first"
        )
    bundle = models.open(found)
    # With the settings that it was made with, which today's may differ from.
    return read_bundle(bundle, profile_named(kind, bundle.read_json("settings.json")), found.version)


def _home_of(home: Folder | None, product_id: str | None) -> Home:
    """The existing home, with closes of the product if one is named."""
    product = check_text("product_id", product_id)
    return existing_home(check_path("home", home), None if product is None else check_product_id(product))
