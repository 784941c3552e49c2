"""The files that make a bundle an MLflow model: `MLmodel`, requirements, input example, model card."""

from __future__ import annotations

import json
import platform
from importlib.metadata import packages_distributions, version
from typing import Any

from closecast.storage.core.candle_schema import CANDLE_COLUMNS, FIGURES
from closecast.storage.core.intervals import BOUNDS
from closecast.storage.models.bundles import Draft
from closecast.storage.models.registry import registered_name
from closecast.tasks.core.formatting import finite
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.core.model import Lineage
from closecast.tasks.profiles.base import Profile
from closecast.tasks.profiles.named import OURS, class_path, own_files

MLMODEL, CARD, REQUIREMENTS = "MLmodel", "README.md", "requirements.txt"
EXAMPLE, SERVED_EXAMPLE = "input_example.json", "serving_input_example.json"
# The package whose `_load_pyfunc` MLflow calls.
LOADER = "closecast"
EXAMPLE_DAYS = 365
INPUTS = ("day_utc", "date", *FIGURES)
OUTPUTS = {
    **dict.fromkeys(("product_id", "quote_currency", "profile", "basis"), "string"),
    **dict.fromkeys(("origin_day", "target_day"), "datetime"),
    "horizon": "integer",
    **dict.fromkeys(("last_close", "point", *BOUNDS), "double"),
    **dict.fromkeys(("quantile_levels", "quantiles"), "double[]"),
}
_OF_INTERVALS = ("quantile_levels", "quantiles", *BOUNDS)
_OFFSETS = ", and moves the quantiles after each outcome; this model keeps the offsets of its training"
_CARD = """\
# {name}

Forecasts of the daily close of {product} (UTC days) as {form}, days ahead: {horizons}. Made by
closecast's profile `{profile}`.

## Trained

| | |
|---|---|
| on | {basis} |
| days | up to {origin}; training used none after {through} |
| prices | `{data}`, series `{series}` |
| how | {kind} |
| gaps | {gaps} |
| inputs left out | {left_out} |
| windows | {windows} |
| weights | SHA-256 `{weights}` |
| with | {libraries} |

## Gate

{gate}

## Use

```python
mlflow.pyfunc.load_model("models:/{name}@champion").predict(candles)
```

`candles` has a row for each day: `day_utc` or `date`, and `close`; `open`, `high`, `low` and `volume` are
optional. The output has a row for each day ahead of the last candle, with the columns of the table
`predictions`. Pass a year of days or more, from which volatility is estimated.

**This is not the published forecast.** closecast publishes from all stored candles and the decisions about
them{offsets}. Published forecasts are in the table `predictions`.

## Limits

This is not financial advice. No model here predicts tomorrow's close better than today's close does; what
can be predicted a little better is how far apart the two may be. The model only knows prices, no news.
It needs the newest {window} days{before}. Do not use it for another product.
"""


def write_mlflow_files(draft: Draft, profile: Profile, lineage: Lineage, history: PriceHistory) -> None:
    """Fill a draft with what `mlflow.pyfunc.load_model` and `mlflow models serve` need; no pickle."""
    import yaml  # whoever only reads versions does without

    example = _example(history)
    draft.write_json(EXAMPLE, example)
    draft.write_json(SERVED_EXAMPLE, {"dataframe_split": example})
    requirements = "".join(f"{line}\n" for line in _requirements(profile, lineage))
    draft.write(REQUIREMENTS, requirements.encode())
    draft.write(CARD, model_card(profile, lineage).encode())
    draft.write(MLMODEL, yaml.safe_dump(_mlmodel(profile, lineage), sort_keys=False).encode())


def model_card(profile: Profile, lineage: Lineage, gate: str | None = None) -> str:
    """The model card as Markdown: what a version was trained on, the gate's figures, its use and limits."""
    windows = ", ".join(f"{count} {part}" for part, count in sorted(lineage.windows.items()))
    others = ", ".join(lineage.pooled_data_versions)
    pooled = f" and of {others}" if others else ""
    products = {"pool": f"prices of {others}, because {lineage.product_id} has too few days of its own"}
    return _CARD.format(
        name=registered_name(lineage.product_id, lineage.profile),
        product=lineage.product_id,
        profile=lineage.profile,
        horizons=", ".join(map(str, profile.horizons)),
        form=f"{len(profile.levels)} quantiles" if profile.levels else "a point without intervals",
        basis=products.get(lineage.basis, f"closes of {lineage.product_id}{pooled}"),
        origin=lineage.origin_day,
        through=lineage.trained_through,
        data=lineage.data_version,
        series=lineage.series,
        kind=f"{lineage.training_kind}{f' of version {lineage.parent}' if lineage.parent else ''}",
        gaps="; ".join(f"{first} to {last}" for first, last in lineage.gaps) or "none",
        left_out=", ".join(lineage.columns_left_out) or "none",
        windows=windows or "not counted",
        weights=lineage.weights_sha256,
        libraries=", ".join(f"{name} {value}" for name, value in sorted(lineage.libraries.items())),
        gate=gate or "Not judged yet: the version in the registry has the gate's figures.",
        offsets=_OFFSETS if profile.levels else "",
        window=profile.consecutive_days,
        before=" and some weeks before them" if profile.levels else "",
    )


def _mlmodel(profile: Profile, lineage: Lineage) -> dict[str, Any]:
    flavor = {"loader_module": LOADER, "python_version": platform.python_version()}
    # A date may be a text, a date or a timestamp, a figure a whole number: `read_candles` checks them.
    inputs = [{"type": "any", "name": name, "required": name == "close"} for name in INPUTS]
    point = () if profile.levels else _OF_INTERVALS
    outputs = [
        {**_output_type(kind), "name": name, "required": name not in point} for name, kind in OUTPUTS.items()
    ]
    return {
        "flavors": {"python_function": flavor},
        "metadata": {"profile": _class_path(profile), "product_id": lineage.product_id},
        "mlflow_version": version("mlflow-skinny"),
        "model_uuid": lineage.weights_sha256[:32],
        "saved_input_example_info": {
            "artifact_path": EXAMPLE,
            "pandas_orient": "split",
            "serving_input_path": SERVED_EXAMPLE,
            "type": "dataframe",
        },
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None},
        "utc_time_created": f"{lineage.origin_day} 00:00:00",
    }


def _class_path(profile: Profile) -> str:
    """The name with which `profile_named` finds the class again, even if it is not installed."""
    path = class_path(profile)
    return profile.name if path == OURS.get(profile.name) else path


def _output_type(kind: str) -> dict[str, Any]:
    if kind.endswith("[]"):
        return {"type": "array", "items": {"type": kind.removesuffix("[]")}}
    return {"type": kind}


def _requirements(profile: Profile, lineage: Lineage) -> list[str]:
    """The versions that made the model: closecast, the libraries of the lineage, a user's own package."""
    libraries = [name for name in lineage.libraries if name not in ("python", "system", "processor")]
    names = ["closecast", *libraries, "h5py", "mlflow-skinny"]
    if own_files(profile):
        package = type(profile).__module__.partition(".")[0]
        names += packages_distributions().get(package, [])[:1]
    return [f"{name}=={version(name)}" for name in names]


def _example(history: PriceHistory) -> dict[str, Any]:
    """The newest candles as JSON that MLflow reads as a frame, with the columns known on every day."""
    candles = history.candles[CANDLE_COLUMNS].tail(EXAMPLE_DAYS)
    days = candles["day_utc"].dt.strftime("%Y-%m-%d")
    known = candles.dropna(axis="columns", how="all").assign(day_utc=days)
    rows = [[finite(value) for value in row] for row in known.to_numpy(dtype=object).tolist()]
    return {"columns": list(known.columns), "data": rows}
