"""Budgets: parts of the limit with names, who is charged, and who is asked first."""

from __future__ import annotations

import asyncio
import gc
from math import inf
from typing import Any

import pytest

import memguard
from memguard.budgets import Budgets
from memguard.errors import AdmissionRefused, RulesError
from memguard.guard import Guard
from memguard.model import Level, Limit
from memguard.roster import Roster
from memguard.testing import FakeClock, FakeMemory, World, simulate
from memguard.units import MIB


class Held:
    """A holder that counts."""

    def __init__(self, bytes_: int, name: str = "held") -> None:
        self.bytes = bytes_
        self.name = name


class Sized:
    """A holder with a method."""

    name = "sized"

    def __init__(self, size: int | None) -> None:
        self.amount = size

    def size(self) -> int | None:
        return self.amount


class Scene:
    """A limit of 1000 MiB, or another."""

    def __init__(self) -> None:
        self.limit: Limit | None = Limit(bytes=1000 * MIB, kind="kill", source="the scene")
        self.roster = Roster()
        self.budgets = Budgets(roster=self.roster, limit=lambda: self.limit)


@pytest.fixture
def scene() -> Scene:
    """A limit of 1000 MiB, no budget yet."""
    return Scene()


def test_they_add_up_to_less_than_the_limit(scene: Scene) -> None:
    """One too many is refused, naming all, the sum, the limit and its source, and by how much; nothing changes."""
    scene.budgets.budget("caches", "400MiB")
    scene.budgets.budget("agents", "500MiB")
    with pytest.raises(RulesError) as refused:
        scene.budgets.budget("states", "100MiB")
    text = str(refused.value)
    assert "add up to 1000.0 MiB (caches 400.0 MiB + agents 500.0 MiB + states 100.0 MiB)" in text
    assert "less than the limit of 1000.0 MiB from the scene" in text
    scene.budgets.budget("states", 99 * MIB)
    assert [row.name for row in scene.budgets.rows()] == ["caches", "agents", "states"]


def test_without_a_limit_any_sum_is_fine(scene: Scene) -> None:
    """Nothing limits: nothing to be less than; a limit that shrinks later is told of."""
    scene.limit = None
    scene.budgets.budget("caches", "4GiB")
    assert scene.budgets.fault() == ""
    scene.limit = Limit(bytes=1000 * MIB, kind="kill", source="a resize")
    assert "caches 4.00 GiB" in scene.budgets.fault()


def test_the_same_name_is_the_same_budget(scene: Scene) -> None:
    """It can be looked up, not be given another size by accident, and be resized within the limit."""
    budget = scene.budgets.budget("caches", "400MiB")
    assert scene.budgets.budget("caches") is budget
    assert scene.budgets.budget("caches", "400MiB") is budget
    with pytest.raises(RulesError, match=r"is 400\.0 MiB already.*resize\(\) it"):
        scene.budgets.budget("caches", "500MiB")
    budget.resize("500MiB")
    assert budget.max_bytes == 500 * MIB
    with pytest.raises(RulesError, match="add up to"):
        budget.resize("1000MiB")
    assert budget.max_bytes == 500 * MIB


@pytest.mark.parametrize("wrong", ["", "12 parsecs", 0, -5, 1.5, True, "90%"])
def test_amounts_that_cannot_be_meant(scene: Scene, wrong: Any) -> None:
    """The budget and the amount are named, with the mend."""
    with pytest.raises(RulesError, match="budget 'caches'"):
        scene.budgets.budget("caches", wrong)
    assert scene.budgets.rows() == ()


def test_names_that_cannot_be_meant(scene: Scene) -> None:
    """A budget without a name, and one that does not exist yet, say what to write."""
    with pytest.raises(RulesError, match="needs a name"):
        scene.budgets.budget(" ", "1MiB")
    with pytest.raises(RulesError, match="no budget 'caches' yet"):
        scene.budgets.budget("caches")


def test_what_is_charged_is_used(scene: Scene) -> None:
    """Counts, sizes and functions add up; who cannot say counts as 0 and is named; a broken one breaks nothing."""
    budget = scene.budgets.budget("all", "100MiB")
    held, sized, silent = Held(30 * MIB), Sized(40 * MIB), Sized(None)
    budget.charge(held)
    budget.charge(sized)
    budget.charge(silent, name="silent")
    budget.charge(lambda: 50 * MIB, name="route")
    budget.charge(lambda: 1 // 0, name="broken")
    row = budget.row()
    assert (row.used_bytes, row.over_bytes, budget.room_bytes) == (120 * MIB, 20 * MIB, 0)
    assert row.charged == ("held", "sized", "silent", "route", "broken")
    assert row.unknown == ("silent", "broken")
    assert not budget.fits(1)
    sized.amount = 0
    assert (budget.used_bytes, budget.over_bytes, budget.room_bytes) == (80 * MIB, 0, 20 * MIB)
    assert budget.fits(20 * MIB)


def test_a_charge_ends(scene: Scene) -> None:
    """By closing its handle, or with its holder, which is not kept alive."""
    budget = scene.budgets.budget("all", "100MiB")
    held = Held(30 * MIB)
    handle = budget.charge(lambda: 10 * MIB, name="route")
    gone = budget.charge(held)
    bound = Sized(5 * MIB)
    budget.charge(bound.size, name="bound")
    assert budget.used_bytes == 45 * MIB
    handle.close()
    handle.close()
    del held, bound
    gc.collect()
    assert gone.closed
    assert (budget.used_bytes, budget.row().charged) == (0, ())


def test_a_holder_has_one_budget(scene: Scene) -> None:
    """Charged to a second budget it would be counted twice: that is an error which names the first."""
    held = Held(1)
    handle = scene.budgets.budget("a", "10MiB").charge(held)
    other = scene.budgets.budget("b", "10MiB")
    with pytest.raises(ValueError, match="'held' is charged to budget 'a' already"):
        other.charge(held)
    handle.close()
    other.charge(held)


def test_what_cannot_be_charged(scene: Scene) -> None:
    """What tells no bytes, and names that nobody has, are errors with the mend."""
    budget = scene.budgets.budget("a", "10MiB")
    with pytest.raises(TypeError, match="does not tell how many bytes"):
        budget.charge(object())
    with pytest.raises(ValueError, match="no holder is named 'nobody'"):
        budget.charge("nobody")


def test_by_name_or_handle(scene: Scene) -> None:
    """A holder of the guard is charged by its handle, or as holders() calls it; all that it holds counts."""
    guard = Guard(limit="1GiB", roster=scene.roster)
    handle = guard.reclaimer("blocks", lambda wanted: 0, size=lambda: 70 * MIB)
    budget = scene.budgets.budget("a", "50MiB")
    charge = budget.charge(handle)
    assert (budget.used_bytes, scene.roster.over("blocks"), scene.roster.over("other")) == (70 * MIB, 20 * MIB, 0)
    charge.close()
    budget.charge("blocks")
    assert budget.over_bytes == 20 * MIB
    handle.close()
    assert budget.used_bytes == 0


def test_a_cache_on_the_market_is_shrunk_to_its_budget(scene: Scene) -> None:
    """One cache over its budget is brought back by itself, the others are left alone."""
    guard = Guard(limit="1GiB", roster=scene.roster)
    big: dict[int, bytes] = {number: bytes(10_000) for number in range(1000)}
    small: dict[int, bytes] = {number: bytes(10_000) for number in range(100)}
    guard.cache(big, name="big")
    guard.cache(small, name="small")
    budget = scene.budgets.budget("a", "5MiB")
    budget.charge("caches/big")
    assert budget.over_bytes > 4 * MIB
    over = scene.roster.over("over budget")
    assert over == budget.over_bytes
    shelves = scene.roster.find("over budget")
    assert shelves is not None
    assert (shelves.reclaim(1 << 40) or 0) >= over
    assert budget.over_bytes == 0
    assert len(big) > 400
    assert len(small) == 100


class Shelf:
    """A market's shelf that fails."""

    name = "broken"

    def size(self) -> int:
        return 10 * MIB

    def sample(self, count: int, /) -> list[tuple[float, int]]:
        return []

    def shrink(self, wanted_bytes: int, below: float, /) -> int:
        assert below == inf
        raise OSError("locked")


def test_a_shelf_that_fails_is_told_of(scene: Scene) -> None:
    """When nothing at all went, the guard hears why."""
    from memguard.caching.market import market_of

    market_of(scene.roster).join(Shelf())
    scene.budgets.budget("a", "5MiB").charge("broken")
    shelves = scene.roster.find("over budget")
    assert shelves is not None
    with pytest.raises(OSError, match="locked"):
        shelves.reclaim(1)


# --- with a guard ---------------------------------------------------------------------------------------------------


def test_without_pressure_the_one_over_is_brought_back() -> None:
    """At OK, with room for all, a holder that grows beyond its budget is asked about once a second, for that much."""

    def scenario(world: World) -> None:
        world.holder("within", held_bytes="100MiB")
        grows = world.holder("grows", held_bytes="90MiB")
        world.memory.flow(5 * MIB, into=grows)
        limit = Limit(bytes=world.limit_bytes, kind="kill", source="x")
        Budgets(roster=world.roster, limit=lambda: limit).budget("a", "100MiB").charge("grows")

    run = simulate(scenario, duration_s=60, limit="1GiB")
    assert run.peak_level is Level.OK
    assert set(run.relief_names) == {"grows"}
    assert 40 <= run.attempts("grows") <= 60
    assert max(run.relief_wanted_bytes) < 20 * MIB


def test_under_pressure_the_one_over_goes_first() -> None:
    """A dear holder over its budget gives that much before a cheap one is asked; the rest comes from the cheap one."""

    def scenario(world: World) -> None:
        world.holder("cheap", held_bytes="300MiB")
        world.holder("dear", held_bytes="100MiB", cost="dear", at=Level.CRITICAL)
        limit = Limit(bytes=world.limit_bytes, kind="kill", source="x")
        budget = Budgets(roster=world.roster, limit=lambda: limit).budget("a", "60MiB")
        world.at(5.0, lambda: budget.charge("dear"))
        world.at(5.0, lambda: world.memory.grow(10 * MIB))

    run = simulate(scenario, duration_s=10, limit="590MiB")
    asked = [(name, wanted) for name, wanted in zip(run.relief_names, run.relief_wanted_bytes, strict=True)]
    asked = [pair for pair in asked if pair[0] in {"cheap", "dear"}]
    assert asked[0] == ("dear", 40 * MIB)
    assert run.attempts("dear") == 1


def test_observing_plans_and_does_nothing() -> None:
    """Mode "observe" says what it would ask."""

    def scenario(world: World) -> None:
        world.holder("big", held_bytes="100MiB")
        limit = Limit(bytes=world.limit_bytes, kind="kill", source="x")
        Budgets(roster=world.roster, limit=lambda: limit).budget("a", "60MiB").charge("big")

    run = simulate(scenario, duration_s=5, limit="1GiB", rules=memguard.Rules(mode="observe"))
    assert run.relief_names == []
    assert "would ask big for 40.0 MiB (mode 'observe')" in {event.text for event in run.events}


def test_work_is_admitted_within_a_budget() -> None:
    """What runs counts as used; what does not fit into the budget is refused with its numbers, until the first ends."""
    with Guard(limit="1GiB", probe=FakeMemory(FakeClock()), roster=Roster()) as guard:
        budget = guard.budget("uploads", "100MiB")
        with guard.admit("60MiB", budget="uploads", label="POST /a"):
            assert (budget.used_bytes, budget.row().charged) == (60 * MIB, ("admitted work",))
            with pytest.raises(AdmissionRefused, match=r"60\.0 MiB of the 100\.0 MiB of budget 'uploads' are used"):
                guard.admit("60MiB", budget="uploads")
            with guard.admit("60MiB"):  # there is room elsewhere
                assert "uploads: 60.0 MiB of 100.0 MiB, charged: admitted work" in guard.explain()
        assert budget.used_bytes == 0
        with guard.admit("60MiB", budget="uploads"):
            pass


def test_work_of_unknown_size_needs_a_budget_with_room() -> None:
    """It passes while anything is left, and no longer when others have used it up."""
    with Guard(limit="1GiB", probe=FakeMemory(FakeClock()), roster=Roster()) as guard:
        guard.budget("uploads", "100MiB")
        with (
            guard.admit(budget="uploads"),
            guard.admit("100MiB", budget="uploads"),
            pytest.raises(AdmissionRefused, match="uploads"),
        ):
            guard.admit(budget="uploads")


def test_what_the_whole_refuses_takes_nothing_from_a_budget() -> None:
    """A refusal for want of memory leaves the budget as it was; so does a budget's refusal leave the promises."""
    with Guard(limit="100MiB", probe=FakeMemory(FakeClock(), base_bytes="50MiB"), roster=Roster()) as guard:
        budget = guard.budget("uploads", "60MiB")
        with pytest.raises(AdmissionRefused):
            guard.admit("55MiB", budget="uploads")
        assert budget.used_bytes == 0
        with pytest.raises(AdmissionRefused):
            guard.admit("61MiB", budget="uploads")
        assert guard.gate.promised_bytes == 0


def test_who_waits_for_a_budget_gets_it() -> None:
    """A waiter comes in when the one before it ends."""

    async def main() -> float:
        with Guard(limit="1GiB", probe=FakeMemory(FakeClock()), roster=Roster()) as guard:
            guard.budget("uploads", "100MiB")
            first = guard.admit("80MiB", budget="uploads")
            asyncio.get_running_loop().call_soon(first.close)
            async with guard.admit("80MiB", budget="uploads", wait_s=20.0):
                return guard.budget("uploads").used_bytes

    assert asyncio.run(main()) == 80 * MIB


def test_a_budget_that_nobody_made() -> None:
    """Is an error that says how to make it, not a refusal."""
    guard = Guard(limit="1GiB", probe=FakeMemory(FakeClock()), roster=Roster())
    with pytest.raises(RulesError, match=r"budget\('uploads', '200MiB'\)"):
        guard.admit("1MiB", budget="uploads")


def test_explaining_tells_of_budgets_that_add_up_to_too_much() -> None:
    """A limit that shrank below their sum is said where people look."""
    limits = [Limit(bytes=1000 * MIB, kind="kill", source="a scene")]
    guard = Guard(limit=lambda: tuple(limits), probe=FakeMemory(FakeClock()), roster=Roster())
    guard.budget("caches", "900MiB")
    assert "budgets add up" not in guard.explain()
    limits[0] = Limit(bytes=500 * MIB, kind="kill", source="a scene")
    guard.trim()  # looks for the limit again
    assert "budgets add up to 900.0 MiB" in guard.explain()
