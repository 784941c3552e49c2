"""Models to bundles and registered versions, and back."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from storage.core.errors import Damaged
from storage.core.provenance import code_version, git_commit
from storage.models.bundles import Bundle, Draft
from storage.models.registry import Models, ModelVersion
from tasks.core.history import PriceHistory
from tasks.core.model import NONE, Lineage, Model, TwinLineage
from tasks.core.quantiles import LEVELS
from tasks.core.tensorflow_runtime import library_versions
from tasks.network.architectures import arrays_sha256
from tasks.prices.gaps import find_gaps
from tasks.profiles.base import FittedModel, Histories, Profile
from tasks.profiles.named import own_files
from tasks.training.policy import ModelCandidate

log = logging.getLogger("closecast.training")

TWIN = "twin"


def model_key(*parts: str) -> str:
    """The digest of what a model is trained from: the same parts give the same model."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def weights_digest(profile: Profile, fitted: FittedModel) -> str:
    """SHA-256 of all weights, network after network."""
    return arrays_sha256([array for network in profile.weights(fitted) for array in network])


def fit_with_twin(
    profile: Profile, history: PriceHistory, pool: Histories, parent: FittedModel | None, holdout_days: int
) -> FittedModel:
    """Fit a model on all days, or fine-tune its parent, and beside it a twin without the newest days.

    The twin comes first: it finds the epochs, and its newest days give the first quantile offsets. Without
    `holdout_days` there is none, and the newest days stop the training.
    """
    if not holdout_days:
        return profile.fine_tune(parent, history, pool) if parent else profile.fit(history, pool)
    if parent:
        # A parent of a short series has no twin; by now it has not seen the gate's days itself.
        twin = profile.fine_tune(parent.judged, history, pool, holdout_days=holdout_days)
        fitted = profile.fine_tune(parent, history, pool)
    else:
        twin = profile.fit(history, pool, holdout_days=holdout_days)
        fitted = profile.fit(history, pool, epochs=twin.training.best_epoch)
    return replace(fitted, quantile_offsets=twin.quantile_offsets, twin=replace(twin, twin=None))


def train_model(
    profile: Profile,
    history: PriceHistory,
    pool: Histories,
    *,
    parent: tuple[str, FittedModel] | None,
    not_pooled: Mapping[str, str] | None = None,
) -> tuple[FittedModel, Lineage]:
    """Fit a model with its twin, or fine-tune its parent, with the lineage of the result.

    The parent is a version, or a name, and its model; `not_pooled` tells why the pool lacks some products.
    """
    # A series that is too short has no twin.
    days = profile.gate_days if len(history.candles) >= profile.min_days + profile.gate_days else 0
    if profile.gate_days and not days:
        text = "%s: trained without a twin, which needs %d days of closes: the gate waits for unseen days"
        log.info(text, history.product_id, profile.min_days + profile.gate_days)
    fitted = fit_with_twin(profile, history, pool, parent[1] if parent else None, days)
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
        twin=_twin_lineage(profile, fitted.twin, days, refitted=parent is None),
        pooled_data_versions={name: one.data_version for name, one in pool.items() if name not in left_out},
        not_pooled=left_out,
        columns_left_out=training.columns_left_out,
        gaps=tuple(find_gaps(history.candles["day_utc"])),
        windows=training.windows,
        metrics=training.metrics,
        libraries=library_versions(),
    )


def _twin_lineage(
    profile: Profile, twin: FittedModel | None, holdout_days: int, *, refitted: bool
) -> TwinLineage | None:
    if twin is None:
        return None
    return TwinLineage(
        holdout_days=holdout_days,
        trained_through=twin.trained_through,
        weights_sha256=weights_digest(profile, twin),
        best_epoch=twin.training.best_epoch if refitted else None,
        windows=twin.training.windows,
    )


def write_bundle(draft: Draft, profile: Profile, fitted: FittedModel, lineage: Lineage) -> None:
    """Fill a draft: the profile's state, that of its twin, and what every bundle has."""
    profile.save(fitted, draft)
    draft.write_json("settings.json", profile.settings.model_dump(mode="json"))
    offsets = fitted.quantile_offsets
    stored = None if offsets is None else {str(horizon): own.tolist() for horizon, own in offsets.items()}
    draft.write_json("calibration.json", {"levels": list(LEVELS), "quantile_offsets": stored})
    losses = {"networks": _plain_losses(fitted)}
    if fitted.twin:
        profile.save(fitted.twin, draft.part(TWIN))
        losses[TWIN] = _plain_losses(fitted.twin)
    draft.write_json("losses.json", losses)
    draft.write_json("lineage.json", lineage.to_json())


def _plain_losses(fitted: FittedModel) -> list[dict[str, Any]]:
    return [
        {
            "loss": one.training.tolist(),
            "val_loss": [loss if np.isfinite(loss) else None for loss in one.validation.tolist()],
            "best_epoch": one.best_epoch,
        }
        for one in fitted.training.losses
    ]


def read_bundle(bundle: Bundle, profile: Profile, version: str = "") -> Model:
    """The model of a bundle with its twin, to the last bit; `Damaged` where a file is not the stored one."""
    lineage = read_lineage(bundle)
    stored = bundle.read_json("calibration.json")["quantile_offsets"]
    # Texts have another order.
    offsets = stored and {int(name): np.array(stored[name], np.float64) for name in sorted(stored, key=int)}
    twin = None
    if lineage.twin:
        twin = FittedModel(profile.load(bundle.part(TWIN)), lineage.twin.trained_through, offsets)
    fitted = FittedModel(profile.load(bundle), lineage.trained_through, offsets, twin=twin)
    return Model(version, fitted, lineage)


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
    for prefix, model in (("", fitted), ("twin_", fitted.twin)):
        for number, losses in enumerate(model.training.losses if model else (), start=1):
            curves[f"{prefix}network_{number}_loss"] = losses.training
            best = float(losses.validation[losses.best_epoch - 1])
            if np.isfinite(best):
                metrics[f"{prefix}network_{number}_best_val_loss"] = best
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
    twin = tags.get("twin_trained_through", NONE)
    return ModelCandidate(
        version=version.version,
        origin=date.fromisoformat(tags["origin_day"]),
        trained_through=date.fromisoformat(tags["trained_through"] if twin == NONE else twin),
        training_kind=tags["training_kind"],
        status=tags["status"],
    )
