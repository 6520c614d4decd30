"""The decorator: keys, options, expiry, failures, invalidation, and what it does to the function it wraps."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import itertools
import math
import pydoc
import sys
import warnings
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memguard import beat
from memguard.caching import functions
from memguard.caching.entry import ENTRY_BYTES
from memguard.caching.functions import cached
from memguard.caching.mapping import Cache
from memguard.caching.market import market_of
from memguard.reclaimers.caches import adapter_for
from memguard.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every cache decorated in the test."""
    fake = Clock()
    monkeypatch.setattr(functions, "time", SimpleNamespace(monotonic=fake))
    return fake


def noted(calls: list[Any], call: object, result: Any = None) -> Any:
    """The result, after the call was written down."""
    calls.append(call)
    return result


def counting(result: Callable[..., Any] = lambda *args, **kwargs: (args, kwargs)) -> Any:
    """A function that remembers its calls."""

    def function(*args: Any, **kwargs: Any) -> Any:
        function.calls.append((args, kwargs))  # type: ignore[attr-defined]
        return result(*args, **kwargs)

    function.calls = []  # type: ignore[attr-defined]
    return function


# --- keys ---------------------------------------------------------------------------------------------------------


def test_spellings_of_one_call_are_one_key() -> None:
    """Positions, keywords and defaults left out are one call, and the function sees all arguments."""
    calls = []

    @cached
    def f(a: int, /, b: int = 2, *, c: int = 3) -> list[int]:
        calls.append((a, b, c))
        return [a, b, c]

    results = [f(1), f(1, 2), f(1, b=2), f(1, c=3), f(1, 2, c=3), f(1, b=2, c=3)]
    assert all(result is results[0] for result in results)
    assert calls == [(1, 2, 3)]
    assert f.cache_key(1) == f.cache_key(1, c=3, b=2)


SIGNATURES = [
    "", "a", "a=1", "a, b", "a, b=2", "a, /", "a, /, b", "a=1, /, b=2", "*, a", "*, a=1, b", "a, *, b=2", "*args",
    "**kwargs", "*args, **kwargs", "a, *args", "a, b=2, *args", "a, *args, b", "a, *args, b=2, **kwargs",
    "a, /, b=2, *args, c, **kw", "a=1, /, **kwargs",
]  # fmt: skip


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("typed", [False, True])
@settings(max_examples=25)
@given(data=st.data())
def test_any_signature_gives_what_the_function_gives(signature: str, typed: bool, data: st.DataObject) -> None:
    """For any signature and call, the answer is the function's own, at a miss and at a hit, and errors are the same."""
    scope: dict[str, Any] = {}
    exec(f"def f({signature}): return sorted(locals().items())", scope)  # noqa: S102
    plain, wrapped = scope["f"], cached(typed=typed)(scope["f"])
    values = st.sampled_from([0, 1, 2, "a", "b", (), (0,), (1, 2), None, 1.5])
    args = data.draw(st.lists(values, max_size=4))
    kwargs = data.draw(st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), values, max_size=3))
    try:
        expected = plain(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            wrapped(*args, **kwargs)
        return
    assert wrapped(*args, **kwargs) == expected
    assert wrapped(*args, **kwargs) == expected
    assert wrapped.cache_info()[:2] == (1, 1)
    assert wrapped.cache_invalidate(*args, **kwargs)


@given(
    calls=st.lists(
        st.tuples(
            st.lists(st.sampled_from([0, (), (0,), ((0,),), (0, 1), "a", ("a", 0)]), max_size=3),
            st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([0, (), ("a", 0)]), max_size=2),
        ),
        max_size=12,
    )
)
def test_different_calls_never_share_a_key(calls: list[tuple[list[Any], dict[str, Any]]]) -> None:
    """Tuples as arguments, *args and **kwargs are never mistaken for one another."""
    for signature in ("*args, **kwargs", "*args", "x=9, *args, **kwargs", "x=9"):
        scope: dict[str, Any] = {}
        exec(f"def f({signature}): return sorted(locals().items())", scope)  # noqa: S102
        wrapped = cached(scope["f"])
        for args, kwargs in calls:
            try:
                expected = scope["f"](*args, **kwargs)
            except TypeError:
                continue
            assert wrapped(*args, **kwargs) == expected


def test_names_that_the_generated_code_uses() -> None:
    """Parameters may be called like anything that the wrapper's code refers to."""
    scope: dict[str, Any] = {}
    names = "NOW, KeyError, TypeError, id, type, tuple, map, mg, mg_, mg_miss0, mg_value1, cached, self_"
    exec(f"def f({names}, *mg_table, **mg_due): return locals()", scope)  # noqa: S102
    for options in ({}, {"ttl": 5}, {"typed": True, "ttl": 5}):
        wrapped = cached(**options)(scope["f"])  # type: ignore[call-overload]
        args = range(names.count(",") + 3)
        assert wrapped(*args, z=1) == scope["f"](*args, z=1)
        assert wrapped(*args, z=1) is wrapped(*args, z=1)


def test_annotations_are_not_evaluated() -> None:
    """A function whose annotations name nothing that exists can be cached."""

    @cached
    def f(a: Nowhere, b: Absent = 1) -> Missing:  # type: ignore[name-defined]  # noqa: F821
        return a, b

    assert f(1) == (1, 1)


def test_typed_keys_of_one_argument() -> None:
    """typed=True: 1, 1.0 and True are three keys, and no tuple looks like one of them."""
    function = counting(lambda x: x)
    wrapped = cached(typed=True)(function)
    values: list[Any] = [1, 1.0, True, (1, int), ((1, int), tuple)]
    for value in values:
        assert wrapped(value) == value
        assert type(wrapped(value)) is type(value)
    assert len(function.calls) == 5


def test_a_key_function() -> None:
    """key= makes the key of all arguments: what gives one key is one call."""
    function = counting(lambda items, note="": sum(items))
    wrapped = cached(key=lambda items, note="": tuple(items))(function)
    assert [wrapped([1, 2]), wrapped([1, 2], note="x")] == [3, 3]
    assert len(function.calls) == 1
    assert wrapped.cache_key([1, 2]) == (1, 2)
    assert wrapped.cache_invalidate([1, 2], "y")


def test_a_key_function_that_gives_nothing_hashable() -> None:
    """A key= that gives a list is named in the TypeError; a KeyError out of it is the caller's."""
    wrapped: Any = cached(key=lambda items: items, name="sums")(sum)
    with pytest.raises(TypeError, match=r"sums: key= gave something unhashable.*list"):
        wrapped([1])
    looked_up = cached(key=lambda name: {"a": 1}[name])(len)
    assert looked_up("a") == 1
    with pytest.raises(KeyError, match="b"):
        looked_up("b")


def test_unhashable_arguments_are_named() -> None:
    """The TypeError names function, argument and what to do; a nested one is found too."""

    @cached(name="shop.price")
    def price(items: Any, *more: Any, deep: Any = 0, **kwargs: Any) -> None: ...

    text = r"shop\.price: unhashable type: 'list' in argument 'items'.*key="
    with pytest.raises(TypeError, match=text):
        price([])
    for args, kwargs, name in (
        ((1, {}), {}, "more"),
        ((1,), {"deep": (1, (2, set()))}, "deep"),
        ((1,), {"z": []}, "z"),
    ):
        with pytest.raises(TypeError, match=f"in argument '{name}'"):
            price(*args, **kwargs)


# --- what it does to the function -----------------------------------------------------------------------------------


def test_help_shows_the_function() -> None:
    """help() and inspect show name, signature and docstring of the function."""

    @cached(ttl=5)
    def area(width: float, height: float = 1.0) -> float:
        """Width times height."""
        return width * height

    text = pydoc.render_doc(area, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    assert "area(width: 'float', height: 'float' = 1.0) -> 'float'" in text
    assert "Width times height." in text
    assert inspect.isfunction(area)


def test_a_second_decorator_lies_over_the_first() -> None:
    """Stacked caches answer through both, and each has its own numbers."""
    function = counting(lambda x: x)
    inner = cached(maxsize=1)(function)
    outer = cached(inner)
    assert [outer(1), outer(2), outer(1)] == [1, 2, 1]
    assert outer.cache_info()[:2] == (1, 2)
    assert inner.cache_info()[:2] == (0, 2)
    assert outer.__wrapped__ is inner


def test_what_is_called_counts_and_not_what_a_decorator_claims() -> None:
    """A wrapper that adds an argument of its own is called as it is, whatever functools.wraps says."""

    def adding(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any) -> Any:
            return function(*args, "added")

        return inner

    @cached
    @adding
    def f(a: int, extra: str) -> tuple[int, str]:
        return a, extra

    assert [f(1), f(1)] == [(1, "added")] * 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: cached(property(len)),  # type: ignore[call-overload]
            "below it",
        ),
        (lambda: cached(3.5)(len), "integer"),  # type: ignore[call-overload]
        (lambda: cached()(3), "int objects"),  # type: ignore[call-overload]
        (lambda: cached(lambda: (yield)), "generator function"),
    ],
)
def test_what_cannot_be_wrapped(make: Callable[[], object], words: str) -> None:
    """Properties, generator functions and what is no function are refused at decoration, in words."""
    with pytest.raises(TypeError, match=words):
        make()


def test_async_generators_are_refused() -> None:
    """An async generator function is refused at decoration."""
    with pytest.raises(TypeError, match=r"async generator function .*stream"):

        @cached
        async def stream() -> Any:
            yield 1


def test_a_hidden_coroutine_is_refused_at_its_first_call() -> None:
    """A plain function that returns a coroutine says so once called, and leaves no un-awaited coroutine behind."""

    async def fetch(number: int) -> int:
        return number

    def hiding(number: int) -> Any:
        return fetch(number)

    wrapped = cached(hiding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match=r"returned a coroutine.*async def"):
            wrapped(1)
        gc.collect()
    assert wrapped.cache_info().currsize == 0
    for one_shot, kind in ((lambda: (one for one in "ab"), "generator"), (hidden_stream, "async generator")):
        with pytest.raises(TypeError, match=f"returned a {kind}"):
            cached(one_shot)()


def hidden_stream() -> Any:
    """An async generator out of a plain function."""

    async def stream() -> Any:
        yield 1

    return stream()


def test_coroutine_functions_stay_such() -> None:
    """A cached coroutine function is one, is awaited each time, and computes once."""
    calls = []

    @cached
    async def fetch(number: int, *, twice: bool = False) -> int:
        calls.append(number)
        return number * (1 + twice)

    async def main() -> list[int]:
        return [await fetch(1), await fetch(number=1), await fetch(1, twice=True), await fetch(1, twice=True)]

    assert inspect.iscoroutinefunction(fetch)
    assert asyncio.run(main()) == [1, 1, 2, 2]
    assert calls == [1, 1]
    assert fetch.cache_info()[:2] == (2, 2)


def test_mocks_are_plain_functions() -> None:
    """A mock, which has any attribute, is no coroutine function; an AsyncMock is one."""
    plain = mock.MagicMock(return_value=5)
    wrapped: Any = cached(plain)
    assert (wrapped(1), wrapped(1)) == (5, 5)
    plain.assert_called_once_with(1)
    later = mock.AsyncMock(return_value=6)
    awaited: Any = cached(later)

    async def main() -> list[int]:
        return [await awaited(1), await awaited(1)]

    assert asyncio.run(main()) == [6, 6]
    later.assert_awaited_once_with(1)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="markcoroutinefunction came with Python 3.12")
def test_functions_that_are_marked_as_coroutine_functions() -> None:
    """What inspect.markcoroutinefunction has marked is awaited."""

    async def inner(key: int) -> list[int]:
        return [key]

    @cached
    @inspect.markcoroutinefunction  # type: ignore[attr-defined,unused-ignore,untyped-decorator]
    def outer(key: int) -> Any:
        return inner(key)

    async def main() -> None:
        assert await outer(1) is await outer(1)

    assert inspect.iscoroutinefunction(outer)
    asyncio.run(main())


def test_no_cache_for_coroutines() -> None:
    """maxsize=0 awaits the function each time, two at a time too."""
    calls = []

    @cached(maxsize=0)
    async def fetch(things: list[int]) -> int:
        calls.append(things)
        return len(things)

    async def main() -> list[int]:
        return list(await asyncio.gather(fetch([1]), fetch([1])))

    assert asyncio.run(main()) == [1, 1]
    assert len(calls) == 2
    assert fetch.cache_info() == (0, 2, 0, 0)


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"ttl": 0}, ValueError, "ttl=0"),
        ({"ttl": math.nan}, ValueError, "ttl=nan"),
        ({"ttl": -1}, ValueError, "ttl=-1"),
        ({"ttl": "5 parsecs"}, ValueError, "ttl='5 parsecs'"),
        ({"ttl": [5]}, TypeError, "ttl="),
        ({"ttl": True}, TypeError, "ttl=True"),
        ({"max_bytes": 10}, ValueError, "holds no entry"),
        ({"max_bytes": 0}, ValueError, "holds no entry"),
        ({"max_bytes": "5M"}, ValueError, "max_bytes='5M'"),
        ({"max_bytes": 5.5}, TypeError, "max_bytes=5.5"),
        ({"min_bytes": -1}, ValueError, "min_bytes=-1"),
        ({"max_bytes": "1MiB", "min_bytes": "2MiB"}, ValueError, "less than min_bytes='2MiB'"),
        ({"key": "name"}, TypeError, "key='name'"),
        ({"cost": -1.0}, ValueError, "cost=-1"),
        ({"cost": "dear"}, TypeError, "cost='dear'"),
        ({"cost": math.inf}, ValueError, "cost=inf"),
        ({"weight": 0}, ValueError, "weight=0"),
        ({"weight": math.nan}, ValueError, "weight=nan"),
        ({"name": " "}, ValueError, "blank"),
        ({"name": 5}, TypeError, "name=5"),
        ({"negative_ttl": {KeyboardInterrupt: 5}}, TypeError, "KeyboardInterrupt"),
        ({"negative_ttl": {ValueError: 0}}, ValueError, "negative_ttl=0"),
        ({"stale_s": 5}, ValueError, "needs a ttl"),
        ({"stale_s": 5, "ttl": 5}, ValueError, "async"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], error: type[Exception], words: str) -> None:
    """A wrong option is refused where it is written, with its name and value."""
    with pytest.raises(error, match=words):
        cached(**options)(len)


def test_bounded_in_bytes() -> None:
    """max_bytes holds after every call, and a value that never fits is given and not kept."""
    wrapped: Any = cached(max_bytes="64KiB")(bytearray)
    for number in range(100):
        wrapped(5000 + number)
        assert wrapped.cache_info().bytes <= 65536
    assert wrapped.cache_info().currsize > 5
    assert len(wrapped(100_000)) == 100_000
    assert len(wrapped(100_000)) == 100_000
    assert wrapped.cache_info().bytes <= 65536


def test_bytes_are_accounted() -> None:
    """cache_info().bytes counts values, keys and entries, and 0 when empty; it leaves the four as they are."""
    wrapped = cached(lambda key: bytearray(10_000))
    assert wrapped.cache_info().bytes == 0
    wrapped("k" * 5000)
    info = wrapped.cache_info()
    assert 15_000 + ENTRY_BYTES < info.bytes < 17_000
    assert len(info) == 4
    assert repr(info).startswith("Counts(hits=0, misses=1, maxsize=None, currsize=1, bytes=")
    wrapped.cache_clear()
    assert wrapped.cache_info().bytes == 0


def test_it_signs_up_at_the_market() -> None:
    """A cached function is a shelf under its qualified name as long as it lives; pressure evicts from it."""
    roster = Roster()
    wrapped = cached(roster=roster)(lambda number: bytearray(1000))
    market = market_of(roster)
    (shelf,) = market.shelves
    assert shelf.name == f"{__name__}.{wrapped.__qualname__}"
    for number in range(50):
        wrapped(number)
    assert market.reclaim(20_000) >= 20_000
    assert 30 <= wrapped.cache_info().currsize <= 40
    del wrapped, shelf
    gc.collect()
    assert not market.shelves


def test_what_signs_up_by_itself_is_not_counted_twice() -> None:
    """guard.cache() of a cached function, method or Cache is harmless: it lists one that gives nothing, and why."""

    class Shop:
        @cached
        def price(self, item: int) -> list[int]:
            return [item]

    shop = Shop()
    shop.price(1)
    ours: list[Any] = [Shop.price, shop.price, cached(lambda: [1]), Cache(5)]
    for obj in ours:
        reclaimer: Any
        reclaimer, _ = adapter_for(obj, name="again")
        assert reclaimer.size() == 0
        assert not hasattr(reclaimer, "shrink")
        assert reclaimer.reclaim(1 << 30) == 0
        assert "by itself" in repr(reclaimer)
    assert Shop.price.cache_info().currsize == 1


def test_a_given_cost_takes_the_place_of_the_measured() -> None:
    """cost= as a number or a callable is what the store reckons with; a callable that gives nonsense is named."""
    for cost, expected in ((2.5, 2.5), (lambda value: value * 3.0, 12.0)):
        roster = Roster()
        wrapped = cached(cost=cost, roster=roster)(lambda: 4)
        wrapped()
        (shelf,) = market_of(roster).shelves
        assert [entry.cost_s for entry in shelf] == [expected]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="cost gave nan"):
        cached(cost=lambda value: math.nan)(lambda: 4)()


# --- time -----------------------------------------------------------------------------------------------------------


def test_results_expire(clock: Clock) -> None:
    """After its ttl a result is computed anew; until then it is not."""
    numbers = itertools.count()
    wrapped = cached(ttl="10s")(lambda key: next(numbers))
    assert [wrapped("a"), wrapped("a")] == [0, 0]
    clock.now += 9.5
    assert [wrapped("a"), wrapped("b")] == [0, 1]
    clock.now += 1
    assert [wrapped("a"), wrapped("b"), wrapped("a")] == [2, 1, 2]
    assert wrapped.cache_info()[:2] == (4, 3)


def test_results_expire_by_the_guards_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a guard's coarse clock, hits ask no other; after it has passed the ttl, the result goes."""
    numbers = itertools.count()
    for where in ("module", "local"):
        function = (lambda key: next(numbers)) if where == "local" else next_of
        wrapped = cached(ttl=10)(function)
        monkeypatch.setattr(beat, "NOW", clock.now)
        first = wrapped(numbers)
        clock.now += 11
        assert wrapped(numbers) == first
        monkeypatch.setattr(beat, "NOW", clock.now)
        assert wrapped(numbers) == first + 1


def next_of(numbers: itertools.count[int]) -> int:
    """A function of the module, with a ttl its wrapper lies beside the coarse clock."""
    return next(numbers)


def test_each_value_has_its_ttl(clock: Clock) -> None:
    """A callable ttl says for each result how long; None is for ever, 0 or less is not at all."""
    calls: list[Any] = []
    wrapped = cached(ttl=lambda value: value)(lambda value: noted(calls, value, value))
    for value in (5, None, 0, -1, math.inf):
        wrapped(value)
    clock.now += 6
    calls.clear()
    for value in (5, None, 0, -1, math.inf):
        wrapped(value)
    assert calls == [5, 0, -1]
    with pytest.raises(ValueError, match="ttl gave nan"):
        wrapped(math.nan)
    with pytest.raises(ValueError, match="ttl gave '5'"):
        wrapped("5")


def test_none_expires_sooner(clock: Clock) -> None:
    """negative_ttl as a duration holds for results of None alone."""
    calls: list[int] = []
    wrapped = cached(ttl=100, negative_ttl="5s")(calls.append)
    kept = cached(negative_ttl=5)(lambda value: noted(calls, value, value))
    wrapped(1)
    kept(2)
    clock.now += 6
    wrapped(1)
    kept(2)
    assert calls == [1, 2, 1]


def test_failures_are_kept_when_asked(clock: Clock) -> None:
    """A kept exception is raised again without a call, each time as a fresh copy, until its time is over."""
    calls = []

    class Gone(LookupError):
        pass

    def find(name: str) -> str:
        calls.append(name)
        if name == "lost":
            raise Gone(name)
        raise ValueError(name)

    wrapped = cached(negative_ttl={LookupError: 5})(find)
    caught = []
    for _ in range(3):
        with pytest.raises(Gone) as info:
            wrapped("lost")
        caught.append(info.value)
    assert calls == ["lost"]
    assert [error.args for error in caught] == [("lost",)] * 3
    assert len({id(error) for error in caught}) == 3
    assert wrapped.cache_info()[:2] == (2, 1)
    for _ in range(2):
        with pytest.raises(ValueError, match="other"):
            wrapped("other")
    assert calls == ["lost", "other", "other"]
    clock.now += 6
    with pytest.raises(Gone):
        wrapped("lost")
    assert calls[-1] == "lost"
    assert wrapped.cache_invalidate("lost")
    assert not wrapped.cache_invalidate("lost")
    with pytest.raises(Gone):
        wrapped("lost")
    assert len(calls) == 5


def test_a_kept_failure_holds_no_frames() -> None:
    """What was local where the exception was raised dies, though the exception is kept."""

    class Big:
        pass

    seen = []

    @cached(negative_ttl={ValueError: 60})
    def fail() -> None:
        big = Big()
        seen.append(weakref.ref(big))
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            fail()
    gc.collect()
    assert len(seen) == 1
    assert seen[0]() is None


def test_a_failure_that_does_not_copy_is_not_kept() -> None:
    """An exception whose class refuses a copy is raised each time by the function itself."""

    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one}{two}")

    function = counting(lambda: (_ for _ in ()).throw(Odd(1, 2)))
    wrapped = cached(negative_ttl={Odd: 60})(function)
    for _ in range(2):
        with pytest.raises(Odd):
            wrapped()
    assert len(function.calls) == 2


# --- by hand --------------------------------------------------------------------------------------------------------


def test_one_key_is_invalidated() -> None:
    """cache_invalidate drops one entry, however the call is spelt, and says whether there was one."""
    function = counting(lambda a, b=2: a)

    @cached
    def wrapped(a: int, b: int = 2) -> Any:
        return function(a, b)

    wrapped(1)
    wrapped(5)
    assert wrapped.cache_invalidate(1, b=2) is True
    assert wrapped.cache_invalidate(1) is False
    assert wrapped.cache_invalidate(9) is False
    wrapped(1)
    wrapped(5)
    assert [args for args, _ in function.calls] == [(1, 2), (5, 2), (1, 2)]
    with pytest.raises(TypeError):
        wrapped.cache_invalidate()  # type: ignore[call-arg]


@pytest.mark.parametrize("forget", ["cache_invalidate", "cache_clear"])
@pytest.mark.parametrize("coalesce", [True, False])
def test_a_result_that_was_under_way_is_not_kept(forget: str, coalesce: bool) -> None:
    """What began before an invalidation or a clear is given to its caller and not kept."""
    state = ["old"]

    @cached(coalesce=coalesce)
    def read(key: str) -> str:
        value = state[0]
        if value == "old":
            state[0] = "new"
            if forget == "cache_clear":
                read.cache_clear()
            else:
                read.cache_invalidate(key)
        return value

    assert read("a") == "old"
    assert read("a") == "new"
    assert read("a") == "new"
    assert read.cache_info().hits == 1


def test_other_keys_under_way_are_kept() -> None:
    """Invalidating one key, and many at once, loses no later result."""

    @cached
    def read(key: int) -> int:
        read.cache_invalidate(key + 1)
        return key

    assert [read(1), read(1)] == [1, 1]
    assert read.cache_info()[:2] == (1, 1)
    for key in range(1000):
        read.cache_invalidate(key)
    read(1)
    read(1)
    assert read.cache_info()[:2] == (2, 2)


def test_a_cached_function_that_dies_leaves_nothing() -> None:
    """Whatever the options, values go with the function at once, and no name stays beside the coarse clock."""

    class Value:
        pass

    before = set(vars(beat))
    gc.disable()
    try:
        for options in ({}, {"ttl": 5}, {"coalesce": False}, {"maxsize": 5, "max_bytes": "1MiB"}):
            wrapped: Any = cached(**options)(lambda number: Value())
            value = weakref.ref(wrapped(1))
            assert value() is not None
            del wrapped
            assert value() is None
    finally:
        gc.enable()
    assert set(vars(beat)) == before


def test_a_local_function_that_knows_itself_goes() -> None:
    """A recursive function with a ttl, local to another, is collected: the coarse clock's module does not hold it."""

    def make() -> Any:
        @cached(ttl=60)
        def fib(number: int) -> int:
            return number if number < 2 else fib(number - 1) + fib(number - 2)

        assert fib(20) == 6765
        return weakref.ref(fib)

    ref = make()
    gc.collect()
    assert ref() is None


def test_deep_recursion() -> None:
    """A recursion goes half as deep as without a cache, as under lru_cache: one step is two calls."""
    depth = (sys.getrecursionlimit() - len(inspect.stack(0))) // 2 - 40
    options: list[dict[str, Any]] = [{}, {"coalesce": False}, {"ttl": 60}, {"maxsize": 10000, "typed": True}]
    for each in options:
        decorator: Callable[[Any], Any] = cached(**each)

        @decorator
        def count(number: int) -> int:
            return 0 if number == 0 else 1 + int(count(number - 1))

        assert count(depth) == depth

        class Counter:
            @decorator
            def count(self, number: int) -> int:
                return 0 if number == 0 else 1 + int(self.count(number - 1))

        assert Counter().count(depth - 2) == depth - 2


@pytest.mark.parametrize("kind", [RecursionError, MemoryError])
def test_errors_that_are_the_callers_own_are_not_kept(kind: type[Exception]) -> None:
    """A stack too deep and memory too short say nothing about the key, whatever negative_ttl names."""
    errors: list[Exception] = [kind()]

    @cached(negative_ttl={Exception: 60})
    def find(key: str) -> str:
        if errors:
            raise errors.pop()
        return key

    with pytest.raises(kind):
        find("a")
    assert find("a") == "a"


def test_a_recursion_that_is_too_deep_leaves_nothing_behind() -> None:
    """After a RecursionError the same call works where the stack allows it."""

    @cached(negative_ttl={Exception: 60})
    def count(number: int) -> int:
        return 0 if number == 0 else 1 + int(count(number - 1))

    deep = sys.getrecursionlimit()
    for _ in range(3):
        with pytest.raises(RecursionError):
            count(deep)
    assert count(50) == 50
    sys.setrecursionlimit(4 * deep)
    try:
        assert count(deep) == deep
    finally:
        sys.setrecursionlimit(deep)
