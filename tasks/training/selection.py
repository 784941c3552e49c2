"""The champion of a day: kept, or challenged by a refit or a fine-tuning that must pass the gate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, cast

import pandas as pd
from prefect.assets import materialize

from storage.core.home import Home
from storage.core.provenance import git_commit
from storage.models.registry import CHAMPION, Models, ModelVersion
from storage.prices.price_store import Prices
from tasks.core.assets import MODEL, noting
from tasks.core.steps import STEP
from tasks.core.tensorflow_runtime import versions
from tasks.network.progress import shown
from tasks.prices.gaps import find_gaps
from tasks.profiles.article_figures import loss_figure
from tasks.profiles.article_refit import model_key, tags_of
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.distribution import first_quantile_offsets
from tasks.profiles.ensemble import (
    Ensemble,
    Trained,
    fine_tune_ensemble,
    fit_ensemble,
    held_out_days,
    require_days,
)
from tasks.profiles.ensemble_io import ensemble_sha256, read_ensemble, write_ensemble
from tasks.training.gate import gate
from tasks.training.policy import (
    ModelCandidate,
    Status,
    TrainingKind,
    champion_of,
    decide,
    too_old,
    unfinished,
)

log = logging.getLogger("closecast.challenge")


@dataclass(frozen=True)
class ModelSelection:
    """The version that forecasts, why it is that one, and what a person should be told."""

    version: str
    why: str
    warning: str | None = None


@dataclass(frozen=True)
class SelectionContext:
    """What one product's choice is made with."""

    home: Home
    models: Models
    product_id: str
    recipe: Recipe
    data_version: str
    code_version: str
    candles: pd.DataFrame
    series: str
    origin: date
    moment: datetime


def select_model(
    home: Home,
    product_id: str,
    *,
    data_version: str,
    settings: Mapping[str, Any],
    code_version: str,
    moment: datetime,
) -> ModelSelection:
    """Decide what is due, train a challenger if so, let the gate judge it, and name the champion.

    A run that is killed on the way leaves a challenger that the next run judges, or nothing.

    Args:
        home: prepared, with the product's lock held.
        product_id: whose model.
        data_version: of the closes up to the origin.
        settings: every field of the recipe.
        code_version: of this code.
        moment: of the run, for the names of the pooled products' data.

    Raises:
        NotEnoughHistory: too few closes for honest intervals.
    """
    recipe = Recipe.model_validate(dict(settings))
    with Prices(home) as prices:
        candles, series = prices.closes_at(data_version), prices.series_of(data_version)
    require_days(candles, recipe)
    origin = candles["day_utc"].iloc[-1].date()
    models = Models(home)
    bench = SelectionContext(
        home, models, product_id, recipe, data_version, code_version, candles, series, origin, moment
    )
    known = known_versions(models, product_id, recipe, series)  # again only after something has changed
    left = unfinished(known, origin)
    if left:
        _judge(bench, models.version(product_id, recipe.name, left.version))
        known = known_versions(models, product_id, recipe, series)
    decision = decide(known, origin, recipe)
    log.info("%s: %s, because %s", product_id, decision.action, decision.why)
    if decision.action != "keep":
        _judge(bench, _challenger(bench, decision.action))
        known = known_versions(models, product_id, recipe, series)
    champion = champion_of(known, origin)
    assert champion is not None  # noqa: S101 (the first refit has nobody to be refused by)
    _promote(bench, champion)
    warning = too_old(champion, origin, recipe)
    if warning:
        log.warning("%s: %s", product_id, warning)
    return ModelSelection(champion.version, decision.why, warning)


def known_versions(models: Models, product_id: str, recipe: Recipe, series: str) -> list[ModelCandidate]:
    """The versions of the product that could forecast with this recipe on this series of prices."""
    return [
        _known(version)
        for version in models.versions(product_id, recipe.name)
        if version.tags["recipe_version"] == recipe.recipe_version and version.tags["series"] == series
    ]


def _known(version: ModelVersion) -> ModelCandidate:
    tags = version.tags
    return ModelCandidate(
        version=version.version,
        origin=date.fromisoformat(tags["origin_day"]),
        trained_through=date.fromisoformat(tags["trained_through"]),
        training_kind=cast("TrainingKind", tags["training_kind"]),
        status=cast("Status", tags["status"]),
    )


def _challenger(bench: SelectionContext, training_kind: TrainingKind) -> ModelVersion:
    """Train and register a version, unless the same was trained before."""
    models, product_id, recipe = bench.models, bench.product_id, bench.recipe
    pools, pool_versions, missing = _pools(bench)
    before = champion_of(known_versions(models, product_id, recipe, bench.series), bench.origin)
    parent = before.version if before and training_kind == "fine-tune" else ""
    key = model_key(
        product_id,
        recipe.name,
        bench.data_version,
        recipe.recipe_version,
        bench.code_version,
        training_kind,
        parent,
        *pool_versions.values(),
    )
    found = models.find(product_id, recipe.name, key)
    if found:
        return found
    if parent:
        stored = read_ensemble(models.open(models.version(product_id, recipe.name, parent)), recipe)
        trained = fine_tune_ensemble(stored.ensemble, bench.candles, recipe, pools)
        quantile_offsets = stored.quantile_offsets
    else:
        trained = fit_ensemble(bench.candles, recipe, pools)
        quantile_offsets = first_quantile_offsets(trained, bench.candles, recipe)
    for inputs in trained.ensemble.columns.left_out:
        log.warning("%s: trained without %s, which most candles lack", product_id, inputs)
    for product, reason in {**missing, **trained.left_out}.items():
        log.info("%s: trained without %s, which %s", product_id, product, reason)
    lineage = {
        "product_id": product_id,
        "profile": recipe.name,
        "data_version": bench.data_version,
        "settings_version": recipe.version,
        "recipe_version": recipe.recipe_version,
        "code_version": bench.code_version,
        "training_kind": training_kind,
        "parent": parent,
        "series": bench.series,
        "origin_day": bench.origin.isoformat(),
        "trained_through": trained.ensemble.trained_through.isoformat(),
        "pooled_data_versions": {
            product: version for product, version in pool_versions.items() if product not in trained.left_out
        },
        "not_pooled": {**missing, **trained.left_out},
        "held_out_days": held_out_days(len(bench.candles), recipe),
        "columns_left_out": list(trained.ensemble.columns.left_out),
        "gaps": [[str(first), str(last)] for first, last in find_gaps(bench.candles["day_utc"])],
        "windows": dict(trained.windows),
        "git_commit": git_commit(),
        "libraries": versions(),
        "weights_sha256": ensemble_sha256(trained.ensemble),
    }
    return _register(bench, key, trained, quantile_offsets, lineage)


def _register(
    bench: SelectionContext, key: str, trained: Trained, quantile_offsets: Any, lineage: Mapping[str, Any]
) -> ModelVersion:
    """Store the bundle, and only then let the registry know of a challenger that is not judged yet."""
    models, recipe = bench.models, bench.recipe
    figures = {
        f"member_{number}_best_val_loss": float(losses.validation[losses.best - 1])
        for number, losses in enumerate(trained.losses, start=1)
        if lineage["training_kind"] == "refit"
    }
    with models.draft(bench.product_id, recipe.name) as draft:
        write_ensemble(draft, trained, recipe, quantile_offsets, lineage)
        draft.write("figures/losses.png", loss_figure(trained.losses))
        return models.register(
            draft,
            product_id=bench.product_id,
            profile=recipe.name,
            key=key,
            tags={
                **tags_of(lineage),
                **{
                    name: lineage[name]
                    for name in ("recipe_version", "series", "origin_day", "trained_through")
                },
                "parent": lineage["parent"] or "none",
                "pooled": ",".join(lineage["pooled_data_versions"]) or "none",
                "status": "pending",
            },
            params=recipe.model_dump(mode="json"),
            metrics=figures,
            curves={
                f"member_{number}_loss": losses.training
                for number, losses in enumerate(trained.losses, start=1)
            },
        )


def _judge(bench: SelectionContext, version: ModelVersion) -> None:
    """Accept or refuse a challenger, and write the gate's figures to it before its status."""
    models, recipe = bench.models, bench.recipe
    models.challenge(version)
    known = _known(version)
    champion = champion_of(known_versions(models, bench.product_id, recipe, bench.series), known.origin)
    if champion is None:
        models.mark(version, {"gate": "no champion to compare with", "status": "accepted"})
    else:
        until = bench.candles[bench.candles["day_utc"] <= pd.Timestamp(known.origin)].reset_index(drop=True)
        said = gate(_ensemble(bench, champion.version), _ensemble(bench, version.version), until, recipe)
        log.info(
            "%s: version %s against version %s %s",
            bench.product_id,
            version.version,
            champion.version,
            said,
        )
        status = "accepted" if said.passed else "refused"
        tags = {**said.as_tags(), "gate_champion": champion.version, "gate": str(said), "status": status}
        models.mark(version, tags, said.as_metrics())


def _ensemble(bench: SelectionContext, number: str) -> Ensemble:
    version = bench.models.version(bench.product_id, bench.recipe.name, number)
    return read_ensemble(bench.models.open(version), bench.recipe).ensemble


def _promote(bench: SelectionContext, champion: ModelCandidate) -> None:
    """Move the alias to the champion of this day, but never from a later day's champion of the same kind."""
    models, recipe = bench.models, bench.recipe
    version = models.version(bench.product_id, recipe.name, champion.version)
    models.settle(version)
    now = models.champion(bench.product_id, recipe.name)
    if now is not None and now.version != champion.version:
        alike = {one.version: one for one in known_versions(models, bench.product_id, recipe, bench.series)}
        named = alike.get(now.version)
        if named and named.status == "accepted" and named.origin > champion.origin:
            return
    if CHAMPION not in version.aliases:
        models.promote(version)


def _pools(bench: SelectionContext) -> tuple[dict[str, pd.DataFrame], dict[str, str], dict[str, str]]:
    """The pooled products' candles up to the origin, their data versions, and why others are missing."""
    frames: dict[str, pd.DataFrame] = {}
    named: dict[str, str] = {}
    missing: dict[str, str] = {}
    lag = "%s: %s is pooled as it is, its closes end on %s"
    with Prices(bench.home) as prices:
        for product in bench.recipe.pool_products:
            if product == bench.product_id:
                continue
            first = prices.first_day(product)
            if first is None or first > bench.origin:
                missing[product] = "is not in the database" if first is None else f"begins on {first}"
                continue
            named[product] = prices.data_version(product, bench.origin, created_at=bench.moment)
            frames[product] = prices.closes_at(named[product])
            last = frames[product]["day_utc"].iloc[-1].date()
            if last < bench.origin:
                log.info(lag, bench.product_id, product, last)
    return frames, named, missing


def _facts(choice: ModelSelection) -> dict[str, Any]:
    return {"version": choice.version, "why": choice.why, "warning": choice.warning}


choose = materialize(
    MODEL,
    name="keep-or-challenge",
    task_run_name="keep-or-challenge {product_id}",
    timeout_seconds=3600,
    **STEP,
)(noting(shown(select_model), _facts))
