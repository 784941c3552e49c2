"""The figures of a report's charts, as plain lists in the page's JSON; the page draws them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from closecast.storage.core.intervals import BOUNDS, COVERED, INTERVALS
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.report.calibration import COVERAGE_DAYS
from closecast.tasks.report.context import ReportContext

# More epochs than a screen is wide cannot be told apart.
MAX_EPOCHS = 500
# A line needs two days.
MIN_WIDTHS = 2


def charts(context: ReportContext) -> dict[str, Any]:
    """Every chart's figures by its name; a chart without figures is left out."""
    drawn = {
        "fan": _fan(context),
        "width": _width(context),
        "past": _past(context),
        "pit": asdict(context.pit) if context.pit else None,
        "coverage": _coverage(context),
        "losses": _losses(context),
    }
    return {name: figures for name, figures in drawn.items() if figures}


def short(values: Iterable[object]) -> list[float | None]:
    """Figures to ten significant digits, or two decimals; None if one is unknown or not finite."""
    figures = np.array(list(values), dtype=np.float64)  # None becomes NaN
    return [
        float(f"{figure:.10g}" if abs(figure) < 1e8 else f"{figure:.2f}") if np.isfinite(figure) else None
        for figure in figures
    ]


def _columns(rows: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Columns of figures by name, and the days as ISO text."""
    days = rows["target_day"].dt.strftime("%Y-%m-%d").tolist()
    return {"days": days, **{name: short(rows[name]) for name in names}}


def _fan(context: ReportContext) -> dict[str, Any]:
    forecast, earlier = context.forecast, context.earlier
    return {
        "days": context.closes["day_utc"].dt.strftime("%Y-%m-%d").tolist(),
        "closes": short(context.closes["close"]),
        "decimals": forecast.decimals,
        "ahead": _ahead(forecast),
        "earlier": _ahead(earlier) if earlier else None,
    }


def _ahead(forecast: Forecast) -> dict[str, Any]:
    """A run's target days with the point and, if there are any, the intervals of each."""
    rows = forecast.rows()
    figures = {
        "origin": str(forecast.origin_day),
        "last": short([forecast.last_close])[0],
        "days": [str(row["target_day"]) for row in rows],
        "point": short(row["point"] for row in rows),
    }
    if forecast.first.quantiles is None:
        return figures
    return figures | {name: short(row[name] for row in rows) for name in BOUNDS}


def _past(context: ReportContext) -> dict[str, Any] | None:
    """The forecasts with an outcome; the newest one is the fan's."""
    past = context.scored
    if past.empty:
        return None
    figures = _columns(past, ["point", "last_close", "close", *(BOUNDS if context.has_intervals else ())])
    if context.has_intervals:
        figures |= {name: [None if pd.isna(hit) else bool(hit) for hit in past[name]] for name in COVERED}
    return figures


def _width(context: ReportContext) -> dict[str, Any] | None:
    """The width of each day's published 80 % interval, as a share of the close that it starts from."""
    past = context.past
    if not context.has_intervals or len(past) < MIN_WIDTHS:
        return None
    widths = (past["upper_80"] - past["lower_80"]) / past["last_close"]
    return _columns(past.assign(width_80=[float(f"{width:.5g}") for width in widths]), ["width_80"])


def _coverage(context: ReportContext) -> dict[str, Any] | None:
    if context.coverage.empty:
        return None
    names = [f"{kind}_{percent}" for kind in ("running", "lower", "upper") for percent in INTERVALS]
    return _columns(context.coverage, names) | {"window": COVERAGE_DAYS}


def _losses(context: ReportContext) -> dict[str, Any] | None:
    networks = context.model.losses if context.model else []
    if not any(network["loss"] for network in networks):
        return None
    return {
        "networks": [
            {
                "name": f"network {number}" if len(networks) > 1 else "network",
                "training": short(network["loss"][:MAX_EPOCHS]),
                "validation": short(network["val_loss"][:MAX_EPOCHS]),
                "best": network["best_epoch"],
            }
            for number, network in enumerate(networks, start=1)
        ]
    }
