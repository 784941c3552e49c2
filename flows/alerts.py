"""Who is told when something goes wrong: Prefect's automations call a webhook; here they are set up."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import get_current_settings
from prefect.types import SecretDict

from storage.core.errors import BadFile, BadSetting, PrefectUnavailable
from storage.core.files import read_bytes
from storage.core.home import PROJECT

FILE = PROJECT / "automations.yaml"
BLOCK = "closecast-alerts"
# Stands in the file where the block's id belongs, which each server gives anew.
PLACE = "{{ webhook }}"


def set_up_alerts(webhook_url: str, file: Path = FILE) -> list[str]:
    """Save the webhook in the Prefect server, and create each automation or bring it up to date.

    Args:
        webhook_url: what is called, by POST with JSON.
        file: of the automations, in Prefect's format.

    Returns:
        The automations' names.

    Raises:
        BadSetting: not an address, or no server is named.
        BadFile: Prefect does not understand the file.
        PrefectUnavailable: the server does not answer, or refuses.
    """
    parts = urlsplit(webhook_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        # What came is not shown: such an address is a secret.
        raise BadSetting("alerts go to an address such as https://hooks.example.com/x, another form came")
    api = get_current_settings().api.url
    if not api:
        raise BadSetting(
            "alerts are set up in a Prefect server, and none is named: set PREFECT_API_URL, such as"
            " http://127.0.0.1:4200/api"
        )
    read_automations(file, "00000000-0000-0000-0000-000000000000")  # before anything is changed
    try:
        headers = SecretDict({"Content-Type": "application/json"})
        block: Any = Webhook(method="POST", url=webhook_url, headers=headers)
        automations = read_automations(file, str(block.save(BLOCK, overwrite=True)))
        with get_client(sync_client=True) as client:
            for automation in automations:
                _bring_up_to_date(client, automation)
    except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PrefectUnavailable(
            f"the Prefect server at {api} did not take the alerts: {why:.200}; is it running, and of the"
            " version that is installed here?"
        ) from error
    return [automation.name for automation in automations]


def read_automations(file: Path, block_id: str) -> list[AutomationCore]:
    """The automations of a file, which call that block.

    Raises:
        BadFile: it is not there, or Prefect does not understand it.
    """
    text = read_bytes(file, limit=2**20).decode(errors="replace").replace(PLACE, block_id)
    try:
        return [AutomationCore.model_validate(one) for one in yaml.safe_load(text)["automations"]]
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        why = " ".join(str(error).split())
        raise BadFile(f"automations as Prefect knows them were needed, {file} has: {why:.200}") from error


def _bring_up_to_date(client: SyncPrefectClient, automation: AutomationCore) -> None:
    known = client.read_automations_by_name(automation.name)
    if not known:
        client.create_automation(automation)
    for one in known:
        client.update_automation(one.id, automation)
