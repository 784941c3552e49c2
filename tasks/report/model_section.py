"""The model of a forecast, for people: how it was trained, how old it is, which versions there are."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from closecast.storage.core.home import Home
from closecast.storage.models.bundles import Bundle
from closecast.storage.models.registry import Models, ModelVersion
from closecast.tasks.core.forecast import Forecast
from closecast.tasks.core.model import Lineage, TwinLineage
from closecast.tasks.training.registration import TWIN, read_lineage

MAX_VERSIONS = 12
# The article's, in the order it shows them, with a description for people who cannot see them.
FIGURES = {
    "prices": "All closes that the model was given; the part that it was tested on is marked.",
    "losses": "Training and validation loss of each epoch.",
    "predicted": "The test part: predicted close, actual close, and the close of the day before.",
}


@dataclass(frozen=True)
class ModelSection:
    """The version that made the forecast, and the newest versions beside it.

    `refit` is the same version, or the one that it was fine-tuned from. `losses` are those of its networks,
    or of its `twin`'s where it has one: only these have a validation loss then. `figures` are PNG files by
    their description, as `data:` addresses. `age_days` counts from the training's origin to the forecast's;
    a warning begins after `max_age_days`, never for None. `pooled` are the other products that it was
    trained on.
    """

    version: ModelVersion
    lineage: Lineage
    refit: ModelVersion
    age_days: int
    max_age_days: int | None
    versions: list[ModelVersion]
    losses: list[dict[str, Any]]
    twin: TwinLineage | None
    figures: dict[str, str]
    pooled: tuple[str, ...]
    bridges_gaps: bool

    @property
    def too_old(self) -> bool:
        """Whether a successor is overdue."""
        return self.max_age_days is not None and self.age_days > self.max_age_days


def read_model_section(home: Home, forecast: Forecast) -> ModelSection:
    """The model version that made a forecast; `Damaged` if it is missing or was changed."""
    models = Models(home)
    product_id, profile, number = forecast.product_id, forecast.profile, str(forecast.model_version)
    version, versions = models.version(product_id, profile, number), models.versions(product_id, profile)
    refit = refit_of(version, versions)
    bundle, refit_bundle = models.open(version), models.open(refit)
    settings, lineage = bundle.read_json("settings.json"), read_lineage(bundle)
    refit_lineage, losses = read_lineage(refit_bundle), refit_bundle.read_json("losses.json")
    pooled = {*lineage.pooled_data_versions, *refit_lineage.pooled_data_versions}
    return ModelSection(
        version=version,
        lineage=lineage,
        refit=refit,
        age_days=(forecast.origin_day - lineage.origin_day).days,
        max_age_days=settings.get("max_model_age_days"),
        versions=sorted(versions, key=lambda one: -int(one.version))[:MAX_VERSIONS],
        losses=losses[TWIN if refit_lineage.twin else "networks"],
        twin=refit_lineage.twin,
        figures=_figures(bundle),
        pooled=tuple(sorted(pooled)),
        bridges_gaps=bool(settings.get("bridge_gaps", False)),
    )


def refit_of(version: ModelVersion, versions: Sequence[ModelVersion]) -> ModelVersion:
    """The refit that a fine-tuned version is based on, as far as its parents still exist."""
    by_number = {one.version: one for one in versions}
    for _ in versions:
        parent = by_number.get(version.tags.get("parent", "none"))
        if version.tags.get("training_kind") != "fine-tune" or parent is None:
            break
        version = parent
    return version


def figure_files(bundle: Bundle) -> dict[str, str]:
    """The figures of a bundle: their files by name, ours in the article's order first."""
    files = {PurePosixPath(file).stem: file for file in bundle.manifest if file.startswith("figures/")}
    return {name: files[name] for name in [*FIGURES, *sorted(files.keys() - FIGURES)] if name in files}


def as_data_address(png: bytes) -> str:
    """A PNG as a `data:` address, which contains the picture and shows wherever the text is opened."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _figures(bundle: Bundle) -> dict[str, str]:
    files = figure_files(bundle)
    if list(files) == ["losses"]:  # shows the same as the page's own chart
        return {}
    texts = {name: FIGURES.get(name, name.replace("_", " ")) for name in files}
    return {texts[name]: as_data_address(bundle.read(file)) for name, file in files.items()}
