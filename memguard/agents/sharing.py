"""Sharing: whether anybody outside refers to an object or to anything in it.

Every reference to an object is counted by the interpreter. Those that come from inside the state are found by the
collector's own traversal (``gc.get_referents``, with multiplicity); what is left over comes from outside. What a count
says of an object that nobody shares is measured once in the same way, so that it holds for each version of Python.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import gc
import re
import sys
import types
import uuid
import weakref
from collections import Counter
from functools import cache
from itertools import compress
from operator import ne
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["shared_with"]

# Nobody can tell two equal ones of these apart but by identity, which is not promised.
_ATOMS: Final = frozenset[type]({
    str, bytes, int, float, complex, bool, range, type(None), type(...), type(NotImplemented), re.Pattern, uuid.UUID,
    decimal.Decimal, dt.datetime, dt.date, dt.time, dt.timedelta, dt.timezone,
})  # fmt: skip
# Pickled by name: the same object comes back.
_NAMED: Final = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, enum.Enum)
_ATOM, _PLAIN, _ARRAY, _OPAQUE, _INLINE = range(5)
# Py_TPFLAGS_INLINE_VALUES: attributes lie in the object itself, and the collector is not shown the dict that somebody
# may have made of them.
_INLINE_FLAG: Final = 1 << 2 if sys.version_info >= (3, 13) else 0
_ATTRIBUTE: Final = object.__getattribute__
# Memory that lies below Python's objects, where references cannot be counted.
_OPAQUE_TYPES: Final = frozenset({("torch", "Tensor"), ("torch.nn.parameter", "Parameter")})
# Some 0.3 us each; a state of 10 MiB has about 100,000.
_MOST: Final = 2_000_000


class _Kinds(dict[type, int]):
    """What to do with objects of a type; asked once for each."""

    def __missing__(self, kind: type) -> int:
        numpy: Any = sys.modules.get("numpy")
        logging: Any = sys.modules.get("logging")
        if kind in _ATOMS or issubclass(kind, _NAMED):
            verdict = _ATOM
        elif numpy is not None and issubclass(kind, numpy.ndarray):
            verdict = _ARRAY
        elif (
            (numpy is not None and issubclass(kind, (numpy.dtype, numpy.generic)))
            or (logging is not None and issubclass(kind, logging.Logger))
            or (kind.__module__, kind.__qualname__) == ("zoneinfo", "ZoneInfo")
        ):
            verdict = _ATOM
        else:
            named = {(base.__module__, base.__qualname__) for base in kind.__mro__}
            inline = kind.__flags__ & _INLINE_FLAG
            verdict = _OPAQUE if named & _OPAQUE_TYPES else _INLINE if inline else _PLAIN
        self[kind] = verdict
        return verdict


_kinds: Final = _Kinds()


def shared_with(holder: object) -> str:
    """Whatever ``holder`` alone should refer to and others refer to as well, in words; "" when there is no such thing.

    The caller must not refer to it in any other way, by a variable for example. Weak references count, for their
    owners would see it die. Memory that lies below Python's objects (tensors, mapped files) counts as shared.
    """
    own = _own_count()
    if own is None:
        return "references cannot be counted in this Python"
    return _foreign(holder, own)


@cache
def _own_count() -> int | None:
    """What the interpreter counts of an object that nobody shares, beside the references from inside."""
    probe: list[Any] = [[[]]]
    found, _, counts = _survey(probe)
    inner = {count - inside for count, inside in counts}
    del found
    return inner.pop() if len(inner) == 1 else None


def _survey(holder: object) -> tuple[list[Any], str, list[tuple[int, int]]]:
    """All that a holder leads to; or why that cannot be told; and (count, references from inside) of each."""
    inside: Counter[int] = Counter()
    found: list[Any] = []
    level: Sequence[Any] = (holder,)
    while level:
        # One list, and nothing else, may refer to what is found when it is counted.
        referents = [thing for thing in gc.get_referents(*level) if _kinds[type(thing)]]
        for thing in level:
            if _kinds[type(thing)] == _ARRAY and (why := _array_referents(thing, referents)):
                return [], why, []
        if _INLINE_FLAG:
            _add_inline(level, referents)
        fresh = {id(thing): thing for thing in referents if id(thing) not in inside}
        inside.update(map(id, referents))
        level = tuple(fresh.values())
        found += level
        referents.clear()
        fresh.clear()
        thing = None
        if len(found) > _MOST:
            return [], f"it leads to more than {_MOST:,} objects", []
    expected = [inside[id(thing)] for thing in found]
    thing = None
    return found, "", list(zip(map(sys.getrefcount, found), expected, strict=True))


def _array_referents(array: Any, referents: list[Any]) -> str:  # noqa: ANN401
    """Add what the collector does not see of a numpy array; why that cannot be done, or ""."""
    numpy: Any = sys.modules["numpy"]
    if array.dtype.hasobject:
        if array.dtype != object:
            return "an array of records with objects is in it"
        referents += [thing for thing in array.ravel(order="K").tolist() if _kinds[type(thing)]]
    if array.base is None or type(array.base) is bytes:
        return ""
    owner = array.base.obj if type(array.base) is memoryview else array.base
    if type(owner) is bytes or isinstance(owner, (numpy.ndarray, bytearray)):
        referents.append(array.base)
        return ""
    return f"an array in it lies in the memory of a {type(owner).__qualname__}"


def _add_inline(level: Sequence[Any], referents: list[Any]) -> None:
    """Add the dicts of attributes that lie in their objects, as far as the collector has not shown them."""
    shown = {id(thing) for thing in referents if type(thing) is dict}  # pyright: ignore[reportUnknownArgumentType]
    tables: list[Any] = [_ATTRIBUTE(thing, "__dict__") for thing in level if _kinds[type(thing)] == _INLINE]
    referents += [table for table in tables if id(table) not in shown]


def _foreign(holder: object, own: int) -> str:
    found, why, counts = _survey(holder)
    if why:
        return why
    for thing in compress(found, map(ne, (count - inside for count, inside in counts), [own] * len(counts))):
        if not _is_constant(thing):
            return f"somebody else refers to a {type(thing).__qualname__} in it"
    for thing in found:
        if _kinds[type(thing)] == _OPAQUE:
            return f"a {type(thing).__qualname__} in it may share its memory"
    weakly = [thing for thing in found if weakref.getweakrefcount(thing)]
    if weakly:
        own_ids = set(map(id, found))
        if any(id(link) not in own_ids for thing in weakly for link in weakref.getweakrefs(thing)):
            return "somebody else has a weak reference into it"
    return ""


def _is_constant(thing: Any) -> bool:  # noqa: ANN401
    """Whether this is an immutable of immutables, which anybody may share."""
    return type(thing) in {tuple, frozenset} and all(not _kinds[type(part)] or _is_constant(part) for part in thing)
