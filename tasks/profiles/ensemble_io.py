"""An ensemble as the files of a bundle, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np

from storage.models.bundles import Bundle, Draft
from tasks.core.quantiles import LEVELS
from tasks.core.types import Floats
from tasks.features.inputs import Columns
from tasks.network.architectures import arrays_sha256
from tasks.network.trainer import Losses
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.ensemble import Ensemble, Trained, trainer_for


@dataclass(frozen=True)
class Stored:
    """What a bundle holds of a forecast: the ensemble, and the tracker's state before its first outcome."""

    ensemble: Ensemble
    quantile_offsets: Floats


def write_ensemble(
    draft: Draft, trained: Trained, recipe: Recipe, quantile_offsets: Floats, lineage: Mapping[str, Any]
) -> None:
    """Fill a draft: one weights file a member, and everything else as JSON."""
    ensemble = trained.ensemble
    for number, weights in enumerate(ensemble.members, start=1):
        with trainer_for(recipe, _features(ensemble)).borrow(weights) as network:
            draft.write_weights(network, _weights_name(number))
    draft.write_json("settings.json", recipe.model_dump(mode="json"))
    draft.write_json(
        "ensemble.json",
        {
            "columns": asdict(ensemble.columns),
            "features": _features(ensemble),
            "members": len(ensemble.members),
            "trained_through": ensemble.trained_through.isoformat(),
        },
    )
    draft.write_json(
        "calibration.json", {"levels": list(LEVELS), "quantile_offsets": quantile_offsets.tolist()}
    )
    draft.write_json("losses.json", {"members": losses_json(trained.losses)})
    draft.write_json("lineage.json", dict(lineage))


def read_ensemble(bundle: Bundle, recipe: Recipe) -> Stored:
    """The ensemble of a bundle, to the last bit.

    Raises:
        Damaged: a file is not the stored one.
    """
    known = bundle.read_json("ensemble.json")
    members = []
    for number in range(1, known["members"] + 1):
        with trainer_for(recipe, known["features"]).borrow() as network:
            bundle.load_weights(network, _weights_name(number))
            members.append(network.get_weights())
    ensemble = Ensemble(
        Columns(**known["columns"]), tuple(members), date.fromisoformat(known["trained_through"])
    )
    return Stored(
        ensemble, np.array(bundle.read_json("calibration.json")["quantile_offsets"], dtype=np.float64)
    )


def ensemble_sha256(ensemble: Ensemble) -> str:
    """Identify an ensemble by its members' weights, in their order."""
    return arrays_sha256([array for weights in ensemble.members for array in weights])


def losses_json(losses: tuple[Losses, ...]) -> list[dict[str, Any]]:
    """Each member's losses as plain figures; a validation loss that is not finite is None."""
    return [
        {
            "loss": member.training.tolist(),
            "val_loss": [loss if np.isfinite(loss) else None for loss in member.validation.tolist()],
            "best_epoch": member.best_epoch,
        }
        for member in losses
    ]


def _features(ensemble: Ensemble) -> int:
    return int(ensemble.members[0][0].shape[0])


def _weights_name(number: int) -> str:
    return f"member-{number}.weights.h5"
