"""A store against a model: whatever is done to it, in whatever order, its accounts are exact."""

from __future__ import annotations

from math import inf
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from memguard.caching.store import Store
from memguard.testing import FakeClock

KEYS = st.one_of(st.integers(0, 12), st.sampled_from("abc"), st.tuples(st.integers(0, 3)))
SIZES = st.integers(0, 60)


class StoreAccounts(RuleBasedStateMachine):
    """Puts, pops, hits, time, bounds and evictions, beside a plain dict that says what may be there."""

    @initialize(
        maxsize=st.none() | st.integers(0, 20),
        max_bytes=st.none() | st.integers(0, 200),
        min_bytes=st.sampled_from([0, 0, 30]),
        counted=st.booleans(),
    )
    def start(self, maxsize: int | None, max_bytes: int | None, min_bytes: int, *, counted: bool) -> None:
        """A store with bounds."""
        self.clock = FakeClock()
        self.sizes: dict[int, int] = {}
        self.store = Store(
            name="model",
            size_of=lambda _key, value: self.sizes[value[0]],
            maxsize=maxsize,
            max_bytes=max_bytes,
            min_bytes=min_bytes,
            relocates=True,
            clock=self.clock,
        )
        self.counted = counted
        self.model: dict[Any, tuple[list[int], float]] = {}
        self.hits = 0
        self.number = 0

    def _value(self, size: int) -> list[int]:
        self.number += 1
        self.sizes[self.number] = size
        return [self.number]

    @rule(
        key=KEYS,
        size=SIZES,
        ttl_s=st.none() | st.sampled_from([0.0, 0.5, 3.0, 100.0]),
        units=st.integers(0, 5),
        over=st.booleans(),
    )
    def put(self, key: Any, size: int, ttl_s: float | None, units: int, *, over: bool) -> None:
        """Kept means there, with that value."""
        value = self._value(size)
        there = self.store.fresh(key) is not None
        kept = self.store.put(key, value, ttl_s=ttl_s, units=units if self.counted else None, over=over)
        if kept:
            assert over or not there
            assert self.store.table[key].value is value
            self.model[key] = (value, inf if ttl_s is None else self.clock() + ttl_s)
        elif ttl_s == 0.0:
            assert key not in self.store.table

    @rule(key=KEYS)
    def hit(self, key: Any) -> None:
        """A hit gives what was put last, and not after its time."""
        entry = self.store.fresh(key)
        if entry is not None:
            value, expires = self.model[key]
            assert next(entry) is value or next(entry) == value
            self.hits += 1 if next(entry) is None else 0
            assert self.clock() < expires

    @rule(key=KEYS)
    def pop(self, key: Any) -> None:
        """What was popped is gone."""
        entry = self.store.pop(key)
        assert entry is None or entry.value == self.model[key][0]
        assert self.store.pop(key) is None

    @rule(seconds=st.sampled_from([0.01, 0.4, 1.0, 5.0, 200.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; after expire() nothing is there that is past its time."""
        self.clock.advance(seconds)
        if seconds != 1.0:
            self.store.expire()
            assert all(entry.expires > self.clock() for entry in self.store)

    @rule(wanted=st.integers(0, 300), below=st.sampled_from([0.0, 1e-9, 1.0, inf]))
    def shrink(self, wanted: int, below: float) -> None:
        """What it says went, and not below the floor, but for what had expired."""
        self.store.expire()
        before = self.store.bytes
        freed = self.store.shrink(wanted, below)
        assert freed == before - self.store.bytes
        assert self.store.bytes >= min(before, self.store.min_bytes)

    @rule(count=st.integers(0, 40))
    def take(self, count: int) -> None:
        """Taking gives each entry once."""
        for _ in range(count):
            before = len(self.store)
            entry = self.store.take()
            assert (entry is None) == (len(self.store) == 0 and (before == 0 or entry is None))

    @rule(number=st.integers(1, 500), size=SIZES)
    def grow(self, number: int, size: int) -> None:
        """A value changes its size; some day tend notices."""
        if number in self.sizes:
            self.sizes[number] = size
        self.store.tend()

    @rule()
    def relocate(self) -> None:
        """Moving changes nothing that can be seen."""
        self.store.expire()
        before = {key: (entry.value, entry.bytes, entry.expires) for key, entry in self.store.table.items()}
        hits = self.store.hits
        self.store.relocate()
        assert {key: (entry.value, entry.bytes, entry.expires) for key, entry in self.store.table.items()} == before
        assert self.store.hits == hits

    @rule()
    def clear(self) -> None:
        """Nothing is left."""
        self.store.clear()
        assert (len(self.store), self.store.bytes, self.store.hits, self.store.due[0]) == (0, 0, 0, inf)

    @invariant()
    def accounts_are_exact(self) -> None:
        """Table, cohorts and sums agree, the bounds hold, due is early enough, and only what was put is there."""
        if not hasattr(self, "store"):
            return
        store = self.store
        entries = list(store)
        assert {id(entry) for entry in entries} == {id(entry) for entry in store.table.values()}
        assert len(entries) == len(store)
        assert store.bytes == sum(entry.bytes for entry in entries)
        assert store.units == (sum(entry.units for entry in entries) if self.counted else 0)  # type: ignore[attr-defined]
        size = store.units if self.counted else len(store)
        assert store.maxsize is None or size <= store.maxsize
        assert store.max_bytes is None or store.bytes <= store.max_bytes
        assert store.due[0] <= min((entry.expires for entry in entries), default=inf)
        assert all(entry.value == self.model[key][0] for key, entry in store.table.items())
        assert store._dropped == []


StoreAccounts.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_accounts = StoreAccounts.TestCase
