"""The online quantile tracker: keeps coverage at its levels, and turns log returns into prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np

from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.quantiles import LEVELS, MEDIAN
from closecast.tasks.core.types import Floats, Rows

# In sigmas. An offset belongs to a rank among the sorted quantiles. While these cross, the outcomes of other
# ranks could move it without end, and it would be wrong for years after. At a step of 0.002 an offset gets
# here after 1,500 days on one side at the earliest.
MAX_OFFSET = 3.0


def mix(own: Floats, other: Floats, *, share: float) -> Floats:
    """The weighted mean of two distributions' quantiles (..., 23), with weight `share` on the other's."""
    return np.asarray((1.0 - share) * own + share * other, dtype=np.float64)


def apply_offsets(quantiles: Floats, offsets: Floats, sigma: float) -> Floats:
    """Quantiles of a log return (23,), moved by offsets (23,) in units of its sigma, and sorted."""
    return np.sort(quantiles + offsets * sigma)


def nested(quantiles: Sequence[Floats]) -> Floats:
    """Sorted quantiles of log returns, (horizons, 23), the shortest horizon first, made one fan.

    Each central interval is widened to contain those of the shorter horizons: what may happen in three days
    may happen in five. The medians stay.
    """
    fan = np.array(quantiles)
    fan[:, :MEDIAN] = np.minimum.accumulate(fan[:, :MEDIAN], axis=0)
    fan[:, MEDIAN + 1 :] = np.maximum.accumulate(fan[:, MEDIAN + 1 :], axis=0)
    return fan


def fitted_into(quantiles: Floats, shorter: Sequence[Floats], longer: Sequence[Floats]) -> Floats:
    """Sorted quantiles of one more horizon, (23,), fitted into a fan, which stays and begins before it.

    Each central interval is widened to contain those of the shorter horizons, and narrowed to lie in those of
    the longer ones. The median moves only if it would lie outside.
    """
    fitted: Floats = nested([*shorter, quantiles])[-1]
    for wider in longer:
        fitted[:MEDIAN] = np.maximum(fitted[:MEDIAN], wider[:MEDIAN])
        fitted[MEDIAN + 1 :] = np.minimum(fitted[MEDIAN + 1 :], wider[MEDIAN + 1 :])
    fitted[MEDIAN] = np.clip(fitted[MEDIAN], fitted[MEDIAN - 1], fitted[MEDIAN + 1])
    return fitted


def tracked_fan(
    quantiles: Mapping[int, Floats], sigmas: Mapping[int, float], offsets: Mapping[int, Floats]
) -> dict[int, Floats]:
    """Quantiles of the log return over each horizon, (23,), moved by its offsets if it has any, as one fan.

    Args:
        quantiles: of the log return over each horizon, (23,), the shortest horizon first.
        sigmas: of the same log returns.
        offsets: in these sigmas, (23,).
    """
    moved = [
        apply_offsets(own, offsets[horizon], sigmas[horizon]) if horizon in offsets else own
        for horizon, own in quantiles.items()
    ]
    return dict(zip(quantiles, nested(moved), strict=True))


def update_offsets(offsets: Floats, actual_close: float, quantiles: Floats, *, step: float) -> Floats:
    """The offsets (23,) after one outcome: each rises by `step` * (level - (close <= quantile)).

    This is the quantile tracking, the proportional term, of Angelopoulos, Candès and Tibshirani (2023),
    "Conformal PID control for time series prediction". Here both ends of a central interval take the mean of
    their two steps outwards: an interval widens or narrows but does not shift, because the direction of a
    return cannot be predicted. No offset exceeds `MAX_OFFSET` in size.
    """
    moved = offsets + step * (np.array(LEVELS) - (actual_close <= quantiles))
    return np.clip((moved - moved[::-1]) / 2.0, -MAX_OFFSET, MAX_OFFSET)


def to_prices(log_returns: Floats, last_close: float | Floats) -> Floats:
    """Closes in the quote currency from log returns since `last_close`, of the log returns' shape."""
    return np.asarray(last_close * np.exp(log_returns), dtype=np.float64)


def untracked(history: PriceHistory, rows: Rows, quantiles: Mapping[int, Floats]) -> dict[int, Floats]:
    """The quantiles of the close for each horizon, (rows, 23), without offsets, each row as one fan.

    Args:
        rows: of the origins, (rows,).
        quantiles: of the log return over each horizon, (rows, 23), the shortest horizon first.
    """
    fans = np.stack([nested(fan) for fan in np.stack([*quantiles.values()], axis=1)], axis=1)
    last = history.closes[rows][:, None]
    return {horizon: to_prices(fan, last) for horizon, fan in zip(quantiles, fans, strict=True)}


@dataclass
class Tracker:
    """The quantile offsets of each horizon, and the forecasts that wait for their outcome."""

    offsets: dict[int, Floats]  # in sigmas, (23,) for each horizon
    step: float
    # (target day, horizon, quantiles of the close (23,))
    waiting: list[tuple[date, int, Floats]] = field(default_factory=list)

    @classmethod
    def new(cls, horizons: Sequence[int], *, step: float) -> Tracker:
        """A tracker that has learned nothing."""
        return cls({horizon: np.zeros(len(LEVELS)) for horizon in horizons}, step)

    def track(
        self, history: PriceHistory, rows: Rows, quantiles: Mapping[int, Floats], sigmas: Mapping[int, Floats]
    ) -> dict[int, Floats]:
        """Forecast from each origin row in turn, after learning the outcomes up to its day.

        Args:
            rows: of the origins, (rows,), rising.
            quantiles: of the log return over each horizon, (rows, 23), the shortest horizon first.
            sigmas: of the same log returns, (rows,).

        Returns:
            The quantiles of the close for each horizon, (rows, 23).
        """
        days, closes = history.days[rows], history.closes[rows]
        prices = {horizon: np.empty_like(part) for horizon, part in quantiles.items()}
        for number, (day, close) in enumerate(zip(days, closes, strict=True)):
            self.learn(history, day)
            own, scales = ({h: part[number] for h, part in parts.items()} for parts in (quantiles, sigmas))
            for horizon, returns in tracked_fan(own, scales, self.offsets).items():
                prices[horizon][number] = to_prices(returns, close)
                target_day = day + timedelta(days=horizon)
                self.waiting.append((target_day, horizon, prices[horizon][number]))
        return prices

    def learn(self, history: PriceHistory, through: date) -> None:
        """Update the offsets by the outcomes up to that day, oldest first; a missing day has none."""
        due = [forecast for forecast in self.waiting if forecast[0] <= through]
        self.waiting = [forecast for forecast in self.waiting if forecast[0] > through]
        for day, horizon, quantiles in sorted(due, key=lambda forecast: forecast[:2]):
            close = history.outcome(day - timedelta(days=horizon), day)
            if close is not None:
                self.offsets[horizon] = update_offsets(
                    self.offsets[horizon], close, quantiles, step=self.step
                )
