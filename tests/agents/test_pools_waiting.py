"""Waiting for a place in a pool: in order, with a deadline, threads and tasks in one line, nobody forgotten."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from memguard.agents.pools import Pool
from memguard.errors import PoolFull
from memguard.model import Level, Limit, Reading, Snapshot
from memguard.rules import Rules
from memguard.units import MIB
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable


class Room:
    """Memory as a number that a test may change: of 1000 MiB so much is used."""

    used = 100 * MIB

    def snapshot(self) -> Snapshot:
        return Snapshot(
            at=0.0, reading=Reading(at=0.0, used_bytes=self.used, source="x"), pressure=0.0, level=Level.OK,
            forecast=None, limit=Limit(bytes=1000 * MIB, kind="kill", source="x"),
        )  # fmt: skip

    def pool(self, **options: Any) -> Pool[Any]:
        options = {"max_size": 1} | options
        return Pool("agents", rules=Rules(), snapshot=self.snapshot, used_bytes=lambda: self.used, **options)


@pytest.fixture
def room() -> Room:
    """100 of 1000 MiB used."""
    return Room()


def _start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


async def _waiting(pool: Pool[Any], count: int) -> None:
    async with asyncio.timeout(10):
        while pool.stats().waiting < count:  # noqa: ASYNC110 - the pool has no event for it
            await asyncio.sleep(0)


def test_first_in_first_out(room: Room) -> None:
    """Threads get the place in the order in which they came, whoever runs first."""
    pool = room.pool()
    pool.create("holder", bytearray)
    order: list[int] = []

    def work(number: int) -> None:
        pool.create(f"a{number}", bytearray, wait_s=30)
        order.append(number)
        del pool[f"a{number}"]

    threads = []
    for number in range(8):
        threads.append(_start(lambda number=number: work(number)))  # type: ignore[misc]
        wait_for(lambda number=number: pool.stats().waiting == number + 1)  # type: ignore[misc]
    del pool["holder"]
    for thread in threads:
        thread.join(10)
    assert order == list(range(8))


def test_threads_and_tasks_in_one_line(room: Room) -> None:
    """A task that came before a thread goes before it."""
    pool = room.pool()
    pool.create("holder", bytearray)
    order: list[str] = []

    def in_thread(name: str) -> None:
        with pool.lease(name, bytearray, wait_s=30):
            order.append(name)
        with suppress(KeyError):  # idle now, it may have made room for the next one already
            del pool[name]

    async def in_task(name: str) -> None:
        async with pool.lease(name, bytearray, wait_s=30):
            order.append(name)
        with suppress(KeyError):  # idle now, it may have made room for the next one already
            del pool[name]

    async def work() -> None:
        jobs = []
        for number in range(6):
            if number % 2:
                jobs.append(asyncio.get_running_loop().run_in_executor(None, in_thread, f"a{number}"))
            else:
                jobs.append(asyncio.ensure_future(in_task(f"a{number}")))
            await _waiting(pool, number + 1)
        del pool["holder"]
        await asyncio.gather(*jobs)

    asyncio.run(work())
    assert order == [f"a{number}" for number in range(6)]


def test_nobody_overtakes(room: Room) -> None:
    """Who comes while others wait is refused without a wait, though a place has just come free."""
    pool = room.pool(max_size=2)
    pool.create("holder", bytearray)
    room.used = 901 * MIB
    thread = _start(lambda: pool.create("first", bytearray, wait_s=30))
    wait_for(lambda: pool.stats().waiting == 1)
    with pytest.raises(PoolFull, match="1 wait already"):
        pool.create("second", bytearray)
    room.used = 100 * MIB
    thread.join(10)
    assert "first" in pool


def test_memory_that_comes_back_is_noticed(room: Room) -> None:
    """Nobody tells a pool that memory came back: the first in line looks by itself."""
    pool = room.pool(max_size=5)
    room.used = 901 * MIB
    thread = _start(lambda: pool.create("a", bytearray, wait_s=30))
    wait_for(lambda: pool.stats().waiting == 1)
    room.used = 100 * MIB
    thread.join(10)
    assert "a" in pool


def test_the_deadline_holds(room: Room) -> None:
    """After wait_s the refusal comes, not much later, and the line is empty again."""
    pool = room.pool()
    pool.create("holder", bytearray)
    began = time.monotonic()
    with pytest.raises(PoolFull, match="1 of 1 places are taken"):
        pool.create("a", bytearray, wait_s="50ms")
    assert 0.05 <= time.monotonic() - began < 5.0
    assert pool.stats().waiting == 0
    assert pool.stats().refused == 1


def test_a_cancelled_waiter_makes_way(room: Room) -> None:
    """Cancelling the first in line lets the second in; nothing is left of the first."""
    pool = room.pool()
    pool.create("holder", bytearray)

    async def work() -> None:
        first = asyncio.create_task(pool.create_async("first", bytearray, wait_s=30))
        second = asyncio.create_task(pool.create_async("second", bytearray, wait_s=30))
        await _waiting(pool, 2)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert pool.stats().waiting == 1
        del pool["holder"]
        await asyncio.wait_for(second, 10)

    asyncio.run(work())
    assert list(pool) == ["second"]


def test_a_larger_cap_lets_several_in(room: Room) -> None:
    """One change that makes places for all lets all in, each woken by the one before."""
    pool = room.pool(max_size=0)
    threads = [_start(lambda name=name: pool.create(name, bytearray, wait_s=30)) for name in "abcde"]  # type: ignore[misc]
    wait_for(lambda: pool.stats().waiting == 5)
    pool.resize(5)
    for thread in threads:
        thread.join(10)
    assert sorted(pool) == list("abcde")


def test_closing_refuses_who_waits(room: Room) -> None:
    """Nobody waits for a pool that is closed."""
    pool = room.pool()
    pool.create("holder", bytearray)
    refused: list[PoolFull] = []

    def work() -> None:
        try:
            pool.create("a", bytearray, wait_s=30)
        except PoolFull as error:
            refused.append(error)

    thread = _start(work)
    wait_for(lambda: pool.stats().waiting == 1)
    pool.close()
    thread.join(10)
    assert "it is closed" in str(refused[0])


def test_one_id_is_made_once(room: Room) -> None:
    """Threads that want the same missing agent at once share one, without any wait_s."""
    pool = room.pool(max_size=10)
    made: list[int] = []
    gate = threading.Event()

    def factory() -> bytearray:
        made.append(1)
        gate.wait(10)
        return bytearray()

    got: list[bytearray] = []
    threads = [_start(lambda: got.append(pool.acquire("a", factory))) for _ in range(6)]
    wait_for(lambda: made)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert (len(made), len(got), len({id(agent) for agent in got})) == (1, 6, 1)
    assert pool.agents()[0].holds == 6


def test_tasks_share_a_creation_and_survive_its_failure(room: Room) -> None:
    """When the one who makes it fails, the next in wait makes it."""
    pool = room.pool(max_size=10)
    tries: list[int] = []

    async def factory() -> bytearray:
        tries.append(1)
        await asyncio.sleep(0)
        if len(tries) == 1:
            raise OSError("first try")
        return bytearray()

    async def work() -> list[Any]:
        return await asyncio.gather(*(pool.acquire_async("a", factory) for _ in range(5)), return_exceptions=True)

    got = asyncio.run(work())
    assert [type(one) for one in got] == [OSError, bytearray, bytearray, bytearray, bytearray]
    assert len(tries) == 2


def test_an_agent_that_is_leaving_is_waited_for(room: Room) -> None:
    """Its state is being saved: who wants it gets a new one after that, and never the old one."""
    saving, saved = threading.Event(), threading.Event()

    def save(id_: str, agent: bytearray) -> None:
        saving.set()
        saved.wait(10)

    pool = room.pool(max_size=5, on_retire=save)
    pool["a"] = old = bytearray(b"old")
    _start(lambda: pool.retire("a"))
    saving.wait(10)
    assert "a" not in pool
    got: list[bytearray] = []
    thread = _start(lambda: got.append(pool.acquire("a", lambda: bytearray(b"new"))))
    saved.set()
    thread.join(10)
    assert got == [bytearray(b"new")]
    assert old == bytearray(b"old")


def test_idle_agents_beyond_their_time_go(room: Room) -> None:
    """max_idle_s retires without pressure, on a thread of its own, so that a slow hook delays nobody."""
    retired: list[str] = []
    pool = room.pool(max_size=5, max_idle_s=0.01, on_retire=lambda id_, agent: retired.append(id_))
    pool["a"] = bytearray()
    pool.create("b", bytearray)

    def gone() -> bool:
        pool.tend()
        return retired == ["a"] and list(pool) == ["b"]

    wait_for(gone)


def test_tending_weighs_anew(room: Room) -> None:
    """Agents grow after they were made: an idle one is weighed again, one at a look."""
    pool = room.pool(max_size=5)
    pool["a"] = []
    before = pool.bytes
    pool["a"].extend(bytearray(1000) for _ in range(100))
    pool.tend()
    assert pool.bytes > before + 100_000


def test_a_storm(room: Room) -> None:  # noqa: C901, PLR0915 - everybody at once
    """Threads and tasks that come, hold and go, resizes and relief in between: the cap holds, and all adds up."""
    pool = room.pool(max_size=6, on_retire=lambda id_, agent: None)
    stop = threading.Event()
    over: list[int] = []
    failures: list[BaseException] = []

    def guarded(work: Callable[[int], None]) -> Callable[[], None]:
        def run() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    work(number)
                except PoolFull:
                    continue
                except KeyError:  # removed by another
                    continue
                except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it
                    failures.append(error)
                    return

        return run

    def leases(number: int) -> None:
        with pool.lease(f"a{number % 9}", lambda: bytearray(100), wait_s=0.01):
            size = len(pool)
            if size > 6:
                over.append(size)

    def removes(number: int) -> None:
        del pool[f"a{number % 9}"]

    def resizes(number: int) -> None:
        pool.resize(3 + number % 4)
        pool.tend()
        pool.retire_idle(idle_s=0.001)

    async def tasks() -> None:
        async def one(number: int) -> None:
            while not stop.is_set():
                try:
                    async with pool.lease(f"a{number}", lambda: bytearray(100), wait_s=0.01):
                        await asyncio.sleep(0)
                except (PoolFull, KeyError):
                    await asyncio.sleep(0)

        await asyncio.gather(*(one(number) for number in range(4)))

    threads = [_start(guarded(work)) for work in (leases, leases, leases, removes, resizes)]
    threads.append(_start(lambda: asyncio.run(tasks())))
    threads[0].join(1.5)
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert failures == []
    assert over == []
    stats = pool.stats()
    assert (stats.running, stats.building, stats.retiring, stats.waiting) == (0, 0, 0, 0)
    assert stats.created == stats.retired + stats.finished + stats.size
    floor = pool._floor
    assert floor.idle == stats.idle
    assert floor.idle_bytes == floor.held_bytes == sum(seat.bytes for seat in floor.seats.values())
    assert floor._swaps == 0


def test_in_a_forked_child(room: Room) -> None:
    """Whoever waited, made an agent or let one go in the parent is gone: their seats are free or as before."""
    holding, end = threading.Event(), threading.Event()

    def slow(*_: object) -> bytearray:
        holding.set()
        end.wait(10)
        return bytearray()

    pool = room.pool(max_size=3, on_retire=slow)
    pool["leaving"] = bytearray()
    threads = [_start(lambda: pool.retire("leaving"))]
    holding.wait(10)
    pool.create("held", bytearray)
    threads.append(_start(lambda: pool.create("made", slow)))
    wait_for(lambda: pool.stats().building == 1)
    threads.append(_start(lambda: pool.create("waits", bytearray, wait_s=0.2)))
    wait_for(lambda: pool.stats().waiting == 1)
    seat = pool._floor.seats["made"]
    seat.holds = [weakref.ref(Room())]  # its thread does not exist in a child
    pool._floor.forget()  # what the hook of fork() calls
    stats = pool.stats()
    assert (stats.building, stats.retiring, stats.waiting, stats.running, stats.idle) == (0, 0, 0, 1, 1)
    assert sorted(pool) == ["held", "leaving"]
    pool.create("new", bytearray)
    end.set()
