"""What every settings model has in common."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from closecast.storage.core.errors import BadSetting

Share = Annotated[float, Field(gt=0, lt=1)]
ProductId = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,16}-[A-Z0-9]{1,16}$")]
Source = Literal["sample", "coinbase", "csv"]  # where closes come from


class Frozen(BaseModel):
    """A settings model: fields never change, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def settings_digest(fields: dict[str, Any]) -> str:
    """The digest of all fields of the settings as JSON, which identifies them."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def as_bad_setting(error: ValidationError, model: type[BaseModel]) -> BadSetting:
    """Pydantic's first error in one line: what the field allows, and what was given."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    schema = model.model_json_schema()["properties"].get(name)
    # A validator of the field's own knows better what it misses.
    needed = None if schema is None or first["type"] in ("value_error", "finite_number") else allowed(schema)
    problem = f"needs {needed}" if needed else first["msg"].removeprefix("Value error, ")
    return BadSetting(f"setting {name}: {problem}, not {first['input']!r:.60}")


def allowed(schema: dict[str, Any]) -> str | None:
    """What a field's JSON schema lets it be, in words; None if there are no words for it."""
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        kinds = [allowed(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return None if None in kinds else " or ".join(map(str, kinds))
    kind = schema.get("type")
    if kind == "array":
        each = allowed(schema.get("items", {}))
        return f"a list, such as {_example(schema)}" + (f", in which each is {each}" if each else "")
    if kind == "string":
        return "a product id such as BTC-USD" if "pattern" in schema else "a text"
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _limits(schema)
    return "true or false" if kind == "boolean" else None


def _example(schema: dict[str, Any]) -> str:
    return json.dumps(schema.get("default", []))


def _limits(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:,} to {high:,}"
    words = [
        f"{word} {limit:,}"
        for word, limit in (("at least", low), ("above", above), ("at most", high), ("below", below))
        if limit is not None
    ]
    return " " + " and ".join(words) if words else ""
