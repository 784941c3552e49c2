"""Kills daily runs anywhere, runs them again, and looks whether anything was lost: `--kills 200 --seed 1`.

Two homes go through the same days. In one nobody is killed; in the other runs die by SIGKILL, at a place
where something is about to be made durable or has just been, or at a random moment of a step, once or several
times a day, the first creation of everything included. After each kill the home must be whole, and after the
run that ends well it must hold the same as the other home, to the last bit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.soak.chain import Tally

PROJECT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Kill, print a line a kill and a table; 1 when anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for the homes, which are then left there")
    given = parser.parse_args()
    began = time.monotonic()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="closecast-soak-")))
        stack.enter_context(prefect_server(scratch))
        from tests.soak.chain import Soak

        soak = Soak(given.keep or scratch, kills=given.kills, seed=given.seed, say=say)
        stack.callback(soak.close)
        tally = soak.run()
    show(tally, time.monotonic() - began)
    return 1 if tally.problems else 0


@contextmanager
def prefect_server(scratch: Path) -> Iterator[None]:
    """The server that is there already, or one for all runs; nothing of the user's own is touched."""
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["DO_NOT_TRACK"] = "1"
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    os.environ["PREFECT_HOME"] = str(scratch / "prefect")
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=90):
        os.environ["PREFECT_API_URL"] = str(PREFECT_API_URL.value())
        yield


def show(tally: Tally, seconds: float) -> None:
    """The kills by step and kind, and what was found."""
    table: Counter[tuple[str, str]] = Counter()
    for kill, last in tally.hit:
        table[last.partition(": ")[0], kill.kind] += 1
    kinds = ("at a place", "at a moment")
    say(f"\n{'killed in':24}" + "".join(f"{kind:>14}" for kind in kinds))
    for step in sorted({step for step, _ in table}):
        say(f"{step:24}" + "".join(f"{table[step, kind]:14}" for kind in kinds))
    places = len({last for _, last in tally.hit})
    say(f"{len(tally.hit)} runs were killed at work, at {places} places; {tally.missed} more ended before it")
    say(f"{tally.recovered} days were finished by the next run; {seconds:.0f} s")
    for problem in tally.problems:
        say(f"PROBLEM {problem}")
    say("PROBLEMS" if tally.problems else "no problems")


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 (what the program is for)


if __name__ == "__main__":
    sys.path[0] = str(PROJECT)
    sys.exit(main())
