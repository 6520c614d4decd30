"""The shipped fakes keep the promises of the ports they stand for."""

# ruff: noqa: PT022 - the mixins' fixtures are generators
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memguard.model import Level
from memguard.ports import Probe, Reclaimer
from memguard.testing import (
    BlockingReclaimer,
    FakeClock,
    FakeHolder,
    FakeMemory,
    FlakyProbe,
    FlakyReclaimer,
    LyingReclaimer,
    RaisingReclaimer,
    SlowReclaimer,
    UselessReclaimer,
    World,
    load_record,
    simulate,
)
from memguard.units import MIB
from tests.contract.test_probes import ProbePromises
from tests.contract.test_reclaimers import Promises as ReclaimerPromises

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TestFakeMemory(ProbePromises):
    def make(self, folder: Path) -> Probe:
        return FakeMemory(FakeClock())


class TestFlakyProbe(ProbePromises):
    def make(self, folder: Path) -> Probe:
        return FlakyProbe(FakeMemory(FakeClock()), calls={100})


def _memory() -> FakeMemory:
    return FakeMemory(FakeClock())


class TestFakeHolder(ReclaimerPromises):
    @pytest.fixture
    def full(self) -> Iterator[Reclaimer]:
        yield FakeHolder(_memory(), "answers", held_bytes="10MiB")

    @pytest.fixture
    def empty(self) -> Iterator[Reclaimer]:
        yield FakeHolder(_memory(), "answers")


class TestFlakyReclaimer(ReclaimerPromises):
    @pytest.fixture
    def full(self) -> Iterator[Reclaimer]:
        yield FlakyReclaimer(FakeHolder(_memory(), "answers", held_bytes="10MiB"))

    @pytest.fixture
    def empty(self) -> Iterator[Reclaimer]:
        yield FlakyReclaimer(FakeHolder(_memory(), "answers"))


class TestSlowReclaimer(ReclaimerPromises):
    @pytest.fixture
    def full(self) -> Iterator[Reclaimer]:
        memory = _memory()
        yield SlowReclaimer(FakeHolder(memory, "answers", held_bytes="10MiB"), clock=memory.clock, seconds=1.0)

    @pytest.fixture
    def empty(self) -> Iterator[Reclaimer]:
        memory = _memory()
        yield SlowReclaimer(FakeHolder(memory, "answers"), clock=memory.clock, seconds=1.0)


@pytest.mark.parametrize(
    "broken", [LyingReclaimer("a"), RaisingReclaimer("b"), BlockingReclaimer("c"), UselessReclaimer("d")]
)
def test_the_broken_ones_have_the_shape(broken: Reclaimer) -> None:
    """Faulty ports look like whole ones."""
    assert isinstance(broken, Reclaimer)


def test_memory_follows_its_script() -> None:
    """Flows, holders, the heap and garbage add up; page cache does not."""
    clock = FakeClock()
    memory = FakeMemory(clock, base_bytes="10MiB", limit_bytes=100 * MIB)
    holder = FakeHolder(memory, "answers", max_bytes="5MiB", into_heap=True)
    memory.holders.append(holder)
    memory.flow(2.0 * MIB)
    memory.flow(lambda second: 1.0 * MIB if second < 10 else 0.0, into=holder)
    memory.page_cache_bytes = 1 << 40
    clock.advance(20.0)
    assert memory.read() == 55 * MIB
    assert holder.reclaim(3 * MIB) == 3 * MIB
    assert (holder.size(), memory.heap_bytes) == (2 * MIB, 3 * MIB)
    assert memory.used_bytes == 55 * MIB
    memory.grow(4 * MIB)
    assert (memory.heap_bytes, memory.used_bytes) == (0.0, 56 * MIB), "what the allocator kept is used first"
    clock.advance(60.0)
    memory.read()
    assert memory.killed_s == pytest.approx(42.0, abs=1.1)


def test_time_that_only_a_clock_shows_grows_nothing() -> None:
    """A jump of the clock is no time in which memory grows."""
    clock = FakeClock()
    memory = FakeMemory(clock, base_bytes=0)
    memory.flow(1.0 * MIB)
    clock.jump(3600.0)
    assert memory.read() == 0


def test_flaky_calls_fail_as_scripted() -> None:
    """Every n-th or the named ones, with the error asked for."""
    probe = FlakyProbe(FakeMemory(FakeClock()), every=3, calls={1}, error=lambda: ValueError("no"))
    failed = []
    for number in range(1, 8):
        try:
            probe.read()
        except ValueError:
            failed.append(number)
    assert (failed, probe.calls) == ([1, 3, 6], 7)
    with pytest.raises(ValueError, match="at least 1"):
        FlakyProbe(FakeMemory(FakeClock()), every=0)


def test_a_scenario_acts_when_it_says() -> None:
    """Actions run at their instant, repeated ones again and again, in order."""
    seen: list[tuple[str, float]] = []

    def scenario(world: World) -> None:
        world.every(10.0, lambda: seen.append(("tick", world.clock.elapsed_s)), first_s=5.0)
        world.at(15.0, lambda: seen.append(("once", world.clock.elapsed_s)))

    simulate(scenario, duration_s=30.0)
    assert seen == [("tick", 5.0), ("once", 15.0), ("tick", 15.0), ("tick", 25.0)]


def test_the_environment_changes_no_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation runs by its own rules, whatever the operator has set."""
    monkeypatch.setenv("MEMGUARD_WARNING_RATIO", "0.71")
    run = simulate(lambda world: world.memory.grow(0.76 * 512 * MIB - world.memory.used_bytes), duration_s=5.0)
    assert run.peak_level is Level.ELEVATED


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no record"),
        ("{}", "is no record"),
        ("[1]\n", "is no record"),
        ("no json\n", "line 1: no JSON"),
        ('{"memguard": "record", "version": 2}\n', "is no record"),
        ('{"memguard": "record", "version": 1}\n', "is damaged"),
        ('{"memguard": "record", "version": 1, "state": 5}\n', "holds no state"),
        ('{"memguard": "record", "version": 1, "state": {"kind": "State", "at": 1, "x": 2}}\n', "is damaged"),
    ],
)
def test_damaged_records_are_refused(tmp_path: Path, text: str, why: str) -> None:
    """A file that is no record says so, and what is wrong with it."""
    path = tmp_path / "incident.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=why):
        load_record(path)
