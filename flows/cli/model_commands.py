"""The commands for model versions: list them, and go back to one."""

from __future__ import annotations

from typing import Annotated

import typer

from closecast.flows.cli import options, output, terminal
from closecast.flows.cli.row_files import chosen_format
from closecast.flows.config import configured_profile
from closecast.flows.settings import prepared_home


def versions(
    product: options.AnyProductOption = None,
    output_format: options.FormatOption = None,
    file: options.OutputOption = None,
    wide: options.WideOption = False,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """List the model versions with their lineage."""
    from closecast.storage.models.registry import Models

    kind = chosen_format(output_format, as_json=as_json, file=file)
    stored = Models(options.existing_home(home, product)).versions(product)
    output.print_versions(stored, kind, file=file, wide=wide)


def rollback(
    product: options.NamedProductOption,
    to: Annotated[
        str | None, typer.Option(help="Version to forecast with; the previous one by default.")
    ] = None,
    profile: options.ProfileOption = None,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Make an earlier version the champion again, until a refit replaces it."""
    from closecast.flows.actions import roll_back
    from closecast.tasks.profiles.named import profile_named

    chosen = profile_named(*configured_profile(profile))
    data_home = prepared_home(options.existing_home(home, product).root)
    with terminal.session(data_home, stderr=as_json):
        before, after = roll_back(data_home, product, chosen, to)
    moved = "is already the champion" if before == after else f"replaces version {before} as the champion"
    text = f"closecast.{product}.{chosen.name}: version {after} {moved}, until the next refit"
    result = {"product_id": product, "profile": chosen.name, "before": before, "after": after}
    terminal.print_result(text, result, as_json=as_json)
