"""Calls to Prefect's server that a run does not depend on: artifacts, their progress, the run's name."""

from __future__ import annotations

import functools
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import certifi
import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import SettingsContext, get_settings_context
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run, task_run

from closecast.tasks.core.formatting import finite

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger("closecast.artifacts")

# So long a response may take, and so may that of the second try. Prefect's own calls wait for minutes.
SECONDS = 10.0
# Showing progress takes some twenty milliseconds, more than many an epoch.
EVERY_SECONDS = 2.0
# A proxy may answer with a page of its own, which is no JSON (ValueError).
REFUSALS = (httpx.HTTPError, PrefectException, OSError, RuntimeError, ValueError)

Kind = Literal["markdown", "table", "image", "progress"]


@contextmanager
def quick_client() -> Iterator[SyncPrefectClient]:
    """A client of Prefect's server that waits for seconds, not for minutes."""
    context = get_settings_context()
    api, settings = context.settings.api, context.settings
    # A copy: Prefect's `temporary_settings` reads the environment and every settings file again.
    quick = settings.model_copy(update={"client": settings.client.model_copy(update={"max_retries": 1})})
    options: dict[str, Any] = {"timeout": SECONDS}
    if not api.tls_insecure_skip_verify:
        options["verify"] = _trusted(api.ssl_cert_file or certifi.where())
    with (
        SettingsContext(profile=context.profile, settings=quick),
        get_client(sync_client=True, httpx_settings=options) as client,
    ):
        yield client


@functools.cache
def _trusted(cert_file: str) -> ssl.SSLContext:
    """The certificates of a file, read once: that takes longer than a call."""
    return ssl.create_default_context(cafile=cert_file)


def side_call(what: str, call: Callable[[SyncPrefectClient], object]) -> bool:
    """Whether Prefect's server accepted this call; if not, a warning names `what` is missing."""
    try:
        with quick_client() as client:
            call(client)
    except REFUSALS as error:
        reason = " ".join(str(error).partition(" for url")[0].split()) or type(error).__name__
        log.warning("%s: refused by Prefect's server, the run continues without it: %.200s", what, reason)
        return False
    return True


def create_artifact(client: SyncPrefectClient, kind: Kind, key: str, data: Any, description: str) -> UUID:
    """Create an artifact of the current run: Markdown, a table, an image address, or a percentage."""
    artifact = ArtifactCreate(
        key=key,
        type=kind,
        description=description,
        data=_table(data) if kind == "table" else data,
        flow_run_id=flow_run.get_id(),
        task_run_id=task_run.get_id(),
    )
    return client.create_artifact(artifact).id


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Prefect's page reads them: JSON has only finite figures."""
    return json.dumps([{name: finite(value) for name, value in row.items()} for row in rows])


def show_artifact(kind: Kind, key: str, data: Any, description: str) -> None:
    """Create one artifact of the current run; if the server refuses it, there is a warning."""
    side_call(f"artifact {key}", lambda client: create_artifact(client, kind, key, data, description))


class Progress:
    """A progress artifact of a run, created with the first share that is shown.

    After a refusal it no longer changes, and the work continues.
    """

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._artifact_id: UUID | None = None
        self._percent, self._updated_at, self._refused = 0.0, 0.0, False
        self._lock = threading.Lock()

    def show(self, percent: float) -> None:
        """Show this percentage, unless another was shown just before."""
        with self._lock:
            soon = time.monotonic() - self._updated_at < EVERY_SECONDS
            if self._refused or (self._percent == percent == 100.0) or (soon and percent < 100.0):
                return
            self._updated_at, self._percent = time.monotonic(), percent
            self._refused = not side_call(f"progress {self._key}", self._show)

    def _show(self, client: SyncPrefectClient) -> None:
        if self._artifact_id is None:
            self._artifact_id = create_artifact(
                client, "progress", self._key, self._percent, self._description
            )
        else:
            client.update_artifact(self._artifact_id, ArtifactUpdate(data=self._percent))
