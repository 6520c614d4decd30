"""The decorator: results of functions kept in bytes, given up when memory is short, hit at the speed of lru_cache."""

from __future__ import annotations

import sys
import time
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final, overload

from memguard.caching.calls import Routes, sync_miss, uncached
from memguard.caching.entry import ENTRY_BYTES
from memguard.caching.instances import Owner
from memguard.caching.market import market_of
from memguard.caching.options import Options
from memguard.caching.shapes import Counts
from memguard.caching.spec import Spec, counted
from memguard.caching.store import Store
from memguard.sizing import entry_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from typing import Concatenate, ParamSpec, TypeVar

    from memguard.caching.shapes import Cached, CachedOfClass, Decorator
    from memguard.roster import Roster

    P = ParamSpec("P")
    Q = ParamSpec("Q")
    R = TypeVar("R")
    S = TypeVar("S")

__all__ = ["cached"]

# inspect.CO_GENERATOR, CO_COROUTINE and CO_ASYNC_GENERATOR, without inspect.
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200
# Where a callable is marked as a coroutine function, and the mark's module and name there (twice renamed). The mark
# itself counts: a mock has any attribute.
_MARKS: Final = (
    ("_is_coroutine", "asyncio.coroutines", "_is_coroutine"),
    ("_is_coroutine_marker", "inspect", "_is_coroutine_mark"),
    ("_is_coroutine_marker", "inspect", "_is_coroutine_marker"),
)


@overload
def cached(maxsize: Callable[Concatenate[type[S], Q], R], /) -> CachedOfClass[S, Q, R]: ...


@overload
def cached(maxsize: Callable[P, R], /) -> Cached[P, R]: ...


@overload
def cached(
    maxsize: int | None = None,
    *,
    max_bytes: int | str | None = None,
    ttl: float | str | Callable[[Any], float | None] | None = None,
    typed: bool = False,
    key: Callable[..., Hashable] | None = None,
    cost: float | Callable[[Any], float] | None = None,
    name: str | None = None,
    weight: float = 1.0,
    min_bytes: int | str = 0,
    coalesce: bool = True,
    negative_ttl: float | str | Mapping[type[Exception] | None, float | str] | None = None,
    stale_s: float | str | None = None,
    roster: Roster | None = None,
) -> Decorator: ...


def cached(  # noqa: PLR0913 - each option has a name and a default
    maxsize: Any = None,
    *,
    max_bytes: int | str | None = None,
    ttl: float | str | Callable[[Any], float | None] | None = None,
    typed: bool = False,
    key: Callable[..., Hashable] | None = None,
    cost: float | Callable[[Any], float] | None = None,
    name: str | None = None,
    weight: float = 1.0,
    min_bytes: int | str = 0,
    coalesce: bool = True,
    negative_ttl: float | str | Mapping[type[Exception] | None, float | str] | None = None,
    stale_s: float | str | None = None,
    roster: Roster | None = None,
) -> Any:
    """A decorator that keeps a function's results, as ``functools.lru_cache`` does, bounded in bytes by the guard.

    Bare or called, over functions, methods, ``async def``, below ``staticmethod``, ``classmethod`` and ``property``.
    Under memory pressure the guard evicts what saves the least seconds of recomputing per byte, over all caches.

    Args:
        maxsize: most entries; None: no limit; 0 counts calls and keeps nothing.
        max_bytes: most accounted bytes, as a number or like "64MiB".
        ttl: how long a result is good, in seconds, like "5m", or a callable from the result to seconds (None: for
            ever, 0: not at all).
        typed: whether 3 and 3.0 are different arguments.
        key: makes the key out of the arguments; all of them, ``self`` included.
        cost: seconds that a computation is worth, or a callable from the result to them; measured by default.
        name: what the guard calls it; module and qualified name by default.
        weight: how many times dearer its entries are than measured.
        min_bytes: bytes that pressure on other caches never takes.
        coalesce: whether callers of a key that is being computed wait for it instead of computing it too.
        negative_ttl: how long a result of None is good; or a mapping from exception types (and None) to that: such
            an exception is kept, and a copy of it raised to who asks again. Others are not kept, nor RecursionError and
            MemoryError, which say nothing of the key.
        stale_s: for ``async def`` with ``ttl``: how long after that a result is still answered, at once, while a new
            one is computed.
        roster: where it signs up; the process's by default.

    A method's instances count by identity, and what is cached for one goes when it dies: nothing here keeps it alive.
    Those that cannot be weakly referenced and have a hash of their own (named tuples, numbers) count as arguments do.
    ``f(1)`` and ``f(a=1)`` are one call. The wrapped function may be called twice for a key when callers would wait
    for each other in a circle.

    >>> @cached(ttl="5m", name="squares")
    ... def square(number: int) -> int:
    ...     return number * number
    >>> square(3), square(number=3)
    (9, 9)
    >>> hits, misses, maxsize, currsize = square.cache_info()
    >>> hits, misses, maxsize, currsize
    (1, 1, None, 1)

    Raises:
        TypeError: an option of the wrong type; a generator function, or something that cannot be called.
        ValueError: an option that cannot be meant.
    """
    bare = callable(maxsize) or isinstance(maxsize, (staticmethod, classmethod, property))
    options = Options.parsed(
        maxsize=None if bare else maxsize,
        max_bytes=max_bytes,
        ttl=ttl,
        typed=typed,
        key=key,
        cost=cost,
        name=name,
        weight=weight,
        min_bytes=min_bytes,
        coalesce=coalesce,
        negative_ttl=negative_ttl,
        stale_s=stale_s,
    )
    return _decorated(options, roster, maxsize) if bare else partial(_decorated, options, roster)


def _decorated(options: Options, roster: Roster | None, function: Any, /) -> Any:  # noqa: ANN401 - keeps its type
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(_decorated(options, roster, function.__func__))
    if isinstance(function, property):
        raise TypeError("cached cannot wrap a property: put cached below it, on the getter")
    if not callable(function):
        raise TypeError(f"cached wraps functions, not {type(function).__name__} objects")
    awaited = _is_awaited(function)
    spec = _spec_of(options, function, awaited=awaited)
    routes = Routes(spec, awaited=awaited)
    due, steps = spec.store.due, None
    if options.maxsize == 0:
        miss = uncached(spec, awaited=awaited)
    elif awaited:
        from memguard.caching.awaiting import Awaiting  # noqa: PLC0415 - only who has coroutines needs it

        awaiting = Awaiting(spec)
        miss, due = routes.diverted(awaiting.miss), awaiting.due
    else:
        miss, steps = sync_miss(spec, routes.divert)
    wrapper = routes.wrapper(miss, due, steps)
    controls = _Controls(spec, options, routes)
    for name in ("cache_info", "cache_clear", "cache_parameters", "cache_invalidate", "cache_key"):
        setattr(wrapper, name, getattr(controls, name))
    market_of(roster).join(spec.store, held=wrapper, weakly=True)
    return wrapper


def _spec_of(options: Options, function: Callable[..., Any], *, awaited: bool) -> Spec:
    name = options.name or _name_of(function)
    if options.stale_s is not None and not awaited:
        raise ValueError(f"cached function {name}: stale_s is for async functions: nobody else computes meanwhile")
    store = Store(
        name=name,
        size_of=_size_of,
        maxsize=options.maxsize,
        max_bytes=options.max_bytes,
        min_bytes=options.min_bytes,
        weight=options.weight,
        clock=time.monotonic,
    )
    return Spec(
        name=name,
        function=function,
        store=store,
        ttl_s=options.ttl_s,
        stale_s=options.stale_s,
        none_ttl_s=options.none_ttl_s,
        failures=options.failures,
        cost_s=options.cost_s,
        coalesce=options.coalesce,
        typed=options.typed,
        key=options.key,
    )


def _size_of(key: Any, value: object) -> int:  # noqa: ANN401 - whatever is hashable
    if type(key) is tuple and key and type(key[0]) is Owner:  # an instance is not the cache's
        key = key[1]
    return ENTRY_BYTES + entry_bytes(key, value)


def _name_of(function: Any) -> str:  # noqa: ANN401
    module = getattr(function, "__module__", None) or "?"
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _is_awaited(function: Any) -> bool:  # noqa: ANN401
    """Whether calling it gives a coroutine, as far as can be seen without calling.

    Raises:
        TypeError: it gives a generator.
    """
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    if not isinstance(inner, (FunctionType, MethodType, type)):
        inner = type(inner).__call__  # an object that is called like a function
    code = getattr(inner, "__code__", None)
    flags = 0 if code is None else code.co_flags
    if flags & (_GENERATOR | _ASYNC_GENERATOR):
        kind = "generator" if flags & _GENERATOR else "async generator"
        raise TypeError(
            f"cached cannot wrap the {kind} function {_name_of(function)}: what it gives can be used only once; "
            f"return a list or a tuple"
        )
    return bool(flags & _COROUTINE) or _is_marked(function) or _is_marked(inner)


def _is_marked(function: Any) -> bool:  # noqa: ANN401
    for attribute, module, name in _MARKS:
        mark = getattr(sys.modules.get(module), name, None)  # who has marked something has imported it
        if mark is not None and getattr(function, attribute, None) is mark:
            return True
    return False


class _Controls:
    """The ``cache_…`` functions of one wrapper."""

    __slots__ = ("_options", "_routes", "_spec")

    def __init__(self, spec: Spec, options: Options, routes: Routes) -> None:
        self._spec = spec
        self._options = options
        self._routes = routes

    def cache_info(self) -> Counts:
        """Hits, misses, limit and number of entries; ``.bytes`` beside them."""
        store, course = self._spec.store, self._spec.course
        hits = store.hits + counted(course.shared)
        counts = Counts(hits, counted(course.misses), self._options.maxsize, len(store))
        counts.bytes = store.bytes
        return counts

    def cache_clear(self) -> None:
        """Drop every entry, what is being computed too, and count from zero."""
        self._spec.clear()

    def cache_parameters(self) -> dict[str, Any]:
        """The options in force, as a new dict."""
        return self._options.shown()

    def cache_invalidate(self, *args: Any, **kwargs: Any) -> bool:  # noqa: ANN401 - the function's own
        """Drop the entry of these arguments, and what is being computed for them; whether there was one."""
        return self._spec.invalidate(self._routes.key(args, kwargs))

    def cache_key(self, *args: Any, **kwargs: Any) -> Hashable:  # noqa: ANN401 - the function's own
        """The key of these arguments."""
        return self._routes.key(args, kwargs)
