"""Whether what grows has a bound: a cache that fills is no leak."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from memguard.leaks.names import class_dict, instance_dict, plain_text, type_name

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["bound_of"]

_LRU: Final = type(lru_cache(lambda: None))
_LRU_FIGURES: Final[Any] = class_dict(_LRU)["cache_info"]
_MAXLEN: Final[Any] = class_dict(deque)["maxlen"]
# How classes call the most that they hold, whatever stands before it ("_Cache__maxsize").
_BOUNDS: Final = ("maxsize", "max_size", "maxlen", "max_len", "max_entries", "max_items", "capacity", "max_bytes")


def bound_of(path: Sequence[Any], length: int) -> str:
    """What bounds the last object of a chain, in words; "" when nothing is seen that does.

    Only numbers that the holder keeps in attributes with the usual names are read, and C's own figures.
    """
    last = path[-1]
    if issubclass(type(last), deque):
        maxlen = _MAXLEN.__get__(last)
        if maxlen is not None:
            return f"a deque with maxlen={maxlen}"
    for holder in reversed(path[:-1]):
        if type(holder) is _LRU:
            maxsize = _LRU_FIGURES(holder)[2]
            return "" if maxsize is None else f"a function cache with maxsize={maxsize}"
        found = _own_bound(holder, length)
        if found:
            return found
    return ""


def _own_bound(holder: Any, length: int) -> str:  # noqa: ANN401 - anything on the way
    kind = type(holder)
    name = type_name(kind)
    if name.startswith("memguard."):
        return f"memguard's own {name.rpartition('.')[2]}, bounded by the guard"
    if kind is dict or issubclass(kind, (type, tuple, list)):
        return ""
    try:
        names = instance_dict(holder)
        for attribute, value in list(dict.items(names)) if names is not None else ():
            if type(attribute) is str and type(value) is int and value > length and attribute.endswith(_BOUNDS):
                return f"{name} with {plain_text(attribute).rpartition('__')[2].lstrip('_')}={value}"
    except RuntimeError:  # changed meanwhile
        return ""
    return ""
