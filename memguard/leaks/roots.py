"""Where a chain may end: what lives as long as the process, or is run by it."""

from __future__ import annotations

import sys
from functools import lru_cache
from types import CodeType, CoroutineType, FrameType, FunctionType, GeneratorType, ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from memguard.leaks.names import attribute, class_dict, module_dict, mro, plain_text, type_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["Root", "Roots", "frame_locals", "running_frames", "task_name", "thread_name"]

_LRU: Final = type(lru_cache(lambda: None))
_FUNCTION_NAME: Final[Any] = FunctionType.__dict__["__qualname__"].__get__
_FUNCTION_GLOBALS: Final[Any] = FunctionType.__dict__["__globals__"].__get__
_CO_OPTIMIZED: Final = 0x1
# Frames of one thread, from the innermost; recursion that goes deeper adds nothing.
_FRAMES_AT_MOST: Final = 200
# Before 3.13, frame.f_locals is a copy that the frame keeps (PEP 667).
_LOCALS_ARE_COPIED: Final = sys.version_info < (3, 13)
_LOCALS_PROXY: Final = None if _LOCALS_ARE_COPIED else type((lambda: sys._getframe().f_locals)())  # noqa: PLC3002, SLF001
# What getrefcount says of such a copy that nobody but its frame, our variable and the call itself refers to.
_UNSHARED: Final = 3


class Root(NamedTuple):
    """What a chain starts at: its kind and its name, as in ``Chain``."""

    kind: str
    name: str


class Roots:
    """Knows a root when it sees one; made anew for each search."""

    def __init__(self) -> None:
        self._modules: dict[int, str] = {}
        for name, module in list(sys.modules.items()):
            names = module_dict(module)
            if names is not None:
                self._modules.setdefault(id(names), plain_text(name))
        asyncio = sys.modules.get("_asyncio")
        self._task: type | None = None if asyncio is None else (module_dict(asyncio) or {}).get("Task")
        threading = sys.modules.get("threading")
        self._thread: type | None = None if threading is None else (module_dict(threading) or {}).get("Thread")

    def of(self, thing: object) -> Root | None:
        """What kind of root this is; None when it is none."""
        module = self._modules.get(id(thing))
        if module is not None:
            return Root("module", module)
        kind = type(thing)
        if kind is FunctionType:
            return _function(thing)
        if kind is _LRU:
            return Root("lru_cache", _cached_name(thing))
        if issubclass(kind, type):
            return Root("class", type_name(thing))  # type: ignore[arg-type]
        if issubclass(kind, ModuleType):
            return Root("module", plain_text((module_dict(thing) or {}).get("__name__")))
        return self._runner(thing, kind)

    def _runner(self, thing: object, kind: type) -> Root | None:
        """Of what runs: a task or a thread."""
        if self._task is not None and issubclass(kind, self._task):
            return Root("task", task_name(thing))
        if self._thread is not None and issubclass(kind, self._thread) and _runs(thing):
            return Root("thread", thread_name(thing))
        return None


def _function(function: object) -> Root | None:
    """A function is a root unless it was made while another ran: of those there may be many."""
    name = plain_text(_FUNCTION_NAME(function))
    if "<locals>" in name or name == "<lambda>":
        return None
    return Root("function", f"{plain_text(dict.get(_FUNCTION_GLOBALS(function), '__name__'))}.{name}")


def _cached_name(cached: object) -> str:
    return f"{plain_text(attribute(cached, '__module__'))}.{plain_text(attribute(cached, '__qualname__'))}"


def _runs(thread: object) -> bool:
    threading = sys.modules.get("threading")
    active = (module_dict(threading) or {}).get("_active", {})
    return any(known is thread for known in list(dict.values(active)))


def thread_name(thread: object) -> str:
    """A thread's name, and what it runs."""
    return plain_text(attribute(thread, "_name"))


def task_name(task: object) -> str:
    """An asyncio task by the coroutine that it runs."""
    get_coro = _first(type(task), "get_coro")
    try:
        coroutine = get_coro(task)
    except Exception:  # noqa: BLE001 - a task of somebody's own making
        return type_name(type(task))
    if type(coroutine) is CoroutineType or type(coroutine) is GeneratorType:
        return plain_text(coroutine.__qualname__)
    return type_name(type(coroutine))


def _first(kind: type, name: str) -> Any:  # noqa: ANN401 - a method of C's Task, or of its Python twin
    for base in mro(kind):
        found = class_dict(base).get(name)
        if found is not None:
            return found
    return None


def frame_locals(frame: FrameType) -> list[tuple[Any, Any]]:
    """The local variables of a frame by name, without leaving a copy of them behind in it."""
    names: Any = frame.f_locals
    if type(names) is _LOCALS_PROXY:
        return list(names.items())
    if not issubclass(type(names), dict):  # a class's body may run in anything
        return []
    found = list(dict.items(names))
    code: CodeType = frame.f_code
    # Not where the copy is the namespace itself (a module's or a class's body), nor where the program holds it.
    if _LOCALS_ARE_COPIED and code.co_flags & _CO_OPTIMIZED and sys.getrefcount(names) <= _UNSHARED:
        names.clear()
    return found


def running_frames(skip: Collection[str]) -> Iterator[tuple[str, FrameType]]:
    """Every frame that some thread is in, with that thread's name, without those of modules named so."""
    active = (module_dict(sys.modules.get("threading")) or {}).get("_active", {})
    frames: dict[int, FrameType] = sys._current_frames()  # noqa: SLF001 - the documented way
    frame: FrameType | None = None
    try:
        while frames:
            ident, frame = frames.popitem()
            thread = active.get(ident)
            name = f"thread {ident}" if thread is None else thread_name(thread)
            for _ in range(_FRAMES_AT_MOST):
                if frame is None:
                    break
                home = dict.get(frame.f_globals, "__name__")
                if not plain_text(home).startswith(tuple(skip)):
                    yield name, frame
                frame = frame.f_back
    finally:  # one of them is our own: it would keep itself, and all that its callers hold
        frames.clear()
        del frame
