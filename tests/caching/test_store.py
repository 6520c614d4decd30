"""The store: exact accounts, whatever keys, values, threads, signals and forks do."""

from __future__ import annotations

import gc
import linecache
import os
import signal
import sys
import threading
import weakref
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import cycle, pairwise, product
from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest

from memguard.caching import forks
from memguard.caching.store import Store
from memguard.ports import Shelf
from memguard.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memguard.caching.entry import Entry


def small(size: int = 10, **options: Any) -> Store:
    """A store whose entries all weigh the same."""
    return Store(name="store", size_of=lambda _key, _value: size, **options)


def check(store: Store) -> None:
    """Table, cohorts and sums agree."""
    store.expire()  # a broken-off change is mended by the next one
    store.pop(object())
    entries = list(store)
    assert {id(entry) for entry in entries} == {id(entry) for entry in store.table.values()}
    assert len(entries) == len(store.table) == len(store)
    assert store.bytes == sum(entry.bytes for entry in entries)
    for cohort in store._cohorts.rows:
        assert cohort.holes == cohort.entries.count(None)
        for slot, entry in enumerate(cohort.entries):
            assert entry is None or (entry.cohort is cohort and entry.slot == slot)
            assert entry is None or cohort.due <= entry.expires
    assert store.due[0] <= min((entry.expires for entry in entries), default=inf)


class Key:
    """A key that does as it is told when it is compared or hashed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.compare: Callable[[], object] = bool
        self.hash: Callable[[], object] = bool

    def __hash__(self) -> int:
        self.hash()
        return hash(self.number % 2)  # all collide

    def __eq__(self, other: object) -> bool:
        self.compare()
        return isinstance(other, Key) and other.number == self.number


def raise_it() -> None:
    """Fail as other people's keys do."""
    raise LookupError("as told")


# --- entries --------------------------------------------------------------------------------------------------------


def test_it_is_a_shelf() -> None:
    """The market can take it by shape."""
    assert isinstance(small(), Shelf)


def test_hits_are_counted_exactly() -> None:
    """Each value taken counts once, retired entries included; looking at the table does not count."""
    store = small()
    for key in "ab":
        store.put(key, key)
    for _ in range(5):
        assert next(store.table["a"]) == "a"
    assert "b" in store.table
    assert store.hits == 5
    store.pop("a")
    store.put("b", "again")
    assert store.hits == 5
    store.clear()
    assert store.hits == 0


def test_replacing_keeps_the_place_and_the_old_key() -> None:
    """A new value for an equal key is one entry, under the key object that the dict keeps."""
    store = small()
    store.put(1, "int")
    store.put(1.0, "float")
    (entry,) = store
    assert (entry.value, type(entry.key)) == ("float", int)
    check(store)


def test_only_one_pop_gets_it() -> None:
    """Of two pops of one entry one gets it."""
    store = small()
    store.put("a", 1)
    popped = store.pop("a")
    assert popped is not None
    assert popped.value == 1
    assert store.pop("a") is None


def test_the_dead_are_let_go() -> None:
    """No value outlives its entry: not popped, replaced, evicted, expired or cleared ones."""

    class Value:
        pass

    clock = FakeClock()
    store = small(clock=clock, max_bytes=1000)
    seen = list[weakref.ref[Value]]()

    def put(key: object, ttl_s: float | None = None) -> None:
        value = Value()
        seen.append(weakref.ref(value))
        store.put(key, value, ttl_s=ttl_s)

    for number in range(300):
        put(number)
    store.shrink(500, inf)
    store.pop(299)
    put("b")
    put("b")
    put("c", ttl_s=1)
    clock.advance(2)
    store.expire()
    held = {id(entry.value) for entry in store}
    assert {id(ref()) for ref in seen if ref() is not None} == held
    check(store)
    store.clear()
    assert [ref for ref in seen if ref() is not None] == []


def test_a_store_dies_with_all_it_holds() -> None:
    """When nobody has the store any more its values die at once, without the garbage collector."""

    class Value:
        pass

    store = small()
    seen = list[weakref.ref[Value]]()
    for number in range(600):
        value = Value()
        seen.append(weakref.ref(value))
        store.put(number, value)
    del value
    gc.disable()
    try:
        del store
        assert [ref for ref in seen if ref() is not None] == []
    finally:
        gc.enable()


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_maxsize_spares_what_was_hit() -> None:
    """SIEVE: what was hit since the hand came by stays, what was not goes."""
    store = small(maxsize=100)
    for number in range(100):
        store.put(number, number)
    for number in range(0, 100, 2):
        next(store.table[number])
    for number in range(100, 150):
        store.put(number, number)
    assert set(store.table) == {*range(0, 100, 2), *range(100, 150)}
    assert store.evictions == 50
    check(store)


def test_max_bytes_is_never_passed() -> None:
    """However values of many sizes come, their bytes stay within the bound, and what is larger is refused."""
    store = Store(name="sizes", size_of=lambda _key, value: value, max_bytes=1000)
    for number in range(2000):
        store.put(number % 300, number * 7 % 400)
        assert store.bytes <= 1000
    assert not store.put("large", 1001)
    assert store.too_large == 1
    assert store.put("just", 1000)
    assert list(store.table) == ["just"]
    check(store)


def test_the_cheap_go_first() -> None:
    """By price: what costs nothing to compute is evicted before what costs a second."""
    store = small(max_bytes=10 * 500)
    for number in range(1000):
        store.put(number, number, cost_s=1.0 if number % 4 == 0 else 0.0)
    dear = sum(entry.cost_s == 1.0 for entry in store)
    assert dear >= 240
    check(store)


def test_a_bound_of_nothing_keeps_nothing() -> None:
    """maxsize=0 and max_bytes=0 refuse everything."""
    for store in (small(maxsize=0), small(max_bytes=0)):
        assert not store.put("a", 1)
        check(store)
        assert len(store) == 0


@pytest.mark.parametrize("size", [-1, -0.5, nan, inf, -inf])
def test_a_size_that_is_none_is_refused(size: float) -> None:
    """A negative, infinite or undefined size is a ValueError that names the cache; nothing is kept."""
    store = Store(name="odd", size_of=lambda _key, _value: size)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="'odd'"):
        store.put("a", 1)
    check(store)


def test_a_size_may_be_a_fraction() -> None:
    """A float counts its whole bytes, so that sums stay exact; text is a TypeError."""
    sizes: list[Any] = [10.9, "10"]
    store = Store(name="odd", size_of=lambda _key, value: sizes[value])
    store.put("a", 0)
    assert store.bytes == 10
    with pytest.raises(TypeError):
        store.put("b", 1)
    check(store)


def test_what_grows_is_noticed() -> None:
    """A value that grew after it came in is accounted anew by tend, and the bound holds again."""
    store = Store(name="growing", size_of=lambda _key, value: len(value), max_bytes=1000)
    values = [[0] * 100 for _ in range(10)]
    for number, value in enumerate(values):
        store.put(number, value)
    values[3].extend([0] * 50)
    store.tend()
    check(store)
    assert store.bytes <= 1000
    for value in values:
        value.extend([0] * 1000)
    for _ in range(10):
        store.tend()
    check(store)
    assert len(store) == 0


def test_tend_bears_sizes_that_fail() -> None:
    """A size_of that raises leaves the old size."""
    broken = False

    def size_of(_key: object, _value: object) -> int:
        if broken:
            raise LookupError
        return 10

    store = Store(name="moody", size_of=size_of)
    store.put("a", 1)
    broken = True
    store.tend()
    assert store.bytes == 10


# --- pauses ---------------------------------------------------------------------------------------------------------


def alive_between(monkeypatch: pytest.MonkeyPatch, alive: list[object]) -> list[int]:
    """Give way at every chance, and note each time how many are alive."""
    seen = list[int]()
    monkeypatch.setattr("memguard.turns._SLICE_S", 0.0)
    monkeypatch.setattr("memguard.turns.sleep", lambda _seconds: seen.append(len(alive)))
    return seen


@pytest.mark.parametrize("drop", ["shrink", "clear", "expire", "del"])
@pytest.mark.parametrize(("count", "size", "at_once"), [(2000, 1 << 20, 1), (20_000, 400, 327)])
def test_what_is_dropped_dies_bit_by_bit(
    monkeypatch: pytest.MonkeyPatch, drop: str, count: int, size: int, at_once: int
) -> None:
    """Large values die one by one, small ones by some hundred KiB; others get their turn between, and the lock."""
    alive = list[object]()

    class Value:
        def __init__(self) -> None:
            alive.append(None)

        def __del__(self) -> None:
            alive.pop()

    clock = FakeClock()
    store = small(size, clock=clock)
    for number in range(count):
        store.put(number, Value(), ttl_s=5.0 if drop == "expire" else None)
    seen = alive_between(monkeypatch, alive)
    if drop == "shrink":
        assert store.shrink(count * size, inf) == count * size
    elif drop == "clear":
        store.clear()
    elif drop == "expire":
        clock.advance(6.0)
        assert store.expire() == count
    else:
        del store
    assert not alive
    assert all(before - after <= at_once for before, after in pairwise([count, *seen, 0]))


def test_a_look_up_clears_little_of_what_has_expired() -> None:
    """Of many large values that expired at once, one look-up on a request's way drops about a MiB; the rest later."""
    clock = FakeClock()
    store = small(100 << 10, clock=clock)
    for number in range(1000):
        store.put(number, number, ttl_s=1.0)
    clock.advance(2.0)
    assert store.fresh(0) is None
    assert 980 < len(store.table) < 1000
    for _ in range(100):
        assert store.fresh(999) is None
    assert not store.table
    check(store)


def test_a_large_value_takes_the_place_of_many() -> None:
    """A value as large as thousands evicts the cheapest of them, and no more than it needs; its own old one stays."""
    store = Store(name="sizes", size_of=lambda _key, value: value, max_bytes=10_000 * 400)
    for number in range(10_000):
        store.put(number, 400, cost_s=1.0 if number % 2 else 0.001)
    for size in (400_000, 800_000, 1_200_000):
        assert store.put("large", size, cost_s=100.0)
        assert 0.95 * 4_000_000 < store.bytes <= 4_000_000
        check(store)
    assert store.table["large"].value == 1_200_000
    assert sum(entry.cost_s == 1.0 for entry in store) >= 4900
    assert not store.put("too large", 4_000_001)
    assert len(store) > 6000


# --- expiry ---------------------------------------------------------------------------------------------------------


def test_a_key_that_raises_leaves_no_expiry_behind() -> None:
    """A put that failed at its key does not give its time to live to the next one."""

    class Bad:
        def __hash__(self) -> int:
            raise RuntimeError("no")

    clock = FakeClock()
    store = small(clock=clock)
    for number in range(3):
        store.put(number, number, ttl_s=5.0)
    with pytest.raises(RuntimeError):
        store.put(Bad(), 1, ttl_s=5.0)
    store.put("stays", 1)
    clock.advance(10.0)
    assert store.fresh("stays") is not None
    assert list(store.table) == ["stays"]


@pytest.mark.parametrize("ttl_s", [0.001, 0.3, 1.0, 7.7, 300.0, 86400.0])
def test_nothing_lives_longer_than_its_ttl(ttl_s: float) -> None:
    """It expires not after its time, and at most 1/64 of it and 1/16 s before."""
    clock = FakeClock(1234.567)
    store = small(clock=clock)
    store.put("a", 1, ttl_s=ttl_s)
    early_s = min(ttl_s / 64, 1 / 16)
    clock.advance((ttl_s - early_s) * (1 - 1e-9))
    assert store.fresh("a") is not None
    clock.advance(early_s * (1 + 1e-6) + ttl_s * 1e-9)
    assert store.fresh("a") is None
    assert store.due[0] <= clock() or not store.table
    assert store.expire() in {0, 1}
    check(store)


def test_due_is_the_next_to_expire() -> None:
    """Due is at or before the first expiry, moves on when that has gone, and is infinite without any."""
    clock = FakeClock()
    store = small(clock=clock)
    assert store.due[0] == inf
    for number in range(1000):
        store.put(number, number, ttl_s=float(1 + number % 50))
    for _ in range(60):
        clock.advance(1.0)
        store.expire()
        check(store)
        assert all(entry.expires > clock() for entry in store)
    assert (len(store), store.due[0]) == (0, inf)


def test_steady_expiry_is_cheap() -> None:
    """A thousand values a second with a ttl: few passes, that look at few entries for each that goes."""
    clock = FakeClock()
    store = small(clock=clock)
    looked = passes = 0
    real = store._cohorts.expired

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(cohorts, name)

        def expired(self, now: float) -> list[Entry]:
            nonlocal looked
            looked += sum(1 for _ in cohorts._by_due[0][2])
            return real(now)

    cohorts = store._cohorts
    gone = 0
    for number in range(10_000):
        clock.advance(0.001)
        store.put(number, number, ttl_s=2.0)
        if store.due[0] <= clock():
            passes += 1
            store._cohorts = Watched()  # type: ignore[assignment]
            gone += store.expire()
            store._cohorts = cohorts
    assert gone >= 7900
    assert passes <= 8 * 32 + 1
    assert looked <= 9 * gone
    check(store)


def test_a_replaced_value_takes_its_expiry_along() -> None:
    """A value put again without a ttl stays for ever."""
    clock = FakeClock()
    store = small(clock=clock)
    store.put("a", 1, ttl_s=1.0)
    store.put("a", 2)
    clock.advance(10)
    assert store.expire() == 0
    entry = store.fresh("a")
    assert entry is not None
    assert (entry.value, store.due[0]) == (2, inf)


def test_no_time_at_all() -> None:
    """A ttl of 0 or less drops the old value and keeps none; one that is no number is a ValueError."""
    store = small()
    store.put("a", 1)
    with pytest.raises(ValueError, match="ttl"):
        store.put("a", 2, ttl_s=nan)
    assert not store.put("a", 2, ttl_s=0.0)
    assert len(store) == 0
    assert store.put("a", 3, ttl_s=inf)
    assert store.due[0] == inf


def test_expiring_cohorts_that_are_gone_are_forgotten() -> None:
    """Churn with a long ttl keeps no record of cohorts that were emptied long ago."""
    store = small(maxsize=100)
    for number in range(60_000):
        store.put(number, number, ttl_s=86400.0)
    assert len(store._cohorts._by_due) <= 2 * len(store._cohorts.rows) + 66
    assert len(store._cohorts.rows) < 20
    check(store)


# --- keys that misbehave --------------------------------------------------------------------------------------------


def test_a_key_that_raises_changes_nothing() -> None:
    """__eq__ and __hash__ that raise reach the caller; the accounts stay exact and nothing is rebuilt."""
    store = small()
    store.put(Key(0), "kept")
    for number in range(300):
        store.put(number, number)
    for what in ("compare", "hash"):
        key = Key(2)
        setattr(key, what, raise_it)
        for ask in (lambda key: store.put(key, 1), store.pop, store.fresh):
            with pytest.raises(LookupError):
                ask(key)
            assert not store._busy
    assert len(store) == 301
    check(store)


def test_a_key_that_raises_later_can_be_evicted() -> None:
    """An entry whose key raises once it is in goes when its turn comes, and troubles nobody else's put."""
    for what in ("compare", "hash"):
        store = small(maxsize=10)
        bad = Key(0)
        store.put(bad, "bad")
        setattr(bad, what, raise_it)
        for number in range(10, 40):
            store.put(f"other {number}", number)
        assert not any(entry.key is bad for entry in store)
        assert len(store) == 10
        check(store)


def test_a_hash_that_changes() -> None:
    """A key whose hash changed after it came in can neither be found nor lost: it goes, and the sums agree."""

    class Shifty:
        def __init__(self) -> None:
            self.number = 1

        def __hash__(self) -> int:
            return self.number

    for drop in ("evict", "shrink", "expire", "take"):
        clock = FakeClock()
        store = small(clock=clock, maxsize=3)
        keys = [Shifty() for _ in range(3)]
        for key in keys:
            store.put(key, 1, ttl_s=5.0)
        for number, key in enumerate(keys):
            key.number = 100 + number
        if drop == "evict":
            store.put("new", 1)
        elif drop == "shrink":
            store.shrink(30, inf)
            store.shrink(30, inf)
        elif drop == "take":
            assert store.take() is not None
        else:
            clock.advance(10.0)
            store.expire()
        check(store)
        assert len(store) == {"evict": 3, "shrink": 0, "expire": 0, "take": 2}[drop]


def test_a_hash_of_no_faith() -> None:
    """A key that hashes differently each time is let go without a trace."""
    count = iter(range(10**6))

    class Random:
        def __hash__(self) -> int:
            return next(count)

    store = small(maxsize=5)
    for _ in range(50):
        store.put(Random(), 1)
    check(store)
    assert len(store) <= 5
    store.shrink(10**6, inf)
    check(store)


def test_an_eq_that_changes_its_mind() -> None:
    """A key that is equal when found and different when set leaves both entries or one, each accounted."""
    store = small()
    store.put(Key(1), "first")
    answers: Iterator[bool] = iter([])

    class Moody(Key):
        __hash__ = Key.__hash__

        def __eq__(self, other: object) -> bool:
            return next(answers, False)

    for pattern in product([True, False], repeat=6):
        answers = iter(pattern)
        store.put(Moody(1), "moody")
        check(store)
    answers = cycle([True, False])
    with suppress(RuntimeError):
        store.put(Moody(1), "moody")
    answers = iter([])
    check(store)


@pytest.mark.parametrize("what", ["compare", "hash"])
def test_changes_from_inside_wait(what: str) -> None:
    """Put, pop, clear, expire, shrink and popping from __eq__ or __hash__ are made when the change has ended."""
    store = small(maxsize=20)
    first = Key(0)  # the dict asks the key that it has
    store.put(first, "first")
    called = 0

    def again() -> None:
        nonlocal called
        called += 1
        store.put("inside", 1)
        store.put(4, 1, ttl_s=5.0)
        store.pop("gone")
        store.expire()
        store.shrink(10, inf)
        store.tend()
        store.take()
        store.relocate()

    def put(number: int, change: Callable[[], object]) -> None:
        key = Key(number)
        misbehaving = first if what == "compare" else key
        setattr(misbehaving, what, change)
        store.put(key, number)
        setattr(misbehaving, what, bool)
        check(store)

    put(2, again)
    assert called
    if what == "compare":
        store.put(first, "first")
    put(6, store.clear)
    assert len(store) <= 1


def test_what_is_put_off_may_fail() -> None:
    """A put-off change whose key raises is lost alone."""
    store = small()
    first, bad = Key(0), Key(4)
    store.put(first, 1)

    def inside() -> None:
        first.compare = bool
        bad.hash = raise_it
        with pytest.raises(LookupError):
            store.put(bad, 1)
        bad.hash, first.compare = bool, raise_it
        store.put(bad, 1)
        store.put("good", 1)

    first.compare = inside
    store.put(Key(2), 1)
    first.compare = bool
    assert "good" in store.table
    assert bad not in store.table
    check(store)


# --- destructors, signals, interrupts -------------------------------------------------------------------------------


def test_destructors_may_call_back() -> None:
    """A value's __del__ may put, pop and clear: it runs after the change, without the lock."""
    store = small(maxsize=5)
    free = list[bool]()

    class Value:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            other = threading.Thread(target=lambda: free.append(store._lock.acquire(timeout=5)))
            if self.number < 3:
                other.start()
                other.join()
            store.put(("dead", self.number), self.number)
            store.pop(self.number - 1)

    # The lock of a thread that ended holding it would stay taken: let each give it back.
    real = store._lock

    class Watched:
        def __enter__(self) -> bool:
            return real.__enter__()

        def __exit__(self, *exc: object) -> None:
            real.release()

        def _is_owned(self) -> bool:
            return real._is_owned()  # type: ignore[attr-defined, no-any-return]

        def acquire(self, timeout: float) -> bool:
            got = real.acquire(timeout=timeout)
            if got:
                real.release()
            return got

    store._lock = Watched()  # type: ignore[assignment]
    for number in range(50):
        store.put(number, Value(number))
    store.clear()
    store.clear()
    gc.collect()
    check(store)
    assert free == [True] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_destructors_may_fail() -> None:
    """A __del__ that raises costs nothing but Python's own note of it."""

    class Bad:
        def __del__(self) -> None:
            raise LookupError("as told")

    store = small(maxsize=2)
    for number in range(10):
        store.put(number, Bad())
    store.clear()
    gc.collect()
    check(store)


def interrupted(store: Store, change: Callable[[], object], at: int) -> bool:
    """Make a change and break it off at the n-th line or call that memguard runs; whether it came that far."""
    count = 0

    def trace(frame: Any, event: str, arg: object) -> Any:
        nonlocal count
        if "caching" not in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        # Leaving a with block and entering a try block are no places where Python lets an interrupt in.
        if event == "line" and store._busy and not line.startswith(("with ", "try:")):
            count += 1
            if count == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        change()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def expire_all(store: Store) -> None:
    """Let time pass, and drop what has expired."""
    later = store.clock() + 200.0
    store.clock = lambda: later
    store.expire()


def put_bounded(bound: str, most: int) -> Callable[[Store], object]:
    """Put into a store that has just got a bound."""

    def put(store: Store) -> None:
        setattr(store, bound, most)
        store.put("new", 1)

    return put


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda store: store.put("new", 1), id="put"),
        pytest.param(lambda store: store.put(299, 1), id="replace"),
        pytest.param(lambda store: store.put(Key(1), 1), id="replace a key of Python's"),
        pytest.param(put_bounded("maxsize", 100), id="evict"),
        pytest.param(put_bounded("max_bytes", 1000), id="evict by price"),
        pytest.param(lambda store: store.pop(299), id="pop"),
        pytest.param(lambda store: store.clear(), id="clear"),
        pytest.param(lambda store: store.shrink(500, 1e9), id="shrink"),
        pytest.param(expire_all, id="expire"),
        pytest.param(lambda store: store.tend(), id="tend"),
        pytest.param(lambda store: store.relocate(), id="relocate"),
    ],
)
def test_a_change_broken_off_anywhere_is_mended(change: Callable[[Store], object]) -> None:
    """KeyboardInterrupt at every line of every change: the next change finds or makes exact accounts."""
    for at in range(1, 300):
        store = small(clock=FakeClock(), relocates=True)
        store.put(Key(1), 1)
        for number in range(300):
            store.put(number, [number], ttl_s=100.0 if number % 2 else None)
        for number in range(200):
            if number % 3:
                store.pop(number)
        reached = interrupted(store, partial(change, store), at)
        store.put("after", 1)
        check(store)
        assert "after" in store.table
        if not reached:
            assert at > 1
            break


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_signal_handlers_may_change_it() -> None:
    """Handlers that put, pop and clear in the middle of changes leave exact accounts."""
    store = small(maxsize=50)
    fired = 0

    def handle(*_: object) -> None:
        nonlocal fired
        fired += 1
        store.put(("signal", fired), fired)
        store.pop(("signal", fired - 1))
        if fired % 50 == 0:
            store.clear()

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        number = 0
        while fired < 200:
            number += 1
            store.put(number % 100, number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    check(store)


# --- threads and forks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"maxsize": 200}, {"max_bytes": 3000}])
def test_threads_leave_exact_accounts(options: dict[str, int]) -> None:
    """Eight threads that put, hit, pop, expire, shrink, tend and clear: every hit counted, every byte accounted."""
    store = small(**options)
    hits = Counter[int]()
    failures = list[BaseException]()

    def hammer(seed: int) -> None:
        try:
            number = seed
            for turn in range(1500):
                number = (number * 1103515245 + 12345) % 2**31
                key = number % 500
                store.put(key, number, ttl_s=0.01 if number % 7 == 0 else None, cost_s=number % 3)
                try:
                    next(store.table[key + 1])
                    hits[seed] += 1
                except KeyError:
                    pass
                if turn % 5 == 0:
                    store.pop(key)
                if turn % 100 == 50:
                    store.shrink(200, inf if turn % 200 else 1.0)
                    store.tend()
                    store.sample(10)
                    store.expire()
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

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
    assert failures == []
    check(store)
    # A hit on an entry that was retired between the look-up and the hit is the only one that may be missed.
    assert 0.99 * sum(hits.values()) <= store.hits <= sum(hits.values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_does_not_wait_for_its_parents_threads() -> None:
    """Forked while another thread is in the middle of a change: the child goes on with exact accounts."""
    store = small()
    for number in range(300):
        store.put(number, number)
    inside, leave = threading.Event(), threading.Event()
    key = Key(2)
    store.put(Key(0), 1)

    def stay() -> None:
        inside.set()
        leave.wait(10)

    key.compare = stay
    thread = threading.Thread(target=store.put, args=(key, 1))
    thread.start()
    assert inside.wait(10)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            key.compare = bool
            signal.alarm(10)
            store.put("child", 1)
            check(store)
            code = 0 if len(store) == 302 else 2
        finally:
            os._exit(code)
    leave.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(store) == 302
    check(store)


def test_the_fork_hook_keeps_no_store() -> None:
    """Stores are known to the hook while they live, and not after."""
    store = small()
    assert store in forks._tables
    ref = weakref.ref(store)
    del store
    gc.collect()
    assert ref() is None


# --- the shelf ------------------------------------------------------------------------------------------------------


def test_shrink_takes_what_is_cheap() -> None:
    """It evicts at or below the price, no more than wanted, and says how many bytes went."""
    clock = FakeClock()
    store = small(clock=clock)
    for number in range(2000):
        store.put(number, number, cost_s=float(number % 10))
    clock.advance(1.0)
    prices = sorted(price for price, _ in store.sample(2000))
    freed = store.shrink(10**9, prices[400])
    assert freed == 10 * (2000 - len(store))
    assert 300 <= freed / 10 <= 900
    assert min(entry.cost_s for entry in store) >= 1.0
    assert store.shrink(50, inf) == 50
    check(store)


def test_shrink_stops_at_the_floor() -> None:
    """min_bytes are left, and a store at its floor offers nothing."""
    store = small(min_bytes=100)
    for number in range(20):
        store.put(number, number)
    assert store.shrink(10**6, inf) == 100
    assert (store.bytes, store.sample(5), store.shrink(10, inf)) == (100, [], 0)


def test_expired_ones_go_first() -> None:
    """What has expired counts for what was wanted, before anything alive goes."""
    clock = FakeClock()
    store = small(clock=clock)
    for number in range(100):
        store.put(number, number, ttl_s=1.0 if number < 50 else None)
    clock.advance(5.0)
    assert store.shrink(300, inf) == 500
    assert sorted(store.table) == list(range(50, 100))


def test_weight_makes_dear() -> None:
    """Twice the weight, twice the price."""
    clock = FakeClock()
    light, heavy = small(clock=clock), small(clock=clock, weight=2.0)
    for store in (light, heavy):
        store.put("a", 1, cost_s=1.0)
    clock.advance(1.0)
    assert heavy.sample(1)[0][0] == 2 * light.sample(1)[0][0]


def test_the_last_of_a_cohort_go_along() -> None:
    """Where most bytes of a cohort go, what is worth little more goes too; what is worth much stays."""
    clock = FakeClock()
    store = small(clock=clock)
    for number in range(256 * 4):
        cost_s = 1.0 if number % 256 < 220 else 2.0 if number % 256 < 250 else 100.0
        store.put(number, number, cost_s=cost_s)
    clock.advance(1.0)
    prices = [price for price, _ in store.sample(2000)]
    store.shrink(10**9, 1.5 * min(prices))
    assert Counter(entry.cost_s for entry in store) == {100.0: 24}
    scattered = small(clock=clock)
    for number in range(256 * 4):
        scattered.put(number, number, cost_s=1.0 if number % 2 else 2.0)
    clock.advance(1.0)
    prices = [price for price, _ in scattered.sample(2000)]
    scattered.shrink(10**9, 1.5 * min(prices))
    assert Counter(entry.cost_s for entry in scattered) == {2.0: 512}


def test_a_sample_is_of_the_living() -> None:
    """A sample gives so many different entries, or all of them."""
    store = small()
    for number in range(1000):
        store.put(number, number)
    for number in range(0, 1000, 2):
        store.pop(number)
    assert len(store.sample(64)) == 64
    assert len(store.sample(5000)) == 500
    assert small().sample(5) == []


def test_holes_are_tidied() -> None:
    """Churn leaves few cohorts: no more than three times what the entries need."""
    store = small(maxsize=5000)
    for number in range(50_000):
        store.put(number, number)
        if number % 3 == 0 and number in store.table:
            next(store.table[number])
    assert len(store._cohorts.rows) <= 3 * (5000 / 256) + 3
    check(store)


# --- relocation -----------------------------------------------------------------------------------------------------


class Thing:
    """A value that tells when it dies, and equals its like."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)

    __hash__ = None  # type: ignore[assignment]


def movable(count: int = 1000) -> Store:
    """A store with small values that nobody else holds."""
    store = small(relocates=True)
    for number in range(count):
        store.put(f"key {number}", [number, f"value {number}"], cost_s=number / 7)
    return store


def test_relocated_entries_are_the_same_but_elsewhere() -> None:
    """Keys, values, costs, hits and expiry survive; the objects are new."""
    clock = FakeClock()
    store = small(relocates=True, clock=clock)
    for number in range(1000):
        store.put(f"key {number}", [number], cost_s=number / 7, ttl_s=None if number % 2 else 1000.0 + number)
    for number in range(0, 1000, 3):
        next(store.table[f"key {number}"])
    before = {e.key: (e.value, e.figures) for e in store}
    hits = store.hits
    store.put("thing", Thing())
    thing = weakref.ref(store.table["thing"].value)
    before["thing"] = (Thing(), (10, 0.0, clock(), 0.0, 0, inf))
    values = [entry.value for entry in store][:10]  # held by us: they come back as they are
    moved = store.relocate()
    assert moved == 10 * 1001
    assert {e.key: (e.value, e.figures) for e in store} == before
    assert store.hits == hits
    assert thing() is None
    assert all(store.table[f"key {number}"].value is value for number, value in enumerate(values))
    check(store)


def test_relocation_has_to_be_allowed() -> None:
    """Without relocates nothing moves."""
    store = small()
    store.put("a", [1])
    assert store.relocate() == 0


def test_what_cannot_be_pickled_stays() -> None:
    """Unpicklable values stay where they are, and do not keep the others from moving."""
    store = movable(300)
    store.put("lock", threading.Lock())
    lock = id(store.table["lock"].value)
    assert store.relocate() == 3000
    assert id(store.table["lock"].value) == lock
    assert len(store) == 301
    check(store)


@pytest.mark.parametrize("change", ["pop", "put", "clear", "put and pop", "hit"])
def test_changes_meanwhile_win(change: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: C901 - five endings
    """A key that is popped, put or cleared while the entries are out does not come back as it was."""
    from memguard.caching.relocation import Crate

    store = movable(600)
    real = Crate.unpack
    done = list[str]()

    def unpack(crate: Crate) -> list[Any]:
        if not done:
            done.append(change)
            if change.startswith("put"):
                store.put("key 3", "new")
            if change.endswith("pop"):
                store.pop("key 3")
            if change == "clear":
                store.clear()
        return real(crate)

    monkeypatch.setattr(Crate, "unpack", unpack)
    if change == "hit":
        real_unused = Crate.unused

        def unused(crate: Crate) -> Any:
            if not done:
                done.append(change)
                next(store.table["key 3"])
            return real_unused(crate)

        monkeypatch.setattr(Crate, "unused", unused)
        hit = id(store.table["key 3"])
    store.relocate()
    assert done
    check(store)
    if change == "put":
        assert store.table["key 3"].value == "new"
    elif change == "clear":
        assert len(store) == 0
    elif change == "hit":
        assert id(store.table["key 3"]) == hit
        assert len(store) == 600
    else:
        assert "key 3" not in store.table
        assert len(store) == 599
