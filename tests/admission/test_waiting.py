"""Waiting for room: order, deadlines, cancellations; by threads and on event loops."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from memguard import AdmissionRefused, Guard, Roster
from memguard.testing import FakeClock, FakeMemory
from memguard.units import MIB
from tests.waiting import wait_for

if TYPE_CHECKING:
    from memguard.kinds import Priority


@pytest.fixture
def guard() -> Guard:
    """100 of 500 MiB used, real time, looked at by hand."""
    memory = FakeMemory(FakeClock(), base_bytes="100MiB")
    guard = Guard(limit="500MiB", probe=memory, roster=Roster())
    guard.tick()
    return guard


def _work(guard: Guard, got: list[str], name: str, bytes_: str, **how: Any) -> threading.Thread:
    """A thread that waits for room, notes its name and is done."""

    def run() -> None:
        try:
            with guard.admit(bytes_, wait_s=20.0, label=name, **how):
                got.append(name)
        except AdmissionRefused:
            got.append(f"not {name}")

    before = guard.gate.waiting
    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: guard.gate.waiting > before)
    return thread


async def _turns_until_waiting(guard: Guard) -> None:
    for _ in range(1000):
        if guard.gate.waiting:
            return
        await asyncio.sleep(0)
    raise AssertionError("nobody waits")


def test_threads_are_let_in_as_they_came(guard: Guard) -> None:
    """First in, first out, each as soon as there is room for it."""
    got: list[str] = []
    held = guard.admit("350MiB")
    threads = [_work(guard, got, name, "300MiB") for name in ("one", "two", "three")]
    held.close()
    for thread in threads:
        thread.join(10.0)
    assert got == ["one", "two", "three"]
    assert (guard.gate.promised_bytes, guard.gate.running, guard.gate.waiting) == (0, 0, 0)


def test_priorities_go_first(guard: Guard) -> None:
    """Critical work passes normal work that came before it; sheddable work is last."""
    got: list[str] = []
    ranks: tuple[Priority, ...] = ("sheddable", "normal", "critical")
    held = guard.admit("350MiB")
    threads = [_work(guard, got, rank, "280MiB", priority=rank) for rank in ranks]
    held.close()
    for thread in threads:
        thread.join(10.0)
    assert got == ["critical", "normal", "sheddable"]


def test_what_is_too_large_now_does_not_block_the_others(guard: Guard) -> None:
    """A small piece of work goes past a large one that does not fit yet."""
    got: list[str] = []
    first, second = guard.admit("200MiB"), guard.admit("150MiB")
    large = _work(guard, got, "large", "340MiB")
    small = _work(guard, got, "small", "100MiB")
    second.close()
    small.join(10.0)
    assert got == ["small"]
    first.close()
    large.join(10.0)
    assert got == ["small", "large"]


def test_a_deadline_is_kept(guard: Guard) -> None:
    """Whoever finds no room in time is refused, leaves the line, and is counted."""
    held = guard.admit("350MiB")
    began = time.monotonic()
    with pytest.raises(AdmissionRefused):
        guard.admit("100MiB", wait_s=0.05)
    assert 0.05 <= time.monotonic() - began < 5.0
    assert (guard.gate.waiting, guard.gate.refusals) == (0, 1)
    held.close()


def test_on_an_event_loop_tasks_are_let_in_by_closes_on_other_threads(guard: Guard) -> None:
    """A ticket that a thread closes lets a waiting task in."""
    held = guard.admit("350MiB")

    async def main() -> str:
        async def work() -> str:
            async with guard.admit("300MiB", wait_s=20.0):
                return "in"

        task = asyncio.create_task(work())
        await _turns_until_waiting(guard)
        thread = threading.Thread(target=held.close)
        thread.start()
        try:
            return await asyncio.wait_for(task, 10.0)
        finally:
            thread.join()

    assert asyncio.run(main()) == "in"
    assert (guard.gate.promised_bytes, guard.gate.running) == (0, 0)


def test_a_cancelled_waiter_keeps_nothing(guard: Guard) -> None:
    """Cancelled while it waits, or in the very turn in which it was let in: no promise, no open ticket, no place."""

    async def main() -> None:
        for turns in range(8):
            held = guard.admit("350MiB")

            async def work() -> None:
                async with guard.admit("300MiB", wait_s=20.0):
                    await asyncio.sleep(0)

            task = asyncio.create_task(work())
            await _turns_until_waiting(guard)
            held.close()
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task}, timeout=5.0)
            assert (guard.gate.promised_bytes, guard.gate.running, guard.gate.waiting) == (0, 0, 0)

    asyncio.run(main())


def test_many_waiters_from_many_threads(guard: Guard) -> None:
    """Two hundred pieces of work through room for three: all get in, never more than fit, nothing is left."""
    most, lock, got = 0, threading.Lock(), []

    def run() -> None:
        nonlocal most
        with guard.admit("100MiB", wait_s=60.0):
            with lock:
                most = max(most, guard.gate.promised_bytes)
            got.append(1)

    threads = [threading.Thread(target=run) for _ in range(200)]
    for thread in threads:
        thread.start()
    # Looks, as a running guard takes them: they wake those whom a close has missed.
    wait_for(lambda: guard.tick() and len(got) == 200, 60.0)
    for thread in threads:
        thread.join(10.0)
    assert most <= 350 * MIB
    assert (guard.gate.promised_bytes, guard.gate.running, guard.gate.waiting) == (0, 0, 0)


def test_a_waiter_dropped_while_others_are_let_in_is_taken_out(guard: Guard) -> None:
    """A collection inside the waiting room may end a waiter on the very thread that holds its lock: nothing hangs."""
    held = guard.admit("350MiB")

    async def main() -> None:
        async def work() -> None:
            async with guard.admit("300MiB", wait_s=20.0):
                raise AssertionError("nobody waits any more")

        dropped = work()
        dropped.send(None)  # runs up to where it waits
        room = guard.gate._room
        assert room is not None
        with room._lock:
            dropped.close()
        assert guard.gate.waiting == 1
        held.close()
        assert (guard.gate.waiting, guard.gate.running, guard.gate.promised_bytes) == (0, 0, 0)

    asyncio.run(main())
