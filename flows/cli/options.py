"""The options that commands share: their help, their completion, and their parsers."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from datetime import date, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperOption

from closecast.flows.cli.row_files import Format
from closecast.flows.config import DEFAULT_PRODUCT, VARIABLE
from closecast.storage.core.errors import BadDay, BadProduct, BadSetting, ClosecastError, HomeUnusable
from closecast.storage.core.files import absolute_path
from closecast.storage.core.home import check_product_id, similar_product

if TYPE_CHECKING:
    from closecast.storage.core.home import Home


def complete_product(context: typer.Context, incomplete: str) -> list[str]:
    """The home's products for the shell to complete; an empty list if they cannot be read."""
    from closecast.flows.settings import home_at
    from closecast.storage.prices.engine import stored_products

    try:
        products = stored_products(home_at(context.params.get("home")))
    except ClosecastError:
        return []
    return [product for product in products if product.startswith(incomplete)]


def _complete_profile(incomplete: str) -> list[str]:
    from closecast.tasks.profiles.named import profile_names

    return [name for name in profile_names() if name.startswith(incomplete)]


def _complete_setting(context: typer.Context, incomplete: str) -> list[str]:
    from closecast.flows.config import configured_profile
    from closecast.tasks.profiles.named import profile_class

    try:
        profile = profile_class(configured_profile(context.params.get("profile"))[0])
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


def day_option(text: str, *names: str) -> Any:
    """An option for a day, with its help, and its names unless the parameter has them."""
    return typer.Option(*names, help=text, parser=parse_day, metavar="YYYY-MM-DD")


def check_span(first: date | None, last: date | None) -> tuple[date | None, date | None]:
    """The first and the last day; `BadDay` where the last is before the first."""
    if first and last and last < first:
        raise BadDay(f"the last day must be {first}, the first day, or later, not {last}")
    return first, last


MAX_NAMED = 10
Source = Literal["sample", "coinbase", "csv"]
OnDuplicate = Literal["refuse", "first", "last"]


def parse_folder(text: str) -> Path:
    """The path of a folder; of an empty text `Path` would make the working folder."""
    if not text:
        raise BadSetting("the path of a folder is needed, not an empty text: `.` is the working folder")
    return Path(text)


HomeOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of all data; CLOSECAST_HOME or the project's data/ by default.",
        parser=parse_folder,
        metavar="PATH",
    ),
]


def _product_option(text: str) -> Any:
    completion: Any = {"parser": check_product_id, "metavar": "PRODUCT", "autocompletion": complete_product}
    return typer.Option("--product", help=text, **completion)


USUAL = f"Exchange product, {DEFAULT_PRODUCT} by default"
ProductOption = Annotated[str | None, _product_option(f"{USUAL}.")]
NamedProductOption = Annotated[str, _product_option("Exchange product.")]
AnyProductOption = Annotated[str | None, _product_option("Only this product.")]
ProductsOption = Annotated[list[str] | None, _product_option(f"{USUAL}; repeatable.")]
HorizonOption = Annotated[
    int | None, typer.Option("--horizon", min=1, help="Forecasts this many days ahead.")
]
FormatOption = Annotated[
    Format | None,
    typer.Option("--format", help="Output format; by default that of the --output file, else a table."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", help="File to write, such as rows.parquet, .csv or .json."),
]
WideOption = Annotated[
    bool, typer.Option("--wide", help="Show all columns in full, even on a narrow terminal.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON to standard output.")]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        help="Kind of model: calibrated (the default), article, an installed one, or package.module:Class.",
        autocompletion=_complete_profile,
    ),
]
SourceOption = Annotated[
    Source | None, typer.Option(help="Source of the closes; by default the product's, at first the sample.")
]
BackfillOption = Annotated[
    int | None,
    typer.Option(
        "--backfill-days",
        min=0,
        max=366,
        help="Also make the forecasts of up to this many missed days; 0 by default.",
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
DuplicateOption = Annotated[
    OnDuplicate, typer.Option(help="Which row counts if a file has a day twice with different figures.")
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace-source", help="Restart the product's prices from another source.")
]


def _use_config(_context: object, _option: object, file: str | None) -> None:
    """Let `read_config` find the file, also in the processes that this one starts."""
    if file is not None:
        if not file:
            raise BadSetting("--config needs the path of a file, not an empty text")
        os.environ[VARIABLE] = str(absolute_path(file))


def config_option() -> TyperOption:
    """The option --config, which `closecast` and every command have."""
    return TyperOption(
        param_decls=["--config"],
        metavar="FILE",
        type=str,
        callback=_use_config,
        expose_value=False,
        is_eager=True,
        help="Configuration in TOML; CLOSECAST_CONFIG or ./closecast.toml by default.",
    )


@dataclass(frozen=True)
class Split:
    """The day of a split, and what the prices before it are multiplied by."""

    day: date
    factor: float


def parse_split(text: str) -> Split:
    """Day and factor of a split, such as `2019-10-17:1/1000` or `2019-10-17:0.001`."""
    day, _, factor = text.partition(":")
    try:
        return Split(parse_day(day), float(Fraction(factor)))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise BadSetting(
            f"a split needs DAY:FACTOR, such as 2019-10-17:1/1000, not {text!r:.60}: the prices before"
            " the day are multiplied by the factor"
        ) from error


def parse_decimal(text: str) -> str:
    """`point` or `comma`, by name or as the mark itself."""
    marks = {".": "point", ",": "comma", "point": "point", "comma": "comma"}
    if text not in marks:
        raise BadSetting(f"--decimal is point or comma, not {text!r:.40}")
    return marks[text]


DecimalOption = Annotated[
    str | None,
    typer.Option(help="Decimal mark of the figures.", parser=parse_decimal, metavar="point|comma"),
]
DatesOption = Annotated[
    Literal["day-first", "month-first"] | None,
    typer.Option("--dates", help="What comes first in dates such as 01/02/2024."),
]
SymbolOption = Annotated[
    str | None, typer.Option(help="Symbol of the rows to read, or the name that a file gives the product.")
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(help="Columns to read, by heading or number: date=Day,close=Last or date=1,close=5."),
]


def parse_columns(text: str | None) -> dict[str, str]:
    """`date=Day,close=Last` to role → heading; a heading may have commas."""
    columns: dict[str, str] = {}
    for part in re.split(r",(?=\s*[a-z]+=)", text) if text else ():
        role, sign, heading = part.partition("=")
        if not sign or not heading.strip() or role.strip() in columns:
            raise BadSetting(f"--columns needs ROLE=HEADING, such as date=Day,close=Last, not {part!r:.60}")
        columns[role.strip()] = heading.strip()
    return columns


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


def existing_home(root: Path | None, product: str | None = None) -> Home:
    """The home of a command that needs an existing one, with closes of the product if one is named.

    Raises:
        HomeUnusable: there is no home.
        BadProduct: it has no closes of the product.
    """
    from closecast.flows.settings import home_at, prepared_home
    from closecast.storage.prices.engine import require_current_schema

    home = home_at(root)
    if home.is_elsewhere:
        home = prepared_home(root)  # other machines may have written it
    elif not home.root.is_dir():
        raise HomeUnusable(f"there is no home at {home.root}: make one with `closecast run`, or name another")
    else:
        require_current_schema(home)
    if product is not None:
        _require_product(home, product)
    return home


def _require_product(home: Home, product: str) -> None:
    from closecast.storage.prices.engine import has_prices, stored_products

    products = stored_products(home)
    if product in products:
        return
    if not products and has_prices(home):
        from closecast.storage.prices.price_store import Prices

        with Prices(home) as prices:  # raises the reason why none can be read
            prices.source_of(product)
    names = f"it has {', '.join(products[:MAX_NAMED])}" if products else "it has no product yet"
    more = f" and {len(products) - MAX_NAMED} more" if len(products) > MAX_NAMED else ""
    raise BadProduct(
        f"{product} is not in {home.root}{similar_product(product, products)}; {names}{more}:"
        f" make a run with `closecast run --product {product}`, or import prices with `closecast import`"
    )
