"""The table of other people's caches: one row each, matched by the name of the type, so that nothing is imported.

A row says what holds the entries, in which order they go, under which lock, and what that costs. Rows read attributes
that libraries do not promise; ``tests/reclaimers/test_adapters.py`` holds each against the real library.
"""

from __future__ import annotations

import gc
import time
import types
from collections import deque
from collections.abc import Mapping, MutableMapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from memguard.reclaimers.dropping import Dropper
from memguard.reclaimers.entries import bytes_of, is_a, peek_function, peek_items
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memguard.kinds import Cost

__all__ = ["Row", "lru_table", "row_for"]

# What has expired is looked for among so many entries, oldest first: 1 ms under the cache's lock.
_STALE: Final = 16_384
# What tracemalloc sees of a compiled SELECT, and of each column that it returns (SQLAlchemy 2.0 and 2.1).
_STATEMENT_BYTES: Final = 12_000
_COLUMN_BYTES: Final = 850


@value
class Row:
    """How one kind of cache is sized, shrunk or emptied; every function takes the holder.

    ``kind`` is the type's module and name, or "module …". With a ``table`` the cache gives up entry by entry: the
    oldest first, or by ``take(holder, count)`` which returns what it took; ``stale`` takes what has expired, once
    a relief. ``weigh(entry)`` gives an entry's bytes. Without a table ``empty`` drops everything, and ``length``
    and ``peek`` size it. ``instead`` names the object that is meant; ``refusal`` why it cannot be taken; ``idle`` why
    there is nothing to give. ``kept`` holders are held, since the object passed is only one of several views.
    """

    kind: str
    table: Callable[[Any], Any] | None = None
    take: Callable[[Any, int], list[object]] | None = None
    stale: Callable[[Any], list[object]] | None = None
    weigh: Callable[[Any], int] = bytes_of
    hits: Callable[[Any], int | None] | None = None
    lock: Callable[[Any], Any] | None = None
    empty: Callable[[Any], object] | None = None
    length: Callable[[Any], int | None] | None = None
    peek: Callable[[Any], Sequence[object] | None] | None = None
    cost: Cost = "cheap"
    entry_cost_s: float | None = None
    kept: bool = False
    instead: Callable[[Any], Any] | None = None
    refusal: str = ""
    idle: str = ""
    threads: bool = False
    """Whether it keeps conversations, see ``conversations.py``."""


def row_for(obj: Any, name: str) -> tuple[Any, Row]:  # noqa: ANN401 - anything may be passed
    """The object that is meant, and its row.

    Raises:
        TypeError: it cannot be shrunk; the text says why and what to do.
    """
    for _ in range(8):  # proxies of proxies; none of them may go round for ever
        obj, row = _match(obj)
        if row.instead is not None:
            obj = row.instead(obj)
            continue
        if row.refusal:
            raise _refusal(obj, name, row.refusal)
        return obj, row
    raise _refusal(obj, name, "a proxy that leads nowhere")


def _refusal(obj: object, name: str, why: str) -> TypeError:
    kind = f"module {obj.__name__}" if isinstance(obj, types.ModuleType) else _kind(type(obj))
    return TypeError(
        f"holder {name!r}: cannot shrink {kind}: {why}. Mappings, cachetools caches, functions under lru_cache or "
        f"cachetools.cached, objects with popitem() or clear(), and the libraries in docs/existing-caches.md will do; "
        f"for anything else write guard.reclaimer({name!r}, lambda wanted_bytes: ...)"
    )


def _kind(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _match(obj: Any) -> tuple[Any, Row]:  # noqa: ANN401
    if isinstance(obj, type):
        return obj, Row(kind="a class", refusal=f"{obj.__name__} is a class: pass an instance of it")
    if isinstance(obj, types.MethodType):
        if callable(getattr(obj, "cache", None)) and hasattr(obj, "cache_key"):
            return obj.__self__, _of_method(obj.__func__)  # cachetools 5: an instance's cache, through the class's name
        obj = obj.__func__  # the class's function holds the cache; a bound method lives for a moment only
    if isinstance(obj, types.ModuleType):
        known = ", ".join(sorted(row.kind.removeprefix("module ") for row in ROWS if row.kind.startswith("module ")))
        none = Row(kind="a module", refusal=f"a module whose caches are not known (known: {known})")
        return obj, _BY_KIND.get(f"module {obj.__name__}", none)
    for cls in type(obj).__mro__:
        row = _BY_KIND.get(_kind(cls))
        if row is not None:
            return obj, row if row.length is not _lru_length else _of_lru(obj)
    return obj, _by_shape(obj)


def _by_shape(obj: Any) -> Row:  # noqa: ANN401, PLR0911 - one line per shape
    if getattr(type(getattr(getattr(obj, "cache_info", None), "__self__", None)), "__module__", "") == _FUNCTIONS:
        return _OUR_FUNCTION
    if callable(obj) and hasattr(obj, "cache_key") and hasattr(obj, "cache"):
        cache: Any = getattr(obj, "cache", None)
        if is_a(cache, MutableMapping):
            return _CACHED_FUNCTION
        why = "a method under cachetools.cachedmethod" if callable(cache) else "a function that caches nothing"
        return Row(kind="a function", refusal=f"{why}: pass the cache object itself")
    if type(obj).__module__.startswith("cachetools") and callable(obj):  # cachetools 8, through the class
        why = "a method under cachetools.cachedmethod: pass it through an instance, or the cache object itself"
        return Row(kind="a method", refusal=why)
    if callable(obj) and any(_kind(cls) in _BY_KIND for cls in type(getattr(obj, "cache", None)).__mro__):
        return Row(kind="a function under a library's decorator", instead=lambda function: function.cache)
    if callable(getattr(obj, "cache_clear", None)):
        return _CLEARED_FUNCTION
    if isinstance(obj, MutableMapping) or (callable(getattr(obj, "popitem", None)) and hasattr(obj, "__len__")):
        return _MAPPING
    if callable(getattr(obj, "clear", None)):
        return _CLEARED
    why = "it has neither popitem() nor clear() nor cache_clear()"
    if is_a(obj, Mapping):
        why = "a mapping that cannot be changed: pass the one behind it"
    return Row(kind="unknown", refusal=why)


# --- functions ----------------------------------------------------------------------------------------------------


def lru_table(function: Any) -> dict[Any, Any] | None:  # noqa: ANN401
    """The dict of a function under ``functools.cache``; None for a bounded one, and where it cannot be told.

    CPython 3.11 to 3.13 reads and writes it by single calls into the dict, and asks it for its length, so taking
    entries out beside callers is safe. A bounded ``lru_cache`` keeps a linked list as well: there is no taking out.
    """
    if function.cache_parameters()["maxsize"] is not None:
        return None
    own = getattr(function, "__dict__", None)
    found = [inside for inside in gc.get_referents(function) if type(inside) is dict and inside is not own]
    return found[0] if len(found) == 1 else None


def _of_lru(function: Any) -> Row:  # noqa: ANN401
    try:
        table = lru_table(function)
    except Exception:  # noqa: BLE001 - cache_parameters is an attribute, and may be anything
        table = None
    return _CLEARED_FUNCTION if table is None else _UNBOUNDED_FUNCTION


def _lru_length(function: Any) -> int | None:  # noqa: ANN401
    info = getattr(function, "cache_info", None)
    length: int | None = getattr(info(), "currsize", None) if callable(info) else None
    return length


def _of_method(function: Any) -> Row:  # noqa: ANN401
    lock = getattr(function, "cache_lock", None)
    return Row(
        kind="a method under cachetools.cachedmethod",
        table=function.cache,
        lock=lock,
    )


def _cached_hits(function: Any) -> int | None:  # noqa: ANN401
    """Hits under ``cachetools.cached(info=True)``: asking takes the function's lock, so not while it is taken."""
    info, lock = getattr(function, "cache_info", None), getattr(function, "cache_lock", None)
    if not callable(info):
        return None
    if lock is not None:
        if not lock.acquire(blocking=False):
            return None
        lock.release()
    hits: int | None = getattr(info(), "hits", None)
    return hits


# --- libraries ----------------------------------------------------------------------------------------------------


def _take_locmem(cache: Any, count: int) -> list[object]:  # noqa: ANN401
    """The least recently used: Django keeps them at the end."""
    table, due = cache._cache, cache._expire_info  # noqa: SLF001 - as in all rows: see the top
    taken = [table.popitem() for _ in range(min(count, len(table)))]
    for key, _ in taken:
        due.pop(key, None)
    return list(taken)


def _stale_locmem(cache: Any) -> list[object]:  # noqa: ANN401
    table, due, now = cache._cache, cache._expire_info, time.time()  # noqa: SLF001
    stale = [key for key, at in islice(due.items(), _STALE) if at is not None and at <= now]
    return [(key, table.pop(key, None), due.pop(key, None)) for key in stale]


def _take_aiocache(cache: Any, count: int) -> list[object]:  # noqa: ANN401
    """The oldest; the timers of those that expire are cancelled by their own event loop, which alone may."""
    table, timers = cache._cache, cache._handlers  # noqa: SLF001
    taken: list[Any] = Dropper(table).drop(count)
    by_loop: dict[Any, list[object]] = {}
    for key, _ in taken:
        # uvloop's timers do not tell their loop: they fire in vain, and are forgotten at the next set().
        loop = getattr(timers.get(key), "_loop", None)
        if loop is not None:
            by_loop.setdefault(loop, []).append(key)
    for loop, keys in by_loop.items():
        try:
            loop.call_soon_threadsafe(_cancel, table, timers, keys)
        except RuntimeError:  # closed: its timers never fire
            _cancel(table, timers, keys)
    return taken


def _cancel(table: dict[object, object], timers: dict[object, Any], keys: list[object]) -> None:
    for key in keys:
        if key not in table and (timer := timers.pop(key, None)) is not None:  # not when it was set again meanwhile
            timer.cancel()


def _take_langchain(cache: Any, count: int) -> list[object]:  # noqa: ANN401
    """The oldest; a bounded one deletes its very oldest without a lock, so that one is left to it."""
    table = cache._cache  # noqa: SLF001
    spared = 0 if getattr(cache, "_maxsize", None) is None else 1
    return [(key, table.pop(key, None)) for key in list(islice(table, spared, spared + count))]


def _take_compiled(engine: Any, count: int) -> list[object]:  # noqa: ANN401
    """The least recently used: each entry keeps the count of its last use."""
    table = engine._compiled_cache._data  # noqa: SLF001
    oldest = sorted(list(table.values()), key=lambda entry: entry[2][0])[:count]  # noqa: C414 - one call into C
    return [entry for entry in oldest if table.pop(entry[0], None) is not None]


def _weigh_compiled(entry: Any) -> int:  # noqa: ANN401
    """By its columns and its text: what it refers to is mostly shared with the statement, the tables, the dialect."""
    compiled = entry[1][1] if len(entry) == 2 else entry[1]  # noqa: PLR2004 - (key, (key, compiled, [use])) or its value
    columns = len(getattr(compiled, "_result_columns", None) or ())
    return _STATEMENT_BYTES + columns * _COLUMN_BYTES + len(getattr(compiled, "string", None) or "")


def _compiled_table(engine: Any) -> Any:  # noqa: ANN401
    cache = engine._compiled_cache  # noqa: SLF001
    return {} if cache is None else cache._data  # noqa: SLF001


def _take_lines(module: Any, count: int) -> list[object]:  # noqa: ANN401
    """Files that can be read again; what has no file (a notebook's cell, generated code) stays."""
    table = module.cache
    files = [key for key, entry in list(table.items()) if len(entry) > 1 and entry[1] is not None]
    return [(key, entry) for key in files[:count] if (entry := table.pop(key, None)) is not None]


def _weigh_lines(entry: Any) -> int:  # noqa: ANN401
    key, value = entry
    return bytes_of((key, value[2] if len(value) > 2 else value))  # noqa: PLR2004 - (size, mtime, lines, path), or a loader


def _typing_functions(module: Any) -> list[Any]:  # noqa: ANN401
    """Every lru_cache behind ``typing.List[…]`` and the like: ``_cleanups`` holds their cache_clear."""
    return [clear.__self__ for clear in module._cleanups if hasattr(clear, "__self__")]  # noqa: SLF001


def _clear_typing(module: Any) -> None:  # noqa: ANN401
    for clear in module._cleanups:  # noqa: SLF001
        clear()


_SHARDS: Final = (
    "its entries lie on disk; what it holds in memory are the page caches of SQLite, one for each thread that used it, "
    "which only that thread can shrink: lower sqlite_cache_size and sqlite_mmap_size, or run "
    "cache._sql('PRAGMA shrink_memory') in it"
)
_OURS: Final = "it is among all caches by itself (the holder 'caches'); weight, min_bytes and name are its own options"
_REMOTE: Final = "this backend keeps its entries outside of this process: there is no memory here to give back"

ROWS: Final[tuple[Row, ...]] = (
    # The standard library
    Row(kind="functools._lru_cache_wrapper", length=_lru_length),  # bounded or not: see _of_lru
    Row(
        kind="weakref.WeakValueDictionary",
        idle="its values live because others hold them: dropping an entry frees nothing, and parts who share one",
    ),
    Row(
        kind="module linecache",
        table=lambda module: module.cache,
        take=_take_lines,
        weigh=_weigh_lines,
        entry_cost_s=2e-4,  # reading a file of 500 lines again
    ),
    Row(
        kind="module re",
        empty=lambda module: module.purge(),
        length=lambda module: len(module._cache),  # noqa: SLF001
        peek=lambda module: peek_items(list(module._cache.items())),  # noqa: SLF001
        cost="dear",  # up to 512 patterns are compiled anew, 0.1 to 5 ms each, by whoever comes next
    ),
    Row(
        kind="module fnmatch",
        empty=lambda module: module._compile_pattern.cache_clear(),  # noqa: SLF001
        length=lambda module: _lru_length(module._compile_pattern),  # noqa: SLF001
        peek=lambda module: peek_function(module._compile_pattern),  # noqa: SLF001
    ),
    Row(
        kind="module typing",
        empty=_clear_typing,
        length=lambda module: sum(_lru_length(function) or 0 for function in _typing_functions(module)),
        peek=lambda module: list(chain.from_iterable(peek_function(f) or () for f in _typing_functions(module))),
    ),
    Row(kind="module struct", empty=lambda module: module._clearcache()),  # noqa: SLF001
    # Django
    Row(
        kind="django.core.cache.backends.locmem.LocMemCache",
        table=lambda cache: cache._cache,  # noqa: SLF001
        take=_take_locmem,
        stale=_stale_locmem,
        lock=lambda cache: cache._lock,  # noqa: SLF001
        kept=True,  # each thread has an instance of its own; the entries belong to the process
    ),
    Row(
        kind="django.utils.connection.ConnectionProxy",
        instead=lambda proxy: proxy._connections[proxy._alias],  # noqa: SLF001 - django.core.cache.cache
    ),
    Row(kind="django.core.cache.backends.base.BaseCache", refusal=_REMOTE),
    # aiocache
    Row(kind="aiocache.backends.memory.SimpleMemoryBackend", table=lambda cache: cache._cache, take=_take_aiocache),  # noqa: SLF001
    Row(kind="aiocache.base.BaseCache", refusal=_REMOTE),
    # SQLAlchemy
    Row(
        kind="sqlalchemy.engine.base.Engine",
        table=_compiled_table,
        take=_take_compiled,
        weigh=_weigh_compiled,
    ),
    Row(kind="sqlalchemy.ext.asyncio.engine.AsyncEngine", instead=lambda engine: engine.sync_engine),
    # LangChain and LangGraph
    Row(
        kind="langchain_core.caches.InMemoryCache",
        table=lambda cache: cache._cache,  # noqa: SLF001
        take=_take_langchain,
        entry_cost_s=1.0,  # an answer of a language model
    ),
    Row(kind="langgraph.checkpoint.memory.InMemorySaver", threads=True, cost="dear"),
    # Ours
    Row(kind="memguard.caching.mapping.Cache", idle=_OURS),
    # diskcache
    Row(kind="diskcache.core.Cache", idle=_SHARDS),
    Row(kind="diskcache.fanout.FanoutCache", idle=_SHARDS),
)

_BY_KIND: Final[Mapping[str, Row]] = types.MappingProxyType({row.kind: row for row in ROWS})

# Shapes rather than types.
_SIZED: Final = (list, set, deque)
_MAPPING: Final = Row(kind="a mapping", table=lambda mapping: mapping)
_CACHED_FUNCTION: Final = Row(
    kind="a function under cachetools.cached",
    table=lambda function: function.cache,
    lock=lambda function: getattr(function, "cache_lock", None),
    hits=_cached_hits,
)
_OUR_FUNCTION: Final = Row(kind="a function under memguard.cached", idle=_OURS)
_FUNCTIONS: Final = "memguard.caching.functions"
_UNBOUNDED_FUNCTION: Final = Row(
    kind="a function under functools.cache",
    table=lambda function: lru_table(function) or {},
    hits=lambda function: function.cache_info().hits,
    cost="dear",  # such functions often make singletons
)
_CLEARED_FUNCTION: Final = Row(
    kind="a function with cache_clear()",
    empty=lambda function: function.cache_clear(),
    length=_lru_length,
    peek=peek_function,
    cost="dear",  # as above
)
_CLEARED: Final = Row(
    kind="an object with clear()",
    empty=lambda holder: holder.clear(),
    length=lambda holder: len(holder) if is_a(holder, _SIZED) else None,
    peek=lambda holder: peek_items(holder) if is_a(holder, _SIZED) else None,
    cost="dear",
)
