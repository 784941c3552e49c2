"""Rolls a champion back on a person's request."""

from __future__ import annotations

from closecast.storage.core.errors import BadInput
from closecast.storage.core.home import Home
from closecast.storage.models.registry import Models, ModelVersion


def roll_back_champion(home: Home, product_id: str, profile: str, to: str | None) -> tuple[str, str]:
    """Make an earlier accepted version the champion, and mark the later ones so that no run takes them.

    The product's lock is held. Without `to` it is the accepted version before the champion. Returns the
    champion's numbers before and after. `BadInput` if there is no champion, no earlier version, or that
    version may not forecast.
    """
    models = Models(home)
    champion = models.champion(product_id, profile)
    if champion is None:
        raise BadInput(f"closecast.{product_id}.{profile} has no champion yet: make a run first")
    alike = [one for one in models.versions(product_id, profile) if _recipe(one) == _recipe(champion)]
    # The newest first: a run that comes in between sees a whole history, only a longer one.
    alike.sort(key=lambda one: one.order, reverse=True)
    target = _named(alike, champion, to) if to is not None else _before(alike, champion)
    for one in alike[: alike.index(target)]:
        if one.tags["status"] == "accepted":
            models.mark(one, {"status": "rolled-back"})
        elif one.tags["status"] == "pending":  # the next run would judge it, and might take it
            models.mark(one, {"gate": "not judged: a rollback came first", "status": "refused"})
    if target.tags["status"] != "accepted":
        models.mark(target, {"status": "accepted"})
    models.promote(target)
    return champion.version, target.version


def _before(alike: list[ModelVersion], champion: ModelVersion) -> ModelVersion:
    for version in alike:
        if version.order < champion.order and version.tags["status"] == "accepted":
            return version
    raise BadInput(
        f"{champion.name} version {champion.version} has no earlier version to go back to:"
        " see `closecast versions`"
    )


def _named(alike: list[ModelVersion], champion: ModelVersion, number: str) -> ModelVersion:
    target = next((one for one in alike if one.version == number), None)
    if target is None:
        raise BadInput(
            f"{champion.name} has no version {number!r:.20} of the champion's recipe and prices, it has"
            f" {', '.join(one.version for one in reversed(alike))}: see `closecast versions`"
        )
    if target.tags["status"] not in ("accepted", "rolled-back"):
        raise BadInput(
            f"{target.name} version {number} is {target.tags['status']} and never forecasts:"
            " choose one that was accepted, see `closecast versions`"
        )
    return target


def _recipe(version: ModelVersion) -> tuple[str, str]:
    return version.tags["recipe_version"], version.tags["series"]
