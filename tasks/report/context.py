"""Everything on a report's page, read from a home: forecasts, outcomes, scores, model, data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from closecast.storage.core.errors import BadInput
from closecast.storage.core.home import Home
from closecast.storage.core.intervals import BOUNDS, COVERED
from closecast.storage.prices.decisions import Splits, factors_to_last_day
from closecast.storage.prices.price_store import Prices
from closecast.storage.tables.predictions import Predictions
from closecast.storage.tables.scores import Scores
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.types import Gap
from closecast.tasks.evaluation.components import ComponentComparison, compare_components, component_scores
from closecast.tasks.evaluation.scoreboard import ERRORS, FIGURES, HorizonScore, Scoreboard
from closecast.tasks.evaluation.scoring import read_scoreboard
from closecast.tasks.forecast.publish import run_of
from closecast.tasks.prices.gaps import find_gaps
from closecast.tasks.prices.ingest import history_of
from closecast.tasks.report.calibration import PitHistogram, pit_histogram, running_coverage

if TYPE_CHECKING:
    from closecast.tasks.report.model_section import ModelSection

# Forecasts that a page shows, and closes before the newest one.
MAX_FORECASTS, MAX_CLOSES = 365, 90
SCORE_COLUMNS = ("close", *FIGURES, "pit")
COMPONENT_COLUMNS = ("component_names", "component_crps")
PRICE_COLUMNS = ["last_close", "point", "close", *ERRORS, *BOUNDS]


@dataclass(frozen=True)
class ReportContext:
    """Everything on a page that was written on `day`.

    `forecast` is the run, with all its horizons, that published the forecast of the newest next day;
    `revisions` are the later ones of the same day. `asked` is the forecast, of one day, at the head of the
    page. `forecast_count` counts the forecasts of the next day on all days. `closes` has `day_utc` and
    `close` up to the origin, a row a calendar day, NaN where one is missing; `past` the published forecasts
    of the next day by target day, joined with their scores. `components`, `pit` and `coverage` are of those
    by models; `model` is None if the run is a fallback. `earlier` is as `earlier_run` gives it,
    `previous` as `previous_forecast`, `coverage` and `observed_again` as the functions of these names.
    """

    day: date
    forecast: Forecast
    asked: Forecast
    history: PriceHistory
    revisions: tuple[Forecast, ...]
    earlier: Forecast | None
    previous: Forecast | None
    forecast_count: int
    closes: pd.DataFrame
    past: pd.DataFrame
    board: Scoreboard
    components: list[ComponentComparison]
    pit: PitHistogram | None
    coverage: pd.DataFrame
    model: ModelSection | None
    observed_again: pd.DataFrame

    @property
    def has_intervals(self) -> bool:
        """Whether the forecast is more than a point."""
        return self.forecast.first.quantiles is not None

    @property
    def record(self) -> HorizonScore | None:
        """The scores so far of forecasts like the requested one: of its horizon, by models or fallbacks."""
        return self.board.of(self.asked.first.horizon, fallback=self.asked.basis == "fallback")

    @property
    def scored(self) -> pd.DataFrame:
        """The past forecasts with an outcome."""
        return self.past[self.past["close"].notna()]

    @property
    def late_forecasts(self) -> int:
        """How many forecasts were made after their day was over, which the page must state."""
        ends = self.past["target_day"].dt.tz_localize(UTC) + timedelta(days=1)
        return int((pd.to_datetime(self.past["created_at"], utc=True) > ends).sum())

    @property
    def gaps(self) -> list[Gap]:
        """The gaps of the whole series, also those after the origin."""
        return find_gaps(self.history.stored_days)

    @property
    def last_day(self) -> date:
        """The newest stored day, or the origin if that is later."""
        stored = self.history.stored_days
        newest: date = max([self.forecast.origin_day, *stored.tail(1).dt.date])
        return newest

    @property
    def restated(self) -> pd.DataFrame:
        """The days of `observed_again` whose close was restated."""
        return self.observed_again[self.observed_again["closes"] > 1]


def products_with_forecasts(home: Home) -> list[tuple[str, str]]:
    """Each product and profile that there is a forecast of, by name."""
    names = ["product_id", "profile"]
    pairs = Predictions(home).read(None, names).group_by(names).aggregate([])
    return sorted((row["product_id"], row["profile"]) for row in pairs.to_pylist())


def count_forecasts(home: Home, product_id: str, profile: str) -> int:
    """How many forecasts of the next day there are of a product by a profile, revisions among them."""
    next_day = (ds.field("profile") == profile) & (ds.field("horizon") == 1)
    rows = Predictions(home).read(next_day, ["prediction_id"], product_id)
    return int(rows.num_rows)


def read_context(
    home: Home,
    product_id: str,
    profile: str,
    day: date,
    history: PriceHistory | None = None,
    board: Scoreboard | None = None,
    target_day: date | None = None,
) -> ReportContext:
    """Everything on the page of one product and profile, written on `day`, as the home has it now.

    A run passes its prices and its scoreboard; the prices are read here if it passes none, or if the
    newest forecast was made from others. It also passes the requested day, which the page shows first, even
    without a newer close.

    Raises:
        BadInput: there is no forecast yet.
        Damaged: the closes or the model of the newest forecast are not the recorded ones.
    """
    count = count_forecasts(home, product_id, profile)  # first, so that none is counted that is not read
    rows = Predictions(home).newest(product_id, profile, MAX_FORECASTS).to_pylist()
    if not rows:
        raise BadInput(
            f"a report needs a forecast, and there is none of {product_id} by profile {profile}:"
            f" make one with `closecast run --product {product_id} --profile {profile}`"
        )
    newest = [row for row in rows if row["target_day"] == rows[-1]["target_day"]]
    revisions = tuple(Forecast.from_rows([row]) for row in newest[1:])
    published = [row for row in rows if row["revision"] == 0]
    forecast = run_of(home, published[-1]).fan
    if history is None or history.data_version != forecast.data_version:
        history = _read_history(home, forecast)
    asked = forecast_asked_for(home, forecast, target_day)
    past = past_forecasts(home, published, history.splits)
    by_model = past[past["basis"] != "fallback"]
    scored = by_model.dropna(subset=["crps", "close"])
    return ReportContext(
        day=day,
        forecast=forecast,
        asked=asked,
        history=history,
        revisions=revisions,
        earlier=earlier_run(home, forecast, published, history.splits),
        previous=previous_forecast(forecast, asked, published, history.splits),
        forecast_count=count,
        closes=newest_closes(history),
        past=past,
        board=board or read_scoreboard(home, product_id, profile, history.splits_in_force),
        components=compare_components(scored, component_scores(scored)),
        pit=pit_histogram(by_model["pit"].dropna().to_numpy(np.float64)),
        coverage=running_coverage(by_model),
        model=_model_section(home, forecast),
        observed_again=observed_again(history.restated),
    )


def _model_section(home: Home, forecast: Forecast) -> ModelSection | None:
    if not forecast.model_version:
        return None
    from closecast.tasks.report.model_section import read_model_section  # a page that is kept does without

    return read_model_section(home, forecast)


def forecast_asked_for(home: Home, forecast: Forecast, target_day: date | None) -> Forecast:
    """The published forecast of only this day, if it is later than the run's nearest one.

    Otherwise, or if there is none, the run's forecast of the nearest day.
    """
    horizon = (target_day - forecast.origin_day).days if target_day else 1
    if horizon > 1:
        rows = Predictions(home).between(
            forecast.product_id, target_day, target_day, forecast.profile, horizon=horizon
        )
        if rows.num_rows:
            return Forecast.from_rows(rows.slice(0, 1).to_pylist())
    return replace(forecast, horizons=(forecast.first,))


def earlier_run(
    home: Home, forecast: Forecast, published: list[dict[str, Any]], splits: Splits = ()
) -> Forecast | None:
    """The published run of the origin before a forecast's; None if none of its days is still to come.

    `published` are the published rows of the next day, by target day, up to the forecast's own. There is none
    of points either: they have no fan to compare. Nor have two runs with a split between them.
    """
    if len(published) == 1:
        return None
    run = run_of(home, published[-2]).fan
    if _is_split_between(run, forecast, splits):
        return None
    comparable = run.first.quantiles is not None and forecast.first.quantiles is not None
    return run if comparable and run.horizons[-1].target_day > forecast.origin_day else None


def previous_forecast(
    forecast: Forecast, asked: Forecast, published: list[dict[str, Any]], splits: Splits = ()
) -> Forecast | None:
    """The forecast of only the day that the page showed the day before, to compare with the requested one.

    It is the one published before, or the run's forecast of the day before if that is further ahead.
    None if there is none, or a split between them.
    """
    if asked.first.horizon > 1:
        return forecast.only(asked.first.horizon - 1)
    previous = Forecast.from_rows(published[-2:-1]) if len(published) > 1 else None
    return None if previous and _is_split_between(previous, forecast, splits) else previous


def _is_split_between(earlier: Forecast, later: Forecast, splits: Splits) -> bool:
    return any(earlier.origin_day < day <= later.origin_day for day, _ in splits)


def _read_history(home: Home, forecast: Forecast) -> PriceHistory:
    """The prices that a forecast was made from, and the state of the product's series now."""
    product_id = forecast.product_id
    with Prices(home) as prices:
        return replace(
            history_of(product_id, prices.prices_at(forecast.data_version)),
            stored_days=prices.days(product_id),
            quarantined=prices.quarantined(product_id),
            decisions=prices.recorded(product_id).decisions,
            restated=prices.restated(product_id),
        )


def newest_closes(history: PriceHistory) -> pd.DataFrame:
    """The newest closes up to the origin, one row per calendar day, NaN for a missing day."""
    days = pd.date_range(end=pd.Timestamp(history.origin), periods=MAX_CLOSES, unit="s", name="day_utc")
    closes = history.candles.set_index("day_utc")["close"].reindex(days)
    return closes[closes.first_valid_index() :].reset_index()


def past_forecasts(home: Home, published: list[dict[str, Any]], splits: Splits) -> pd.DataFrame:
    """The published forecasts of the next day, by target day, each with its newest score or none.

    Across a split, prices and errors are in the units of the last day, as the closes are.
    """
    columns = ["prediction_id", *SCORE_COLUMNS, *COVERED, *COMPONENT_COLUMNS]
    product_id, first = published[0]["product_id"], published[0]["target_day"]
    scores = Scores(home).newest(product_id, first=first, columns=columns)
    joined = pd.DataFrame(published).merge(scores.to_pandas(), how="left", on="prediction_id")
    joined["target_day"] = joined["target_day"].astype("datetime64[s]")
    types = dict.fromkeys(SCORE_COLUMNS, "float64") | dict.fromkeys(COVERED, "boolean")
    joined = joined.astype(types).sort_values("target_day", ignore_index=True)
    if splits:
        factors = factors_to_last_day(pd.to_datetime(joined["origin_day"]), splits)
        joined[PRICE_COLUMNS] = joined[PRICE_COLUMNS].astype("float64").mul(factors, axis=0)
    return joined


def observed_again(observations: pd.DataFrame) -> pd.DataFrame:
    """One row for each day that was observed with more than one set of figures, by day.

    Returns:
        `day_utc`, `first_close`, `newest_close`, `closes` (how many different ones), `observed_at`.
    """
    return (
        observations.groupby("day_utc")
        .agg(
            first_close=("close", "first"),
            newest_close=("close", "last"),
            closes=("close", "nunique"),
            observed_at=("observed_at", "last"),
        )
        .reset_index()
    )
