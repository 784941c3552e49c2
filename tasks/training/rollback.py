"""A champion that is moved back by hand."""

from __future__ import annotations

from storage.core.errors import BadInput
from storage.core.home import Home
from storage.models.registry import Models
from storage.models.version import ModelVersion


def roll_back_champion(home: Home, product_id: str, profile: str, to: str | None) -> tuple[str, str]:
    """Make an earlier accepted version the champion, and mark the later ones so that no run takes them.

    Args:
        home: prepared, with the product's lock held.
        product_id: of the model.
        profile: of the model.
        to: the version's number; the accepted one before the champion when None.

    Returns:
        The numbers of the champion before and after.

    Raises:
        BadInput: there is no champion, no earlier version, or that version may not forecast.
    """
    models = Models(home)
    champion = models.champion(product_id, profile)
    if champion is None:
        raise BadInput(f"closecast.{product_id}.{profile} has no champion yet: make a run first")
    alike = [version for version in models.versions(product_id, profile) if _alike(version, champion)]
    alike.sort(key=_order)
    if to is None:
        earlier = [one for one in alike if _order(one) < _order(champion) and _forecasts(one)]
        if not earlier:
            raise BadInput(
                f"{champion.name} version {champion.version} has no earlier version to go back to:"
                " see `closecast versions`"
            )
        target = earlier[-1]
    else:
        target = _named(alike, to, champion)
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


def _named(alike: list[ModelVersion], to: str, champion: ModelVersion) -> ModelVersion:
    for one in alike:
        if one.version == to:
            if one.tags["status"] not in ("accepted", "rolled-back"):
                raise BadInput(
                    f"{one.name} version {to} is {one.tags['status']} and never forecasts:"
                    " choose one that was accepted, see `closecast versions`"
                )
            return one
    known = ", ".join(one.version for one in alike)
    raise BadInput(
        f"{champion.name} has no version {to!r:.20} of the champion's recipe and prices, it has {known}:"
        " see `closecast versions`"
    )


def _alike(version: ModelVersion, champion: ModelVersion) -> bool:
    return all(version.tags[name] == champion.tags[name] for name in ("recipe_version", "series"))


def _forecasts(version: ModelVersion) -> bool:
    return version.tags["status"] == "accepted"


def _order(version: ModelVersion) -> tuple[str, int]:
    return version.tags["origin_day"], int(version.version)
