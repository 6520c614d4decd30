"""What a guard remembers: blocks, steps, times; nothing invented, nothing kept per reading."""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memguard
from memguard.history import History, Ring, steps
from memguard.model import Level, Limit, Reading, Snapshot
from memguard.testing import FakeClock, FakeMemory
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable


class Wall:
    """A wall clock that goes with a monotonic one until it is set."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.offset_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.offset_s + self.clock()


def made(
    shape: tuple[tuple[float, int], ...] = ((1.0, 60), (60.0, 60), (3600.0, 48)),
) -> tuple[History, FakeClock, Wall]:
    """A history on clocks of its own."""
    clock = FakeClock(0.0)
    wall = Wall(clock)
    return History(clock=clock, wall=wall, shape=shape), clock, wall


def fill(
    history: History, clock: FakeClock, seconds: float, value: Callable[[float], float], *, each_s: float = 0.25
) -> None:
    """Let time pass, a reading at each step."""
    for _ in range(int(seconds / each_s)):
        history.add(clock(), value(clock()), 1e9)
        clock.advance(each_s)


def test_a_point_says_mean_least_greatest_and_last() -> None:
    """The numbers of a step are those of its readings."""
    history, clock, _ = made()
    for value in (10, 40, 20, 30):
        history.add(clock(), value * MIB, 512 * MIB, Level.WARNING if value == 40 else Level.OK)
        clock.advance(0.25)
    (point,) = history.points(10.0, 1.0)
    assert (point.mean_bytes, point.min_bytes, point.max_bytes, point.last_bytes) == (
        25 * MIB,
        10 * MIB,
        40 * MIB,
        30 * MIB,
    )
    assert (point.count, point.limit_bytes, point.level) == (4, 512 * MIB, Level.WARNING)
    assert point.timestamp == "2023-11-14T22:13:20Z"
    assert point.row() == {
        "timestamp": "2023-11-14T22:13:20Z", "value": 25.0, "memory_mb": 25.0, "min_mb": 10.0, "max_mb": 40.0,
        "limit_mb": 512.0, "level": "WARNING",
    }  # fmt: skip


def test_nothing_read_is_no_point() -> None:
    """A gap stays a gap, and an empty past is empty."""
    history, clock, _ = made()
    assert history.points(3600.0) == ()
    fill(history, clock, 5, lambda _: 1.0)
    clock.advance(20)
    fill(history, clock, 5, lambda _: 2.0)
    points = history.points(60.0, 1.0)
    assert [point.unix_s % 100 for point in points] == [0, 1, 2, 3, 4, 25, 26, 27, 28, 29]
    assert [point.mean_bytes for point in points] == [1.0] * 5 + [2.0] * 5


def test_a_day_is_kept_by_the_minute_when_seconds_are_over() -> None:
    """What the seconds no longer hold is answered from minutes, then hours; sums stay those of all readings."""
    history, clock, _ = made()
    seen = []

    def value(at: float) -> float:
        seen.append((at * 7919) % 1000)
        return seen[-1]

    fill(history, clock, 3 * 3600, value, each_s=5.0)
    for interval_s, span_s in ((1.0, 3600.0), (60.0, 3600.0), (3600.0, 3600.0)):
        points = history.points(86400.0, interval_s)
        assert {point.span_s for point in points} == {span_s}
        assert sum(point.count for point in points) == len(seen)
        assert max(point.max_bytes for point in points) == int(max(seen))
        assert sum(point.mean_bytes * point.count for point in points) == pytest.approx(sum(seen))
    minutes = history.points(1800.0, 60.0)
    assert {point.span_s for point in minutes} == {60.0}
    assert len(minutes) in {30, 31, 32}


@given(
    st.lists(st.tuples(st.floats(0.01, 400.0), st.integers(0, 10**12)), min_size=1, max_size=200),
    st.sampled_from([1.0, 2.0, 7.0, 60.0, 90.0, 300.0, 3600.0]),
)
def test_no_reading_is_lost_or_counted_twice(readings: list[tuple[float, int]], interval_s: float) -> None:
    """Whatever the pace and the step: counts add up, points are in order, aligned, and in nobody's future."""
    history, clock, wall = made()
    for pause_s, value in readings:
        clock.advance(pause_s)
        history.add(clock(), value)
    points = history.points(1e7, interval_s)
    assert sum(point.count for point in points) == len(readings)
    assert min(point.min_bytes for point in points) == min(value for _, value in readings)
    assert max(point.max_bytes for point in points) == max(value for _, value in readings)
    times = [point.unix_s for point in points]
    assert times == sorted(set(times))
    assert all(point.unix_s % point.span_s == 0.0 and point.unix_s <= wall() for point in points)


def test_a_clock_that_jumps_back_puts_nothing_out_of_order() -> None:
    """Set back an hour, the wall clock's points stay in order, none doubled, and end now."""
    history, clock, wall = made()
    fill(history, clock, 30, lambda _: 1.0)
    wall.offset_s -= 3600.0
    fill(history, clock, 20, lambda _: 2.0)
    points = history.points(60.0, 1.0)
    times = [point.unix_s for point in points]
    assert times == sorted(set(times))
    assert len(points) == 50
    assert times[-1] <= wall() < times[-1] + 1.0 + 1.0


def test_rings_are_full_from_the_start_and_take_nothing_a_tick() -> None:
    """A hundred thousand readings leave no object behind."""
    history, clock, _ = made()
    fill(history, clock, 100, lambda _: 1.0)
    gc.collect()
    before = sys.getallocatedblocks()
    fill(history, clock, 25_000, lambda _: 1.0)
    assert sys.getallocatedblocks() - before < 50


def test_read_while_written() -> None:
    """A reader sees whole rows only, whatever is written meanwhile."""
    history, clock, _ = made(((0.001, 100), (0.01, 100)))
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            wrong.extend(
                row for ring in history.rings for row in ring.rows() if not row[1] <= row[2] / row[6] <= row[3]
            )

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(20_000):
        history.add(clock(), float(number % 977))
        clock.advance(0.0003)
    stop.set()
    thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("duration", "interval", "words"),
    [
        (0, 1, "no time to look back"),
        (10, 60, "longer than duration"),
        ("∞", None, "is not a duration"),
        (float("inf"), None, "not a duration"),
        (-5, None, "not a duration"),
        ("1h", "-5m", "not a duration"),
        ("1h", 0, "is no step"),
        (float("nan"), None, "not a duration"),
        ("yesterday", None, "write it like"),
    ],
)
def test_what_cannot_be_meant_is_said(duration: str | float, interval: str | float | None, words: str) -> None:
    """Bad durations and intervals are errors that say what to write."""
    with pytest.raises(ValueError, match=words):
        memguard.Guard(limit="1GiB", roster=memguard.Roster()).history(duration, interval)


def test_absurdly_long_is_all_there_is() -> None:
    """1e308 seconds are as long as the memory reaches."""
    history, clock, _ = made()
    fill(history, clock, 10, lambda _: 1.0)
    assert len(history.points(1e308, 1.0)) == 10
    assert len(history.points(1e308, 1e308)) == 1


def test_steps_are_nice_numbers() -> None:
    """Some 300 steps, of lengths that people read."""
    assert [steps(duration, None) for duration in (60, 3600, 86400, 30 * 86400)] == [1.0, 15.0, 300.0, 10800.0]


def test_a_ring_forgets_the_round_before() -> None:
    """After a pause longer than the ring, its old rows are not shown as new."""
    ring = Ring(1.0, 10)
    for at in (0.0, 3.0, 25.0):
        ring.add(at, at)
    assert [row[0] for row in ring.rows()] == [25.0]


def test_once_a_reading() -> None:
    """A reading that is shown twice counts once; a snapshot without one counts for nothing."""
    history, clock, _ = made()
    limit = Limit(bytes=100, kind="policy", source="test")
    snapshot = Snapshot(
        at=clock(), reading=Reading(at=clock(), used_bytes=7, source="x"), limit=limit, pressure=0.07, level=Level.OK,
        forecast=None,
    )  # fmt: skip
    blank = Snapshot(at=clock(), reading=None, limit=None, pressure=0.0, level=Level.OK, forecast=None)
    for each in (blank, snapshot, snapshot, blank):
        history.show(each)
    assert [point.count for point in history.points(10.0)] == [1]


def watched(**settings: Any) -> tuple[memguard.Guard, FakeClock, FakeMemory]:
    """A guard over fake memory that ticks by hand."""
    clock = FakeClock()
    memory = FakeMemory(clock)
    limit = Limit(bytes=512 * MIB, kind="policy", source="test")
    guard = memguard.Guard(limit=limit, probe=memory, clock=clock, roster=memguard.Roster(), **settings)
    return guard, clock, memory


def test_a_guard_remembers_from_the_first_question_on() -> None:
    """guard.history() before the first look is empty, afterwards it has the looks."""
    guard, clock, memory = watched()
    assert guard.history("1m") == ()
    for _ in range(10):
        guard.tick()
        clock.advance(1.0)
        memory.grow(MIB)
    points = guard.history("1m", "1s")
    assert [point.last_bytes // MIB for point in points] == list(range(64, 74))
    assert all(point.limit_bytes == 512 * MIB for point in points)


def test_a_started_guard_remembers_after_a_minute_by_itself() -> None:
    """Nobody asked, and yet there is a past to look at; a guard that lives shorter keeps none."""
    guard, clock, _ = watched()
    guard._teller.inline = False
    for _ in range(59):
        guard._watch.tick()
        clock.advance(1.0)
    assert guard._recorder is None
    for _ in range(10):
        guard._watch.tick()
        clock.advance(1.0)
    assert len(guard.history("1m", "1s")) >= 8


def test_reports_come_at_the_operators_pace() -> None:
    """One reading.recorded a MEMORY_MONITOR_INTERVAL, with numbers."""
    from memguard.testing import RecordingSink

    sink = RecordingSink()
    guard, clock, _ = watched(sinks=(sink,), record_interval_s=10)
    guard.remember()
    for _ in range(100):
        guard.tick()
        clock.advance(1.0)
    told = [event for event in sink.events if event.name == "reading.recorded"]
    assert len(told) == 10
    assert told[0].attributes["used_bytes"] == 64 * MIB
    assert told[0].attributes["limit_bytes"] == 512 * MIB
    assert "64.0 MiB of 512.0 MiB used (ok)" in told[0].text


def test_a_forked_child_has_a_past_of_its_own() -> None:
    """The parent's readings are not the child's, and what the child writes is not the parent's."""
    history, clock, _ = made()
    fill(history, clock, 10, lambda _: 1.0)
    pid = os.fork()
    if pid == 0:
        fill(history, clock, 5, lambda _: 9.0)
        history.forget()
        os._exit(len(history.points(100.0, 1.0)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert {point.max_bytes for point in history.points(100.0, 1.0)} == {1}
