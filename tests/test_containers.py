"""The image, compose.yaml and the pools of containers, held against what they must have; needs no Docker.

The pools' keys are those of prefect-docker 0.7.4 and prefect-kubernetes 0.8.0.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from typing import Any

import prefect.settings
import pytest
import yaml

from tests.helpers import PROJECT

DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
IMAGE = f"closecast:{VERSION}"
COMMON = {"name", "env", "labels", "command", "image", "image_pull_policy", "stream_output"}
JOB_VARIABLES = {
    "closecast-docker": COMMON
    | {"registry_credentials", "networks", "network_mode", "auto_remove", "volumes", "mem_limit"}
    | {"memswap_limit", "privileged", "container_create_kwargs"},
    "closecast-kubernetes": COMMON
    | {"annotations", "namespace", "service_account_name", "backoff_limit", "finished_job_ttl"}
    | {"job_watch_timeout_seconds", "pod_watch_timeout_seconds", "cluster_config"}
    | {"cpu_request", "cpu_limit", "memory_request", "memory_limit"},
}
OURS = {"CLOSECAST_DATABASE_URL", "CLOSECAST_STORAGE_URL", "PGPASSWORD", "TF_CPP_MIN_LOG_LEVEL"}


def instructions() -> list[tuple[str, str]]:
    """The lines of the Dockerfile as (instruction, arguments), without comments."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines()) if name]


def pools() -> list[dict[str, Any]]:
    """The commented work pools of prefect.yaml."""
    text = (PROJECT / "prefect.yaml").read_text(encoding="utf-8")
    blocks = re.findall(r"^#   work_pool:.*\n(?:#   .*\n)*", text, re.MULTILINE)
    return [yaml.safe_load(block.replace("#   ", ""))["work_pool"] for block in blocks]


def test_every_image_has_a_tag_that_is_no_moving_one() -> None:
    names = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    names += [service["image"] for service in SERVICES.values()]
    for image in names:
        _, _, tag = image.rpartition(":")
        assert re.match(r"\d+(\.\d+)+|\d+-[a-z]+", tag), image
    assert {service["image"] for service in SERVICES.values() if "build" in service} == {IMAGE}


def test_the_image_is_not_root_and_brings_its_health_check_and_no_entry_point() -> None:
    last = instructions()[max(n for n, (name, _) in enumerate(instructions()) if name == "FROM") :]
    said = dict(last)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said["USER"])
    assert said["HEALTHCHECK"].endswith("]")
    assert "ENTRYPOINT" not in said  # Prefect's pools give a command of their own
    # Nothing is installed or written as the user: the code in the image is root's.
    user = [name for name, _ in last].index("USER")
    assert {name for name, _ in last[user:]} <= {"USER", "WORKDIR", "HEALTHCHECK", "CMD"}


def test_the_image_installs_the_lock_with_its_hashes_and_compiles_it() -> None:
    (install,) = (
        rest for name, rest in instructions() if name == "RUN" and "requirements-image.lock" in rest
    )
    assert "--require-hashes" in install
    assert "--no-deps" in install
    assert "UV_COMPILE_BYTECODE=1" in DOCKERFILE
    lock = (PROJECT / "requirements-image.lock").read_text(encoding="utf-8")
    for name in ("psycopg-binary", "obstore", "asyncpg", "tensorflow-cpu", "prefect"):
        assert re.search(rf"^{name}==", lock, re.MULTILINE), name


def test_the_image_has_the_same_versions_as_the_lock_of_everybody() -> None:
    def versions(lock: str) -> dict[str, str]:
        text = (PROJECT / lock).read_text(encoding="utf-8")
        return dict(re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE))

    everybody, image = versions("requirements.lock"), versions("requirements-image.lock")
    assert everybody.items() <= image.items()
    assert image["tensorflow-cpu"] == everybody["tensorflow"]


def allowed(path: str) -> bool:
    """Whether .dockerignore lets a path into the image: the last line about it or its folders decides."""
    lines = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line.replace("**/", "") for line in lines if line and not line.startswith("#")]
    parts = path.split("/")
    folders = ["/".join(parts[: n + 1]) for n in range(len(parts))]

    def concerns(pattern: str) -> bool:
        return any(fnmatch(folder, pattern) and folder.count("/") == pattern.count("/") for folder in folders)

    matching = [rule for rule in rules if concerns(rule.removeprefix("!"))]
    return bool(matching) and matching[-1].startswith("!")


def test_a_home_secrets_and_the_history_stay_out_of_the_image() -> None:
    for path in (".env", ".git", "data/prices.db", "data/models", ".venv", "tests", "closecast.egg-info"):
        assert not allowed(path), path
    for path in ("data/sample", "prefect.yaml", "automations.yaml", "pyproject.toml", "README.md", "flows"):
        assert allowed(path), path
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    code = {path.partition("/")[0] for path in tracked.splitlines() if path.endswith(".py")}
    assert {name for name in code if not allowed(name)} == {"benchmarks", "docs", "tests"}


def test_compose_starts_what_the_page_names_in_this_order() -> None:
    waits = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    done = {"init": "service_completed_successfully"}
    assert waits == {
        "database": {},
        "server": {"database": "service_healthy"},
        "init": {"server": "service_healthy"},
        "worker": done,
        "report": done,
    }
    assert [*COMPOSE["volumes"]] == ["closecast"]


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in SERVICES["database"]


def test_no_service_of_ours_may_write_to_its_image_or_gain_rights() -> None:
    for service in SERVICES.values():
        if "build" in service:
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]


def test_every_service_has_a_health_check_or_ends() -> None:
    for name, service in SERVICES.items():
        check = service.get("healthcheck", {})
        inherited = "build" in service and "command" not in service  # the worker's, of the image
        assert "test" in check or inherited or service["restart"] == "no", name


def test_passwords_are_variables_with_a_default_for_this_machine() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name:
                assert value == "${POSTGRES_PASSWORD:-closecast}"
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), name


@pytest.mark.parametrize("name", ["server", "init", "worker", "report"])
def test_every_variable_is_a_setting_of_prefect_or_ours(name: str) -> None:
    for variable in SERVICES[name]["environment"]:
        known = variable in OURS or (name == "init" and variable in ("SOURCE", "ALERTS_URL"))
        assert known or hasattr(prefect.settings, variable), variable


def test_the_commented_pools_are_valid_and_have_known_keys_only() -> None:
    found = {pool["name"]: pool["job_variables"] for pool in pools()}
    assert found.keys() == JOB_VARIABLES.keys()
    for name, variables in found.items():
        assert set(variables) <= JOB_VARIABLES[name]
        assert variables["image"].endswith(IMAGE)
        for variable, value in variables["env"].items():
            assert isinstance(value, str)
            assert variable in OURS or hasattr(prefect.settings, variable), variable


def test_the_docker_pool_joins_the_network_and_volume_of_compose() -> None:
    (variables,) = (pool["job_variables"] for pool in pools() if pool["name"] == "closecast-docker")
    assert variables["networks"] == [COMPOSE["networks"]["default"]["name"]]
    (volume,) = variables["volumes"]
    assert volume == SERVICES["worker"]["volumes"][0]
    assert volume.partition(":")[0] == COMPOSE["volumes"]["closecast"]["name"]
