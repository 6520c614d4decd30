"""Attempts on real threads: those that block, raise, allocate or come back late."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from memguard._core.stimuli import Step
from memguard.attempts import Attempts, measured
from memguard.guard import Guard
from memguard.model import Level
from memguard.roster import Roster
from memguard.testing import BlockingReclaimer, FakeClock, FakeMemory, RaisingReclaimer, RecordingSink
from memguard.units import MIB
from tests.waiting import stays, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Scene = tuple[Guard, FakeMemory, RecordingSink]


@pytest.fixture
def scene() -> Iterator[Callable[..., Scene]]:
    """Makes a guard over fake memory, on real time and real threads; it is stopped after the test."""
    made: list[Guard] = []

    def make(**settings: Any) -> Scene:
        memory, sink = FakeMemory(FakeClock()), RecordingSink()
        settings = {"pace_max_s": 0.01, "backoff_first_s": 0.02, "backoff_max_s": 0.05, **settings}
        guard = Guard(limit="512MiB", probe=memory, roster=Roster(), sinks=(sink,), **settings)
        made.append(guard)
        return guard, memory, sink

    yield make
    for guard in made:
        guard.stop()


def test_one_that_blocks_is_given_up(scene: Callable[..., Scene]) -> None:
    """It is overdue after attempt_s; meanwhile levels follow, and after it the others are asked."""
    guard, memory, sink = scene(attempt_s=0.3)
    blocking = BlockingReclaimer("blocking", size_bytes=400 * MIB)
    guard.roster.add(blocking)
    helped = threading.Event()

    def help_out(wanted_bytes: int) -> None:
        memory.grow(-wanted_bytes)
        helped.set()

    guard.reclaimer("other", help_out, size=lambda: 300 * MIB)
    memory.grow(360 * MIB)
    with guard:
        wait_for(lambda: blocking.entered)
        memory.grow(50 * MIB)
        wait_for(lambda: guard.level is Level.CRITICAL)
        assert blocking.entered, "the level moved while the attempt hung"
        wait_for(helped.is_set)
        wait_for(lambda: "relief.overdue" in sink.names)
        assert blocking.attempts == 1, "nobody is asked again while he is still at it"
        blocking.release()
        wait_for(lambda: not blocking.entered)


def test_one_that_blocks_for_good_never_stops_the_looking(scene: Callable[..., Scene]) -> None:
    """However often it is tried again, it holds one thread, and the guard goes on looking."""
    guard, memory, sink = scene(attempt_s=0.02)
    holders = [BlockingReclaimer(f"blocking {number}", size_bytes=100 * MIB) for number in range(12)]
    for holder in holders:
        guard.roster.add(holder)
    memory.grow(400 * MIB)
    with guard:
        wait_for(lambda: sink.names.count("relief.overdue") >= 8)
        wait_for(lambda: any("still running" in event.text for event in sink.events))
        at = guard.snapshot.at
        wait_for(lambda: guard.snapshot.at > at)
        assert sum(holder.entered for holder in holders) == 8
        assert max(holder.attempts for holder in holders) == 1
        for holder in holders:
            holder.release()
        wait_for(lambda: not any(holder.entered for holder in holders))


def test_a_late_relief_is_counted_and_not_judged(scene: Callable[..., Scene]) -> None:
    """What an overdue attempt bought in the end is known."""
    guard, memory, sink = scene(attempt_s=0.05)
    blocking = BlockingReclaimer("blocking", size_bytes=400 * MIB)
    guard.roster.add(blocking)
    memory.grow(380 * MIB)
    with guard:
        wait_for(lambda: "relief.overdue" in sink.names)
        memory.grow(-50 * MIB)
        blocking.release()

        def bought() -> int:
            return next(holder.bought_bytes for holder in guard.holders() if holder.name == "blocking")

        wait_for(lambda: bought() != 0)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_one_that_raises(scene: Callable[..., Scene], error: type[BaseException]) -> None:
    """Whatever it raises is told, and the next attempts go on with the same thread."""
    guard, memory, sink = scene()
    raising = RaisingReclaimer("raising", size_bytes=400 * MIB, error=lambda: error("no"))
    guard.roster.add(raising)
    memory.grow(380 * MIB)
    with guard:
        wait_for(lambda: raising.attempts >= 3)
        wait_for(lambda: "relief.failed" in sink.names)
        assert guard.running


def test_one_that_allocates(scene: Callable[..., Scene]) -> None:
    """A reclaimer that makes it worse is measured as such, and backs off."""
    guard, memory, sink = scene(backoff_first_s=0.5, backoff_max_s=0.5)

    def allocate(wanted_bytes: int) -> int:
        memory.grow(5 * MIB)
        return wanted_bytes

    guard.reclaimer("greedy", allocate)
    memory.grow(360 * MIB)
    with guard:
        wait_for(
            lambda: any("greedy bought -" in event.text or "greedy bought 0" in event.text for event in sink.events)
        )
        holder = next(holder for holder in guard.holders() if holder.name == "greedy")
        assert holder.bought_bytes <= 0
        assert holder.blocked_s > 0.0


def test_a_holder_that_leaves_meanwhile(scene: Callable[..., Scene]) -> None:
    """Closing a handle while its reclaimer runs harms nobody."""
    guard, memory, sink = scene(attempt_s=0.1)
    blocking = BlockingReclaimer("blocking", size_bytes=400 * MIB)
    handle = guard.roster.add(blocking)
    memory.grow(380 * MIB)
    with guard:
        wait_for(lambda: blocking.entered)
        handle.close()
        wait_for(lambda: "relief.overdue" in sink.names)
        blocking.release()
        assert stays(lambda: guard.running and blocking.attempts == 1)


def test_observing_asks_nobody(scene: Callable[..., Scene]) -> None:
    """In mode 'observe' a plan is told and no reclaimer runs."""
    guard, memory, sink = scene(mode="observe")
    asked: list[int] = []
    guard.reclaimer("answers", asked.append)
    memory.grow(450 * MIB)
    with guard:
        wait_for(lambda: "relief.planned" in sink.names)
        assert guard.level is Level.EMERGENCY
    assert asked == []


def _step(name: str = "a", until: float = 1e9) -> Step:
    return Step(name=name, wanted_bytes=1, until=until)


def test_measured_from_outside() -> None:
    """A claim is kept as a claim; bytes are what the probe read before and after; odd claims say nothing."""
    clock, readings = FakeClock(), iter([100, 30, 100, 100, 100, 100])

    def work() -> int:
        clock.advance(2.0)
        return 999

    relief = measured(work, name="a", wanted_bytes=50, look=lambda: next(readings), clock=clock)
    assert (relief.claimed_bytes, relief.bought_bytes, relief.cost_s) == (999, 70, 2.0)
    odd: Any
    for odd in (True, -5):
        relief = measured(
            partial(lambda value: value, odd), name="a", wanted_bytes=50, look=lambda: next(readings), clock=clock
        )
        assert relief.claimed_bytes is None


@pytest.mark.parametrize("failing", [{1, 2}, {2, 3}])
def test_without_a_reading_nobody_is_judged(failing: set[int]) -> None:
    """One failed reading is tried again; two in a row make a relief of 0 and 0."""
    calls = iter(range(1, 10))

    def look() -> int:
        if next(calls) in failing:
            raise OSError("gone")
        return 100

    relief = measured(lambda: 1, name="a", wanted_bytes=1, look=look, clock=FakeClock())
    assert (relief.before_bytes, relief.after_bytes) == (0, 0)
    assert "gone" in relief.error


def test_a_single_failed_reading_is_no_matter() -> None:
    """The second try counts."""
    calls: Iterator[int | Exception] = iter([OSError("gone"), 100, OSError("gone"), 40])

    def look() -> int:
        seen = next(calls)
        if isinstance(seen, Exception):
            raise seen
        return seen

    relief = measured(lambda: 1, name="a", wanted_bytes=1, look=look, clock=FakeClock())
    assert (relief.bought_bytes, relief.error) == (60, "")


def test_without_a_thread_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Late looks are better than no relief."""

    def none_left(work: object, name: str) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("memguard.attempts.start_thread", none_left)
    attempts = Attempts(meter=lambda: lambda: 100, clock=FakeClock(), inline=False, notify=lambda: None)
    attempts.begin(_step(), lambda: 7)
    assert attempts.ended[0].claimed_bytes == 7
    assert attempts.step is None


def test_inline_faults_leave_no_step() -> None:
    """Whatever breaks inside an inline attempt, the next one can begin."""

    class Broken(FakeClock):
        def __call__(self) -> float:
            raise RuntimeError("no time")

    attempts = Attempts(meter=lambda: lambda: 100, clock=Broken(), inline=True, notify=lambda: None)
    with pytest.raises(RuntimeError, match="no time"):
        attempts.begin(_step(), lambda: 7)
    assert attempts.step is None


def test_stopping_forgets_what_came_back() -> None:
    """A relief of another life does not count in the next."""
    attempts = Attempts(meter=lambda: lambda: 100, clock=FakeClock(), inline=False, notify=lambda: None)
    attempts.begin(_step(), lambda: 7)
    wait_for(lambda: attempts.ended)
    attempts.stop(5.0)
    assert not attempts.ended
