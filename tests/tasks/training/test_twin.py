"""The twin: trained without the newest days, for the gate to judge in place of the published network."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from closecast.storage.core.errors import Damaged
from closecast.storage.models.bundles import Bundle, Draft
from closecast.storage.models.registry import Models
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.network.architectures import arrays_sha256
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.base import FittedModel
from closecast.tasks.profiles.calibrated import CalibratedProfile
from closecast.tasks.training.registration import read_bundle, train_model, weights_digest, write_bundle
from tests.calibrated import LENIENT, MADE, Runs, candles, champion_runs, day, quick, stored_runs
from tests.helpers import BTC, SMALL, made_up

# With such steps the members stop at different epochs.
PROFILE = quick(members=3, epochs=6, patience=2, learning_rate=0.2)
FIGURES = ["open", "high", "low", "close"]


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return champion_runs(tmp_path_factory, tmp_path / "home", **LENIENT)


def history(days: int = 600, *, moved_after: int | None = None) -> PriceHistory:
    """The first days; those after a number may have other prices."""
    frame = candles().head(days).copy()
    if moved_after is not None:
        noise = np.random.default_rng(9).uniform(0.8, 1.25, days - moved_after)
        frame.loc[moved_after:, FIGURES] = frame.loc[moved_after:, FIGURES].mul(noise, axis=0)
    return PriceHistory(BTC, frame, "BTC-USD@1:ab", "csv@0")


@functools.cache
def trained(days: int = 600, *, moved_after: int | None = None) -> Any:
    return train_model(PROFILE, history(days, moved_after=moved_after), {}, parent=None)


def fine_tuned(parent: FittedModel, days: int, *, moved_after: int | None = None) -> Any:
    return train_model(PROFILE, history(days, moved_after=moved_after), {}, parent=("1", parent))


def digests(fitted: FittedModel) -> tuple[str, str]:
    """Of the published networks and of the twin's."""
    assert fitted.twin
    return weights_digest(PROFILE, fitted), weights_digest(PROFILE, fitted.twin)


def offsets(fitted: FittedModel) -> list[bytes]:
    assert fitted.quantile_offsets
    assert list(fitted.quantile_offsets) == [1, 3, 7]
    return [own.tobytes() for own in fitted.quantile_offsets.values()]


def validation(fitted: FittedModel) -> list[bytes]:
    """The validation losses of each of the twin's networks."""
    return [losses.validation.tobytes() for losses in fitted.judged.training.losses]


def test_a_refit_is_the_twin_without_the_newest_days_and_the_network_on_all_of_them() -> None:
    fitted, lineage = trained()
    twin = PROFILE.fit(history(), {}, holdout_days=180)
    bests = sorted(losses.best_epoch for losses in twin.training.losses)
    network = PROFILE.fit(history(), {}, epochs=bests[1])
    assert bests[0] < bests[2]  # of three members the one in the middle
    assert digests(fitted) == (weights_digest(PROFILE, network), weights_digest(PROFILE, twin))
    assert (fitted.trained_through, fitted.twin.trained_through) == (day(600), day(420))
    assert fitted.judged is fitted.twin
    assert [len(losses.training) for losses in fitted.training.losses] == [bests[1]] * 3
    # The first offsets come from the days that the twin has not seen.
    assert offsets(fitted) == offsets(twin) == offsets(fitted.twin)
    assert any(own.any() for own in fitted.quantile_offsets.values())
    assert not any(own.any() for own in (network.quantile_offsets or {}).values())
    own = lineage.twin
    assert (lineage.trained_through, lineage.weights_sha256) == (day(600), digests(fitted)[0])
    assert (own.holdout_days, own.trained_through, own.weights_sha256, own.best_epoch) == (
        *(180, day(420), digests(fitted)[1]),
        bests[1],
    )
    assert own.windows["validation"] > 0
    assert lineage.windows["train"] > own.windows["train"] + own.windows["validation"]
    assert "validation" not in lineage.windows


def test_the_twin_learns_from_no_day_after_its_last() -> None:
    """Neither gradients nor early stopping, of any horizon; the network and the first offsets do."""
    plain, after, last = (one[0] for one in (trained(), trained(moved_after=420), trained(moved_after=419)))
    assert digests(after)[1] == digests(plain)[1]
    assert validation(after) == validation(plain)
    assert all(one != other for one, other in zip(validation(last), validation(plain), strict=True))
    assert digests(after)[0] != digests(plain)[0]
    assert all(one != other for one, other in zip(offsets(after), offsets(plain), strict=True))
    newest = trained(moved_after=599)[0]
    assert digests(newest)[1] == digests(plain)[1]
    assert digests(newest)[0] != digests(plain)[0]


def test_a_fine_tuning_fine_tunes_both() -> None:
    parent, _ = trained()
    fitted, lineage = fine_tuned(parent, 630)
    assert parent.twin
    network = PROFILE.fine_tune(parent, history(630), {})
    twin = PROFILE.fine_tune(parent.twin, history(630), {}, holdout_days=180)
    assert digests(fitted) == (weights_digest(PROFILE, network), weights_digest(PROFILE, twin))
    assert not set(digests(fitted)) & set(digests(parent))
    assert (fitted.trained_through, fitted.twin.trained_through) == (day(630), day(450))
    assert offsets(fitted) == offsets(parent)
    assert (lineage.twin.trained_through, lineage.twin.best_epoch) == (day(450), None)
    # The twin's later days move the network alone.
    moved, _ = fine_tuned(parent, 630, moved_after=450)
    assert digests(moved)[1] == digests(fitted)[1]
    assert digests(moved)[0] != digests(fitted)[0]


@pytest.mark.parametrize(("days", "has_twin"), [(579, False), (580, True)])
def test_a_series_too_short_has_no_twin_and_says_so(
    days: int, has_twin: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "closecast.training")
    fitted, lineage = trained(days)
    assert (fitted.twin is not None, lineage.twin is not None) == (has_twin, has_twin)
    assert (fitted.trained_through, lineage.trained_through) == (day(days), day(days))
    said = [record.getMessage() for record in caplog.records if "without a twin" in record.getMessage()]
    assert said == (
        []
        if has_twin
        else [
            f"{BTC}: trained without a twin, which needs 580 days of closes: the gate waits for unseen days"
        ]
    )
    assert fitted.judged is (fitted.twin or fitted)
    if not has_twin:
        assert lineage.tags()["twin_trained_through"] == "none"
        assert lineage.windows["validation"] > 0  # the newest days stop the training
        assert weights_digest(PROFILE, fitted) == weights_digest(PROFILE, PROFILE.fit(history(days), {}))


def test_a_model_without_a_twin_is_fine_tuned_with_one_once_the_series_is_long_enough() -> None:
    parent, _ = trained(500)
    assert parent.twin is None
    fitted, lineage = fine_tuned(parent, 690)
    twin = PROFILE.fine_tune(parent, history(690), {}, holdout_days=180)
    assert digests(fitted)[1] == weights_digest(PROFILE, twin)
    assert lineage.twin.trained_through == day(510)


def test_a_profile_without_a_gate_has_no_twin(caplog: pytest.LogCaptureFixture) -> None:
    fitted, lineage = train_model(
        ArticleProfile(SMALL), PriceHistory(BTC, made_up(), "v", "csv@0"), {}, parent=None
    )
    assert (fitted.twin, lineage.twin) == (None, None)
    assert "twin" not in caplog.text


# Bundles


@pytest.fixture
def stored(tmp_path: Path) -> tuple[FittedModel, Bundle]:
    fitted, lineage = trained()
    (tmp_path / "bundle").mkdir()
    draft = Draft(tmp_path / "bundle")
    write_bundle(draft, PROFILE, fitted, lineage)
    return fitted, Bundle(draft.folder, draft.seal())


def test_a_bundle_gives_both_to_the_last_bit(stored: tuple[FittedModel, Bundle]) -> None:
    fitted, bundle = stored
    model = read_bundle(bundle, PROFILE, "7")
    assert digests(model.fitted) == digests(fitted)
    assert offsets(model.fitted) == offsets(fitted)
    assert (model.fitted.trained_through, model.fitted.judged.trained_through) == (day(600), day(420))
    assert model.version == "7"
    columns = model.lineage.twin
    assert columns
    assert columns.weights_sha256 == digests(fitted)[1]


def test_a_damaged_twin_is_found(stored: tuple[FittedModel, Bundle]) -> None:
    _, bundle = stored
    # The published network's file in the twin's place is no twin.
    (bundle.folder / "twin/member-1.weights.h5").put((bundle.folder / "member-1.weights.h5").read_bytes())
    with pytest.raises(Damaged, match="twin/member-1"):
        read_bundle(bundle, PROFILE)
    lacking = Bundle(bundle.folder, (bundle.folder / "manifest.json").sha256())
    lacking.manifest = {name: one for name, one in bundle.manifest.items() if not name.startswith("twin/")}
    with pytest.raises(Damaged, match=r"lacks 'twin/ensemble\.json'"):
        read_bundle(lacking, PROFILE)


# The versions of a home


@pytest.mark.parametrize("part", ["network", "twin"])
def test_a_ruined_twin_is_refused_and_a_ruined_network_is_not_judged(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    runs = runs.with_settings(gate_ratio_180=1.5)
    honest = CalibratedProfile.fine_tune

    def ruin(self: CalibratedProfile, *args: Any, holdout_days: int = 0) -> FittedModel:
        fitted = honest(self, *args, holdout_days=holdout_days)
        if bool(holdout_days) is (part == "network"):
            return fitted
        members = [[array.copy() for array in one] for one in fitted.state.members]
        members[0][-1][1::3] += 4.0
        return replace(fitted, state=replace(fitted.state, members=tuple(members)))

    with monkeypatch.context() as patch:
        patch.setattr(CalibratedProfile, "fine_tune", ruin)
        selection = runs.select(MADE + 30)
    assert selection.version == ("1" if part == "twin" else "2")
    assert runs.statuses()["2"] == ("refused" if part == "twin" else "accepted")


def test_a_short_series_waits_for_the_gate(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    runs = stored_runs(tmp_path_factory, tmp_path / "short", **LENIENT)
    assert runs.select(450).version == "1"
    assert "twin_trained_through" in runs.versions()["1"].tags
    assert runs.versions()["1"].tags["twin_trained_through"] == "none"
    waiting = runs.select(540)
    assert waiting.version == "1"
    assert f"waits until {day(630)}" in waiting.reason
    assert runs.select(630).version == "2"  # by now it has not seen the days itself
    tags = runs.versions()["2"].tags
    assert (tags["gate_champion"], tags["gate_days"]) == ("1", "180")
    assert tags["twin_trained_through"] == str(day(450))
    arrays = runs.profile.weights(runs.model("1").fitted)[0]
    assert arrays_sha256(arrays) == runs.versions()["1"].tags["weights_sha256"]
    Models(runs.home).open(runs.versions()["2"]).verify()
