"""One step of a chain: how the object before calls the one after it."""

from __future__ import annotations

import gc
from collections import deque
from contextvars import ContextVar
from functools import lru_cache
from itertools import compress, count, islice, repeat
from operator import is_
from types import (
    AsyncGeneratorType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    TracebackType,
)
from typing import TYPE_CHECKING, Any, Final

from memguard.findings import Link
from memguard.leaks.names import instance_dict, key_text, module_dict, mro, plain_text, slots_of, type_name
from memguard.leaks.roots import frame_locals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["SIZES", "items_of", "links"]

_LRU: Final = type(lru_cache(lambda: None))
_CLOSURE: Final[Any] = FunctionType.__dict__["__closure__"].__get__
_DEFAULTS: Final[Any] = FunctionType.__dict__["__defaults__"].__get__
_KWDEFAULTS: Final[Any] = FunctionType.__dict__["__kwdefaults__"].__get__
_CODE: Final[Any] = FunctionType.__dict__["__code__"].__get__
# By id: a class may define what its own hash and equality are.
_RUNNERS: Final[dict[int, str]] = {
    id(GeneratorType): "gi_frame", id(CoroutineType): "cr_frame", id(AsyncGeneratorType): "ag_frame",
}  # fmt: skip
# The tree in which a context keeps its variables (PEP 567).
_HAMT: Final = frozenset({"hamt", "hamt_bitmap_node", "hamt_array_node", "hamt_collision_node"})
# Of these only one thing can be meant.
_PASSING: Final = frozenset({"cell", "_contextvars.Context", "_thread._local", "_asyncio.Task", "asyncio.tasks.Task"})
# What a cell holds is called as the cell is.
_SEE_THROUGH: Final = frozenset({id(CellType)})
# Another thread may change what we walk over: then the walk is begun anew, so often.
_TRIES: Final = 3

SIZES: Final[dict[int, Callable[[Any], int]]] = {
    id(list): list.__len__, id(dict): dict.__len__, id(set): set.__len__, id(frozenset): frozenset.__len__,
    id(tuple): tuple.__len__, id(deque): deque.__len__, id(bytearray): bytearray.__len__,
}  # fmt: skip
"""How many items a builtin container holds, whatever a subclass says; by the id of its type."""


def items_of(thing: object) -> int | None:
    """How many items a container holds; None of what is none."""
    for base in mro(type(thing)):
        size = SIZES.get(id(base))
        if size is not None:
            return size(thing)
    return None


def links(path: Sequence[object], *, redact: bool) -> tuple[Link, ...]:
    """The steps from the root (first) to the object (last); a namespace is no step of its own."""
    made = list[Link]()
    for place in range(1, len(path)):
        holder, held = path[place - 1], path[place]
        if place + 1 < len(path) and _is_namespace(held, holder):
            continue
        before = path[place - 2] if place > 1 else None
        owned = before is not None and _is_namespace(holder, before)
        owned = owned or (place == 1 and type(holder) is dict)  # a module's namespace is the root itself
        function = before if type(before) is FunctionType else None
        name = _name(holder, held, owned=owned, function=function, redact=redact)
        if type_name(type(before)) == "_thread._local":
            name = "(of one thread)"
        if id(type(holder)) in _SEE_THROUGH and made:
            name = made.pop().name
        if name:
            made.append(Link(name=name, type=type_name(type(held)), items=items_of(held)))
    return tuple(made)


def _is_namespace(names: object, owner: object) -> bool:
    if not issubclass(type(names), dict):
        return False
    if issubclass(type(owner), type):
        return True  # of a class's referents only its namespace is a dict
    return names is module_dict(owner) or (type(owner) is not dict and names is instance_dict(owner))


def _name(  # noqa: PLR0911 - a table by kind
    holder: Any,  # noqa: ANN401
    held: object,
    *,
    owned: bool,
    function: object,
    redact: bool,
) -> str:
    """How ``holder`` calls ``held``: ".attribute", "[key]" or words; "" where only one thing can be meant."""
    kind = type(holder)
    if kind is dict and function is not None and holder is _KWDEFAULTS(function):
        return f"(default of argument{_key(holder, held, owned=True, redact=False).replace('.', ' ')})"
    if issubclass(kind, dict):
        return _key(holder, held, owned=owned, redact=redact)
    if kind is tuple and function is not None:
        return _function_tuple(function, holder, held)
    if issubclass(kind, (list, tuple, deque)):
        place = _place(_iterator(holder, (list, tuple, deque)), held)
        return "[…]" if place is None else f"[{place}]"
    if issubclass(kind, (set, frozenset)):
        return "{…}"
    special = _SPECIAL.get(id(kind)) or (_variable if type_name(kind) in _HAMT else None)
    if special is not None:
        return special(holder, held)
    return "" if type_name(kind) in _PASSING else _attribute(holder, held)


def _of_method(method: Any, held: object) -> str:  # noqa: ANN401
    return ".__self__" if method.__self__ is held else ".__func__"


def _of_traceback(traceback: Any, held: object) -> str:  # noqa: ANN401
    return ".tb_frame" if traceback.tb_frame is held else ".tb_next"


def _of_runner(runner: Any, held: object) -> str:  # noqa: ANN401
    """A generator or a coroutine that waits."""
    frame = getattr(runner, _RUNNERS[id(type(runner))])
    return "" if frame is None or frame is held else _local(frame, held)


def _of_cached(_cached: object, held: object) -> str:
    return "" if type(held) is dict else "[cached value]"


def _iterator(holder: Any, bases: tuple[type, ...]) -> Callable[[], Iterable[object]]:  # noqa: ANN401
    base: Any = next(known for base in mro(type(holder)) for known in bases if base is known)
    return lambda: base.__iter__(holder)


def _place(walk: Callable[[], Iterable[object]], wanted: object) -> int | None:
    """At which place a walk meets an object; the comparison is by identity and runs in C."""
    for _ in range(_TRIES):
        try:
            return next(compress(count(), map(is_, walk(), repeat(wanted))), None)
        except RuntimeError:  # changed meanwhile
            continue
    return None


def _key(names: dict[Any, Any], held: object, *, owned: bool, redact: bool) -> str:
    place = _place(lambda: dict.values(names), held)
    if place is None:
        return "'s key" if _place(lambda: dict.keys(names), held) is not None else "[…]"
    try:
        key = next(islice(dict.keys(names), place, None), None)
    except RuntimeError:
        return "[…]"
    if owned and type(key) is str:
        return f".{plain_text(key, 80)}"
    return f"[{key_text(key, redact=redact)}]"


def _attribute(holder: object, held: object) -> str:
    names = instance_dict(holder)
    if names is not None:
        place = _place(lambda: dict.values(names), held)
        if place is not None:
            return _key(names, held, owned=True, redact=False)
    for name, value in slots_of(holder).items():
        if value is held:
            return f".{name}"
    return "→"


def _function_tuple(function: object, values: tuple[object, ...], held: object) -> str:
    """A function's cells and defaults stand in tuples; what they are called stands in its code."""
    code = _CODE(function)
    place = _place(lambda: tuple.__iter__(values), held)
    if place is None:
        return "[…]"
    if values is _CLOSURE(function):
        return f"(closure variable {code.co_freevars[place]})"
    if values is _DEFAULTS(function):
        first = code.co_argcount - len(values)
        return f"(default of argument {code.co_varnames[first + place]})"
    return f"[{place}]"


def _variable(node: object, held: object) -> str:
    """Which context variable has a value: its key lies beside it in the tree, and both are visited backwards."""
    if type_name(type(held)) in _HAMT:
        return ""
    seen = gc.get_referents(node)
    place = _place(seen.__iter__, held)
    if place is None or place + 1 >= len(seen) or type(seen[place + 1]) is not ContextVar:
        return ""
    return f"(context variable {plain_text(seen[place + 1].name)})"


def _of_function(function: object, held: object) -> str:
    if held is _CLOSURE(function) or held is _DEFAULTS(function) or held is _KWDEFAULTS(function):
        return ""
    if held is instance_dict(function):
        return ""
    return "→"


def _local(frame: FrameType, held: object) -> str:
    for name, value in frame_locals(frame):
        if value is held:
            return f"(local {plain_text(name)} of {plain_text(frame.f_code.co_qualname)})"
    return "→"


_SPECIAL: Final[dict[int, Callable[[Any, Any], str]]] = {
    id(FunctionType): _of_function, id(MethodType): _of_method, id(FrameType): _local,
    id(TracebackType): _of_traceback, id(GeneratorType): _of_runner, id(CoroutineType): _of_runner,
    id(AsyncGeneratorType): _of_runner, id(_LRU): _of_cached,
}  # fmt: skip
