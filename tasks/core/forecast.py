"""A forecast and its score, from which table rows, terminal, Markdown and page are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from closecast.storage.core.intervals import INTERVALS
from closecast.tasks.core.formatting import (
    UNKNOWN,
    distance_decimals,
    format_price,
    html_table,
    price_decimals,
)
from closecast.tasks.core.history import quote_currency
from closecast.tasks.core.quantiles import INTERVAL_INDEXES, LEVELS

if TYPE_CHECKING:
    import pandas as pd

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

    def at(self, horizon: int) -> HorizonForecast | None:
        """The forecast of the day that many days after the origin, or None."""
        return next((one for one in self.horizons if one.horizon == horizon), None)

    def only(self, horizon: int) -> Forecast | None:
        """A copy with only the forecast of the day that many days after the origin, or None."""
        one = self.at(horizon)
        return replace(self, horizons=(one,)) if one else None

    @property
    def target(self) -> str:
        """The nearest forecast day as text, with the origin unless that is the day before."""
        ahead = self.first.horizon
        far = "" if ahead == 1 else f", {ahead} days ahead, from {self.origin_day}"
        return f"{self.first.target_day}{far}"

    @property
    def quote_currency(self) -> str:
        """The currency of the prices."""
        return quote_currency(self.product_id)

    @property
    def model_name(self) -> str:
        """The name under which the registry has the model."""
        return f"closecast.{self.product_id}.{self.profile}"

    @property
    def model_label(self) -> str:
        """The name of its model for people, or that there was none."""
        if self.basis == "fallback":
            return "none: a fallback, made by the baselines alone"
        trained = ", trained on other products alone" if self.basis == "pool" else ""
        return f"{self.model_name} version {self.model_version}{trained}"

    @property
    def decimals(self) -> int:
        """Decimals of its prices: enough to tell the ends of intervals apart."""
        ends = [end for percent in INTERVALS for end in self.first.interval(percent) or ()]
        return price_decimals(*(ends or [self.first.point]))

    def amount(self, value: float) -> str:
        """As `price`, for a table with the currency in its header."""
        return format_price(value, decimals=max(self.decimals, price_decimals(value)))

    def amounts(self, low: float, high: float) -> tuple[str, str]:
        """Both ends of an interval as `amount`, with enough digits to tell them apart."""
        decimals = max(self.decimals, price_decimals(low, high))
        return format_price(low, decimals=decimals), format_price(high, decimals=decimals)

    def price(self, value: float) -> str:
        """A price of this product as text, with its currency."""
        return f"{self.amount(value)} {self.quote_currency}"

    def prices(self, low: float, high: float) -> str:
        """An interval as text, with the currency at both ends."""
        return " to ".join(f"{end} {self.quote_currency}" for end in self.amounts(low, high))

    def change(self, value: float) -> str:
        """A price's distance from the last close as text, with enough digits to tell the ends apart."""
        ends = [end for percent in INTERVALS for end in self.first.interval(percent) or ()]
        decimals = distance_decimals(*(100 * (end / self.last_close - 1.0) for end in ends))
        return f"{value / self.last_close - 1.0:+z.{min(max(2, decimals), 10)}%}"

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the table `predictions`, one per horizon."""
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

    def summary(self) -> list[tuple[str, str]]:
        """The facts of the nearest day's forecast, each a label and a text, as shown everywhere."""
        return [*self.price_summary(), *self.version_summary()]

    def price_summary(self) -> list[tuple[str, str]]:
        """The part of the summary about prices."""
        point, intervals = self.first.point, {percent: self.first.interval(percent) for percent in INTERVALS}
        return [
            ("forecast", f"{self.price(point)} ({self.change(point)} on the last close)"),
            ("last close", f"{self.price(self.last_close)} on {self.origin_day} (the naive forecast)"),
            *((f"{percent} %", self.prices(*ends)) for percent, ends in intervals.items() if ends),
        ]

    def fan(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows as text, one row per horizon, with the intervals that fit a narrow table.

        The currency is in the header.
        """
        point = "median" if self.first.quantiles else "point"
        header = ["day", "days ahead", f"{point}, {self.quote_currency}", "80 %", "95 %"]
        rows = []
        for one in self.horizons:
            ends = [one.interval(percent) for percent in (80, 95)]
            texts = [" to ".join(self.amounts(*pair)) if pair else UNKNOWN for pair in ends]
            rows.append([str(one.target_day), str(one.horizon), self.amount(one.point), *texts])
        return header, rows

    def __repr__(self) -> str:
        days = ", ".join(str(one.horizon) for one in self.horizons)
        return f"<Forecast {self._headline()}; days ahead: {days}; {self.profile}, {self.model_label}>"

    def _repr_html_(self) -> str:
        """The days ahead as a table, as a notebook shows it."""
        last = f"last close {self.price(self.last_close)} on {self.origin_day}"
        return html_table(self._headline(), *self.fan(), f"{last}; {self.profile}, model {self.model_label}")

    def _headline(self) -> str:
        ends = self.first.interval(80)
        interval = f"80 % {self.prices(*ends)}, median" if ends else "point"
        return f"{self.product_id} {self.target}: {interval} {self.price(self.first.point)}"

    def to_frame(self) -> pd.DataFrame:
        """One row per day ahead, with the columns and types of `closecast.predictions`."""
        import pyarrow as pa

        from closecast.storage.tables.schemas import PREDICTIONS
        from closecast.tasks.core.frames import dated_frame

        return dated_frame(pa.Table.from_pylist(self.rows(), schema=PREDICTIONS.arrow))

    def version_summary(self) -> list[tuple[str, str]]:
        """The part of the summary about the versions behind the forecast."""
        return [
            ("profile", self.profile + ("" if self.first.quantiles else ": a point without intervals")),
            ("model", self.model_label),
            ("data", self.data_version),
            ("settings", self.settings_version),
            ("code", self.code_version),
            ("prediction", f"{self.first.prediction_id}, revision {self.first.revision}"),
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
