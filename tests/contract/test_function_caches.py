"""What every cache of a function promises: functools.lru_cache is the reference, ours keep the same promises.

Where CPython's own tests assert the order of LRU, these assert what any bounded cache owes.
"""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import pickle
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from memguard.caching.functions import cached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Decorator = Callable[[Any], Any]
    Maker = Callable[..., Decorator]


def lru(maxsize: int | None = 128, *, typed: bool = False) -> Decorator:
    """functools.lru_cache, the reference."""
    return functools.lru_cache(maxsize=maxsize, typed=typed)


def ours(maxsize: int | None = None, *, typed: bool = False) -> Decorator:
    """Ours as it is."""
    return cached(maxsize=maxsize, typed=typed)


def uncoalesced(maxsize: int | None = None, *, typed: bool = False) -> Decorator:
    """Ours, each thread on its own."""
    return cached(maxsize=maxsize, typed=typed, coalesce=False)


def expiring(maxsize: int | None = None, *, typed: bool = False) -> Decorator:
    """Ours with a ttl."""
    return cached(maxsize=maxsize, typed=typed, ttl="1h")


def in_bytes(maxsize: int | None = None, *, typed: bool = False) -> Decorator:
    """Ours, bounded in bytes."""
    return cached(maxsize=maxsize, typed=typed, max_bytes="64MiB")


MAKERS = [lru, ours, uncoalesced, expiring, in_bytes]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def cache(request: pytest.FixtureRequest) -> Maker:
    """A cache decorator that takes maxsize and typed."""
    maker: Maker = request.param
    return maker


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads switch as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def module_function(number: int) -> int:
    """Doubled."""
    return 2 * number


lru_module_function = lru()(module_function)
ours_module_function = ours()(module_function)
for _name in ("lru", "ours"):
    globals()[f"{_name}_module_function"].__qualname__ = f"{_name}_module_function"


def noted(calls: list[Any], call: object, result: Any = None) -> Any:
    """The result, after the call was written down."""
    calls.append(call)
    return result


class Counting:
    """A hashable that counts how often it is hashed and compared."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.hashed = 0

    def __hash__(self) -> int:
        self.hashed += 1
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counting) and self.value == other.value


def test_calls_are_counted(cache: Maker) -> None:
    """Hits, misses, limit and size are exact, and the four unpack."""

    @cache(maxsize=20)
    def add(a: int, b: int) -> int:
        return 3 * a + b

    info = add.cache_info()
    assert info == (0, 0, 20, 0)
    assert (info.hits, info.misses, info.maxsize, info.currsize) == (0, 0, 20, 0)
    for number in range(1000):
        assert add(number % 4, (number // 4) % 4) == 3 * (number % 4) + (number // 4) % 4
    hits, misses, maxsize, currsize = add.cache_info()
    assert (hits, misses, maxsize, currsize) == (984, 16, 20, 16)


def test_a_clear_forgets_all(cache: Maker) -> None:
    """cache_clear drops entries and counts."""
    calls: list[int] = []
    square = cache()(lambda number: noted(calls, number, number * number))
    assert [square(2), square(2)] == [4, 4]
    square.cache_clear()
    assert square.cache_info()[:2] == (0, 0)
    assert square.cache_info().currsize == 0
    assert square(2) == 4
    assert calls == [2, 2]


def test_the_function_stays_reachable(cache: Maker) -> None:
    """__wrapped__ is the function, which passes the cache by."""

    def plain(number: int) -> int:
        return number

    wrapped = cache()(plain)
    assert wrapped.__wrapped__ is plain
    assert wrapped.__wrapped__(3) == 3
    assert wrapped.cache_info().misses == 0


def test_it_looks_like_the_function(cache: Maker) -> None:
    """Name, module, docstring, annotations, attributes and signature are the function's."""

    def plain(a: int, /, b: str = "b", *args: float, c: bool = True, **kwargs: bytes) -> None:
        """What plain does."""

    plain.note = "kept"  # type: ignore[attr-defined]
    wrapped = cache()(plain)
    for name in (*functools.WRAPPER_ASSIGNMENTS, "note"):
        assert getattr(wrapped, name) == getattr(plain, name)
    assert inspect.signature(wrapped) == inspect.signature(plain)
    assert "What plain does." in (inspect.getdoc(wrapped) or "")


def test_no_cache_still_counts(cache: Maker) -> None:
    """maxsize=0 calls each time, counts misses, and hashes nothing; negative sizes are the same."""
    for size in (0, -10):
        calls: list[object] = []
        wrapped = cache(maxsize=size)(lambda thing, calls=calls: noted(calls, thing, 7))
        assert [wrapped([]) for _ in range(5)] == [7] * 5
        assert len(calls) == 5
        assert wrapped.cache_info() == (0, 5, 0, 0)


def test_one_entry(cache: Maker) -> None:
    """maxsize=1 keeps the last key only when another came."""
    calls: list[int] = []
    wrapped = cache(maxsize=1)(lambda number: noted(calls, number, number))
    for number in (1, 1, 2, 2, 1):
        assert wrapped(number) == number
    assert calls == [1, 2, 1]
    assert wrapped.cache_info() == (2, 3, 1, 1)


def test_a_small_cache_keeps_what_is_hit(cache: Maker) -> None:
    """Two keys in turn, and one new key now and then, fit two entries without losing the hot key."""
    calls: list[int] = []
    wrapped = cache(maxsize=2)(lambda number: noted(calls, number, number * 10))
    for number in (7, 9, 7, 9, 7, 9, 8, 8, 8, 9, 9, 9, 8, 8, 8, 7):
        assert wrapped(number) == number * 10
    assert wrapped.cache_info() == (12, 4, 2, 2)
    assert calls == [7, 9, 8, 7]


def test_never_more_than_maxsize(cache: Maker) -> None:
    """However many keys come, the limit holds, and every call is answered right."""
    wrapped = cache(maxsize=7)(lambda number: number + 1)
    for number in range(200):
        assert wrapped(number * number % 31) == number * number % 31 + 1
        assert wrapped.cache_info().currsize <= 7
    info = wrapped.cache_info()
    assert info.hits + info.misses == 200


def test_no_limit(cache: Maker) -> None:
    """maxsize=None keeps all, and recursion fills it."""

    @cache(maxsize=None)
    def fib(number: int) -> int:
        return number if number < 2 else int(fib(number - 1) + fib(number - 2))

    assert [fib(number) for number in range(16)] == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610]
    assert fib.cache_info() == (28, 16, None, 16)
    fib.cache_clear()
    assert fib.cache_info() == (0, 0, None, 0)


@pytest.mark.parametrize("maxsize", [3, 8, 64])
def test_recursion_within_a_limit(cache: Maker, maxsize: int) -> None:
    """A recursive function that goes deeper than the limit takes a call a number, and not exponential time."""

    @cache(maxsize=maxsize)
    def fib(number: int) -> int:
        return number if number < 2 else int(fib(number - 1) + fib(number - 2))

    assert fib(150) == 9969216677189303386214405760200
    assert fib.cache_info().misses <= 160


def test_keywords(cache: Maker) -> None:
    """Keyword calls are cached too."""

    @cache()
    def fib(n: int) -> int:
        return n if n < 2 else int(fib(n=n - 1) + fib(n=n - 2))

    assert [fib(n=number) for number in range(16)][-1] == 610
    assert fib.cache_info()[:2] == (28, 16)


def test_keyword_order_is_seen(cache: Maker) -> None:
    """**kwargs reach the function in the caller's order (PEP 468)."""
    wrapped = cache(maxsize=10)(lambda **kwargs: list(kwargs.items()))
    assert wrapped(a=1, b=2) == [("a", 1), ("b", 2)]
    assert wrapped(b=2, a=1) == [("b", 2), ("a", 1)]


def test_types_count_when_asked(cache: Maker) -> None:
    """typed=True tells 3 from 3.0, positional or by keyword."""
    square = cache(maxsize=None, typed=True)(lambda x: x * x)
    assert type(square(3)) is int
    assert type(square(3.0)) is float
    assert type(square(x=3)) is int
    assert type(square(x=3.0)) is float
    assert square.cache_info().currsize in {2, 4}  # lru_cache keeps f(3) and f(x=3) apart


def test_types_count_in_many_arguments(cache: Maker) -> None:
    """typed=True looks at every argument, *args and **kwargs among them."""
    kinds = cache(maxsize=None, typed=True)(lambda *args, **kwargs: [type(one) for one in (*args, *kwargs.values())])
    for args in ((1, 2.0), (1.0, 2), (True, 2)):
        assert kinds(*args, k=args[0]) == [type(args[0]), type(args[1]), type(args[0])]


def test_exceptions_pass_and_are_not_kept(cache: Maker) -> None:
    """What the function raises goes on unchanged, each time anew; each is a miss."""
    error = KeyError("mine")

    @cache()
    def fail(number: int) -> int:
        raise error

    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            fail(1)
        assert caught.value is error
        assert caught.value.__context__ is None
    assert fail.cache_info()[:2] == (0, 2)
    assert fail.cache_info().currsize == 0


def test_index_errors_pass(cache: Maker) -> None:
    """An IndexError out of the function is not taken for the cache's own."""
    words = ["a", "b"]
    wrapped = cache(maxsize=10)(lambda number: words[number])
    assert wrapped(0) == "a"
    with pytest.raises(IndexError):
        wrapped(15)


def test_unhashable_arguments(cache: Maker) -> None:
    """An unhashable argument is a TypeError that says so, and calls nothing."""
    wrapped = cache()(lambda a, b=0: pytest.fail("called"))
    with pytest.raises(TypeError, match="unhashable type"):
        wrapped([])
    with pytest.raises(TypeError, match="unhashable type"):
        wrapped(1, b=({},))
    assert wrapped.cache_info().currsize == 0


def test_hash_once_a_hit(cache: Maker) -> None:
    """A hit hashes each argument once."""
    wrapped = cache(maxsize=10)(lambda a, b: a.value * 3 + b)
    five = Counting(5)
    wrapped(five, 1)
    before = five.hashed
    assert wrapped(five, 1) == 16
    assert five.hashed == before + 1
    assert wrapped.cache_info()[:2] == (1, 1)


class Moody:
    """A key whose hash or comparison raises on demand."""

    def __init__(self) -> None:
        self.hash_error: Exception | None = None
        self.eq_error: Exception | None = None

    def __hash__(self) -> int:
        if self.hash_error is not None:
            raise self.hash_error
        return 7

    def __eq__(self, other: object) -> bool:
        if self.eq_error is not None:
            raise self.eq_error
        return self is other


@pytest.mark.parametrize("error", [TypeError("mine"), KeyError("mine"), ZeroDivisionError("mine")])
def test_errors_of_keys_pass(cache: Maker, error: Exception) -> None:
    """What __hash__ or __eq__ of an argument raises goes on unchanged; the cache works on."""
    calls: list[object] = []
    wrapped = cache()(lambda key: noted(calls, key, len(calls) + 1))
    first, second = Moody(), Moody()
    wrapped(first)
    second.hash_error = error
    with pytest.raises(type(error)) as caught:
        wrapped(second)
    assert caught.value is error
    second.hash_error, first.eq_error, second.eq_error = None, error, error
    with pytest.raises(type(error)) as caught:
        wrapped(second)
    assert caught.value is error
    assert calls == [first]
    first.eq_error = second.eq_error = None
    assert [wrapped(first), wrapped(second), wrapped(second)] == [1, 2, 2]
    assert wrapped.cache_info().currsize == 2


def test_reentrant_equality(cache: Maker) -> None:
    """An __eq__ that calls the function again neither hangs nor breaks the limit."""

    @cache(maxsize=10)
    def wrapped(key: object) -> object:
        return key

    class Double:
        def __init__(self, number: int) -> None:
            self.number = number

        def __hash__(self) -> int:
            return hash(self.number)

        def __eq__(self, other: object) -> bool:
            wrapped(self.number + 100)
            return isinstance(other, Double) and self.number == other.number

    for number in range(30):
        wrapped(Double(number % 6))
    assert wrapped.cache_info().currsize <= 10


def test_a_reentrant_call_of_the_same_key(cache: Maker) -> None:
    """A function that asks for its own key while computing it computes, and does not wait for itself."""
    deep: list[int] = []

    @cache(maxsize=10)
    def wrapped(number: int) -> int:
        if not deep:
            deep.append(number)
            return int(wrapped(number))
        return 42

    assert wrapped(1) == 42
    assert wrapped(1) == 42
    assert wrapped.cache_info().currsize == 1


def test_threads_count_exactly(cache: Maker, quick_switches: None) -> None:
    """Threads with a key each: as many misses as keys, and all other calls are hits."""
    threads, rounds = 5, 11
    wrapped = cache(maxsize=threads * rounds)(lambda a, b: 3 * a + b)
    start = threading.Barrier(threads)
    wrong: list[int] = []

    def work(key: int) -> None:
        start.wait(10)
        wrong.extend(key for _ in range(rounds) if wrapped(key, 0) != 3 * key)

    run(*(lambda key=key: work(key) for key in range(threads)))
    assert not wrong
    hits, misses, _, currsize = wrapped.cache_info()
    assert (hits, misses, currsize) == (threads * rounds - threads, threads, threads)


def test_clears_from_another_thread(cache: Maker, quick_switches: None) -> None:
    """Clearing while others call gives right answers, and an empty cache in the end."""
    wrapped = cache(maxsize=64)(lambda a, b: 3 * a + b)
    wrong: list[int] = []

    def work(key: int) -> None:
        wrong.extend(key for _ in range(50) if wrapped(key, 0) != 3 * key)

    def clear() -> None:
        for _ in range(50):
            wrapped.cache_clear()

    run(clear, *(lambda key=key: work(key) for key in range(4)))
    assert not wrong
    wrapped.cache_clear()
    assert wrapped.cache_info()[:2] == (0, 0)
    assert wrapped.cache_info().currsize == 0


def test_many_threads_in_a_small_cache(cache: Maker, quick_switches: None) -> None:
    """Evictions under threads keep the limit and the right answers."""
    wrapped = cache(maxsize=3)(lambda number: number * 10)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for number in range(300):
            key = number * (seed + 3) % 11
            if wrapped(key) != key * 10:
                wrong.append(key)

    run(*(lambda seed=seed: work(seed) for seed in range(4)))
    assert not wrong
    assert wrapped.cache_info().currsize == 3


def run(*works: Callable[[], object]) -> None:
    """Each in a thread of its own; all end."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a thread did not end"


@pytest.mark.parametrize("name", ["lru_module_function", "ours_module_function"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_pickles_by_name(name: str, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickled cached function is the same function again, found by its qualified name."""
    function = globals()[name]
    monkeypatch.setitem(sys.modules, function.__module__, sys.modules[__name__])
    assert pickle.loads(pickle.dumps(function, protocol)) is function  # noqa: S301 - our own bytes


def test_copies_are_itself(cache: Maker) -> None:
    """Copy and deepcopy give the same function, cache and all."""
    wrapped = cache()(module_function)
    assert copy.copy(wrapped) is wrapped
    assert copy.deepcopy(wrapped) is wrapped


def test_it_can_be_weakly_referenced(cache: Maker) -> None:
    """A cached function that nobody holds goes, and so does what it kept."""

    class Value:
        pass

    wrapped = cache()(lambda number: Value())
    value, function = weakref.ref(wrapped(1)), weakref.ref(wrapped)
    assert function() is wrapped
    del wrapped
    gc.collect()
    assert function() is None
    assert value() is None


def test_dropped_values_die(cache: Maker) -> None:
    """A clear and an eviction let go of values at once."""

    class Value:
        pass

    wrapped = cache(maxsize=1)(lambda number: Value())
    first = weakref.ref(wrapped(1))
    second = weakref.ref(wrapped(2))
    assert first() is None
    wrapped.cache_clear()
    assert second() is None


def test_methods(cache: Maker) -> None:
    """As a method it binds; two instances have two results."""

    class Shop:
        def __init__(self, factor: int) -> None:
            self.factor = factor
            self.calls = 0

        @cache()
        def price(self, count: int) -> int:
            self.calls += 1
            return self.factor * count

    two, three = Shop(2), Shop(3)
    for _ in range(3):
        assert [two.price(5), three.price(5), Shop.price(two, 5)] == [10, 15, 10]
    assert [two.calls, three.calls] == [1, 1]
    assert Shop.price.cache_info()[:2] == (7, 2)
    assert two.price.cache_info() == three.price.cache_info() == Shop.price.cache_info()


def test_static_and_class_methods(cache: Maker) -> None:
    """Below staticmethod and classmethod it is called through class and instance."""

    class Shop:
        @staticmethod
        @cache()
        def double(number: int) -> int:
            return 2 * number

        @classmethod
        @cache()
        def named(cls, number: int) -> tuple[str, int]:
            return cls.__name__, number

    class Branch(Shop):
        pass

    for _ in range(2):
        assert [Shop.double(1), Shop().double(1), Branch.double(1)] == [2, 2, 2]
        assert [Shop.named(1), Shop().named(1), Branch.named(1)] == [("Shop", 1), ("Shop", 1), ("Branch", 1)]
    assert Shop.double.cache_info()[:2] == (5, 1)
    assert Shop.named.cache_info()[:2] == (4, 2)


def test_wrong_options(cache: Maker) -> None:
    """A maxsize that is no number is a TypeError."""
    for wrong in ("1", 1.5, [1]):
        with pytest.raises(TypeError):
            cache(maxsize=wrong)


def test_parameters_are_shown(cache: Maker) -> None:
    """cache_parameters gives the options as a new dict each time."""
    wrapped = cache(maxsize=10, typed=True)(module_function)
    shown = wrapped.cache_parameters()
    assert shown | {"maxsize": 10, "typed": True} == shown
    shown["maxsize"] = 3
    assert wrapped.cache_parameters()["maxsize"] == 10


def test_bare(cache: Maker) -> None:
    """Both decorators are taken bare too."""
    bare: Any = functools.lru_cache if cache is lru else cached
    wrapped = bare(module_function)
    assert [wrapped(2), wrapped(2)] == [4, 4]
    assert wrapped.cache_info()[:2] == (1, 1)


def test_wrong_calls(cache: Maker) -> None:
    """A call that does not fit the function is a TypeError that names what is missing."""

    @cache()
    def wrapped(a: int, *, b: int) -> int:
        return a + b

    for args, kwargs in (((), {"b": 1}), ((1,), {}), ((1, 2), {"b": 1}), ((1,), {"b": 1, "c": 2})):
        with pytest.raises(TypeError, match=r"wrapped\(\)"):
            wrapped(*args, **kwargs)
    assert wrapped(1, b=2) == 3


def test_callables_of_all_kinds(cache: Maker) -> None:
    """Built-in functions, partials, bound methods, classes and callable objects can be cached."""

    class Adder:
        def __init__(self, start: int = 0) -> None:
            self.start = start

        def __call__(self, number: int) -> int:
            return self.start + number

        def plus(self, number: int) -> int:
            return self.start + number

    for function, expected in (
        (abs, 3),
        (functools.partial(pow, 3), 27),
        (Adder(2), 5),
        (Adder(4).plus, 7),
    ):
        wrapped = cache()(function)
        assert [wrapped(3), wrapped(3)] == [expected, expected]
        assert wrapped.cache_info()[:2] == (1, 1)
        assert wrapped.__wrapped__ is function or wrapped.__wrapped__ == function
    made = cache()(Adder)
    assert made(1) is made(1)
