from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from scipy import stats

from closecast.storage.core.errors import BadDay
from closecast.tasks.backtest import summary as summary_module
from closecast.tasks.backtest.result import BacktestResult
from closecast.tasks.backtest.summary import SEED, Evaluation, Summary, markdown, tables
from closecast.tasks.core.quantiles import LEVELS, crps
from closecast.tasks.evaluation.scoreboard import proportion
from closecast.tasks.evaluation.significance import compare

NORMAL = stats.norm.ppf(LEVELS)
PAST = np.array([100.0, 103.0, 101.0, np.nan, 90.0, 91.0])  # its changes: 3, 2, unknown, 1
FIRST = date(2020, 1, 1)


def summarise(evaluation: Evaluation, past_closes: Any = PAST, **about: Any) -> Summary:
    return summary_module.summarise(
        evaluation, past_closes, **{"model": "calibrated", "currency": "USD", **about}
    )


def make_evaluation(
    returns: np.ndarray, quantiles: dict[str, np.ndarray], *, last: np.ndarray, sigma: np.ndarray
) -> Evaluation:
    median = quantiles["calibrated"][:, LEVELS.index(0.5)]
    return Evaluation(
        target_days=[FIRST + timedelta(days=n) for n in range(len(returns))],
        last_close=last,
        close=last * np.exp(returns),
        sigma=sigma,
        point=last * np.exp(median),
        quantiles=quantiles,
    )


def changing_volatility(days: int = 300, *, seed: int = 3) -> Evaluation:
    """Normal returns whose sigma changes: one component knows it, one does not, one is the first again."""
    draw = np.random.default_rng(seed)
    sigma = np.exp(draw.normal(-3.5, 0.4, days))
    returns = sigma * draw.normal(0, 1, days)
    last = 1000.0 * np.exp(np.cumsum(np.concatenate([[0.0], returns[:-1]])))
    bias = 0.1 * sigma * np.sign(draw.normal(0, 1, days))
    calibrated = bias[:, None] + sigma[:, None] * NORMAL
    components = {
        "calibrated": calibrated,
        "flat": np.tile(0.1 * NORMAL, (days, 1)),
        "twin": calibrated.copy(),
    }
    return make_evaluation(returns, components, last=last, sigma=sigma)


def with_baselines(evaluation: Evaluation, **widths: float) -> Evaluation:
    """With baselines, whose intervals are so many times as wide as the right ones."""
    spread = evaluation.sigma[:, None] * NORMAL
    baselines = {name: width * spread for name, width in widths.items()}
    return replace(evaluation, quantiles={**evaluation.quantiles, **baselines})


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return changing_volatility()


@pytest.fixture(scope="module")
def summary(evaluation: Evaluation) -> Summary:
    return summarise(evaluation)


def constant(days: int) -> Evaluation:
    zero = np.zeros((days, len(LEVELS)))
    components = {"calibrated": zero, "naive": zero.copy()}
    return make_evaluation(np.zeros(days), components, last=np.full(days, 50.0), sigma=np.full(days, 1e-6))


# The summary


def test_crps_and_its_ratios(evaluation: Evaluation, summary: Summary) -> None:
    returns = np.log(evaluation.close / evaluation.last_close)
    ours, flat = (float(crps(returns, evaluation.quantiles[name]).mean()) for name in ("calibrated", "flat"))
    against: Any = summary.against["flat"]
    assert summary.crps == {"calibrated": ours, "flat": flat, "twin": ours}
    assert list(summary.against) == ["flat", "twin"]
    assert against.ratio == pytest.approx(ours / flat)
    assert against.lower < ours / flat < against.upper < 1
    assert against.p_value < 1e-4


def test_the_best_baseline_is_named_and_no_other_component_is_one(evaluation: Evaluation) -> None:
    summary = summarise(with_baselines(evaluation, har_120_t=1.3, ewma_weekday_t=1.1))
    assert summary.best_baseline == "ewma_weekday_t"
    assert summary.crps["twin"] < summary.crps["har_120_t"]
    assert "CRPS of calibrated; the best baseline is ewma_weekday_t" in tables(summary)
    assert summarise(evaluation).best_baseline is None


def test_coverage_by_counting(evaluation: Evaluation, summary: Summary) -> None:
    returns = np.log(evaluation.close / evaluation.last_close)
    order = np.argsort(evaluation.sigma)
    for coverage, level in zip(summary.coverage, (0.25, 0.1, 0.05, 0.025), strict=True):
        quantiles = evaluation.quantiles["calibrated"]
        low, high = quantiles[:, LEVELS.index(level)], quantiles[:, LEVELS.index(round(1 - level, 3))]
        covered = [bool(low[n] <= returns[n] <= high[n]) for n in range(300)]
        hits = sum(covered)
        terciles = [np.mean([covered[n] for n in order[at : at + 100]]) for at in (0, 100, 200)]
        assert coverage.percent == round(100 * (1 - 2 * level))
        assert coverage.overall == proportion(hits, 300)
        assert [coverage.low, coverage.middle, coverage.high] == pytest.approx(terciles)


def test_pit_by_hand() -> None:
    # Six days whose outcomes lie at known levels, none of them near the edge of a bin.
    returns = 0.02 * stats.norm.ppf([0.001, 0.26, 0.26, 0.525, 0.73, 0.999])
    quantiles = {"calibrated": np.tile(0.02 * NORMAL, (6, 1))}
    six = make_evaluation(returns, quantiles, last=np.full(6, 100.0), sigma=np.full(6, 0.02))
    pit = summarise(six).pit
    assert pit is not None
    assert {n: count for n, count in enumerate(pit.counts) if count} == {0: 1, 5: 2, 10: 1, 14: 1, 19: 1}
    assert len(pit.counts) == 20
    assert pit.largest_bin_deviation == pytest.approx(2 / 6 - 1 / 20)
    # Three of the six lie below the level .30, so it is .20 off; .99 with five of six is off by .157.
    assert pit.kolmogorov_at_levels == pytest.approx(0.2)


def by_hand(medians: list[float], closes: list[float]) -> Summary:
    quantiles = {"calibrated": np.array(medians)[:, None] + 0.1 * NORMAL}
    days = len(closes)
    evaluation = make_evaluation(
        np.log(np.array(closes) / 100.0), quantiles, last=np.full(days, 100.0), sigma=np.full(days, 0.1)
    )
    # The closes themselves, not what their logarithms round to.
    return summarise(replace(evaluation, close=np.array(closes)))


def test_the_point_by_hand() -> None:
    # Forecast 110, 90, 100; actual 104, 98, 100: errors 6, 8, 0, and naive's 4, 2, 0.
    point = by_hand([np.log(1.1), np.log(0.9), 0.0], [104.0, 98.0, 100.0]).point
    assert point.rmse == pytest.approx(np.sqrt(100 / 3))
    assert point.rmse_ratio_to_naive == pytest.approx(np.sqrt(100 / 20))
    assert point.mae == pytest.approx(14 / 3)
    assert point.mae_ratio_to_naive == pytest.approx(14 / 6)
    assert point.mase == pytest.approx(14 / 3 / 2)


def test_the_direction_by_hand() -> None:
    # Two days do not count. Of the other six, four rose; the sign was right on five.
    medians = [0.01, 0.01, 0.01, -0.01, -0.01, -0.01, 0.0, 0.01]
    closes = [101.0, 102.0, 103.0, 104.0, 98.0, 97.0, 105.0, 100.0]

    direction = by_hand(medians, closes).direction
    assert (direction.days, direction.hits) == (6, 5)
    assert direction.hit_rate == pytest.approx(5 / 6)
    assert direction.always_up_rate == pytest.approx(4 / 6)
    # Of six at 2/3: 64 ways of 729 to have six, 192 five, 240 four, 160 three, 60 two, 12 one, 1 none.
    # No more likely than five hits: all but four.
    assert direction.p_value == pytest.approx(1 - 240 / 729)


# Further ahead


def test_comparisons_and_coverage_know_that_outcomes_overlap(
    evaluation: Evaluation, summary: Summary
) -> None:
    week = summarise(evaluation, horizon=7)
    returns = np.log(evaluation.close / evaluation.last_close)
    ours, flat = (crps(returns, evaluation.quantiles[name]) for name in ("calibrated", "flat"))
    assert week.horizon == 7
    assert week.crps == summary.crps
    assert week.against["flat"] == compare(ours, flat, horizon=7, seed=SEED) != summary.against["flat"]
    for one, alone in zip(week.coverage, summary.coverage, strict=True):
        hits = round(300 * alone.overall.share)
        assert one.overall == proportion(hits, 300, 7) != alone.overall
        assert (one.low, one.middle, one.high) == (alone.low, alone.middle, alone.high)


def test_the_best_baseline_may_have_a_drift_beyond_the_next_day(evaluation: Evaluation) -> None:
    both = with_baselines(evaluation, har_120_t=1.3, har_120_t_drift=1.1)
    assert [summarise(both, horizon=h).best_baseline for h in (1, 2)] == ["har_120_t", "har_120_t_drift"]


def test_the_scale_of_mase_is_the_change_over_the_horizon(evaluation: Evaluation) -> None:
    past = np.array([100.0, 103.0, 101.0, np.nan, 90.0, 91.0])  # over two days: 1, unknown, 11, unknown
    point = summarise(evaluation, past, horizon=2).point
    assert point.mase == pytest.approx(point.mae / 6)
    assert summarise(evaluation, past, horizon=6).point.mase is None


def test_the_direction_over_some_days_has_no_p_value(evaluation: Evaluation, summary: Summary) -> None:
    direction = summarise(evaluation, horizon=2).direction
    assert direction == replace(summary.direction, p_value=None)
    assert summary.direction.p_value is not None


# What has no figure


def as_json(summary: Summary) -> dict[str, Any]:
    """The summary as `closecast backtest --json` prints it: nowhere a NaN."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(summary), default=str, allow_nan=False))
    return plain


@pytest.mark.parametrize("days", [1, 29, 60])
def test_a_constant_series_is_plain_json(days: int) -> None:
    summary = summarise(constant(days), past_closes=np.full(10, 50.0))
    plain = as_json(summary)
    assert set(plain["against"]["naive"].values()) == {None}
    assert plain["coverage"][0]["low"] is plain["coverage"][0]["high"] is None
    errors = plain["point"]
    assert (errors["rmse"], errors["mae"]) == (0.0, 0.0)
    assert errors["rmse_ratio_to_naive"] is errors["mae_ratio_to_naive"] is errors["mase"] is None
    assert plain["direction"]["hit_rate"] is None
    assert not re.search("nan|None", markdown([summary]), re.IGNORECASE)


@pytest.mark.parametrize("days", [1, 2, 29, 30])
def test_few_days_have_no_p_value(days: int) -> None:
    plain = as_json(summarise(changing_volatility(days), past_closes=np.array([])))
    assert (plain["days"], plain["last_target_day"]) == (days, str(FIRST + timedelta(days=days - 1)))
    assert plain["point"]["mase"] is None
    assert (plain["against"]["flat"]["p_value"] is None) == (days < 30)


def test_a_point_has_errors_and_no_distribution(evaluation: Evaluation) -> None:
    point = replace(evaluation, quantiles={}, sigma=np.full(300, np.nan))
    summary = summarise(point, model="article", currency="EUR")
    assert (summary.crps, summary.against, summary.coverage, summary.pit) == ({}, {}, (), None)
    assert summary.point == summarise(evaluation).point
    assert list(tables(summary)) == ["The point forecast"]
    assert f"| RMSE | {summary.point.rmse:,.2f} EUR |" in markdown([summary])


# As text


def test_tables_and_markdown_show_the_figures(summary: Summary) -> None:
    text_tables, page = tables(summary), markdown([summary])
    against = summary.against["flat"]
    _, rows = text_tables["CRPS of calibrated"]
    assert page.startswith("# calibrated: 300 days, 2020-01-01 to 2020-10-26\n")
    assert rows[1][2:4] == [f"{against.ratio:.4f}", f"{against.lower:.4f} to {against.upper:.4f}"]
    assert [row[4] for row in rows] == ["–", "< 1e-15", "–"]
    assert "| " + " | ".join(rows[1]) + " |" in page.splitlines()
    for header, rows in text_tables.values():
        assert {len(row) for row in rows} == {len(header)}
    covered = f"{100 * summary.coverage[1].overall.share:.1f} %"
    assert covered in text_tables["Coverage of the central intervals"][1][1]


def test_the_last_table_has_a_row_a_horizon(evaluation: Evaluation) -> None:
    both = with_baselines(evaluation, har_120_t=1.1, ewma_weekday_t=1.3)
    summaries = [summarise(both), summarise(both, horizon=7), summarise(both, horizon=60)]
    header, rows = tables(summaries[1], summaries)["By horizon"]
    assert {len(row) for row in rows} == {len(header)} == {len(set(header))}
    against: Any = summaries[1].against
    best, short = against["har_120_t"], against["ewma_weekday_t"]
    assert rows[1][:5] == [
        "7",
        "300",
        f"{summaries[1].crps['calibrated']:.6f}",
        "har_120_t",
        f"{best.ratio:.4f}",
    ]
    assert rows[1][5] == f"{best.lower:.4f} to {best.upper:.4f}"
    assert rows[1][7:9] == [f"{short.ratio:.4f}", f"{100 * summaries[1].coverage[0].overall.share:.1f} %"]
    assert rows[2][5:7] == ["–", "–"]  # 300 days are five times sixty

    page = markdown(summaries)
    assert page.startswith("# calibrated: 300 days, 2020-01-01 to 2020-10-26\n")
    assert "| " + " | ".join(rows[2]) + " |" in page.split("## By horizon")[1].splitlines()
    assert markdown(summaries[1:]).startswith(
        "# calibrated: 300 days, 2020-01-01 to 2020-10-26, 7 days ahead\n"
    )
    assert "By horizon" not in markdown(summaries[:1])


def test_horizons_without_baselines_have_dashes(evaluation: Evaluation) -> None:
    _, rows = tables(summarise(evaluation), [summarise(evaluation), summarise(evaluation, horizon=2)])[
        "By horizon"
    ]
    assert [row[3:8] for row in rows] == [["–"] * 5] * 2


def test_fallbacks_have_a_table_of_their_own(evaluation: Evaluation) -> None:
    both = with_baselines(evaluation, last_close_250=1.2, ewma_weekday_t=1.3)
    models = [summarise(both), summarise(both, horizon=7)]
    fallbacks = [summarise(both, horizon=horizon, fallback=True) for horizon in (1, 9)]
    all_tables = tables(models[0], [*models, *fallbacks])
    assert [row[0] for row in all_tables["By horizon"][1]] == ["1", "7"]
    header, rows = all_tables["Fallbacks, by horizon"]
    assert header[:5] == ["days ahead", "days", "CRPS", "CRPS / last_close_250", "CRPS / ewma_weekday_t"]
    one = fallbacks[1]
    ratios = [f"{one.against[name].ratio:.4f}" for name in ("last_close_250", "ewma_weekday_t")]
    covered = [f"{100 * coverage.overall.share:.1f} %" for coverage in one.coverage]
    assert rows[1] == ["9", "300", f"{one.crps['calibrated']:.6f}", *ratios, *covered]
    page = markdown([*models, *fallbacks])
    assert page.startswith("# calibrated: 300 days, 2020-01-01 to 2020-10-26\n")
    assert "| " + " | ".join(rows[1]) + " |" in page.split("## Fallbacks, by horizon")[1].splitlines()
    assert "Fallbacks" not in markdown(models)


def test_without_a_model_the_tables_are_of_the_fallbacks_and_say_so(evaluation: Evaluation) -> None:
    both = with_baselines(evaluation, last_close_250=1.2, ewma_weekday_t=1.3)
    fallbacks = tuple(summarise(both, horizon=h, fallback=True) for h in (1, 7))
    result = BacktestResult("ab", (), (), fallbacks)
    assert (result.summary, result.of(7)) == fallbacks
    page = markdown(result.every)
    assert page.startswith("# calibrated: 300 days, 2020-01-01 to 2020-10-26, only fallbacks, which the")
    assert "## By horizon" not in page
    assert "## Fallbacks, by horizon" in page
    # A horizon that no model forecasts is shown by its fallbacks.
    result = BacktestResult("ab", (summarise(evaluation),), (), fallbacks)
    assert (result.summary.fallback, result.of(7)) == (False, fallbacks[1])


def test_fallbacks_of_a_point_have_only_their_number(evaluation: Evaluation) -> None:
    point = replace(evaluation, quantiles={}, sigma=np.full(300, np.nan))
    own, fallback = (summarise(point, model="article", fallback=kind) for kind in (False, True))
    header, (row,) = tables(own, [own, fallback])["Fallbacks, by horizon"]
    assert row == ["1", "300", *["–"] * (len(header) - 2)]


def test_a_result_has_the_horizons_whose_outcomes_were_known(evaluation: Evaluation) -> None:
    summaries = (summarise(evaluation), summarise(evaluation, horizon=7))
    result = BacktestResult("ab", summaries, ())
    assert (result.summary, result.of(1), result.of(7)) == (summaries[0], *summaries)
    with pytest.raises(BadDay, match="no origin of this backtest has an outcome 30 days ahead"):
        result.of(30)


def test_a_notebook_shows_a_result_and_has_it_as_a_frame(evaluation: Evaluation) -> None:
    result = BacktestResult("ab", tuple(summarise(evaluation, horizon=horizon) for horizon in (1, 2)), ())
    assert repr(result) == f"<BacktestResult ab, calibrated: {result.summary.span}>"
    shown = result._repr_html_()
    assert shown.startswith("<table><caption>calibrated: By horizon</caption>")
    assert (shown.count("<table>"), shown.count("<tr>")) == (1, 3)
    assert shown.endswith(f"<p>Backtest ab: {result.summary.span}; prices in USD</p>")
    frame = result.to_frame()
    assert frame["horizon"].tolist() == [1, 2]
    assert frame["first_target_day"].dtype == "datetime64[s]"
    assert frame["crps"].tolist() == [one.crps["calibrated"] for one in result.summaries]
    assert frame["covered_80"].tolist() == [one.coverage[1].overall.share for one in result.summaries]
    # Without a table by horizon the one of the point, or of the one horizon, is shown.
    point = BacktestResult("ab", (summarise(replace(evaluation, quantiles={})),), ())
    assert "<caption>calibrated: The point forecast</caption>" in point._repr_html_()
    assert point.to_frame()["crps"].isna().all()
    both = BacktestResult("ab", result.summaries, (), (summarise(evaluation, fallback=True),))
    assert both._repr_html_().count("<table>") == 2


def test_the_crps_of_a_stablecoin_keeps_its_digits() -> None:
    summary = summarise(changing_volatility())
    summary = replace(summary, crps=dict(zip(summary.crps, (0.000026281, 0.000026549, 1e-7), strict=True)))
    (title, (_, rows)), *_ = tables(summary).items()
    assert title.startswith("CRPS of calibrated")
    assert [row[1] for row in rows] == ["0.000026281", "0.000026549", "0.00000010000"]
