"""The gate: a challenger must not be worse than the champion on days that neither has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from closecast.tasks.core.quantiles import crps
from closecast.tasks.features.volatility import log_returns, with_outcome
from closecast.tasks.profiles.base import FittedModel, Profile
from closecast.tasks.training.policy import MIN_UNSEEN_DAYS

LONG_GATE_DAYS = 365
# The share of the gate's days that must have a forecast: gaps leave some without.
MIN_SHARE = 0.5


@dataclass(frozen=True)
class Gate:
    """The mean CRPS of a challenger and of the champion on days that neither has seen."""

    first_day: date
    last_day: date
    days: int
    champion_crps: float
    challenger_crps: float
    ratio: float
    limit: float
    passed: bool

    def tags(self) -> dict[str, str]:
        """The figures as text, by name."""
        return {f"gate_{name}": str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Gate:
        """The inverse of `tags`; KeyError or ValueError if one is missing or has the wrong type."""
        passed = {"True": True, "False": False}
        read: Any = {"date": date.fromisoformat, "int": int, "float": float, "bool": passed.__getitem__}
        return cls(**{one.name: read[one.type](tags[f"gate_{one.name}"]) for one in fields(cls)})

    def metrics(self) -> dict[str, float]:
        """The figures that are numbers, by name."""
        names = ("days", "champion_crps", "challenger_crps", "ratio")
        return {f"gate_{name}": float(getattr(self, name)) for name in names}

    def __str__(self) -> str:
        outcome = "passed" if self.passed else "refused"
        return (
            f"{outcome}: CRPS ratio {self.ratio:.4f} over {self.days} days unseen by both,"
            f" {self.first_day} to {self.last_day}, at most {self.limit:g}"
        )


def judge(profile: Profile, champion: FittedModel, challenger: FittedModel, candles: pd.DataFrame) -> Gate:
    """Require non-inferiority in CRPS on the newest days that neither model has seen, nor its twin if any.

    Over a year of them the limit is `gate_ratio_365`; over half a year, where the noise between two seeds of
    one recipe is larger, `gate_ratio_180`. With fewer the challenger is refused. The first horizon is
    compared, where these limits were measured, and the models alone, before mixing and tracking. The candles
    end with the challenger's origin.
    """
    champion, challenger = champion.judged, challenger.judged
    last: date = candles["day_utc"].iloc[-1].date()
    seen = max(champion.trained_through, challenger.trained_through)
    long = (last - seen).days >= LONG_GATE_DAYS
    span = LONG_GATE_DAYS if long else MIN_UNSEEN_DAYS
    limit = profile.policy.gate_ratio_365 if long else profile.policy.gate_ratio_180
    after = max(seen, last - timedelta(days=span))
    champion_crps, challenger_crps, days = _mean_crps(profile, champion, challenger, candles, after)
    # Without a forecast there is nothing to compare, and a series that never moves has no error.
    ratio = challenger_crps / champion_crps if champion_crps > 0 else 1.0
    enough = (last - seen).days >= MIN_UNSEEN_DAYS and days >= MIN_SHARE * span
    passed = bool(enough and ratio <= limit)
    first = after + timedelta(days=1)
    return Gate(first, last, days, champion_crps, challenger_crps, ratio, limit, passed)


def _mean_crps(
    profile: Profile, champion: FittedModel, challenger: FittedModel, candles: pd.DataFrame, after: date
) -> tuple[float, float, int]:
    """Both models' mean CRPS over the days after `after` that both can forecast, and how many there are."""
    # Two models with other inputs need not have the same origins, and only the same days compare.
    rows = np.intersect1d(profile.origins(candles, champion), profile.origins(candles, challenger))
    days, returns = candles["day_utc"].to_numpy(dtype="datetime64[D]"), log_returns(candles)
    # The target is the day after, so the first origin is the last seen day itself.
    rows = with_outcome(candles, rows[days[rows] >= np.datetime64(after)])
    if not len(rows):
        return 0.0, 0.0, 0
    scores = []
    for model in (champion, challenger):
        predicted = profile.predict(model, candles, rows, components=False)[profile.horizons[0]]
        assert predicted.quantiles is not None  # noqa: S101 (a point has no gate)
        scores.append(float(crps(returns[rows + 1], predicted.quantiles).mean()))
    return scores[0], scores[1], len(rows)
