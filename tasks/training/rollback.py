"""A champion that is moved back by hand."""

from __future__ import annotations

from storage.core.errors import BadInput
from storage.core.home import Home
from storage.models.registry import Models, ModelVersion


def roll_back_champion(home: Home, product_id: str, profile: str, to: str | None) -> tuple[str, str]:
    """Make an earlier accepted version the champion, and mark the later ones so that no run takes them.

    The product's lock is held. Without `to` it is the accepted version before the champion. Returns the
    champion's numbers before and after.

    Raises:
        BadInput: there is no champion, no earlier version, or that version may not forecast.
    """
    models = Models(home)
    champion = models.champion(product_id, profile)
    if champion is None:
        raise BadInput(f"closecast.{product_id}.{profile} has no champion yet: make a run first")
    recipe = [champion.tags[name] for name in ("recipe_version", "series")]
    alike = [
        version
        for version in sorted(models.versions(product_id, profile), key=_order)
        if [version.tags[name] for name in ("recipe_version", "series")] == recipe
    ]
    target = _target(alike, champion, to)
    # The newest first: a run that comes in between sees a whole history, only a longer one.
    for one in reversed(alike):
        if _order(one) <= _order(target):
            continue
        if one.tags["status"] == "accepted":
            models.mark(one, {"status": "rolled-back"})
        elif one.tags["status"] == "pending":  # the next run would judge it, and might take it
            models.mark(one, {"gate": "not judged: a rollback came first", "status": "refused"})
    if target.tags["status"] != "accepted":
        models.mark(target, {"status": "accepted"})
    models.promote(target)
    return champion.version, target.version


def _target(alike: list[ModelVersion], champion: ModelVersion, to: str | None) -> ModelVersion:
    if to is None:
        earlier = [
            one for one in alike if _order(one) < _order(champion) and one.tags["status"] == "accepted"
        ]
        if not earlier:
            raise BadInput(
                f"{champion.name} version {champion.version} has no earlier version to go back to:"
                " see `closecast versions`"
            )
        return earlier[-1]
    target = next((one for one in alike if one.version == to), None)
    if target is None:
        raise BadInput(
            f"{champion.name} has no version {to!r:.20} of the champion's recipe and prices, it has"
            f" {', '.join(one.version for one in alike)}: see `closecast versions`"
        )
    if target.tags["status"] not in ("accepted", "rolled-back"):
        raise BadInput(
            f"{target.name} version {to} is {target.tags['status']} and never forecasts:"
            " choose one that was accepted, see `closecast versions`"
        )
    return target


def _order(version: ModelVersion) -> tuple[str, int]:
    return version.tags["origin_day"], int(version.version)
