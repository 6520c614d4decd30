"""The size of an object, and of a cache entry."""

from __future__ import annotations

from sys import getsizeof
from typing import TYPE_CHECKING, Final, cast

from memguard.sizing.walk import measure

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

__all__ = ["Size", "bytes_of", "entry_bytes", "sizeof"]

# Objects visited at most: some 0.15 us each.
_BUDGET: Final = 4000
_ENTRY_BUDGET: Final = 2500
# Of each of a few entries that stand for many others.
_ONE_BUDGET: Final = 400
# Entries of these are weighed without a walk; so are tuples of so many of them.
_LEAVES: Final[dict[type, Callable[[Any], int]]] = {
    str: str.__sizeof__,
    int: int.__sizeof__,
    float: float.__sizeof__,
    bytes: bytes.__sizeof__,
    type(None): lambda _: 0,
    bool: lambda _: 0,
}
_TUPLE: Final[frozenset[type]] = frozenset({tuple})
_FEW: Final = 6
_TUPLE_BYTES: Final = getsizeof(())
_WORD_BYTES: Final = getsizeof((0,)) - _TUPLE_BYTES


class Size(int):
    """Bytes, with the error that sampling leaves in them.

    ``error_bytes`` is about two sigma of what the sample shows: too small where much lies in few objects that it may
    have missed (benchmarks/sizing.py counts how often). It knows nothing of what getsizeof leaves out, some 1 %. It is
    0 when every object was visited, and as large as the size where the budget ended before the object did.
    """

    error_bytes: int

    def __new__(cls, size: int, *, error_bytes: int = 0) -> Self:
        """So many bytes, known so well."""
        made = super().__new__(cls, size)
        made.error_bytes = error_bytes
        return made

    def __reduce__(self) -> tuple[Callable[..., Size], tuple[int, int]]:
        return _size, (int(self), self.error_bytes)


def _size(size: int, error_bytes: int) -> Size:
    """A size that came from another process: pickle knows no keywords."""
    return Size(size, error_bytes=error_bytes)


def sizeof(thing: object) -> Size:
    """Bytes that an object keeps alive: itself and what it leads to, each object once.

    Up to some 1,300 objects on a level everything is visited and the answer is exact. Beyond, samples stand for all,
    and ``error_bytes`` says how far that may be off: below 5 % where that is cheap to reach. About 4,000 objects are
    visited at most, whatever there is: 0.1 to 1 ms (CPython 3.11); what foreign ``__sizeof__`` methods take comes on
    top.

    Not counted: classes, modules, functions with what they close over or cache, loggers, members of enums, small
    integers and other singletons, memory on other devices, native memory that a type does not tell about. What others
    hold too counts in full. Arrays, tensors, tables and buffers of numpy, pandas, pyarrow and torch are known with
    the memory they share: a base, a buffer or a storage counts once. A file mapping counts with its length. Of a dict
    with more than 8,192 entries the oldest and newest 4,096 stand for all, of a large set or deque the first 8,192.

    No attribute, property or method of the object is used but ``__sizeof__``, and nothing is kept.

    >>> import sys
    >>> sizeof([1.5, 2.5]) == sys.getsizeof([1.5, 2.5]) + 2 * sys.getsizeof(1.5)
    True
    """
    size, error = measure([thing], _BUDGET)
    return Size(size, error_bytes=error)


def bytes_of(thing: object) -> int:
    """Bytes of one object that stands for many others, roughly: at most some 0.3 ms."""
    return measure([thing], _ONE_BUDGET)[0]


def entry_bytes(key: object, value: object) -> int:
    """Bytes of a cache entry's key and value, what they share once: 0.2 to 0.8 us if plain, else up to 0.8 ms."""
    try:
        return _LEAVES[type(key)](key) + _LEAVES[type(value)](value)
    except KeyError:
        pass
    size = 0
    for thing in (key, value):
        plain = _plain_bytes(thing)
        if plain is None:
            return measure([key, value], _ENTRY_BUDGET)[0]
        size += plain
    return size


def _plain_bytes(thing: object) -> int | None:
    """Bytes of a leaf, or of a small tuple of leaves; None of all else."""
    leaf = _LEAVES.get(type(thing))
    if leaf is not None:
        return leaf(thing)
    if type(thing) not in _TUPLE:
        return None
    parts = cast("tuple[object, ...]", thing)
    if len(parts) > _FEW:
        return None
    size = _TUPLE_BYTES + _WORD_BYTES * len(parts)
    for part in parts:
        leaf = _LEAVES.get(type(part))
        if leaf is None:
            return None
        size += leaf(part)
    return size
