"""What a run is told: frozen, complete, and closed against misspelling."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from storage.core.errors import BadProduct, BadSetting
from storage.core.home import PROJECT, Home, check_product_id, choose_location, default_root
from tasks.profiles.calibrated_settings import Frozen, Recipe

Source = Literal["sample", "coinbase", "csv"]
ProfileName = Literal["article", "calibrated"]
DEFAULT_PROFILE: ProfileName = "calibrated"
SAMPLE = PROJECT / "data" / "sample" / "coinbase_btc-usd_daily.csv"
SAMPLE_PRODUCT = "BTC-USD"
PREFIX = "CLOSECAST_"
DASK_ADDRESS = re.compile(r"((tcp|tls|ws|wss)://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")


class Market(Frozen):
    """Which prices, and where they come from."""

    product_id: str = Field("BTC-USD", description="Exchange product, such as BTC-USD")
    source: Source | None = Field(
        None, description="Where closes come from; by default what the product has, else the sample"
    )
    csv: Path | None = Field(None, description="Candle file for the source csv")
    on_duplicate: Literal["refuse", "first", "last"] = Field(
        "refuse", description="Which row counts when a file holds a day twice with different figures"
    )
    replace_source: bool = Field(
        False, description="Start the product's series over when it has another source"
    )

    @field_validator("product_id")
    @classmethod
    def _known_form(cls, value: str) -> str:
        try:
            return check_product_id(value)
        except BadProduct as error:  # pydantic speaks ValueError
            raise ValueError(str(error)) from error


class Article(Frozen):
    """Profile `article`: the model of the 2020 article, each field with the article's value."""

    lookback: int = Field(5, ge=1, le=365, description="Days that a window shows")
    horizon: int = Field(1, ge=1, le=1, description="Days ahead of the origin")
    train_share: float = Field(0.8, ge=0.01, le=0.99, description="Oldest share of the days, to learn from")
    scaler_fit: Literal["train", "all"] = Field(
        "train", description="Rows that the scaler sees; the article fitted it on all"
    )
    bridge_gaps: bool = Field(
        True, description="Train across missing days as if they were neighbours, as the article did"
    )
    units: int = Field(64, ge=1, le=4096, description="LSTM units")
    activation: Literal["sigmoid", "tanh", "relu"] = Field("sigmoid", description="LSTM cell activation")
    leaky_slope: float = Field(0.5, ge=0, description="LeakyReLU slope below zero")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of activations dropped in training")
    learning_rate: float = Field(1e-4, gt=0, description="Adam's step")
    batch_size: int = Field(5, ge=1, le=100_000, description="Windows a step")
    epochs: int = Field(50, ge=1, le=10_000, description="Passes over the training windows")
    shuffle: bool = Field(False, description="Draw a new order of the windows for each epoch")
    validation_split: float = Field(
        0.1, ge=0.01, le=0.99, description="Newest share of the training windows, never trained on"
    )
    seed: int = Field(2020, ge=0, lt=2**32, description="Of the first weights and the dropout masks")

    @property
    def name(self) -> ProfileName:
        """The name users call it by."""
        return "article"

    @property
    def version(self) -> str:
        """The digest of every field: part of what a forecast is keyed by."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return f"{self.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"


Profile = Article | Recipe
PROFILES: dict[str, type[Article] | type[Recipe]] = {"article": Article, "calibrated": Recipe}


def profile_named(name: str, settings: Mapping[str, object] | None = None) -> Profile:
    """The profile of that name with some fields set otherwise.

    Raises:
        BadSetting: no such profile, no such field, or a value out of its range.
    """
    if name not in PROFILES:
        raise BadSetting(f"the profiles are {_listed(PROFILES)}, not {name!r:.60}{_meant(name, PROFILES)}")
    profile = PROFILES[name]
    for field in settings or {}:
        if field not in profile.model_fields:
            known = profile.model_fields
            raise BadSetting(
                f"profile {name} has no setting {field!r:.60}{_meant(field, known)}; it has {_listed(known)}"
            )
    try:
        return profile.model_validate(dict(settings or {}))
    except ValidationError as error:
        raise explained(error) from error


def market_of(**fields: object) -> Market:
    """A market from what was given on the command line.

    Raises:
        BadProduct: a product id of the wrong form.
        BadSetting: anything else that does not fit.
    """
    check_product_id(str(fields.get("product_id", "BTC-USD")))
    try:
        return Market.model_validate(fields)
    except ValidationError as error:
        raise explained(error) from error


def explained(error: ValidationError) -> BadSetting:
    """Pydantic's finding as one line: what was needed, what came."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    return BadSetting(f"setting {name}: {first['msg']}, not {first['input']!r:.60}")


class Environment(BaseSettings):
    """The variables that move things: CLOSECAST_HOME and its like."""

    # An empty variable is one that is not set: an empty path would be the current folder.
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    home: Path | None = None
    coinbase_url: str = "https://api.exchange.coinbase.com"
    database_url: str | None = None
    storage_url: str | None = None
    dask_address: str | None = None


def environment() -> Environment:
    """Read the CLOSECAST_ variables.

    Raises:
        BadSetting: one of them is misspelt, or is no address.
    """
    known = [PREFIX + field.upper() for field in Environment.model_fields]
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            raise BadSetting(
                f"no variable {name:.60} is known{_meant(name, known)}; there are {_listed(known)}: unset it"
            )
    found = Environment()
    choose_location(default_root(), found.storage_url)  # refuses what is no address
    return found


def dask_address(given: str | None = None) -> str | None:
    """The Dask scheduler's address that was given, or that of CLOSECAST_DASK_ADDRESS, or none.

    Raises:
        BadSetting: not of the form `tcp://HOST:PORT`.
    """
    address = given or environment().dask_address
    if address and not DASK_ADDRESS.fullmatch(address):
        raise BadSetting(f"a Dask scheduler's address looks like tcp://HOST:8786, not {address!r:.80}")
    return address


def home_at(folder: Path | str | None = None) -> Home:
    """The home named, or that of CLOSECAST_HOME, or the project's `data/`."""
    known = environment()
    chosen = Path(folder) if folder else known.home or default_root()
    root = Path(os.path.abspath(chosen.expanduser()))  # noqa: PTH100
    return Home(root, known.database_url, known.storage_url)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
