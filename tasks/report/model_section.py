"""The model of a forecast, for people: what made it, how old it is, how it was trained, who it replaced."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import PurePosixPath
from typing import Any

from storage.core.home import Home
from storage.models.bundles import Bundle
from storage.models.registry import Models
from storage.models.version import ModelVersion

SHOWN_VERSIONS = 12
# The article's, in the order it shows them, and what a person who cannot see them is told.
FIGURES = {
    "prices": "All closes that the model was given, with the part that it was tested on.",
    "losses": "Training and validation loss of each epoch.",
    "predicted": "The test part: predicted close, actual close, and the close of the day before.",
}


@dataclass(frozen=True)
class Curve:
    """The losses of one network, an epoch each; None where one is not finite. `best` counts from 1."""

    name: str
    training: list[float | None]
    validation: list[float | None]
    best: int | None


@dataclass(frozen=True)
class Picture:
    """A figure of the bundle as a `data:` address, with its words."""

    name: str
    text: str
    address: str


@dataclass(frozen=True)
class ModelFacts:
    """The version that forecast, the newest versions of its kind, its losses, its pictures and its figures.

    `refit` is the version whose training `curves` are of: itself, or the one that it was fine-tuned from.

    `age_days` counts from the last day of the closes that it was made from to the forecast's origin, None
    where that is not known; `max_days` is the age at which a warning begins. `left_out` are the inputs
    that the product's rows lacked, in words, `pooled` the other products whose days it was trained on, too;
    `bridges_gaps` whether it was trained on windows that go across missing days.
    """

    version: ModelVersion
    refit: ModelVersion
    age_days: int | None
    max_days: int | None
    versions: list[ModelVersion]
    curves: list[Curve]
    pictures: list[Picture]
    metrics: Mapping[str, float]
    gaps: list[tuple[str, str]]
    left_out: tuple[str, ...]
    pooled: tuple[str, ...]
    bridges_gaps: bool

    @property
    def too_old(self) -> bool:
        """Whether a successor is overdue."""
        return None not in (self.age_days, self.max_days) and (self.age_days or 0) > (self.max_days or 0)


def model_of(home: Home, row: Mapping[str, Any]) -> ModelFacts:
    """The facts of the model version that made a forecast; TensorFlow is not needed for it.

    Raises:
        Damaged: the version is not there, or its files are not the recorded ones.
    """
    models = Models(home)
    every = models.versions(row["product_id"], row["profile"])
    version = next((one for one in every if one.version == row["model_version"]), None) or models.version(
        row["product_id"], row["profile"], row["model_version"]
    )
    bundle = models.open(version)
    refit = refit_of(version, every)
    settings, lineage = bundle.read_json("settings.json"), bundle.read_json("lineage.json")
    return ModelFacts(
        version=version,
        refit=refit,
        age_days=_age(version, row),
        max_days=settings.get("max_model_age_days"),
        versions=sorted(every, key=lambda one: -int(one.version))[:SHOWN_VERSIONS],
        curves=curves_of(models.open(refit).read_json("losses.json")),
        pictures=_pictures(bundle) if row["quantiles"] is None else [],
        metrics=lineage.get("metrics", {}),
        gaps=[(str(first), str(last)) for first, last in lineage.get("gaps", [])],
        left_out=tuple(map(str, lineage.get("columns_left_out", ()))),
        pooled=_pooled(version, refit),
        bridges_gaps=bool(settings.get("bridge_gaps", False)),
    )


def refit_of(version: ModelVersion, every: Sequence[ModelVersion]) -> ModelVersion:
    """The refit that a fine-tuned version goes back to, or the version itself, as far as they are there."""
    known = {one.version: one for one in every}
    for _ in every:
        parent = known.get(version.tags.get("parent", "none"))
        if version.tags.get("training_kind") != "fine-tune" or parent is None:
            break
        version = parent
    return version


def _pooled(*versions: ModelVersion) -> tuple[str, ...]:
    """The products that any of these versions was trained together with."""
    named = {name for one in versions for name in one.tags.get("pooled", "none").split(",")}
    return tuple(sorted(named - {"none", ""}))


def _age(version: ModelVersion, row: Mapping[str, Any]) -> int | None:
    made = version.tags.get("origin_day")
    if made:
        return int((row["origin_day"] - date.fromisoformat(made)).days)
    # The article's model is trained for its forecast, on the same closes.
    return 0 if version.tags.get("data_version") == row["data_version"] else None


def curves_of(losses: Mapping[str, Any]) -> list[Curve]:
    """The losses of a bundle, of one network or of an ensemble's members."""
    if "members" not in losses:
        return [Curve("network", losses["loss"], losses["val_loss"], None)]
    return [
        Curve(f"member {number}", member["loss"], member["val_loss"], member.get("best_epoch"))
        for number, member in enumerate(losses["members"], start=1)
    ]


def _pictures(bundle: Bundle) -> list[Picture]:
    names = {PurePosixPath(name).stem: name for name in bundle.manifest if name.startswith("figures/")}
    return [
        Picture(
            name,
            text,
            "data:image/png;base64," + base64.b64encode(bundle.read(names[name])).decode("ascii"),
        )
        for name, text in FIGURES.items()
        if name in names
    ]
