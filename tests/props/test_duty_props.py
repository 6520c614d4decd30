"""Collections stay within their share of time, and useless reclaimers within their share of attempts."""

from __future__ import annotations

from math import log2

from hypothesis import given, settings
from hypothesis import strategies as st

from memguard._core.patience import Duty, Patience
from memguard.model import Level
from memguard.rules import Rules
from memguard.testing import UselessReclaimer, World, simulate
from memguard.units import MIB

RULES = Rules()


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 20.0)), min_size=1, max_size=60))
def test_the_duty_holds_in_every_window(wishes: list[tuple[float, float]]) -> None:
    """In any window of T seconds collections take at most gc_duty_ratio T + gc_burst_s + the longest single run."""
    duty, at, ran = Duty(RULES.gc_burst_s, 0.0), 0.0, []
    for wait_s, cost_s in wishes:
        at += wait_s
        duty = duty.filled(at, RULES)
        if duty.tokens_s > 0.0:
            ran.append((at, cost_s))
            at += cost_s
            duty = duty.filled(at, RULES).spent(cost_s)
    for first in range(len(ran)):
        for last in range(first, len(ran)):
            window = ran[first : last + 1]
            seconds = window[-1][0] + window[-1][1] - window[0][0]
            spent = sum(cost_s for _, cost_s in window)
            longest = max(cost_s for _, cost_s in window)
            assert spent <= RULES.gc_duty_ratio * seconds + RULES.gc_burst_s + longest + 1e-6


@given(st.floats(0.5, 3.0), st.floats(1.0, 300.0), st.integers(1, 5000))
def test_a_useless_one_is_asked_a_number_of_times_that_grows_like_the_logarithm(
    first_s: float, longest_s: float, seconds: int
) -> None:
    """Asked as often as allowed, T seconds hold at most log2(max/first) + 3 attempts and one per longest wait."""
    rules = Rules(backoff_first_s=first_s, backoff_max_s=max(first_s, longest_s))
    patience, at, attempts = Patience(), 0.0, 0
    while at < seconds:
        attempts += 1
        patience = patience.failed(at, None, rules)
        at = patience.blocked_until
    assert attempts <= log2(rules.backoff_max_s / first_s) + 3 + seconds / rules.backoff_max_s


@settings(max_examples=15)
@given(st.floats(0.05, 3.0), st.integers(60, 240))
def test_collections_in_a_whole_guard_stay_within_the_duty(pause_s: float, seconds: int) -> None:
    """Under pressure without end, with collections that find nothing: the guard's own stay within 5 % and the burst."""
    worlds = []

    def stuck(world: World) -> None:
        worlds.append(world)
        world.collect.pause_s = pause_s
        world.memory.grow(440 * MIB - world.memory.used_bytes)
        world.holder("answers", held_bytes="5MiB", max_bytes="5MiB", into_heap=True, gives_ratio=0.2)
        world.memory.flow(100.0, into=world.memory.holders[0])

    simulate(stuck, duration_s=seconds, rules=Rules(backoff_max_s=1.0, pace_min_s=0.1))
    ran = worlds[0].collect.ran
    assert ran, "it is tried"
    spent = sum(cost_s for _, cost_s in ran)
    assert spent <= 0.05 * (seconds + pause_s) + 1.0 + pause_s + 1e-6


@settings(max_examples=10)
@given(st.integers(60, 600), st.sampled_from([None, 100 * MIB]))
def test_a_useless_holder_in_a_whole_guard(seconds: int, size_bytes: int | None) -> None:
    """Under pressure without end it is asked six times in the first minute, and then once a minute."""
    useless = UselessReclaimer("useless", size_bytes=size_bytes)

    def stuck(world: World) -> None:
        world.add(useless)
        world.memory.grow(440 * MIB - world.memory.used_bytes)

    run = simulate(stuck, duration_s=seconds, rules=Rules(pace_min_s=0.1))
    assert run.peak_level is Level.WARNING
    assert 5 <= useless.attempts <= 7 + seconds / 60 + 1
