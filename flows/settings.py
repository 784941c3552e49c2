"""The environment of a run: where its home and its engines are."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from closecast.flows.config import VARIABLE as CONFIG_VARIABLE
from closecast.flows.config import Environment, lasting_path, read_config
from closecast.storage.core.errors import BadSetting, did_you_mean
from closecast.storage.core.home import Home, check_product_id, choose_location, default_root
from closecast.storage.core.masking import masked_address

if TYPE_CHECKING:
    from closecast.tasks.prices.sources import Market

PREFIX = "CLOSECAST_"
DASK_ADDRESS = re.compile(r"((tcp|tls|ws|wss)://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")


# By their names; the configuration file's is beside them.
VARIABLES = {PREFIX + field.name.upper(): field.name for field in fields(Environment)}


def environment() -> Environment:
    """Read the CLOSECAST_ variables; those that are not set come from the configuration file.

    Raises:
        BadSetting: a variable is misspelt, or the storage URL does not name a bucket.
        BadFile, BadInput: as `read_config`.
    """
    known = [*VARIABLES, CONFIG_VARIABLE]
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            raise BadSetting(
                f"there is no variable {name:.60}{did_you_mean(name, known)}; there are {', '.join(known)}:"
                " unset it"
            )
    config = read_config()
    # An empty variable counts as not set: an empty path would be the current folder.
    variables = {own: os.environ[name] for name, own in VARIABLES.items() if os.environ.get(name)}
    from_file = dict(config.engines) | ({"home": config.home} if config.home else {})
    found = Environment(**(from_file | variables))
    choose_location(default_root(), found.storage_url)  # refuses what is no address
    return found


def market_of(**fields: object) -> Market:
    """A market with these fields; raises a one-line `BadProduct` or `BadSetting` for a bad field."""
    # They load pandas and Pydantic, which short commands do without.
    from pydantic import ValidationError

    from closecast.tasks.core.settings import as_bad_setting
    from closecast.tasks.prices.sources import Market

    check_product_id(str(fields.get("product_id", "BTC-USD")))
    try:
        return Market.model_validate(fields)
    except ValidationError as error:
        raise as_bad_setting(error, Market) from error


def dask_address(address: str | None = None) -> str | None:
    """This address of a Dask scheduler, or that of CLOSECAST_DASK_ADDRESS, or none."""
    address = address or environment().dask_address
    if address and not DASK_ADDRESS.fullmatch(address):
        shown = masked_address(address)
        raise BadSetting(f"a Dask scheduler's address looks like tcp://HOST:8786, not {shown!r:.80}")
    return address


def require_one_kind_of_workers(dask: str | None, workers: int) -> None:
    """Raise `BadSetting` if both worker processes and a Dask scheduler are requested."""
    address = dask_address(dask)
    if address and workers > 1:
        raise BadSetting(
            f"workers are for this machine, and Dask at {address} has others: choose one of the two"
        )


def home_at(folder: Path | str | None = None) -> Home:
    """The home in this folder, else in that of CLOSECAST_HOME, of the configuration file, or the default.

    Raises:
        BadSetting: a variable is wrong, or the path of a worker's run is not absolute.
    """
    variables = environment()
    chosen = folder or variables.home or default_root()
    root = lasting_path(chosen, "home", "/var/lib/closecast", PREFIX + "HOME")
    return Home(root, variables.database_url, variables.storage_url)


def prepared_home(folder: Path | str | None = None) -> Home:
    """The home of `home_at` for a run that may make or change it; errors as `prepare_home`, too."""
    from closecast.storage.locks.bucket_owner import prepare_home  # whoever only reads does without

    return prepare_home(home_at(folder))
