"""Days one after the other in a home, with runs that are killed; the same days undisturbed beside it."""

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

from storage.core.home import Home
from tests.calibrated import LENIENT, QUICK, STORED, day
from tests.exchange import Exchange
from tests.helpers import BTC, FIRST, made_up
from tests.processes import process_for
from tests.soak import homes
from tests.soak.worker import Done, Failed, Order, Visit, serve

# A refit every fourth day, a fine-tuning every other day in between, else the champion forecasts.
SETTINGS = QUICK | LENIENT | {"refit_every_days": 4, "fine_tune_every_days": 2}
RESTATED_EVERY = 3
PATIENCE = 120.0  # seconds without a word
# A kill leaves what it was at: no more than that, of any kind, and never a model's.
LEFT_BY_A_KILL = 2


@dataclass(frozen=True)
class Kill:
    """Where to kill: at the nth time that a place is reached, or a while after a step has begun."""

    place: str
    nth: int = 1
    after_seconds: float | None = None

    @property
    def kind(self) -> str:
        """Of which of the two kinds it is."""
        return "at a place" if self.after_seconds is None else "at a moment"


@dataclass
class Outcome:
    """What became of a run: the id of its forecast, or the place it had come to when it was killed."""

    visits: list[Visit]
    prediction_id: str | None = None

    @property
    def last(self) -> str:
        """The last place that was told."""
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
        """Make a run, and kill it where it was said if it comes there.

        Raises:
            RuntimeError: the run failed, or said nothing for too long.
        """
        timed = kill is not None and kill.after_seconds is not None
        if kill and not timed:
            order = replace(order, die_at=kill.place, nth=kill.nth)
        self._parent.send(order)
        visits: list[Visit] = []
        for said in self._said():
            if isinstance(said, Done):
                return Outcome(visits, said.prediction_id)
            if isinstance(said, Failed):
                raise RuntimeError(said.error)
            visits.append(said)
            if kill and timed and said.place == kill.place:
                time.sleep(kill.after_seconds or 0)
                self.kill()
        return Outcome(visits)

    def _said(self) -> Iterator[Any]:
        """What the process says, until it is done or dead."""
        try:
            while self._parent.poll(PATIENCE):
                said = self._parent.recv()
                yield said
                if not isinstance(said, Visit):
                    return
        except (EOFError, ConnectionResetError):
            self.process.join(PATIENCE)
            if self.process.exitcode == -signal.SIGKILL:
                return
        self.kill()
        raise RuntimeError(f"a run ended with {self.process.exitcode}, or said nothing for {PATIENCE:.0f} s")

    def kill(self) -> None:
        """End the process as a power cut would."""
        self.killed = True
        if self.process.pid:
            os.kill(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let the process end."""
        self._parent.close()
        self.process.join(10)
        self.process.kill()


@functools.cache
def walk(days: int) -> pd.DataFrame:
    """The days that the exchange has."""
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
        self.exchange = Exchange({BTC: frame}, rate=1000, burst=1000)
        self.exchange.__enter__()

    def next_day(self) -> None:
        """A day passes, and now and then the exchange says something else of the day before the last."""
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
        """Stop the exchange and the process."""
        self.exchange.__exit__()
        if self.worker:
            self.worker.close()


@dataclass
class Day:
    """An undisturbed day: the places it came to and when, and what the home then held."""

    number: int
    visits: Sequence[Visit]
    held: homes.Contents

    def steps(self) -> dict[str, tuple[str, float]]:
        """For each step the place where it begins, and how many seconds it took."""
        found: dict[str, tuple[str, float]] = {}
        begun: dict[str, Visit] = {}
        for visit in self.visits:
            step, _, what = visit.place.partition(": ")
            if what == "begin":
                begun[step] = visit
            elif what == "end" and step in begun:
                found[step] = (begun[step].place, visit.at - begun[step].at)
        return found


@dataclass
class Killer:
    """Draws where to kill: the places that were died at the least first."""

    draw: random.Random
    died: Counter[str] = field(default_factory=Counter)

    def at_place(self, day: Day) -> Kill:
        """A place that the undisturbed day came to."""
        places = Counter(visit.place for visit in day.visits)
        least = min(self.died[place] for place in places)
        place = self.draw.choice(sorted(place for place in places if self.died[place] == least))
        self.died[place] += 1
        return Kill(place, self.draw.randint(1, min(places[place], 20)))

    def at_moment(self, day: Day) -> Kill:
        """A moment within a step, as long as the step took on the undisturbed day."""
        begin, took = self.draw.choice(sorted(day.steps().values()))
        return Kill(begin, after_seconds=self.draw.uniform(0, took))


@dataclass
class Tally:
    """What was tried, and what was found."""

    wanted: int
    hit: list[tuple[Kill, str]] = field(default_factory=list)
    missed: int = 0
    recovered: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def enough(self) -> bool:
        """Whether so many runs were killed as were wanted, or something is wrong."""
        return len(self.hit) >= self.wanted or bool(self.problems)


class Soak:
    """Kills runs until so many were killed; a home of its own for the undisturbed ones."""

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
        """Stop everything."""
        self.undisturbed.close()
        self.killed.close()

    def run(self) -> Tally:
        """All of it: days with killed runs, now and then a new home, at last the upkeep."""
        while not self.tally.enough:
            today = self.undisturbed_day()
            self.killed.next_day()
            # Of the first day each place is a first creation: it gets more of them.
            self.day(self.killed, today, kills=4 if today is self.first else self.draw.choice(self._a_day))
            if today.number % 20 == 0 and not self.tally.enough:
                self.new_home(today.number)
        self.upkeep()
        return self.tally

    def undisturbed_day(self) -> Day:
        """The next day in the home where nobody is killed."""
        self.undisturbed.next_day()
        outcome = self.undisturbed.run()
        today = Day(self.undisturbed.number, outcome.visits, homes.contents(self.undisturbed.home))
        self.first = self.first or today
        return today

    def new_home(self, number: int) -> None:
        """Once more the first day, in a home of its own that is not there yet."""
        assert self.first is not None
        chain = Chain(Home(self._folder / f"new-{number}"))
        try:
            chain.next_day()
            self.day(chain, self.first, kills=3)
        finally:
            chain.close()

    def day(self, chain: Chain, today: Day, kills: int) -> None:
        """Kill the day's run, again and again, then let it end, and look."""
        for minute in range(min(kills, self.tally.wanted - len(self.tally.hit))):
            kill = (self.killer.at_place if self.draw.random() < 0.6 else self.killer.at_moment)(today)
            outcome = chain.run(kill, minute=minute)
            if outcome.prediction_id is not None:
                self.tally.missed += 1
                break
            self.tally.hit.append((kill, outcome.last))
            with homes.copied(chain.home) as copy:
                found = homes.damage(copy)
            self._report(f"day {today.number}", kill, outcome, found)
            if found:
                return
        else:
            chain.run(minute=kills)
        self.tally.recovered += 1
        found = homes.damage(chain.home) + homes.differences(homes.contents(chain.home), today.held)
        found += self.too_much(chain.home)
        self.tally.problems += [f"after day {today.number}: {said}" for said in found]

    def too_much(self, home: Home) -> list[str]:
        """Leftovers that a finished run ought to have swept, or that no kill explains."""
        left = homes.leftovers(home)
        bounds = dict.fromkeys(("draft of a file", "draft of a commit", homes.UNNAMED), LEFT_BY_A_KILL)
        kills = len(self.tally.hit)
        return [f"{count} × {what}" for what, count in left.items() if count > bounds.get(what, 0) * kills]

    def upkeep(self) -> None:
        """A month later `maintain --prune` takes every leftover away, and nothing else."""
        from tests.soak.upkeep import age, maintained

        home = self.killed.home
        before, left = homes.contents(home), homes.leftovers(home)
        age(home)
        maintained(home)
        found = homes.damage(home)
        found += [f"{count} × {what} left by the upkeep" for what, count in homes.leftovers(home).items()]
        after = homes.contents(home)
        found += homes.differences({**after, "versions": {}}, {**before, "versions": {}})
        self._say(f"before the upkeep: {dict(left) or 'nothing left over'}; after: {found or 'nothing'}")
        self.tally.problems += found

    def _report(self, when: str, kill: Kill, outcome: Outcome, found: Sequence[str]) -> None:
        self._say(
            f"{len(self.tally.hit):4} {when}, {kill.kind}: {outcome.last}{'; ' if found else ''}{found or ''}"
        )
        self.tally.problems += [f"right after kill {len(self.tally.hit)}: {said}" for said in found]
