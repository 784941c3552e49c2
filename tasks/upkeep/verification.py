"""The counts and findings of `verify`, and how it continues after an error in a check."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from closecast.storage.core.errors import ClosecastError, HomeBusy, HomeUnusable
from closecast.storage.core.progress import report_progress

log = logging.getLogger("closecast.verify")


@dataclass
class Verification:
    """How many items of each kind were checked, and the findings, one line each."""

    checked: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int, findings: Iterable[str] = ()) -> None:
        """Count items of a kind, and keep their findings, each once."""
        self.checked[kind] += count
        report_progress(kind, self.checked[kind])
        lines = [" ".join(finding.split()) for finding in findings]
        self.findings = list(dict.fromkeys([*self.findings, *lines]))

    @contextlib.contextmanager
    def surviving(self, kind: str, subject: str) -> Iterator[None]:
        """Turn any error in the block into a finding about the subject, and continue after the block.

        Damaged bytes may be read as anything, so no list of errors would be complete. A database that cannot
        be opened or is busy still ends the check, because its content may be unchanged.
        """
        try:
            yield
        except (HomeUnusable, HomeBusy):
            raise
        except ClosecastError as error:
            self.add(kind, 0, [str(error)])
        except Exception as error:
            log.debug("%s cannot be checked", subject, exc_info=error)
            reason = f"{type(error).__name__}: {error}"[:200]
            is_forbidden = isinstance(error, PermissionError)
            remedy = "correct its rights" if is_forbidden else "restore it from a backup"
            self.add(kind, 0, [f"{subject} cannot be read ({reason}): {remedy}"])
