"""The keys of a configuration file. This module loads Pydantic, which commands without a file do not need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from closecast.storage.core.errors import BadSetting, did_you_mean
from closecast.storage.core.home import check_product_id
from closecast.tasks.core.settings import Frozen, ProductId, Source, as_bad_setting

Text = Annotated[str, StringConstraints(min_length=1)]


class ConfigFile(Frozen):
    """The keys of a file; a missing one is None or empty."""

    products: tuple[ProductId, ...] = Field((), max_length=1000)
    source: Source | None = None
    profile: Text | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    home: Text | None = None
    backfill_days: int | None = Field(None, ge=0, le=366, strict=True)
    engines: dict[str, str] = Field(default_factory=dict)


def check_config(data: Mapping[str, Any], known_engines: Iterable[str]) -> ConfigFile:
    """The file's keys and values; `known_engines` are the names of the table `engines`.

    Raises:
        BadProduct: a product id is malformed.
        BadSetting: a key is unknown, or its value has the wrong type or is out of range.
    """
    _require_known(data, ConfigFile.model_fields)
    for name in ("settings", "engines"):
        if not isinstance(data.get(name, {}), Mapping):
            raise BadSetting(f"setting {name}: needs a table, which begins with a line [{name}]")
    engines, products = data.get("engines", {}), data.get("products", [])
    _require_known(engines, known_engines, "engines.")
    for name, address in engines.items():  # here, since the values are not to be quoted
        if not isinstance(address, str) or not address:
            raise BadSetting(f"setting engines.{name}: needs an address as a text")
    if not isinstance(products, list):
        raise BadSetting(f'setting products: needs a list, such as ["BTC-USD"], not {products!r:.60}')
    for product in products:
        check_product_id(str(product))
    try:
        return ConfigFile.model_validate(data)
    except ValidationError as error:
        raise as_bad_setting(error, ConfigFile) from error


def _require_known(data: Mapping[str, Any], known: Iterable[str], table: str = "") -> None:
    names = [f"{table}{name}" for name in known]
    for name in data:
        if (key := f"{table}{name}") not in names:
            meant = did_you_mean(key, names) or f"; there are {', '.join(names)}"
            raise BadSetting(f"there is no setting {key!r:.60}{meant}")
