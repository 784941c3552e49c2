"""A model version, as the registry records it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from storage.core.errors import Damaged

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as RegisteredVersion

CHAMPION, CHALLENGER = "champion", "challenger"
_FOLDER = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]*")  # a plain name: it becomes part of a path


@dataclass(frozen=True)
class ModelVersion:
    """One version of the registered model `closecast.PRODUCT.PROFILE`."""

    product_id: str
    profile: str
    version: str
    bundle: str
    manifest_sha256: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name under which MLflow registers the model."""
        return registered_name(self.product_id, self.profile)

    @classmethod
    def of_row(cls, row: RegisteredVersion, aliases: list[str]) -> Self:
        """MLflow's version as ours; `Damaged` where it names no bundle, or one that is no plain folder."""
        product_id, _, profile = row.name.removeprefix("closecast.").rpartition(".")
        if missing := sorted({"bundle", "manifest_sha256"} - row.tags.keys()):
            raise Damaged(
                f"the registry has no {' and no '.join(missing)} of {row.name} version {row.version}:"
                " restore it from a backup"
            )
        bundle, manifest_sha256 = row.tags["bundle"], row.tags["manifest_sha256"]
        if not _FOLDER.fullmatch(bundle):
            raise Damaged(
                f"the bundle of {row.name} version {row.version} needs the name of a folder, and the registry"
                f" has {bundle!r:.80}: restore it from a backup"
            )
        names = tuple(sorted(aliases))
        return cls(product_id, profile, str(row.version), bundle, manifest_sha256, names, dict(row.tags))


def registered_name(product_id: str, profile: str) -> str:
    """`closecast.PRODUCT.PROFILE`."""
    return f"closecast.{product_id}.{profile}"
