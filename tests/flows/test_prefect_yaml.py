"""`prefect.yaml`, checked more strictly than Prefect does, which ignores unknown keys."""

from __future__ import annotations

import asyncio
import tomllib
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import prefect.settings
import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.server.schemas.schedules import CronSchedule
from prefect.utilities.schema_tools import validate
from prefect.workers.process import ProcessVariables

from closecast.tasks.profiles.named import DEFAULT_PROFILE, profile_named
from tests.flows.conftest import unknown_keys
from tests.helpers import PROJECT

OTHER_VARIABLES = {"ARROW_DEFAULT_MEMORY_POOL", "DO_NOT_TRACK", "TF_CPP_MIN_LOG_LEVEL"}


def document() -> Any:
    return yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))


def cron_of(schedule: dict[str, Any]) -> CronSchedule:
    return CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


def check_deployment(deployment: dict[str, Any]) -> None:
    """Raise at the first setting that has no effect or no meaning."""
    limit = deployment["concurrency_limit"]
    assert limit["limit"] == 1
    ConcurrencyOptions(collision_strategy=limit["collision_strategy"])
    for schedule in deployment["schedules"]:
        # With a slug and without `active`, a schedule that is paused stays so when it is deployed again.
        assert schedule.keys() == {"slug", "cron", "timezone"}
        cron_of(schedule)
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
    profile_named(deployment["parameters"].get("profile", DEFAULT_PROFILE))
    assert deployment["enforce_parameter_schema"] is True
    assert deployment["work_pool"]["name"] == "closecast"
    for key in ("name", "description", "version", "tags"):
        assert deployment[key], key
    assert deployment["tags"][0] == "closecast"  # what the automations look for


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def test_the_file_has_no_faults() -> None:
    found = document()
    understood = PrefectYamlModel.model_validate(found).model_dump(mode="json", by_alias=True)
    assert list(unknown_keys(found, understood)) == []
    assert found["name"] == "closecast"
    assert found["pull"] == []  # left out, Prefect would pull from the folder of this machine
    assert [each["name"] for each in found["deployments"]] == ["daily", "backtest", "maintain"]
    for deployment in found["deployments"]:
        check_deployment(deployment)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {each["version"] for each in found["deployments"]} == {project["version"]}
    assert "prefect-version" not in found  # Prefect compares it with nothing


@pytest.mark.parametrize(
    ("number", "start", "expected"),
    [
        (0, "2026-11-23T12:00", ["2026-11-24T00:15", "2026-11-25T00:15", "2026-11-26T00:15"]),
        (0, "2027-03-27T00:00", ["2027-03-27T00:15", "2027-03-28T00:15", "2027-03-29T00:15"]),  # clock change
        (1, "2026-11-23T00:00", ["2026-12-01T04:00", "2027-01-01T04:00", "2027-02-01T04:00"]),
        (2, "2026-11-23T00:00", ["2026-11-29T03:00", "2026-12-06T03:00", "2026-12-13T03:00"]),  # Sundays
    ],
)
def test_runs_are_scheduled_in_utc(number: int, start: str, expected: list[str]) -> None:
    (schedule,) = document()["deployments"][number]["schedules"]
    first = datetime.fromisoformat(start).replace(tzinfo=UTC)
    runs = asyncio.run(cron_of(schedule).get_dates(n=3, start=first))
    assert [f"{run.astimezone(UTC):%Y-%m-%dT%H:%M}" for run in runs] == expected


PRODUCT = "^[A-Z0-9]{1,16}-[A-Z0-9]{1,16}$"


def form(name: str) -> dict[str, Any]:
    """The fields of a deployment's form in Prefect's page."""
    (entrypoint,) = (found["entrypoint"] for found in document()["deployments"] if found["name"] == name)
    fields: dict[str, Any] = load_flow_from_entrypoint(entrypoint).parameters.model_dump(mode="json")
    return fields["properties"]


@pytest.mark.parametrize("name", ["daily", "backtest", "maintain"])
def test_every_form_field_has_title_description_position_and_type(name: str) -> None:
    fields = form(name)
    assert fields
    for title, field in fields.items():
        assert field["title"] == title
        assert len(field["description"]) > 20, title
        assert "type" in field or all("type" in kind for kind in field["anyOf"]), title
    assert [field["position"] for field in fields.values()] == list(range(len(fields)))


def test_form_fields_have_choices_limits_and_defaults() -> None:
    # Each may be left to the configuration file.
    daily, backtest = (
        {name: field["anyOf"][0] for name, field in form(flow).items() if "anyOf" in field}
        for flow in ("daily", "backtest")
    )
    assert daily["products"]["items"] == {"type": "string", "pattern": PRODUCT}
    assert daily["products"]["minItems"] == 1
    assert daily["source"]["enum"] == ["sample", "coinbase", "csv"]
    assert daily["origin"] == {"type": "string", "format": "date"}
    assert (daily["backfill_days"]["minimum"], daily["backfill_days"]["maximum"]) == (0, 366)
    assert backtest["product_id"]["pattern"] == PRODUCT
