"""Sameness: whether a copy is equal to what it was made from, asked before the original is dropped."""

from __future__ import annotations

import copyreg
import pickle
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["same"]

# Pairs compared one by one, at some 1 us each; only what does not say by itself that it is equal is taken apart.
_MOST: Final = 500_000
_SLICE_BYTES: Final = 256 * 1024


def same(one: object, two: object) -> bool:
    """Whether two objects of unknown making are equal: by their own ``==``, and where that is identity, part by part.

    NaNs count as equal to NaNs. What defines no ``==`` and has no parts that Python sees is equal when its pickles are.
    False where it cannot be told.
    """
    todo = [(one, two)]
    seen = set[tuple[int, int]]()
    while todo:
        left, right = todo.pop()
        if left is right or (id(left), id(right)) in seen:
            continue
        if type(left) is not type(right) or len(seen) > _MOST:
            return False
        seen.add((id(left), id(right)))
        parts = _parts(left, right)
        if parts is None:
            return False
        todo += parts
    return True


def _parts(left: Any, right: Any) -> list[tuple[Any, Any]] | None:  # noqa: ANN401
    """Pairs that have to be equal for these two to be equal; None: they are not."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(left, numpy.ndarray):
        return _array_parts(left, right, numpy)
    with suppress(Exception):  # arrays say no truth, and == may be anybody's
        if left == right:
            return []
    for kinds, take in _TAKEN_APART:
        if isinstance(left, kinds):
            return take(left, right)
    try:
        if left != left and right != right:  # noqa: PLR0124 - NaN, of whatever type
            return []
    except Exception:  # noqa: BLE001 - tables compare cell by cell, and have no truth
        return _pickled(left, right)
    return _attributes(left, right)


def _array_parts(left: Any, right: Any, numpy: Any) -> list[tuple[Any, Any]] | None:  # noqa: ANN401
    if left.dtype != right.dtype or left.shape != right.shape:
        return None
    if left.dtype.hasobject:
        return list(zip(left.ravel().tolist(), right.ravel().tolist(), strict=True))
    if not left.nbytes:
        return []
    # By bytes, for NaNs are equal so; in slices, for each makes an array of answers.
    ours, theirs = (numpy.ascontiguousarray(array).reshape(-1).view("u1") for array in (left, right))
    equal = (
        numpy.array_equal(ours[at : at + _SLICE_BYTES], theirs[at : at + _SLICE_BYTES])
        for at in range(0, left.nbytes, _SLICE_BYTES)
    )
    return [] if all(equal) else None


def _sequence(left: Any, right: Any) -> list[tuple[Any, Any]] | None:  # noqa: ANN401
    return None if len(left) != len(right) else _with_attributes(left, right, list(zip(left, right, strict=True)))


def _mapping(left: Any, right: Any) -> list[tuple[Any, Any]] | None:  # noqa: ANN401
    if len(left) != len(right):
        return None
    pairs = [*zip(left, right, strict=True), *zip(left.values(), right.values(), strict=True)]
    return _with_attributes(left, right, pairs)


def _with_attributes(left: Any, right: Any, pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]] | None:  # noqa: ANN401
    """The pairs and, of a subclass, what its instances carry beside."""
    more = _attributes(left, right) if getattr(left, "__dict__", None) else []
    return None if more is None else pairs + more


def _attributes(left: Any, right: Any) -> list[tuple[Any, Any]] | None:  # noqa: ANN401
    names: list[str] = cast("Any", copyreg)._slotnames(type(left))  # noqa: SLF001 - as pickle does
    table, other = getattr(left, "__dict__", None), getattr(right, "__dict__", None)
    if not names and table is None:
        return _pickled(left, right)
    missing = object()
    pairs = [(getattr(left, name, missing), getattr(right, name, missing)) for name in names]
    if table is not None:
        if other is None or table.keys() != other.keys():
            return None
        pairs += [(value, other[name]) for name, value in table.items()]
    return pairs


def _pickled(left: Any, right: Any) -> list[tuple[Any, Any]] | None:  # noqa: ANN401
    """By what each says of itself to others."""
    try:
        return [] if pickle.dumps(left, 5) == pickle.dumps(right, 5) else None
    except Exception:  # noqa: BLE001 - pickling runs other people's code
        return None


_TAKEN_APART: Final[tuple[tuple[tuple[type, ...], Callable[[Any, Any], list[tuple[Any, Any]] | None]], ...]] = (
    ((list, tuple), _sequence),
    ((dict,), _mapping),
)
