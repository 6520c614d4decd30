"""Methods: instances count by identity, are kept alive by nobody here, and take their results with them."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import sys
import threading
import weakref
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from memguard.caching.functions import cached
from memguard.caching.instances import Instances
from memguard.caching.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable


class Plain:
    def __init__(self, factor: int = 1) -> None:
        self.factor = factor

    @cached
    def times(self, number: int = 2, *more: int, sign: int = 1) -> list[int]:
        return [self.factor * number * sign, *more]

    @cached
    def nothing(self) -> list[int]:
        return [self.factor]

    @property
    @cached
    def size(self) -> list[int]:
        return [self.factor]


class Slotted:
    __slots__ = ("__weakref__",)

    @cached
    def times(self, number: int = 2) -> list[int]:
        return [number]


class Unhashable(Plain):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


@dataclass
class Value:
    factor: int = 1

    @cached
    def times(self, number: int = 2) -> list[int]:
        return [self.factor * number]


class Tight:
    __slots__ = ()

    @cached
    def times(self, number: int = 2) -> list[int]:
        return [number]


class TightList:
    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    @cached
    def times(self, number: int = 2) -> list[int]:
        return [number]


class Pair(NamedTuple):
    left: int

    @cached
    def times(self, number: int = 2) -> list[int]:
        return [self.left * number]


@dataclass(frozen=True, slots=True)
class Point:
    left: int

    @cached
    def times(self, number: int = 2) -> list[int]:
        return [self.left * number]


class Number(int):
    @cached
    def times(self, number: int = 2) -> list[int]:
        return [self * number]


class Code(IntEnum):
    ONE = 1
    FIVE = 5

    @cached
    def times(self, number: int = 2) -> list[int]:
        return [self * number]


def test_hash_and_comparison_of_instances_are_never_asked() -> None:
    """Not even at the first call: what they raise does not matter."""

    class Odd:
        def __hash__(self) -> int:
            raise AssertionError("hashed")

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        @cached
        def get(self, number: int = 1) -> list[int]:
            return [number]

        @cached(ttl=60, typed=True)
        def nothing(self) -> list[int]:
            return [0]

    odd = Odd()
    assert odd.get() is odd.get(1)
    assert odd.nothing() is odd.nothing()
    assert Odd.get.cache_invalidate(odd)


@pytest.mark.parametrize("kind", [Plain, Slotted, Unhashable, Value])
def test_an_instance_dies_and_takes_its_results(kind: Any) -> None:
    """No instance is kept alive; its entries go with it, at once, and the others' stay."""
    kind.times.cache_clear()
    one, other = kind(), kind()
    assert one.times(3) is one.times(number=3)
    assert one.times(3) is not other.times(3)
    one.times(4)
    assert kind.times.cache_info().currsize == 3
    ref = weakref.ref(one)
    gc.disable()
    try:
        del one
        assert ref() is None
    finally:
        gc.enable()
    assert kind.times.cache_info().currsize == 1
    del other
    assert kind.times.cache_info().currsize == 0
    assert kind.times.cache_info().bytes == 0


def test_values_die_with_the_instance() -> None:
    """What was cached for an instance is let go of when it dies."""

    class Result:
        pass

    class Owner:
        @cached
        def make(self) -> Result:
            return Result()

    owner = Owner()
    result = weakref.ref(owner.make())
    assert result() is owner.make()
    del owner
    gc.collect()
    assert result() is None


@pytest.mark.parametrize("kind", [Tight, TightList])
def test_an_instance_whose_end_cannot_be_seen_is_refused(kind: Callable[[], Any]) -> None:
    """Without weak references there is a TypeError that names the class and two ways out, at each call."""
    for _ in range(2):
        with pytest.raises(
            TypeError, match=r"(Tight|TightList) objects cannot be weakly referenced.*__weakref__.*key="
        ):
            kind().times()


@pytest.mark.parametrize("kind", [Pair, Point, Number, Code])
def test_values_that_cannot_be_weakly_referenced_count_by_equality(kind: Any) -> None:
    """Instances of tuples, numbers and slotted frozen dataclasses share by equality, and are fast hits."""
    kind.times.cache_clear()
    results = [kind(5).times(3), kind(1).times(3)]
    assert results == [[15], [3]]
    assert kind(5).times(3) is results[0]
    assert kind(1).times(number=3) is results[1]
    assert kind.times.cache_info()[:2] == (2, 2)
    assert not kind.times.cache_invalidate(kind(5), 4)
    assert kind.times.cache_invalidate(kind(5), 3)
    assert kind(5).times(3) == [15]
    assert kind.times.cache_info()[:2] == (2, 3)


def test_values_beside_instances_that_die() -> None:
    """A class of values shares by equality also where instances of a subclass count by identity."""

    class Low:
        __slots__ = ("number",)

        def __init__(self, number: int) -> None:
            self.number = number

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Low) and self.number == other.number

        def __hash__(self) -> int:
            return hash(self.number)

        @cached
        def times(self, number: int) -> list[int]:
            return [self.number * number]

    class High(Low):
        pass

    assert Low(2).times(3) is Low(2).times(3)
    assert High(9).times(3) == [27]
    one, other = High(2), High(2)
    assert one.times(3) is one.times(3)
    assert one.times(3) is not other.times(3)
    assert Low(2).times(3) is Low(2).times(3)
    assert Low.times.cache_info().currsize == 3
    assert Low(2).times(number=3) == [6]
    assert Low.times.cache_invalidate(Low(2), 3)
    del one
    assert Low.times.cache_info().currsize == 1
    Low(2).times(3)
    Low.times.cache_clear()
    assert Low.times.cache_info() == (0, 0, None, 0)


def test_a_key_function_takes_any_instance() -> None:
    """With key=, instances may be of any kind, and share what has one key."""

    class Point(NamedTuple):
        x: int

        @cached(key=lambda self, number: (self.x, number))
        def times(self, number: int) -> list[int]:
            return [self.x * number]

    assert Point(2).times(3) is Point(2).times(3)
    assert Point(2).times(3) == [6]


def test_a_dead_instance_answers_for_nobody() -> None:
    """An instance at the address of a dead one never gets the dead one's results."""

    class Numbered:
        def __init__(self, number: int) -> None:
            self.number = number

        @cached
        def get(self) -> int:
            return self.number

    addresses = set()
    for number in range(2000):
        one = Numbered(number)
        assert [one.get(), one.get()] == [number, number]
        addresses.add(id(one))
        del one
    assert len(addresses) < 2000, "no address was used again, so nothing was tested"
    assert Numbered.get.cache_info().currsize == 0


def test_instances_in_cycles() -> None:
    """Instances in reference cycles go at a collection, with their entries, even when their finalizer calls again."""
    seen = []

    class Node:
        def __init__(self, number: int) -> None:
            self.number = number
            self.me = self

        @cached
        def get(self) -> int:
            return self.number

        def __del__(self) -> None:
            seen.append(self.get() == self.number)

    for number in range(100):
        Node(number).get()
    gc.collect()
    assert seen == [True] * 100
    gc.collect()
    assert Node.get.cache_info().currsize == 0


def test_a_result_that_comes_after_the_instance_died_goes_at_once() -> None:
    """What was under way for an instance that dies meanwhile leaves no entry that nobody could ever ask for."""

    class Body:
        pass

    store = Store(name="bodies", size_of=lambda *_: 100)
    instances = Instances(store)
    instances.adopt()
    body = Body()
    owner = instances.owner_of(body)
    store.put((owner, 1), "one")
    assert len(store) == 1
    del body
    assert (len(store), store.bytes) == (0, 0)
    store.put((owner, 1), "late")
    assert (len(store), store.bytes, len(store.table)) == (0, 0, 0)
    gone = weakref.ref(store)
    del store, instances, owner
    assert gone() is None


def test_evicted_entries_are_no_longer_answered() -> None:
    """Limits hold over all instances of a class together; what was evicted is computed anew."""
    calls = []

    class Shop:
        @cached(maxsize=4)
        def price(self, item: int) -> int:
            calls.append(item)
            return item

    shops = [Shop() for _ in range(3)]
    for _ in range(3):
        for item in range(5):
            for shop in shops:
                assert shop.price(item) == item
                assert Shop.price.cache_info().currsize <= 4
    info = Shop.price.cache_info()
    assert info.misses == len(calls)
    assert info.hits + info.misses == 45
    Shop.price.cache_clear()
    calls.clear()
    assert shops[0].price(1) == 1
    assert calls == [1]


def test_by_hand() -> None:
    """cache_key and cache_invalidate take the instance first, before and after the first call."""
    one, other = Plain(2), Plain(3)
    Plain.times.cache_clear()
    assert not Plain.times.cache_invalidate(one, 5)
    one.times(5)
    other.times(5)
    assert Plain.times.cache_key(one, 5) != Plain.times.cache_key(other, 5)
    assert Plain.times.cache_key(one, 5) == one.times.cache_key(one, number=5, sign=1)
    assert one.times.cache_invalidate(one, 5)
    assert not Plain.times.cache_invalidate(one, 5)
    assert Plain.times.cache_info().currsize == 1


def test_no_arguments_and_properties() -> None:
    """Methods without arguments and getters of properties are cached per instance."""
    one, other = Plain(1), Plain(2)
    assert one.nothing() is one.nothing()
    assert one.size is one.size
    assert [one.size, other.size, other.nothing()] == [[1], [2], [2]]


def test_a_method_under_other_decorators() -> None:
    """A decorator above the cache, with functools.wraps or without, changes nothing about instances."""

    def politely(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any) -> Any:
            return function(*args)

        return inner

    def rudely(function: Any) -> Any:
        return lambda *args: function(*args)  # noqa: PLW0108 - hides the function

    class Shop:
        @politely
        @cached
        def polite(self) -> list[int]:
            return [1]

        @rudely
        @cached
        def rude(self) -> list[int]:
            return [1]

        @cached
        @politely
        def below(self) -> list[int]:
            return [1]

        @functools.cached_property
        @cached
        def once(self) -> list[int]:
            return [1]

    one = Shop()
    for call in (one.polite, one.rude, one.below):
        assert call() is call()
    assert one.once == [1]
    ref = weakref.ref(one)
    del one, call
    gc.collect()
    assert ref() is None


def test_a_function_put_into_a_class_later() -> None:
    """A cached function that is assigned to a class becomes its method."""

    @cached
    def area(self: Any, factor: int) -> list[int]:
        return [factor]

    class Shape:
        surface = area

    class Other:
        pass

    Other.area = area  # type: ignore[attr-defined]
    for kind in (Shape, Other):
        shape: Any = kind()
        method: Any = getattr(shape, "surface", None) or getattr(shape, "area")  # noqa: B009 - set above
        assert method(1) is method(1)
        ref = weakref.ref(shape)
        del shape, method
        assert ref() is None


def test_instances_as_plain_arguments_count_by_equality() -> None:
    """A function, or a static method, that is given an instance treats it like any argument."""

    class Money:
        def __init__(self, amount: int) -> None:
            self.amount = amount

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Money) and self.amount == other.amount

        def __hash__(self) -> int:
            return hash(self.amount)

        @staticmethod
        @cached
        def show(money: Any) -> list[int]:
            return [money.amount]

    @cached
    def double(money: Money) -> list[int]:
        return [2 * money.amount]

    assert double(Money(1)) is double(Money(1))
    assert Money.show(Money(1)) is Money(5).show(Money(1))


def test_inherited_methods() -> None:
    """A subclass's instances use the method they inherit, and super() reaches it."""

    class Base:
        @cached
        def name(self) -> list[str]:
            return [type(self).__name__]

    class Derived(Base):
        @cached
        def name(self) -> list[str]:
            return ["derived", *super().name()]

    class Further(Base):
        pass

    derived, further = Derived(), Further()
    assert derived.name() is derived.name()
    assert [derived.name(), further.name()] == [["derived", "Derived"], ["Further"]]
    refs: list[Any] = [weakref.ref(derived), weakref.ref(further)]
    del derived, further
    assert [ref() for ref in refs] == [None, None]


def test_copies_and_pickles_of_instances() -> None:
    """A copy of an instance has results of its own, and nothing of the cache is copied or pickled."""
    one = Plain(3)
    one.times(1)
    assert vars(one) == {"factor": 3}
    twin, loaded = copy.deepcopy(one), pickle.loads(pickle.dumps(Value(3)))  # noqa: S301 - our own bytes
    twin.factor = 4
    assert [one.times(1), twin.times(1), loaded.times(1)] == [[3], [4], [3]]


def test_a_metaclass_method() -> None:
    """A method of classes is cached per class, and keeps no class alive."""

    class Meta(type):
        @cached
        def label(cls) -> list[str]:
            return [cls.__name__]

    made = Meta("Made", (), {})
    assert made.label() is made.label()
    ref = weakref.ref(made)
    del made
    gc.collect()
    assert ref() is None


def test_first_calls_from_many_threads() -> None:
    """Threads that make the first calls of a method at once get right answers, and no instance stays."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):

            class Shop:
                @cached
                def price(self, item: int) -> tuple[int, int]:
                    return id(self), item

            shops = [Shop() for _ in range(4)]
            wrong: list[object] = []
            start = threading.Barrier(4)

            def work(shop: Any, wrong: list[object] = wrong, start: threading.Barrier = start) -> None:
                start.wait(10)
                wrong.extend(item for item in (1, 2, 1, 2) if shop.price(item) != (id(shop), item))

            threads = [threading.Thread(target=work, args=(shop,)) for shop in shops]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            assert not wrong
            refs = [weakref.ref(shop) for shop in shops]
            threads.clear()
            del shops, thread
            gc.collect()
            assert [ref() for ref in refs] == [None] * 4
            assert Shop.price.cache_info().currsize == 0
    finally:
        sys.setswitchinterval(before)


def test_methods_with_a_ttl_and_failures() -> None:
    """Expiry and kept failures work per instance, and die with it."""

    class Shop:
        calls = 0

        @cached(ttl=60, negative_ttl={KeyError: 60})
        def price(self, item: str) -> int:
            Shop.calls += 1
            if item == "lost":
                raise KeyError(item)
            return 1

    one = Shop()
    for _ in range(3):
        assert one.price("tea") == 1
        with pytest.raises(KeyError):
            one.price("lost")
    assert Shop.calls == 2
    assert Shop.price.cache_info().currsize == 2
    del one
    gc.collect()
    assert Shop.price.cache_info().currsize == 0


def test_an_async_method() -> None:
    """A cached async method binds, computes once per instance, and keeps none alive."""
    import asyncio

    class Shop:
        calls = 0

        @cached
        async def price(self, item: str) -> list[str]:
            Shop.calls += 1
            return [item]

    async def main() -> None:
        one, other = Shop(), Shop()
        assert await one.price("tea") is await one.price(item="tea")
        assert await other.price("tea") == ["tea"]
        assert Shop.calls == 2
        ref = weakref.ref(one)
        del one
        await asyncio.sleep(0)
        gc.collect()
        assert ref() is None
        assert Shop.price.cache_info().currsize == 1

    asyncio.run(main())
