"""The commands that set up a schedule: a project's files, and alerts."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from closecast.flows.cli import options, terminal


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the project, made if it does not exist.")],
    as_json: options.JsonOption = False,
) -> None:
    """Write the files of a project with a schedule: prefect.yaml, .env.example, a systemd unit."""
    from closecast.flows.project import make_project

    files = make_project(folder)
    text = "\n".join(terminal.relative_path(path) for path in files)
    where = shlex.quote(str(terminal.relative_path(files[0].parent)))
    # Tools such as pipx put only closecast's own command on the path.
    prefect = "prefect" if shutil.which("prefect") else f"{shlex.quote(sys.executable)} -m prefect"
    text += f"""

Next, with a Prefect server (`{prefect} server start`):
  cd {where} && cp .env.example .env && set -a && . ./.env && set +a
  {prefect} work-pool create closecast --type process
  {prefect} --no-prompt deploy --all
  {prefect} worker start --pool closecast --type process"""
    terminal.print_result(text, {"files": files}, as_json=as_json)


def alerts(
    target: Annotated[
        str,
        typer.Argument(
            help="Address that Prefect calls, such as https://hooks.…; a block of the server, such as"
            " slack-webhook/my-team; or an Apprise address, such as mailto://…"
        ),
    ],
    as_json: options.JsonOption = False,
) -> None:
    """Let the Prefect server of PREFECT_API_URL send each day's forecast, and alerts.

    Alerts are sent when a run fails, is late or dies, when a day passes without a finished run, when the
    coverage is outside its range, and when a model is stale. A new target replaces the old one; a paused
    automation stays paused.
    """
    from closecast.flows.alerts import set_up_alerts

    names = set_up_alerts(target)
    terminal.print_result("\n".join(names), {"automations": names}, as_json=as_json)
