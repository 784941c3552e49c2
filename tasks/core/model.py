"""A model version: its fitted state and its lineage."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from typing import Any, Literal

from pydantic import TypeAdapter

from closecast.tasks.core.forecast import Basis
from closecast.tasks.core.types import Gap

TrainingKind = Literal["refit", "fine-tune"]
NONE = "none"


@dataclass(frozen=True)
class TwinLineage:
    """The twin of a version: trained the same way without the newest days, for the gate to judge."""

    holdout_days: int  # newest days that it was not trained on
    trained_through: date
    weights_sha256: str
    best_epoch: int | None  # for so many epochs the version itself was trained; None in a fine-tuning
    windows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineage:
    """Everything that went into a model version; `lineage.json` of its bundle."""

    product_id: str
    profile: str
    data_version: str
    settings_version: str
    recipe_version: str
    code_version: str
    training_kind: TrainingKind
    parent: str | None  # the version that it was fine-tuned from
    series: str
    origin_day: date
    trained_through: date  # the newest day that training or early stopping looked at
    weights_sha256: str  # of all weights in their order
    basis: Basis = "model"  # pool: of a young product, trained on the windows of the pool alone
    git_commit: str | None = None  # of closecast's own repository; not part of any key
    twin: TwinLineage | None = None  # None without a gate, or where the series is too short for one
    pooled_data_versions: Mapping[str, str] = field(default_factory=dict)  # of the pool's products
    not_pooled: Mapping[str, str] = field(default_factory=dict)  # why the others were left out
    columns_left_out: tuple[str, ...] = ()  # inputs that the candles lack
    gaps: tuple[Gap, ...] = ()
    windows: Mapping[str, int] = field(default_factory=dict)  # in each part of the training
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the profile's own test
    libraries: Mapping[str, str] = field(default_factory=dict)  # they and the machine decide the bits

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same lineage."""
        plain: dict[str, Any] = _json().dump_python(self, mode="json")
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Lineage:
        """The inverse of `to_json`.

        Raises:
            KeyError, ValueError: a field is missing or has the wrong type.
        """
        return _json().validate_python({one.name: plain[one.name] for one in fields(cls)})

    def tags(self) -> dict[str, str]:
        """The part of the lineage that the registered version has as tags, as text."""
        names = (
            *("data_version", "settings_version", "recipe_version", "code_version", "training_kind"),
            *("basis", "series", "origin_day", "trained_through", "weights_sha256"),
        )
        tags = {name: str(getattr(self, name)) for name in names}
        tags |= {"parent": self.parent or NONE, "pooled": ",".join(self.pooled_data_versions) or NONE}
        for name in ("trained_through", "weights_sha256"):
            tags[f"twin_{name}"] = str(getattr(self.twin, name)) if self.twin else NONE
        return tags | ({"git_commit": self.git_commit} if self.git_commit else {})


@functools.cache
def _json() -> TypeAdapter[Lineage]:
    return TypeAdapter(Lineage)


@dataclass(frozen=True)
class Model:
    """A version that can forecast: its number, its profile's fitted state, its lineage."""

    version: str
    fitted: Any
    lineage: Lineage

    def __repr__(self) -> str:
        made = self.lineage
        name = f"closecast.{made.product_id}.{made.profile} version {self.version}"
        return f"<Model {name}: {made.training_kind} on closes up to {made.origin_day}>"
