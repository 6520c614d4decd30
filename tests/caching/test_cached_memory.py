"""What stays of cached functions, classes and caches: of hits nothing, of what is dropped nothing."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from memguard import beat
from memguard.caching.functions import cached
from memguard.caching.mapping import Cache
from memguard.caching.market import market_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def growth(work: Callable[[int], object], times: int) -> tuple[int, int]:
    """Objects and blocks of memory that are there after so many rounds and were not after the first few."""
    work(50)
    gc.collect()
    gc.collect()
    objects, blocks = len(gc.get_objects()), sys.getallocatedblocks()
    work(times)
    gc.collect()
    gc.collect()
    return len(gc.get_objects()) - objects, sys.getallocatedblocks() - blocks


@cached
def _plain(number: int, factor: int = 2) -> list[int]:
    return [number * factor]


@cached(ttl=60)
def _brief(number: int) -> list[int]:
    return [number]


@cached
async def _awaited(number: int) -> list[int]:
    return [number]


class Shop:
    @cached
    def price(self, item: int) -> list[int]:
        return [item]


SHOP = Shop()


def ask(times: int) -> None:
    """Hits of every kind."""

    async def main() -> None:
        for _ in range(times):
            await _awaited(1)

    for _ in range(times):
        _plain(1)
        _plain(number=1)
        _brief(1)
        SHOP.price(1)
    asyncio.run(main())


def miss(times: int) -> None:
    """Misses that evict, fail, and are invalidated; instances that come and go."""

    @cached(maxsize=8, negative_ttl={ValueError: 60})
    def find(number: int) -> list[int]:
        if number % 2:
            raise ValueError(number)
        return [number]

    for number in range(times):
        try:
            find(number)
        except ValueError:
            find.cache_invalidate(number - 1)
        Shop().price(number)


def decorate(times: int) -> None:
    """Functions of every kind that are used once and dropped."""
    options: list[dict[str, Any]] = [
        {},
        {"ttl": 60},
        {"maxsize": 0},
        {"key": lambda number: number, "coalesce": False},
        {"ttl": 60, "negative_ttl": {ValueError: 5}, "max_bytes": "1MiB", "maxsize": 10, "typed": True},
    ]

    async def main() -> None:
        @cached(ttl=60, stale_s=5)
        async def fetch(number: int) -> list[int]:
            return [number]

        await fetch(1)

    for number in range(times):

        @cached(**options[number % len(options)])
        def find(number: int) -> list[int]:
            return [number]

        find(number)
    asyncio.run(main())


def define(times: int) -> None:
    """Classes whose entries refer to them, and functions run by exec."""
    for _ in range(times):

        class Local:
            @cached
            def me(self) -> type:
                return type(self)

            @classmethod
            @cached(ttl=5)
            def make(cls, number: int) -> tuple[type, int]:
                return cls, number

            @property
            @cached
            def size(self) -> list[Any]:
                return [Local]

        local = Local()
        local.me()
        Local.make(1)
        assert local.size
        exec("@cached(ttl=5)\ndef top(x):\n    return top\ntop(1)", {"cached": cached, "__name__": __name__})  # noqa: S102
        cache: Cache[int, object] = Cache(5, ttl=5)
        cache[1] = cache


@pytest.mark.parametrize("work", [ask, miss, decorate, define])
def test_nothing_stays(work: Callable[[int], object]) -> None:
    """After a few rounds, a few hundred more leave neither objects nor memory behind, nor names or shelves."""
    times = 5000 if work is ask else 300
    work(50)
    shelves, names = len(market_of().shelves), len(vars(beat))
    objects, blocks = growth(work, times)
    assert objects <= 20
    assert blocks < times // 2
    assert len(market_of().shelves) <= shelves
    assert len(vars(beat)) == names


def test_a_class_whose_results_refer_to_it_goes() -> None:
    """Neither the market nor the clock keeps a class alive that is in its own entries."""

    class Local:
        @classmethod
        @cached(ttl=5)
        def make(cls, number: int) -> tuple[type, int]:
            return cls, number

    Local.make(1)
    ref = weakref.ref(Local)
    del Local
    gc.collect()
    assert ref() is None


def test_a_cache_that_holds_itself_goes() -> None:
    """A cache is not kept alive by what it keeps."""
    cache: Cache[str, object] = Cache(name="holds itself")
    cache["me"] = cache
    ref = weakref.ref(cache)
    del cache
    gc.collect()
    assert ref() is None
    assert "holds itself" not in [shelf.name for shelf in market_of().shelves]


def test_a_module_that_is_loaded_again_leaves_nothing(tmp_path: Path) -> None:
    """Functions with a ttl at a module's top go when the module is executed anew, and their names with them."""
    path = tmp_path / "loaded_again.py"
    path.write_text("from memguard import cached\n@cached(ttl=60)\ndef top(x):\n    return [x]\ntop(1)\n")
    spec = importlib.util.spec_from_file_location("loaded_again", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["loaded_again"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        ref, names = weakref.ref(module.top), len(vars(beat))
        assert any(value is module.top.__wrapped__ for value in vars(beat).values())
        spec.loader.exec_module(module)
        gc.collect()
        assert ref() is None
        assert len(vars(beat)) == names
    finally:
        del sys.modules["loaded_again"]
