"""About how many bytes an object keeps alive alone: a bounded walk over samples, by C sizes only.

What two samples lead to is shared and counts for neither; so does what is the program itself (modules, classes,
functions). ``memguard.sizeof`` is more exact and asks classes for their ``__sizeof__``; an examiner may not.
"""

from __future__ import annotations

import gc
import sys
from itertools import islice
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import TYPE_CHECKING, Any, Final

from memguard.leaks.names import class_dict, module_dict, mro, type_name
from memguard.leaks.referents import referents

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Weight", "weigh"]

# Objects that one sample is followed to.
_REACH: Final = 1_000
# Referents of one object that are followed: of a wide one, these stand for all.
_WIDE: Final = 200
_GC_HEAD_BYTES: Final = 16
_PROGRAM: Final = (type, ModuleType)
_PARTS: Final = frozenset({
    id(BuiltinFunctionType), id(CodeType), id(GetSetDescriptorType), id(MethodDescriptorType),
    id(WrapperDescriptorType),
})  # fmt: skip


class Weight:
    """What samples keep alive: ``each`` is the mean in bytes, ``types`` the names of all that was met on the way."""

    __slots__ = ("each", "types")

    def __init__(self, each: int, types: frozenset[str]) -> None:
        self.each: int = each
        self.types: frozenset[str] = types


def weigh(samples: Sequence[object]) -> Weight:
    """Weigh samples, each with what it alone keeps alive."""
    if not samples:
        return Weight(0, frozenset())
    namespaces = {id(module_dict(module)) for module in list(sys.modules.values())}
    sizer = _Sizer()
    reached = [_reach(one, namespaces, sizer) for one in samples]
    times: dict[int, int] = {}
    for found in reached:
        for key in found:
            times[key] = times.get(key, 0) + 1
    alone = sum(size for found in reached for key, size in found.items() if times[key] == 1)
    least = sum(map(sizer.size, samples))  # each of a linked list leads to all others
    return Weight(max(alone, least) // len(samples), frozenset(map(type_name, sizer.kinds.values())))


def _reach(sample: object, namespaces: set[int], sizer: _Sizer) -> dict[int, int]:
    """What one sample leads to: the size of each, by id."""
    found: dict[int, int] = {}
    level: list[Any] = [sample]
    while level and len(found) < _REACH:
        below = list[Any]()
        for one in level:
            kind = type(one)
            if id(one) in found or id(one) in namespaces or id(kind) in _PARTS or issubclass(kind, _PROGRAM):
                continue
            if kind is FunctionType and "<locals>" not in one.__qualname__ and one.__name__ != "<lambda>":
                continue
            found[id(one)] = sizer.size(one)
            below += islice(referents(one), _WIDE)
        level = below
    return found


class _Sizer:
    """C sizes by type; a class's own ``__sizeof__`` is passed over for that of the type below it."""

    def __init__(self) -> None:
        self.kinds: dict[int, type] = {}
        self._sizes: dict[int, Any] = {}

    def size(self, one: object) -> int:
        kind = type(one)
        if id(kind) not in self.kinds:
            self.kinds[id(kind)] = kind
            self._sizes[id(kind)] = _sizeof(kind)
        try:
            size = self._sizes[id(kind)](one)
        except Exception:  # noqa: BLE001 - an object that is only half there
            return 0
        return size + (_GC_HEAD_BYTES if gc.is_tracked(one) else 0) if type(size) is int else 0


def _sizeof(kind: type) -> Any:  # noqa: ANN401 - a method written in C
    for base in mro(kind):
        found = class_dict(base).get("__sizeof__")
        if type(found) is MethodDescriptorType:
            return found
    return object.__sizeof__
