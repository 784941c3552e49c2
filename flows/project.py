"""The files of a project that has closecast installed, and deploys its flows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from closecast.storage.core.errors import BadFile
from closecast.storage.core.files import absolute_path, make_folder, read_bytes, write_atomic
from closecast.storage.core.home import PACKAGE

TEMPLATES = {
    "prefect.yaml": PACKAGE / "prefect.yaml",
    ".env.example": PACKAGE / "flows" / "templates" / "env.example",
    "closecast-worker.service": PACKAGE / "flows" / "templates" / "closecast-worker.service",
}
# What a shell or systemd would read as something else within quotes.
_NOT_IN_PATH = re.compile(r"[\x00-\x1f\x7f\"'\\$`%]")


def make_project(folder: Path) -> list[Path]:
    """Write `prefect.yaml`, `.env.example` and a systemd unit into a folder, made if it does not exist.

    Returns the files' paths.

    Raises:
        BadFile: one of them exists already, or the folder's path cannot be written into them.
        HomeUnusable: the folder or a file cannot be written.
    """
    folder = absolute_path(folder)
    if folder.is_file():
        raise BadFile(f"a folder is needed for the project, but {folder} is a file: name another")
    if odd := _NOT_IN_PATH.search(str(folder)):
        raise BadFile(
            f"a folder without {odd[0]!r} in its path is needed, not {str(folder)!r:.200}: choose another"
        )
    files = {folder / name: template for name, template in TEMPLATES.items()}
    if existing := [str(path) for path in files if path.exists()]:
        raise BadFile(
            f"{', '.join(existing)} would be overwritten, so nothing was written: move it away, or choose"
            " another folder"
        )
    make_folder(folder)
    for path, template in files.items():
        text = read_bytes(template).decode()
        if path.name != "prefect.yaml":  # whose braces are Prefect's
            text = text.format(folder=folder, python=sys.executable)
        write_atomic(path, text.encode())
    return list(files)
