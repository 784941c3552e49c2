"""A stored forecast made again from its versions, and compared to the last bit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from storage.core.errors import BadInput, Damaged
from storage.core.home import Home
from storage.models.bundles import Bundle
from storage.models.registry import Models
from storage.prices.price_store import Prices
from storage.tables.predictions import Predictions
from storage.tables.schemas import calibrator, components
from tasks.calibration.calibrator_states import OWN
from tasks.core.tensorflow_runtime import library_versions
from tasks.core.types import Floats
from tasks.forecast.publish import INTERVALS, Made, beside, row_of
from tasks.network.architectures import arrays_sha256
from tasks.profiles.article_fit import fit_article
from tasks.profiles.calibrated_settings import Recipe
from tasks.profiles.distribution import first_quantile_offsets
from tasks.profiles.ensemble import Ensemble, Trained, fine_tune_ensemble, fit_ensemble
from tasks.profiles.ensemble_io import Stored, ensemble_sha256, read_ensemble
from tasks.profiles.forecast_models import ArticleModel, forecast_article, forecast_calibrated, read_article

log = logging.getLogger("closecast.reproduce")

FIGURES = (
    "last_close",
    "point",
    *(f"{side}_{percent}" for percent in INTERVALS for side in ("lower", "upper")),
    "quantile_levels",
    "quantiles",
)


@dataclass(frozen=True)
class Compared:
    """Figures as they were stored and as they came this time, the same number of them."""

    name: str
    stored: tuple[float, ...]
    again: tuple[float, ...]

    @property
    def same(self) -> bool:
        """Whether they are the same bits."""
        return np.array(self.stored).tobytes() == np.array(self.again).tobytes()

    @property
    def apart(self) -> float:
        """The largest distance between two of them, as a share of the stored one."""
        if len(self.stored) != len(self.again):
            return float("inf")
        stored, again = np.array(self.stored), np.array(self.again)
        away = np.abs(again - stored) / np.maximum(np.abs(stored), np.finfo("float64").tiny)
        return float(np.max(np.where(stored == again, 0.0, away), initial=0.0))


@dataclass(frozen=True)
class Reproduced:
    """What came of it: the forecast's figures, those of its model when trained again, and other versions.

    `others` names what is not as it was when the model was trained or the forecast made: then, and now.
    """

    row: Mapping[str, Any]
    figures: tuple[Compared, ...]
    weights: tuple[Compared, ...]
    others: Mapping[str, tuple[str, str]]

    @property
    def same(self) -> bool:
        """Whether all of it came again to the last bit."""
        return all(one.same for one in (*self.figures, *self.weights))


def reproduce_forecast(
    home: Home, prediction_id: str, *, code_version: str, retrain: bool = False
) -> Reproduced:
    """Make a stored forecast again: the same candles, the same model, the same state of the tracker.

    Args:
        home: where it is stored; nothing is written to it.
        prediction_id: of the forecast.
        code_version: of this code.
        retrain: train its model again from data version, settings and seed, and forecast with that one. A
            fine-tuned model is trained on from the stored weights of the one before it.

    Raises:
        BadInput: there is no such forecast.
        Damaged: what it was made from is no longer what was recorded.
    """
    row = Predictions(home).find(prediction_id)
    if row is None:
        raise BadInput(
            f"no forecast {prediction_id!r:.60} is in {home.root}: `closecast predictions` lists their ids"
        )
    models = Models(home)
    bundle = models.open(models.version(row["product_id"], row["profile"], row["model_version"]))
    lineage = bundle.read_json("lineage.json")
    make = _calibrated if row["profile"] == Recipe.name else _article
    figures, weights = make(home, row, bundle, lineage, retrain)
    return Reproduced(row, tuple(figures), tuple(weights), _others(row, lineage, code_version))


def _others(
    row: Mapping[str, Any], lineage: Mapping[str, Any], code_version: str
) -> dict[str, tuple[str, str]]:
    then = {**lineage["libraries"], "closecast (of the forecast)": row["code_version"]}
    now = {**library_versions(), "closecast (of the forecast)": code_version}
    then["closecast (of the model)"], now["closecast (of the model)"] = lineage["code_version"], code_version
    return {name: (was, now[name]) for name, was in then.items() if name in now and was != now[name]}


def _candles(home: Home, data_version: str) -> Any:
    with Prices(home) as prices:
        return prices.closes_at(data_version)


def _compared(name: str, stored: Any, again: Any) -> Compared:
    both = [np.ravel(np.array([] if one is None else one, dtype=np.float64)) for one in (stored, again)]
    return Compared(name, tuple(both[0].tolist()), tuple(both[1].tolist()))


def _rows_compared(row: Mapping[str, Any], said: tuple[float, float, Floats | None]) -> list[Compared]:
    asked = (row["product_id"], row["profile"], row["origin_day"], row["horizon"])
    made: Any = {name: row[name] for name in Made.__annotations__}
    again = row_of(asked, said, made)
    return [_compared(name, row[name], again[name]) for name in FIGURES if row[name] is not None]


# The article's


def _article(
    home: Home, row: Mapping[str, Any], bundle: Bundle, lineage: Mapping[str, Any], retrain: bool
) -> tuple[list[Compared], list[Compared]]:
    model, weights = read_article(bundle), list[Compared]()
    if retrain:
        settings = bundle.read_json("settings.json")
        fitted = fit_article(_candles(home, lineage["data_version"]), **settings)
        again = ArticleModel(fitted.network, fitted.split.scaler, model.lookback)
        weights = _weights_compared(
            [model.network.get_weights()],
            [again.network.get_weights()],
            lineage["weights_sha256"] == arrays_sha256(again.network.get_weights()),
        )
        scalers = (list(one.scaler.as_json().values()) for one in (model, again))
        weights.append(_compared("scaler", *scalers))
        model = again
    said = forecast_article(model, _candles(home, row["data_version"]))
    return _rows_compared(row, (said.last_close, said.point, None)), weights


def _weights_compared(
    stored: Sequence[Sequence[Any]], again: Sequence[Sequence[Any]], same_digest: bool
) -> list[Compared]:
    found = [
        _compared(
            f"weights of member {number}",
            *(np.concatenate([np.ravel(one) for one in part]) for part in parts),
        )
        for number, parts in enumerate(zip(stored, again, strict=True), start=1)
    ]
    if all(one.same for one in found) and not same_digest:
        raise Damaged(
            "the weights came again, but not the digest that the lineage has of them: run `closecast verify`"
        )
    return found


# The calibrated one's


def _calibrated(
    home: Home, row: Mapping[str, Any], bundle: Bundle, lineage: Mapping[str, Any], retrain: bool
) -> tuple[list[Compared], list[Compared]]:
    recipe = Recipe.model_validate(bundle.read_json("settings.json"))
    stored, weights = read_ensemble(bundle, recipe), list[Compared]()
    ensemble = stored.ensemble
    if retrain:
        trained, quantile_offsets = _trained_again(home, recipe, lineage)
        same_digest = lineage["weights_sha256"] == ensemble_sha256(trained.ensemble)
        weights = _weights_compared(ensemble.members, trained.ensemble.members, same_digest)
        weights.append(_compared("quantile_offsets", stored.quantile_offsets, quantile_offsets))
        ensemble = trained.ensemble
    return _distribution(home, row, ensemble, recipe), weights


def _distribution(home: Home, row: Mapping[str, Any], ensemble: Ensemble, recipe: Recipe) -> list[Compared]:
    """The figures of the row, then those that stand beside it."""
    product_id = row["product_id"]
    mine = components(home, product_id).read(ds.field("prediction_id") == row["prediction_id"])
    kept = {one["component"]: one for one in mine.to_pylist()}
    if OWN not in kept:
        raise Damaged(f"forecast {row['prediction_id']} has no components: restore them from a backup")
    name = kept[OWN]["calibrator_version"]
    states = calibrator(home, product_id).read(ds.field("calibrator_version") == name)
    if not states.num_rows:
        raise Damaged(f"the state {name} of the tracker is missing: restore it from a backup")
    quantile_offsets = np.array(states["quantile_offsets"][0].as_py())
    said = forecast_calibrated(ensemble, quantile_offsets, _candles(home, row["data_version"]), recipe)
    found = _rows_compared(row, (said.last_close, said.point, said.quantiles))
    for again in beside(row, said, name):
        stored = kept.get(again["component"], {})
        found += [
            _compared(f"{again['method']}: {figure}", stored.get(figure), again[figure])
            for figure in ("sigma", "quantiles")
        ]
    return found


def _trained_again(home: Home, recipe: Recipe, lineage: Mapping[str, Any]) -> tuple[Trained, Floats]:
    """The model's training from its data, settings and seeds, and the tracker's first state with it."""
    candles = _candles(home, lineage["data_version"])
    named = lineage["pooled_data_versions"]
    pools = {product: _candles(home, named[product]) for product in recipe.pool_products if product in named}
    log.info("%s: training again on %d closes", lineage["product_id"], len(candles))
    if lineage["training_kind"] == "refit":
        trained = fit_ensemble(candles, recipe, pools)
        return trained, first_quantile_offsets(trained, candles, recipe)
    models = Models(home)
    parent = models.version(lineage["product_id"], recipe.name, lineage["parent"])
    before: Stored = read_ensemble(models.open(parent), recipe)
    return fine_tune_ensemble(before.ensemble, candles, recipe, pools), before.quantile_offsets
