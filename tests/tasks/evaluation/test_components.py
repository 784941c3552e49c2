from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from closecast.storage.core.errors import Damaged
from closecast.tasks.evaluation.components import (
    best_baseline,
    compare_best_baseline,
    compare_components,
    component_scores,
)
from closecast.tasks.evaluation.significance import diebold_mariano

FIRST = date(2020, 1, 1)


def rows_of(ours: Any, **components: Any) -> pd.DataFrame:
    """Scores of consecutive days with the CRPS of components; NaN where a day has none of that name."""
    named: list[dict[str, float]] = [
        {name: values[n] for name, values in components.items() if not np.isnan(values[n])}
        for n in range(len(ours))
    ]
    return pd.DataFrame(
        {
            "target_day": pd.Series([FIRST + timedelta(days=n) for n in range(len(ours))]).astype(
                "datetime64[s]"
            ),
            "crps": np.asarray(ours, dtype=np.float64),
            "component_names": [list(row) or None for row in named],
            "component_crps": [list(row.values()) or None for row in named],
        }
    )


def test_a_column_a_component_and_a_row_a_day_oldest_first() -> None:
    rows = rows_of([0.1, 0.2, 0.3], lstm=[0.4, np.nan, 0.5], har_120_t=[0.6, np.nan, np.nan])
    scores = component_scores(rows.iloc[::-1])
    assert scores.index.tolist() == rows["target_day"].tolist()
    np.testing.assert_array_equal(scores["lstm"], [0.4, np.nan, 0.5])
    np.testing.assert_array_equal(scores["har_120_t"], [0.6, np.nan, np.nan])
    assert component_scores(rows.iloc[:0]).empty


@pytest.mark.parametrize("crps", [None, [0.1]])
def test_components_without_a_crps_each_are_damage(crps: list[float] | None) -> None:
    row = {"target_day": date(2020, 1, 1), "component_names": ["a", "b"], "component_crps": crps}
    with pytest.raises(Damaged, match="each component of a score needs a CRPS"):
        component_scores(pd.DataFrame([row]))


def test_each_component_is_compared_on_the_days_that_both_have() -> None:
    rows = rows_of([0.1, 0.2, np.nan, 0.3], lstm=[0.4, 0.5, 0.6, np.nan])
    (found,) = compare_components(rows, component_scores(rows))
    assert (found.component, found.days, found.p_value) == ("lstm", 2, None)
    assert found.crps == pytest.approx(0.45)
    assert found.ratio == pytest.approx(0.3 / 0.9)


def test_the_best_baseline_has_the_lowest_mean_and_is_no_other_component() -> None:
    ours = np.random.default_rng(1).gamma(2, 1, 60)
    noise = np.random.default_rng(2).gamma(2, 0.1, 60)
    components = {"lstm": 0.5 * ours, "har_120_t": ours + noise, "ewma_weekday_t": ours + 2 * noise}
    rows = rows_of(ours, **components)
    found: Any = compare_best_baseline(rows, component_scores(rows.sample(frac=1, random_state=1)))
    assert (found.component, found.days) == ("har_120_t", 60)
    assert found.ratio == pytest.approx(ours.mean() / (ours + noise).mean())
    assert found.p_value == diebold_mariano(ours, ours + noise)


def test_baselines_are_compared_on_the_days_that_all_of_them_have() -> None:
    """A baseline that was made on easy days only would look best."""
    easy = [0.1] * 5 + [1.0] * 5
    late = [np.nan] * 5 + [1.1] * 5
    rows = rows_of(easy, har_120_t=[0.2] * 5 + [1.2] * 5, garch_weekday_t=late, ewma_weekday_t=[np.nan] * 10)
    found: Any = compare_best_baseline(rows, component_scores(rows))
    assert (found.component, found.days) == ("garch_weekday_t", 5)
    assert found.ratio == pytest.approx(1.0 / 1.1)


def test_the_best_baseline_of_a_horizon_and_its_p_value() -> None:
    ours, noise = np.random.default_rng(1).gamma(2, 1, (2, 80))
    rows = rows_of(ours, har_120_t=ours + noise, har_120_t_drift=ours + 0.1 * noise)
    scores = component_scores(rows)
    found: Any = compare_best_baseline(rows, scores, horizon=7)
    assert found.component == "har_120_t_drift"
    assert found.p_value == diebold_mariano(ours, ours + 0.1 * noise, horizon=7)
    assert [one.p_value for one in compare_components(rows, scores, horizon=9)] == [None, None]
    next_day: Any = compare_best_baseline(rows, scores)
    assert next_day.component == "har_120_t"


@pytest.mark.parametrize("components", [{}, {"lstm": [1.0, 1.0]}, {"har_120_t": [np.nan, np.nan]}])
def test_no_best_baseline_without_baselines(components: dict[str, list[float]]) -> None:
    rows = rows_of([1.0, 1.0], **components)
    assert compare_best_baseline(rows, component_scores(rows)) is None


def test_no_day_has_no_best_baseline() -> None:
    assert best_baseline({"har_120_t": np.array([])}) is None
    rows = rows_of([np.nan], har_120_t=[1.0])
    assert compare_best_baseline(rows, component_scores(rows)) is None
