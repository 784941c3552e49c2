"""What a report is made of, read from the tables of a home: forecasts, what came, and how they did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from storage.core.errors import BadInput
from storage.core.home import Home
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from storage.tables.schemas import components
from storage.tables.scores import Scores
from tasks.core.quantiles import crps
from tasks.core.types import Floats
from tasks.evaluation.scoreboard import PERCENTS, Scoreboard
from tasks.evaluation.scoring import board_of
from tasks.evaluation.significance import MIN_DAYS, diebold_mariano, over
from tasks.report.data_section import Health, health_of
from tasks.report.model_section import ModelFacts, model_of

# Forecasts that a page shows, and closes beside the newest.
DAYS, CLOSES = 365, 90
# Days of the running coverage, and the fewest that it is drawn from.
WINDOW, MIN_DAYS_DRAWN = 90, 20
# Of the histogram of the PIT; and what a bin should hold for the χ² test (Cochran 1954).
BINS, MIN_EXPECTED = 10, 5
NOISE = (0.025, 0.975)
SCORED = ("prediction_id", "close", "error", "naive_error", "crps", "naive_crps", "pit")
HITS = tuple(f"hit_{percent}" for percent in PERCENTS)


@dataclass(frozen=True)
class Rival:
    """Another method on the same days: its mean CRPS, ours over it, and the Diebold-Mariano p value."""

    method: str
    days: int
    crps: float
    ratio: float | None
    p_value: float | None


@dataclass(frozen=True)
class Uniform:
    """Counts of the PIT in equal bins, (bins,), of `days`, and where chance alone leads each of them.

    `p_value` is of Pearson's χ² test that all bins are equally likely, None with fewer than five expected in
    each, where that test does not hold.
    """

    counts: tuple[int, ...]
    days: int
    expected: float
    lower: int
    upper: int
    p_value: float | None


@dataclass(frozen=True)
class ReportContext:
    """Everything on a page.

    `forecasts` is how many there are, `row` the published one of the newest day, `revisions` what was said of
    that day since; `closes` has `day_utc` and `close` up to its origin, one row a calendar day, NaN where
    one is missing; `past` the published forecasts by target day, joined with their scores; `running` the
    share of hits of each interval over the last days, `running_50` and so on, with the bounds that chance
    alone leads to; `day` is when the page was made.
    """

    product_id: str
    profile: str
    day: date
    forecasts: int
    row: dict[str, Any]
    revisions: list[dict[str, Any]]
    closes: pd.DataFrame
    past: pd.DataFrame
    board: Scoreboard
    rivals: list[Rival]
    uniform: Uniform | None
    running: pd.DataFrame
    model: ModelFacts
    health: Health

    @property
    def scored(self) -> pd.DataFrame:
        """The forecasts of `past` whose close has come."""
        return self.past[self.past["close"].notna()]


def products_of(home: Home) -> list[tuple[str, str]]:
    """Each product and profile that there is a forecast of, by name."""
    names = ["product_id", "profile"]
    found = Predictions(home).read(None, names).group_by(names).aggregate([])
    return sorted((row["product_id"], row["profile"]) for row in found.to_pylist())


def forecasts_of(home: Home, product_id: str, profile: str) -> int:
    """How many forecasts there are of a product by a profile, revisions among them."""
    found = Predictions(home).read(ds.field("profile") == profile, ["prediction_id"], product_id)
    return int(found.num_rows)


def gather(home: Home, product_id: str, profile: str, day: date) -> ReportContext:
    """The facts of one product and profile, as the home has them now.

    Args:
        home: with at least one forecast of them.
        product_id: of the page.
        profile: of the page.
        day: on which the page is made.

    Raises:
        BadInput: there is no forecast yet.
        Damaged: the closes or the model of the newest forecast are not what was recorded.
    """
    forecasts = forecasts_of(home, product_id, profile)  # before they are read: none is counted that is not
    rows = Predictions(home).newest(product_id, profile, DAYS).to_pylist()
    if not rows:
        raise BadInput(
            f"a report needs a forecast, and there is none of {product_id} by profile {profile}:"
            f" make one with `closecast run --product {product_id} --profile {profile}`"
        )
    newest = [row for row in rows if row["target_day"] == rows[-1]["target_day"]]
    row, revisions = newest[0], newest[1:]
    past = past_of(home, rows)
    with Prices(home) as prices:
        candles = prices.closes_at(row["data_version"])
    return ReportContext(
        product_id=product_id,
        profile=profile,
        day=day,
        forecasts=forecasts,
        row=row,
        revisions=revisions,
        closes=last_closes(candles, row["origin_day"]),
        past=past,
        board=board_of(home, product_id, profile),
        rivals=rivals_of(home, product_id, past),
        uniform=uniform_of(past["pit"].dropna().to_numpy(np.float64)),
        running=running_coverage(past),
        model=model_of(home, row),
        health=health_of(home, product_id),
    )


def last_closes(candles: pd.DataFrame, origin: date) -> pd.DataFrame:
    """The newest closes up to the origin, one row a calendar day, NaN where a day is missing."""
    days = pd.date_range(end=pd.Timestamp(origin), periods=CLOSES, unit="s", name="day_utc")
    closes = candles.set_index("day_utc")["close"].reindex(days)
    return closes[closes.first_valid_index() :].reset_index()


def past_of(home: Home, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The published ones of the rows, by target day, each with its newest score or none."""
    published = pd.DataFrame([row for row in rows if row["revision"] == 0])
    scores = Scores(home).newest(rows[0]["product_id"], first=rows[0]["target_day"], columns=[*SCORED, *HITS])
    joined = published.merge(scores.to_pandas(), how="left", on="prediction_id")
    joined["target_day"] = joined["target_day"].astype("datetime64[s]")
    figures = dict.fromkeys([*SCORED[1:]], "float64") | dict.fromkeys(HITS, "boolean")
    return joined.astype(figures).sort_values("target_day", ignore_index=True)


def rivals_of(home: Home, product_id: str, past: pd.DataFrame) -> list[Rival]:
    """The naive forecast and every method that was kept beside our forecasts, on the days that both have."""
    scored = past.dropna(subset=["crps", "close"]).set_index("prediction_id")
    if scored.empty:
        return []
    first = scored["target_day"].min().date()
    names = ["prediction_id", "component", "quantiles"]
    kept = components(home, product_id).read(ds.field("target_day") >= first, names).to_pandas()
    kept = kept[kept["prediction_id"].isin(scored.index)]
    found = []
    for method, said in kept.groupby("component", sort=True):
        ours = scored.loc[said["prediction_id"]].sort_values("target_day")
        quantiles = np.stack(said.set_index("prediction_id").loc[ours.index, "quantiles"].tolist())
        last = ours["last_close"].to_numpy(np.float64)
        came = np.log(ours["close"].to_numpy(np.float64) / last)
        found.append(
            _rival(
                str(method), ours["crps"].to_numpy(np.float64), crps(came, np.log(quantiles / last[:, None]))
            )
        )
    return found


def _rival(method: str, own: Floats, theirs: Floats) -> Rival:
    p_value = diebold_mariano(own, theirs) if len(own) >= MIN_DAYS else None
    mean = float(theirs.mean())
    return Rival(method, len(own), mean, over(float(own.mean()), mean), p_value)


def uniform_of(levels: Floats) -> Uniform | None:
    """The histogram of the levels at which the outcomes lay, shape (days,); None without any."""
    if not len(levels):
        return None
    from scipy.stats import binom, chisquare

    counts, _ = np.histogram(levels, bins=BINS, range=(0.0, 1.0))
    lower, upper = binom.ppf(NOISE, len(levels), 1 / BINS)
    expected = len(levels) / BINS
    p_value = float(chisquare(counts).pvalue) if expected >= MIN_EXPECTED else None
    return Uniform(tuple(counts.tolist()), len(levels), expected, int(lower), int(upper), p_value)


def running_coverage(past: pd.DataFrame) -> pd.DataFrame:
    """How often each interval held over the last `WINDOW` scored forecasts, day by day.

    Returns:
        `target_day`, `days`, and for each percent `running_P`, `lower_P` and `upper_P`: the share, and from
        where to where it lies on 95 of 100 days when the interval is exactly as good as it says.
    """
    scored = past.dropna(subset=list(HITS))
    counted = scored[list(HITS)].astype("float64").rolling(WINDOW, min_periods=MIN_DAYS_DRAWN)
    frame = pd.DataFrame({"target_day": scored["target_day"], "days": counted.count()["covered_80"]})
    shares = counted.mean()
    for percent in PERCENTS:
        frame[f"running_{percent}"] = shares[f"hit_{percent}"]
    frame = frame.dropna().reset_index(drop=True)
    if frame.empty:
        return frame
    from scipy.stats import binom

    days = frame["days"].to_numpy(np.float64)
    for percent in PERCENTS:
        for side, level in zip(("lower", "upper"), NOISE, strict=True):
            frame[f"{side}_{percent}"] = binom.ppf(level, days, percent / 100) / days
    return frame
