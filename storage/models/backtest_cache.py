"""The cache of a backtest between its folds: models as bundles, states as JSON, each with its digest."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from closecast.storage.core.errors import BadFile, Damaged, reason_of
from closecast.storage.core.files import fsync_folder, remove
from closecast.storage.core.home import Home
from closecast.storage.core.location import LocalPath
from closecast.storage.core.sealed import open_json, seal_json
from closecast.storage.models.bundles import MANIFEST, Bundle, Draft, new_draft

log = logging.getLogger("closecast.backtest")

# Where a walk stands after a fold: it names models, and nothing else in the folder names a state.
STATE = "fold-"
REMEDY = "the next run of the backtest makes it again"


class BacktestCache:
    """The folder of one backtest: each name in it is a complete model or state."""

    def __init__(self, home: Home, backtest_id: str) -> None:
        self.backtest_id = backtest_id
        self.folder = LocalPath(home.folds / backtest_id)

    def remove_drafts(self) -> None:
        """Delete the models that a killed run left unfinished; no other run may work on the backtest."""
        for draft in self.folder.glob(".draft-*"):
            shutil.rmtree(draft, ignore_errors=True)

    def remove_damaged(self) -> None:
        """Delete changed files, so that they are made again; no other run may work on the backtest.

        The states are deleted, too, because they depend on all models: every fold is walked again.
        """
        damaged = [path for path, _, findings in self.check() if findings]
        if not damaged:
            return
        log.warning(
            "%s: files of an earlier run have changed (%d, such as %s) and are made again",
            *(self.folder, len(damaged), damaged[0].name),
        )
        for path in damaged:
            remove(path)
        self.remove_states()

    def remove_states(self) -> None:
        """Delete the state of the walk, so that every fold is walked again with the stored models."""
        for path in self.folder.glob(f"{STATE}*.json"):
            path.unlink(missing_ok=True)

    def last_state(self) -> Any | None:
        """The state of the walk, None before the first fold; `Damaged` as `read`."""
        numbers = [path.stem.removeprefix(STATE) for path in self.folder.glob(f"{STATE}*.json")]
        last = max((int(number) for number in numbers if number.isdecimal()), default=None)
        return None if last is None else self.read(f"{STATE}{last}")

    def check(self) -> Iterator[tuple[Path, int, list[str]]]:
        """Every model and state, how many files it has, and a line for each that is not as it was stored."""
        for path in sorted(self.folder.glob("[!.]*")):
            try:
                if path.is_dir():
                    yield path, *self.open(path.name).check()
                else:
                    self.read(path.name.removesuffix(".json"))
                    yield path, 1, []
            except Damaged as error:
                yield path, 1, [str(error)]

    def has(self, name: str) -> bool:
        """Whether there is a model of that name."""
        return (self.folder / name / MANIFEST).is_file()

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Draft]:
        """A model to fill, which gets its name when it is complete; `HomeUnusable` if it cannot be stored."""
        with new_draft(self.folder) as draft:
            yield draft
            draft.seal()
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.folder / name)
            draft.folder.rename(self.folder / name)
            fsync_folder(self.folder)

    def open(self, name: str) -> Bundle:
        """A model by its name; `Damaged` if it is missing or changed."""
        folder = self.folder / name
        try:
            return Bundle(folder, (folder / MANIFEST).sha256(), REMEDY)
        except (BadFile, ValueError, RecursionError) as error:
            raise Damaged(f"{folder} is not a complete model: {REMEDY}") from error

    def write(self, name: str, content: object) -> None:
        """Store plain figures, completely or not at all."""
        (self.folder / f"{name}.json").put(seal_json(content, self._about(name)))

    def has_figures(self, name: str) -> bool:
        """Whether there are figures of that name."""
        return (self.folder / f"{name}.json").is_file()

    def read(self, name: str) -> Any | None:
        """The figures of that name, None if there are none; `Damaged` if they were changed."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        try:
            return open_json(path.read_bytes(), self._about(name))
        except (OSError, ValueError) as error:
            raise Damaged(f"{path} cannot be used: {reason_of(error)}; {REMEDY}") from error

    def _about(self, name: str) -> str:
        return f"{self.backtest_id}/{name}"
