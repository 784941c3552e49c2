"""Alerts: Prefect automations that call a webhook, created or updated here."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import get_current_settings
from prefect.types import SecretDict

from storage.core.errors import BadFile, BadSetting, PrefectUnavailable
from storage.core.files import read_bytes
from storage.core.home import PROJECT

FILE = PROJECT / "automations.yaml"
BLOCK = "closecast-alerts"
# Stands in the file for the id of the block, which differs from server to server.
PLACEHOLDER = "{{ webhook }}"
NO_BLOCK = "00000000-0000-0000-0000-000000000000"


def set_up_alerts(webhook_url: str, file: Path = FILE) -> list[str]:
    """Save the webhook in the Prefect server, and create or update each automation.

    The server calls the address by POST with JSON. Returns the automations' names.

    Raises:
        BadSetting: not an address, or no server is configured.
        BadFile: Prefect does not understand the file.
        PrefectUnavailable: the server does not answer, or refuses.
    """
    parts = urlsplit(webhook_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        # The address is not quoted: it is a secret.
        raise BadSetting(
            "alerts need an address such as https://hooks.example.com/x, not one of another form"
        )
    api = get_current_settings().api.url
    if not api:
        raise BadSetting(
            "alerts are set up in a Prefect server, and none is configured: set PREFECT_API_URL, such as"
            " http://127.0.0.1:4200/api"
        )
    read_automations(file, NO_BLOCK)  # before anything is changed
    try:
        headers = SecretDict({"Content-Type": "application/json"})
        block: Any = Webhook(method="POST", url=webhook_url, headers=headers)
        automations = read_automations(file, str(block.save(BLOCK, overwrite=True)))
        with get_client(sync_client=True) as client:
            for automation in automations:
                stored = client.read_automations_by_name(automation.name)
                if not stored:
                    client.create_automation(automation)
                for each in stored:
                    client.update_automation(each.id, automation)
    except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PrefectUnavailable(
            f"the Prefect server at {api} did not take the alerts: {reason:.200}; is it up, and of the"
            " version that is installed here?"
        ) from error
    return [automation.name for automation in automations]


def read_automations(file: Path, block_id: str) -> list[AutomationCore]:
    """The automations of a file, which call that block; `BadFile` where Prefect does not understand it."""
    text = read_bytes(file, limit=2**20).decode(errors="replace").replace(PLACEHOLDER, block_id)
    try:
        return [AutomationCore.model_validate(entry) for entry in yaml.safe_load(text)["automations"]]
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise BadFile(
            f"automations in Prefect's format are needed, {file} has others: {reason:.200}"
        ) from error
