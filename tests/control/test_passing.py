"""Requests that pass unread: counted, timed, and reckoned with where growth is split."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Any

import pytest

from memguard.operations import TEND_S, Operations
from memguard.testing import FakeClock
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.operations import Passing


class Scene:
    """A clock and a memory that move when they are told to."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.used = 100 * MIB
        self.operations = Operations(used_bytes=lambda: self.used, clock=self.clock)
        self.passing: Passing = self.operations.passing(str)

    def live(self, seconds: float, mib: float) -> None:
        self.clock.advance(seconds)
        self.used += int(mib * MIB)

    def whole(self) -> int:
        """What everybody together is said to have grown memory by."""
        read = sum(row.memory_delta_bytes for row in self.operations.ended() if row.sampled)
        return read + self.operations.unattributed_bytes + self.operations.passed_bytes


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Nothing runs, 100 MiB used; the first of a kind, which is read, is over."""
    scene = Scene()
    scene.passing.end(scene.passing.begin("GET /a", "a"), "done")
    yield scene
    assert scene.passing.open == {}
    assert len(scene.operations) == 0


def _apart(work: Any) -> Any:
    """Do it in a context of its own, as another request's."""
    return contextvars.Context().run(work)


def test_growth_is_split_by_time(scene: Scene) -> None:
    """One that is read for a second, with one that passes beside it all the time, has half of the growth; shared."""
    scene.passing._next_at["a"] = float("inf")
    one = scene.operations.operation("agent.run")
    _apart(one.start)
    for _ in range(9):
        nine = scene.passing.begin("GET /a", "a")
        scene.live(1 / 9, 10 / 9)
        scene.passing.end(nine, "done")
    one.end()
    (row,) = scene.operations.ended(since=-1.0)[:1]
    assert row.type == "agent.run"
    assert row.memory_delta_bytes == pytest.approx(5 * MIB, abs=64)
    assert row.shared
    assert scene.operations.passed_bytes == pytest.approx(5 * MIB, abs=64)
    assert scene.whole() == pytest.approx(10 * MIB, abs=64)


def test_what_passes_alone_is_nobody_elses(scene: Scene) -> None:
    """Growth between two that are read belongs to those that passed meanwhile."""
    for _ in range(5):
        passer = scene.passing.begin("GET /a", "a")
        scene.live(0.001, 1)
        scene.passing.end(passer, "done")
    with scene.operations.operation("b"):
        scene.live(1.0, 2)
    assert scene.operations.ended()[0].memory_delta_bytes == 2 * MIB
    assert scene.operations.passed_bytes == 5 * MIB
    assert scene.operations.unattributed_bytes == 0
    rows = {row.type: row for row in scene.operations.stats()}
    assert (rows["GET /a"].count, rows["GET /a"].sampled) == (6, 1)


def test_types_by_ten_a_second(scene: Scene) -> None:
    """Each kind is read ten times a second however many come, rare ones each time; 200 a second of all."""
    read = 0
    for number in range(1000):
        passer = scene.passing.begin("GET /a", "a")
        read += passer.operation is not None
        scene.passing.end(passer, "done")
        if number % 150 == 0:
            rare = scene.passing.begin("GET /rare", "rare")
            assert rare.operation is not None
            scene.passing.end(rare, "done")
        scene.clock.advance(0.001)
    assert 9 <= read <= 10
    for number in range(5000):
        scene.passing.end(scene.passing.begin("GET /x", number), "done")
    row = next(row for row in scene.operations.stats() if row.type == "GET /x")
    assert (row.count, row.sampled) == (5000, 200)


def test_one_that_lasts_is_read_when_it_is_tended(scene: Scene) -> None:
    """Nobody has to come after it: what it asked to be woken for finds it."""
    woken: list[float] = []
    scene.passing.wake = lambda: woken.append(scene.clock())
    passer = scene.passing.begin("GET /a", "a")
    assert len(woken) == 1
    for _ in range(3):
        scene.clock.advance(TEND_S)
        scene.passing.tend()
    assert passer.operation is not None
    scene.live(10.0, 30)
    scene.passing.end(passer, "abandoned")
    row = scene.operations.ended()[0]
    assert (row.status, row.sampled, row.memory_delta_bytes) == ("abandoned", True, 30 * MIB)
    assert row.duration_s == pytest.approx(10.0 + 3 * TEND_S)


def test_what_the_context_keeps_is_over(scene: Scene) -> None:
    """After one has passed, work in the same context is not inside of it."""
    with scene.operations.operation("any"):  # from here on it matters who is inside of whom
        pass
    scene.passing.end(scene.passing.begin("GET /a", "a"), "done")
    with scene.operations.operation("after"):
        scene.live(1.0, 3)
    row = scene.operations.ended()[0]
    assert (row.type, row.memory_delta_bytes, row.shared) == ("after", 3 * MIB, False)


def test_threads() -> None:
    """Whoever begins, ends, looks and nests at once: all are counted, once, and nobody is left over."""
    operations = Operations(used_bytes=lambda: 5)
    passing, errors = operations.passing(str), list[BaseException]()

    def work(name: str) -> None:
        try:
            for number in range(500):
                passer = passing.begin(f"GET /{name}", name)
                if number % 7 == 0:
                    with operations.operation("inner"):
                        pass
                if number % 50 == 0:
                    operations.running()
                    operations.stats()
                passing.end(passer, "done" if number % 3 else "failed")
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert errors == []
    rows = {row.type: row for row in operations.stats()}
    assert [rows[f"GET /{number}"].count for number in range(4)] == [500] * 4
    assert rows["inner"].count == 4 * 72
    assert operations.completed == 4 * 500 + 4 * 72
    assert len(operations) == 0


def test_a_forked_child_begins_anew(scene: Scene) -> None:
    """What passes in the parent is not the child's."""
    passer = scene.passing.begin("GET /a", "a")
    scene.operations.forget()
    assert len(scene.operations) == 0
    scene.passing.end(passer, "done")  # the parent's request, which the child happens to end
    assert scene.operations.running() == ()
