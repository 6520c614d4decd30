"""Ours: real stores on a real market, with the load's clock."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cache_loads.load import Result
from memguard.caching import cohorts, shelf
from memguard.caching import market as markets
from memguard.caching.market import Market
from memguard.caching.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from cache_loads.load import Load

__all__ = ["bulk", "stretches", "trickle"]

# What a guard asks for when caches are over: part of the budget.
BULK_RATIO = 0.05
# The loads' caches are far too small to give up stretches of 4 MiB: these are, of them, about as large a part.
_SMALL_STRETCHES = {"_STRETCH_BYTES": 256 << 10, "_LARGE": 8, "_SMALL_ENTRY_BYTES": 16 << 10}


def _size_of(_key: object, value: int) -> int:
    return value


class _Stopwatch:
    """Adds up the time spent in a function, in seconds."""

    def __init__(self, work: Callable[..., int]) -> None:
        self._work = work
        self.spent_s = 0.0

    def __call__(self, *args: int) -> int:
        start = time.perf_counter()
        try:
            return self._work(*args)
        finally:
            self.spent_s += time.perf_counter() - start


@contextmanager
def _seeded() -> Generator[None]:
    """Let stores and market draw the same numbers in every run."""
    rooms = (cohorts, shelf, markets)
    kept, seeded = [vars(room)["random"] for room in rooms], random.Random(10)
    for room in rooms:
        vars(room)["random"] = seeded.random
    try:
        yield
    finally:
        for room, own in zip(rooms, kept, strict=True):
            vars(room)["random"] = own


def _run(load: Load, policy: str, *, by_trickle: bool = False) -> Result:
    now = 0.0
    market = Market()
    stores = [Store(name=name, size_of=_size_of, clock=lambda: now) for name in load.caches]
    for store in stores:
        market.join(store)
    watch = _Stopwatch(market.hold if by_trickle else market.reclaim)
    if by_trickle:
        market.budget_bytes = load.budget_bytes
        market.hold = watch  # type: ignore[method-assign,assignment]
    budget, bulk_bytes = load.budget_bytes, int(load.budget_bytes * BULK_RATIO)
    spent, hits, counted, next_tend = 0.0, 0, 0, 1.0
    tables = [store.table for store in stores]
    for place, (instant, cache, key, size, cost_s) in enumerate(load.requests):
        now = instant
        warm = place >= load.warm
        counted += warm
        if now >= next_tend:
            market.tend()
            next_tend = now + 1.0
        entry = tables[cache].get(key)
        if entry is not None:
            next(entry)
            hits += warm
            continue
        spent += cost_s if warm else 0.0
        if size > budget:
            continue
        stores[cache].put(key, size, cost_s=cost_s)
        if not by_trickle and sum(store.bytes for store in stores) > budget:
            watch(max(bulk_bytes, sum(store.bytes for store in stores) - budget))
        if sum(store.bytes for store in stores) > budget:
            raise AssertionError(f"{load.name}: over the budget")
    return Result(
        policy=policy,
        cost_s=spent,
        hits=hits,
        requests=counted,
        evicted=sum(store.evictions for store in stores),
        evict_s=watch.spent_s,
    )


def trickle(load: Load) -> Result:
    """The market's budget, held at every growth."""
    with _seeded():
        return _run(load, "ours, budget", by_trickle=True)


def bulk(load: Load) -> Result:
    """What a guard does: 5 % evicted by price whenever all are over."""
    with _seeded():
        return _run(load, "ours, 5 % at once")


def stretches(load: Load) -> Result:
    """The same, from caches that are large enough to give up neighbours together."""
    kept = {name: vars(shelf)[name] for name in _SMALL_STRETCHES}
    vars(shelf).update(_SMALL_STRETCHES)
    try:
        with _seeded():
            return _run(load, "ours, 5 % in stretches")
    finally:
        vars(shelf).update(kept)
