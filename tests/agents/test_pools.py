"""Pools: places, holds, refusals with their reasons, retirement in the cheapest order, orphans."""

from __future__ import annotations

import asyncio
import functools
import gc
import pickle
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from memguard.agents.pools import Pool
from memguard.errors import PoolFull
from memguard.model import Level, Limit, Reading, Snapshot
from memguard.roster import Roster
from memguard.rules import Rules
from memguard.testing import FakeClock
from memguard.units import MIB
from tests.contract.test_reclaimers import Promises

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memguard.ports import Reclaimer


class Agent:
    """Something that can be held weakly and weighs what it is told."""

    def __init__(self, size: int = 1000) -> None:
        self.body = bytearray(size)


class Scene:
    """A world of numbers: 100 of 1000 MiB used, agents that take 0 unless ``grow`` says otherwise."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.used = 100 * MIB
        self.level = Level.OK
        self.blind = False
        self.promised = 0
        self.limited = True
        self.roster = Roster()
        self.rules = Rules()

    def snapshot(self) -> Snapshot:
        limit = Limit(bytes=1000 * MIB, kind="kill", source="the scene") if self.limited else None
        reading = Reading(at=self.clock(), used_bytes=self.used, source="the scene")
        return Snapshot(
            at=self.clock(), reading=reading, limit=limit, pressure=self.used / (1000 * MIB), level=self.level,
            forecast=None, blind=self.blind, promised_bytes=self.promised,
        )  # fmt: skip

    def pool(self, **options: Any) -> Pool[Any]:
        settings: dict[str, Any] = {
            "name": "agents", "rules": self.rules, "snapshot": self.snapshot, "used_bytes": lambda: self.used,
            "clock": self.clock, "roster": self.roster, "max_size": 3,
        }  # fmt: skip
        return Pool(**(settings | options))

    def growing(self, bytes_: int) -> Callable[[], Agent]:
        """A factory whose agents take so many bytes of this world."""

        def factory() -> Agent:
            self.used += bytes_
            return Agent()

        return factory

    def shedder(self) -> Reclaimer:
        found = self.roster.find("agents")
        assert found is not None
        return found


@pytest.fixture
def scene() -> Scene:
    """100 of 1000 MiB used, no pool yet."""
    return Scene()


# --- as a mapping ---------------------------------------------------------------------------------------------------


def test_it_is_a_mapping(scene: Scene) -> None:
    """What is put in is found, counted, listed in order, and taken out."""
    pool = scene.pool()
    first, second = Agent(), Agent()
    pool["a"], pool["b"] = first, second
    assert pool["a"] is first
    assert list(pool) == ["a", "b"]
    assert len(pool) == 2
    assert "a" in pool
    assert "c" not in pool
    assert dict(pool) == {"a": first, "b": second}
    assert pool.pop("a") is first
    with pytest.raises(KeyError):
        del pool["a"]
    assert pool.get("a") is None
    assert pool.stats().finished == 1


def test_assigning_again_replaces(scene: Scene) -> None:
    """Another agent under the same id takes the place of the first, in a full pool too; the first is free to go."""
    pool = scene.pool(max_size=1)
    pool["a"] = Agent()
    old = weakref.ref(pool["a"])
    new = Agent()
    pool["a"] = new
    assert pool["a"] is new
    assert old() is None
    assert (pool.stats().size, pool.stats().created, pool.stats().finished) == (1, 2, 1)


def test_a_full_pool_refuses_assignment(scene: Scene) -> None:
    """Without a hook that saves it, no agent goes for another; what was there is there."""
    pool = scene.pool(max_size=2)
    pool["a"], pool["b"] = Agent(), Agent()
    with pytest.raises(PoolFull, match="2 of 2 places are taken, 2 idle and kept"):
        pool["c"] = Agent()
    assert sorted(pool) == ["a", "b"]


# --- holding --------------------------------------------------------------------------------------------------------


def test_who_creates_holds(scene: Scene) -> None:
    """A created agent runs until it is released; then it is idle and can be acquired."""
    pool = scene.pool()
    agent = pool.create("a", Agent)
    assert pool.agents()[0].state == "running"
    pool.release("a")
    assert pool.agents()[0].state == "idle"
    assert pool.acquire("a") is agent
    assert pool.agents()[0].state == "running"


def test_several_holds_count(scene: Scene) -> None:
    """An agent held twice is idle after the second release, and a third is an error that says so."""
    pool = scene.pool()
    pool.create("a", Agent)
    pool.acquire("a")
    pool.release("a")
    assert pool.agents()[0].holds == 1
    pool.release("a")
    with pytest.raises(RuntimeError, match="'a' of pool 'agents' is not held"):
        pool.release("a")


def test_lease(scene: Scene) -> None:
    """A lease makes what is missing, holds it inside the block, and gives it back after an error too."""
    pool = scene.pool()
    with pool.lease("a", Agent) as agent:
        assert pool.agents()[0].state == "running"
    with pytest.raises(TypeError), pool.lease("a") as again:  # noqa: PT012 - the block has to fail
        assert again is agent
        agent / 0
    assert pool.agents()[0].state == "idle"
    with pytest.raises(KeyError), pool.lease("b"):
        pass


def test_creating_twice_is_an_error(scene: Scene) -> None:
    """create() makes a new one or says that there is one; acquire() takes what is there."""
    pool = scene.pool()
    pool.create("a", Agent)
    with pytest.raises(ValueError, match="has an agent 'a': acquire"):
        pool.create("a", Agent)
    assert pool.stats().running == 1


def test_removing_a_held_agent(scene: Scene) -> None:
    """The user's del wins over holds; giving the hold up afterwards is nothing."""
    pool = scene.pool()
    with pool.lease("a", Agent):
        del pool["a"]
        assert len(pool) == 0
    pool.create("b", Agent)
    del pool["b"]
    pool.release("b")
    assert pool.stats().finished == 2


# --- places ---------------------------------------------------------------------------------------------------------


def test_the_cap_refuses_with_numbers(scene: Scene) -> None:
    """When all run, one more is refused: places, waiters, a hint, the level, and a problem object."""
    pool = scene.pool()
    for name in "abc":
        pool.create(name, Agent)
    with pytest.raises(PoolFull) as refused:
        pool.create("d", Agent)
    assert "pool 'agents' refused agent 'd': 3 of 3 places are taken, none idle; retry in" in str(refused.value)
    assert refused.value.pool == "agents"
    assert refused.value.retry_after_s > 0
    assert refused.value.problem()["status"] == 503
    assert pool.stats().refused == 1
    again = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - our own
    assert (again.pool, again.reason) == ("agents", refused.value.reason)


def test_a_refused_factory_is_not_called(scene: Scene) -> None:
    """Nothing is made for which there is no place."""
    pool = scene.pool(max_size=0)
    made: list[int] = []
    with pytest.raises(PoolFull, match=r"it lets nobody in \(max_size=0, 0 still there\): resize\(\) it"):
        pool.create("a", lambda: made.append(1))
    assert not made


def test_with_a_hook_the_idle_make_room(scene: Scene) -> None:
    """A full pool whose states can be saved retires the longest idle agent for a new one, never a running one."""
    saved: list[str] = []
    pool = scene.pool(on_retire=lambda id_, agent: saved.append(id_))
    pool.create("running", Agent)
    pool["old"] = Agent()
    scene.clock.advance(10)
    pool["young"] = Agent()
    scene.clock.advance(10)
    pool["a"] = Agent()
    assert saved == ["old"]
    assert sorted(pool) == ["a", "running", "young"]
    pool.acquire("a")
    pool.create("b", Agent)
    assert saved == ["old", "young"]
    with pytest.raises(PoolFull, match="3 of 3 places are taken, none idle"):
        pool.create("c", Agent)


def test_what_a_factory_made_makes_room(scene: Scene) -> None:
    """Without a hook, an idle agent that a factory made goes for a new one; one put in by hand is kept."""
    pool = scene.pool(max_size=2)
    pool["mine"] = Agent()
    scene.clock.advance(10)
    with pool.lease("a", Agent):
        pass
    with pool.lease("b", Agent):
        assert sorted(pool) == ["b", "mine"]
        with pytest.raises(PoolFull, match="1 idle and kept"):
            pool.create("c", Agent)
    kept = scene.pool(max_size=1, replace_idle=False)
    with kept.lease("a", Agent):
        pass
    with pytest.raises(PoolFull, match="1 idle and kept"):
        kept.create("b", Agent)


def test_looking_an_agent_up_is_a_use(scene: Scene) -> None:
    """Who was looked up last goes last."""
    pool = scene.pool(replace_idle=True)
    for name in "abc":
        pool[name] = Agent()
        scene.clock.advance(1)
    assert pool["a"]
    pool["d"] = Agent()
    assert sorted(pool) == ["a", "c", "d"]


def test_a_failing_factory_leaves_nothing(scene: Scene) -> None:
    """Whatever a factory raises, interrupts too, the place is free again and what was raised arrives."""
    pool = scene.pool(max_size=1)

    def interrupted() -> Agent:
        raise KeyboardInterrupt

    for error, factory in ((ZeroDivisionError, lambda: 1 / 0), (KeyboardInterrupt, interrupted)):
        with pytest.raises(error):
            pool.create("a", factory)
    pool.create("a", Agent)
    assert (pool.stats().unborn, pool.stats().created) == (2, 1)


def test_a_factory_that_asks_for_itself(scene: Scene) -> None:
    """That would wait for ever: it is an error; other agents it may ask for."""
    pool = scene.pool()
    with pytest.raises(RuntimeError, match="asks pool 'agents' for that very agent"):
        pool.acquire("a", lambda: pool.acquire("a", Agent))
    pool.acquire("a", lambda: pool.acquire("b", Agent))
    assert len(pool) == 2


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_cost_is_learned_and_fits_is_a_number(scene: Scene) -> None:
    """Agents that grow memory by 20 MiB each: one more costs that, and (900 - 200) / 20 more fit."""
    pool = scene.pool(max_size=100)
    assert pool.fits() is None
    for number in range(5):
        pool.create(f"a{number}", scene.growing(20 * MIB))
    assert pool.cost_bytes == 20 * MIB
    assert pool.fits() == 35
    scene.promised = 100 * MIB
    assert pool.fits() == 30
    scene.limited = False
    assert pool.fits() is None


def test_one_outlier_does_not_count(scene: Scene) -> None:
    """A creation that met other work, or loaded a library, does not move the median."""
    pool = scene.pool(max_size=100)
    for number, mib in enumerate((300, 2, 2, 2, 200, 2, 2)):
        pool.create(f"a{number}", scene.growing(mib * MIB))
    assert pool.cost_bytes == 2 * MIB


def test_objects_are_the_floor(scene: Scene) -> None:
    """An agent out of freed heap grows nothing; its object still weighs what it weighs."""
    pool = scene.pool()
    pool.create("a", lambda: Agent(5 * MIB))
    assert 5 * MIB <= pool.cost_bytes < 5.1 * MIB
    assert pool.fits() == (900 - 100) // 5 - 1


def test_not_one_more_fits(scene: Scene) -> None:
    """At 885 of 900 MiB below the rung an agent of 20 MiB is refused, with the numbers, and none at all is made."""
    pool = scene.pool(max_size=100)
    for number in range(5):
        pool.create(f"a{number}", scene.growing(20 * MIB))
    scene.used = 885 * MIB
    with pytest.raises(
        PoolFull, match=r"an agent takes about 20\.0 MiB and 15\.0 MiB are left below the CRITICAL rung"
    ):
        pool.create("b", scene.growing(20 * MIB))
    assert scene.used == 885 * MIB
    scene.used = 880 * MIB
    pool.create("b", scene.growing(20 * MIB))


def test_an_idle_agent_goes_for_the_memory_of_a_new_one(scene: Scene) -> None:
    """Where nothing fits, one that is saved gives its bytes to the next."""
    pool = scene.pool(max_size=100, on_retire=lambda id_, agent: None)
    for number in range(5):
        pool.create(f"a{number}", scene.growing(20 * MIB))
    scene.used = 890 * MIB
    pool.release("a0")
    pool.create("b", scene.growing(0))
    assert "a0" not in pool


def test_an_empty_pool_takes_one_in_any_gap(scene: Scene) -> None:
    """A cost that was measured wrong must not shut the pool for ever."""
    pool = scene.pool(cost_bytes="500MiB", max_size=100)
    scene.used = 600 * MIB
    pool.create("a", Agent)
    with pytest.raises(PoolFull, match="an agent takes about"):
        pool.create("b", Agent)
    del pool["a"]
    scene.used = 901 * MIB
    with pytest.raises(PoolFull):
        pool.create("a", Agent)


def test_observing_refuses_nothing_for_memory(scene: Scene) -> None:
    """Mode "observe" keeps the cap, which is the user's word, and lets memory be."""
    scene.rules = Rules(mode="observe")
    scene.used = 990 * MIB
    pool = scene.pool(max_size=1)
    pool.create("a", Agent)
    with pytest.raises(PoolFull):
        pool.create("b", Agent)


def test_blind_at_critical_refuses(scene: Scene) -> None:
    """Who cannot see lets nobody in when the rules say CRITICAL for that; at WARNING it does."""
    scene.blind, scene.level = True, Level.CRITICAL
    pool = scene.pool()
    with pytest.raises(PoolFull, match="memory cannot be read"):
        pool.create("a", Agent)
    scene.level = Level.WARNING
    pool.create("a", Agent)


def test_a_reader_that_fails_is_replaced_by_the_snapshot(scene: Scene) -> None:
    """A probe that breaks costs accuracy, not the service."""

    def broken() -> int:
        raise OSError("gone")

    pool = scene.pool(used_bytes=broken)
    pool.create("a", Agent)
    assert pool.fits() is not None


# --- resizing -------------------------------------------------------------------------------------------------------


def test_resizing_below_what_runs(scene: Scene) -> None:
    """Idle ones go at once, running ones run on and are reported; released, they go; nobody comes in meanwhile."""
    pool = scene.pool(max_size=5)
    for name in "abc":
        pool.create(name, Agent)
    pool["d"], pool["e"] = Agent(), Agent()
    done = pool.resize(1)
    assert (done.max_size, sorted(done.retired), done.running_above, done.kept) == (1, ["d", "e"], 2, ())
    with pytest.raises(PoolFull, match="3 of 1 places"):
        pool.create("f", Agent)
    pool.release("a")
    pool.release("b")
    assert list(pool) == ["c"]
    pool.release("c")
    assert list(pool) == ["c"]
    assert pool.stats().retired == 4


def test_resizing_to_nothing(scene: Scene) -> None:
    """0 lets nobody in and empties the pool as its agents end; a larger cap opens it again."""
    pool = scene.pool()
    pool.create("a", Agent)
    pool["b"] = Agent()
    assert pool.resize(0).retired == ("b",)
    with pytest.raises(PoolFull):
        pool.create("c", Agent)
    pool.release("a")
    assert len(pool) == 0
    pool.resize(1)
    pool.create("c", Agent)


@pytest.mark.parametrize("wrong", [-1, 1.5, "9", True, None])
def test_wrong_sizes_change_nothing(scene: Scene, wrong: Any) -> None:
    """A cap that cannot be meant is named, with the mend, and the old one holds."""
    pool = scene.pool()
    with pytest.raises((TypeError, ValueError), match="pool 'agents': max_size="):
        pool.resize(wrong)
    assert pool.max_size == 3


# --- retirement -----------------------------------------------------------------------------------------------------


def test_a_hook_that_fails_keeps_the_agent(scene: Scene) -> None:
    """Nothing is lost: the agent stays, the failure is counted and told, and it is left alone for a while."""
    failing = True

    def save(id_: str, agent: Agent) -> None:
        if failing and id_ == "a":
            raise OSError("disk full")

    pool = scene.pool(max_size=2, on_retire=save)
    agent = pool["a"] = Agent()
    scene.clock.advance(5)
    pool["b"] = Agent()
    pool.create("c", Agent)
    assert sorted(pool) == ["a", "c"]
    assert pool["a"] is agent
    assert pool.stats().last_error == "on_retire of 'a' failed: OSError: disk full"
    with pytest.raises(PoolFull):
        pool.create("d", Agent)
    failing = False
    scene.clock.advance(2)
    pool.create("d", Agent)
    assert sorted(pool) == ["c", "d"]


def test_a_hook_that_is_told_to_end(scene: Scene) -> None:
    """An interrupt in the middle of a hook arrives where it should, and the pool is as before."""

    def save(id_: str, agent: Agent) -> None:
        raise KeyboardInterrupt

    pool = scene.pool(max_size=2, on_retire=save)
    pool["a"], pool["b"] = Agent(), Agent()
    with pytest.raises(KeyboardInterrupt):
        pool.create("c", Agent)
    with pytest.raises(KeyboardInterrupt):
        pool.resize(0)
    assert sorted(pool) == ["a", "b"]
    assert pool.stats().idle == 2


def test_the_cheapest_go_first(scene: Scene) -> None:
    """Big and long idle before small and fresh; what took long to make last; orphans before all."""
    pool = scene.pool(max_size=10)

    def slow() -> Agent:
        scene.clock.advance(2.0)
        return Agent(MIB)

    pool.create("slow", slow)
    pool.release("slow")
    pool["small"], pool["big"] = Agent(1000), Agent(MIB)
    owner = Agent()
    pool["lost"] = Agent(10)
    pool.own("lost", owner)
    del owner
    scene.clock.advance(10.0)
    order: list[str] = []
    while len(pool):
        before = set(pool)
        scene.shedder().reclaim(1)
        order += before - set(pool)
    assert order == ["lost", "big", "small", "slow"]


def test_under_pressure_only_the_idle_go(scene: Scene) -> None:
    """The guard is offered what idle agents weigh, and gets as many as it takes; running ones never."""
    pool = scene.pool(max_size=10)
    shedder = scene.shedder()
    for number in range(4):
        pool[f"a{number}"] = Agent(MIB)
    held = pool.acquire("a3")
    assert (shedder.name, shedder.cost, shedder.at) == ("agents", "dear", Level.WARNING)
    assert 3 * MIB <= (shedder.size() or 0) < 3.1 * MIB
    assert (shedder.reclaim(3 * MIB // 2) or 0) >= 2 * MIB
    assert len(pool) == 2
    shedder.reclaim(1 << 40)
    assert list(pool) == ["a3"]
    assert pool["a3"] is held
    assert shedder.size() == 0
    assert shedder.reclaim(1) == 0


def test_a_pool_where_nothing_can_be_saved_says_so(scene: Scene) -> None:
    """The guard hears the hook's failure, and lets the pool be for a while."""

    def save(id_: str, agent: Agent) -> None:
        raise OSError("disk full")

    pool = scene.pool(on_retire=save)
    pool["a"] = Agent()
    with pytest.raises(RuntimeError, match="disk full"):
        scene.shedder().reclaim(1)
    assert "a" in pool


def test_a_pool_that_is_the_pressure_yields_at_elevated(scene: Scene) -> None:
    """Beyond half of what the first rung leaves (325 of 650 MiB), agents idle for a while go before any cache must."""
    pool = scene.pool(max_size=1000, cost_bytes="1MiB")
    for number in range(5):
        pool.create(f"a{number}", scene.growing(MIB))
        pool.release(f"a{number}")
    for number in range(5, 400):
        pool[f"a{number}"] = Agent(10)
    shedder = scene.shedder()
    scene.level = Level.ELEVATED
    assert shedder.at.name == "WARNING"  # they have only just become idle
    scene.clock.advance(4.0)
    assert shedder.at.name == "ELEVATED"
    assert shedder.size() == pytest.approx(75 * MIB, abs=1)
    scene.level = Level.WARNING
    assert (shedder.at, shedder.size()) == (Level.WARNING, 400 * MIB)


def test_retired_agents_are_free(scene: Scene) -> None:
    """Nothing of the pool keeps a retired, removed or refused agent alive: no collection is needed."""
    gc.disable()
    try:
        pool = scene.pool(on_retire=lambda id_, agent: None)
        for name in "abc":
            pool.create(name, Agent)
            pool.release(name)
        refs = [weakref.ref(pool[name]) for name in "abc"]
        scene.shedder().reclaim(1)
        assert sum(ref() is None for ref in refs) == 1
        pool.resize(1)
        assert sum(ref() is None for ref in refs) == 2
        pool.popitem()
        assert sum(ref() is None for ref in refs) == 3
        pool.resize(0)
        refused = Agent()
        ref = weakref.ref(refused)
        try:
            pool["z"] = refused
        except PoolFull:
            del refused
        assert ref() is None
    finally:
        gc.enable()


def test_a_hook_that_failed_once_does_not_keep_its_agent(scene: Scene) -> None:
    """The failure's frames are not kept: once retired, the agent is free."""
    failures = [OSError("x")]

    def save(id_: str, agent: Agent) -> None:
        if failures:
            raise failures.pop()

    pool = scene.pool(on_retire=save)
    pool["a"] = Agent()
    ref = weakref.ref(pool["a"])
    with pytest.raises(RuntimeError):
        scene.shedder().reclaim(1)
    scene.clock.advance(100)
    scene.shedder().reclaim(1)
    assert ref() is None


def test_a_dropped_pool_leaves_the_roster(scene: Scene) -> None:
    """The roster keeps no pool alive, and a pool no cycle."""
    gc.disable()
    try:
        pool = scene.pool()
        pool["a"] = Agent()
        ref = weakref.ref(pool["a"])
        shedder = scene.shedder()
        del pool
        assert ref() is None
        assert len(scene.roster) == 0
        assert (shedder.size(), shedder.reclaim(1)) == (0, 0)
    finally:
        gc.enable()


def test_a_second_pool_of_a_name_gets_a_number(scene: Scene) -> None:
    """Reports tell two pools apart."""
    first, second = scene.pool(), scene.pool()
    assert (first.name, second.name) == ("agents", "agents#2")


def test_closing(scene: Scene) -> None:
    """A closed pool refuses, keeps who runs until released, and is no holder any more."""
    pool = scene.pool()
    pool.create("a", Agent)
    pool["b"] = Agent()
    pool.close()
    pool.close()
    assert len(scene.roster) == 0
    assert list(pool) == ["a"]
    pool.release("a")
    assert len(pool) == 0
    with pytest.raises(PoolFull, match="it is closed"):
        pool.create("c", Agent)


# --- orphans --------------------------------------------------------------------------------------------------------


def test_a_hold_whose_thread_has_ended_is_an_orphan(scene: Scene) -> None:
    """A leaked hold is found and listed, never evicted by pressure, and retired when asked."""
    pool = scene.pool()
    thread = threading.Thread(target=lambda: pool.create("a", Agent))
    thread.start()
    thread.join()
    pool.create("b", Agent)
    assert [row.id for row in pool.orphans()] == ["a"]
    scene.shedder().reclaim(1 << 40)
    assert sorted(pool) == ["a", "b"]
    assert pool.stats().orphaned == 1
    assert pool.retire_orphans() == ("a",)
    assert list(pool) == ["b"]
    assert pool.stats().orphaned == 1


def test_a_full_pool_names_its_orphans(scene: Scene) -> None:
    """Who is refused because of leaked holds is told so, with the mend."""
    pool = scene.pool(max_size=1)
    thread = threading.Thread(target=lambda: pool.create("a", Agent))
    thread.start()
    thread.join()
    with pytest.raises(PoolFull, match=r"1 orphaned: retire_orphans\(\)"):
        pool.create("b", Agent)


def test_a_hold_whose_task_has_ended_is_an_orphan(scene: Scene) -> None:
    """The same for asyncio tasks, whatever loop they ran on."""
    pool = scene.pool()

    async def work() -> None:
        async def leaks() -> None:
            await pool.create_async("a", Agent)

        await asyncio.create_task(leaks())
        async with pool.lease("b", Agent):
            assert [row.id for row in pool.orphans()] == ["a"]

    asyncio.run(work())
    assert pool.retire_orphans() == ("a",)


def test_owners(scene: Scene) -> None:
    """An idle agent is an orphan once its owner is gone, or it has none; the pool's own never is."""
    pool = scene.pool()
    owner = Agent()
    pool.create("a", Agent, owner=owner)
    pool.release("a")
    pool["b"], pool["c"] = Agent(), Agent()
    pool.own("c", None)
    assert [row.id for row in pool.orphans()] == ["c"]
    del owner
    assert sorted(row.id for row in pool.orphans()) == ["a", "c"]
    with pytest.raises(TypeError, match="cannot own an agent"):
        pool.own("b", "user-17")
    with pytest.raises(KeyError):
        pool.own("nobody", None)


# --- asyncio --------------------------------------------------------------------------------------------------------


def test_async_factories(scene: Scene) -> None:
    """A factory may be async or plain; a cancelled one leaves nothing; a sync door says what to use instead."""
    pool = scene.pool()

    async def make() -> Agent:
        await asyncio.sleep(0)
        return Agent()

    async def hangs() -> Agent:
        await asyncio.Event().wait()
        return Agent()

    async def work() -> None:
        async with pool.lease("a", make) as agent:
            assert isinstance(agent, Agent)
        async with pool.lease("b", Agent):
            pass
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pool.create_async("c", hangs)
        assert sorted(pool) == ["a", "b"]
        with pytest.raises(TypeError, match="is async"):
            pool.create("c", make)
        with pytest.raises(TypeError, match="is async"):
            pool.create("c", functools.partial(make))
        assert pool.stats().unborn == 1

    asyncio.run(work())


def test_a_sync_wait_does_not_stop_a_loop(scene: Scene) -> None:
    """On an event loop's thread a sync wait is refused at once, and the text names the way to wait."""
    pool = scene.pool(max_size=1)

    async def work() -> None:
        pool.create("a", Agent)
        with pytest.raises(PoolFull, match=r"only 'async with pool\.lease"):
            pool.create("b", Agent, wait_s=60)

    asyncio.run(work())


# --- bad input ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_meant(scene: Scene) -> None:
    """Each error names the value and the mend."""
    pool = scene.pool()
    for call, words in (
        (lambda: scene.pool(name=" "), "blank"),
        (lambda: scene.pool(name=7), "must be text"),
        (lambda: scene.pool(max_size=-1), "negative"),
        (lambda: scene.pool(on_retire=7), "on_retire=7 is no function"),
        (lambda: pool.create(7, Agent), "an agent's id is text"),  # type: ignore[arg-type]
        (lambda: pool.create("a", Agent()), "makes no agent"),  # type: ignore[arg-type]
        (lambda: pool.create("a", Agent, wait_s=-1), "not a duration"),
        (lambda: pool.create("a", Agent, owner=7), "cannot own"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            call()
    assert len(pool) == 0
    assert pool.stats().building == 0


def test_figures(scene: Scene) -> None:
    """Everything that an operator asks about a pool is in its figures."""
    pool = scene.pool()
    pool["a"] = Agent(MIB)
    scene.clock.advance(7)
    pool.create("b", Agent)
    stats = pool.stats()
    assert (stats.size, stats.max_size, stats.running, stats.idle) == (2, 3, 1, 1)
    assert stats.oldest_idle_s == 7.0
    assert stats.bytes >= MIB
    first = pool.agents()[0]
    assert (first.id, first.state, first.idle_s, first.held_by) == ("a", "idle", 7.0, ())
    assert pool.agents()[1].held_by == (f"MainThread {threading.current_thread().name}",)
    assert repr(pool) == "<Pool 'agents' 2 of 3, 1 idle>"


class TestAsAReclaimer(Promises):
    """The promises that the guard relies on, over a pool."""

    @pytest.fixture
    def full(self, scene: Scene) -> Iterator[Reclaimer]:
        """Ten idle agents."""
        pool = scene.pool(max_size=10)
        for number in range(10):
            pool[f"a{number}"] = Agent()
        yield scene.shedder()
        del pool

    @pytest.fixture
    def empty(self, scene: Scene) -> Iterator[Reclaimer]:
        """One agent, and it runs."""
        pool = scene.pool()
        pool.create("a", Agent)
        yield scene.shedder()
        del pool
