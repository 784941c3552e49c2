from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, chi2

from storage.core.home import Home
from tasks.core.quantiles import crps
from tasks.report.charts import charts, short
from tasks.report.context import CLOSES, gather, last_closes, running_coverage, uniform_of
from tasks.report.model_section import curves_of, refit_of
from tasks.report.text import uniform_words
from tests.helpers import BTC, made_up, without
from tests.pages import DAY, HOLE, full_home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return full_home(tmp_path_factory, tmp_path_factory.mktemp("facts") / "home")


def hits(*names: str, days: int = 100) -> pd.DataFrame:
    frame = pd.DataFrame({"target_day": pd.date_range("2020-01-01", periods=days, unit="s")})
    for percent in (50, 80, 95):
        frame[f"covered_{percent}"] = pd.array([True] * days, "boolean")
    for name in names:
        frame[name] = pd.array([n % 2 == 0 for n in range(days)], "boolean")
    return frame


def test_running_coverage_is_of_the_last_days_and_knows_its_noise() -> None:
    frame = running_coverage(hits("covered_80"))
    assert frame["days"].tolist() == [*map(float, range(20, 91)), *[90.0] * 10]
    newest = frame.iloc[-1]
    assert newest["running_80"] == 0.5
    assert newest["running_95"] == 1.0
    # 72 of 90 are expected of an 80 % interval; what lies within the band is no surprise, and beyond it is.
    low, high = round(newest["lower_80"] * 90), round(newest["upper_80"] * 90)
    assert low < 72 < high
    for inside, beyond in ((low, low - 2), (high, high + 2)):
        assert binomtest(inside, 90, 0.8).pvalue > 0.03
        assert binomtest(beyond, 90, 0.8).pvalue < 0.05


def test_running_coverage_of_few_days_is_none() -> None:
    assert running_coverage(hits(days=19)).empty
    assert len(running_coverage(hits(days=20))) == 1


def test_the_histogram_and_its_band() -> None:
    assert uniform_of(np.array([])) is None
    found = uniform_of(np.array([0.0, 0.05, 0.1, 0.95, 1.0]))
    assert found is not None
    assert found.counts == (2, 1, 0, 0, 0, 0, 0, 0, 0, 2)
    assert (found.days, found.expected, found.lower, found.p_value) == (5, 0.5, 0, None)


def test_uniformity_is_tested_over_all_bars() -> None:
    even = uniform_of(np.linspace(0.0, 1.0, 200))
    # Two bars beyond their band, as even forecasts show in one case of twelve, are no verdict.
    two = uniform_of(np.repeat(np.arange(0.05, 1, 0.1), [30, 10, *[20] * 8]))
    crowded = uniform_of(np.repeat(np.arange(0.05, 1, 0.1), [40, *[15] * 8, 40]))
    assert even is not None
    assert two is not None
    assert crowded is not None
    assert even.p_value == pytest.approx(1.0)
    assert sum(not two.lower <= n <= two.upper for n in two.counts) == 2
    # Pearson's sum is (10² + 10²) / 20 with nine degrees of freedom.
    assert two.p_value == pytest.approx(chi2.sf(200 / 20, 9))
    assert two.p_value > 0.05
    assert crowded.p_value is not None
    assert crowded.p_value < 0.001


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (
            [20] * 10,
            "0 of 10 bars lie outside of the band. All bars together differ no more than chance alone",
        ),
        ([30, 10, *[20] * 8], "2 of 10 bars lie outside of the band. All bars together differ no more than"),
        ([40, *[15] * 8, 40], "differ more than chance alone leads to (χ² test at 5 %, p below .001)."),
        (
            [1, *[0] * 9],
            "0 of 10 bars lie outside of the band; too few closes (1) to test all bars together.",
        ),
    ],
)
def test_calibration_in_words(home: Home, counts: list[int], said: str) -> None:
    uniform = uniform_of(np.repeat(np.arange(0.05, 1, 0.1), counts))
    assert said in uniform_words(replace(gather(home, BTC, "calibrated", DAY), uniform=uniform))


def test_closes_have_a_row_a_day_and_a_gap_where_one_is_missing() -> None:
    frame = without(made_up(420), *HOLE)
    found = last_closes(frame, frame["day_utc"].iloc[-1].date())
    assert len(found) == CLOSES
    gone = found[found["close"].isna()]["day_utc"].dt.date.tolist()
    assert gone == [day.date() for day in pd.date_range(*HOLE)]
    # What came after the origin is not on the page.
    early = last_closes(frame, frame["day_utc"].iloc[9].date())
    assert len(early) == 10


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, None), (float("nan"), None), (float("inf"), None), (8031.415926535, 8031.415927), (1e-7, 1e-7)],
)
def test_figures_of_charts_are_short_and_finite(value: float | None, said: float | None) -> None:
    assert short(value) == said


def test_facts_agree_with_the_tables(home: Home) -> None:
    facts = gather(home, BTC, "calibrated", DAY)
    scored = facts.scored
    assert len(facts.past) == 120
    assert len(scored) == 118
    inside = scored["close"].between(scored["lower_80"], scored["upper_80"])
    assert scored["covered_80"].tolist() == inside.tolist()
    # A baseline's CRPS is worked out anew here from what was kept.
    rival = next(one for one in facts.rivals if one.method == "last_close_250")
    ratios = np.log(np.stack(scored["quantiles"].tolist()) / scored["last_close"].to_numpy()[:, None])
    came = np.log((scored["close"] / scored["last_close"]).to_numpy())
    assert rival.days == 118
    assert rival.crps == pytest.approx(crps(came, ratios * 0.025 / 0.03).mean())
    assert rival.ratio == pytest.approx(scored["crps"].mean() / rival.crps)
    assert rival.p_value is not None
    drawn = charts(facts)
    assert drawn["past"]["days"][-1] == "2020-02-24"
    assert drawn["fan"]["target"] == "2020-02-25"
    assert None in drawn["fan"]["closes"]
    assert drawn["coverage"]["running_80"][-1] == pytest.approx(inside.tail(90).mean())


def test_losses_of_one_network_and_of_members() -> None:
    (one,) = curves_of({"loss": [2.0, 1.0], "val_loss": [3.0, None]})
    assert (one.name, one.training, one.validation, one.best) == ("network", [2.0, 1.0], [3.0, None], None)
    two = curves_of({"members": [{"loss": [1.0], "val_loss": [1.0], "best_epoch": 1}] * 2})
    assert [curve.name for curve in two] == ["member 1", "member 2"]


def test_a_fine_tuned_version_goes_back_to_its_refit() -> None:
    from storage.models.version import ModelVersion

    def version(number: str, training_kind: str, parent: str) -> ModelVersion:
        return ModelVersion(
            BTC, "calibrated", number, "b", "s", tags={"training_kind": training_kind, "parent": parent}
        )

    chain = [version("3", "fine-tune", "2"), version("2", "fine-tune", "1"), version("1", "refit", "none")]
    assert refit_of(chain[0], chain).version == "1"
    assert refit_of(chain[2], chain).version == "1"
    # A parent that was pruned, and a circle that nobody should make.
    assert refit_of(chain[0], chain[:2]).version == "2"
    circle = [version("1", "fine-tune", "2"), version("2", "fine-tune", "1")]
    assert refit_of(circle[0], circle).version in ("1", "2")
