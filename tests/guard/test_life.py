"""Starting and stopping, from anywhere and any number of times."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memguard.errors import AdmissionRefused, AlreadyGuarding
from memguard.guard import Guard
from memguard.model import Level
from memguard.reclaimers.gc_policy import GcPolicy
from memguard.roster import Roster
from memguard.testing import BlockingSink, FakeClock, FakeMemory, RecordingSink
from memguard.threads import Bell, Running
from memguard.units import MIB
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.model import Event


# Threads of guards that tests before this one left running: an idle teller stays for 30 s.
_older = set[threading.Thread]()


def _threads() -> list[str]:
    found = [thread for thread in threading.enumerate() if thread.name.startswith("memguard")]
    return [thread.name for thread in found if thread not in _older]


def _fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a thread, a gc hook or changed thresholds."""
    _older.clear()
    _older.update(threading.enumerate())
    before = list(gc.callbacks), gc.get_threshold()
    yield
    wait_for(lambda: not _threads())
    assert (list(gc.callbacks), gc.get_threshold()) == before


def _guard(**settings: object) -> Guard:
    settings.setdefault("roster", Roster())
    settings.setdefault("limit", "2GiB")
    return Guard(**settings)  # type: ignore[arg-type]


def test_creating_starts_nothing() -> None:
    """A guard that was only created runs no thread and has changed nothing, though it has events to tell."""
    sink = RecordingSink()
    guard = _guard(sinks=(sink,))
    assert not guard.running
    assert _threads() == []
    assert sink.events == []
    assert guard.snapshot.reading is None
    guard.stop()


def test_it_looks() -> None:
    """A started guard has a reading, a limit and a level soon."""
    with _guard() as guard:
        wait_for(lambda: guard.snapshot.reading is not None)
        assert guard.running
        assert guard.level is Level.OK
        assert 0.0 < guard.pressure < 0.5
        assert guard.snapshot.limit is not None
    assert not guard.running
    assert guard.snapshot.reading is None
    assert "stopped" in repr(guard)


def test_the_first_request_is_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is used already counts before the thread's first look: work that would not fit is refused at once."""
    ended = Bell()
    ended.ring()
    monkeypatch.setattr("memguard.guard.start_thread", lambda work, name: Running(ended, -1))  # it never looks
    memory = FakeMemory(FakeClock(), base_bytes="800MiB")
    guard = _guard(limit="1GiB", probe=memory)
    guard.start()
    assert guard.snapshot.reading is not None
    assert guard.pressure == 800 / 1024
    with pytest.raises(AdmissionRefused, match=r"300\.0 MiB"):
        guard.admit("300MiB")
    guard.stop()


def test_starting_twice_is_refused() -> None:
    """The second start says what to do, and the first goes on."""
    with _guard() as guard:
        with pytest.raises(AlreadyGuarding, match="start\\(\\) once"):
            guard.start()
        assert guard.running


def test_two_guards_over_one_roster_are_refused() -> None:
    """They would measure each other's reliefs; after the first has stopped the second may start."""
    roster = Roster()
    first, second = _guard(roster=roster), _guard(roster=roster)
    with first:
        with pytest.raises(AlreadyGuarding, match="another guard works through the same roster"):
            second.start()
        with _guard():
            pass
    with second:
        assert second.running


def test_stopping_twice_is_fine() -> None:
    """So is stopping what never ran."""
    guard = _guard()
    guard.stop()
    guard.start()
    guard.stop()
    guard.stop()
    assert not guard.running


def test_start_and_stop_in_quick_succession() -> None:
    """Fifty times: no thread and no descriptor is left."""
    guard = _guard()
    guard.start()
    guard.stop()
    before = _fds()
    for _ in range(50):
        guard.start()
        guard.stop()
    wait_for(lambda: not _threads())
    assert _fds() <= before


def test_start_and_stop_from_many_threads() -> None:
    """Whoever comes second is refused or does nothing; in the end it can be started and stopped as ever."""
    guard = _guard()
    faults: list[BaseException] = []

    def hurry() -> None:
        try:
            for _ in range(20):
                try:
                    guard.start()
                except AlreadyGuarding:
                    continue
                guard.stop()
        except BaseException as error:  # noqa: BLE001 - shown below
            faults.append(error)

    threads = [threading.Thread(target=hurry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    wait_for(lambda: not guard.running)
    with guard:
        wait_for(lambda: guard.snapshot.reading is not None)


def test_dropped_guards_leave_no_descriptor() -> None:
    """Guards that were created and forgotten give their descriptors back when they are collected."""
    _guard().stop()
    gc.collect()
    before = _fds()
    for _ in range(20):
        _guard()
    gc.collect()
    assert _fds() <= before


def test_async_with() -> None:
    """The context manager works on an event loop."""

    async def main() -> None:
        async with _guard() as guard:
            assert guard.running
        assert not guard.running

    asyncio.run(main())


def test_stop_in_a_sink() -> None:
    """A sink may stop the guard; it ends, and later events still arrive."""
    seen: list[str] = []
    box: list[Guard] = []

    def sink(event: Event, /) -> None:
        seen.append(event.name)
        if event.name == "guard.started":
            box[0].stop()

    box.append(_guard(sinks=(sink,)))
    box[0].start()
    wait_for(lambda: "guard.stopped" in seen)
    wait_for(lambda: not box[0].running)


def test_a_stop_while_stopping_does_nothing() -> None:
    """A sink that answers the end with another stop is told of one end."""
    seen: list[str] = []
    box: list[Guard] = []

    def sink(event: Event, /) -> None:
        seen.append(event.name)
        if event.name == "guard.stopped":
            box[0].stop()

    box.append(_guard(sinks=(sink,)))
    with box[0]:
        pass
    wait_for(lambda: not _threads())
    assert seen.count("guard.stopped") == 1


def test_stop_in_a_reclaimer() -> None:
    """A reclaimer may stop the guard that is asking it."""
    memory = FakeMemory(FakeClock())
    memory.grow(450 * MIB)
    guard = _guard(limit="512MiB", probe=memory)
    guard.reclaimer("stopper", lambda wanted_bytes: guard.stop())
    guard.start()
    wait_for(lambda: not guard.running)
    wait_for(lambda: guard.snapshot.reading is None)
    assert guard.level is Level.OK, "after a stop nothing is judged"


def test_stop_in_the_guards_own_thread() -> None:
    """A probe that stops the guard runs on its thread: the stop does not wait for itself."""

    class Stopping(FakeMemory):
        def read(self) -> int:
            if threading.current_thread().name == "memguard" and guard.running:
                guard.stop()
            return super().read()

    guard = _guard(probe=Stopping(FakeClock()))
    guard.start()
    wait_for(lambda: not guard.running)
    wait_for(lambda: not _threads())
    assert guard.snapshot.reading is None
    with _guard(roster=guard.roster):
        pass


def test_a_sink_that_blocks_holds_nobody_up() -> None:
    """Looking goes on while a sink blocks, and a stop waits for it two seconds at most."""
    sink = BlockingSink(give_up_s=30.0)
    with _guard(sinks=(sink,), pace_max_s=0.01) as guard:
        wait_for(lambda: sink.events)
        first = guard.snapshot
        wait_for(lambda: guard.snapshot.at > first.at)
    assert not guard.running
    sink.release()


def test_everything_is_put_back() -> None:
    """GC thresholds, gc hooks, frozen objects and the roster's owner are as they were."""
    guard = _guard()
    handle = guard.gc_policy(GcPolicy.idle())
    freeze = GcPolicy.freeze(after_s=None)
    guard.gc_policy(freeze)
    before = gc.get_threshold(), list(gc.callbacks), gc.get_freeze_count()
    with guard:
        freeze.warmed_up()
        assert gc.get_threshold() != before[0]
        assert len(gc.callbacks) == len(before[1]) + 1
        assert guard.roster.owner is not None
    assert (gc.get_threshold(), list(gc.callbacks)) == before[:2]
    assert gc.get_freeze_count() <= before[2], "3.12 freezes some objects at its own start; they thaw too"
    assert guard.roster.owner is None
    handle.close()
    assert handle.closed


def test_a_policy_closed_while_running_is_put_back() -> None:
    """Closing a policy's handle ends it at once; the default takes over."""
    before = gc.get_threshold()
    with _guard() as guard:
        handle = guard.gc_policy(GcPolicy.idle())
        assert gc.get_threshold() != before
        handle.close()
        assert gc.get_threshold() == before


def test_a_policy_that_cannot_start_or_stop() -> None:
    """It is told of, and nothing else is left undone."""

    class Broken:
        def start(self) -> None:
            raise RuntimeError("cannot start")

        def stop(self) -> None:
            raise RuntimeError("cannot stop")

        def due(self, *_: object) -> int | None:
            return None

    sink = RecordingSink()
    guard = _guard(sinks=(sink,))
    guard.gc_policy(Broken())
    guard.gc_policy(GcPolicy.idle())
    with guard:
        pass
    texts = [event.text for event in sink.events if event.name == "guard.fault"]
    assert ["cannot start" in texts[0], "cannot stop" in texts[1]] == [True, True]


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that fails leaves nothing behind, and can be tried again."""

    def none_left(work: object, name: str) -> None:
        raise RuntimeError("can't start new thread")

    guard = _guard()
    with monkeypatch.context() as patch:
        patch.setattr("memguard.guard.start_thread", none_left)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            guard.start()
    assert not guard.running
    assert guard.roster.owner is None
    with guard:
        assert guard.running


def test_a_start_after_a_stop_judges_anew() -> None:
    """What was learned about reclaimers stays; what was judged does not."""
    memory = FakeMemory(FakeClock())
    memory.grow(450 * MIB)
    sink = RecordingSink()
    guard = _guard(limit="512MiB", probe=memory, sinks=(sink,))
    with guard:
        wait_for(lambda: guard.level >= Level.WARNING)
        memory.grow(-400 * MIB)
    assert guard.incidents[-1].verdict == "not over: the guard was stopped"
    with guard:
        wait_for(lambda: guard.snapshot.reading is not None)
        assert guard.level is Level.OK


def test_own_loops_get_their_events() -> None:
    """A host that calls tick() itself is told events too, and stop() ends the telling."""
    sink = RecordingSink()
    guard = _guard(sinks=(sink,), limit=None)
    assert guard.tick() > 0.0
    wait_for(lambda: "limit.none" in sink.names)
    guard.tick()
    guard.stop()
    assert sink.names.count("limit.none") == 1
