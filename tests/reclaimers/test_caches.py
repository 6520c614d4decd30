"""Other people's caches as reclaimers: what is dropped, in which order, and what may go wrong meanwhile."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import types
import weakref
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import MutableMapping
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

import cachetools
import pytest

from memguard.model import Level
from memguard.ports import Reclaimer, Shelf
from memguard.reclaimers import evicting, worth
from memguard.reclaimers.caches import ClearCache, EvictCache, adapter_for

if TYPE_CHECKING:
    from collections.abc import Iterator

_KB = b"x" * 1000
_MUCH = 1 << 40


def _adapter(obj: object, **options: Any) -> Any:
    return adapter_for(obj, name="answers", **options)[0]


class _Lru(OrderedDict[int, bytes]):
    """The usual home-made LRU: reading moves to the end."""

    def __getitem__(self, key: int) -> bytes:
        value = super().__getitem__(key)
        self.move_to_end(key)
        return value


# --- order and amount -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict, _Lru])
def test_oldest_entries_go_first_and_only_as_many_as_wanted(kind: Any) -> None:
    """About a hundred of a thousand 1 KB entries go for 100 KB, and they are the oldest."""
    cache = kind()
    for number in range(1000):
        cache[number] = _KB + bytes([number % 256])
    freed = _adapter(cache).reclaim(100_000)
    assert freed >= 100_000
    assert 880 <= len(cache) <= 920
    assert list(cache) == list(range(1000 - len(cache), 1000))


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_what_is_dropped_dies_a_few_at_a_time(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large values at most three die before others have had a turn, and no lock is held while they die."""
    alive, seen, lock = list[object](), list[int](), threading.Lock()

    class Value:
        def __init__(self) -> None:
            self.text = "x" * 50_000
            alive.append(None)

        def __del__(self) -> None:
            alive.pop()
            assert not lock.locked()

    cache = kind((number, Value()) for number in range(500))
    monkeypatch.setattr("memguard.turns._SLICE_S", 0.0)
    monkeypatch.setattr("memguard.turns.sleep", lambda _seconds: seen.append(len(alive)))
    _adapter(cache, lock=lock).reclaim(_MUCH)
    assert not cache
    assert not alive
    assert max(before - after for before, after in pairwise([500, *seen, 0])) <= 3


def test_a_cachetools_cache_evicts_in_its_own_order() -> None:
    """LRU: what was used lately stays, also when it is old."""
    cache: cachetools.LRUCache[int, bytes] = cachetools.LRUCache(1000)
    for number in range(100):
        cache[number] = _KB + bytes([number])
    assert cache[0]
    _adapter(cache).reclaim(50_000)
    assert 0 in cache
    assert 1 not in cache
    assert 99 in cache


def test_a_class_with_its_own_popitem_decides_itself() -> None:
    """A dict that overrides popitem is asked by popitem."""
    asked: list[object] = []

    class Own(dict[int, bytes]):
        def popitem(self) -> tuple[int, bytes]:
            asked.append(1)
            return super().popitem()

    cache = Own({number: _KB + bytes([number]) for number in range(100)})
    _adapter(cache).reclaim(10_000)
    assert len(asked) == 100 - len(cache)
    assert 0 in cache


@pytest.mark.parametrize("make", [dict, OrderedDict, UserDict, lambda: cachetools.LRUCache(10_000), Counter])
def test_size_is_close(make: Any) -> None:
    """size() is within a quarter of the bytes of keys and values, of entries of one kind."""
    cache = make()
    for number in range(2000):
        cache[f"key {number}"] = 10**200 + number if isinstance(cache, Counter) else _KB + bytes([number % 256])
    each = 57 + 116 + 56 if isinstance(cache, Counter) else 1034 + 57 + 56
    assert _adapter(cache).size() == pytest.approx(2000 * each, rel=0.25)


def test_claims_follow_what_is_dropped_not_what_was_guessed() -> None:
    """Old small entries and new big ones: the claim is of the small ones that went."""
    cache: dict[int, bytes] = {number: b"x" * (100 if number < 900 else 100_000) for number in range(1000)}
    freed = _adapter(cache).reclaim(50_000)
    assert 50_000 <= freed <= 100_000
    assert len(cache) == pytest.approx(700, abs=150)


def test_looking_at_the_size_uses_nothing() -> None:
    """size() neither reorders an LRU nor computes, nor counts as a hit."""
    lru: cachetools.LRUCache[int, bytes] = cachetools.LRUCache(100)
    home_made = _Lru()
    for number in range(50):
        lru[number] = home_made[number] = _KB
    order = list(home_made)
    assert _adapter(lru).size() > 50_000
    assert _adapter(home_made).size() > 50_000
    assert list(home_made) == order
    assert lru.popitem()[0] == 0
    made: defaultdict[int, list[int]] = defaultdict(list)
    made[1] = [1]
    assert _adapter(made).size() > 0
    assert list(made) == [1]


def test_size_of_an_unknown_mapping_is_unknown_until_entries_were_seen() -> None:
    """A mapping of a class that nobody knows is not looked into; after the first evictions its size is known."""

    class Foreign(MutableMapping[int, bytes]):
        def __init__(self) -> None:
            self.inside = {number: _KB + bytes([number % 256]) for number in range(400)}

        def __getitem__(self, key: int) -> bytes:
            raise AssertionError("looked up")

        def __setitem__(self, key: int, value: bytes) -> None:
            self.inside[key] = value

        def __delitem__(self, key: int) -> None:
            del self.inside[key]

        def pop(self, key: int, default: Any = None) -> Any:
            return self.inside.pop(key, default)

        def __iter__(self) -> Iterator[int]:
            return iter(self.inside)

        def __len__(self) -> int:
            return len(self.inside)

    cache = Foreign()
    adapter = _adapter(cache)
    assert adapter.size() is None
    assert adapter.reclaim(100) >= 100
    assert 0 < len(cache) < 400
    assert adapter.size() > 0


def test_what_has_expired_goes_first() -> None:
    """Expired entries that still lie in a TTL cache count in the size, and go before fresh ones."""
    now = [0.0]
    cache: cachetools.TTLCache[int, bytes] = cachetools.TTLCache(1000, ttl=10, timer=lambda: now[0])
    for number in range(100):
        cache[number] = _KB + bytes([number])
    now[0] = 9.0
    for number in range(100, 150):
        cache[number] = _KB + bytes([number])
    now[0] = 11.0
    adapter = _adapter(cache)
    assert adapter.size() == pytest.approx(150 * 1060, rel=0.1)
    assert adapter.reclaim(1) == pytest.approx(100 * 1060, rel=0.1)
    assert sorted(cache) == list(range(100, 150))


def test_currsize_in_bytes_is_exact() -> None:
    """With currsize_is_bytes, size and claims are the cache's own numbers."""
    cache: cachetools.LRUCache[int, bytes] = cachetools.LRUCache(1 << 20, getsizeof=len)
    for number in range(100):
        cache[number] = b"x" * 1000
    adapter = _adapter(cache, currsize_is_bytes=True)
    assert adapter.size() == 100_000
    assert adapter.reclaim(9_500) == 10_000 + 1000 * (90 - len(cache))
    assert adapter.size() == len(cache) * 1000


def test_a_large_dict_is_not_walked_over_and_over() -> None:
    """Emptying 200 000 entries from the front of a dict picks keys up a few dozen times, not thousands."""
    picks = 0

    class Counted(dict[int, int]):
        def __iter__(self) -> Iterator[int]:
            nonlocal picks
            picks += 1
            return super().__iter__()

    cache = Counted.fromkeys(range(200_000), 1)
    _adapter(cache).reclaim(_MUCH)
    assert not cache
    assert picks <= 40


# --- functions --------------------------------------------------------------------------------------------------------


def test_bounded_lru_cache_functions_are_dear_and_cleared_as_a_whole() -> None:
    """An lru_cache function is asked from CRITICAL on, and then loses everything; its name stays callable."""

    @functools.lru_cache(1000)
    def answer(number: int) -> bytes:
        return _KB + bytes([number])

    for number in range(100):
        answer(number)
    adapter, held = adapter_for(answer, name="answers")
    assert isinstance(adapter, ClearCache)
    assert not isinstance(adapter, Shelf)
    assert (adapter.cost, adapter.at) == ("dear", Level.CRITICAL)
    assert held is answer
    assert adapter.size() == pytest.approx(100 * 1060, rel=0.2)
    assert adapter.reclaim(1) == pytest.approx(100 * 1060, rel=0.2)
    assert answer.cache_info().currsize == 0


def test_unbounded_cache_functions_are_dear_and_give_up_their_oldest() -> None:
    """A functools.cache function is asked from CRITICAL on, and loses its oldest results, only as many as wanted."""
    calls: list[int] = []

    @functools.cache
    def answer(number: int) -> bytes:
        calls.append(number)
        return _KB + bytes([number])

    for number in range(100):
        answer(number)
    adapter, held = adapter_for(answer, name="answers")
    assert isinstance(adapter, EvictCache)
    assert not isinstance(adapter, Shelf)
    assert (adapter.cost, adapter.at) == ("dear", Level.CRITICAL)
    assert held is answer
    assert adapter.size() == pytest.approx(100 * 1060, rel=0.2)
    assert adapter.reclaim(50_000) == pytest.approx(50_000, rel=0.1)
    assert answer.cache_info().currsize == pytest.approx(52, abs=6)
    calls.clear()
    assert answer(99) == _KB + bytes([99])
    assert answer(0) == _KB + bytes([0])
    assert calls == [0]


def test_unbounded_cache_functions_shrink_beside_callers() -> None:
    """Reliefs while threads call the function: every result is right, and nothing raises."""
    failures: list[object] = []
    stop = threading.Event()

    @functools.cache
    def answer(number: int) -> tuple[int, bytes]:
        return number, bytes(200)

    def call() -> None:
        while not stop.is_set():
            for number in range(2000):
                if answer(number) != (number, bytes(200)):
                    failures.append(number)  # noqa: PERF401

    callers = [threading.Thread(target=call) for _ in range(3)]
    adapter = _adapter(answer)
    for caller in callers:
        caller.start()
    try:
        for _ in range(200):
            assert adapter.reclaim(100_000) >= 0
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert not failures
    assert answer.cache_info().currsize <= 2000


def test_a_bounded_lru_cache_is_sized_too() -> None:
    """The links of a bounded lru_cache are looked through to keys and results."""

    @functools.lru_cache(maxsize=500)
    def answer(number: int) -> bytes:
        return _KB + bytes([number])

    for number in range(100):
        answer(number)
    assert _adapter(answer).size() == pytest.approx(100 * 1100, rel=0.25)


def test_a_method_under_lru_cache() -> None:
    """Through an instance or its class, it is the class's function that is cleared; no instance is held by us."""

    class Service:
        @functools.lru_cache(maxsize=10)  # noqa: B019 - the mistake that people make
        def answer(self, number: int) -> int:
            return number

    service = Service()
    service.answer(1)
    adapter, held = adapter_for(service.answer, name="answers")
    assert held is Service.__dict__["answer"]
    adapter.reclaim(1)
    assert Service.answer.cache_info().currsize == 0


def test_a_function_under_cachetools_uses_its_cache_and_lock() -> None:
    """Entries of the decorated function's cache go, under the function's own lock."""
    lock = threading.Lock()

    @cachetools.cached(cachetools.LRUCache(1000), lock=lock)
    def answer(number: int) -> bytes:
        assert lock.acquire(blocking=False), "computed under the lock"
        lock.release()
        return _KB + bytes([number])

    for number in range(100):
        answer(number)
    adapter, held = adapter_for(answer, name="answers")
    assert isinstance(adapter, EvictCache)
    assert held is answer
    assert adapter.cost == "cheap"
    held_during: list[bool] = []
    cache: Any = answer.cache
    popitem = type(cache).popitem

    class Watched(cachetools.LRUCache[Any, Any]):
        def popitem(self) -> Any:
            held_during.append(lock.locked())
            return popitem(self)

    cache.__class__ = Watched
    assert adapter.reclaim(10_000)
    assert held_during
    assert all(held_during)
    assert not lock.locked()


def test_a_method_under_cachetools_is_its_instances_cache() -> None:
    """Through the instance its own cache is shrunk under its own lock; the instance is not kept alive."""

    class Service:
        def __init__(self) -> None:
            self.cache: cachetools.LRUCache[Any, Any] = cachetools.LRUCache(1000)
            self.lock = threading.Lock()

        @cachetools.cachedmethod(lambda self: self.cache, lock=lambda self: self.lock)
        def answer(self, number: int) -> bytes:
            return _KB + bytes([number])

    service = Service()
    for number in range(100):
        service.answer(number)
    adapter, held = adapter_for(service.answer, name="answers")
    assert held is not None
    del held
    assert adapter.size() == pytest.approx(100 * 1150, rel=0.15)
    assert adapter.reclaim(50_000)
    assert 40 <= len(service.cache) <= 60
    assert adapter._source.get_lock() is service.lock  # type: ignore[attr-defined]
    gone = weakref.ref(service)
    del service
    gc.collect()
    assert gone() is None
    assert (adapter.size(), adapter.reclaim(_MUCH)) == (0, 0)


def test_a_method_under_cachetools_through_its_class_says_what_to_register() -> None:
    """The cache of cachetools.cachedmethod is the instance's: through the class it is refused."""

    class Service:
        def __init__(self) -> None:
            self.cache: cachetools.LRUCache[Any, Any] = cachetools.LRUCache(10)

        @cachetools.cachedmethod(lambda self: self.cache)
        def answer(self, number: int) -> int:
            return number

    with pytest.raises(TypeError, match=r"pass .*the cache object itself"):
        _adapter(Service.answer)
    assert _adapter(Service().cache).size() == 0


# --- who holds whom ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [OrderedDict, UserDict, lambda: cachetools.LRUCache(10), lambda: deque([1])])
def test_holders_are_held_weakly(make: Any) -> None:
    """An adapter does not keep its holder alive, and afterwards is empty."""
    holder = make()
    adapter, held = adapter_for(holder, name="answers")
    assert held is holder
    gone = weakref.ref(holder)
    del holder, held
    gc.collect()
    assert gone() is None
    assert adapter.size() == 0
    assert adapter.reclaim(1000) == 0


def test_a_dict_is_held() -> None:
    """A plain dict cannot be held weakly: no end is promised, and it is held."""
    adapter, held = adapter_for({1: _KB}, name="answers")
    gc.collect()
    assert held is None
    assert adapter.reclaim(1) == pytest.approx(1100, rel=0.1)


# --- bad company ------------------------------------------------------------------------------------------------------


def test_entries_die_outside_the_lock() -> None:
    """A value whose finalizer takes the cache's plain lock does not deadlock the relief."""
    lock = threading.Lock()
    taken: list[bool] = []

    class Value:
        def __del__(self) -> None:
            taken.append(lock.acquire(timeout=0))
            if taken[-1]:
                lock.release()

    cache = {number: Value() for number in range(50)}
    _adapter(cache, lock=lock).reclaim(_MUCH)
    assert not cache
    assert taken == [True] * 50


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_finalizers_that_raise_do_not_end_the_relief() -> None:
    """A value whose __del__ raises is dropped like any other."""

    class Value:
        def __del__(self) -> None:
            raise RuntimeError("not so fast")

    cache = {number: Value() for number in range(50)}
    assert _adapter(cache).reclaim(_MUCH) > 0
    assert not cache


def test_values_that_lie_about_their_size() -> None:
    """A __sizeof__ that raises or is negative counts as a small object."""

    class Raises:
        def __sizeof__(self) -> int:
            raise OSError("no")

    class Negative:
        def __sizeof__(self) -> int:
            return -5

    cache: dict[int, object] = {number: (Raises, Negative)[number % 2]() for number in range(40)}
    adapter = _adapter(cache)
    assert adapter.size() > 0
    assert adapter.reclaim(_MUCH) > 0


def test_keys_that_cannot_be_compared_are_passed_over() -> None:
    """An entry whose key raises on comparison stays; those behind it go."""

    class Key:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            raise ValueError("compare me not")

    class Twin(Key):
        pass

    stuck = {Key(): _KB}

    class Cache(dict[Any, Any]):
        def pop(self, key: Any, *default: Any) -> Any:
            if isinstance(key, Key):
                raise ValueError("compare me not")  # noqa: TRY004 - what the key would raise
            return super().pop(key, *default)

    cache = Cache(stuck)
    cache.update({number: _KB + bytes([number]) for number in range(10, 110)})
    adapter = _adapter(cache)
    assert adapter.reclaim(1) >= 1
    assert adapter.reclaim(_MUCH) > 90_000
    assert len(cache) == 1
    with pytest.raises(ValueError, match="compare me not"):
        adapter.reclaim(_MUCH)


def test_a_popitem_that_fails_is_reported_when_nothing_was_dropped() -> None:
    """An error at the first entry reaches the caller; after some relief it ends it."""

    class Cache(dict[int, bytes]):
        def popitem(self) -> tuple[int, bytes]:
            if len(self) <= 5:
                raise OSError("locked by the bookkeeper")
            return super().popitem()

    cache = Cache(dict.fromkeys(range(20), _KB))
    assert _adapter(cache).reclaim(_MUCH) == pytest.approx(15 * 1060, rel=0.1)
    with pytest.raises(OSError, match="bookkeeper"):
        _adapter(cache).reclaim(_MUCH)


def test_a_popitem_that_takes_nothing_away_ends() -> None:
    """A popitem that always returns something is asked for no more entries than there were."""

    class Cache:
        asked = 0

        def __len__(self) -> int:
            return 100

        def popitem(self) -> tuple[int, int]:
            self.asked += 1
            return 1, 2

    cache = Cache()
    _adapter(cache).reclaim(_MUCH)
    assert cache.asked == 100


@pytest.mark.parametrize("make", [dict, OrderedDict, lambda: cachetools.LRUCache(100_000)])
def test_while_other_threads_write(make: Any) -> None:
    """Reliefs beside writers neither raise nor go on for ever, with the writers' lock where the class needs one."""
    cache = make()
    lock = None if isinstance(cache, dict) and not isinstance(cache, OrderedDict) else threading.Lock()
    failures: list[BaseException] = []
    stop = threading.Event()

    def write(start: int) -> None:
        number = start
        try:
            while not stop.is_set():
                number += 2
                if lock is None:
                    cache[number] = _KB
                else:
                    with lock:
                        cache[number] = _KB
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    writers = [threading.Thread(target=write, args=(start,)) for start in (0, 1)]
    for writer in writers:
        writer.start()
    try:
        adapter = _adapter(cache, lock=lock)
        for _ in range(60):
            assert adapter.reclaim(2_000_000) >= 0
            size = adapter.size()
            assert size is None or size >= 0
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert not failures


def test_mapping_that_changes_while_keys_are_read() -> None:
    """A mapping whose iteration breaks off is tried again, and given up with its error if it never keeps still."""
    broken = [3]

    class Restless(UserDict[int, bytes]):
        def __iter__(self) -> Iterator[int]:
            if broken[0]:
                broken[0] -= 1
                raise RuntimeError("dictionary changed size during iteration")
            return iter(list(self.data))

    cache = Restless()
    cache.data.update(dict.fromkeys(range(10), _KB))
    assert _adapter(cache).reclaim(_MUCH) > 0
    assert not cache.data
    cache.data[1] = _KB
    broken[0] = 1000
    with pytest.raises(RuntimeError, match="changed size"):
        _adapter(cache).reclaim(_MUCH)


def test_a_busy_lock_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that somebody keeps ends the attempt with a TimeoutError, with nothing dropped."""
    monkeypatch.setattr(evicting, "_LOCK_S", 0.01)
    lock = threading.Lock()
    cache = {1: _KB}
    with lock, pytest.raises(TimeoutError, match="lock of 'answers' was busy"):
        _adapter(cache, lock=lock).reclaim(_MUCH)
    assert cache
    assert _adapter(cache, lock=lock).reclaim(_MUCH) > 0


@pytest.mark.parametrize("make", [threading.RLock, threading.Condition])
def test_any_lock_for_threads_will_do(make: Any) -> None:
    """RLocks and conditions are held while entries go, and given back."""
    lock = make()
    assert _adapter({1: _KB}, lock=lock).reclaim(1) > 0
    assert lock.acquire(blocking=False)
    lock.release()


# --- refusals ---------------------------------------------------------------------------------------------------------


class _CannotBeCleared:
    pass


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        (5, r"builtins\.int: it has neither popitem\(\) nor clear\(\) nor cache_clear\(\)"),
        (None, "NoneType"),
        ("text", "str"),
        ((1, 2), "tuple"),
        (dict, "dict is a class: pass an instance"),
        (_CannotBeCleared(), "_CannotBeCleared"),
        (len, "write guard.reclaimer"),
        (types.MappingProxyType({}), "cannot be changed: pass the one behind it"),
    ],
)
def test_refuses_what_it_cannot_shrink(obj: object, text: str) -> None:
    """The refusal names the holder, the type and the mend."""
    with pytest.raises(TypeError, match=text) as refusal:
        _adapter(obj)
    assert "holder 'answers'" in str(refusal.value)
    assert "guard.reclaimer('answers', lambda wanted_bytes: ...)" in str(refusal.value)


def test_refuses_locks_for_tasks() -> None:
    """An asyncio.Lock cannot be taken by a thread."""
    lock: Any = asyncio.Lock()
    with pytest.raises(TypeError, match=r"Lock is no lock for threads: pass a threading\.Lock"):
        _adapter({}, lock=lock)


def test_refuses_locks_for_tasks_that_it_finds() -> None:
    """A function that brings an asyncio.Lock is refused when it is registered, not at the first relief."""

    def answer() -> None: ...

    answer.cache, answer.cache_key, answer.cache_lock = {}, hash, asyncio.Lock()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="only keeps tasks of one event loop apart"):
        _adapter(answer)


def test_refuses_locks_that_could_be_waited_for_without_end() -> None:
    """A context manager without acquire() and release() cannot be given up after a second."""

    class Gate:
        def __enter__(self) -> None: ...

        def __exit__(self, *exc: object) -> None: ...

    with pytest.raises(TypeError, match="Gate is no lock for threads"):
        _adapter({}, lock=Gate())


def test_refuses_currsize_where_there_is_none() -> None:
    """currsize_is_bytes needs a currsize."""
    with pytest.raises(ValueError, match="dict has no currsize"):
        _adapter({}, currsize_is_bytes=True)


def test_labels_are_checked_and_kept() -> None:
    """Cost and level may be chosen; the level follows the cost when it is not."""
    assert _adapter({}, cost="last").at is Level.EMERGENCY
    assert _adapter({}, cost="free").at is Level.ELEVATED
    assert _adapter({}, cost="last", at=Level.WARNING).at is Level.WARNING
    with pytest.raises(ValueError, match="is no cost"):
        _adapter({}, cost="lots")
    with pytest.raises(ValueError, match="blank"):
        adapter_for({}, name=" ")
    with pytest.raises(TypeError, match="is no level"):
        _adapter({}, at="WARNING")
    assert "answers" in repr(_adapter({}))


# --- on the market ----------------------------------------------------------------------------------------------------


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """The clock that ages are told by."""
    clock = _Clock()
    monkeypatch.setattr(
        worth.Worth.__init__, "__kwdefaults__", {**(worth.Worth.__init__.__kwdefaults__ or {}), "clock": clock}
    )
    return clock


def _full(count: int = 1000) -> dict[int, bytes]:
    return {number: _KB + bytes([number % 256]) for number in range(count)}


def test_what_gives_up_entry_by_entry_is_a_shelf_too() -> None:
    """Mappings, cachetools caches and functions have both shapes; what can only be emptied or is dear has one."""
    kept: list[Any] = [{1: 1}, OrderedDict(), cachetools.LRUCache(10), cachetools.cached({})(len)]
    assert all(isinstance(_adapter(obj), Shelf) and isinstance(_adapter(obj), Reclaimer) for obj in kept)
    kept = [functools.lru_cache(5)(len), functools.cache(len), [1], deque([1])]
    assert not any(isinstance(_adapter(obj), Shelf) for obj in kept)


def test_older_entries_are_cheaper_and_a_price_evicts_just_those_below(clock: _Clock) -> None:
    """Prices rise from the oldest entry to the newest; shrinking below the price of a third leaves two thirds."""
    cache = _full()
    shelf = _adapter(cache)
    clock.now += 90.0
    sample = shelf.sample(300)
    prices = [price for price, _ in sample]
    assert len(sample) == 300
    assert prices == sorted(prices)
    assert prices[0] > 0
    assert all(size == pytest.approx(1090, rel=0.1) for _, size in sample)
    assert shelf.shrink(_MUCH, prices[99]) == pytest.approx(333 * 1090, rel=0.1)
    assert list(cache) == list(range(1000 - len(cache), 1000))
    assert len(cache) == pytest.approx(667, abs=5)
    assert shelf.shrink(_MUCH, prices[0] / 2) == 0
    assert shelf.shrink(50_000, inf) == pytest.approx(50_000, rel=0.1)


def test_prices_are_those_of_our_own_entries(clock: _Clock) -> None:
    """An entry of 1 KB, idle for 10 s, 1 ms to make again: 0.1 ms a second over its bytes; cost and weight multiply."""
    caches_ = [_full(), _full(), _full()]
    options: list[dict[str, Any]] = [{}, {"entry_cost_s": 0.02}, {"weight": 3.0}]
    shelves = [_adapter(cache, **option) for cache, option in zip(caches_, options, strict=True)]
    clock.now += 10.0
    plain, dear, weighty = (shelf.sample(1000)[0] for shelf in shelves)
    assert plain[0] == pytest.approx(1e-3 / 10 / plain[1], rel=0.01)
    assert dear[0] == pytest.approx(20 * plain[0], rel=0.01)
    assert weighty[0] == pytest.approx(3 * plain[0], rel=0.01)


def test_after_the_oldest_went_the_rest_is_younger(clock: _Clock) -> None:
    """Half of a cache evicted: the oldest that is left is half as old, and dearer."""
    shelf = _adapter(_full())
    clock.now += 100.0
    before = shelf.sample(1000)[0][0]
    shelf.shrink(1000 * 1090 // 2, inf)
    assert shelf.sample(1000)[0][0] == pytest.approx(2 * before, rel=0.1)


def test_hits_make_a_cache_dearer_where_it_counts_them(clock: _Clock) -> None:
    """With cached(info=True), entries of a cache that is hit cost more than the same entries without hits."""

    def make() -> Any:
        return cachetools.cached(cachetools.LRUCache(1000), lock=threading.Lock(), info=True)(
            lambda number: _KB + bytes([number])
        )

    hot, cold = make(), make()
    for number in range(100):
        assert hot(number) == cold(number)
    shelves = [_adapter(hot), _adapter(cold)]
    for shelf in shelves:
        clock.now += 2.0
        shelf.tend()
    for _ in range(50):
        for number in range(100):
            hot(number)
    clock.now += 10.0
    prices = [shelf.sample(10)[0][0] for shelf in shelves]
    assert prices[0] > 5 * prices[1]


def test_counting_hits_never_waits_for_the_lock(clock: _Clock) -> None:
    """While the function's lock is taken its hits are not asked for."""
    lock = threading.Lock()
    function = cachetools.cached(cachetools.LRUCache(10), lock=lock, info=True)(lambda number: number)
    shelf = _adapter(function)
    clock.now += 5.0
    with lock:
        shelf.tend()
    clock.now += 5.0
    shelf.tend()
    assert lock.acquire(blocking=False)


@pytest.mark.parametrize("act", ["shrink", "reclaim"])
def test_min_bytes_are_never_taken(act: str, clock: _Clock) -> None:
    """A floor holds against both ways of asking, and what is below it is not offered."""
    cache = _full()
    shelf = _adapter(cache, min_bytes=500_000)
    clock.now += 10.0
    ages = [shelf.sample(1000)[-1][0], _adapter(_full()).sample(1000)[-1][0]]
    assert ages[0] < ages[1]
    shelf.shrink(_MUCH, inf) if act == "shrink" else shelf.reclaim(_MUCH)
    assert shelf.size() == pytest.approx(500_000, rel=0.05)
    assert shelf.size() >= 499_000
    small = _adapter(_full(10), min_bytes=500_000)
    assert (small.sample(16), small.shrink(_MUCH, inf), small.reclaim(_MUCH)) == ([], 0, 0)


def test_expired_entries_go_whatever_the_price() -> None:
    """A price of nothing still takes what has expired."""
    now = [0.0]
    cache: cachetools.TTLCache[int, bytes] = cachetools.TTLCache(1000, ttl=10, timer=lambda: now[0])
    for number in range(100):
        cache[number] = _KB + bytes([number])
    now[0] = 5.0
    for number in range(100, 150):
        cache[number] = _KB + bytes([number])
    now[0] = 12.0
    assert _adapter(cache).shrink(_MUCH, 0.0) == pytest.approx(100 * 1060, rel=0.1)
    assert sorted(cache) == list(range(100, 150))


def test_a_shelf_whose_holder_is_gone_is_empty() -> None:
    """No sample, nothing to shrink, nothing raised."""
    cache: OrderedDict[int, bytes] = OrderedDict(_full(10))
    shelf = _adapter(cache)
    del cache
    gc.collect()
    shelf.tend()
    assert (shelf.size(), list(shelf.sample(16)), shelf.shrink(_MUCH, inf)) == (0, [], 0)


def test_a_shelf_of_unknown_size_still_has_a_price(clock: _Clock) -> None:
    """Entries that cannot be seen are taken for 1 KiB until some were."""

    class Own:
        def __init__(self) -> None:
            self.entries = [bytes(5000)] * 50

        def __len__(self) -> int:
            return len(self.entries)

        def popitem(self) -> object:
            return self.entries.pop()

    shelf = _adapter(own := Own())
    clock.now += 10.0
    assert shelf.size() is None
    assert {size for _, size in shelf.sample(8)} == {1024}
    assert shelf.shrink(20_000, inf) >= 20_000
    assert shelf.size() == pytest.approx(len(own) * 5033, rel=0.1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"weight": 0}, "weight=0 must be above 0"),
        ({"weight": float("nan")}, "weight=nan must be above 0"),
        ({"min_bytes": -1}, "min_bytes=-1 must be 0 or more"),
        ({"entry_cost_s": -1.0}, r"entry_cost_s=-1\.0 must be 0 or more"),
        ({"entry_cost_s": inf}, "entry_cost_s=inf must be 0 or more"),
    ],
)
def test_refuses_numbers_that_cannot_be_meant(options: dict[str, Any], text: str) -> None:
    """With the holder's name and the mend."""
    with pytest.raises(ValueError, match=f"holder 'answers': {text}"):
        _adapter({}, **options)


def test_nothing_is_given_away_for_a_price_of_nothing(clock: _Clock) -> None:
    """Entries that cost nothing to make go at any price; others do not go at 0."""
    free, dear = _full(50), _full(50)
    clock.now += 10.0
    assert _adapter(dear).shrink(_MUCH, 0.0) == 0
    assert _adapter(free, entry_cost_s=0.0).shrink(_MUCH, 0.0) > 50_000
