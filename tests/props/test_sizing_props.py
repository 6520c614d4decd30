"""Small objects of any shape weigh exactly what they keep alive; larger ones what their parts do."""

from __future__ import annotations

import gc
import sys
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.sizing import bytes_of, entry_bytes, sizeof

_leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
_keys = st.text() | st.integers() | st.tuples(st.integers(), st.text())
_things = st.recursive(
    _leaves,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(_keys, inner) | st.frozensets(_keys),
    max_leaves=30,
)


def _is_nobodys(thing: Any) -> bool:
    if thing is None or isinstance(thing, bool) or sys.getrefcount(thing) > 1 << 29:
        return True
    if isinstance(thing, int):
        return -6 < thing < 257
    return (isinstance(thing, (str, bytes)) and len(thing) < 2) or thing == ()


def _exact(root: Any) -> int:
    seen, stack, total = set[int](), [root], 0
    while stack:
        thing = stack.pop()
        if id(thing) in seen or (thing is not root and _is_nobodys(thing)):
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        stack += gc.get_referents(thing)
        if isinstance(thing, dict):
            stack += thing
    return total


@given(_things.filter(lambda thing: isinstance(thing, (list, dict, tuple))))
def test_small_things_are_exact(thing: Any) -> None:
    """A tree of a few dozen objects weighs exactly the sum of its distinct objects, without error."""
    size = sizeof(thing)
    assert size == _exact(thing)
    assert size.error_bytes == 0
    # Its budget is smaller than many such trees are large, so that some are sampled.
    assert bytes_of(thing) == pytest.approx(size, rel=0.1)


@given(_things, _things)
def test_an_entry_is_at_most_its_parts(key: Any, value: Any) -> None:
    """An entry weighs at least as much as its key or value alone, and at most as much as both apart."""
    both = entry_bytes(key, value)
    apart = [entry_bytes(part, None) for part in (key, value)]
    # Roots of plain kinds count though the interpreter keeps them.
    assert max(apart) - 64 <= both <= sum(apart) + 64


@given(_things, st.integers(1, 3000))
def test_a_list_of_one_thing_counts_it_once(thing: Any, many: int) -> None:
    """However often a list refers to one object, that counts once."""
    alone, crowd = [thing], [thing] * many
    once = sizeof(alone) - sys.getsizeof(alone)
    assert sizeof(crowd) - sys.getsizeof(crowd) == pytest.approx(once, rel=0.01, abs=1)


@given(
    st.integers(0, 2**32),
    st.integers(3000, 6000),
    st.lists(st.integers(2, 2000), min_size=1, max_size=20),
    st.sampled_from([list, tuple, set, frozenset]),
)
def test_large_ones_lie_within_twice_the_bound(seed: int, count: int, lengths: list[int], kind: Any) -> None:
    """Of thousands of byte strings of any lengths, the true size lies within twice the stated bound."""
    dice = Random(seed)
    thing = kind([at.to_bytes(2, "big") + bytes(dice.choice(lengths)) for at in range(count)])
    size = sizeof(thing)
    exact = sys.getsizeof(thing) + sum(map(sys.getsizeof, thing))
    assert abs(size - exact) <= 2 * size.error_bytes + 0.01 * exact
