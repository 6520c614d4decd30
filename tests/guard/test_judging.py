"""Verdicts in a guard: what it keeps, what it tells, and what it costs while nothing is wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from memguard.guard import Guard
from memguard.judging import _held_bytes
from memguard.model import Holder, Level, Limit
from memguard.roster import Roster
from memguard.rules import Rules
from memguard.testing import FakeClock, FakeMemory, simulate
from memguard.units import KIB, MIB

if TYPE_CHECKING:
    from memguard.findings import Verdict
    from memguard.testing import Run, World

HOUR = 3600.0
# Looks every 4 s are as many as the shortest block needs; simulated hours take half a second.
SLOW = Rules(pace_min_s=4.0, pace_max_s=4.0, slow_s=4.0)


def played(scenario: object, *, hours: float, limit: str = "1GiB", rules: Rules = SLOW) -> tuple[Run, Guard]:
    """What happened in a simulation, and its guard."""
    worlds: list[World] = []

    def begin(world: World) -> None:
        worlds.append(world)
        scenario(world)  # type: ignore[operator]

    run = simulate(begin, duration_s=hours * HOUR, limit=limit, rules=rules)
    return run, worlds[0].guard


def requests(world: World, *, every_s: float = 4.0) -> None:
    """Let requests come and go."""

    def work() -> None:
        for _ in range(20):
            with world.guard.admit():
                pass

    world.every(every_s, work)


def test_a_leak_is_suspected_once_and_cleared() -> None:
    """Two hours of a leak are told once, with the numbers; when it has stopped for long enough that is told, too."""

    def leak(world: World) -> None:
        requests(world)
        world.memory.flow(lambda second: 30 * KIB if second < 3 * HOUR else 0)

    run, guard = played(leak, hours=8)
    assert (run.counts["leak.suspected"], run.counts["leak.cleared"]) == (1, 1)
    told = next(event for event in run.events if event.name == "leak.suspected")
    assert told.text.startswith("Leak-like: ")
    assert told.attributes["kind"] == "leak-like"
    assert told.attributes["bytes_per_s"] == pytest.approx(30 * KIB, rel=0.1)
    assert told.attributes["bytes_per_request"] == pytest.approx(6 * KIB, rel=0.1)
    assert float(told.attributes["seconds_to_limit"]) > 0
    assert guard.verdict().kind in {"flat", "filling", "step"}


def test_a_registered_cache_that_fills_is_none() -> None:
    """What a holder accounts for is subtracted: filling, and nothing is told."""

    def fill(world: World) -> None:
        requests(world)
        cache = world.holder("answers")
        world.every(4.0, lambda: cache.fill(120 * KIB))

    run, guard = played(fill, hours=2.5)
    assert run.used_bytes[-1] > 200 * MIB
    assert "leak.suspected" not in run.counts
    assert guard.verdict().kind in {"flat", "filling"}


def test_calm_is_flat() -> None:
    """A service that does not grow is flat, and nothing is told."""
    run, guard = played(requests, hours=1)
    assert guard.verdict().kind == "flat"
    assert not [name for name in run.counts if name.startswith("leak.")]


def test_patience_is_a_rule() -> None:
    """With less patience the same leak is told earlier."""

    def leak(world: World) -> None:
        requests(world)
        world.memory.flow(100 * KIB)

    told = []
    for patience_s in (600.0, 5400.0):
        rules = Rules(pace_min_s=4.0, pace_max_s=4.0, slow_s=4.0, leak_patience_s=patience_s)
        run, _ = played(leak, hours=1.9, rules=rules)
        told.append(next(event.at for event in run.events if event.name == "leak.suspected"))
    assert told[0] < told[1] - HOUR


def test_suspicion_calls() -> None:
    """Whoever asked is told of a suspicion as it begins, once."""
    heard: list[Verdict] = []

    def leak(world: World) -> None:
        requests(world)
        world.memory.flow(100 * KIB)
        world.guard.suspected = (*world.guard.suspected, heard.append)

    played(leak, hours=2)
    assert [verdict.kind for verdict in heard] == ["leak-like"]


def test_operations_count_where_nothing_is_admitted() -> None:
    """Without tickets, operations are the requests that growth is divided by."""

    def leak(world: World) -> None:
        def work() -> None:
            for _ in range(10):
                with world.guard.operation("step"):
                    pass

        world.every(4.0, work)
        world.memory.flow(100 * KIB)

    _, guard = played(leak, hours=2)
    assert guard.verdict().bytes_per_request == pytest.approx(40 * KIB, rel=0.1)


def test_parts_are_in_the_whole() -> None:
    """The parts of a holder, listed after it, are not counted twice; unknown sizes count as nothing."""
    sizes = {"caches": 100, "caches/answers": 60, "caches/pages": 40, "cachesque": 7, "odd": None, "pool": 1}
    holders = [
        Holder(name=name, cost="cheap", at=Level.OK, size_bytes=size, share=None) for name, size in sizes.items()
    ]
    assert _held_bytes(holders) == 108
    assert _held_bytes([]) == 0


def hand_guard(memory: FakeMemory, clock: FakeClock, events: list[str]) -> Guard:
    """A guard to be ticked by hand."""
    limit = Limit(bytes=512 * MIB, kind="kill", source="the test")
    return Guard(
        limit=limit, probe=memory, clock=clock, roster=Roster(), sinks=[lambda event: events.append(event.name)]
    )


def ticked(guard: Guard, clock: FakeClock, seconds: float) -> None:
    """Let time pass, a look every second."""
    for _ in range(int(seconds)):
        clock.advance(1.0)
        guard.tick()


def test_before_anything_was_seen() -> None:
    """A new guard's verdict is unknown, says why, and so it is again in a forked child."""
    clock = FakeClock()
    guard = hand_guard(FakeMemory(clock), clock, [])
    assert (guard.verdict().kind, guard.verdict().confidence) == ("unknown", 0.0)
    assert "too little" in guard.verdict().words
    ticked(guard, clock, 300)
    assert guard.verdict().seen_s > 0.0
    guard._forget_evidence()
    assert guard.verdict().seen_s == 0.0


def test_a_failure_does_not_stop_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judging that raises is told once, and looking goes on."""
    clock, events = FakeClock(), list[str]()
    guard = hand_guard(FakeMemory(clock), clock, events)
    monkeypatch.setattr("memguard.growth.Growth.examine", lambda growth: 1 / 0)
    ticked(guard, clock, 200)
    assert events.count("guard.fault") == 1
    assert guard.snapshot.at == pytest.approx(clock())


def test_measures_are_kept_apart() -> None:
    """Readings of another measure are no growth: each has evidence of its own, of a few at most."""
    clock = FakeClock()
    memory = FakeMemory(clock)
    guard = hand_guard(memory, clock, [])
    for number in range(12):
        memory.source = f"measure {number % 2 if number < 8 else number}"
        ticked(guard, clock, 90)
        if number == 7:
            assert set(guard._growths or ()) == {"measure 0", "measure 1"}
    assert len(guard._growths or ()) <= 5


def test_a_plain_guard_does_not_load_the_judge() -> None:
    """In its first minute a started guard pays for no evidence and no judge."""
    program = (
        "import sys, time; from memguard import Guard; guard = Guard(limit='4GiB').start(); time.sleep(0.3); "
        "guard.verdict(); guard.stop(); "
        "print([name for name in sys.modules if name.startswith('memguard.') and name.split('.')[-1] in "
        "('growth', 'suspects', 'looks', 'trend', 'shapes', 'loads')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
