"""Alerts: Prefect automations that call a webhook or send a notification, created or updated here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import yaml
from prefect.blocks.notifications import SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.types import SecretDict
from pydantic import SecretStr

from closecast.storage.core.errors import BadFile, BadSetting, PrefectUnavailable
from closecast.storage.core.files import read_bytes
from closecast.storage.core.home import PACKAGE
from closecast.tasks.report.side_calls import quick_client

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

FILE = PACKAGE / "automations.yaml"
BLOCK = "closecast-alerts"
BLOCK_NAME = re.compile(r"([a-z0-9-]+)/([^/:]+)")
NO_BLOCK = UUID(int=0)


def set_up_alerts(target: str, file: Path = FILE) -> list[str]:
    """Let the Prefect server send alerts to the target: save its block, create or update each automation.

    A paused automation stays paused.

    Args:
        target: an http(s) address, which is called by POST with JSON; the name of a block of the server,
            such as `slack-webhook/my-team`; or an address of Apprise, such as `mailto://…`.
        file: the automations.

    Returns:
        The automations' names.

    Raises:
        BadSetting: the target is none of these, or no server is configured.
        BadFile: Prefect does not understand the file.
        PrefectUnavailable: the server does not respond, or rejects the request.
    """
    check_target(target)
    api = get_current_settings().api.url
    if not api:
        raise BadSetting(
            "alerts are set up in a Prefect server, and none is configured: set PREFECT_API_URL, such as"
            " http://127.0.0.1:4200/api"
        )
    for kind in ("webhook", "notification"):
        read_automations(file, kind, NO_BLOCK)  # before anything is changed
    try:
        with quick_client() as client:
            if error := client.api_healthcheck():  # to save a block waits for minutes
                raise error
            automations = read_automations(file, *find_receiver(client, target))
            for automation in automations:
                stored = client.read_automations_by_name(automation.name)
                if not stored:
                    client.create_automation(automation)
                for each in stored:
                    kept = automation.model_copy(update={"enabled": each.enabled})
                    client.update_automation(each.id, kept)
    except (httpx.HTTPError, RuntimeError, ValueError) as refusal:  # a proxy's page is no JSON
        reason = str(refusal).splitlines()[0] if str(refusal) else type(refusal).__name__
        raise PrefectUnavailable(
            f"the Prefect server at {api} rejected the alerts: {reason:.200}; check that it is up, and has"
            " the version that is installed here"
        ) from refusal
    return [automation.name for automation in automations]


def check_target(target: str) -> None:
    """Raise `BadSetting` if this is neither an address nor the name of a block."""
    parts = urlsplit(target)
    if parts.scheme in ("http", "https"):
        usable = bool(parts.hostname)
    elif parts.scheme:
        from apprise import Apprise

        usable = Apprise().add(target)
    else:
        usable = bool(BLOCK_NAME.fullmatch(target))
    if not usable:
        # The address is not quoted: it is a secret.
        raise BadSetting(
            "alerts need an address such as https://hooks.example.com/x, a block of the server such as"
            " slack-webhook/my-team, or an address of Apprise such as mailto://…, not one of another form"
        )


def find_receiver(client: SyncPrefectClient, target: str) -> tuple[str, UUID]:
    """Kind and id of the block of that name, or of the one that stores the address.

    The kind, `webhook` or `notification`, is the placeholder of the block in the file. `BadSetting` if the
    server has no such block, or if it cannot send notifications.
    """
    block: Any
    if named := BLOCK_NAME.fullmatch(target):
        return _existing(client, *named.groups())
    if target.startswith(("http:", "https:")):
        headers = SecretDict({"Content-Type": "application/json"})
        block = Webhook(method="POST", url=SecretStr(target), headers=headers)
        return "webhook", block.save(BLOCK, overwrite=True)
    # The block takes every address of Apprise, of which Slack's is one; Prefect has no block of that name.
    block = SlackWebhook(url=SecretStr(target))
    return "notification", block.save(BLOCK, overwrite=True)


def _existing(client: SyncPrefectClient, slug: str, name: str) -> tuple[str, UUID]:
    try:
        document = client.read_block_document_by_name(name, slug, include_secrets=False)
    except ObjectNotFound as error:
        raise BadSetting(
            f"the Prefect server has no block {slug}/{name}: list them with `prefect block ls`, or make"
            " one on its page, under Blocks"
        ) from error
    capabilities = document.block_schema.capabilities if document.block_schema else []
    if slug != "webhook" and "notify" not in capabilities:
        raise BadSetting(
            f"alerts need a block that sends notifications, and {slug} does not: choose one such as"
            " slack-webhook, ms-teams-webhook or sendgrid-email"
        )
    return "webhook" if slug == "webhook" else "notification", document.id


def read_automations(file: Path, kind: str, block_id: UUID) -> list[AutomationCore]:
    """A file's automations, with actions that use this block of that kind; `BadFile` if malformed."""
    text = read_bytes(file, limit=2**20).decode(errors="replace")
    own = f"{{{{ {kind} }}}}"
    (other,) = {"{{ webhook }}", "{{ notification }}"} - {own}
    try:
        entries = yaml.safe_load(text.replace(own, str(block_id)))["automations"]
        for entry in entries:
            actions = entry["actions"]
            entry["actions"] = [one for one in actions if one.get("block_document_id") != other]
        return [AutomationCore.model_validate(entry) for entry in entries]
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise BadFile(
            f"automations in Prefect's format are needed, {file} has others: {reason:.200}"
        ) from error
