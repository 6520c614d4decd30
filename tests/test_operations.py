"""Operations: who runs, what each cost, and what is fair when several overlap."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from memguard.operations import Operations
from memguard.testing import FakeClock
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from memguard._core.tally import OperationStats


class Scene:
    """A clock and a memory that move when they are told to."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.used = 100 * MIB
        self.operations = Operations(used_bytes=lambda: self.used, clock=self.clock, **options)

    def live(self, seconds: float, mib: float) -> None:
        self.clock.advance(seconds)
        self.used += int(mib * MIB)

    def stats(self, type_: str) -> OperationStats:
        return next(row for row in self.operations.stats() if row.type == type_)


@pytest.fixture
def scene() -> Scene:
    """Nothing runs, 100 MiB used."""
    return Scene()


def test_one_operation(scene: Scene) -> None:
    """Its duration and what memory grew by in that time, measured and not shared."""
    with scene.operations.operation("agent.run", id="a7"):
        scene.live(2.0, 30)
    (row,) = scene.operations.ended()
    assert (row.id, row.type, row.status, row.duration_s) == ("a7", "agent.run", "done", 2.0)
    assert (row.memory_delta_bytes, row.shared, row.alone_ratio) == (30 * MIB, False, 1.0)
    assert scene.stats("agent.run").memory_alone_bytes == 30 * MIB


def test_memory_may_fall(scene: Scene) -> None:
    """An operation that frees has a delta below 0."""
    with scene.operations.operation("clear"):
        scene.live(1.0, -40)
    assert scene.stats("clear").memory_mean_bytes == -40 * MIB


def _sibling(scene: Scene, type_: str) -> Any:
    """An operation that began in a context of its own, as another request's."""
    operation = scene.operations.operation(type_)
    contextvars.Context().run(operation.start)
    return operation


def test_siblings_share_equally(scene: Scene) -> None:
    """Alone 10, together 20, alone 5: 20 and 15, both marked, with the share of the time that each was alone."""
    first = _sibling(scene, "a")
    scene.live(1.0, 10)
    second = _sibling(scene, "b")
    scene.live(2.0, 20)
    first.end()
    scene.live(2.0, 5)
    second.end()
    rows = {row.type: row for row in scene.operations.ended()}
    assert rows["a"].memory_delta_bytes == 20 * MIB
    assert rows["b"].memory_delta_bytes == 15 * MIB
    assert rows["a"].shared
    assert rows["b"].shared
    assert rows["a"].alone_ratio == pytest.approx(1 / 3)
    assert rows["b"].alone_ratio == pytest.approx(1 / 2)
    assert scene.stats("a").memory_alone_bytes is None
    assert scene.stats("a").shared == 1


def test_what_is_known_of_a_type_weighs(scene: Scene) -> None:
    """Types that were seen to grow memory by 10 and 30 MiB a second share what they grow by together 1 to 3."""
    for type_, mib in (("light", 10), ("heavy", 30)):
        with scene.operations.operation(type_):
            scene.live(1.0, mib)
    light, heavy = _sibling(scene, "light"), _sibling(scene, "heavy")
    scene.live(1.0, 20)
    light.end()
    heavy.end()
    rows = {row.type: row.memory_delta_bytes / MIB for row in scene.operations.ended()[:2]}
    assert rows == pytest.approx({"light": 5, "heavy": 15})


def _stream(scene: Scene, dice: random.Random, count: int) -> Iterator[tuple[float, str]]:
    """Three requests at a time of two types, 2 and 18 MiB, for 0.5 to 1.5 s each: what begins when."""
    running: list[tuple[float, str, Any]] = []
    for _ in range(count):
        while len(running) < 3:
            type_ = dice.choice(["small", "large"])
            running.append((scene.clock() + dice.uniform(0.5, 1.5), type_, _sibling(scene, type_)))
        running.sort(key=lambda one: one[0])
        until, type_, operation = running.pop(0)
        scene.live(until - scene.clock(), 0)
        yield until, type_
        operation.end()


def test_types_that_always_overlap_are_told_apart(scene: Scene) -> None:
    """Where equal parts would say 7 for 2 and 12 for 18 MiB, learned weights come within a third of the truth."""
    truth = {"small": 2, "large": 18}
    for _, type_ in _stream(scene, random.Random(7), 2000):
        scene.used += truth[type_] * MIB
    rows = {row.type: row for row in scene.operations.stats()}
    assert all(row.shared == row.count for row in rows.values())
    means = {type_: rows[type_].memory_mean_bytes / MIB for type_ in truth}
    assert means == pytest.approx(truth, rel=0.33)


def test_what_is_inside_counts_in_both(scene: Scene) -> None:
    """An operation with others inside of it gets what they got, and is not marked: nobody else ran."""
    with scene.operations.operation("outer"):
        scene.live(1.0, 10)
        with scene.operations.operation("inner"):
            scene.live(1.0, 20)
        scene.live(1.0, 5)
    rows = {row.type: row for row in scene.operations.ended()}
    assert (rows["outer"].memory_delta_bytes, rows["inner"].memory_delta_bytes) == (35 * MIB, 20 * MIB)
    assert not rows["outer"].shared
    assert not rows["inner"].shared


def test_gathered_inside_share_and_the_outer_one_does_not(scene: Scene) -> None:
    """Two tasks of one request share what they grew by; the request has it all, measured."""

    async def part() -> None:
        with scene.operations.operation("part"):
            await asyncio.sleep(0)

    async def request() -> None:
        with scene.operations.operation("request"):
            tasks = [asyncio.create_task(part()) for _ in range(2)]
            await asyncio.sleep(0)
            scene.live(1.0, 30)
            await asyncio.gather(*tasks)

    asyncio.run(request())
    parts = [row for row in scene.operations.ended() if row.type == "part"]
    assert [row.memory_delta_bytes for row in parts] == [15 * MIB, 15 * MIB]
    assert all(row.shared for row in parts)
    (whole,) = [row for row in scene.operations.ended() if row.type == "request"]
    assert (whole.memory_delta_bytes, whole.shared) == (30 * MIB, False)


def test_who_outlives_the_outer_one_stands_for_itself(scene: Scene) -> None:
    """A task that goes on after its request has ended gets what comes then, and nothing is lost or counted twice."""
    outer, inner = scene.operations.operation("outer"), scene.operations.operation("inner")
    outer.start()
    inner.start()
    scene.live(1.0, 8)
    outer.end()
    scene.live(1.0, 4)
    other = _sibling(scene, "other")
    scene.live(1.0, 2)
    other.end()
    inner.end()
    rows = {row.type: row.memory_delta_bytes for row in scene.operations.ended()}
    assert rows == {"outer": 0, "inner": 13 * MIB, "other": MIB}
    assert len(scene.operations) == 0


def test_growth_while_nobody_runs(scene: Scene) -> None:
    """It is nobody's, and shown as that."""
    with scene.operations.operation("a"):
        pass
    scene.live(1.0, 7)
    with scene.operations.operation("a"):
        pass
    assert scene.operations.unattributed_bytes == 7 * MIB
    assert scene.stats("a").memory_total_bytes == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [(ZeroDivisionError, "failed"), (asyncio.CancelledError, "abandoned"), (GeneratorExit, "abandoned")],
)
def test_outcomes(scene: Scene, error: type[BaseException], status: str) -> None:
    """An exception is a failure, a cancellation is not; both pass through and are counted."""
    with pytest.raises(error), scene.operations.operation("a"):
        raise error
    assert scene.operations.ended()[0].status == status
    stats = scene.stats("a")
    assert (stats.failed, stats.abandoned) == (int(status == "failed"), int(status == "abandoned"))


def test_running_and_the_long_filter(scene: Scene) -> None:
    """What runs, longest first, with what it got so far; only those above a duration, or of a type."""
    first = _sibling(scene, "agent.run")
    scene.live(200.0, 10)
    second = _sibling(scene, "llm")
    scene.live(150.0, 20)
    rows = scene.operations.running()
    assert [(row.id, row.status, row.duration_s) for row in rows] == [
        ("agent.run-1", "running", 350.0),
        ("llm-2", "running", 150.0),
    ]
    assert [row.memory_delta_bytes for row in rows] == [20 * MIB, 10 * MIB]
    assert [row.type for row in scene.operations.running(duration_gt=300)] == ["agent.run"]
    assert [row.type for row in scene.operations.running(type="llm")] == ["llm"]
    assert scene.stats("llm").running == 1
    first.end()
    second.end()
    assert scene.operations.running() == ()


def test_an_outer_one_shows_what_is_inside(scene: Scene) -> None:
    """While the inner one runs, the list shows its growth in both."""
    with scene.operations.operation("outer"):
        scene.live(1.0, 1)
        with scene.operations.operation("inner"):
            scene.live(1.0, 2)
            assert [row.memory_delta_bytes for row in scene.operations.running()] == [3 * MIB, 2 * MIB]


def test_percentiles(scene: Scene) -> None:
    """Of 1 to 100 seconds: the median, p95, p99 and the longest, by nearest rank; and the same for bytes."""
    for seconds in range(1, 101):
        with scene.operations.operation("a"):
            scene.live(float(seconds), seconds)
    stats = scene.stats("a")
    assert (stats.count, stats.duration_mean_s, stats.duration_max_s) == (100, 50.5, 100.0)
    assert (stats.duration_p50_s, stats.duration_p95_s, stats.duration_p99_s) == (51.0, 96.0, 100.0)
    assert (stats.memory_p50_bytes, stats.memory_p95_bytes, stats.memory_max_bytes) == (51 * MIB, 96 * MIB, 100 * MIB)
    assert stats.memory_total_bytes == 5050 * MIB


def test_percentiles_follow(scene: Scene) -> None:
    """They are of the last 256, the sums are of all."""
    for seconds in [1.0] * 300 + [9.0] * 256:
        with scene.operations.operation("a"):
            scene.clock.advance(seconds)
    stats = scene.stats("a")
    assert (stats.count, stats.duration_p50_s) == (556, 9.0)
    assert stats.duration_mean_s == pytest.approx((300 + 9 * 256) / 556)


def test_memory_is_bounded_whatever_the_types() -> None:
    """Types beyond the bound share the row "other", and the list of those that ended is bounded."""
    scene = Scene(max_types=3)
    for number in range(1000):
        with scene.operations.operation(f"user-{number}"):
            pass
    rows = {row.type: row.count for row in scene.operations.stats()}
    assert rows == {"user-0": 1, "user-1": 1, "user-2": 1, "other": 997}
    assert len(scene.operations.ended()) == 256


def test_ended_since(scene: Scene) -> None:
    """What began after an instant, newest first."""
    for _ in range(3):
        with scene.operations.operation("a"):
            scene.clock.advance(1.0)
    since = scene.operations.ended()[1].at
    assert [row.id for row in scene.operations.ended(since=since)] == ["a-3"]


def test_decorating(scene: Scene) -> None:
    """Functions, coroutines and generators of both kinds: each call is an operation, each result is passed on."""

    @scene.operations.operation("sync")
    def plain(number: int) -> int:
        """Doc."""
        return number + 1

    @scene.operations.operation("async")
    async def waits(number: int) -> int:
        return number + 1

    @scene.operations.operation("generator")
    def yields() -> Iterator[int]:
        yield 1
        yield 2

    @scene.operations.operation("stream")
    async def streams() -> AsyncIterator[int]:
        yield 1
        scene.live(1.0, 3)
        yield 2

    async def listed() -> list[int]:
        return [item async for item in streams()]

    assert plain(1) == plain(1) == 2
    assert plain.__doc__ == "Doc."
    assert asyncio.run(waits(1)) == 2
    assert list(yields()) == [1, 2]
    assert asyncio.run(listed()) == [1, 2]
    assert {row.type: row.count for row in scene.operations.stats()} == {
        "sync": 2, "async": 1, "generator": 1, "stream": 1,
    }  # fmt: skip
    assert scene.stats("stream").memory_total_bytes == 3 * MIB


def test_a_generator_is_nobodys_inside(scene: Scene) -> None:
    """What its consumer does between two items is not part of it; dropped half way, it is abandoned."""

    @scene.operations.operation("items")
    def yields() -> Iterator[int]:
        yield 1
        yield 2

    items = yields()
    next(items)
    with scene.operations.operation("mine"):
        scene.live(1.0, 4)
    rows = {row.type: row for row in scene.operations.ended()}
    assert rows["mine"].shared
    del items
    assert scene.operations.ended()[0].status == "abandoned"
    assert scene.operations.running() == ()


def test_an_operation_is_used_once(scene: Scene) -> None:
    """A second beginning is an error that says what to do; a second end is nothing."""
    operation = scene.operations.operation("a", id="x")
    with operation:
        pass
    operation.end()
    with pytest.raises(RuntimeError, match="make a new one"):
        operation.start()
    with pytest.raises(RuntimeError, match="decorate with a fresh one"):
        operation(len)
    assert scene.stats("a").count == 1


def test_bad_input(scene: Scene) -> None:
    """A type or an id that cannot be meant is named."""
    for call, words in (
        (lambda: scene.operations.operation(""), "blank"),
        (lambda: scene.operations.operation(7), "is text"),  # type: ignore[arg-type]
        (lambda: scene.operations.operation("a", id=7), "an id is text"),  # type: ignore[arg-type]
        (lambda: scene.operations.operation("a")(7), "decorates functions"),  # type: ignore[type-var]
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            call()


def test_a_reader_that_fails() -> None:
    """Without a reading the time is measured all the same, and growth goes on from the next good reading."""
    readings: list[Any] = [100, OSError("gone"), 130, 150]

    def read() -> int:
        reading = readings.pop(0)
        if isinstance(reading, OSError):
            raise reading
        return int(reading)

    operations = Operations(used_bytes=read, clock=FakeClock())
    with operations.operation("a"):
        pass
    with operations.operation("b"):
        pass
    assert {row.type: row.memory_total_bytes for row in operations.stats()} == {"a": 0, "b": 20}
    assert operations.unattributed_bytes == 30


def test_its_own_reader() -> None:
    """Without one it reads this process's resident memory, here and in a forked child."""
    operations = Operations()
    with operations.operation("a"):
        kept = bytearray(b"x") * (32 * MIB)
    assert 30 * MIB < operations.stats()[0].memory_mean_bytes < 40 * MIB
    operations.forget()
    with operations.operation("b"):
        del kept
    assert operations.ended()[0].memory_delta_bytes < -30 * MIB


def test_after_a_fork_the_parents_are_not_ours(scene: Scene) -> None:
    """What ran in the parent ends in the child without a trace."""
    with scene.operations.operation("parents"):
        scene.operations.forget()
        with scene.operations.operation("childs"):
            scene.live(1.0, 5)
    assert [row.type for row in scene.operations.ended()] == ["childs"]
    assert scene.stats("childs").shared == 0


def test_nothing_is_kept_alive(scene: Scene) -> None:
    """Contexts that outlive an operation keep neither its owner nor what it ran in."""
    kept: list[contextvars.Context] = []
    with scene.operations.operation("a"):
        kept.append(contextvars.copy_context())
    ref = weakref.ref(scene.operations)
    scene.operations = Operations(clock=scene.clock)
    assert ref() is None
    assert kept


def test_many_threads() -> None:
    """Nothing is lost or counted twice: all that memory grew by is somebody's or nobody's."""
    lock, used = threading.Lock(), [0]

    def read() -> int:
        with lock:
            used[0] += 1
            return used[0]

    operations = Operations(used_bytes=read)

    def work() -> None:
        for _ in range(2000):
            with operations.operation("outer"), operations.operation("inner"):
                pass

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = {row.type: row for row in operations.stats()}
    assert stats["outer"].count == stats["inner"].count == 12_000
    grown = stats["outer"].memory_total_bytes + operations.unattributed_bytes
    assert grown == pytest.approx(used[0] - 1, abs=2)
    assert len(operations) == 0
