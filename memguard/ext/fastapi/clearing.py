"""Clearing: what has expired, every cache, the connections of an engine."""

from collections.abc import Callable, Iterator
from inspect import isawaitable
from math import inf
from typing import Any

from fastapi import APIRouter

from memguard.caching.market import Market
from memguard.ext.fastapi import outcomes
from memguard.ext.fastapi.asking import Asked, Asker, aside, mb
from memguard.ext.fastapi.control import Control
from memguard.ext.fastapi.problems import Problem
from memguard.reclaimers.caches import ClearCache, EvictCache

__all__ = ["add_clearing", "clear_caches"]

# More than anything holds.
_ALL_BYTES = 1 << 62
_ENGINES = ("sqlalchemy.engine", "sqlalchemy.ext.asyncio")


def add_clearing(router: APIRouter) -> None:
    """Add these routes."""
    router.post("/system/cache/cleanup", summary="Drop what has expired")(drop_expired)
    router.post("/system/db/pool/reset", summary="Close the connections of registered engines")(reset_engines)


async def drop_expired(control: Asked, asker: Asker) -> outcomes.CacheCleanup:
    """Expired entries only; of each cache how many, and what memory that gave back."""
    return await aside(lambda: _over_all(control, asker, "dropped expired entries", _expire))


async def clear_caches(control: Asked, asker: Asker) -> outcomes.CacheCleanup:
    """Every entry of every registered cache, down to the floors (``min_bytes``) that the application set."""
    return await aside(lambda: _over_all(control, asker, "cleared all caches", _clear))


async def reset_engines(control: Asked, asker: Asker) -> outcomes.Engines:
    """Idle connections are closed at once, those in use when they are given back; new ones are opened as needed."""
    engines = dict(_engines(control))
    if not engines:
        raise Problem(
            404, "no SQLAlchemy engine is registered: protect(…, engines=(engine,)) or guard.cache(engine, name='db')"
        )
    rows = [await _reset(name, engine) for name, engine in engines.items()]
    control.audit(asker, "reset connection pools", ", ".join(engines))
    return outcomes.Engines(engines=rows)


def _over_all(control: Control, asker: Asker, what: str, give: Callable[[Any], int | None]) -> outcomes.CacheCleanup:
    rows = list[outcomes.Cache]()

    def work() -> None:
        for name, cache in _caches(control):
            before, error, entries = _size(cache), "", None
            try:
                entries = give(cache)
            except Exception as failure:  # noqa: BLE001 - somebody's cache; the others are asked all the same
                error = f"{type(failure).__name__}: {failure}"
            after = _size(cache)
            rows.append(
                outcomes.Cache(name=name, entries=entries, before_mb=mb(before), after_mb=mb(after), error=error)
            )

    relief = control.guard.measure(what, work)
    if relief.error:
        raise Problem(503, f"{what}: {relief.error}")
    entries = sum(row.entries or 0 for row in rows)
    trim = control.guard.trim() if entries else None
    bought = relief.bought_bytes + (0 if trim is None else trim.bought_bytes)
    control.audit(asker, what, f"{entries} entries of {len(rows)} caches", bought_bytes=bought)
    return outcomes.CacheCleanup(
        caches=rows,
        entries=entries,
        before_mb=round(sum(row.before_mb or 0.0 for row in rows), 3),
        after_mb=round(sum(row.after_mb or 0.0 for row in rows), 3),
        bought_mb=mb(bought),
        took_s=round(relief.cost_s + (0.0 if trim is None else trim.cost_s), 6),
    )


def _caches(control: Control) -> Iterator[tuple[str, Any]]:
    """Every registered cache: those on the market, and those with a level of their own."""
    for name, reclaimer in control.guard.roster.entries():
        if isinstance(reclaimer, Market):
            yield from ((part.name, shelf) for part, shelf in zip(reclaimer.parts(), reclaimer.shelves, strict=False))
        elif isinstance(reclaimer, (EvictCache, ClearCache)):
            yield name, reclaimer


def _expire(cache: Any) -> int | None:  # noqa: ANN401 - a shelf or a reclaimer
    """Drop what has expired; how many, None where the cache knows nothing of expiry."""
    expire = getattr(cache, "expire", None)
    if not callable(expire):
        return 0
    gone = expire()
    return gone if isinstance(gone, int) else None


def _clear(cache: Any) -> int | None:  # noqa: ANN401 - as above
    before = _length(cache)
    if callable(getattr(cache, "shrink", None)):
        cache.shrink(_ALL_BYTES, inf)
    else:
        cache.reclaim(_ALL_BYTES)
    after = _length(cache)
    return None if before is None or after is None else before - after


def _length(cache: Any) -> int | None:  # noqa: ANN401 - as above
    table = getattr(cache, "table", None)
    if table is not None and not callable(table):
        return len(table)
    length = getattr(cache, "length", None)
    found = length() if callable(length) else None
    return found if isinstance(found, int) else None


def _size(cache: Any) -> int | None:  # noqa: ANN401 - as above
    try:
        size = cache.size()
    except Exception:  # noqa: BLE001 - as above
        return None
    return size if isinstance(size, int) else None


def _engines(control: Control) -> Iterator[tuple[str, Any]]:
    seen = set[int]()
    for number, engine in enumerate(control.engines):
        seen.add(id(engine))
        seen.add(id(getattr(engine, "sync_engine", engine)))
        yield f"engine {number + 1}", engine
    for name, cache in _caches(control):
        engine = getattr(cache, "holder", None)
        if engine is not None and type(engine).__module__.startswith(_ENGINES) and id(engine) not in seen:
            yield name, engine


async def _reset(name: str, engine: Any) -> outcomes.Engine:  # noqa: ANN401 - a SQLAlchemy Engine or AsyncEngine
    before, in_use = _connections(engine)
    if hasattr(engine, "sync_engine"):
        done = engine.dispose()
        if isawaitable(done):
            await done
    else:
        await aside(engine.dispose)
    return outcomes.Engine(name=name, open_before=before, in_use=in_use, open_after=_connections(engine)[0])


def _connections(engine: Any) -> tuple[int | None, int | None]:  # noqa: ANN401 - as above
    pool = getattr(getattr(engine, "sync_engine", engine), "pool", None)
    try:
        return pool.checkedin() + pool.checkedout(), pool.checkedout()  # type: ignore[union-attr]
    except (AttributeError, TypeError):  # a NullPool or a StaticPool keeps no count
        return None, None
