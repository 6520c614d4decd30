"""Growth: what is kept of readings, whatever they look like."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.growth import Growth, Scale
from memguard.units import MIB

HOUR = 3600.0
WEIRD = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 1e12), st.integers(-5, 10**6))


def kept(growth: Growth, place: int = 0) -> tuple[list[float], list[float], list[float]]:
    """Instants, floors of what no holder accounts for, and requests, at one scale."""
    assert growth._began is not None
    blocks = growth._scales[place].blocks(growth._began)
    return list(blocks.at), list(blocks.rest), list(blocks.requests)


def leaking(growth: Growth, *, begin: float, hours: float, step_s: float = 8.0, mib_per_h: float = 60.0) -> float:
    """Feed so many hours of a leak that has gone on since 0; the instant of the last reading."""
    chance, at = random.Random(3), begin
    while at < begin + hours * HOUR:
        at += step_s
        used = 100 * MIB + mib_per_h * MIB * at / HOUR + chance.gauss(0, 0.1 * MIB)
        growth.note(at, used_bytes=used, requests=int(at * 10))
    return at


def examined(growth: Growth, limit_bytes: float | None = 400.0 * MIB) -> str:
    """The kind of the verdict after all scales were looked at."""
    while growth.examine(patience_s=HOUR):
        pass
    return growth.verdict(limit_bytes=limit_bytes, patience_s=HOUR).kind


def test_blocks_keep_floors() -> None:
    """A block keeps its lowest reading, a longer block the lowest of its parts."""
    growth = Growth()
    for at in range(64):
        growth.note(float(at), used_bytes=100.0 + at % 4 + (at // 4) % 2 * 10, held_bytes=at % 4, requests=at)
    ends, rest, requests = kept(growth)
    assert ends == [float(end) for end in range(3, 60, 4)]
    assert rest == [100.0, 110.0] * 7 + [100.0]
    assert requests == ends
    assert kept(growth, 1)[1] == [100.0] * 7


def test_the_last_64_blocks_stay() -> None:
    """A scale forgets the oldest and keeps the order."""
    growth = Growth()
    for at in range(0, 4000, 2):
        growth.note(float(at), used_bytes=float(at))
    ends, rest, _ = kept(growth)
    assert len(ends) == 64
    assert ends == sorted(ends)
    assert rest == [end - 2.0 for end in ends]


def test_a_leak_is_seen_through_a_gap() -> None:
    """An hour without readings stays a gap, and the leak is found across it."""
    growth = Growth()
    leaking(growth, begin=0.0, hours=1)
    leaking(growth, begin=2 * HOUR, hours=1.5)
    assert examined(growth) == "leak-like"
    at, _, _ = kept(growth, 6)
    assert max(after - before for before, after in pairwise(at)) > HOUR / 2


def test_a_clock_that_jumps_back() -> None:
    """Readings from before the last are passed over until the clock has caught up; nothing is lost but those."""
    growth = Growth()
    end = leaking(growth, begin=0.0, hours=2)
    leaking(growth, begin=end - 0.5 * HOUR, hours=1.5)
    assert examined(growth) == "leak-like"
    at, _, _ = kept(growth, 5)
    assert at == sorted(at)


def test_counters_that_start_again() -> None:
    """A counter that fell began at 0 again: work done never runs backwards."""
    growth = Growth()
    for at, requests in enumerate([100, 200, 300, 5, 10, 20, 0, 7] * 8):
        growth.note(at * 4.0, used_bytes=MIB, requests=requests)
    _, _, counted = kept(growth)
    assert counted == sorted(counted)
    assert counted[7] == 200 + 5 + 5 + 10 + 0 + 7  # the first 100 were there before


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_no_numbers(wrong: float) -> None:
    """What is no amount is passed over; what is wrong beside a good reading counts as nothing."""
    growth = Growth()
    growth.note(1.0, used_bytes=wrong)
    if wrong != -1.0:
        growth.note(wrong, used_bytes=MIB)
    assert growth._began is None
    leaking(growth, begin=0.0, hours=2)
    growth.note(3 * HOUR, used_bytes=wrong)
    growth.note(3 * HOUR, used_bytes=320 * MIB, held_bytes=wrong, requests=wrong, cpu_s=wrong)
    assert examined(growth) == "leak-like"


@given(st.lists(st.tuples(WEIRD, WEIRD, WEIRD, WEIRD, WEIRD), max_size=60))
def test_any_readings(readings: list[tuple[float, float, float, float, float]]) -> None:
    """Whatever comes, nothing raises and a verdict in words comes out."""
    growth = Growth()
    for number, (at, used, held, requests, cpu_s) in enumerate(readings):
        growth.note(at, used_bytes=used, held_bytes=held, requests=requests, cpu_s=cpu_s)
        growth.note(number * 30.0, used_bytes=used, held_bytes=held, requests=requests, cpu_s=cpu_s)
    while growth.examine(patience_s=HOUR):
        pass
    found = growth.verdict(limit_bytes=None, patience_s=1.0)
    assert found.words
    assert 0.0 <= found.confidence <= 1.0


@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 2**40)), min_size=20, max_size=80))
def test_any_blocks(floors: list[int]) -> None:
    """Any row of floors, ties and leaps included, is judged without an error."""
    growth = Growth()
    for number, floor in enumerate(floors):
        growth.note(number * 4.0, used_bytes=float(floor), held_bytes=floor / 3, requests=number % 7, open=floor % 3)
    while growth.examine(patience_s=HOUR):
        pass
    assert growth.verdict(limit_bytes=1.0, patience_s=10.0).words


def test_what_it_keeps_is_small() -> None:
    """Two weeks of evidence and its looks take less than 128 KiB, however many readings came."""
    growth = Growth()
    leaking(growth, begin=0.0, hours=1)
    assert examined(growth)
    del growth
    tracemalloc.start()
    try:
        growth = Growth()
        leaking(growth, begin=0.0, hours=14 * 24, step_s=120.0, mib_per_h=1.0)
        examined(growth)
        assert tracemalloc.get_traced_memory()[0] < 128 * 1024
    finally:
        tracemalloc.stop()


def test_looks_are_made_when_there_is_something_new() -> None:
    """Without new blocks nothing is looked at; one call looks at one scale."""
    growth = Growth()
    assert not growth.examine(patience_s=HOUR)
    leaking(growth, begin=0.0, hours=0.1)
    looks = 0
    while growth.examine(patience_s=HOUR):
        looks += 1
    assert looks == sum(scale.looked > 0 for scale in growth._scales)
    assert not growth.examine(patience_s=HOUR)
    assert Scale(4.0).count == 0
