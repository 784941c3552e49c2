"""The champion, moved back by hand."""

from __future__ import annotations

from flows.settings import Article, Profile
from storage.core.errors import BadSetting
from storage.core.home import Home
from storage.locks.bucket_owner import prepare_home
from storage.locks.locks import product_lock
from tasks.training.rollback import roll_back_champion


def roll_back(home: Home, product_id: str, recipe: Profile, to: str | None) -> tuple[str, str]:
    """Move the product's champion back; the numbers of the version before and after.

    Raises:
        BadSetting: the profile keeps no champion.
        BadInput: there is no version to go back to.
    """
    if isinstance(recipe, Article):
        raise BadSetting("profile article is trained anew on all data: only calibrated can be rolled back")
    prepare_home(home)
    with product_lock(home, product_id):
        return roll_back_champion(home, product_id, recipe.name, to)
