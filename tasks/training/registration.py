"""Stores models as bundles and registered versions, and loads them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from closecast.storage.core.errors import Damaged
from closecast.storage.core.provenance import code_version, git_commit
from closecast.storage.models.bundles import Bundle, Draft
from closecast.storage.models.registry import Models, ModelVersion
from closecast.storage.models.training_run import TrainingData, TrainingRun
from closecast.tasks.core.forecast import Basis
from closecast.tasks.core.formatting import finite
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.model import NONE, Lineage, Model, TwinLineage
from closecast.tasks.core.quantiles import LEVELS
from closecast.tasks.core.tensorflow_runtime import library_versions
from closecast.tasks.network.architectures import arrays_sha256
from closecast.tasks.prices.gaps import find_gaps
from closecast.tasks.prices.ingest import MAX_POOL
from closecast.tasks.profiles.base import FittedModel, Histories, Profile
from closecast.tasks.profiles.named import own_files
from closecast.tasks.training.mlflow_model import model_card, write_mlflow_files
from closecast.tasks.training.policy import ModelCandidate

log = logging.getLogger("closecast.training")

TWIN = "twin"


def model_key(*parts: str) -> str:
    """The digest of what a model is trained from: the same parts give the same model."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def weights_digest(profile: Profile, fitted: FittedModel) -> str:
    """SHA-256 of all weights, network after network."""
    return arrays_sha256([array for network in profile.weights(fitted) for array in network])


def training_basis(profile: Profile, history: PriceHistory, pool: Histories) -> Basis:
    """What a model is trained on: the product's windows, those of older products, or (fallback) neither."""
    if len(history.candles) >= profile.min_days or not profile.levels:  # a point refuses too few itself
        return "model"
    enough = len(history.candles) >= profile.min_pool_days
    return "pool" if enough and training_pool(profile, history, pool) else "fallback"


def training_pool(profile: Profile, history: PriceHistory, pool: Histories) -> dict[str, PriceHistory]:
    """The histories whose windows join the training: those that the profile names.

    For a young product those with enough closes for their own models, at most the oldest `MAX_POOL`.
    """
    if len(history.candles) >= profile.min_days:
        return {product: one for product, one in pool.items() if product in profile.pool_products}
    enough = {product: one for product, one in pool.items() if len(one.candles) >= profile.min_days}
    oldest = sorted(enough.items(), key=lambda pair: (pair[1].first_day, pair[0]))
    return dict(oldest[:MAX_POOL])


def fit_with_twin(
    profile: Profile,
    history: PriceHistory,
    pool: Histories,
    parent: FittedModel | None,
    holdout_days: int,
    basis: Basis = "model",
) -> FittedModel:
    """Fit a model on all days, or fine-tune its parent, and beside it a twin without the newest days.

    The twin comes first: it finds the epochs, and its newest days give the first quantile offsets. Without
    `holdout_days` there is none, and the newest days stop the training. With the basis `pool` the model is
    fitted on the pool alone.
    """
    if basis == "pool":
        return profile.fit_pool(history, pool)
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

    The parent is a version, or a name, and its model; `not_pooled` says why the pool lacks some products.
    """
    basis, pool = training_basis(profile, history, pool), training_pool(profile, history, pool)
    # A series that is too short has no twin.
    days = profile.gate_days if len(history.candles) >= profile.min_days + profile.gate_days else 0
    if profile.gate_days and not days and basis == "model":
        text = "%s: trained without a twin, which needs %d days of closes: the gate waits for unseen days"
        log.info(text, history.product_id, profile.min_days + profile.gate_days)
    fitted = fit_with_twin(profile, history, pool, parent[1] if parent else None, days, basis)
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
        basis=basis,
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
    """Fill a draft with the profile's state, that of its twin, and the files of every bundle."""
    profile.save(fitted, draft)
    draft.write_json("settings.json", profile.settings.model_dump(mode="json"))
    offsets = fitted.quantile_offsets
    stored = None if offsets is None else {str(horizon): own.tolist() for horizon, own in offsets.items()}
    draft.write_json("calibration.json", {"levels": list(LEVELS), "quantile_offsets": stored})
    if fitted.twin:
        profile.save(fitted.twin, draft.part(TWIN))
    draft.write_json("losses.json", _all_losses(fitted))
    draft.write_json("lineage.json", lineage.to_json())


def _all_losses(fitted: FittedModel) -> dict[str, list[dict[str, Any]]]:
    """The losses of each network, and of the twin's, as `losses.json` of the bundle has them."""
    losses = {"networks": _plain_losses(fitted)}
    return losses | {TWIN: _plain_losses(fitted.twin)} if fitted.twin else losses


def run_figures(
    lineage: Lineage, losses: Mapping[str, list[dict[str, Any]]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The figures of MLflow's run, and its curves: a figure for each epoch, (epochs,)."""
    metrics, curves = dict(lineage.metrics), dict[str, list[float]]()
    for prefix, networks in (("", "networks"), ("twin_", TWIN)):
        for number, one in enumerate(losses.get(networks, ()), start=1):
            curves[f"{prefix}network_{number}_loss"] = one["loss"]
            best = one["val_loss"][one["best_epoch"] - 1]
            if best is not None:
                metrics[f"{prefix}network_{number}_best_val_loss"] = best
    return metrics, curves


def _plain_losses(fitted: FittedModel) -> list[dict[str, Any]]:
    return [
        {
            "loss": one.training.tolist(),
            "val_loss": [finite(loss) for loss in one.validation.tolist()],
            "best_epoch": one.best_epoch,
        }
        for one in fitted.training.losses
    ]


def read_bundle(bundle: Bundle, profile: Profile, version: str = "") -> Model:
    """The model of a bundle with its twin, to the last bit; `Damaged` if a file is not the stored one."""
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
    """The lineage in a bundle; `Damaged` if it was changed or is missing."""
    try:
        return Lineage.from_json(bundle.read_json("lineage.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{bundle.folder} has no complete lineage: restore the folder from a backup") from error


def load_model(models: Models, profile: Profile, product_id: str, version: str) -> Model:
    """A registered version, ready to forecast; `Damaged` if it is missing or was changed."""
    return read_bundle(models.open(models.version(product_id, profile.name, version)), profile, version)


def register(
    models: Models,
    profile: Profile,
    fitted: FittedModel,
    lineage: Lineage,
    history: PriceHistory,
    key: str,
    span: tuple[float, float] | None = None,
) -> ModelVersion:
    """Store the bundle, and only then register a version that is not judged yet.

    `span` is `time.monotonic()` at the start and the end of the training.
    """
    metrics, curves = run_figures(lineage, _all_losses(fitted))
    facts = {"days": len(history.candles), "first_day": str(history.first_day), "origin": str(history.origin)}
    data = [TrainingData(history.product_id, lineage.data_version, lineage.series, facts)]
    data += [TrainingData(*pair) for pair in lineage.pooled_data_versions.items()]
    run = TrainingRun(key, profile.settings.model_dump(mode="json"), metrics, curves, data, span)
    with models.draft(lineage.product_id, profile.name) as draft:
        write_bundle(draft, profile, fitted, lineage)
        write_mlflow_files(draft, profile, lineage, history)
        for name, png in profile.figures(fitted, history).items():
            draft.write(f"figures/{name}", png)
        tags, card = {**lineage.tags(), "status": "pending"}, model_card(profile, lineage)
        return models.register(draft, lineage.product_id, profile.name, run, tags=tags, description=card)


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
        basis=tags["basis"],
    )
