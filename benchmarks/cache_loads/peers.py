"""The peers: static splits, shared LRU, exact global GDSF, random."""

from __future__ import annotations

import heapq
import random
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from cache_loads.load import Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cache_loads.load import Load, Request

__all__ = ["best_split", "gdsf", "proportional_split", "shared_lru", "shared_random", "static_split"]

# The best split is searched among splits into so many equal parts.
PARTS = 16


def _lru(requests: Iterable[tuple[int, Request]], budget_bytes: int, warm: int) -> tuple[float, int, int]:
    """(cost, hits, requests) of one LRU after warming up."""
    held: OrderedDict[tuple[int, int], int] = OrderedDict()
    used, spent, hits, counted = 0, 0.0, 0, 0
    for place, (_, cache, key, size, cost_s) in requests:
        known = (cache, key) in held
        if place >= warm:
            counted += 1
            hits += known
            spent += 0.0 if known else cost_s
        if known:
            held.move_to_end((cache, key))
        elif size <= budget_bytes:
            held[cache, key] = size
            used += size
            while used > budget_bytes:
                used -= held.popitem(last=False)[1]
    return spent, hits, counted


def _split(load: Load, name: str, budgets: Sequence[int]) -> Result:
    runs = [_lru(load.of(cache), budget, load.warm) for cache, budget in enumerate(budgets)]
    spent, hits, counted = (sum(column) for column in zip(*runs, strict=True))
    return Result(policy=name, cost_s=spent, hits=int(hits), requests=int(counted))


def static_split(load: Load) -> Result:
    """Every cache an LRU with an equal part of the budget."""
    return _split(load, "static, equal", [load.budget_bytes // len(load.caches)] * len(load.caches))


def proportional_split(load: Load) -> Result:
    """Every cache an LRU with a part as large as its share of all different bytes."""
    whole = sum(load.footprints)
    return _split(load, "static, by footprint", [load.budget_bytes * part // whole for part in load.footprints])


def best_split(load: Load) -> Result:
    """Every cache an LRU, with the best of all splits into sixteenths, known by hindsight."""
    part = load.budget_bytes // PARTS
    best: list[tuple[float, list[int]]] = [(0.0, []), *((float("inf"), list[int]()) for _ in range(PARTS))]
    for cache in range(len(load.caches)):
        own = list(load.of(cache))
        curve = [_lru(own, part * parts, load.warm)[0] for parts in range(PARTS + 1)]
        best = [
            min((best[total - parts][0] + curve[parts], [*best[total - parts][1], parts]) for parts in range(total + 1))
            for total in range(PARTS + 1)
        ]
    return _split(load, "static, best by hindsight", [part * parts for parts in best[PARTS][1]])


def shared_lru(load: Load) -> Result:
    """One LRU over all caches."""
    spent, hits, counted = _lru(enumerate(load.requests), load.budget_bytes, load.warm)
    return Result(policy="shared LRU", cost_s=spent, hits=hits, requests=counted)


def shared_random(load: Load) -> Result:
    """Evicts anything of any cache."""
    rng = random.Random(8)
    held: dict[tuple[int, int], int] = {}
    places: list[tuple[int, int]] = []
    used, spent, hits, counted = 0, 0.0, 0, 0
    for place, (_, cache, key, size, cost_s) in enumerate(load.requests):
        known = (cache, key) in held
        if place >= load.warm:
            counted += 1
            hits += known
            spent += 0.0 if known else cost_s
        if not known and size <= load.budget_bytes:
            held[cache, key] = size
            places.append((cache, key))
            used += size
            while used > load.budget_bytes:
                at = rng.randrange(len(places))
                places[at], places[-1] = places[-1], places[at]
                used -= held.pop(places.pop())
    return Result(policy="random", cost_s=spent, hits=hits, requests=counted)


def gdsf(load: Load) -> Result:
    """GreedyDual-Size-Frequency (Cherkasova, HPL-98-69) over all caches, exact, with a heap."""
    held: dict[tuple[int, int], tuple[float, int, int]] = {}
    heap: list[tuple[float, int, int]] = []
    floor, used, spent, hits, counted, evicted, evict_s = 0.0, 0, 0.0, 0, 0, 0, 0.0
    for place, (_, cache, key, size, cost_s) in enumerate(load.requests):
        old = held.get((cache, key))
        if place >= load.warm:
            counted += 1
            hits += old is not None
            spent += 0.0 if old else cost_s
        if size > load.budget_bytes:
            continue
        freq = 1 if old is None else old[1] + 1
        price = floor + freq * cost_s / size
        held[cache, key] = price, freq, size
        heapq.heappush(heap, (price, cache, key))
        used += 0 if old else size
        if used > load.budget_bytes:
            start = time.perf_counter()
            while used > load.budget_bytes:
                price, *out = heapq.heappop(heap)
                entry = held.get((out[0], out[1]))
                if entry is not None and entry[0] == price:
                    del held[out[0], out[1]]
                    used -= entry[2]
                    floor = price
                    evicted += 1
            evict_s += time.perf_counter() - start
        if len(heap) > 8 * len(held) + 1024:
            heap = [(entry[0], *at) for at, entry in held.items()]
            heapq.heapify(heap)
    return Result(
        policy="GDSF, global, exact", cost_s=spent, hits=hits, requests=counted, evicted=evicted, evict_s=evict_s
    )
