"""Made-up forecasts, components and scores, as the runs of a home leave them."""

from __future__ import annotations

import hashlib
import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from closecast.tasks.core.forecast import Forecast, HorizonForecast, Score
from closecast.tasks.core.quantiles import LEVELS, student_t
from closecast.tasks.profiles.base import Profile
from closecast.tasks.profiles.baselines import baselines_of
from closecast.tasks.profiles.calibrated import CalibratedProfile

# Its network trains in a moment: what surrounds the network is measured.
PROFILE: Profile = CalibratedProfile(
    {"units": 4, "members": 1, "epochs": 1, "pool_products": (), "horizons": (1,)}
)
SHAPE = np.exp(student_t(np.zeros(1), np.full(1, 0.03), np.full(1, 4.0))[0])


def moment(origin: date) -> datetime:
    """When the run from that day starts: a quarter past midnight."""
    return datetime.combine(origin + timedelta(days=1), time(0, 15), UTC)


def digest(*parts: object) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def forecast(
    product_id: str, origin: date, last_close: float, *, data_version: str, model_version: str = "1"
) -> Forecast:
    """The forecast from a day, with its component forecasts."""
    names = (PROFILE.component, *baselines_of(1))
    name, quantiles = digest(product_id, origin), last_close * SHAPE
    horizon = HorizonForecast(
        prediction_id=name[:32],
        horizon=1,
        target_day=origin + timedelta(days=1),
        point=last_close,
        quantiles=tuple(quantiles.tolist()),
        sigma=0.03,
        components={
            one: tuple((quantiles * (1 + 0.001 * place)).tolist()) for place, one in enumerate(names)
        },
        calibrator_version=f"{PROFILE.recipe_version}:{name[:16]}",
    )
    return Forecast(
        product_id=product_id,
        origin_day=origin,
        profile=PROFILE.name,
        model_version=model_version,
        data_version=data_version,
        settings_version=PROFILE.version,
        code_version="0.0.0+bench",
        last_close=last_close,
        created_at=moment(origin),
        flow_run_id=name[:36],
        horizons=(horizon,),
    )


def score(of: Forecast, close: float, *, number: int, data_version: str) -> Score:
    """The score of a forecast, by the run after it; `number` varies its figures."""
    error = of.first.point - close
    return Score(
        prediction_id=of.first.prediction_id,
        product_id=of.product_id,
        target_day=of.first.target_day,
        horizon=1,
        close=close,
        error=error,
        naive_error=of.last_close - close,
        crps=0.016 + 1e-6 * number,
        naive_crps=0.017,
        covered_50=number % 100 < 50,
        covered_80=number % 100 < 80,
        covered_95=number % 100 < 95,
        pit=number % 100 / 100,
        data_version=data_version,
        scored_at=moment(of.first.target_day),
    )


NO_OFFSETS = np.zeros(len(LEVELS))
