"""``memguard.Cache`` beyond the contract of cachetools: bytes, time to live, threads, copies, and who knows of it."""

from __future__ import annotations

import copy
import gc
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, MutableMapping
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import inf, nan
from typing import Any

import pytest

from memguard import beat
from memguard.caching.entry import ENTRY_BYTES
from memguard.caching.mapping import Cache
from memguard.caching.market import market_of
from memguard.roster import Roster
from memguard.testing import FakeClock
from tests.waiting import wait_for


def new(*args: Any, **options: Any) -> Cache[Any, Any]:
    """A cache on a roster of its own."""
    return Cache(*args, **{"roster": Roster(), **options})


# --- who knows of it ------------------------------------------------------------------------------------------------

_ORDERS = {
    "cachetools first": "import cachetools; from memguard.caching.mapping import Cache; c = Cache()",
    "cachetools last": "from memguard.caching.mapping import Cache; c = Cache(); import cachetools",
    "asked before": (
        "from memguard.caching.mapping import Cache; c = Cache(); import cachetools; "
        "assert not isinstance(3, cachetools.Cache); assert not isinstance({}, cachetools.Cache)"
    ),
    "a subclass": (
        "from memguard.caching.mapping import Cache\nclass Mine(Cache): pass\n"
        "c = Mine(); import cachetools; Cache = Mine"
    ),
}


@pytest.mark.parametrize("order", list(_ORDERS))
def test_it_is_a_cachetools_cache(order: str) -> None:
    """Isinstance holds in every import order, without our importing cachetools; it is none of the subclasses."""
    checks = (
        "\nassert isinstance(c, cachetools.Cache)\nassert isinstance(Cache(), cachetools.Cache)\n"
        "assert issubclass(Cache, cachetools.Cache)\nassert not isinstance(c, cachetools.LRUCache)\n"
        "assert not isinstance(c, dict)\nassert type(c) is c.__class__ is Cache\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", _ORDERS[order] + checks], check=True)


def test_it_does_not_import_cachetools() -> None:
    """Making and using a cache loads no third-party module."""
    code = (
        "import sys; from memguard.caching.mapping import Cache; c = Cache(3)\n"
        "c['a'] = 1; isinstance(c, dict); repr(c)\n"
        "assert 'cachetools' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_a_mapping() -> None:
    """It is a MutableMapping, weakly referenceable, unhashable, subscriptable as a type, and says little of itself."""
    cache: Cache[str, int] = Cache[str, int](name="answers", roster=Roster())
    assert isinstance(cache, MutableMapping)
    assert isinstance(cache, Mapping)
    assert weakref.ref(cache)() is cache
    with pytest.raises(TypeError):
        hash(cache)
    cache.update({str(number): number for number in range(10_000)})
    assert repr(cache).startswith("<Cache 'answers': 10000 entries, ")
    assert len(repr(cache)) < 80


def test_the_market_knows_it_while_it_lives() -> None:
    """It signs up under its name with its bytes, gives bytes when asked, and leaves when it dies."""
    roster = Roster()
    cache: Any = Cache(name="answers", roster=roster, weight=2.0, min_bytes="1KiB")
    for number in range(100):
        cache[number] = b"x" * 1000
    market = market_of(roster)
    assert [shelf.name for shelf in market.shelves] == ["answers"]
    assert market.size() == cache.bytes > 100_000
    assert market.reclaim(50_000) >= 40_000
    assert cache.bytes <= 100_000
    market.reclaim(10**9)
    assert 1024 <= cache.bytes <= 1024 + 2000
    del cache
    gc.collect()
    assert market.shelves == ()


def test_a_cache_that_measures_itself_can_die() -> None:
    """Getsizeof as a method, popitem of its own: nothing at the market holds the cache."""

    class Mine(Cache[Any, Any]):
        def getsizeof(self, value: Any) -> float:  # type: ignore[override]
            return len(value)

        def popitem(self) -> tuple[Any, Any]:
            return super().popitem()

    roster = Roster()
    cache = Mine(10, roster=roster)
    cache["a"] = "abc"
    assert cache.currsize == 3
    ref = weakref.ref(cache)
    del cache
    gc.collect()
    assert ref() is None
    assert market_of(roster).shelves == ()


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_bytes_are_true() -> None:
    """Bytes count keys, values and entries; they go up with each and down to 0."""
    cache = new()
    assert cache.bytes == 0
    cache["k" * 1000] = b"v" * 5000
    assert 6000 + ENTRY_BYTES <= cache.bytes <= 6300 + ENTRY_BYTES
    cache.clear()
    assert cache.bytes == 0


def test_max_bytes_bounds_them() -> None:
    """max_bytes holds after every update, and one value that is larger is refused."""
    cache = new(max_bytes="64KiB")
    for number in range(500):
        cache[number] = bytes(number * 17 % 3000)
        assert cache.bytes <= 65536
    with pytest.raises(ValueError, match="value too large"):
        cache["large"] = bytes(70_000)
    with pytest.raises(ValueError, match="value too large"):
        cache.setdefault("large", bytes(70_000))
    assert len(cache) > 20


def test_both_bounds_hold() -> None:
    """With maxsize and max_bytes whichever is reached first evicts."""
    cache = new(10, max_bytes="16KiB")
    for number in range(100):
        cache[number] = bytes(100 if number < 50 else 6000)
        assert len(cache) <= 10
        assert cache.bytes <= 16384
    assert 1 <= len(cache) <= 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"maxsize": -1}, "maxsize must be non-negative"),
        ({"maxsize": nan}, "maxsize must be non-negative"),
        ({"max_bytes": 100}, "holds no entry"),
        ({"max_bytes": 0}, "holds no entry"),
        ({"max_bytes": "1M"}, "ambiguous"),
        ({"max_bytes": -5}, "negative"),
        ({"min_bytes": "lots"}, "not an amount"),
        ({"ttl": 0}, "ttl=0 must be above 0"),
        ({"ttl": -1}, "ttl=-1 must be above 0"),
        ({"ttl": nan}, "ttl=nan must be above 0"),
        ({"ttl": "0s"}, "ttl='0s' must be above 0"),
        ({"ttl": "soon"}, "ttl='soon': .*not a duration"),
        ({"max_bytes": "1MiB", "min_bytes": "2MiB"}, "less than min_bytes='2MiB'"),
        ({"weight": 0}, "weight=0 must be above 0"),
        ({"weight": nan}, "weight=nan must be above 0"),
    ],
)
def test_bounds_that_cannot_be_meant(options: dict[str, Any], words: str) -> None:
    """A bound that cannot be meant is a ValueError that names it."""
    with pytest.raises(ValueError, match=words):
        new(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"maxsize": "5"},
        {"maxsize": []},
        {"max_bytes": nan},
        {"max_bytes": True},
        {"min_bytes": 1.5},
        {"ttl": []},
        {"ttl": True},
        {"weight": "heavy"},
        {"getsizeof": 3},
        {"timer": 3},
    ],
)
def test_bounds_of_the_wrong_type(options: dict[str, Any]) -> None:
    """An option of the wrong type is a TypeError that begins with its name and value."""
    ((name, value),) = options.items()
    with pytest.raises(TypeError, match=f"^{re.escape(f'{name}={value!r}')}"):
        new(**options)


@pytest.mark.parametrize("size", [-1, -0.5, nan, -inf, inf])
def test_a_getsizeof_that_lies(size: float) -> None:
    """Negative, undefined and infinite sizes are ValueErrors, and what was there stays."""
    sizes = [1.0]
    cache = new(5, lambda _: sizes[-1])
    cache["a"] = "old"
    sizes.append(size)
    with pytest.raises(ValueError, match=r"getsizeof of a str gave .*: a value size must be non-neg|value too large"):
        cache["a"] = "new"
    assert (cache["a"], cache.currsize) == ("old", 1.0)


def test_a_getsizeof_that_fails() -> None:
    """What getsizeof raises reaches the caller; text for a size is a TypeError; nothing is kept."""
    cache = new(5, len)
    with pytest.raises(TypeError):
        cache["a"] = 7
    with pytest.raises(TypeError, match=r"getsizeof of a int gave '7': no number"):
        new(5, str)["a"] = 7
    assert (len(cache), cache.currsize) == (0, 0)


def test_fractions_add_up() -> None:
    """Sizes that are floats, Fractions or Decimals add up without drift, to the float of their exact sum."""
    cache = new(100, lambda value: value)
    values: list[Any] = [0.1, 0.2, 0.3, 1e-9, Fraction(1, 3), Decimal("0.7"), 5]
    for turn in range(200):
        cache[turn % 11] = values[turn % len(values)]
    assert cache.currsize == math.fsum(float(value) for value in cache.values())
    for key in list(cache):
        del cache[key]
    assert cache.currsize == 0.0


def test_a_getsizeof_may_change_its_mind() -> None:
    """What counts is what it said when the value came; removing counts the same back."""
    size = 1
    cache = new(10, lambda _: size)
    for number in range(5):
        cache[number] = number
    size = 7
    assert cache.currsize == 5
    cache.pop(0)
    cache[1] = "seven"
    assert cache.currsize == 10
    cache.clear()
    assert cache.currsize == 0


# --- time -----------------------------------------------------------------------------------------------------------


def test_expired_entries_are_never_seen() -> None:
    """After its time an entry is in no look-up, view, length, size, pop, default or copy."""
    clock = FakeClock()
    cache = new(ttl="10s", timer=clock)
    cache["old"] = 1
    clock.advance(6)
    cache["new"] = 2
    clock.advance(5)
    assert ("old" in cache, cache.get("old"), cache.get("new")) == (False, None, 2)
    with pytest.raises(KeyError):
        cache["old"]
    for _ in range(2):
        assert list(cache) == list(cache.keys()) == ["new"]
        assert list(cache.values()) == [2]
        assert list(cache.items()) == [("new", 2)]
        assert len(cache) == len(cache.keys()) == cache.currsize == 1
    assert copy.copy(cache) == {"new": 2}
    cache["again"] = 3
    clock.advance(10)
    assert cache.pop("again", "gone") == "gone"
    assert cache.setdefault("again", 4) == 4
    assert cache.popitem() == ("again", 4)
    assert not cache


def test_a_ttl_may_depend_on_the_value() -> None:
    """A function of the value says how long it is good for; None for ever, 0 or less not at all."""
    clock = FakeClock()
    cache = new(ttl=lambda value: value, timer=clock)
    cache.update({"short": 1, "long": 100, "ever": None, "endless": inf})
    cache["short again"] = 1
    clock.advance(2)
    assert sorted(cache) == ["endless", "ever", "long"]
    cache["long"] = 0
    cache["never"] = -5
    assert sorted(cache) == ["endless", "ever"]
    for odd in (nan, "5m", [5]):
        with pytest.raises(ValueError, match=r"ttl of a value gave .*: it must give seconds"):
            cache["odd"] = odd
    clock.advance(1e6)
    assert sorted(cache) == ["endless", "ever"]


def test_expire_says_how_many_went() -> None:
    """expire() drops what has expired and counts it; without a ttl there is nothing to do."""
    clock = FakeClock()
    cache = new(ttl=5, timer=clock)
    for number in range(3000):
        cache[number] = number
    assert cache.expire() == 0
    clock.advance(6)
    assert cache.expire() == 3000
    assert (cache.expire(), cache.bytes, new().expire()) == (0, 0, 0)


def test_the_coarse_clock_is_used_and_never_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a guard writes the coarse clock, hits ask no other; without one the real clock is asked."""
    clock = FakeClock(1000.0)
    cache = new(ttl=10)
    store: Any = cache._store
    asked = 0

    def now() -> float:
        nonlocal asked
        asked += 1
        return clock()

    store.clock = now
    cache["a"] = 1
    asked = 0
    monkeypatch.setattr(beat, "NOW", 1005.0)
    assert (cache["a"], asked) == (1, 0)
    monkeypatch.setattr(beat, "NOW", inf)
    assert (cache["a"], asked) == (1, 1)
    clock.advance(11)
    assert cache.get("a") is None


def test_a_timer_of_ones_own_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a timer the guard's clock means nothing."""
    clock = FakeClock(1e9)
    cache = new(ttl=10, timer=clock)
    cache["a"] = 1
    monkeypatch.setattr(beat, "NOW", 0.0)
    clock.advance(11)
    with pytest.raises(KeyError):
        cache["a"]


# --- use ------------------------------------------------------------------------------------------------------------


def test_what_counts_as_use() -> None:
    """``[]``, get and setdefault count as hits; in, iterating, views and comparing do not."""
    cache = new()
    cache["a"] = 1
    assert "a" in cache
    assert list(cache) == ["a"]
    assert list(cache.items()) == [("a", 1)]
    assert list(cache.values()) == [1]
    assert ("a", 1) in cache.items()
    assert ("a", 2) not in cache.items()
    assert 1 in cache.values()
    assert cache == {"a": 1}
    assert cache.hits == 0
    assert cache["a"] + cache.get("a") + cache.setdefault("a", 9) == 3
    assert cache.hits == 3


def test_eviction_spares_what_is_used() -> None:
    """A value that is used between any two evictions stays."""
    cache = new(50)
    for number in range(1000):
        cache[number] = number
        cache.setdefault("hot", "value")
        assert cache["hot"] == "value"
    assert len(cache) == 50


def test_views_follow_the_cache() -> None:
    """Views are live, and may be looked at while the cache changes."""
    cache = new()
    keys, items, values = cache.keys(), cache.items(), cache.values()
    cache.update(a=1, b=2)
    assert (sorted(keys), sorted(items), sorted(values)) == (["a", "b"], [("a", 1), ("b", 2)], [1, 2])
    for key in cache:
        del cache[key]
    assert (len(keys), len(items), len(values)) == (0, 0, 0)
    assert keys | {"x"} == {"x"}


def test_a_key_error_of_the_keys_own_is_told() -> None:
    """A KeyError that a key's __eq__ raises is not taken for a miss."""

    class Key:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            raise KeyError("mine")

    cache = new()
    cache[Key()] = 1
    with pytest.raises(KeyError, match="mine"):
        cache[Key()]
    with pytest.raises(KeyError, match="mine"):
        cache.get(Key())


# --- copies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])  # noqa: S301
def test_copies(again: Any) -> None:
    """A copy has options, entries and the time they have left, and lives by itself; the copy signs up too."""
    cache: Any = Cache(5, len, ttl=100, name="answers", max_bytes="1MiB", weight=3.0)
    cache.update(a="x", b="yy")
    other = again(cache)
    assert type(other) is Cache
    assert other == cache
    assert (other.maxsize, other.currsize, other.name, other.max_bytes) == (5, 3, "answers", 1 << 20)
    assert (other.getsizeof("abc"), other._store.weight) == (3, 3.0)
    (left, _) = sorted(entry.expires - other._store.clock() for entry in other._store)
    assert 90 < left <= 100
    other["c"] = "zz"
    assert "c" not in cache
    assert other._store in market_of().shelves


def test_a_deep_copy_copies_values_and_a_copy_shares_them() -> None:
    """As everywhere."""
    cache = new()
    cache["a"] = [1]
    assert copy.copy(cache)["a"] is cache["a"]
    assert copy.deepcopy(cache)["a"] is not cache["a"]


def test_a_copy_signs_up_where_the_first_did() -> None:
    """Copy and deepcopy stay on the roster."""
    roster = Roster()
    cache: Any = Cache(roster=roster)
    others = [copy.copy(cache), copy.deepcopy(cache)]
    assert len(market_of(roster).shelves) == 1 + len(others)


# --- threads, signals, forks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"maxsize": 60}, {"maxsize": 300, "getsizeof": int}, {"max_bytes": "16KiB"}])
def test_threads(options: dict[str, Any]) -> None:
    """Eight threads use every method: nobody sees a wrong value, nothing but KeyErrors, and the sums agree."""
    cache = new(**options, ttl=lambda value: 0.005 if value % 11 == 0 else None)
    wrong = list[object]()

    def hammer(seed: int) -> None:
        number = seed
        for turn in range(700):
            number = (number * 1103515245 + 12345) % 2**31
            key = number % 100
            try:
                cache[key] = key
                got = cache.get((key * 7) % 100)
                if got is not None and got != (key * 7) % 100:
                    wrong.append(got)
                cache.setdefault(key + 1, key + 1)
                cache.pop(number % 90, None)
                if turn % 50 == 0:
                    wrong.extend(pair for pair in cache.items() if pair[0] != pair[1])
                    cache.popitem()
                    cache.expire()
                    cache.currsize, len(cache), repr(cache)
                if turn % 300 == 299:
                    cache.clear()
            except KeyError:
                pass
            except BaseException as error:  # noqa: BLE001 - told below
                wrong.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []
    # The last of what lives for 5 ms may expire between two questions.
    wait_for(lambda: cache.currsize == (sum(cache.values()) if "getsizeof" in options else len(list(cache.values()))))
    wait_for(lambda: cache.bytes == sum(entry.bytes for entry in cache._store))


def test_setdefault_is_one_step() -> None:
    """Of many threads that set a default at once, all get the same value."""
    cache = new()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for key in range(100):
            got, start = list[object](), threading.Barrier(4)

            def ask(key: int = key, got: list[object] = got, start: threading.Barrier = start) -> None:
                start.wait()
                got.append(cache.setdefault(key, object()))

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert all(one is other for one, other in pairwise(got))
    finally:
        sys.setswitchinterval(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_can_use_it() -> None:
    """After a fork parent and child each go on with what was there."""
    cache = new(10)
    cache["a"] = 1
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(10)
            cache["b"] = 2
            code = 0 if dict(cache) == {"a": 1, "b": 2} else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert dict(cache) == {"a": 1}


def test_destructors_may_use_it() -> None:
    """A value that uses the cache while it dies changes nothing but what it changes."""
    cache = new(5)

    class Value:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            cache["last"] = self.number
            cache.pop(self.number - 1, None)

    for number in range(100):
        cache[number] = Value(number)
        assert len(cache) == cache.currsize <= 5
    cache.clear()
    assert len(cache) <= 1


def test_relocate_is_an_option() -> None:
    """Only with relocate=True its entries may be moved."""
    for allowed in (False, True):
        cache = new(relocate=allowed)
        cache["k" * 20] = [1.5, "v" * 20]
        assert bool(cache._store.relocate()) is allowed
        assert dict(cache) == {"k" * 20: [1.5, "v" * 20]}
