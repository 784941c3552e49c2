"""The configuration: a file's settings, which options and variables override."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from closecast.storage.core.errors import BadFile, BadInput, BadSetting
from closecast.storage.core.files import absolute_path, read_bytes

if TYPE_CHECKING:
    from closecast.tasks.core.settings import Source

VARIABLE = "CLOSECAST_CONFIG"
NAME = "closecast.toml"
MAX_BYTES = 2**20
DEFAULT_PRODUCT = "BTC-USD"


@dataclass(frozen=True)
class Environment:
    """The CLOSECAST_ variables, or the configuration file's values in their place.

    An address may contain a password.
    """

    home: str | None = None
    coinbase_url: str = field(default="https://api.exchange.coinbase.com", repr=False)
    database_url: str | None = field(default=None, repr=False)
    storage_url: str | None = field(default=None, repr=False)
    dask_address: str | None = field(default=None, repr=False)


# In the file a table has them; the home is a key of its own there.
ENGINES = [field.name for field in fields(Environment) if field.name != "home"]


@dataclass(frozen=True)
class Config:
    """The content of a configuration file; None or empty for keys that it lacks, or if there is no file."""

    file: Path | None = None
    products: Sequence[str] = ()
    source: Source | None = None
    profile: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    home: str | None = None
    backfill_days: int | None = None
    engines: Mapping[str, str] = field(default_factory=dict, repr=False)


def read_config() -> Config:
    """The configuration of the file that CLOSECAST_CONFIG names, else of ./closecast.toml, else empty.

    CLOSECAST_CONFIG=/dev/null means no file. A home in the file is relative to the file's folder.

    Raises:
        BadFile: the file cannot be read, or is not TOML.
        BadInput: it has an unknown key, or a value out of range.
    """
    named = os.environ.get(VARIABLE)
    file = absolute_path(NAME)
    if named:
        file = lasting_path(named, "configuration", "/etc/closecast.toml", VARIABLE)
    if named == os.devnull or not (named or file.is_file()):
        return Config()
    try:
        status = file.stat()
    except OSError:  # the reader has the line about it
        return _read(file, 0, -1)
    return _read(file, status.st_mtime_ns, status.st_size)


def lasting_path(path: Path | str, what: str, example: str, variable: str) -> Path:
    """The absolute path of a variable; raises `BadSetting` for a relative path in a worker's run."""
    if (
        not (Path(path).is_absolute() or str(path).startswith("~")) and "PREFECT__FLOW_RUN_ID" in os.environ
    ):  # Prefect's worker
        raise BadSetting(
            f"a run of a deployment needs an absolute path for its {what}, such as {example}, not"
            f" {str(path)!r:.200}: it works in a temporary folder; set {variable} for the worker"
        )
    return absolute_path(path)


@functools.lru_cache(maxsize=4)
def _read(file: Path, _changed: int, size: int) -> Config:
    import tomllib

    from closecast.flows.config_file import check_config  # loads Pydantic

    try:
        data = tomllib.loads(read_bytes(file, limit=MAX_BYTES).decode("utf-8-sig")) if size else {}
    except ValueError as error:  # of TOML and of UTF-8
        raise BadFile(f"a configuration in TOML is needed, but {file} is not TOML: {error!s:.200}") from error
    try:
        checked = check_config(data, ENGINES)
        home = checked.home and str(absolute_path(checked.home, file.parent))
    except BadInput as error:
        raise type(error)(f"{file}: {error}") from error
    return Config(file, home=home, **checked.model_dump(exclude={"home"}))


def configured_products(products: Sequence[str] | None = None) -> list[str]:
    """These products, or the configuration's, or the default one; each once."""
    if products is None:
        products = read_config().products or [DEFAULT_PRODUCT]
    return list(dict.fromkeys(products))


def configured_product(product: str | None = None) -> str:
    """This product, or the first of the configuration's, or the default one."""
    return configured_products(None if product is None else [product])[0]


def configured_source(source: Source | None = None) -> Source | None:
    """This source, or the configuration's; None: the product's stored one, else the sample."""
    return read_config().source if source is None else source


def configured_backfill_days(days: int | None = None) -> int:
    """This number of missed days, or the configuration's, or none."""
    return (read_config().backfill_days or 0) if days is None else days


def configured_profile(
    profile: str | None = None, settings: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """This profile, or the configuration's, or the default one; and its settings.

    The configuration's settings apply only to the profile that it names. Given settings override single ones.
    `BadInput` if the configuration names an unknown profile or setting.
    """
    from closecast.tasks.profiles.named import DEFAULT_PROFILE, profile_named

    config = read_config()
    usual = config.profile or DEFAULT_PROFILE
    profile = usual if profile is None else profile
    if profile != usual:
        return profile, dict(settings or {})
    if config.file:
        try:
            profile_named(profile, config.settings)
        except BadInput as error:
            raise type(error)(f"{config.file}: {error}") from error
    return profile, {**config.settings, **(settings or {})}
