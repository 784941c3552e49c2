"""The environment of a run: where its home and its engines are."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from storage.core.errors import BadSetting
from storage.core.home import Home, check_product_id, choose_location, default_root

if TYPE_CHECKING:
    from tasks.prices.sources import Market

PREFIX = "CLOSECAST_"
DASK_ADDRESS = re.compile(r"((tcp|tls|ws|wss)://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")


@dataclass(frozen=True)
class Environment:
    """The variables CLOSECAST_HOME and its like."""

    home: str | None = None
    coinbase_url: str = "https://api.exchange.coinbase.com"
    database_url: str | None = None
    storage_url: str | None = None
    dask_address: str | None = None


def environment() -> Environment:
    """Read the CLOSECAST_ variables; `BadSetting` where one is misspelt, or holds no address of a bucket."""
    names = {PREFIX + field.name.upper(): field.name for field in fields(Environment)}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in names:
            from tasks.core.settings import did_you_mean

            raise BadSetting(
                f"there is no variable {name:.60}{did_you_mean(name, names)}; there are {', '.join(names)}:"
                " unset it"
            )
    # An empty variable counts as not set: an empty path would be the current folder.
    variables = Environment(
        **{field: os.environ[name] for name, field in names.items() if os.environ.get(name)}
    )
    choose_location(default_root(), variables.storage_url)  # refuses what is no address
    return variables


def market_of(**fields: object) -> Market:
    """A market of these fields; `BadProduct` or `BadSetting` in one line where one cannot be used."""
    # They load pandas and Pydantic, which short commands do without.
    from pydantic import ValidationError

    from tasks.core.settings import as_bad_setting
    from tasks.prices.sources import Market

    check_product_id(str(fields.get("product_id", "BTC-USD")))
    try:
        return Market.model_validate(fields)
    except ValidationError as error:
        raise as_bad_setting(error) from error


def dask_address(address: str | None = None) -> str | None:
    """This address of a Dask scheduler, or that of CLOSECAST_DASK_ADDRESS, or none."""
    address = address or environment().dask_address
    if address and not DASK_ADDRESS.fullmatch(address):
        raise BadSetting(f"a Dask scheduler's address looks like tcp://HOST:8786, not {address!r:.80}")
    return address


def require_one_kind_of_workers(dask: str | None, workers: int) -> None:
    """Raise `BadSetting` where worker processes are asked for, and a Dask scheduler is named, too."""
    address = dask_address(dask)
    if address and workers > 1:
        raise BadSetting(f"workers are for this machine, and Dask at {address} has its own: leave one out")


def home_at(folder: Path | str | None = None) -> Home:
    """The home in this folder, or that of CLOSECAST_HOME, or the project's `data/`."""
    variables = environment()
    chosen = Path(folder or variables.home or default_root())
    root = Path(os.path.abspath(chosen.expanduser()))  # noqa: PTH100
    return Home(root, variables.database_url, variables.storage_url)
