"""A data version and settings to a registered model version."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import pandas as pd
from prefect.assets import materialize

from storage.core.home import Home
from storage.core.provenance import git_commit
from storage.models.bundles import Draft
from storage.models.registry import Models, ModelVersion
from storage.prices.price_store import Prices
from tasks.core.assets import MODEL, noting
from tasks.core.formatting import usd
from tasks.core.steps import STEP
from tasks.core.tensorflow_runtime import versions
from tasks.network.architectures import weights_sha256
from tasks.network.progress import shown
from tasks.prices.gaps import find_gaps
from tasks.profiles.article_figures import article_figures
from tasks.profiles.article_fit import Fitted, fit_article

log = logging.getLogger("closecast.refit")


def model_key(*parts: str) -> str:
    """The digest of what a model is trained from: the same parts, the same model."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def refit_version(
    home: Home,
    product_id: str,
    profile: str,
    *,
    data_version: str,
    settings: Mapping[str, Any],
    settings_version: str,
    code_version: str,
) -> str:
    """Train on a data version and register the bundle, unless the same was trained before.

    Args:
        home: prepared, with the product's lock held.
        product_id: whose closes.
        profile: `article`.
        data_version: of the closes up to the origin.
        settings: every field of the profile.
        settings_version: their digest.
        code_version: of this code.

    Returns:
        The number of the model version.

    Raises:
        NotEnoughHistory: too few closes.
    """
    models = Models(home)
    key = model_key(product_id, profile, data_version, settings_version, code_version)
    known = models.find(product_id, profile, key)
    if known:
        log.info("%s version %s was trained on this data before", known.name, known.version)
        return known.version
    with Prices(home) as prices:
        closes = prices.closes_at(data_version)
    log.info("%s: training on %d closes up to %s", product_id, len(closes), closes["day_utc"].iloc[-1].date())
    gaps = find_gaps(closes["day_utc"])
    if gaps and settings["bridge_gaps"]:
        log.warning(
            "%s: training goes across gaps (%d) as the article did; --set bridge_gaps=false keeps out",
            product_id,
            len(gaps),
        )
    fitted = fit_article(closes, **settings)
    lineage = {
        "product_id": product_id,
        "profile": profile,
        "data_version": data_version,
        "settings_version": settings_version,
        "code_version": code_version,
        "training_kind": "refit",
        "gaps": [[str(first), str(last)] for first, last in gaps],
        **_made_with(fitted),
    }
    version = _register(models, key, closes, fitted, settings, lineage)
    _report(version, fitted)
    return version.version


def _register(
    models: Models,
    key: str,
    closes: pd.DataFrame,
    fitted: Fitted,
    settings: Mapping[str, Any],
    lineage: Mapping[str, Any],
) -> ModelVersion:
    product_id, profile = lineage["product_id"], lineage["profile"]
    with models.draft(product_id, profile) as draft:
        _fill(draft, fitted, settings, lineage)
        figures = article_figures(closes, fitted.losses, fitted.test, product_id=product_id)
        for name, png in figures.items():
            draft.write(f"figures/{name}", png)
        return models.register(
            draft,
            product_id=product_id,
            profile=profile,
            key=key,
            tags=tags_of(lineage),
            params=settings,
            metrics=fitted.metrics,
            curves={"loss": fitted.losses.training, "val_loss": fitted.losses.validation},
        )


def _fill(draft: Draft, fitted: Fitted, settings: Mapping[str, Any], lineage: Mapping[str, Any]) -> None:
    draft.write_weights(fitted.network)
    draft.write_json("scaler.json", fitted.split.scaler.as_json())
    draft.write_json("settings.json", dict(settings))
    draft.write_json(
        "losses.json",
        {"loss": fitted.losses.training.tolist(), "val_loss": fitted.losses.validation.tolist()},
    )
    draft.write_json("lineage.json", dict(lineage))


def _made_with(fitted: Fitted) -> dict[str, Any]:
    """What the training itself adds to the lineage."""
    return {
        "git_commit": git_commit(),
        "libraries": versions(),
        "weights_sha256": weights_sha256(fitted.network),
        "windows": {
            "train": fitted.split.fitted,
            "validation": len(fitted.split.train) - fitted.split.fitted,
            "test": len(fitted.split.test),
        },
        "metrics": fitted.metrics,
    }


def tags_of(lineage: Mapping[str, Any]) -> dict[str, str]:
    """The part of a lineage that stands on the model version, as text."""
    names = (
        "data_version",
        "settings_version",
        "code_version",
        "git_commit",
        "training_kind",
        "weights_sha256",
    )
    return {name: str(lineage[name]) for name in names if lineage[name]}


def _report(version: ModelVersion, fitted: Fitted) -> None:
    log.info(
        "%s version %s: test RMSE %s over %d days, naive %s",
        version.name,
        version.version,
        usd(fitted.metrics["test_rmse"]),
        len(fitted.test),
        usd(fitted.metrics["naive_rmse"]),
    )


refit = materialize(
    MODEL, name="refit", task_run_name="refit {product_id} {profile}", timeout_seconds=3600, **STEP
)(noting(shown(refit_version), lambda version: {"version": version}))
