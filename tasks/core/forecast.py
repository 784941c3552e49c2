"""A forecast and its score, from which table rows, terminal, Markdown and page are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any, Literal

from storage.core.intervals import INTERVALS
from tasks.core.formatting import UNKNOWN, format_price, price_decimals
from tasks.core.history import quote_currency
from tasks.core.quantiles import INTERVAL_INDEXES, LEVELS

Basis = Literal["model", "pool", "fallback"]
HORIZON_COLUMNS = ("prediction_id", "horizon", "target_day", "point", "revision")


@dataclass(frozen=True)
class HorizonForecast:
    """The forecast of one target day; a point without intervals has neither quantiles nor sigma."""

    prediction_id: str
    horizon: int
    target_day: date
    point: float  # the expected close; the median where there are quantiles
    quantiles: tuple[float, ...] | None = None  # closes at `LEVELS`
    sigma: float | None = None  # daily volatility at the origin
    components: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # closes by component
    calibrator_version: str | None = None  # the state that the quantiles were made with
    revision: int = 0

    def interval(self, percent: int) -> tuple[float, float] | None:
        """Both ends of the central interval, None for a point without intervals."""
        if self.quantiles is None:
            return None
        low, high = INTERVAL_INDEXES[percent]
        return self.quantiles[low], self.quantiles[high]


@dataclass(frozen=True)
class Forecast:
    """A run's forecast: what all its rows share, and a `HorizonForecast` per row."""

    product_id: str
    origin_day: date
    profile: str
    model_version: str | None
    data_version: str
    settings_version: str
    code_version: str
    last_close: float
    created_at: datetime
    flow_run_id: str | None
    horizons: tuple[HorizonForecast, ...]
    basis: Basis = "model"

    @property
    def first(self) -> HorizonForecast:
        """The forecast of the nearest day."""
        return self.horizons[0]

    @property
    def quote_currency(self) -> str:
        """The currency of the prices."""
        return quote_currency(self.product_id)

    @property
    def model_name(self) -> str:
        """The name under which the registry has the model."""
        return f"closecast.{self.product_id}.{self.profile}"

    @property
    def decimals(self) -> int:
        """Decimals of its prices: enough to tell the intervals' ends apart."""
        ends = [end for percent in INTERVALS for end in self.first.interval(percent) or ()]
        return price_decimals(*(ends or [self.first.point]))

    def amount(self, value: float) -> str:
        """As `price`, for a table whose head has the currency."""
        return format_price(value, decimals=max(self.decimals, price_decimals(value)))

    def price(self, value: float) -> str:
        """A price of this product as people read it, with its currency."""
        return f"{self.amount(value)} {self.quote_currency}"

    def change(self, value: float) -> str:
        """How far a price is from the last close, as people read it."""
        return f"{value / self.last_close - 1.0:+.2%}"

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the table `predictions`, one a horizon."""
        shared = asdict(self) | {"quote_currency": self.quote_currency}
        del shared["horizons"]
        return [shared | _row(horizon) for horizon in self.horizons]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> Forecast:
        """The forecast of stored rows of one run; component forecasts stay in their own table."""
        first = rows[0]
        shared = {name: first[name] for name in cls.__dataclass_fields__ if name != "horizons"}
        horizons = sorted((_horizon(row) for row in rows), key=lambda horizon: horizon.horizon)
        return cls(**shared, horizons=tuple(horizons))

    def facts(self) -> dict[str, Any]:
        """What Prefect records with the forecast: the row of the nearest day, without its quantiles."""
        return {name: value for name, value in self.rows()[0].items() if not isinstance(value, list)}

    def summary(self, horizon: HorizonForecast | None = None) -> list[tuple[str, str]]:
        """The facts of a forecast, a label and a text each, as every reader is shown them."""
        return [*self.price_summary(horizon), *self.version_summary(horizon)]

    def price_summary(self, horizon: HorizonForecast | None = None) -> list[tuple[str, str]]:
        """The part of the summary that is about prices; the nearest day's by default."""
        horizon = horizon or self.first
        intervals = {percent: horizon.interval(percent) for percent in INTERVALS}
        return [
            ("forecast", f"{self.price(horizon.point)} ({self.change(horizon.point)} on the last close)"),
            ("last close", f"{self.price(self.last_close)} on {self.origin_day} (the naive forecast)"),
            *(
                (f"{percent} %", f"{self.price(ends[0])} to {self.price(ends[1])}")
                for percent, ends in intervals.items()
                if ends
            ),
        ]

    def fan(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows as text, a row a horizon; the intervals are those that a narrow table has room for.

        The currency stands in the header.
        """
        header = ["day", "days ahead", f"median, {self.quote_currency}", "80 %", "95 %"]
        rows = []
        for one in self.horizons:
            ends = [one.interval(percent) for percent in (80, 95)]
            texts = [" to ".join(map(self.amount, pair)) if pair else UNKNOWN for pair in ends]
            rows.append([str(one.target_day), str(one.horizon), self.amount(one.point), *texts])
        return header, rows

    def version_summary(self, horizon: HorizonForecast | None = None) -> list[tuple[str, str]]:
        """The part of the summary that is about what the forecast was made from and by."""
        horizon = horizon or self.first
        return [
            ("profile", self.profile + ("" if horizon.quantiles else ": a point without intervals")),
            ("model", f"{self.model_name} version {self.model_version}"),
            ("data", self.data_version),
            ("settings", self.settings_version),
            ("code", self.code_version),
            ("prediction", f"{horizon.prediction_id}, revision {horizon.revision}"),
        ]


def _row(horizon: HorizonForecast) -> dict[str, Any]:
    row = {name: getattr(horizon, name) for name in HORIZON_COLUMNS}
    row["quantile_levels"] = None if horizon.quantiles is None else list(LEVELS)
    row["quantiles"] = None if horizon.quantiles is None else list(horizon.quantiles)
    for percent in INTERVALS:
        row[f"lower_{percent}"], row[f"upper_{percent}"] = horizon.interval(percent) or (None, None)
    return row


def _horizon(row: Mapping[str, Any]) -> HorizonForecast:
    quantiles = None if row["quantiles"] is None else tuple(row["quantiles"])
    return HorizonForecast(**{name: row[name] for name in HORIZON_COLUMNS}, quantiles=quantiles)


@dataclass(frozen=True)
class Score:
    """A forecast against the close of its target day; a row of the table `scores`.

    Errors are in the quote currency; CRPS and PIT are of the log return on the origin's close. A point has
    neither of them, and no components. `naive_crps` is that of the last close with its newest
    250 returns.
    """

    prediction_id: str
    product_id: str
    target_day: date
    horizon: int
    close: float
    error: float
    naive_error: float
    crps: float | None
    naive_crps: float | None
    covered_50: bool | None
    covered_80: bool | None
    covered_95: bool | None
    pit: float | None
    data_version: str
    scored_at: datetime
    component_names: tuple[str, ...] | None = None
    component_crps: tuple[float, ...] | None = None
