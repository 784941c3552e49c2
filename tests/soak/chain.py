"""Days one after the other in a home whose runs are killed, beside the same days undisturbed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd

from closecast.storage.core.home import Home
from tests.calibrated import LENIENT, QUICK, STORED, day
from tests.exchange import Exchange
from tests.helpers import BTC, FIRST, made_up
from tests.processes import process_for
from tests.soak import homes
from tests.soak.worker import Done, Failed, Order, Visit, serve

# A refit every fourth day, a fine-tuning every other day in between, else the champion forecasts.
SETTINGS = QUICK | LENIENT | {"refit_every_days": 4, "fine_tune_every_days": 2}
RESTATED_EVERY = 3
PATIENCE = 120.0  # seconds without a message
MAX_LEFTOVERS_PER_KILL = 2  # of any kind, and never a model's
MONTH = timedelta(days=31)


@dataclass(frozen=True)
class Kill:
    """Where to kill: when a place is reached for the nth time, or a while after a step has begun."""

    place: str
    nth: int = 1
    after_seconds: float | None = None

    @property
    def kind(self) -> str:
        """Of the two kinds, as the report names them."""
        return "at a place" if self.after_seconds is None else "at a moment"


@dataclass
class Outcome:
    """The end of a run: the id of its forecast, or None when it was killed; and the places it reached."""

    visits: list[Visit]
    prediction_id: str | None = None

    @property
    def last(self) -> str:
        return self.visits[-1].place if self.visits else "before the flow"


class Worker:
    """A process that makes runs until it is killed."""

    def __init__(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._parent: Connection = ours
        self.killed = False
        self.process = process_for(serve, theirs)
        self.process.start()
        theirs.close()

    def run(self, order: Order, kill: Kill | None = None) -> Outcome:
        """Make a run, and kill it at that place if it gets there.

        Raises:
            RuntimeError: the run failed, or reported nothing for too long.
        """
        timed = kill is not None and kill.after_seconds is not None
        if kill and not timed:
            order = replace(order, die_at=kill.place, nth=kill.nth)
        self._parent.send(order)
        visits: list[Visit] = []
        for message in self._messages():
            if isinstance(message, Done):
                return Outcome(visits, message.prediction_id)
            if isinstance(message, Failed):
                raise RuntimeError(message.error)
            visits.append(message)
            if kill and timed and message.place == kill.place:
                time.sleep(kill.after_seconds or 0)
                self.kill()
        return Outcome(visits)

    def _messages(self) -> Iterator[Any]:
        """The messages of the process, until it is done or dead."""
        try:
            while self._parent.poll(PATIENCE):
                message = self._parent.recv()
                yield message
                if not isinstance(message, Visit):
                    return
        except (EOFError, ConnectionResetError):
            self.process.join(PATIENCE)
            if self.process.exitcode == -signal.SIGKILL:
                return
        self.kill()
        raise RuntimeError(
            f"a run ended with {self.process.exitcode}, or reported nothing for {PATIENCE:.0f} s"
        )

    def kill(self) -> None:
        """End the process as a power cut would."""
        self.killed = True
        if self.process.pid:
            os.kill(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._parent.close()
        self.process.join(10)
        self.process.kill()


@functools.cache
def walk(days: int) -> pd.DataFrame:
    return made_up(days)


@dataclass
class Chain:
    """A home, its exchange, and the number of the day that it is at; day `STORED` is the first origin."""

    home: Home
    number: int = STORED - 1
    worker: Worker | None = None
    exchange: Exchange = field(init=False)

    def __post_init__(self) -> None:
        frame = walk(STORED + 500)
        self.exchange = Exchange({BTC: frame})
        self.exchange.__enter__()

    def next_day(self) -> None:
        """A day passes, and every few days the exchange restates the close of the day before the last."""
        self.number += 1
        if self.number % RESTATED_EVERY == 0:
            close = float(walk(STORED + 500)["close"].iloc[self.number - 3])
            self.exchange.restate(BTC, day(self.number - 2), close=round(close + 1, 2))

    def run(self, kill: Kill | None = None, *, minute: int = 0) -> Outcome:
        """Run the day's flow; a killed one leaves the next to another process."""
        midnight = datetime.combine(day(self.number + 1), datetime.min.time(), UTC)
        moment = midnight + timedelta(minutes=20 + minute)
        self.exchange.clock = moment
        self.worker = self.worker or Worker()
        order = Order(self.home.root, day(self.number), moment, self.exchange.url, SETTINGS, FIRST)
        outcome = self.worker.run(order, kill)
        # A run may have ended in the moment before it was killed.
        if outcome.prediction_id is None or self.worker.killed:
            self.worker = None
        return outcome

    def close(self) -> None:
        self.exchange.__exit__()
        if self.worker:
            self.worker.close()


@dataclass
class Day:
    """An undisturbed day: the places it reached and when, and the home's contents after it."""

    number: int
    visits: Sequence[Visit]
    contents: homes.Contents

    def steps(self) -> dict[str, tuple[str, float]]:
        """For each step the place where it begins, and how many seconds it took."""
        steps: dict[str, tuple[str, float]] = {}
        begun: dict[str, Visit] = {}
        for visit in self.visits:
            step, _, what = visit.place.partition(": ")
            if what == "begin":
                begun[step] = visit
            elif what == "end" and step in begun:
                steps[step] = (begun[step].place, visit.at - begun[step].at)
        return steps


@dataclass
class Killer:
    """Draws where to kill: first the places with the fewest kills."""

    draw: random.Random
    kills: Counter[str] = field(default_factory=Counter)

    def at_place(self, day: Day) -> Kill:
        """A place that the undisturbed day reached."""
        places = Counter(visit.place for visit in day.visits)
        fewest = min(self.kills[place] for place in places)
        place = self.draw.choice(sorted(place for place in places if self.kills[place] == fewest))
        self.kills[place] += 1
        return Kill(place, self.draw.randint(1, min(places[place], 20)))

    def at_moment(self, day: Day) -> Kill:
        """A moment within a step, as long as the step took on the undisturbed day."""
        begin, took = self.draw.choice(sorted(day.steps().values()))
        return Kill(begin, after_seconds=self.draw.uniform(0, took))


@dataclass
class Tally:
    """The kills and the problems so far."""

    wanted: int
    hit: list[tuple[Kill, str]] = field(default_factory=list)
    missed: int = 0
    recovered: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def enough(self) -> bool:
        """Whether as many runs were killed as wanted, or there is a problem."""
        return len(self.hit) >= self.wanted or bool(self.problems)


class Soak:
    """Kills so many runs in one home; the undisturbed runs have a home of their own."""

    def __init__(
        self,
        folder: Path,
        *,
        kills: int,
        seed: int,
        say: Callable[[str], None],
        a_day: Sequence[int] = (1, 2, 2, 3),
    ) -> None:
        self._folder, self._say, self._a_day = folder, say, a_day
        self.draw = random.Random(seed)  # noqa: S311 (kills, not secrets)
        self.killer, self.tally = Killer(self.draw), Tally(kills)
        self.undisturbed = Chain(Home(folder / "undisturbed"))
        self.killed = Chain(Home(folder / "killed"))
        self.first: Day | None = None

    def close(self) -> None:
        self.undisturbed.close()
        self.killed.close()

    def run(self) -> Tally:
        """Days with killed runs, every twentieth also in a new home, and maintenance at the end."""
        while not self.tally.enough:
            today = self.undisturbed_day()
            self.killed.next_day()
            # On the first day everything is created: it gets more kills.
            self.day(self.killed, today, kills=4 if today is self.first else self.draw.choice(self._a_day))
            if today.number % 20 == 0 and not self.tally.enough:
                self.new_home(today.number)
        self.maintain()
        return self.tally

    def undisturbed_day(self) -> Day:
        """The next day in the undisturbed home."""
        self.undisturbed.next_day()
        outcome = self.undisturbed.run()
        today = Day(self.undisturbed.number, outcome.visits, homes.contents(self.undisturbed.home))
        self.first = self.first or today
        return today

    def new_home(self, number: int) -> None:
        """The first day once more, in a new home."""
        assert self.first is not None
        chain = Chain(Home(self._folder / f"new-{number}"))
        try:
            chain.next_day()
            self.day(chain, self.first, kills=3)
        finally:
            chain.close()

    def day(self, chain: Chain, today: Day, kills: int) -> None:
        """Kill the day's run several times, then let it end, and compare."""
        for minute in range(min(kills, self.tally.wanted - len(self.tally.hit))):
            kill = (self.killer.at_place if self.draw.random() < 0.6 else self.killer.at_moment)(today)
            outcome = chain.run(kill, minute=minute)
            if outcome.prediction_id is not None:
                self.tally.missed += 1
                break
            self.tally.hit.append((kill, outcome.last))
            with homes.copied(chain.home) as copy:
                findings = homes.damage(copy)
            self._report(f"day {today.number}", kill, outcome, findings)
            if findings:
                return
        else:
            chain.run(minute=kills)
        self.tally.recovered += 1
        findings = homes.damage(chain.home) + homes.differences(homes.contents(chain.home), today.contents)
        findings += self.too_many_leftovers(chain.home)
        self.tally.problems += [f"after day {today.number}: {line}" for line in findings]

    def too_many_leftovers(self, home: Home) -> list[str]:
        """Leftovers that a finished run should have swept, or that no kill explains."""
        kinds = ("draft of a file", "draft of a commit", homes.ORPHANED)
        limits = dict.fromkeys(kinds, MAX_LEFTOVERS_PER_KILL * len(self.tally.hit))
        return [
            f"{count} × {kind}"
            for kind, count in homes.leftovers(home).items()
            if count > limits.get(kind, 0)
        ]

    def maintain(self) -> None:
        """A month later `maintain --prune` deletes every leftover, and nothing else."""
        from closecast.tasks.upkeep.pruning import compact_tables, prune_home

        home, now = self.killed.home, datetime.now(UTC)
        before, leftovers = homes.contents(home), homes.leftovers(home)
        for path in homes.leftover_files(home):
            os.utime(path, ((now - MONTH).timestamp(),) * 2)
        compact_tables(home)
        prune_home(home, moment=now)
        findings = homes.damage(home)
        findings += [f"{count} × {kind} after maintenance" for kind, count in homes.leftovers(home).items()]
        after = homes.contents(home)
        findings += homes.differences({**after, "versions": {}}, {**before, "versions": {}})
        self._say(
            f"before maintenance: {dict(leftovers) or 'no leftovers'}; after: {findings or 'no findings'}"
        )
        self.tally.problems += findings

    def _report(self, when: str, kill: Kill, outcome: Outcome, findings: Sequence[str]) -> None:
        text = f"{len(self.tally.hit):4} {when}, {kill.kind}: {outcome.last}"
        self._say("; ".join([text, *findings]))
        self.tally.problems += [f"right after kill {len(self.tally.hit)}: {line}" for line in findings]
