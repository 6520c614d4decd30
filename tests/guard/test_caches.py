"""A guard and the caches of its process: limits from the rules, parts of the market, what it tells them."""

from __future__ import annotations

from collections import OrderedDict

import pytest

import memguard
from memguard import beat
from memguard.caching.market import market_of
from memguard.units import KIB
from tests.waiting import wait_for


def test_rules_bound_all_caches_together_while_the_guard_runs() -> None:
    """``cache_max_bytes`` holds from start to stop, at every growth."""
    roster = memguard.Roster()
    guard = memguard.Guard(limit=None, roster=roster, cache_max_bytes=100 * KIB)
    cache: memguard.Cache[int, bytes] = memguard.Cache(roster=roster)
    with guard:
        for number in range(200):
            cache[number] = bytes(KIB)
        assert 50 * KIB < cache.bytes <= 100 * KIB
    for number in range(200, 400):
        cache[number] = bytes(KIB)
    assert cache.bytes > 200 * KIB


def test_rules_bound_the_entries_of_a_cache_without_limits() -> None:
    """``cache_maxsize`` is for caches that were given no limit, those that exist and those to come."""
    roster = memguard.Roster()
    before: memguard.Cache[int, int] = memguard.Cache(roster=roster)
    own: memguard.Cache[int, int] = memguard.Cache(maxsize=50, roster=roster)
    before.update((number, number) for number in range(30))
    with memguard.Guard(limit=None, roster=roster, cache_maxsize=20):
        after: memguard.Cache[int, int] = memguard.Cache(roster=roster)
        assert len(before) == 20
        for cache in (before, own, after):
            cache.update((number, number) for number in range(100, 200))
        assert (len(before), len(own), len(after)) == (20, 50, 20)
    after.update((number, number) for number in range(100))
    assert len(after) >= 100


def test_a_guard_that_observes_bounds_nothing() -> None:
    """``mode="observe"`` takes nothing from a cache."""
    roster = memguard.Roster()
    cache: memguard.Cache[int, int] = memguard.Cache(roster=roster)
    with memguard.Guard(limit=None, roster=roster, cache_maxsize=20, mode="observe"):
        cache.update((number, number) for number in range(100))
    assert len(cache) == 100


def test_a_registered_cache_is_a_part_of_the_market() -> None:
    """What gives up entry by entry shares one price; each part is told with its bytes."""
    roster = memguard.Roster()
    guard = memguard.Guard(limit=None, roster=roster)
    plain, other = OrderedDict((number, f"{number:1000}") for number in range(100)), OrderedDict(a=1)
    with guard.cache(plain, name="plain"), guard.cache(other, name="alone", cost="dear"):
        rows = {row.name: row for row in guard.holders()}
        assert rows["caches/plain"].size_bytes is not None
        assert rows["caches/plain"].size_bytes >= 100 * 1000
        assert rows["caches"].size_bytes == rows["caches/plain"].size_bytes
        assert rows["alone"].cost == "dear"
    assert not {"caches/plain", "alone"} & {row.name for row in guard.holders()}


@pytest.mark.parametrize("closed_by", ["handle", "death"])
def test_a_cache_leaves_the_market(closed_by: str) -> None:
    """A closed handle or the end of the object takes it off."""
    roster = memguard.Roster()
    cache = OrderedDict(a=1)
    handle = memguard.Guard(limit=None, roster=roster).cache(cache, name="mine")
    assert len(market_of(roster).shelves) == 1
    if closed_by == "handle":
        handle.close()
    del cache
    assert market_of(roster).shelves == ()
    assert handle.closed


def test_the_coarse_clock_runs_while_a_guard_does() -> None:
    """It is infinity without one, so that nobody believes a clock that stands still."""
    assert beat.NOW == beat.NEVER
    with memguard.Guard(limit=None, roster=memguard.Roster()):
        wait_for(lambda: beat.NOW != beat.NEVER)
    assert beat.NOW == beat.NEVER
