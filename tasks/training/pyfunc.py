"""A registered version as MLflow's Python function, from candles to a row for each day ahead."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any

import numpy as np
import pandas as pd
import yaml

from closecast.storage.core.candle_schema import FIGURES, candle_frame
from closecast.storage.core.errors import BadFile, BadInput, ClosecastError, Damaged, NotEnoughHistory
from closecast.storage.core.location import LocalPath
from closecast.storage.models.bundles import MANIFEST, Bundle
from closecast.tasks.calibration.calibrator_states import CalibratorState
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.model import Model
from closecast.tasks.forecast.publish import can_forecast, make_forecast
from closecast.tasks.prices.validation import broken_rules
from closecast.tasks.profiles.base import Profile
from closecast.tasks.profiles.named import profile_named
from closecast.tasks.training.mlflow_model import MLMODEL, OUTPUTS
from closecast.tasks.training.registration import read_bundle

DAY_COLUMNS = ("day_utc", "date")
# Kinds of column, by pandas' names, that would become numbers in silence.
NO_FIGURES = ("boolean", "complex", "date", "datetime", "datetime64", "timedelta", "timedelta64")
_TYPES = {"datetime": "datetime64[s]", "integer": "int32", "double": "float64"}


def load_pyfunc(folder: str) -> ForecastFunction:
    """The model of a bundle's folder, each file checked against the manifest.

    Raises:
        Damaged: a file is missing or not the stored one.
        BadSetting: the profile of the model is not installed here.
    """
    path = LocalPath(folder)
    try:
        bundle = Bundle(path, (path / MANIFEST).sha256())
    except (BadFile, ValueError) as error:
        raise Damaged(
            f"{folder} is not a complete model: {error}; load it from the registry again"
        ) from error
    bundle.verify()
    path_of_class = yaml.safe_load(bundle.read(MLMODEL))["metadata"]["profile"]
    profile = profile_named(path_of_class, bundle.read_json("settings.json"))
    return ForecastFunction(profile, read_bundle(bundle, profile))


class ForecastFunction:
    """What MLflow calls; the quantile offsets are those of the training."""

    def __init__(self, profile: Profile, model: Model) -> None:
        self.profile, self.model = profile, model

    def predict(self, candles: pd.DataFrame, params: object = None) -> pd.DataFrame:  # noqa: ARG002
        """The forecast from the last candle, a row for each horizon.

        Args:
            candles: a row for each UTC day in any order: `day_utc` or `date`, or days as the index; `close`;
                `open`, `high`, `low` and `volume` if they are known.
            params: unused; MLflow passes it.

        Returns:
            The columns of `OUTPUTS`, as in the table `predictions`; days are
            datetime64[s].

        Raises:
            MlflowException: a column is missing, a row holds no candle, or the newest days are too few or
                have gaps. Of any other error a server would not send the text.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self._forecast(read_candles(candles))
        except (ClosecastError, OverflowError) as error:  # no date has a year after 9999
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _forecast(self, candles: pd.DataFrame) -> pd.DataFrame:
        lineage = self.model.lineage
        history = PriceHistory(lineage.product_id, candles, "given to MLflow", lineage.series)
        if not can_forecast(self.profile, self.model, history):
            raise NotEnoughHistory(
                f"no forecast can be made from the last candle, {history.origin}: the model needs the newest"
                f" {self.profile.consecutive_days} days with few gaps, some weeks before them (better a year)"
                " and the columns that it was trained on"
            )
        origin = history.origin
        offsets = self.model.fitted.quantile_offsets or {}
        states = {horizon: CalibratorState("", origin, own) for horizon, own in offsets.items()}
        # The moment is in no column here.
        moment = datetime.combine(origin, time(), UTC)
        made = make_forecast(self.profile, self.model, history, states, created_at=moment, flow_run_id=None)
        frame = pd.DataFrame(made.rows())[list(OUTPUTS)]
        types = {name: _TYPES[kind] for name, kind in OUTPUTS.items() if kind in _TYPES}
        return frame.astype(types)


def read_candles(given: Any) -> pd.DataFrame:
    """A `candle_frame` of a user's frame, oldest day first; `BadInput` if it holds no candles."""
    if not isinstance(given, pd.DataFrame) or not len(given):
        raise BadInput(f"a frame with a row for each day is needed, not {type(given).__name__} without rows")
    names = [name for name in DAY_COLUMNS if name in given and given[name].notna().any()]
    if len(names) > 1:
        raise BadInput(f"the candles need one column of days, not both {' and '.join(names)}")
    if not names and not isinstance(given.index, pd.DatetimeIndex):
        raise BadInput(
            "the candles need a column day_utc or date, and a column close; they have"
            f" {', '.join(map(str, given.columns))}"
        )
    days = _days(given[names[0]] if names else given.index)
    figures = {name: _figures(given, name) for name in FIGURES}
    frame = candle_frame({"day_utc": days, **figures}).sort_values("day_utc", ignore_index=True)
    if frame["day_utc"].duplicated().any():
        day = frame.loc[frame["day_utc"].duplicated(), "day_utc"].iloc[0].date()
        raise BadInput(f"the candles need one row for each day, and {day} comes twice: leave one out")
    reasons = broken_rules(frame, frame["day_utc"].iloc[-1].date())
    for row in np.flatnonzero(reasons != "")[:1]:
        raise BadInput(f"the candle of {frame['day_utc'].iloc[row].date()} cannot be used: {reasons[row]}")
    return frame


def _days(given: Any) -> Any:
    """(rows,) datetime64[s]; a text is `2019-10-17`, alone or with a time of midnight UTC."""
    column = pd.Series(given).reset_index(drop=True)
    form = "the candles need days such as 2019-10-17, at midnight UTC where they have a time"
    if column.isna().any() or pd.api.types.is_numeric_dtype(column):
        raise BadInput(f"{form}, not {column[column.isna().argmax()]!s:.40}")
    moments = pd.to_datetime(column, utc=True, format="ISO8601", errors="coerce").dt.tz_localize(None)
    if moments.isna().any():
        raise BadInput(f"{form}, not {column[moments.isna()].iloc[0]!s:.40}")
    if (late := moments != moments.dt.normalize()).any():
        raise BadInput(f"{form}, not {column[late].iloc[0]!s:.40}")
    return moments.astype("datetime64[s]").to_numpy()


def _figures(given: pd.DataFrame, name: str) -> Any:
    """(rows,) float64; NaN where the column is missing."""
    if name not in given:
        if name == "close":
            raise BadInput(f"the candles need a column close; they have {', '.join(map(str, given.columns))}")
        return np.full(len(given), np.nan)
    try:
        if (kind := pd.api.types.infer_dtype(given[name])) in NO_FIGURES:
            raise TypeError(f"not {kind}")
        return pd.to_numeric(given[name]).to_numpy(dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadInput(f"the candles need figures as {name}: {' '.join(str(error).split())[:120]}") from error
