"""`prefect.yaml`, read more strictly than Prefect does: it passes over a key that it does not know."""

from __future__ import annotations

import asyncio
import copy
import inspect
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

import prefect.settings
import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.deployments.steps.core import RESERVED_KEYWORDS
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.server.schemas.schedules import CronSchedule
from prefect.utilities.importtools import import_object
from prefect.utilities.schema_tools import validate
from prefect.workers.process import ProcessVariables
from pydantic import BaseModel

PROJECT = Path(__file__).parents[2]
OTHER_VARIABLES = {"DO_NOT_TRACK", "TF_CPP_MIN_LOG_LEVEL"}


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
    return loaded


# What is wrong with a document: one check for each thing that Prefect itself lets pass


def model_in(kind: Any) -> type[BaseModel] | None:
    """The first pydantic model that a type names."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((model for part in get_args(kind) if (model := model_in(part))), None)


def unknown_keys(data: Any, kind: Any, at: str = "") -> Iterator[str]:
    """Keys that the models of Prefect's own command do not have, at any depth."""
    if isinstance(data, list):
        for item in data:
            yield from unknown_keys(item, kind, at)
        return
    model = model_in(kind)
    if model is None or not isinstance(data, dict):
        return
    fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    for key, value in data.items():
        if key not in fields:
            yield f"unknown key {at}{key}"
        else:
            yield from unknown_keys(value, fields[key], f"{at}{key}.")


def bad_step(step: dict[str, Any]) -> None:
    """Raises where the step's function is not there or does not take its arguments."""
    ((name, arguments),) = step.items()
    given = {key: value for key, value in arguments.items() if key not in RESERVED_KEYWORDS}
    inspect.signature(import_object(name)).bind(**given)


def bad_deployment(deployment: dict[str, Any]) -> None:
    """Raises at the first thing that would not do what it says."""
    limit = deployment["concurrency_limit"]
    assert limit["limit"] == 1
    ConcurrencyOptions(collision_strategy=limit["collision_strategy"])
    for schedule in deployment["schedules"]:
        CronSchedule(**schedule)
        ZoneInfo(schedule["timezone"])
    variables = deployment["work_pool"]["job_variables"]
    assert set(variables) <= set(ProcessVariables.model_fields)
    ProcessVariables.model_validate(variables, strict=True)
    for name in variables["env"]:
        assert name in OTHER_VARIABLES or hasattr(prefect.settings, name), name
    flow: Flow[Any, Any] = load_flow_from_entrypoint(deployment["entrypoint"])
    flow.validate_parameters(deployment["parameters"])
    errors = validate(deployment["parameters"], flow.parameters.model_dump(mode="json"))
    assert not errors, errors
    assert deployment["enforce_parameter_schema"] is True
    assert deployment["work_pool"]["name"] == "closecast"
    for key in ("name", "description", "version", "tags"):
        assert deployment[key], key
    assert deployment["tags"][0] == "closecast"  # what the automations look for


def complaints(found: dict[str, Any]) -> list[str]:
    """All that is wrong with a document."""
    said: list[str] = []
    try:
        PrefectYamlModel.model_validate(found)
        said += unknown_keys(found, PrefectYamlModel)
        assert found["name"] == "closecast"
        for step in [*found["build"], *found["pull"]]:
            bad_step(step)
        used = found["pull"][0]["prefect.deployments.steps.set_working_directory"]["directory"]
        made = found["build"][0]["prefect.deployments.steps.run_shell_script"]["id"]
        assert used == "{{ %s.stdout }}" % made  # noqa: UP031 - braces
        assert [deployment["name"] for deployment in found["deployments"]] == [
            "daily",
            "backtest",
            "maintain",
        ]
        for deployment in found["deployments"]:
            bad_deployment(deployment)
    except Exception as error:
        said.append(repr(error))
    return said


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    # Loading a flow by its path puts folders in front.
    monkeypatch.setattr(sys, "path", sys.path.copy())


def test_the_file_says_only_what_prefect_understands() -> None:
    found = document()
    assert complaints(found) == []
    # Prefect would compare it with nothing and keep it for ever.
    assert "prefect-version" not in found


def keys_of(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key of every mapping."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if isinstance(node, dict):
            yield (*at, key)
        yield from keys_of(value, (*at, key))


def holder(found: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        found = found[key]
    return found


@pytest.mark.parametrize("path", list(keys_of(document())), ids=lambda path: ".".join(map(str, path)))
def test_any_misspelt_key_is_found(path: tuple[Any, ...]) -> None:
    changed = document()
    mapping = holder(changed, path)
    mapping[f"{path[-1][:-1]}_{path[-1][-1]}"] = mapping.pop(path[-1])
    assert complaints(changed)


DAILY = ("deployments", 0)
BACKTEST = ("deployments", 1)
MAINTAIN = ("deployments", 2)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*DAILY, "entrypoint"), "flows/products.py:dayly_forecasts"),
        ((*DAILY, "entrypoint"), "flow/products.py:daily_forecasts"),
        ((*DAILY, "parameters", "source"), "coinbsae"),
        ((*DAILY, "parameters", "products"), ["btcusd"]),
        ((*DAILY, "parameters", "products"), []),
        ((*DAILY, "parameters", "products"), "BTC-USD"),
        ((*DAILY, "parameters", "backfill_days"), -1),
        ((*DAILY, "parameters", "profile"), "articel"),
        ((*DAILY, "schedules", 0, "cron"), "15 24 * * *"),
        ((*DAILY, "schedules", 0, "cron"), "15 0 * *"),
        ((*DAILY, "schedules", 0, "timezone"), "UTX"),
        ((*DAILY, "concurrency_limit", "collision_strategy"), "CANCEL"),
        ((*DAILY, "concurrency_limit", "limit"), None),
        ((*DAILY, "work_pool", "job_variables", "env", "DO_NOT_TRACK"), True),
        ((*DAILY, "work_pool", "name"), "closecat"),
        ((*BACKTEST, "parameters", "product_id"), "BTC"),
        ((*BACKTEST, "parameters", "profile"), "articel"),
        ((*BACKTEST, "schedules", 0, "cron"), "0 4 32 * *"),
        ((*BACKTEST, "concurrency_limit", "collision_strategy"), "QUEUE"),
        ((*MAINTAIN, "entrypoint"), "flows/maintain.py:maintian"),
        ((*MAINTAIN, "parameters", "prune"), "soemtimes"),
        ((*MAINTAIN, "schedules", 0, "cron"), "0 3 * * 8"),
    ],
)
def test_a_wrong_value_is_found(path: tuple[Any, ...], value: object) -> None:
    changed = document()
    holder(changed, path)[path[-1]] = value
    assert complaints(changed)


def test_an_unknown_key_beside_the_right_ones_is_found() -> None:
    for path in [
        (*DAILY, "tags"),
        (*DAILY, "work_pool", "name"),
        (*DAILY, "schedules", 0, "cron"),
        ("name",),
    ]:
        changed = document()
        mapping = holder(changed, path)
        mapping["retires"] = copy.deepcopy(mapping[path[-1]])
        assert any("retires" in said for said in complaints(changed))


def test_the_version_is_the_project_s() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {found["version"] for found in document()["deployments"]} == {project["version"]}


@pytest.mark.parametrize("start", [datetime(2026, 11, 23, 12, tzinfo=UTC), datetime(2027, 3, 27, tzinfo=UTC)])
def test_the_next_runs_are_a_quarter_past_midnight_in_utc(start: datetime) -> None:
    (schedule,) = document()["deployments"][0]["schedules"]
    runs = asyncio.run(CronSchedule(**schedule).get_dates(n=5, start=start))
    first = (start + timedelta(days=start.hour > 0)).replace(hour=0, minute=15)
    assert [run.astimezone(UTC) for run in runs] == [first + timedelta(days=n) for n in range(5)]


def test_the_upkeep_runs_on_sundays_when_the_day_is_done_and_prunes_only_when_told() -> None:
    deployment = document()["deployments"][2]
    (schedule,) = deployment["schedules"]
    runs = asyncio.run(CronSchedule(**schedule).get_dates(n=3, start=datetime(2026, 11, 23, tzinfo=UTC)))
    first = datetime(2026, 11, 29, 3, tzinfo=UTC)
    assert [run.astimezone(UTC) for run in runs] == [first + timedelta(days=7 * n) for n in range(3)]
    assert {run.weekday() for run in runs} == {6}
    assert deployment["parameters"] == {"prune": False}


def test_the_backtest_runs_on_the_first_of_a_month_when_the_day_is_done() -> None:
    (schedule,) = document()["deployments"][1]["schedules"]
    runs = asyncio.run(CronSchedule(**schedule).get_dates(n=3, start=datetime(2026, 11, 23, tzinfo=UTC)))
    firsts = [(2026, 12), (2027, 1), (2027, 2)]
    assert [run.astimezone(UTC) for run in runs] == [datetime(*month, 1, 4, tzinfo=UTC) for month in firsts]


def test_a_second_run_is_refused_where_the_first_does_its_work_and_waits_where_it_does_other_work() -> None:
    strategies = {
        found["name"]: found["concurrency_limit"]["collision_strategy"] for found in document()["deployments"]
    }
    assert strategies == {"daily": "CANCEL_NEW", "backtest": "ENQUEUE", "maintain": "CANCEL_NEW"}


# What the form of the page shows

PRODUCT = "^[A-Z0-9]{1,16}-[A-Z0-9]{1,16}$"


def form(name: str) -> dict[str, Any]:
    """The fields of a deployment's form, as `prefect deploy` stores them."""
    (deployment,) = (found for found in document()["deployments"] if found["name"] == name)
    flow: Flow[Any, Any] = load_flow_from_entrypoint(deployment["entrypoint"])
    fields: dict[str, Any] = flow.parameters.model_dump(mode="json")["properties"]
    return fields


@pytest.mark.parametrize("name", ["daily", "backtest", "maintain"])
def test_every_field_of_the_form_has_a_title_a_description_a_place_and_a_type(name: str) -> None:
    fields = form(name)
    assert fields
    for title, field in fields.items():
        assert field["title"] == title
        assert len(field["description"]) > 20, title
        assert "type" in field or all("type" in one for one in field["anyOf"]), title
    assert [field["position"] for field in fields.values()] == list(range(len(fields)))


def test_the_form_knows_what_may_be_chosen_and_what_is_usual() -> None:
    daily, backtest, maintain = (form(name) for name in ("daily", "backtest", "maintain"))
    assert daily["products"]["items"] == {"type": "string", "pattern": PRODUCT}
    assert daily["products"]["minItems"] == 1
    assert daily["source"]["anyOf"][0]["enum"] == ["sample", "coinbase", "csv"]
    assert (daily["source"]["default"], daily["source"]["anyOf"][1]) == (None, {"type": "null"})
    for profile in (daily["profile"], backtest["profile"]):
        assert (profile["enum"], profile["default"]) == (["article", "calibrated"], "calibrated")
    assert daily["origin"]["anyOf"][0] == {"type": "string", "format": "date"}
    assert (daily["backfill_days"]["minimum"], daily["backfill_days"]["maximum"]) == (0, 366)
    assert (backtest["product_id"]["pattern"], backtest["product_id"]["default"]) == (PRODUCT, "BTC-USD")
    assert {backtest[end]["anyOf"][0]["format"] for end in ("start", "end")} == {"date"}
    assert (maintain["prune"]["type"], maintain["prune"]["default"]) == ("boolean", False)
