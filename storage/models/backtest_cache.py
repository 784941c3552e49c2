"""What a backtest keeps between its folds: models as bundles, states as JSON."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

from storage.core.errors import BadFile, Damaged, HomeUnusable
from storage.core.files import fsync_folder, read_bytes, sha256_file
from storage.core.home import Home
from storage.core.location import LocalPath
from storage.models.bundles import MANIFEST, Bundle, Draft, as_json


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
        final, unfinished = self.folder / name, self.folder / f".draft-{uuid.uuid4().hex}"
        try:
            unfinished.mkdir(parents=True)
            draft = Draft(unfinished)
            yield draft
            draft.seal()
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(final)
            unfinished.rename(final)
            fsync_folder(self.folder)
        except OSError as error:
            raise HomeUnusable(f"{final} cannot be stored: {error.strerror or error}; make room") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def open(self, name: str) -> Bundle:
        """A model by its name; `Damaged` where it is missing or changed."""
        try:
            return Bundle(self.folder / name, sha256_file(self.folder / name / MANIFEST))
        except (BadFile, ValueError) as error:
            raise Damaged(
                f"{self.folder / name} is not a whole model ({error}): delete {self.folder} and run the"
                " backtest again"
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
