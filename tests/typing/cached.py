"""Cached functions as type checkers see them. Nothing here runs: mypy and pyright read it in `make check`."""

from __future__ import annotations

from collections.abc import Awaitable, Hashable
from typing import Any, TypeVar, assert_type

from memguard.caching.functions import cached
from memguard.caching.shapes import Counts

T = TypeVar("T")


@cached
def bare(number: int, *, scale: float = 1.0) -> str:
    """Cached without options."""
    return str(number * scale)


@cached(ttl="5m", max_bytes="64MiB", negative_ttl={KeyError: 5, None: "1s"})
def called(number: int, *texts: str, **more: bytes) -> list[int]:
    """Cached with options."""
    return [number, len(texts), len(more)]


@cached
async def awaited(number: int) -> str:
    """A coroutine function."""
    return str(number)


@cached(key=len, cost=2.5)
def generic(pairs: list[T]) -> T:
    """A generic function."""
    return pairs[0]


class Shop:
    @cached
    def price(self, item: str, count: int = 1) -> float:
        return len(item) * count

    @cached(ttl=5)
    async def stock(self, item: str) -> int:
        return len(item)

    @property
    @cached
    def name(self) -> str:
        return "shop"

    @staticmethod
    @cached
    def parse(text: str) -> int:
        return int(text)

    @classmethod
    @cached
    def open(cls, name: str) -> bytes:
        return name.encode()


def functions() -> None:
    """A function's signature is kept."""
    assert_type(bare(1), str)
    assert_type(bare(1, scale=2.0), str)
    assert_type(called(1, "a", b=b""), list[int])
    bare("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare(1, 2.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    called(1, more=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def coroutines(shop: Shop) -> None:
    """Coroutine functions stay such."""
    assert_type(await awaited(1), str)
    assert_type(await shop.stock("tea"), int)
    pending: Awaitable[str] = awaited(1)
    await pending
    await awaited("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def methods(shop: Shop) -> None:
    """Methods bind their instance, static and class methods do as ever, properties are values."""
    assert_type(shop.price("tea"), float)
    assert_type(shop.price("tea", count=2), float)
    assert_type(Shop.price(shop, "tea"), float)
    assert_type(Shop.parse("1"), int)
    # mypy binds what lies below staticmethod when it is called through an instance: call it through the class.
    assert_type(shop.parse("1"), int)  # type: ignore[call-arg]
    assert_type(Shop.open("a"), bytes)
    assert_type(shop.open("a"), bytes)
    assert_type(shop.name, str)
    shop.price(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shop.price()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Shop.parse(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def controls(shop: Shop) -> None:
    """What hangs on a cached function."""
    counts = bare.cache_info()
    assert_type(counts, Counts)
    assert_type(counts.hits, int)
    assert_type(counts.maxsize, int | None)
    assert_type(counts.bytes, int)
    hits, misses, _, currsize = counts
    assert_type(hits + misses + currsize, int)
    assert_type(bare.cache_parameters(), dict[str, Any])
    assert_type(bare.cache_invalidate(1, scale=2.0), bool)
    assert_type(bare.cache_key(1), Hashable)
    assert_type(bare.__wrapped__(1), str)
    assert_type(shop.price.cache_info(), Counts)
    assert_type(Shop.price.cache_invalidate(shop, "tea"), bool)
    assert_type(shop.price.cache_invalidate(shop, "tea"), bool)
    bare.cache_clear()
    bare.cache_invalidate("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shop.price.cache_key(shop, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def options() -> None:
    """Options of the wrong type are refused."""
    cached(maxsize=1.5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    cached(ttl=[1])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    cached(lock=None)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
