"""What every settings model has in common."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from storage.core.errors import BadSetting

Share = Annotated[float, Field(gt=0, lt=1)]
ProductId = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,16}-[A-Z0-9]{1,16}$")]


class Frozen(BaseModel):
    """A settings model: no field changes, no unknown field is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def settings_digest(fields: dict[str, Any]) -> str:
    """The digest that identifies settings by all their fields, as JSON has them."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def as_bad_setting(error: ValidationError) -> BadSetting:
    """Pydantic's first error as one line: what was needed, what came."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    return BadSetting(f"setting {name}: {first['msg']}, not {first['input']!r:.60}")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint at the closest of the names, or nothing."""
    closest = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {closest[0]}?)" if closest else ""
