"""Models to bundles and registered versions, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np

from storage.core.errors import Damaged
from storage.core.provenance import code_version, git_commit
from storage.models.bundles import Bundle, Draft
from storage.models.registry import Models, ModelVersion
from tasks.core.history import PriceHistory
from tasks.core.model import Lineage, Model
from tasks.core.quantiles import LEVELS
from tasks.core.tensorflow_runtime import library_versions
from tasks.network.architectures import arrays_sha256
from tasks.prices.gaps import find_gaps
from tasks.profiles.base import FittedModel, Histories, Profile
from tasks.profiles.named import own_files
from tasks.training.policy import ModelCandidate


def model_key(*parts: str) -> str:
    """The digest of what a model is trained from: the same parts give the same model."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def weights_digest(profile: Profile, fitted: FittedModel) -> str:
    """SHA-256 of all weights, network after network."""
    return arrays_sha256([array for network in profile.weights(fitted) for array in network])


def train_model(
    profile: Profile,
    history: PriceHistory,
    pool: Histories,
    *,
    parent: tuple[str, FittedModel] | None,
    not_pooled: Mapping[str, str] | None = None,
) -> tuple[FittedModel, Lineage]:
    """Fit a model, or fine-tune its parent, with the lineage of the result.

    The parent is a version, or a name, and its model; `not_pooled` tells why the pool lacks some products.
    """
    # The newest days are left to the gate, none where the series is too short.
    days = profile.gate_days if len(history.candles) >= profile.min_days + profile.gate_days else 0
    if parent:
        fitted = profile.fine_tune(parent[1], history, pool, holdout_days=days)
    else:
        fitted = profile.fit(history, pool, holdout_days=days)
    training = fitted.training
    left_out = {**(not_pooled or {}), **training.not_pooled}
    return fitted, Lineage(
        product_id=history.product_id,
        profile=profile.name,
        data_version=history.data_version,
        settings_version=profile.version,
        recipe_version=profile.recipe_version,
        code_version=code_version(*own_files(profile)),
        training_kind="fine-tune" if parent else "refit",
        parent=parent[0] if parent else None,
        series=history.series,
        origin_day=history.origin,
        trained_through=fitted.trained_through,
        weights_sha256=weights_digest(profile, fitted),
        git_commit=git_commit(),
        holdout_days=days,
        pooled_data_versions={name: one.data_version for name, one in pool.items() if name not in left_out},
        not_pooled=left_out,
        columns_left_out=training.columns_left_out,
        gaps=tuple(find_gaps(history.candles["day_utc"])),
        windows=training.windows,
        metrics=training.metrics,
        libraries=library_versions(),
    )


def write_bundle(draft: Draft, profile: Profile, fitted: FittedModel, lineage: Lineage) -> None:
    """Fill a draft: the profile's state, and what every bundle has."""
    profile.save(fitted, draft)
    draft.write_json("settings.json", profile.settings.model_dump(mode="json"))
    offsets = None if fitted.quantile_offsets is None else fitted.quantile_offsets.tolist()
    draft.write_json("calibration.json", {"levels": list(LEVELS), "quantile_offsets": offsets})
    losses = [
        {
            "loss": one.training.tolist(),
            "val_loss": [loss if np.isfinite(loss) else None for loss in one.validation.tolist()],
            "best_epoch": one.best_epoch,
        }
        for one in fitted.training.losses
    ]
    draft.write_json("losses.json", {"networks": losses})
    draft.write_json("lineage.json", lineage.to_json())


def read_bundle(bundle: Bundle, profile: Profile, version: str = "") -> Model:
    """The model of a bundle, to the last bit; `Damaged` where a file is not the stored one."""
    lineage = read_lineage(bundle)
    stored = bundle.read_json("calibration.json")["quantile_offsets"]
    offsets = None if stored is None else np.array(stored, dtype=np.float64)
    return Model(version, FittedModel(profile.load(bundle), lineage.trained_through, offsets), lineage)


def read_lineage(bundle: Bundle) -> Lineage:
    """The lineage that a bundle holds; `Damaged` where it is not the stored one, or none."""
    try:
        return Lineage.from_json(bundle.read_json("lineage.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{bundle.folder} has no whole lineage: restore the folder from a backup") from error


def load_model(models: Models, profile: Profile, product_id: str, version: str) -> Model:
    """A registered version, ready to forecast; `Damaged` where it is missing or was changed."""
    return read_bundle(models.open(models.version(product_id, profile.name, version)), profile, version)


def register(
    models: Models, profile: Profile, fitted: FittedModel, lineage: Lineage, history: PriceHistory, key: str
) -> ModelVersion:
    """Store the bundle, and only then let the registry know of a version that is not judged yet."""
    metrics, curves = dict(lineage.metrics), {}
    for number, losses in enumerate(fitted.training.losses, start=1):
        curves[f"network_{number}_loss"] = losses.training
        best = float(losses.validation[losses.best_epoch - 1])
        if np.isfinite(best):
            metrics[f"network_{number}_best_val_loss"] = best
    with models.draft(lineage.product_id, profile.name) as draft:
        write_bundle(draft, profile, fitted, lineage)
        for name, png in profile.figures(fitted, history).items():
            draft.write(f"figures/{name}", png)
        return models.register(
            draft,
            product_id=lineage.product_id,
            profile=profile.name,
            key=key,
            tags={**lineage.tags(), "status": "pending"},
            params=profile.settings.model_dump(mode="json"),
            metrics=metrics,
            curves=curves,
        )


def as_candidate(version: ModelVersion) -> ModelCandidate:
    """A registered version as the policy sees it."""
    tags: Any = version.tags
    return ModelCandidate(
        version=version.version,
        origin=date.fromisoformat(tags["origin_day"]),
        trained_through=date.fromisoformat(tags["trained_through"]),
        training_kind=tags["training_kind"],
        status=tags["status"],
    )
