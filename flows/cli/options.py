"""What the commands' options share: their help, their completion, and how their text is read."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.terminal import Format
from storage.core.errors import BadDay, BadSetting, ClosecastError, HomeUnusable
from storage.core.home import check_product_id

if TYPE_CHECKING:
    from storage.core.home import Home


def complete_product(context: typer.Context, incomplete: str) -> list[str]:
    """The home's products for the shell to complete; none where they cannot be read."""
    from flows.settings import home_at
    from storage.prices.engine import stored_products

    try:
        products = stored_products(home_at(context.params.get("home")))
    except ClosecastError:
        return []
    return [product for product in products if product.startswith(incomplete)]


def _complete_profile(incomplete: str) -> list[str]:
    from tasks.profiles.named import profile_names

    return [name for name in profile_names() if name.startswith(incomplete)]


def _complete_setting(context: typer.Context, incomplete: str) -> list[str]:
    from tasks.profiles.named import DEFAULT_PROFILE, profile_class

    try:
        profile = profile_class(context.params.get("profile") or DEFAULT_PROFILE)
    except ClosecastError:
        return []
    return [f"{name}=" for name in profile.Settings.model_fields if name.startswith(incomplete)]


def parse_day(text: str) -> date:
    """A day in the form `2019-10-17`."""
    try:
        if not text.isascii():  # strptime reads the digits of every script
            raise ValueError
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 (a UTC day)
    except ValueError as error:
        raise BadDay(f"a day such as 2019-10-17 is needed, not {text!r:.60}") from error


Source = Literal["sample", "coinbase", "csv"]
OnDuplicate = Literal["refuse", "first", "last"]
HomeOption = Annotated[
    Path | None, typer.Option(help="Folder of all files; CLOSECAST_HOME or the project's data/ by default.")
]
PRODUCT: dict[str, Any] = {
    "parser": check_product_id,
    "metavar": "PRODUCT",
    "autocompletion": complete_product,
}
ProductOption = Annotated[str, typer.Option(help="Exchange product, such as BTC-USD.", **PRODUCT)]
AnyProductOption = Annotated[str | None, typer.Option("--product", help="Only this product.", **PRODUCT)]
ProductsOption = Annotated[
    list[str] | None,
    typer.Option("--product", help="Exchange product, BTC-USD by default; repeatable.", **PRODUCT),
]
HorizonOption = Annotated[int | None, typer.Option("--horizon", min=1, help="Days ahead of the origin.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Output format.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, and nothing else there.")]
ProfileOption = Annotated[
    str,
    typer.Option(
        help="Kind of model: calibrated, article, an installed profile, or package.module:Class.",
        autocompletion=_complete_profile,
    ),
]
AnyProfileOption = Annotated[
    str | None, typer.Option("--profile", help="Only this profile.", autocompletion=_complete_profile)
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A setting of the profile, NAME=VALUE; repeatable.", autocompletion=_complete_setting
    ),
]
DAY: dict[str, Any] = {"parser": parse_day, "metavar": "YYYY-MM-DD"}
DuplicateOption = Annotated[
    OnDuplicate, typer.Option(help="Which row counts when a file holds a day twice with different figures.")
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace-source", help="Start the product's prices over from another source.")
]


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """`epochs=3` to `{"epochs": 3}`: a value that is JSON is read as JSON, any other as text."""
    settings: dict[str, Any] = {}
    for pair in pairs or ():
        name, sign, value = pair.partition("=")
        if not sign:
            raise BadSetting(f"--set needs NAME=VALUE, such as epochs=50, not {pair!r:.60}")
        try:
            settings[name.strip()] = json.loads(value)
        except ValueError:
            settings[name.strip()] = value
    return settings


def examples(*lines: str) -> str:
    """The end of a command's help; an empty line between two examples keeps them apart."""
    return "\n\n".join(("Examples:", *(f"$ closecast {line}" for line in lines)))


def prepared_home(root: Path | None) -> Home:
    """The home of a command that may make one."""
    from flows.settings import home_at
    from storage.locks.bucket_owner import prepare_home

    return prepare_home(home_at(root))


def existing_home(root: Path | None) -> Home:
    """The home of a command that makes none; `HomeUnusable` where there is none."""
    from flows.settings import home_at
    from storage.prices.engine import require_current_schema

    home = home_at(root)
    if home.is_elsewhere:
        return prepared_home(root)  # other machines may have written it, whatever this one has
    if not home.root.is_dir():
        raise HomeUnusable(f"there is no home at {home.root}: make one with `closecast run`, or name another")
    require_current_schema(home)
    return home
