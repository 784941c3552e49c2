"""The figures of a report's charts, as plain lists that a page's JSON holds; the page draws them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tasks.core.quantiles import LEVELS
from tasks.evaluation.scoreboard import PERCENTS
from tasks.report.context import HITS, WINDOW, ReportContext
from tasks.report.model_section import Curve

# More epochs than a screen is wide cannot be told apart.
MAX_EPOCHS = 500
BOUNDS = tuple(f"{side}_{percent}" for percent in (95, 80, 50) for side in ("lower", "upper"))


def charts(facts: ReportContext) -> dict[str, Any]:
    """Every chart's figures by its name; a chart that there is nothing for is not among them."""
    drawn = {
        "fan": _fan(facts),
        "past": _past(facts),
        "pit": _pit(facts),
        "coverage": _coverage(facts),
        "losses": _losses(facts.model.curves),
    }
    return {name: figures for name, figures in drawn.items() if figures}


def short(value: object) -> float | None:
    """A figure to ten digits that count, None where it is none: a chart says what the text says."""
    if value is None or value is pd.NA or not np.isfinite(float(value)):  # type: ignore[arg-type]
        return None
    return float(f"{float(value):.10g}")  # type: ignore[arg-type]


def days(column: pd.Series[pd.Timestamp]) -> list[str]:
    """Days as ISO text."""
    return [f"{day:%Y-%m-%d}" for day in column]


def _fan(facts: ReportContext) -> dict[str, Any]:
    row = facts.row
    said = row["quantiles"]
    return {
        "days": days(facts.closes["day_utc"]),
        "closes": [short(close) for close in facts.closes["close"]],
        "target": str(row["target_day"]),
        "last": short(row["last_close"]),
        "point": short(row["point"]),
        "levels": list(LEVELS) if said else [],
        "quantiles": [short(usd) for usd in said] if said else [],
    }


def _past(facts: ReportContext) -> dict[str, Any] | None:
    """The forecasts whose day has come; the newest one is the fan's."""
    past = facts.scored
    if past.empty:
        return None
    figures: dict[str, Any] = {
        "days": days(past["target_day"]),
        "point": [short(usd) for usd in past["point"]],
        "last": [short(usd) for usd in past["last_close"]],
        "close": [short(usd) for usd in past["close"]],
    }
    if facts.row["quantiles"] is not None:
        figures |= {name: [short(usd) for usd in past[f"{name}"]] for name in BOUNDS}
        figures |= {name: [None if pd.isna(hit) else bool(hit) for hit in past[name]] for name in HITS}
    return figures


def _pit(facts: ReportContext) -> dict[str, Any] | None:
    uniform = facts.uniform
    if uniform is None:
        return None
    return {
        "counts": list(uniform.counts),
        "expected": short(uniform.expected),
        "lower": uniform.lower,
        "upper": uniform.upper,
    }


def _coverage(facts: ReportContext) -> dict[str, Any] | None:
    running = facts.running
    if running.empty:
        return None
    names = [f"{kind}_{percent}" for kind in ("running", "lower", "upper") for percent in PERCENTS]
    return {
        "days": days(running["target_day"]),
        "window": WINDOW,
        **{name: [short(share) for share in running[name]] for name in names},
    }


def _losses(curves: list[Curve]) -> dict[str, Any] | None:
    if not any(curve.training for curve in curves):
        return None
    return {
        "members": [
            {
                "name": curve.name,
                "training": [short(loss) for loss in curve.training[:MAX_EPOCHS]],
                "validation": [short(loss) for loss in curve.validation[:MAX_EPOCHS]],
                "best": curve.best,
            }
            for curve in curves
        ]
    }
