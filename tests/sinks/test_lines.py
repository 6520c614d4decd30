"""Slow sinks have lines of their own; what a sink may have beside its call is called when it should."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import memguard
from memguard.model import Event
from memguard.telling import Teller
from memguard.testing import RecordingSink
from tests.waiting import wait_for

if TYPE_CHECKING:
    import pytest


def event(number: int = 0) -> Event:
    """An event with a number."""
    return Event(at=float(number), name="guard.started", text=f"event {number}")


class Slow(RecordingSink):
    """Blocks at its first event until it is let go; notes what else is called."""

    slow = True
    name = "slow"

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.calls: list[str] = []
        self.wrong: BaseException | None = None

    def __call__(self, event: Event, /) -> None:
        super().__call__(event)
        self.go.wait(30.0)
        if self.wrong is not None:
            raise self.wrong

    def flush(self) -> None:
        self.calls.append("flush")

    def hurry(self) -> None:
        self.calls.append("hurry")

    def close(self) -> None:
        self.calls.append("close")

    def forget(self) -> None:
        self.calls.append("forget")


def test_others_are_told_meanwhile() -> None:
    """One that hangs holds up nobody, loses its own oldest events, and that is counted and told to it."""
    slow, log = Slow(), RecordingSink()
    teller = Teller((slow, log))
    teller.start()
    for number in range(2000):
        teller.tell(event(number))
        if number % 200 == 0:
            wait_for(lambda: len(log.events) > number - 1, 10.0)  # noqa: B023 - used at once
    wait_for(lambda: len(log.events) == 2000)
    slow.go.set()
    wait_for(lambda: slow.events[-1].at == 1999.0)
    teller.stop(5.0)
    assert teller.dropped > 900
    dropped = [each for each in slow.events if each.name == "events.dropped"]
    assert sum(int(each.attributes["count"]) for each in dropped) == teller.dropped
    assert "events.dropped" not in log.names


def test_a_stop_hurries_delivers_and_closes() -> None:
    """At the end: hurry, what is left, flush, close; in this order, and again after another start."""
    slow = Slow()
    slow.go.set()
    teller = Teller((slow,))
    for _ in range(2):
        slow.calls.clear()
        teller.start()
        teller.tell(event())
        teller.stop(5.0)
        assert slow.calls[-1] == "close"
        assert slow.calls.index("hurry") < slow.calls.index("close")
        assert "flush" in slow.calls
    assert len(slow.events) == 2


def test_flush_comes_without_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that gathers is asked to write about once a second."""
    monkeypatch.setattr("memguard.telling._FLUSH_S", 0.01)
    slow = Slow()
    teller = Teller((slow,))
    teller.start()
    wait_for(lambda: slow.calls.count("flush") >= 3)
    teller.stop(5.0)


def test_a_failure_in_a_line_is_told_to_the_others() -> None:
    """The others hear once that a slow one raised; it is counted every time."""
    slow, log = Slow(), RecordingSink()
    slow.go.set()
    slow.wrong = OSError("disk gone")
    teller = Teller((slow, log))
    teller.start()
    for number in range(3):
        teller.tell(event(number))
    wait_for(lambda: "sink.failed" in log.names)
    teller.stop(5.0)
    assert "sink slow failed on guard.started: OSError: disk gone" in [each.text for each in log.events]
    assert log.names.count("sink.failed") == 1
    assert teller.failures["slow"] >= 3


def test_a_flush_that_raises_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread goes on."""
    monkeypatch.setattr("memguard.telling._FLUSH_S", 0.01)
    slow, log = Slow(), RecordingSink()
    slow.go.set()

    def flush() -> None:
        slow.calls.append("flush")
        raise MemoryError

    monkeypatch.setattr(slow, "flush", flush)
    teller = Teller((slow, log))
    teller.start()
    wait_for(lambda: slow.calls.count("flush") >= 3)
    teller.tell(event())
    wait_for(lambda: slow.events)
    teller.stop(5.0)


def test_in_line_it_is_all_one_thread() -> None:
    """In a simulation slow sinks are called in tell itself."""
    slow = Slow()
    slow.go.set()
    teller = Teller((slow,), inline=True)
    teller.start()
    teller.tell(event())
    assert slow.names == ["guard.started"]
    assert slow.calls == ["flush"]
    teller.stop(0.0)
    assert slow.calls[-1] == "close"


def test_sinks_come_and_go() -> None:
    """guard.sink() adds one to a guard that runs; its handle takes it away again."""
    guard = memguard.Guard(limit="1GiB", roster=memguard.Roster())
    slow, quick = Slow(), RecordingSink()
    slow.go.set()
    with guard:
        handles = [guard.sink(slow), guard.sink(quick)]
        guard.tell("store.note", "one")
        wait_for(lambda: "store.note" in slow.names and "store.note" in quick.names)
        for handle in handles:
            handle.close()
            assert handle.closed
        guard.tell("store.note", "two")
    assert slow.names.count("store.note") == 1
    assert quick.names.count("store.note") == 1
    assert guard.sink_failures == {}


def test_equal_sinks_are_not_one() -> None:
    """Sinks that compare equal, or cannot be hashed, each have a line."""

    class Equal(Slow):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    one, other = Equal(), Equal()
    one.go.set()
    other.go.set()
    teller = Teller((one, other))
    teller.start()
    teller.tell(event())
    teller.stop(5.0)
    assert (len(one.events), len(other.events)) == (1, 1)


def test_in_a_forked_child_lines_begin_anew() -> None:
    """The child's line works although the parent's was held, and what the parent had queued is not told twice."""
    slow = Slow()
    teller = Teller((slow,))
    teller.start()
    teller.tell(event(1))
    teller.tell(event(2))
    wait_for(lambda: slow.events)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            slow.go = threading.Event()
            slow.go.set()
            slow.events.clear()
            teller.forget()
            teller.start()
            teller.tell(event(3))
            deadline = time.monotonic() + 5.0
            while not slow.events and time.monotonic() < deadline:
                threading.Event().wait(0.01)
            code = 0 if [each.at for each in slow.events] == [3.0] and "forget" in slow.calls else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    slow.go.set()
    teller.stop(5.0)


def test_those_who_tell_at_once_start_one_thread() -> None:
    """However many tell at the same time, a stop finds the one thread there is, at once."""
    for _ in range(30):
        log = RecordingSink()
        teller = Teller((log,))
        teller.start()
        barrier = threading.Barrier(6)

        def tell(teller: Teller = teller, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            teller.tell(event())

        threads = [threading.Thread(target=tell) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        began = time.monotonic()
        teller.stop(5.0)
        assert time.monotonic() - began < 4.0
        assert len(log.events) == 6
