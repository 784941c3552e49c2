"""`closecast config`: the values in force, and where each comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import typer

from closecast.flows.cli import options, terminal
from closecast.flows.config import (
    Config,
    configured_backfill_days,
    configured_products,
    configured_profile,
    configured_source,
    read_config,
)
from closecast.flows.settings import VARIABLES, dask_address, environment, home_at
from closecast.storage.core.masking import masked_address

UNSET = "not set"


# A value in force (None: not set), and where it comes from.
Held: TypeAlias = tuple[Any, str]


def config(
    products: options.ProductsOption = None,
    source: options.SourceOption = None,
    profile: options.ProfileOption = None,
    settings: options.SettingsOption = None,
    backfill_days: options.BackfillOption = None,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Print the values in force, and where each comes from: a flag, a variable, the file, or the default.

    It makes nothing and connects to nothing. Users, passwords and query parts of addresses are masked.
    """
    from closecast.tasks.profiles.named import profile_named

    file, typed = read_config(), options.parse_settings(settings)
    name, changed = configured_profile(profile, typed)
    profile_named(name, changed)  # refuses an unknown profile or setting

    def held(value: Any, flag: str, given: object, in_file: object) -> Held:
        return value, f"flag {flag}" if given is not None else _origin(file, in_file)

    values = {
        "products": held(configured_products(products), "--product", products, file.products),
        "source": held(configured_source(source), "--source", source, file.source),
        "profile": held(name, "--profile", profile, file.profile),
        **{f"settings.{key}": held(changed[key], "--set", typed.get(key), True) for key in changed},
        "backfill_days": held(
            configured_backfill_days(backfill_days), "--backfill-days", backfill_days, file.backfill_days
        ),
        **_places(file),
    }
    if home is not None:
        values["home"] = str(home_at(home).root), "flag --home"
    _print(file, values, as_json=as_json)


def _origin(file: Config, in_file: object, variable: str = "") -> str:
    if os.environ.get(variable):
        return f"environment variable {variable}"
    return str(file.file) if in_file or in_file == 0 else "default"


def _places(file: Config) -> dict[str, Held]:
    """The home, and the engines' addresses without what is secret in them."""
    from closecast.storage.prices.engine import database_engine
    from closecast.tasks.prices.coinbase_client import host_of

    found, home = environment(), home_at()
    # Each refuses a malformed address, and connects to nothing.
    dask_address()
    database_engine(home)
    host_of(found.coinbase_url)
    home_variable, *variables = VARIABLES.items()
    places: dict[str, Held] = {"home": (str(home.root), _origin(file, file.home, home_variable[0]))}
    for variable, name in variables:
        address = getattr(found, name)
        shown = None if address is None else masked_address(address)
        places[f"engines.{name}"] = shown, _origin(file, file.engines.get(name), variable)
    return places


def _print(file: Config, values: Mapping[str, Held], *, as_json: bool) -> None:
    if as_json:
        facts = {name: {"value": value, "from": origin} for name, (value, origin) in values.items()}
        terminal.print_json({"file": file.file, "values": facts})
        return
    name = file.file and terminal.relative_path(file.file)
    none = "none; name one with --config or CLOSECAST_CONFIG, or write closecast.toml here"
    typer.echo(f"Configuration file: {name or none}")
    origins = {str(file.file): str(name)}
    rows = [[key, _text(value), origins.get(origin, origin)] for key, (value, origin) in values.items()]
    terminal.print_table("", ["", "value", "from"], rows)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return UNSET if value is None else str(value)
