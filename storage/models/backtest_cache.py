"""What a backtest keeps between its folds: models as bundles, states as JSON."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from typing import Any

from storage.core.errors import BadFile, Damaged
from storage.core.files import fsync_folder, read_bytes
from storage.core.home import Home
from storage.core.location import LocalPath
from storage.models.bundles import MANIFEST, Bundle, Draft, as_json, new_draft


class BacktestCache:
    """The folder of one backtest: each name in it is a whole model or state."""

    def __init__(self, home: Home, backtest_id: str) -> None:
        self.folder = LocalPath(home.folds / backtest_id)

    def remove_drafts(self) -> None:
        """Delete the models that a killed run left unfinished; no other run may work on the backtest."""
        for draft in self.folder.glob(".draft-*"):
            shutil.rmtree(draft, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Whether there is a model of that name."""
        return (self.folder / name / MANIFEST).is_file()

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Draft]:
        """A model to fill, which gets its name when it is whole; `HomeUnusable` where it cannot be stored."""
        with new_draft(self.folder) as draft:
            yield draft
            draft.seal()
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.folder / name)
            draft.folder.rename(self.folder / name)
            fsync_folder(self.folder)

    def open(self, name: str) -> Bundle:
        """A model by its name; `Damaged` where it is missing or changed."""
        folder = self.folder / name
        try:
            return Bundle(folder, (folder / MANIFEST).sha256())
        except (BadFile, ValueError) as error:
            raise Damaged(
                f"{folder} is not a whole model ({error}): delete {self.folder} and run the backtest again"
            ) from error

    def write(self, name: str, content: object) -> None:
        """Store plain figures, whole or not at all."""
        (self.folder / f"{name}.json").put(as_json(content))

    def read(self, name: str) -> Any | None:
        """The figures of that name, None where there are none; `Damaged` where they cannot be read."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None
        try:
            return json.loads(read_bytes(path))
        except (BadFile, ValueError) as error:
            raise Damaged(f"{path} cannot be read: {error}; delete it and run the backtest again") from error
