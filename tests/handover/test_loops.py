"""No restart loop: 1,000 days in worlds that would make one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memguard._core.machine import advance
from memguard._core.recycling import next_wait_s, recent
from memguard._core.state import State
from memguard._core.stimuli import HandOver, Looked, Weighed
from memguard.rules import Rules
from memguard.units import MIB
from memguard.values import replace

LIMIT = 1000 * MIB
DAY_S = 86400.0
RULES = Rules()


@dataclass(frozen=True, kw_only=True)
class World:
    """A service: a fresh worker holds ``fresh`` of the limit and fills to ``full`` at ``rate`` shares a second.

    ``true`` tells whether what a fresh worker holds is seen; else it is taken for nothing.
    """

    fresh: float
    full: float
    rate: float
    startup_s: float
    true: bool = True

    def used(self, age_s: float) -> float:
        """Shares of the limit in use."""
        return min(self.full, self.fresh + self.rate * age_s)


worlds = st.builds(
    World,
    fresh=st.floats(0.02, 0.97),
    full=st.floats(0.70, 1.2),
    rate=st.floats(-6, -1).map(lambda power: 10.0**power),
    startup_s=st.floats(0.5, 40.0),
    true=st.booleans(),
)


def lived(world: World, days: float, *, step_s: float, most: int = 60_000) -> tuple[list[float], int]:
    """Instants of hand-overs, and how often the kernel ended a worker, in so many days or so many steps."""
    now, born_at, wait_s, count, kills = 0.0, 0.0, 0.0, 0.0, 0
    last_at: float | None = None
    state, handed = State(), list[float]()
    for _ in range(most):
        if now >= days * DAY_S:
            break
        used = world.used(now - born_at)
        if used >= 1.0:  # the kernel's turn: whoever starts workers starts one
            kills, born_at, state = kills + 1, now, State()
            now += world.startup_s
            continue
        state = advance(state, Looked(now, int(used * LIMIT), LIMIT, "x"), RULES).state
        since_s = None if last_at is None else now - last_at
        found = Weighed(
            at=now, age_s=now - born_at, own_bytes=int(used * LIMIT), startup_s=world.startup_s,
            fresh_bytes=int(world.fresh * LIMIT) if world.true else 0, since_s=since_s, wait_s=wait_s,
            count=count,
        )  # fmt: skip
        decision = advance(replace(state, exhausted=True), found, RULES)
        state = decision.state
        if any(isinstance(action, HandOver) for action in decision.actions):
            handed.append(now)
            wait_s, count = next_wait_s(wait_s, since_s, RULES), 1.0 + recent(count, since_s, RULES)
            last_at = now
            now += world.startup_s
            born_at, state = now, State()
        calm_s = (0.70 - world.used(now - born_at)) / world.rate
        now += max(step_s, calm_s)  # nothing happens below 70 %
    return handed, kills


@settings(max_examples=30)
@given(worlds)
def test_no_worker_is_younger_than_the_least_life(world: World) -> None:
    """Whatever happens in whatever world, two hand-overs are never closer than handover_life_s."""
    handed, _ = lived(world, 10.0, step_s=20.0, most=400)
    assert all(later - earlier >= RULES.handover_life_s for earlier, later in pairwise(handed))


@settings(max_examples=20)
@given(worlds.filter(lambda world: world.full < 0.99))
def test_what_nothing_ends_is_recycled_less_and_less(world: World) -> None:
    """A working set that fills up to a plateau within an hour: a dozen times, and then once a day."""
    assume((world.full - world.fresh) / world.rate < 3600.0)
    handed, kills = lived(world, 5.0, step_s=300.0)
    assert not kills
    assert len(handed) <= 12 + 5


def test_a_fresh_worker_above_the_leave_level_is_never_recycled() -> None:
    """A fresh worker that starts at 92 %: not once in 1,000 days."""
    handed, _ = lived(World(fresh=0.92, full=0.94, rate=1e-3, startup_s=2.0), 1000.0, step_s=3600.0)
    assert handed == []


def test_a_working_set_that_is_too_large_is_left_in_peace() -> None:
    """A fresh worker fills to 85 % within minutes, for 1,000 days: once a day after the first ones, and not never."""
    handed, kills = lived(World(fresh=0.10, full=0.85, rate=3e-3, startup_s=2.0), 1000.0, step_s=3600.0)
    assert not kills
    assert 500 < len(handed) < 1015


def test_a_working_set_that_looks_like_a_leak_each_time() -> None:
    """One that fills in a minute and stops short of the limit: bounded by handover_per_day, whatever it looks like."""
    handed, kills = lived(World(fresh=0.2, full=0.97, rate=0.02, startup_s=2.0), 1.0, step_s=20.0)
    assert not kills
    assert 100 < len(handed) <= 2 * RULES.handover_per_day


def test_a_leak_is_handed_over_before_it_kills() -> None:
    """A leak that fills the limit in two minutes: no kill, and each life as long as the leak allows."""
    world = World(fresh=0.20, full=1.5, rate=0.8 / 120.0, startup_s=3.0)
    handed, kills = lived(world, 1.0, step_s=1.0, most=3000)
    assert not kills
    assert len(handed) > 10
    assert min(later - earlier for earlier, later in pairwise(handed)) >= 80.0
