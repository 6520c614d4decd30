"""Other people's caches as reclaimers: what is dropped, in which order, and what may go wrong meanwhile."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import types
import weakref
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from typing import TYPE_CHECKING, Any

import cachetools
import pytest

from memguard.model import Level
from memguard.reclaimers import caches
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
    """A weak-valued mapping is not looked into; after the first evictions its size is known."""

    class Value:
        pass

    values = [Value() for _ in range(400)]
    cache: weakref.WeakValueDictionary[int, Value] = weakref.WeakValueDictionary(enumerate(values))
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


def test_lru_cache_functions_are_dear_and_cleared_as_a_whole() -> None:
    """An lru_cache function is asked from CRITICAL on, and then loses everything; its name stays callable."""

    @functools.cache
    def answer(number: int) -> bytes:
        return _KB + bytes([number])

    for number in range(100):
        answer(number)
    adapter, held = adapter_for(answer, name="answers")
    assert isinstance(adapter, ClearCache)
    assert (adapter.cost, adapter.at) == ("dear", Level.CRITICAL)
    assert held is answer
    assert adapter.size() == pytest.approx(100 * 1060, rel=0.2)
    assert adapter.reclaim(1) == pytest.approx(100 * 1060, rel=0.2)
    assert answer.cache_info().currsize == 0


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


def test_a_method_under_cachetools_says_what_to_register() -> None:
    """The cache of cachetools.cachedmethod is the instance's: through the class it is refused."""

    class Service:
        def __init__(self) -> None:
            self.cache: cachetools.LRUCache[Any, Any] = cachetools.LRUCache(10)

        @cachetools.cachedmethod(lambda self: self.cache)
        def answer(self, number: int) -> int:
            return number

    with pytest.raises(TypeError, match="holder 'answers': cannot shrink"):
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
    monkeypatch.setattr(caches, "_LOCK_S", 0.01)
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
