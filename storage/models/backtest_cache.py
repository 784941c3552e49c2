"""What a backtest keeps between its folds: models as bundles, states as JSON."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

from storage.core.errors import BadFile, Damaged, HomeUnusable
from storage.core.files import fsync_folder, read_bytes, sha256_file, write_atomic
from storage.core.home import Home
from storage.models.bundles import MANIFEST, Bundle, Draft


class Folds:
    """The folder of one backtest: whatever lies in it under its name is whole."""

    def __init__(self, home: Home, backtest_id: str) -> None:
        self.folder = home.folds / backtest_id

    def sweep(self) -> None:
        """Take away the models that a killed run left half-made; nobody else may be at work on it."""
        for left in self.folder.glob(".draft-*"):
            shutil.rmtree(left, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Whether a model of that name is there."""
        return (self.folder / name / MANIFEST).is_file()

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Draft]:
        """A model to fill, which gets its name when it is whole.

        Raises:
            HomeUnusable: it cannot be stored.
        """
        place, making = self.folder / name, self.folder / f".draft-{uuid.uuid4().hex}"
        try:
            making.mkdir(parents=True)
            draft = Draft(making)
            yield draft
            draft.seal()
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(place)
            making.rename(place)
            fsync_folder(self.folder)
        except OSError as error:
            raise HomeUnusable(f"{place} cannot be stored: {error.strerror or error}; make room") from error
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def open(self, name: str) -> Bundle:
        """A model by its name.

        Raises:
            Damaged: it is missing or changed.
        """
        try:
            return Bundle(self.folder / name, sha256_file(self.folder / name / MANIFEST))
        except (BadFile, ValueError) as error:
            raise Damaged(
                f"{self.folder / name} is not a whole model ({error}): delete {self.folder} and run the"
                " backtest again"
            ) from error

    def write(self, name: str, content: object) -> None:
        """Store plain figures, whole or not at all."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HomeUnusable(f"{self.folder} cannot be made: {error.strerror or error}") from error
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
        write_atomic(self.folder / f"{name}.json", (text + "\n").encode())

    def read(self, name: str) -> Any | None:
        """What was stored under that name, None where nothing was.

        Raises:
            Damaged: it cannot be read.
        """
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None
        try:
            return json.loads(read_bytes(path))
        except (BadFile, ValueError) as error:
            raise Damaged(f"{path} cannot be read: {error}; delete it and run the backtest again") from error


BacktestCache = Folds
