from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from closecast.storage.core.errors import BadInput
from closecast.tasks.evaluation.scoreboard import (
    horizon_table,
    horizon_tables,
    markdown,
    nothing_scored,
    proportion,
    scoreboard,
    table,
)

LAST = date(2021, 6, 30)
SCORES_OF_INTERVALS = ["crps", "naive_crps", "covered_50", "covered_80", "covered_95", "pit"]


def scores(days: int, *, covered_80: int = 0, covered_95: int = 0, last: date = LAST) -> pd.DataFrame:
    """Consecutive days up to `last`; the intervals cover that many of the oldest closes."""
    row = np.arange(days)
    return pd.DataFrame(
        {
            "target_day": [last - timedelta(days=days - 1 - int(n)) for n in row],
            "horizon": 1,
            "error": 3.0 * (-1.0) ** row,
            "naive_error": 4.0,
            "crps": 0.9,
            "naive_crps": 1.0,
            "covered_50": row % 2 == 0,
            "covered_80": row < covered_80,
            "covered_95": row < covered_95,
            "pit": 0.5,
            "basis": "model",
            "component_names": [["lstm", "ewma_weekday_t", "har_120_t"]] * days,
            "component_crps": [[0.1, 1.2, 1.0]] * days,
        }
    )


def point_only(days: int) -> pd.DataFrame:
    frame = scores(days)
    nothing = pd.Series([None] * days, dtype=object)
    return frame.assign(**dict.fromkeys([*SCORES_OF_INTERVALS, "component_names", "component_crps"], nothing))


@pytest.mark.parametrize(
    ("rows", "forecasts"),
    [
        (scores(0), [0, 0, 0, 0]),
        (scores(400), [30, 90, 365, 400]),
        # Days without a forecast are days all the same.
        (scores(400).iloc[::-2].sample(frac=1, random_state=1), [15, 45, 183, 200]),
    ],
)
def test_spans_count_days_back_from_the_last(rows: pd.DataFrame, forecasts: list[int]) -> None:
    board = scoreboard(rows)
    assert board.last == (LAST if len(rows) else None)
    assert [span.days for span in board.spans] == [30, 90, 365, None]
    assert [span.forecasts for span in board.spans] == forecasts


def test_figures_by_hand() -> None:
    rows = scores(4).assign(
        error=[1.0, -1.0, 5.0, -5.0],
        naive_error=[2.0, -2.0, 2.0, 4.0],
        crps=[0.1, 0.2, 0.3, 0.4],
        naive_crps=[0.5, 0.5, 0.5, 1.0],
        covered_50=[True, False, False, False],
        covered_80=[True, True, True, False],
        covered_95=[True, True, True, True],
    )

    span: Any = scoreboard(rows).spans[-1]
    assert span.crps_ratio == pytest.approx(1.0 / 2.5)
    assert span.rmse == pytest.approx(np.sqrt(52 / 4))
    assert span.rmse_ratio == pytest.approx(np.sqrt(52 / 28))
    assert span.mae == pytest.approx(3.0)
    assert span.mae_ratio == pytest.approx(12 / 10)
    for percent, hits in ((50, 1), (80, 3), (95, 4)):
        assert span.coverage[percent] == proportion(hits, 4)


def test_the_figures_and_the_best_baseline_are_of_the_days_of_each_span() -> None:
    rows = scores(60)
    rows.loc[:29, "error"] = 100.0
    rows["component_crps"] = [[0.1, 0.8, 1.0]] * 30 + [[0.1, 1.0, 0.9]] * 30
    month, _, _, every = scoreboard(rows).spans
    assert (month.best_baseline.component, month.best_baseline.days) == ("har_120_t", 30)
    assert month.best_baseline.ratio == pytest.approx(0.9 / 0.9)
    assert (every.best_baseline.component, every.best_baseline.days) == ("ewma_weekday_t", 60)
    assert every.best_baseline.crps == pytest.approx(0.9)
    assert (month.mae, every.mae) == pytest.approx((3.0, 51.5))


# 180 days: .73 is 131.4 of them, .85 is 153, .92 is 165.6, .98 is 176.4.
GOOD: dict[str, Any] = {"covered_80": 144, "covered_95": 171}


@pytest.mark.parametrize(
    ("covered", "on"),
    [
        (GOOD, []),
        (GOOD | {"covered_80": 131}, ["80"]),
        (GOOD | {"covered_80": 132}, []),
        (GOOD | {"covered_80": 153}, []),
        (GOOD | {"covered_80": 154}, ["80"]),
        (GOOD | {"covered_95": 165}, ["95"]),
        (GOOD | {"covered_95": 166}, []),
        (GOOD | {"covered_95": 176}, []),
        (GOOD | {"covered_95": 177}, ["95"]),
        ({"covered_80": 100, "covered_95": 180}, ["80", "95"]),
    ],
)
def test_alarms_on_both_sides_of_each_bound(covered: dict[str, Any], on: list[str]) -> None:
    board = scoreboard(scores(180, **covered))
    assert [alarm.split()[1] for alarm in board.alarms] == on
    assert board.no_alarm is None


def test_only_the_newest_180_days_count_for_an_alarm() -> None:
    good, bad = scores(180, **GOOD), scores(50, last=LAST - timedelta(days=180))
    assert scoreboard(pd.concat([bad, good])).alarms == ()
    assert scoreboard(pd.concat([bad, good.iloc[:-20]])).alarms != ()


@pytest.mark.parametrize("days", [0, 1, 179])
def test_fewer_than_180_days_raise_no_alarm(days: int) -> None:
    board = scoreboard(scores(days))
    assert board.alarms == ()
    assert board.no_alarm == f"no alarm before 180 scored days, {days} so far"
    assert (board.no_alarm in markdown(board)) == (days > 0)


def test_an_alarm_has_the_coverage_and_a_remedy_and_no_missing_day_silences_it() -> None:
    board = scoreboard(scores(181, covered_80=113, covered_95=172).drop(index=90))
    assert board.alarms == (
        "the 80 % interval covered 62.2 % of the last 180 closes; a good model covers 73 to 85 %:"
        " refit, or look at the data",
    )
    assert f"**Alarm:** {board.alarms[0]}" in markdown(board)


def test_a_point_without_intervals() -> None:
    board = scoreboard(point_only(200))
    assert [span.crps_ratio for span in board.spans] == [None] * 4
    assert {coverage for span in board.spans for coverage in span.coverage.values()} == {None}
    assert [span.best_baseline for span in board.spans] == [None] * 4
    assert board.spans[0].rmse_ratio == pytest.approx(0.75)
    assert board.alarms == ()
    assert board.no_alarm == "no alarm: these forecasts have no intervals"


def test_a_naive_forecast_without_an_error_has_no_ratio() -> None:
    span = scoreboard(scores(5).assign(naive_error=0.0, naive_crps=0.0)).spans[0]
    assert (span.rmse_ratio, span.mae_ratio, span.crps_ratio) == (None, None, None)
    assert span.rmse == pytest.approx(3.0)


# Shares and their intervals


@pytest.mark.parametrize(("hits", "days"), [(0, 1), (1, 1), (3, 4), (80, 100), (777, 1000)])
def test_a_share_of_next_days_has_the_interval_of_clopper_and_pearson(hits: int, days: int) -> None:
    found = proportion(hits, days)
    assert (found.days, found.share) == (days, hits / days)
    assert found.lower == pytest.approx(stats.beta.ppf(0.025, hits, days + 1 - hits) if hits else 0.0)
    assert found.upper == pytest.approx(stats.beta.ppf(0.975, hits + 1, days - hits) if hits < days else 1.0)


@pytest.mark.parametrize(
    ("hits", "days", "horizon", "independent"),
    [
        (160, 200, 7, (23, 29)),  # 28.6 days, .8 of 29 is 23.2
        (95, 100, 14, (7, 7)),
        (10, 20, 30, (0, 1)),  # .67 days, and half a hit rounds to an even one
        (5, 9, 2, (2, 4)),
    ],
)
def test_days_that_overlap_count_as_fewer(
    hits: int, days: int, horizon: int, independent: tuple[int, int]
) -> None:
    found, alone = proportion(hits, days, horizon), proportion(*independent)
    assert (found.days, found.share) == (days, hits / days)
    assert (found.lower, found.upper) == (alone.lower, alone.upper)
    assert found.lower <= found.share <= found.upper


# By horizon


def ahead(horizon: int, days: int, **changed: Any) -> pd.DataFrame:
    return scores(days).assign(horizon=horizon, **changed)


def test_a_row_a_horizon_over_all_days_and_spans_of_one() -> None:
    week = ahead(7, 100, crps=0.8, error=5.0, covered_50=True)
    week["component_crps"] = [[0.1, 1.0, 0.9]] * 100
    rows = pd.concat([week, scores(120, covered_80=90), ahead(30, 40)]).sample(frac=1, random_state=1)
    board = scoreboard(rows)
    assert [(one.horizon, one.forecasts) for one in board.horizons] == [(1, 120), (7, 100), (30, 40)]
    next_day, seven, _ = board.horizons
    assert (next_day.crps_ratio, next_day.coverage[80]) == (board.all_days.crps_ratio, proportion(90, 120))
    best: Any = seven.best_baseline
    assert (best.component, best.days) == ("har_120_t", 100)
    assert [seven.crps_ratio, best.ratio] == pytest.approx([0.8, 0.8 / 0.9])
    assert seven.coverage[50] == proportion(100, 100, 7) != proportion(100, 100)

    assert [span.forecasts for span in board.spans] == [30, 90, 120, 120]
    of_week = scoreboard(rows, horizon=7)
    assert [span.forecasts for span in of_week.spans] == [30, 90, 100, 100]
    assert (of_week.all_days.mae, of_week.all_days.coverage[50]) == (5.0, seven.coverage[50])
    assert of_week.all_days.best_baseline == seven.best_baseline
    assert of_week.horizons == board.horizons


def test_further_ahead_the_best_baseline_may_have_a_drift() -> None:
    drifting = {
        "component_names": [["har_120_t", "har_120_t_drift"]] * 50,
        "component_crps": [[1.0, 0.9]] * 50,
    }
    board = scoreboard(pd.concat([ahead(1, 50, **drifting), ahead(2, 50, **drifting)]))
    names = [one.best_baseline and one.best_baseline.component for one in board.horizons]
    assert names == ["har_120_t", "har_120_t_drift"]


def test_the_coverage_of_90_is_that_of_the_pit() -> None:
    inside = [0.05, 0.5, 0.95]
    outside = [np.nextafter(0.05, 0), np.nextafter(0.95, 1), 0.005, 0.995]
    (one,) = scoreboard(scores(8).assign(pit=[*inside, *outside, np.nan])).horizons
    assert one.coverage[90] == proportion(3, 7)
    assert list(one.coverage) == [50, 80, 90, 95]


def test_alarms_are_only_for_the_next_day() -> None:
    rows = pd.concat([scores(180), ahead(7, 180)])
    assert len(scoreboard(rows).alarms) == 2
    board = scoreboard(rows, horizon=7)
    assert (board.alarms, board.no_alarm) == ((), "alarms are for the next day only")
    assert scoreboard(pd.concat([scores(180, **GOOD), ahead(7, 180)])).alarms == ()


def test_a_horizon_without_a_score_has_empty_spans() -> None:
    board = scoreboard(scores(5), horizon=3)
    assert (board.last, {span.forecasts for span in board.spans}) == (None, {0})


def test_the_table_of_horizons_as_text() -> None:
    rows = pd.concat([scores(60, covered_80=45), ahead(30, 60, covered_95=True)])
    board = scoreboard(rows)
    header, cells = horizon_table(board.horizons)
    assert {len(row) for row in cells} == {len(header)} == {len(set(header))}
    assert [row[:3] for row in cells] == [["1", "60", "0.9000"], ["30", "60", "0.9000"]]
    assert cells[0][5] == "75.0 % (62.1 to 85.3)"
    assert cells[1][7] == "100.0 % (15.8 to 100.0)"  # two days that do not overlap
    page = markdown(board)
    assert "| " + " | ".join(cells[1]) + " |" in page.split("### By horizon")[1].splitlines()
    assert "### By horizon" not in markdown(scoreboard(scores(60)))


def fallbacks(horizon: int, days: int, last: date = LAST) -> pd.DataFrame:
    """Worse than the baselines, and their intervals cover nothing."""
    return scores(days, last=last).assign(horizon=horizon, basis="fallback", crps=3.0, error=99.0)


def test_fallbacks_are_counted_apart_and_raise_no_alarm() -> None:
    models = [scores(180, **GOOD), scores(3, last=LAST - timedelta(days=200)).assign(basis="pool")]
    board = scoreboard(pd.concat([*models, fallbacks(1, 10, LAST + timedelta(days=20)), fallbacks(9, 5)]))
    assert (board.last, board.alarms, board.all_days.mae) == (LAST, (), 3.0)
    assert [(one.horizon, one.forecasts) for one in board.horizons] == [(1, 183)]
    assert board.horizons[0].crps_ratio == pytest.approx(0.9)
    assert [(one.horizon, one.forecasts, one.crps_ratio) for one in board.fallbacks] == [
        (1, 10, 3),
        (9, 5, 3),
    ]
    assert board.of(1, fallback=False) == board.horizons[0]
    assert board.of(9, fallback=True) == board.fallbacks[1]
    assert board.of(9, fallback=False) is None
    assert list(horizon_tables(board)) == ["Fallbacks, by horizon"]
    assert "| 9 | 5 | 3.0000 |" in markdown(board).split("### Fallbacks, by horizon")[1]


def test_a_scoreboard_with_only_fallbacks_says_so() -> None:
    board = scoreboard(fallbacks(1, 200))
    assert (board.last, board.alarms, board.horizons) == (None, (), ())
    assert (
        nothing_scored(board)
        == "only fallbacks have been scored so far, which the baselines made without a model"
    )
    assert markdown(board).startswith("### Next day\n\nOnly fallbacks have been scored so far")
    # Of another horizon there is not even a fallback.
    assert nothing_scored(scoreboard(fallbacks(1, 200), horizon=7)) == "no forecast has been scored yet"
    assert nothing_scored(scoreboard(scores(1))) is None


def test_two_rows_of_a_day_are_refused() -> None:
    scoreboard(pd.concat([scores(3), ahead(2, 1)]))
    with pytest.raises(
        BadInput, match="one row a target day and horizon, got more of 2021-06-30 for horizon 1"
    ):
        scoreboard(pd.concat([scores(3), scores(1)]))


def test_the_table_as_text() -> None:
    header, rows = table(scoreboard(scores(40, covered_80=30, covered_95=40)))
    assert [row[0] for row in rows] == ["30 days", "90 days", "365 days", "all"]
    assert {len(row) for row in rows} == {len(header)}
    assert len(set(header)) == len(header)
    assert rows[3][1:3] == ["40", "0.9000"]
    assert rows[3][3] == "0.9000 (har_120_t, p –)"
    assert rows[3][5] == "75.0 % (58.8 to 87.3)"
    assert rows[3][7:] == ["3.00", "0.7500", "3.00", "0.7500"]
    assert rows[0][4] == "50.0 % (31.3 to 68.7)"


def test_markdown_has_a_line_a_span_and_dashes_for_unknown_figures() -> None:
    lines = markdown(scoreboard(point_only(10))).splitlines()
    assert lines[1] == "|" + " --- |" * 11
    assert lines[2] == "| 30 days | 10 | – | – | – | – | – | 3.00 | 0.7500 | 3.00 | 0.7500 |"
    assert lines[-1] == "no alarm: these forecasts have no intervals"
