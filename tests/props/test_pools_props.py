"""Pools in random histories: whoever runs stays, the cap holds, no agent is lost without its hook, all adds up."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memguard.agents.pools import Pool
from memguard.errors import PoolFull
from memguard.model import Level, Limit, Reading, Snapshot
from memguard.roster import Roster
from memguard.rules import Rules
from memguard.testing import FakeClock
from memguard.units import MIB

_IDS = st.sampled_from("abcdefgh")


class Agent:
    """Takes 10 MiB of the story's memory while it lives."""

    def __init__(self, story: PoolStory) -> None:
        self.body = bytearray(1000)
        story.used += 10 * MIB
        weakref.finalize(self, story.freed)


class PoolStory(RuleBasedStateMachine):
    """A pool of at most 4 in a memory of 100 MiB, a hook that may fail, and the model: who holds what how often."""

    def __init__(self) -> None:
        super().__init__()
        self.used = 30 * MIB
        self.clock = FakeClock()
        self.failing = False
        self.saved: list[str] = []
        self.holds: dict[str, int] = {}
        roster = Roster()
        self.pool: Pool[Agent] = Pool(
            "agents", rules=Rules(), snapshot=self.snapshot, used_bytes=lambda: self.used, clock=self.clock, max_size=4,
            on_retire=self.save, roster=roster,
        )  # fmt: skip
        found = roster.find("agents")
        assert found is not None
        self.shedder = found

    def freed(self) -> None:
        self.used -= 10 * MIB

    def snapshot(self) -> Snapshot:
        return Snapshot(
            at=self.clock(), reading=Reading(at=self.clock(), used_bytes=self.used, source="x"), pressure=0.0,
            limit=Limit(bytes=100 * MIB, kind="kill", source="x"), level=Level.OK, forecast=None,
        )  # fmt: skip

    def save(self, id_: str, agent: Agent) -> None:
        assert not self.holds.get(id_), "a running agent was retired"
        if self.failing:
            raise OSError("disk full")
        self.saved.append(id_)

    @rule(id_=_IDS)
    def acquire(self, id_: str) -> None:
        there = id_ in self.pool
        try:
            agent = self.pool.acquire(id_, lambda: Agent(self))
        except PoolFull:
            assert not there
        else:
            assert self.pool[id_] is agent
            self.holds[id_] = self.holds.get(id_, 0) + 1

    @rule(id_=_IDS)
    def put(self, id_: str) -> None:
        try:
            self.pool[id_] = Agent(self)
        except PoolFull:
            assert id_ not in self.pool
        else:
            self.holds.pop(id_, None)

    @precondition(lambda self: any(self.holds.values()))
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        id_ = data.draw(st.sampled_from(sorted(id_ for id_, count in self.holds.items() if count)))
        self.holds[id_] -= 1
        self.pool.release(id_)

    @rule(id_=_IDS)
    def remove(self, id_: str) -> None:
        if id_ in self.pool:
            del self.pool[id_]
        else:
            with pytest.raises(KeyError):
                del self.pool[id_]
        self.holds.pop(id_, None)

    @rule(size=st.integers(0, 6))
    def resize(self, size: int) -> None:
        done = self.pool.resize(size)
        assert done.running_above == max(0, sum(map(bool, self.holds.values())) - size)
        assert not done.kept or self.failing

    @rule(wanted=st.integers(0, 60 * MIB))
    def relieve(self, wanted: int) -> None:
        idle = self.shedder.size() or 0
        before = len(self.saved)
        try:
            given = self.shedder.reclaim(wanted) or 0
        except RuntimeError:
            assert self.failing
        else:
            assert given >= min(wanted, idle) or self.failing or self.pool.stats().failed
            assert bool(given) is (len(self.saved) > before)

    @rule()
    def fail_or_not(self) -> None:
        self.failing = not self.failing

    @rule(seconds=st.floats(0.0, 100.0))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.pool.tend()

    @invariant()
    def running_ones_are_there(self) -> None:
        held = {id_ for id_, count in self.holds.items() if count}
        assert {row.id for row in self.pool.agents() if row.state == "running"} == held

    @invariant()
    def it_adds_up(self) -> None:
        stats, floor = self.pool.stats(), self.pool._floor
        assert stats.created == stats.retired + stats.finished + stats.size
        assert stats.retired == len(self.saved)
        assert stats.running + stats.idle == stats.size == len(self.pool) == len(floor.seats)
        assert (stats.building, stats.retiring, stats.waiting, floor._swaps) == (0, 0, 0, 0)
        assert floor.idle == stats.idle
        assert floor.held_bytes == sum(seat.bytes for seat in floor.seats.values())
        assert floor.idle_bytes == sum(seat.bytes for seat in floor.seats.values() if seat.state == "idle")

    @invariant()
    def memory_is_that_of_those_there(self) -> None:
        assert self.used == 30 * MIB + 10 * MIB * len(self.pool)
        assert self.used <= 90 * MIB


TestPoolStory = PoolStory.TestCase
