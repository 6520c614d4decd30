"""The market: one price over all caches, floors, a shared budget, and honest words about what came back."""

from __future__ import annotations

import gc
import os
import threading
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

import pytest

from memguard.caching.market import Market, market_of
from memguard.caching.store import Store
from memguard.model import Level
from memguard.ports import Reclaimer, Shelf
from memguard.roster import Roster
from memguard.testing import FakeClock
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZE = 1000


@pytest.fixture
def clock() -> FakeClock:
    """The time, moved by hand."""
    return FakeClock()


@pytest.fixture
def market() -> Market:
    """A market of its own."""
    return Market()


@pytest.fixture
def make(market: Market, clock: FakeClock) -> Callable[..., Store]:
    """A store on the market, with so many entries of 1000 bytes and that cost."""

    def made(name: str = "store", entries: int = 0, cost_s: float = 0.1, **options: Any) -> Store:
        store = Store(name=name, size_of=lambda _key, _value: SIZE, clock=clock, **options)
        market.join(store)
        for key in range(entries):
            clock.advance(0.01)
            store.put(key, key, cost_s=cost_s)
        return store

    return made


class Foreign:
    """A cache of somebody else, with one price for all entries; it may fail at any of its methods."""

    def __init__(self, name: str = "foreign", held: int = 100, price: float = 1e-9, fails: str = "") -> None:
        self.name, self.held, self.price, self.fails = name, held * SIZE, price, fails

    def _maybe(self, method: str) -> None:
        if method in self.fails.split():
            raise RuntimeError(f"{method} of {self.name} is broken")

    def size(self) -> int | None:
        self._maybe("size")
        return self.held

    def sample(self, count: int, /) -> Sequence[tuple[float, int]]:
        self._maybe("sample")
        return [(self.price, SIZE)] * min(count, self.held // SIZE)

    def shrink(self, wanted_bytes: int, below: float, /) -> int:
        self._maybe("shrink")
        gone = min(self.held, -(-wanted_bytes // SIZE) * SIZE) if self.price <= below else 0
        self.held -= gone
        return gone

    def tend(self) -> None:
        self._maybe("tend")

    def expire(self) -> None:
        self._maybe("expire")


# --- signing up -----------------------------------------------------------------------------------------------------


def test_shapes(market: Market) -> None:
    """A market is a reclaimer, stores and foreign caches are shelves."""
    assert isinstance(market, Reclaimer)
    assert isinstance(Foreign(), Shelf)
    assert isinstance(Store(name="store", size_of=lambda _key, _value: 1), Shelf)
    assert (market.name, market.at, market.settles, market.stalls) == ("caches", Level.WARNING, False, False)


def test_one_market_per_roster() -> None:
    """However many threads ask first: one market, signed up once."""
    for _ in range(20):
        roster, found, start = Roster(), list[Market](), threading.Barrier(8)

        def ask(roster: Roster = roster, found: list[Market] = found, start: threading.Barrier = start) -> None:
            start.wait()
            found.append(market_of(roster))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(map(id, found))) == 1
        assert [reclaimer for _, reclaimer in roster.entries()] == found[:1]


def test_a_market_that_is_there_is_found() -> None:
    """A market signed up by hand is the roster's."""
    roster, market = Roster(), Market()
    roster.add(market)
    assert market_of(roster) is market
    assert len(roster) == 1


def test_names_are_unique(market: Market) -> None:
    """A name that is taken gets a number; a name given up is free again."""
    handles = [market.join(Foreign("answers")) for _ in range(3)]
    assert [handle.name for handle in handles] == ["answers", "answers#2", "answers#3"]
    handles[1].close()
    assert handles[1].closed
    assert market.join(Foreign("answers")).name == "answers#2"
    handles[1].close()  # closing twice takes nobody else's place
    assert [part.name for part in market.parts()] == ["answers", "answers#3", "answers#2"]


def test_a_shelf_leaves_with_what_it_belongs_to(market: Market) -> None:
    """The end of ``held`` ends the place, and frees the shelf at once, without a collection."""

    class Owner:
        pass

    owner, gone = Owner(), list[str]()

    class Watched(Foreign):
        def __del__(self) -> None:
            gone.append(self.name)

    handle = market.join(Watched(), held=owner)
    market.budget_bytes = 10 * MIB
    assert len(market.shelves) == 1
    gc.disable()
    try:
        del owner
        assert handle.closed
        del handle
        assert gone == ["foreign"]
    finally:
        gc.enable()
    assert market.parts() == []


def test_joining_and_leaving_in_threads(market: Market) -> None:
    """Shelves come and go in threads while others list them: nobody is lost, nobody stays."""
    stop, errors = threading.Event(), list[BaseException]()

    def come_and_go() -> None:
        try:
            for _ in range(300):
                market.join(Foreign()).close()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    def look() -> None:
        try:
            while not stop.is_set():
                market.parts()
                market.reclaim(SIZE)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    looker, threads = threading.Thread(target=look), [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in (looker, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    looker.join()
    assert errors == []
    assert market.parts() == []


# --- reclaiming -----------------------------------------------------------------------------------------------------


def test_the_cheapest_go_wherever_they_lie(market: Market, make: Callable[..., Store]) -> None:
    """What is quick to recompute goes before what is slow, whichever joined first."""
    dear = make("dear", 500, cost_s=1.0)
    cheap = make("cheap", 500, cost_s=0.001)
    assert market.reclaim(300 * SIZE) >= 300 * SIZE
    assert dear.bytes == 500 * SIZE
    assert cheap.bytes <= 200 * SIZE


def test_it_claims_what_went(market: Market, make: Callable[..., Store]) -> None:
    """The claim is the difference of the accounted bytes, and the parts say who gave it."""
    stores = [make(name, 400) for name in "abc"]
    before = market.size()
    freed = market.reclaim(333_333)
    assert freed == before - market.size() >= 333_333
    assert freed < 333_333 + 3 * SIZE
    assert sum(part.evicted_bytes for part in market.parts()) == freed
    assert [part.bytes for part in market.parts()] == [store.bytes for store in stores]


def test_expired_entries_go_first(market: Market, make: Callable[..., Store], clock: FakeClock) -> None:
    """However dear it was: what has expired goes before anything that has not, in any cache."""
    living, dead = make("living", 200, cost_s=1e-6), make("dead")
    for key in range(200):
        dead.put(key, key, cost_s=100.0, ttl_s=1.0)
    clock.advance(2.0)
    assert market.reclaim(150 * SIZE) == 200 * SIZE
    assert (living.bytes, dead.bytes) == (200 * SIZE, 0)


def test_floors_are_never_undercut(market: Market, make: Callable[..., Store]) -> None:
    """``min_bytes`` stay whatever is asked for, and the market says that floors are why."""
    floored, free = make("floored", 100, cost_s=1e-6, min_bytes=60 * SIZE), make("free", 100, cost_s=1.0)
    assert market.reclaim(10**9) == 140 * SIZE
    assert (floored.bytes, free.bytes) == (60 * SIZE, 0)
    assert market.why == "asked for 953.7 MiB, evicted 136.7 KiB: every cache is empty or at its floor (min_bytes)"
    make("more", 10)
    market.reclaim(SIZE)
    assert market.why == ""


def test_weight_multiplies_the_price(market: Market, make: Callable[..., Store]) -> None:
    """Of two equal caches the heavier keeps its entries."""
    heavy, light = make("heavy", 300, weight=100.0), make("light", 300)
    market.reclaim(200 * SIZE)
    assert (heavy.bytes, light.bytes) == (300 * SIZE, 100 * SIZE)


def test_a_hot_small_cache_outlives_a_scan(market: Market, make: Callable[..., Store], clock: FakeClock) -> None:
    """A scan of values that are as dear does not empty a small cache that is in use."""
    hot, scan = make("hot", 50), make("scan")
    for key in range(3000):
        clock.advance(0.01)
        scan.put(key, key, cost_s=0.1)
        next(hot.table[key % 50])
        if market.size() > 300 * SIZE:
            market.reclaim(15 * SIZE)
    assert len(hot) == 50


def test_more_than_there_is(market: Market, make: Callable[..., Store]) -> None:
    """Asking for too much empties everything and ends; asking for nothing evicts nothing."""
    make("a", 100)
    market.join(Foreign())
    assert market.reclaim(0) == 0
    assert market.reclaim(-5) == 0
    assert market.reclaim(10**12) == 200 * SIZE
    assert market.reclaim(10**12) == 0
    assert Market().reclaim(100) == 0


def test_an_empty_market_says_so(market: Market) -> None:
    """Without caches the reason is that there are none."""
    market.reclaim(MIB)
    assert market.why == "asked for 1.0 MiB, evicted 0 B: there is no cache"


def test_what_has_no_price_goes_last(market: Market, make: Callable[..., Store]) -> None:
    """A shelf that can only be emptied (an infinite price) is touched when all others are empty."""
    last = Foreign(held=50, price=inf)
    market.join(last)
    store = make("store", 100)
    market.reclaim(90 * SIZE)
    assert last.held == 50 * SIZE
    market.reclaim(30 * SIZE)
    assert store.bytes == 0
    assert last.held < 50 * SIZE


@pytest.mark.parametrize("fails", ["size", "sample", "shrink", "expire", "size sample shrink expire tend"])
def test_a_broken_shelf_does_not_end_the_others(market: Market, make: Callable[..., Store], fails: str) -> None:
    """Whatever a shelf raises, others give; it is remembered with the part."""
    market.join(Foreign("broken", fails=fails))
    make("sound", 100, cost_s=1e-9)
    freed = market.reclaim(50 * SIZE)
    market.tend()
    assert freed >= 50 * SIZE
    assert market.parts()[0].error.startswith("RuntimeError: ")
    assert market.parts()[1].error == ""


def test_all_broken_raises(market: Market) -> None:
    """When nothing at all could be freed the error comes out, so that the guard can tell it."""
    market.join(Foreign("broken", fails="shrink"))
    with pytest.raises(RuntimeError, match="shrink of broken is broken"):
        market.reclaim(100)


def test_a_shelf_may_leave_in_the_middle(market: Market, make: Callable[..., Store]) -> None:
    """One that leaves while the others shrink is not asked any more."""

    class Leaver(Foreign):
        def shrink(self, wanted_bytes: int, below: float, /) -> int:
            other.close()
            return super().shrink(wanted_bytes, below)

    market.join(Leaver(held=10, price=1e-12))
    left = Foreign("left")
    other = market.join(left)
    make("store", 100)
    market.reclaim(10**9)
    assert left.held == 100 * SIZE
    assert market.size() == 0


# --- the budget -----------------------------------------------------------------------------------------------------


def test_the_budget_is_never_exceeded(market: Market, make: Callable[..., Store], clock: FakeClock) -> None:
    """Room is made before a value comes, and hardly more than is needed."""
    stores = [make(name) for name in "abc"]
    market.budget_bytes = 200 * SIZE
    for key in range(2000):
        clock.advance(0.01)
        assert stores[key % 3].put(key, key, cost_s=0.1)
        assert market.size() <= 200 * SIZE
    assert market.size() >= 180 * SIZE


def test_large_values_come_in_too(market: Market, clock: FakeClock) -> None:
    """One value may push out very many; what is larger than the budget is not kept, and evicts nothing."""
    store = Store(name="store", size_of=lambda _key, value: value, clock=clock)
    market.join(store)
    market.budget_bytes = 1_000_000
    for key in range(2000):
        clock.advance(0.01)
        store.put(key, 500, cost_s=0.1)
    clock.advance(1.0)
    assert store.put("large", 900_000, cost_s=100.0)
    assert "large" in store.table
    assert store.bytes <= 1_000_000
    held = store.bytes
    assert not store.put("larger", 1_000_001)
    assert store.bytes == held
    assert store.too_large == 1


def test_the_budget_respects_floors(market: Market, make: Callable[..., Store], clock: FakeClock) -> None:
    """A cache at its floor gives nothing to the others' growth."""
    floored, other = make("floored", 50, cost_s=1e-6, min_bytes=50 * SIZE), make("other")
    market.budget_bytes = 100 * SIZE
    for key in range(1000):
        clock.advance(0.01)
        other.put(key, key, cost_s=1.0)
    assert floored.bytes == 50 * SIZE
    assert market.size() <= 100 * SIZE


def test_foreign_caches_share_the_budget(market: Market, make: Callable[..., Store], clock: FakeClock) -> None:
    """A cheap foreign cache gives way to growth, and one that grows by itself is seen when the market tends."""
    foreign, store = Foreign(held=100, price=1e-12), make("store")
    market.join(foreign)
    market.budget_bytes = 150 * SIZE
    for key in range(140):
        clock.advance(0.01)
        store.put(key, key, cost_s=1.0)
    assert foreign.held <= 30 * SIZE
    assert store.bytes >= 120 * SIZE
    foreign.held = 500 * SIZE
    market.tend()
    assert market.size() <= 150 * SIZE


def test_without_a_budget_nobody_is_asked(market: Market, make: Callable[..., Store]) -> None:
    """A miss pays for the budget only while there is one, and for a market only while it is on it."""
    store, later = make("store"), Store(name="later", size_of=lambda _key, _value: SIZE)
    assert store.on_growth is None
    market.budget_bytes = MIB
    handle = market.join(later)
    assert store.on_growth is not None
    assert later.on_growth is not None
    handle.close()
    assert later.on_growth is None
    market.budget_bytes = None
    assert store.on_growth is None


def test_a_broken_shelf_does_not_break_a_put(market: Market, make: Callable[..., Store]) -> None:
    """Growth in one cache never raises what another one raised."""
    market.join(Foreign("broken", fails="size sample shrink expire"))
    store = make("store")
    market.budget_bytes = 10 * SIZE
    for key in range(100):
        assert store.put(key, key)
    assert store.bytes <= 10 * SIZE


def test_the_budget_under_threads(market: Market, make: Callable[..., Store]) -> None:
    """Threads that fill several caches at once keep to the budget, and sums stay exact."""
    stores = [make(name) for name in "ab"]
    market.budget_bytes = 300 * SIZE
    numbers = count()

    def fill() -> None:
        for _ in range(1000):
            number = next(numbers)
            stores[number % 2].put(number, number, cost_s=0.1)

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    market.tend()
    assert market.size() <= 300 * SIZE
    for store in stores:
        assert store.bytes == sum(entry.bytes for entry in store.table.values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_budget_after_a_fork(market: Market, make: Callable[..., Store]) -> None:
    """A child forked while another thread held the budget keeps to it all the same."""
    store = make("store", 10)
    market.budget_bytes = 10 * SIZE
    market._keeper.acquire()
    child = os.fork()
    if child == 0:
        for key in range(100):
            store.put(("child", key), key)
        os._exit(0 if store.bytes <= 10 * SIZE else 1)
    market._keeper.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- what came back -------------------------------------------------------------------------------------------------


def test_it_learns_what_comes_back(market: Market) -> None:
    """Measured against claimed, recent reliefs first; no claim says nothing."""
    market.learn(0, 10 * MIB)
    assert market.return_ratio is None
    market.learn(100 * SIZE, 50 * SIZE)
    assert market.return_ratio == pytest.approx(0.5)
    for _ in range(20):
        market.learn(100 * SIZE, 10**9)
    assert market.return_ratio == pytest.approx(1.0, abs=1e-4)


def test_evictions_that_return_nothing_are_not_stretched(market: Market, make: Callable[..., Store]) -> None:
    """No loop of ever larger evictions: where nothing comes back, as much is evicted as is asked for."""
    make("store", 1000)
    market.learn(100 * SIZE, -20 * SIZE)
    assert market.return_ratio == 0.0
    assert 100 * SIZE <= market.reclaim(100 * SIZE) <= 101 * SIZE


def test_what_caches_take_anew_meanwhile_is_told(market: Market) -> None:
    """Memory that is used again at once has come back, though not to the kernel."""

    class Filling(Foreign):
        def shrink(self, wanted_bytes: int, below: float) -> int:
            gone = super().shrink(wanted_bytes, below)
            self.held += 30 * SIZE
            return gone

    market.join(Filling())
    assert market.reclaim(20 * SIZE) == 20 * SIZE
    assert market.refilled_bytes == 30 * SIZE


def test_survivors_move_together_once(market: Market) -> None:
    """After such an eviction shelves that can are asked to relocate, once, before the next; failing is no end."""
    moved = list[str]()

    class Mover(Foreign):
        def relocate(self) -> None:
            moved.append(self.name)
            raise OSError("no room")

    market.join(Mover("mover"))
    market.join(Foreign())
    market.reclaim(SIZE)
    assert moved == []
    market.learn(61 * MIB, 2 * MIB)
    for _ in range(3):
        assert market.reclaim(SIZE) > 0
    assert moved == ["mover"]
    assert market.parts()[0].error == "OSError: no room"


def test_repr_tells_the_state(market: Market, make: Callable[..., Store]) -> None:
    """How many caches, how large, and what comes back."""
    make("store", 100)
    market.budget_bytes = MIB
    market.learn(MIB, MIB // 2)
    assert repr(market) == "<Market 1 caches, 97.7 KiB of 1.0 MiB, 50% of what was evicted came back>"
