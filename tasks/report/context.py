"""Everything on a report's page, read from a home: forecasts, outcomes, scores, model, data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from storage.core.errors import BadInput
from storage.core.home import Home
from storage.core.intervals import COVERED, INTERVALS
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from storage.tables.scores import Scores
from tasks.core.forecast import Forecast
from tasks.core.history import PriceHistory
from tasks.core.types import Floats, Gap
from tasks.evaluation.components import ComponentComparison, compare_components, component_scores
from tasks.evaluation.scoreboard import FIGURES, Scoreboard
from tasks.evaluation.scoring import read_scoreboard
from tasks.forecast.publish import run_of
from tasks.prices.gaps import find_gaps
from tasks.report.model_section import ModelSection, read_model_section

# Forecasts that a page shows, and closes before the newest one.
MAX_FORECASTS, MAX_CLOSES = 365, 90
# Days of the running coverage, and how many it needs.
COVERAGE_DAYS, MIN_COVERAGE_DAYS = 90, 20
# Bins of the histogram of the PIT, and closes that each needs for the χ² test (Cochran 1954).
BINS, MIN_EXPECTED = 10, 5
# What chance leads to on 95 of 100 days lies between these levels.
CHANCE = {"lower": 0.025, "upper": 0.975}
SCORE_COLUMNS = ("close", *FIGURES, "pit")
COMPONENT_COLUMNS = ("component_names", "component_crps")


@dataclass(frozen=True)
class PitHistogram:
    """Counts of the PIT in equal bins, (bins,), of `days`, and the bounds that chance leads to in each.

    `p_value` is that of Pearson's χ² test of equally likely bins, None with fewer than five expected
    in each, where that test does not hold.
    """

    counts: tuple[int, ...]
    days: int
    expected: float
    lower: int
    upper: int
    p_value: float | None


@dataclass(frozen=True)
class ReportContext:
    """Everything on a page that was written on `day`.

    `forecast` is the run, with all its horizons, that published the forecast of the newest next day;
    `revisions` are the later ones of the same day. `forecast_count` counts the forecasts of the next day on
    all days. `closes` has `day_utc` and `close` up to the origin, a row a calendar day, NaN where one is
    missing; `past` the published forecasts of the next day by target day, joined with their scores.
    `earlier` is as `earlier_run` gives it, `coverage` and `observed_again` as the functions of these names.
    """

    day: date
    forecast: Forecast
    history: PriceHistory
    revisions: tuple[Forecast, ...]
    earlier: Forecast | None
    forecast_count: int
    closes: pd.DataFrame
    past: pd.DataFrame
    board: Scoreboard
    components: list[ComponentComparison]
    pit: PitHistogram | None
    coverage: pd.DataFrame
    model: ModelSection
    observed_again: pd.DataFrame

    @property
    def has_intervals(self) -> bool:
        """Whether the forecast is more than a point."""
        return self.forecast.first.quantiles is not None

    @property
    def scored(self) -> pd.DataFrame:
        """The past forecasts with an outcome."""
        return self.past[self.past["close"].notna()]

    @property
    def late_forecasts(self) -> int:
        """How many forecasts were made after their day was over, which a page must not hide."""
        ends = self.past["target_day"].dt.tz_localize(UTC) + timedelta(days=1)
        return int((pd.to_datetime(self.past["created_at"], utc=True) > ends).sum())

    @property
    def gaps(self) -> list[Gap]:
        """The gaps of the whole series, also those after the origin."""
        return find_gaps(self.history.stored_days)

    @property
    def last_day(self) -> date:
        """The newest day that is stored, or the origin where that is later."""
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
) -> ReportContext:
    """Everything on the page of one product and profile, written on `day`, as the home has it now.

    A run hands on its prices and its scoreboard; the prices are read here where there are none, or where the
    newest forecast was made from others.

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
    forecast = run_of(home, published[-1])
    if history is None or history.data_version != forecast.data_version:
        history = _read_history(home, forecast)
    past = past_forecasts(home, published)
    scored = past.dropna(subset=["crps", "close"])
    return ReportContext(
        day=day,
        forecast=forecast,
        history=history,
        revisions=revisions,
        earlier=earlier_run(home, forecast, published),
        forecast_count=count,
        closes=newest_closes(history),
        past=past,
        board=board or read_scoreboard(home, product_id, profile),
        components=compare_components(scored, component_scores(scored)),
        pit=pit_histogram(past["pit"].dropna().to_numpy(np.float64)),
        coverage=running_coverage(past),
        model=read_model_section(home, forecast),
        observed_again=observed_again(history.restated),
    )


def earlier_run(home: Home, forecast: Forecast, published: list[dict[str, Any]]) -> Forecast | None:
    """The published run of the origin before a forecast's; None where none of its days is still to come.

    `published` are the published rows of the next day, by target day, up to the forecast's own. There is none
    of points either: they have no fan to compare.
    """
    if len(published) == 1:
        return None
    run = run_of(home, published[-2])
    comparable = run.first.quantiles is not None and forecast.first.quantiles is not None
    return run if comparable and run.horizons[-1].target_day > forecast.origin_day else None


def _read_history(home: Home, forecast: Forecast) -> PriceHistory:
    """The prices that a forecast was made from, and the state of the product's series now."""
    product_id = forecast.product_id
    with Prices(home) as prices:
        return PriceHistory(
            product_id=product_id,
            candles=prices.closes_at(forecast.data_version),
            data_version=forecast.data_version,
            series=prices.series_of(forecast.data_version),
            stored_days=prices.days(product_id),
            quarantined=prices.quarantined(product_id),
            restated=prices.restated(product_id),
        )


def newest_closes(history: PriceHistory) -> pd.DataFrame:
    """The newest closes up to the origin, a row a calendar day, NaN where a day is missing."""
    days = pd.date_range(end=pd.Timestamp(history.origin), periods=MAX_CLOSES, unit="s", name="day_utc")
    closes = history.candles.set_index("day_utc")["close"].reindex(days)
    return closes[closes.first_valid_index() :].reset_index()


def past_forecasts(home: Home, published: list[dict[str, Any]]) -> pd.DataFrame:
    """The published forecasts of the next day, by target day, each with its newest score or none."""
    columns = ["prediction_id", *SCORE_COLUMNS, *COVERED, *COMPONENT_COLUMNS]
    product_id, first = published[0]["product_id"], published[0]["target_day"]
    scores = Scores(home).newest(product_id, first=first, columns=columns)
    joined = pd.DataFrame(published).merge(scores.to_pandas(), how="left", on="prediction_id")
    joined["target_day"] = joined["target_day"].astype("datetime64[s]")
    types = dict.fromkeys(SCORE_COLUMNS, "float64") | dict.fromkeys(COVERED, "boolean")
    return joined.astype(types).sort_values("target_day", ignore_index=True)


def observed_again(observations: pd.DataFrame) -> pd.DataFrame:
    """A row a day that was observed with more than one set of figures, by day.

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


def pit_histogram(levels: Floats) -> PitHistogram | None:
    """The histogram of the PIT of some outcomes, (days,); None without any."""
    if not len(levels):
        return None
    from scipy.special import chdtrc  # `scipy.stats` is slow to load

    counts, _ = np.histogram(levels, bins=BINS, range=(0.0, 1.0))
    lower, upper = binomial_quantiles(np.array(list(CHANCE.values())), len(levels), 1 / BINS)
    expected = len(levels) / BINS
    statistic = float(((counts - expected) ** 2 / expected).sum())
    p_value = float(chdtrc(BINS - 1, statistic)) if expected >= MIN_EXPECTED else None
    return PitHistogram(tuple(counts.tolist()), len(levels), expected, int(lower), int(upper), p_value)


def binomial_quantiles(level: Any, days: Any, share: Any) -> Floats:
    """The least number of hits in `days` that is not exceeded with the probability `level`."""
    from scipy.special import bdtr, bdtrik

    hits = np.ceil(bdtrik(level, days, share))
    fewer = np.maximum(hits - 1, 0)
    return np.asarray(np.where(bdtr(fewer, days, share) >= level, fewer, hits), dtype=np.float64)


def running_coverage(past: pd.DataFrame) -> pd.DataFrame:
    """The coverage of each interval over the last `COVERAGE_DAYS` scored forecasts, day by day.

    Returns:
        `target_day`, `days`, and for each percent `running_P`, `lower_P` and `upper_P`: the share, and the
        bounds that it stays within on 95 of 100 days when the interval is exactly as good as it claims.
    """
    scored = past.dropna(subset=list(COVERED))
    hits = scored[list(COVERED)].astype("float64").rolling(COVERAGE_DAYS, min_periods=MIN_COVERAGE_DAYS)
    shares, days = hits.mean(), hits.count()[COVERED[0]]
    running = {f"running_{percent}": shares[f"covered_{percent}"] for percent in INTERVALS}
    frame = pd.DataFrame({"target_day": scored["target_day"], "days": days, **running}).dropna()
    trials = frame["days"].to_numpy(dtype=np.int64)
    for percent in INTERVALS:
        for bound, level in CHANCE.items():
            frame[f"{bound}_{percent}"] = binomial_quantiles(level, trials, percent / 100) / trials
    return frame.reset_index(drop=True)
