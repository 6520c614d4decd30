"""Prices: learned when entries are looked at, never when they are hit."""

from __future__ import annotations

import dataclasses
import re
from array import array
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.caching.entry import hits_of
from memguard.caching.pricing import Habits, cheap_among, price_of
from memguard.caching.store import Store
from memguard.testing import FakeClock

if TYPE_CHECKING:
    from memguard.caching.entry import Entry


def put(store: Store, key: object, *, cost_s: float = 0.1) -> Entry:
    """Keep a value that weighs what it says."""
    store.put(key, 100, cost_s=cost_s)
    return store.table[key]


def hit(entry: Entry, times: int = 1) -> None:
    """Take the value so often."""
    for _ in range(times):
        next(entry)


@pytest.fixture
def clock() -> FakeClock:
    """The time, moved by hand."""
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Store:
    """A store whose values are their own size."""
    return Store(name="store", size_of=lambda _key, value: value, clock=clock)


def test_price_is_rate_times_cost_by_bytes(store: Store, clock: FakeClock) -> None:
    """Twice the cost is twice the price, twice the bytes half of it."""
    plain, dear = put(store, "plain"), put(store, "dear", cost_s=0.2)
    store.put("large", 200, cost_s=0.1)
    clock.advance(10.0)
    price = price_of(plain, clock(), Habits())
    assert price_of(dear, clock(), Habits()) == pytest.approx(2 * price, rel=1e-4)
    assert price_of(store.table["large"], clock(), Habits()) == pytest.approx(price / 2)


def test_an_idle_entry_gets_cheaper(store: Store, clock: FakeClock) -> None:
    """Every doubling of the idle time makes an entry cheaper, before anything has been learned."""
    entry, prices = put(store, "key"), []
    for wait_s in (1.0, 2.0, 4.0, 8.0, 16.0):
        clock.advance(wait_s)
        prices.append(price_of(entry, clock(), Habits()))
    assert prices == sorted(prices, reverse=True)
    assert prices[0] > 8 * prices[-1]


def test_hits_make_dear(store: Store, clock: FakeClock) -> None:
    """Of two entries of the same age the one that was hit is worth more, and the more the more often."""
    entries = [put(store, key) for key in range(3)]
    clock.advance(10.0)
    hit(entries[1], 2)
    hit(entries[2], 30)
    prices = [price_of(entry, clock(), Habits()) for entry in entries]
    assert prices == sorted(prices)
    assert prices[0] < prices[1] < prices[2]


def test_what_was_hot_cools_down(store: Store, clock: FakeClock) -> None:
    """An entry that was hit a thousand times, long ago, is cheaper than one that is hit now and then."""
    habits = store.habits
    old, now_and_then = put(store, "old"), put(store, "now and then")
    hit(old, 1000)
    for _ in range(200):
        clock.advance(10.0)
        hit(now_and_then)
        price_of(old, clock(), habits)
        price_of(now_and_then, clock(), habits)
    assert price_of(old, clock(), habits) < price_of(now_and_then, clock(), habits)


def test_newcomers_of_a_scan_are_cheap(clock: FakeClock) -> None:
    """A new entry is worth what others like it turned out to be worth: little in a scan, more where they come back."""
    scan, busy = (Store(name=name, size_of=lambda _key, value: value, clock=clock) for name in ("scan", "busy"))
    for number in range(500):
        clock.advance(0.1)
        put(scan, number)
        entry = put(busy, number)
        clock.advance(0.1)
        hit(entry)
        for store in (scan, busy):
            store.offers(16)
    clock.advance(1.0)
    new = [put(scan, "new"), put(busy, "new")]
    clock.advance(0.1)
    assert 10 * price_of(new[0], clock(), scan.habits) < price_of(new[1], clock(), busy.habits)


def test_looking_leaves_hits_alone(store: Store, clock: FakeClock) -> None:
    """The count of hits stays exact however often an entry is looked at."""
    entry = put(store, "key")
    for _ in range(5):
        hit(entry, 3)
        clock.advance(1.0)
        price_of(entry, clock(), store.habits)
    assert hits_of(entry) == 15


def test_expired_is_worth_nothing(store: Store, clock: FakeClock) -> None:
    """What has expired goes before anything that has not."""
    store.put("key", 100, cost_s=9.0, ttl_s=1.0)
    clock.advance(2.0)
    assert price_of(store.table["key"], clock(), store.habits) == 0.0


def test_learning_fades(store: Store, clock: FakeClock) -> None:
    """After enough looks at other behaviour an old lesson is forgotten: a scan's store may become a busy one."""
    habits = store.habits
    entries = [put(store, key) for key in range(64)]
    clock.advance(100.0)
    for _ in range(200):  # nobody is hit
        for entry in entries:
            habits.look(entry, clock())
        clock.advance(10.0)
    before = habits.look(put(store, "new"), clock())
    for number in range(30_000):  # every newcomer is hit within a tenth of a second
        entry = put(store, number)
        habits.look(entry, clock())
        hit(entry)
        clock.advance(0.1)
        habits.look(entry, clock())
        store.pop(number)
    assert habits.look(put(store, "newer"), clock()) > 5 * before


@given(
    st.lists(
        st.tuples(st.floats(0, 1e9), st.integers(0, 300), st.floats(0, 100), st.integers(0, 10**9)),
        min_size=1,
        max_size=30,
    )
)
def test_prices_are_numbers(looks: list[tuple[float, int, float, int]]) -> None:
    """Whatever the waits, hits, costs and sizes: a price is above 0, and no look is out of range."""
    clock = FakeClock()
    store = Store(name="store", size_of=lambda _key, value: value, clock=clock)
    for number, (wait_s, hits, cost_s, size) in enumerate(looks):
        store.put(number, size, cost_s=cost_s)
        hit(store.table[number], hits)
        clock.advance(wait_s)
        for entry in store:
            assert 0.0 < price_of(entry, clock(), store.habits) < float("inf")


def test_a_sweep_finds_what_a_look_would(store: Store, clock: FakeClock) -> None:
    """``cheap_among`` names the entries whose price, by a look, is at or below the bound."""
    for key in range(200):
        entry = put(store, key, cost_s=0.001 * (1 + key % 7))
        clock.advance(0.5)
        hit(entry, key % 5)
    store.habits.settle()
    entries, rates = list(store), list(store.habits.rates)
    prices = {}
    for entry in entries:
        fresh = Habits()
        fresh.hits, fresh.time_s = array("d", (rate * 1e12 for rate in rates)), array("d", [1e12] * len(rates))
        cohort, slot = entry.cohort, entry.slot
        seen, at, looked = cohort.seen[slot], cohort.at[slot], cohort.looked[slot]
        prices[id(entry)] = price_of(entry, clock(), fresh)
        cohort.seen[slot], cohort.at[slot], cohort.looked[slot] = seen, at, looked
    below = sorted(prices.values())[80]
    cohorts = {id(entry.cohort): entry.cohort for entry in entries}.values()
    cheap = {
        id(entry) for cohort in cohorts for entry in cheap_among(cohort, clock(), below * (1 + 1e-6), store.habits)
    }
    assert cheap == {number for number, price in prices.items() if price <= below * (1 + 1e-6)}
    assert 80 <= len(cheap) < len(entries)


# --- the simulator (benchmarks/caches.py) -----------------------------------------------------------------------------

HEAD = "time,cache,key,bytes,cost_s\n"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the simulator lives; its parts may be imported."""
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize("name", ["scan", "sessions", "mixture"])
def test_ours_stays_beside_gdsf(loads: Path, name: str) -> None:
    """On a short load ours recomputes little more than exact GDSF, and less than an equal split."""
    ours, peers, synthetic = map(import_module, ("cache_loads.ours", "cache_loads.peers", "cache_loads.synthetic"))
    load = synthetic.LOADS[name](20_000, 0)
    load = dataclasses.replace(load, budget_bytes=load.budget_bytes // 4)
    gdsf, static = peers.gdsf(load), peers.static_split(load)
    for policy, most in ((ours.trickle, 1.1), (ours.bulk, 1.1), (ours.stretches, 1.3)):
        result = policy(load)
        assert result.requests == gdsf.requests
        assert result.cost_s < most * gdsf.cost_s
        assert result.cost_s < static.cost_s


def test_a_trace_is_read(loads: Path, tmp_path: Path) -> None:
    """Columns in any order, further ones ignored, keys of any text."""
    read_trace = import_module("cache_loads.trace").read_trace
    path = tmp_path / "day.csv"
    path.write_text('key,time,who,cache,cost_s,bytes\nq1,0,me,a,0.5,100\n"q,2",1.5,me,b,0,200\nq1,2,me,a,1,100\n')
    load = read_trace(path, budget_ratio=0.5)
    assert (load.name, load.caches, load.budget_bytes) == ("day", ("a", "b"), 150)
    assert load.requests == [(0.0, 0, 0, 100, 0.5), (1.5, 1, 1, 200, 0.0), (2.0, 0, 0, 100, 1.0)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no requests; the first line must be time,cache,key,bytes,cost_s"),
        (HEAD, "no requests"),
        ("time,key,bytes\n", "line 1: no column cache, cost_s; needed: "),
        (HEAD + "0,a,k,1,0\n1,a,k\n", "line 3: 3 fields, 5 are needed"),
        (HEAD + "soon,a,k,1,0\n", "line 2: time is 'soon', not a number"),
        (HEAD + "0,a,k,1.5,0\n", "line 2: bytes is '1.5', not a whole number above 0"),
        (HEAD + "0,a,k,0,0\n", "line 2: bytes is '0'"),
        (HEAD + "0,a,k,1,-1\n", "line 2: cost_s is '-1', not a number of 0 or more"),
        (HEAD + "0,a,k,1,nan\n", "line 2: cost_s is 'nan'"),
        (HEAD + "5,a,k,1,0\n\n4,a,k,1,0\n", "line 4: time 4 is earlier than the line before (5): sort it"),
    ],
)
def test_a_bad_trace_names_the_line(loads: Path, tmp_path: Path, text: str, words: str) -> None:
    """The error says which line, which column and what was found."""
    read_trace = import_module("cache_loads.trace").read_trace
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)):
        read_trace(path)
