"""Slots: what is read was written together, whenever its writer was killed."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.workers import slots
from memguard.workers.lives import Life
from memguard.workers.slots import SLOT_BYTES, Said

LIFE = Life(pid=4711, started_ticks=123456, space=4026531836)
AT = 2 * SLOT_BYTES

saids = st.builds(
    Said,
    level=st.integers(0, 4),
    state=st.integers(0, 2),
    shedding=st.booleans(),
    running=st.integers(0, 65535),
    beat_at=st.floats(0.0, 1e9),
    used_bytes=st.integers(0, 1 << 50),
    yield_bytes=st.integers(0, 1 << 50),
    refusals=st.integers(0, (1 << 32) - 1),
)


@pytest.fixture(name="shared")
def _shared() -> mmap.mmap:
    return mmap.mmap(-1, 4096)


@given(saids)
def test_what_is_said_is_read(said: Said) -> None:
    """Every number comes back as it was said."""
    shared = mmap.mmap(-1, 4096)
    seed = slots.claim(shared, AT, LIFE)
    slots.say(shared, AT, seed, said)
    assert slots.read(shared, AT, LIFE, seed) == said
    assert slots.life_in(shared[AT : AT + SLOT_BYTES]) == (LIFE, seed)


@given(saids, saids, st.integers(0, SLOT_BYTES))
def test_a_write_cut_anywhere_is_no_mixture(old: Said, new: Said, cut: int) -> None:
    """Of a write that was broken off after any byte one reads the old, the new, or nothing."""
    shared = mmap.mmap(-1, 4096)
    seed = slots.claim(shared, AT, LIFE)
    slots.say(shared, AT, seed, old)
    before = shared[AT : AT + SLOT_BYTES]
    slots.say(shared, AT, seed, new)
    after = shared[AT : AT + SLOT_BYTES]
    shared[AT : AT + SLOT_BYTES] = after[:cut] + before[cut:]
    assert slots.read(shared, AT, LIFE, seed) in {old, new, None}
    found = slots.life_in(shared[AT : AT + SLOT_BYTES])
    assert found == (LIFE, seed), "whose it is stays known: its owner may be looked up"


@pytest.mark.parametrize("cut", range(SLOT_BYTES))
def test_a_claim_cut_anywhere_is_ours_or_nobodys(shared: mmap.mmap, cut: int) -> None:
    """Whoever is killed while it claims has claimed nothing, or all."""
    other = Life(pid=99, started_ticks=7, space=1)
    slots.claim(shared, AT, other)
    before = shared[AT : AT + SLOT_BYTES]
    slots.claim(shared, AT, LIFE)
    after = shared[AT : AT + SLOT_BYTES]
    shared[AT : AT + SLOT_BYTES] = after[:cut] + before[cut:]
    found = slots.life_in(shared[AT : AT + SLOT_BYTES])
    assert found is None or found[0] in {LIFE, other}


def test_a_new_owner_says_nothing_yet(shared: mmap.mmap) -> None:
    """What the last owner of a slot said is not taken for the new one's."""
    seed = slots.claim(shared, AT, Life(pid=99, started_ticks=7, space=1))
    slots.say(shared, AT, seed, Said(used_bytes=5))
    body = shared[AT + 28 : AT + SLOT_BYTES]
    seed = slots.claim(shared, AT, LIFE)
    assert slots.read(shared, AT, LIFE, seed) is None
    shared[AT + 28 : AT + SLOT_BYTES] = body
    assert slots.read(shared, AT, LIFE, seed) is None


def test_a_slot_that_changed_hands_is_not_read(shared: mmap.mmap) -> None:
    """Who looks for a worker that is gone does not read its successor."""
    old = slots.claim(shared, AT, Life(pid=99, started_ticks=7, space=1))
    seed = slots.claim(shared, AT, LIFE)
    slots.say(shared, AT, seed, Said(used_bytes=5))
    assert slots.read(shared, AT, Life(pid=99, started_ticks=7, space=1), old) is None


def test_an_empty_slot_is_nobodys(shared: mmap.mmap) -> None:
    """Zeros belong to nobody."""
    assert slots.life_in(bytes(SLOT_BYTES)) is None
    seed = slots.claim(shared, AT, LIFE)
    slots.clear(shared, AT)
    assert slots.life_in(shared[AT : AT + SLOT_BYTES]) is None
    assert slots.read(shared, AT, LIFE, seed) is None


def test_numbers_out_of_range_do_not_fail(shared: mmap.mmap) -> None:
    """A count beyond its field is taken to the end, or counts on from 0."""
    seed = slots.claim(shared, AT, LIFE)
    slots.say(shared, AT, seed, Said(running=1 << 20, used_bytes=-5, yield_bytes=1 << 70, refusals=(1 << 32) + 3))
    said = slots.read(shared, AT, LIFE, seed)
    assert said is not None
    assert (said.running, said.used_bytes, said.refusals) == (65535, 0, 3)
    assert said.yield_bytes == (1 << 62) - 1
