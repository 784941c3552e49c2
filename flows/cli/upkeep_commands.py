"""The commands for upkeep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from closecast.flows.cli import options, output, terminal
from closecast.flows.settings import home_at
from closecast.storage.core.errors import Damaged, NotReproduced
from closecast.tasks.core.formatting import count


def maintain(
    prune: Annotated[
        bool, typer.Option("--prune", help="Also delete unused models and unfinished backtests.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be done.")] = False,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Compact the tables, and delete files that were replaced more than thirty days ago."""
    from closecast.flows.actions import maintain_home

    tables, unused = maintain_home(options.existing_home(home), prune=prune, dry_run=dry_run)
    output.print_upkeep(tables, unused, prune=prune, dry_run=dry_run, as_json=as_json)


def reproduce(
    prediction_id: Annotated[str, typer.Argument(help="Id of the forecast; `predictions` lists them.")],
    retrain: Annotated[bool, typer.Option("--retrain", help="Also train its model again.")] = False,
    profile: Annotated[
        str | None, typer.Option(help="package.module:Class of a profile that is not installed.")
    ] = None,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Make a stored forecast again from its versions, and compare it to the last bit.

    The exit code is 1 if anything differs.
    """
    data_home = options.existing_home(home)
    with terminal.session(data_home, stderr=as_json):
        from closecast.tasks.upkeep.reproduce import reproduce_forecast

        result = reproduce_forecast(data_home, prediction_id, profile_name=profile, retrain=retrain)
    output.print_reproduction(result, prediction_id, as_json=as_json)
    if not result.same:
        distance = max(comparison.distance for comparison in (*result.figures, *result.weights))
        reason = "other versions are in use, listed above" if result.changed_versions else "same versions"
        raise NotReproduced(
            f"forecast {prediction_id} differs, by at most {distance:.3g} of a figure; {reason}"
        )
    if not as_json:
        terminal.print_line("Reproduced to the last bit.", "green")


def verify(as_json: options.JsonOption = False, home: options.HomeOption = None) -> None:
    """Check every hash and reference: candles, data versions, models, forecasts, scores.

    Nothing is written. The exit code is 1 if anything was changed or is missing.
    """
    from closecast.tasks.upkeep.verify import verify_home

    with terminal.progress_bars(stderr=as_json):
        result = verify_home(options.existing_home(home))
    output.print_verification(result, as_json=as_json)
    if result.findings:
        raise Damaged(
            f"changed, missing or contradictory: {len(result.findings)}, listed above; `closecast restore`"
            " brings back a backup"
        )
    if not as_json:
        terminal.print_line("Everything is as it was recorded.", "green")


def backup(
    file: Annotated[Path, typer.Argument(help="New file, such as closecast.tar or closecast.tar.gz.")],
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Write a consistent copy of the whole home to one file, even while runs work."""
    from closecast.storage.backup.backup import back_up

    with terminal.progress_bars(stderr=as_json):
        files = back_up(options.existing_home(home), file)
    size = file.stat().st_size
    text = f"{count(files, 'file')}, {size:,} bytes in {file}: restore with `closecast restore`"
    terminal.print_result(text, {"file": file, "files": files, "bytes": size}, as_json=as_json)


def restore(
    file: Annotated[Path, typer.Argument(help="File that `backup` wrote.")],
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Restore a backup into an empty home."""
    from closecast.storage.backup.restore import restore as restore_home

    data_home = home_at(home)
    with terminal.progress_bars(stderr=as_json):
        files = restore_home(file, data_home)
    text = f"{count(files, 'file')} restored to {data_home.root}: check with `closecast verify`"
    terminal.print_result(text, {"home": data_home.root, "files": files}, as_json=as_json)
