"""Pools whose on_retire is async: it runs on the loop of its agent, and nothing goes before it has ended."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from memguard import Guard, PoolFull, Roster
from memguard.agents import shedding

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.agents.pools import Pool

PATIENT_S = 30.0


class Agent:
    """Something that can be held weakly."""


class Store:
    """Where states are saved: by whom, and on which loop."""

    def __init__(self) -> None:
        self.saved: dict[str, object] = {}
        self.failing = False
        self.gate: asyncio.Event | None = None

    async def save(self, id_: str, agent: Agent) -> None:
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.failing:
            raise OSError("disk full")
        assert isinstance(agent, Agent)
        self.saved[id_] = asyncio.get_running_loop()

    async def __call__(self, id_: str, agent: Agent) -> None:
        await self.save(id_, agent)


@pytest.fixture
def store() -> Store:
    """Where states are saved."""
    return Store()


@pytest.fixture
def guard() -> Guard:
    """With much room."""
    return Guard(limit="64GiB", roster=Roster())


async def fill(pool: Pool[Any], *ids: str) -> None:
    """Make agents, and let them be idle."""
    for id_ in ids:
        async with pool.lease(id_, Agent):
            pass


async def until(holds: Callable[[], bool]) -> None:
    """Let others run until it holds."""
    async with asyncio.timeout(PATIENT_S):
        while not holds():  # noqa: ASYNC110 - what it waits for knows of no event
            await asyncio.sleep(0)


HOOKS: dict[str, Callable[[Store], Any]] = {
    "function": lambda store: store.save,
    "object": lambda store: store,
    "partial": lambda store: functools.partial(store.save),
    "lambda": lambda store: lambda id_, agent: store.save(str(id_), agent),
}


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_saved_by_whichever_way_it_goes(guard: Guard, store: Store, hook: Callable[[Store], Any]) -> None:
    """For a new one, under pressure, by a smaller cap, by hand: its state is saved on its loop before it goes."""
    pool = guard.pool("agents", max_size=2, on_retire=hook(store))

    async def work() -> None:
        await fill(pool, "a", "b", "c")
        assert list(store.saved) == ["a"]
        reclaimer: Any = guard.roster.find("agents")
        await asyncio.to_thread(reclaimer.reclaim, 1 << 30)
        assert sorted(store.saved) == ["a", "b", "c"]
        assert not len(pool)
        await fill(pool, "d")
        assert await asyncio.to_thread(pool.retire, "d")
        await fill(pool, "e")
        pool.acquire("e")
        pool.resize(0)
        pool.release("e")
        await until(lambda: not pool.agents())
        assert set(store.saved.values()) == {asyncio.get_running_loop()}
        assert len(store.saved) == 5

    asyncio.run(work())


def test_without_a_loop_it_has_one_of_its_own(guard: Guard, store: Store) -> None:
    """An agent of threads, or whose loop has ended, is saved all the same."""
    pool = guard.pool("agents", on_retire=store.save)
    asyncio.run(fill(pool, "a"))
    pool.create("b", Agent)
    pool.release("b")
    assert sorted(pool.retire_idle()) == ["a", "b"]
    assert sorted(store.saved) == ["a", "b"]


def test_on_a_loop_it_goes_when_it_is_saved(guard: Guard, store: Store) -> None:
    """Who may not wait is told who is leaving; the agent is in the pool until then, and free after it."""
    pool = guard.pool("agents", on_retire=store.save)

    async def work() -> None:
        store.gate = asyncio.Event()
        await fill(pool, "a")
        agent = weakref.ref(pool["a"])
        done = pool.resize(0)
        assert (done.retired, done.kept, done.leaving, done.running_above) == ((), (), ("a",), 0)
        assert [row.state for row in pool.agents()] == ["retiring"]
        store.gate.set()
        await until(lambda: not pool.agents())
        assert list(store.saved) == ["a"]
        gc.collect()
        assert agent() is None

    asyncio.run(work())


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("tended", [True, False])
def test_a_loop_that_ends_before(guard: Guard, store: Store, tended: bool) -> None:
    """The agent stays, whether its loop cancels what is left or is just closed, and can be had again."""
    pool = guard.pool("agents", on_retire=store.save)

    async def leave(id_: str) -> None:
        store.gate = asyncio.Event()
        await fill(pool, id_)
        pool.retire(id_)

    asyncio.run(leave("a"))
    assert pool.stats().last_error == "on_retire of 'a' failed: RuntimeError: cancelled"
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave("b"))
    loop.close()
    if tended:
        pool.tend()
        assert pool.stats().last_error == "on_retire of 'b' failed: RuntimeError: its event loop was closed"
    assert sorted([*pool, "b"] if not tended else pool) == ["a", "b"]
    pool.acquire("a")
    pool.acquire("b")
    assert not store.saved
    del loop
    gc.collect()  # what asyncio says of a loop that is closed too early, it says here


def test_a_sync_door_on_a_loop_says_what_to_use(guard: Guard, store: Store) -> None:
    """It refuses, one agent is being saved, and only one."""
    pool = guard.pool("agents", max_size=2, on_retire=store.save)

    async def work() -> None:
        await fill(pool, "a", "b")
        with pytest.raises(PoolFull, match=r"idle agent '.' is just being saved.*only 'async with pool\.lease"):
            pool.create("c", Agent)
        assert pool.stats().retiring == 1
        await until(lambda: len(store.saved) == 1 and len(pool.agents()) == 1)
        pool.create("c", Agent)
        assert len(pool) == 2

    asyncio.run(work())


def test_what_cannot_be_saved_stays(guard: Guard, store: Store) -> None:
    """A failure keeps the agent, is told, and the new one is refused; as with a plain hook."""
    pool = guard.pool("agents", max_size=1, on_retire=store.save)

    async def work() -> None:
        await fill(pool, "a")
        store.failing = True
        with pytest.raises(PoolFull):
            await pool.create_async("b", Agent)
        assert list(pool) == ["a"]
        assert pool.stats().last_error == "on_retire of 'a' failed: OSError: disk full"
        pool.retire("a")
        await until(lambda: pool.stats().failed == 2)
        assert not await asyncio.to_thread(pool.retire, "a")
        assert pool.stats().idle == 1

    asyncio.run(work())


def test_cancelled_while_another_is_saved(guard: Guard, store: Store) -> None:
    """A newcomer that is cancelled meanwhile leaves no place behind, and who was to go stays."""
    pool = guard.pool("agents", max_size=1, on_retire=store.save)

    async def work() -> None:
        store.gate = asyncio.Event()
        await fill(pool, "a")
        newcomer = asyncio.create_task(pool.create_async("b", Agent))
        await until(lambda: pool.stats().retiring == 1)
        newcomer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await newcomer
        stats = pool.stats()
        assert (stats.idle, stats.building, stats.retiring) == (1, 0, 0)
        store.gate.set()
        pool.acquire("a")

    asyncio.run(work())


def test_the_guard_does_not_wait_for_ever(guard: Guard, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that does not get round to it: the agent stays, those after it too, and the guard hears why."""
    monkeypatch.setattr(shedding, "_SAVE_S", 0.05)
    pool = guard.pool("agents", on_retire=store.save)

    async def work() -> None:
        store.gate = asyncio.Event()
        await fill(pool, "a", "b")
        reclaimer: Any = guard.roster.find("agents")
        with pytest.raises(RuntimeError, match="its event loop did not finish it within"):
            await asyncio.to_thread(reclaimer.reclaim, 1 << 30)
        assert sorted(pool) == ["a", "b"]
        assert pool.stats().idle == 2
        assert pool.stats().failed >= 1

    asyncio.run(work())


def test_one_of_another_loop(guard: Guard, store: Store) -> None:
    """An agent that was last held on another loop is saved there, while the newcomer's loop goes on."""
    pool = guard.pool("agents", max_size=1, on_retire=store.save)

    async def elsewhere(end: asyncio.Event, ready: Callable[[object], object]) -> None:
        await fill(pool, "a")
        ready(asyncio.get_running_loop())
        await end.wait()

    async def work() -> None:
        here, end = asyncio.get_running_loop(), asyncio.Event()
        ready: asyncio.Future[Any] = here.create_future()
        other = asyncio.to_thread(
            asyncio.run, elsewhere(end, lambda loop: here.call_soon_threadsafe(ready.set_result, loop))
        )
        thread = asyncio.create_task(other)
        loop = await ready
        await fill(pool, "b")
        assert store.saved == {"a": loop}
        loop.call_soon_threadsafe(end.set)
        await thread

    asyncio.run(work())
