"""A guard's pools, operations, features and budgets, as a service uses them."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from memguard.errors import PoolFull, RulesError
from memguard.guard import Guard
from memguard.model import Level
from memguard.roster import Roster
from memguard.testing import FakeClock, FakeMemory
from memguard.units import MIB

if TYPE_CHECKING:
    from memguard.agents.pools import Pool


class Scene:
    """A guard over fake memory: 100 of 500 MiB used."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.memory = FakeMemory(self.clock, base_bytes="100MiB")
        self.guard = Guard(limit="500MiB", probe=self.memory, clock=self.clock, roster=Roster(), pool_max_size=3)
        self.look()

    def look(self) -> None:
        self.clock.advance(0.25)
        self.guard.tick()


@pytest.fixture
def scene() -> Scene:
    """100 of 500 MiB used."""
    return Scene()


def test_pools(scene: Scene) -> None:
    """The cap comes from the rules, what fits from the guard; the pool is a holder."""
    pool: Pool[object] = scene.guard.pool("agents")
    for name in "abc":
        pool.create(name, lambda: scene.memory.grow(20 * MIB))
    assert pool.fits() == (450 - 160) // 20
    with pytest.raises(PoolFull, match="3 of 3"):
        pool.create("d", bytearray)
    assert [holder.name for holder in scene.guard.holders()] == ["trim", "collect", "agents"]
    assert scene.guard.pools == (pool,)
    del pool
    gc.collect()  # what was raised holds frames
    assert not scene.guard.pools


def test_operations(scene: Scene) -> None:
    """An operation takes the guard's clock, and stands in the guard's list."""
    with scene.guard.operation("agent.run", id="a7"):
        scene.clock.advance(2.0)
        assert [row.id for row in scene.guard.operations.running(duration_gt=1)] == ["a7"]
    assert scene.guard.operations.stats()[0].duration_max_s == 2.0


def test_features(scene: Scene) -> None:
    """A feature follows the guard's level, one that was named late too, and is told; a stopped guard's are on."""
    early = scene.guard.feature("embeddings")
    scene.memory.grow(320 * MIB)
    scene.look()
    late = scene.guard.feature("search")
    assert scene.guard.level >= Level.WARNING
    assert not early
    assert not late
    scene.guard.stop()
    assert early
    assert late


def test_budgets(scene: Scene) -> None:
    """Budgets add up to less than the nearest limit, before the first look too."""
    guard = Guard(limit="500MiB", probe=scene.memory, clock=scene.clock, roster=Roster())
    guard.budget("agents", "300MiB")
    with pytest.raises(RulesError, match=r"agents 300\.0 MiB \+ caches 200\.0 MiB"):
        guard.budget("caches", "200MiB")


def test_a_pool_over_its_budget_is_brought_back(scene: Scene) -> None:
    """Without any pressure the guard retires idle agents of a pool that is over its budget, and no more than that."""
    pool: Pool[bytearray] = scene.guard.pool("agents", max_size=20)
    scene.guard.budget("agents", "10MiB").charge(pool)
    for number in range(14):
        pool[f"a{number}"] = bytearray(MIB)
    held = pool.acquire("a0")
    for _ in range(8):
        scene.look()
    assert scene.guard.level == Level.OK
    assert 8 <= len(pool) <= 10
    assert pool["a0"] is held
    assert scene.guard.budgets.rows()[0].over_bytes == 0


def test_each_is_made_once(scene: Scene) -> None:
    """Asked for again, it is the same; a guard that was not asked has none, and a fork forgets what ran."""
    assert not {"_operations", "_features", "_budgets"} & set(vars(scene.guard))
    guard = scene.guard
    assert guard.operations is guard.operations
    assert guard.features is guard.features
    assert guard.budgets is guard.budgets
    with guard.operation("parents"):
        guard._forget_work()
    assert guard.operations.ended() == ()
