"""Make the n-th call fail, for every n: the guard never dies, and recovers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from memguard.guard import Guard
from memguard.model import Level, Limit
from memguard.roster import Roster
from memguard.testing import FakeClock, FakeHolder, FakeMemory, FlakyProbe, FlakyReclaimer, RaisingSink
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from memguard.ports import Probe

ERRORS = (OSError, ValueError, MemoryError, RuntimeError)
each_error = pytest.mark.parametrize("error", ERRORS)


class Stage:
    """A guard that lives through an hour of trouble in which one port fails at the calls that are named.

    It is driven by ``tick`` alone, so that whatever escapes from a tick fails the test.
    """

    def __init__(
        self,
        error: type[Exception],
        *,
        reads: Container[int] = (),
        sizes: Container[int] = (),
        reclaims: Container[int] = (),
        sinks: Container[int] = (),
        limits: Container[int] = (),
        dues: Container[int] = (),
    ) -> None:
        self.clock = FakeClock()
        self.memory = FakeMemory(self.clock)
        self.error = error
        self.probe = FlakyProbe(self.memory, calls=reads, error=self._make)
        answers = FakeHolder(self.memory, "answers", held_bytes="150MiB")
        self.memory.holders.append(answers)
        self.answers = FlakyReclaimer(answers, sizes=sizes, reclaims=reclaims, error=self._make)
        self.sink = RaisingSink(every=None, calls=sinks, error=self._make)
        self.limit_calls = itertools.count(1)
        self.due_calls = itertools.count(1)
        self._limits, self._dues = limits, dues
        roster = Roster()
        roster.add(self.answers)
        probe: Probe = self.probe
        self.guard = Guard(limit=self._limit, probe=probe, clock=self.clock, roster=roster, sinks=(self.sink,))
        self.guard._watch.enforce((self,))

    def _make(self) -> Exception:
        return self.error("as scripted")

    def _limit(self) -> tuple[Limit, ...]:
        # The first two calls are the constructor's, whose errors are the caller's.
        if next(self.limit_calls) - 2 in self._limits:
            raise self._make()
        return (Limit(bytes=512 * MIB, kind="kill", source="the test"),)

    def due(self, *_: object) -> int | None:
        """This stage is a GC policy too."""
        if next(self.due_calls) in self._dues:
            raise self._make()
        return None

    def play(self) -> None:
        """Calm, then pressure, then calm again."""
        for growth_mib in (0, 240, -280):
            self.memory.grow(growth_mib * MIB)
            until = self.clock.elapsed_s + 8.0
            while self.clock.elapsed_s < until:
                self.clock.advance(self.guard.tick())

    def recovered(self) -> None:
        """It saw the pressure, shed, and is back at OK with open eyes."""
        snapshot = self.guard.snapshot
        assert snapshot.level is Level.OK
        assert not snapshot.blind
        assert snapshot.reading is not None
        assert snapshot.reading.used_bytes == self.memory.used_bytes
        assert self.guard.incidents
        assert self.guard.incidents[0].peak_level >= Level.WARNING
        assert self.guard._watch._state.step is None
        self.guard.stop()


def _calls(count: Callable[[Stage], int], error: type[Exception]) -> list[int]:
    """Which calls there are when nothing fails: all the early ones, and a sample of the rest, each error another."""
    stage = Stage(RuntimeError)
    stage.play()
    stage.recovered()
    total = count(stage)
    assert total > 3
    step = max(len(ERRORS), total // 15)
    return [*range(1, min(total, 25) + 1), *range(26 + ERRORS.index(error) * step // len(ERRORS), total + 1, step)]


@each_error
def test_each_reading(error: type[Exception]) -> None:
    """Whichever reading fails, in a look or around an attempt."""
    for number in _calls(lambda stage: stage.probe.calls, error):
        stage = Stage(error, reads={number})
        stage.play()
        stage.recovered()


@each_error
def test_runs_of_readings(error: type[Exception]) -> None:
    """Three readings in a row fail, wherever they fall: an attempt cannot be measured even at the second try."""
    for number in _calls(lambda stage: stage.probe.calls, error)[::3]:
        stage = Stage(error, reads=range(number, number + 3))
        stage.play()
        stage.recovered()


@each_error
def test_each_size(error: type[Exception]) -> None:
    """Whichever question for a size fails: unknown is not nothing."""
    for number in _calls(lambda stage: stage.answers.calls[0], error):
        stage = Stage(error, sizes={number})
        stage.play()
        stage.recovered()


@each_error
def test_each_attempt(error: type[Exception]) -> None:
    """Whichever attempt fails, and all of them."""
    stage = Stage(error)
    stage.play()
    stage.recovered()
    attempts = stage.answers.calls[1]
    assert attempts >= 1
    for failing in ([number] for number in range(1, attempts + 2)):
        stage = Stage(error, reclaims=failing)
        stage.play()
        stage.recovered()
    stage = Stage(error, reclaims=range(1000))
    stage.play()
    stage.recovered()
    assert "relief.failed" in stage.sink.names


@each_error
def test_each_event(error: type[Exception]) -> None:
    """Whichever event a sink fails on, and all of them."""
    for number in _calls(lambda stage: len(stage.sink.events), error):
        stage = Stage(error, sinks={number})
        stage.play()
        stage.recovered()
    stage = Stage(error, sinks=range(10_000))
    stage.play()
    stage.recovered()


@each_error
def test_each_search_for_the_limit(error: type[Exception]) -> None:
    """Whichever search fails: what was known still holds."""
    for failing in (*([number] for number in range(1, 6)), range(1, 1000)):
        stage = Stage(error, limits=failing)
        stage.play()
        stage.recovered()
        assert "guard.fault" in stage.sink.names


@each_error
def test_each_question_to_a_gc_policy(error: type[Exception]) -> None:
    """Whichever question fails, it is told once, and the others go on."""
    for failing in (*([number] for number in range(1, 6)), range(1, 10_000)):
        stage = Stage(error, dues=failing)
        stage.play()
        stage.recovered()
        assert stage.sink.names.count("guard.fault") == 1


@each_error
def test_a_probe_that_never_works(error: type[Exception]) -> None:
    """From the first reading on: blind at the rules' level, never OK by accident, and told of now and then."""
    stage = Stage(error, reads=range(1_000_000))
    stage.play()
    assert stage.guard.snapshot.blind
    assert stage.guard.level is Level.WARNING
    assert stage.guard.snapshot.reading is None
    assert stage.sink.names.count("probe.failed") == 1
    assert stage.sink.names.count("guard.blind") == 1


class _Broken:
    """A holder whose cost is not to be had."""

    name = "broken"
    settles = stalls = False
    at = Level.WARNING
    error: Exception | None = None

    @property
    def cost(self) -> str:
        if self.error is not None:
            raise self.error
        return "priceless"

    def size(self) -> int | None:
        return 100 * MIB

    def reclaim(self, wanted_bytes: int, /) -> int | None:
        return wanted_bytes


@pytest.mark.parametrize("error", [None, *ERRORS])
def test_labels_that_cannot_be_read(error: type[Exception] | None) -> None:
    """A holder whose labels raise or make no sense is left out and told of once; the others are asked."""
    stage = Stage(RuntimeError)
    broken = _Broken()
    broken.error = None if error is None else error("as scripted")
    stage.guard.roster.add(broken)  # type: ignore[arg-type]
    stage.play()
    stage.recovered()
    assert stage.answers.calls[1] >= 1
    assert stage.sink.names.count("guard.fault") == 1
