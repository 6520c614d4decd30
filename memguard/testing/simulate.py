"""Simulating: a real guard over fake memory on a fake clock, hours in seconds, the same way every time."""

from __future__ import annotations

import heapq
import itertools
from array import array
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, cast

from memguard.guard import Guard
from memguard.model import Event, Level, Limit
from memguard.roster import Roster
from memguard.rules import Rules
from memguard.testing.clock import FakeClock
from memguard.testing.faults import FlakyProbe
from memguard.testing.memory import FakeCollect, FakeHolder, FakeMemory, FakeTrim
from memguard.units import parse_bytes
from memguard.values import field, fields, value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memguard._core.record import Record
    from memguard.model import Incident, Relief
    from memguard.ports import Reclaimer, Sink

__all__ = ["Run", "World", "simulate"]

_EVENTS_KEPT = 10_000


class _SimulatedGuard(Guard):
    """A guard whose own reclaimers work on fake memory."""

    def __init__(self, memory: FakeMemory, /, **settings: Any) -> None:  # noqa: ANN401 - passed on
        self.memory = memory
        super().__init__(**settings)
        self._teller.sinks = tuple(settings["sinks"])  # without the log: nothing of this has happened

    def _settlers(self) -> tuple[FakeTrim, FakeCollect]:
        return FakeTrim(self.memory), FakeCollect(self.memory)


@value
class Run:
    """What happened in a simulation: one entry per look in the first four arrays, one per attempt in the next four.

    Instants are elapsed seconds. ``killed_s`` is when usage reached the limit, None when it never did. ``events`` holds
    the last 10 000, ``counts`` how many there were of each name.
    """

    at_s: array[float] = field(default_factory=lambda: array("d"))
    used_bytes: array[int] = field(default_factory=lambda: array("q"))
    pressures: array[float] = field(default_factory=lambda: array("d"))
    levels: array[int] = field(default_factory=lambda: array("b"))
    relief_s: array[float] = field(default_factory=lambda: array("d"))
    relief_names: list[str] = field(default_factory=list)
    relief_wanted_bytes: array[int] = field(default_factory=lambda: array("q"))
    relief_bought_bytes: array[int] = field(default_factory=lambda: array("q"))
    refused_s: array[float] = field(default_factory=lambda: array("d"))
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=_EVENTS_KEPT))
    counts: Counter[str] = field(default_factory=Counter)
    incidents: tuple[Incident, ...] = ()
    record: Record | None = None
    peak_bytes: int = 0
    killed_s: float | None = None

    @property
    def survived(self) -> bool:
        """Whether usage never reached the limit."""
        return self.killed_s is None

    @property
    def level(self) -> Level:
        """The level at the end."""
        return Level(self.levels[-1])

    @property
    def peak_level(self) -> Level:
        """The highest level."""
        return Level(max(self.levels))

    @property
    def changes(self) -> list[tuple[float, Level]]:
        """Each change of level: when, and to which; from OK on."""
        found, last = [], int(Level.OK)
        for at_s, level in zip(self.at_s, self.levels, strict=True):
            if level != last:
                found.append((at_s, Level(level)))
                last = level
        return found

    def attempts(self, name: str) -> int:
        """How often this reclaimer was asked."""
        return self.relief_names.count(name)


class World:
    """A simulation under way, as its scenario sees it: ``clock``, ``memory``, ``guard``, ``roster``.

    ``trim`` and ``collect`` are the guard's own reclaimers; ``limit_bytes`` may be changed at any time.
    """

    def __init__(self, *, limit: int | str, rules: Rules, sinks: Sequence[Sink], fail_every: int | None) -> None:
        self.clock: FakeClock = FakeClock()
        self.memory: FakeMemory = FakeMemory(self.clock, limit_bytes=parse_bytes(limit))
        self.roster: Roster = Roster()
        self.run: Run = Run()
        self._numbers = itertools.count()
        self._plans: list[tuple[float, int, Callable[[], object]]] = []
        self._refused = 0
        # As keywords, so that the environment of a test run changes nothing.
        settings = {rule.name: getattr(rules, rule.name) for rule in fields(Rules) if rule.name != "origins"}
        probe = self.memory if fail_every is None else _Flaky(self.memory, every=fail_every)
        self.guard: Guard = _SimulatedGuard(
            self.memory,
            limit=self._limits,
            probe=probe,
            clock=self.clock,
            roster=self.roster,
            sinks=(self._told, *sinks),
            **settings,
        )
        self.trim: FakeTrim = cast("FakeTrim", self.guard._trim)  # noqa: SLF001 - it has no public name
        self.collect: FakeCollect = cast("FakeCollect", self.guard._collect)  # noqa: SLF001 - as trim
        watch = self.guard._watch  # noqa: SLF001 - only the watch sees every attempt
        self._take_in = watch.relieved
        watch.relieved = self._relieved  # type: ignore[method-assign]

    @property
    def limit_bytes(self) -> int:
        """The limit: where the guard looks for it, and where the process dies."""
        return self.memory.limit_bytes or 0

    @limit_bytes.setter
    def limit_bytes(self, value: int | str) -> None:
        self.memory.limit_bytes = parse_bytes(value)

    def _limits(self) -> tuple[Limit, ...]:
        return (Limit(bytes=self.limit_bytes, kind="kill", source="the simulation"),)

    def holder(self, name: str, **settings: Any) -> FakeHolder:  # noqa: ANN401 - as FakeHolder has them
        """A new holder in this memory, registered; settings as ``FakeHolder`` has them."""
        holder = FakeHolder(self.memory, name, **settings)
        self.memory.holders.append(holder)
        self.roster.add(holder)
        return holder

    def add(self, reclaimer: Reclaimer) -> None:
        """Register any other reclaimer."""
        self.roster.add(reclaimer)

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something at an instant (elapsed seconds)."""
        heapq.heappush(self._plans, (seconds, next(self._numbers), action))

    def every(self, seconds: float, action: Callable[[], object], *, first_s: float = 0.0) -> None:
        """Do something again and again."""

        def act() -> None:
            action()
            self.at(self.clock.elapsed_s + seconds, act)

        self.at(first_s, act)

    def starve(self, seconds: float) -> None:
        """Let time pass in which the guard cannot run."""
        self.clock.advance(seconds)

    def _told(self, event: Event, /) -> None:
        self.run.events.append(event)
        self.run.counts[event.name] += 1

    def _relieved(self, relief: Relief) -> None:
        run = self.run
        run.relief_s.append(self.clock.elapsed_s)
        run.relief_names.append(relief.name)
        run.relief_wanted_bytes.append(relief.wanted_bytes)
        run.relief_bought_bytes.append(relief.bought_bytes)
        self._take_in(relief)

    def _look(self) -> float:
        guard, run = self.guard, self.run
        sleep_s = guard.tick()
        snapshot = guard.snapshot
        run.at_s.append(self.clock.elapsed_s)
        run.used_bytes.append(0 if snapshot.reading is None else snapshot.reading.used_bytes)
        run.pressures.append(snapshot.pressure)
        run.levels.append(snapshot.level)
        if snapshot.refusals != self._refused:
            run.refused_s.extend([self.clock.elapsed_s] * (snapshot.refusals - self._refused))
            self._refused = snapshot.refusals
        return sleep_s

    def play(self, duration_s: float) -> Run:
        """Let time pass from look to look until the end, or until the process is killed."""
        clock, memory, plans = self.clock, self.memory, self._plans
        while clock.elapsed_s < duration_s and memory.killed_s is None:
            wake_s = clock.elapsed_s + self._look()
            while plans and plans[0][0] <= wake_s:
                due_s, _, action = heapq.heappop(plans)
                clock.advance(max(0.0, due_s - clock.elapsed_s))
                action()
            clock.advance(max(0.0, wake_s - clock.elapsed_s))
        self.guard.stop()
        run = {item.name: getattr(self.run, item.name) for item in fields(Run)}
        run |= {"incidents": self.guard.incidents, "record": self.guard.record}
        return Run(**(run | {"peak_bytes": memory.peak_bytes, "killed_s": memory.killed_s}))


class _Flaky(FlakyProbe):
    """A flaky probe that passes the fake memory's vitals on."""

    def __init__(self, memory: FakeMemory, *, every: int) -> None:
        super().__init__(memory, every=every)
        self.vitals = memory.vitals


def simulate(  # noqa: PLR0913 - each is one thing about a world, most with a default
    scenario: Callable[[World], object],
    *,
    duration_s: float,
    limit: int | str = "512MiB",
    rules: Rules | None = None,
    sinks: Sequence[Sink] = (),
    fail_every: int | None = None,
) -> Run:
    """Play a scenario against a real guard and record what happened.

    The scenario is called once, before the first look, and sets the world up: flows, holders, what happens when. With
    ``fail_every`` each n-th reading fails. Attempts and sinks run in the same thread, so the guard sees nothing while
    an attempt takes its time: reality, where looking goes on, is kinder. GC policies stay out: they look at this
    process.

    >>> run = simulate(lambda world: world.memory.flow(1 << 20), duration_s=60)
    >>> run.survived, run.level.name
    (True, 'OK')
    """
    world = World(limit=limit, rules=rules or Rules(), sinks=sinks, fail_every=fail_every)
    scenario(world)
    return world.play(duration_s)
