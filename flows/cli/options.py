"""What the commands' options have in common: their help, what a shell completes, how their text is read."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.terminal import Format
from storage.core.errors import BadDay, BadSetting, ClosecastError, HomeUnusable

if TYPE_CHECKING:
    from storage.core.home import Home


def known_products(context: typer.Context, incomplete: str) -> list[str]:
    """The products of the home, for the shell to complete; where there is no answer, none."""
    from flows.settings import home_at
    from storage.prices.engine import stored_products

    try:
        found = stored_products(home_at(context.params.get("home")))
    except ClosecastError:
        return []
    return [product for product in found if product.startswith(incomplete)]


def _known_settings(context: typer.Context, incomplete: str) -> list[str]:
    """The settings of the profile, as far as they are typed."""
    from flows.settings import PROFILES

    profile = PROFILES.get(str(context.params.get("profile")), PROFILES["calibrated"])
    return [f"{name}=" for name in profile.model_fields if name.startswith(incomplete)]


def _known_profiles(incomplete: str) -> list[str]:
    from flows.settings import PROFILES

    return [name for name in PROFILES if name.startswith(incomplete)]


Source = Literal["sample", "coinbase", "csv"]
OnDuplicate = Literal["refuse", "first", "last"]
HomeOption = Annotated[
    Path | None, typer.Option(help="Folder of everything made; CLOSECAST_HOME or the project's data/.")
]
ProductOption = Annotated[
    str, typer.Option(help="Exchange product, such as BTC-USD.", autocompletion=known_products)
]
AnyProductOption = Annotated[
    str | None, typer.Option("--product", help="Only this product.", autocompletion=known_products)
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, and nothing else there.")]
ProfileOption = Annotated[
    str, typer.Option(help="Recipe: calibrated or article.", autocompletion=_known_profiles)
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A setting of the profile, NAME=VALUE; repeatable.", autocompletion=_known_settings
    ),
]
DuplicateOption = Annotated[
    OnDuplicate, typer.Option(help="Which row counts when a file holds a day twice with different figures.")
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace-source", help="Start the product's prices over from another source.")
]


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """`epochs=3` to `{"epochs": 3}`: values are read as JSON where they are JSON, as text elsewhere."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise BadSetting(f"--set needs NAME=VALUE, such as epochs=50, not {pair!r:.60}")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def day_of(text: str | None, option: str) -> date | None:
    """A day as it is typed, `2019-10-17`; None when the option was left out."""
    try:
        if text is None:
            return None
        if not text.isascii():  # strptime reads the digits of every script
            raise ValueError
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 (a UTC day)
    except ValueError as error:
        raise BadDay(f"{option} needs a day such as 2019-10-17, not {text!r:.60}") from error


def existing_home(root: Path | None) -> Home:
    """The home of a command that makes none.

    Raises:
        HomeUnusable: there is nothing yet, or another release wrote it.
    """
    from flows.settings import home_at
    from storage.locks.bucket_owner import prepare_home
    from storage.prices.engine import database_engine, require_current_schema

    home = home_at(root)
    if database_engine(home).file is None or home.is_shared:
        return prepare_home(home)  # other machines may have written it, whatever this one has
    if not home.root.is_dir():
        raise HomeUnusable(f"there is no home at {home.root}: make one with `closecast run`, or name another")
    require_current_schema(home)
    return home
