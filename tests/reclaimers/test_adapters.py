"""The adapter table against the real libraries: each row sizes, shrinks, and leaves a cache that still works."""

from __future__ import annotations

import asyncio
import fnmatch
import functools
import gc
import importlib
import linecache
import re
import struct
import threading
import time
import tracemalloc
import typing
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from memguard.model import Level
from memguard.ports import Reclaimer, Shelf
from memguard.reclaimers import conversations, evicting
from memguard.reclaimers.adapters import ROWS
from memguard.reclaimers.caches import NothingToGive, adapter_for
from memguard.reclaimers.callback import Callback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_MUCH = 1 << 40


def _adapter(obj: object, **options: Any) -> Any:
    return adapter_for(obj, name="answers", **options)[0]


def _text(number: int, size: int = 1000) -> str:
    return f"{number:06}" * (size // 6)


# --- the table --------------------------------------------------------------------------------------------------------

_TYPES = [row.kind for row in ROWS if not row.kind.startswith("module ")]
_MODULES = [row.kind.removeprefix("module ") for row in ROWS if row.kind.startswith("module ")]


@pytest.mark.parametrize("kind", _TYPES)
def test_every_row_names_a_type_that_is_there(kind: str) -> None:
    """The name in the row is the module and name that the library's own class tells."""
    module, _, name = kind.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, type)
    assert f"{found.__module__}.{found.__qualname__}" == kind


@pytest.mark.parametrize("name", _MODULES)
def test_every_module_row_empties_its_module(name: str) -> None:
    """The module is taken, and its functions work after its caches were emptied."""
    module = importlib.import_module(name)
    adapter, held = adapter_for(module, name=name)
    assert isinstance(adapter, Reclaimer)
    assert held is module
    fnmatch.fnmatch("a.py", "*.py")
    re.compile("a+b")
    struct.pack("<i", 5)
    assert adapter.size() != 0
    adapter.reclaim(_MUCH)
    assert fnmatch.fnmatch("a.py", "*.py")
    assert re.fullmatch("a+b", "aab")
    assert struct.unpack("<i", struct.pack("<i", 5)) == (5,)
    assert typing.get_args(typing.List[int]) == (int,)  # noqa: UP006 - what typing caches


def test_other_modules_are_refused() -> None:
    """A module whose caches are not known is refused, with those that are."""
    with pytest.raises(
        TypeError, match=r"cannot shrink module json: .*\(known: fnmatch, linecache, re, struct, typing"
    ):
        _adapter(importlib.import_module("json"))


def test_nothing_is_imported_for_a_row() -> None:
    """The table names libraries without importing them: this module's own names tell, in a fresh interpreter."""
    import subprocess
    import sys

    code = (
        "import sys; from memguard.reclaimers.caches import adapter_for; adapter_for({}, name='x');"
        "print([m for m in ('django','aiocache','sqlalchemy','langgraph','langchain_core','diskcache','cachetools',"
        "'asyncio') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- the standard library ---------------------------------------------------------------------------------------------


def test_linecache_keeps_what_cannot_be_read_again(tmp_path: Path) -> None:
    """Lines of files go; source that has no file (generated code, a notebook's cell) stays."""
    path = tmp_path / "module.py"
    path.write_text("\n".join(_text(row, 60) for row in range(1000)))
    assert linecache.getline(str(path), 2)
    linecache.cache["<generated 7>"] = (5, None, ["x = 1\n"], "<generated 7>")
    try:
        adapter = _adapter(linecache)
        assert adapter.size() > 100_000
        assert adapter.reclaim(_MUCH) > 60_000
        assert str(path) not in linecache.cache
        assert linecache.getline("<generated 7>", 1) == "x = 1\n"
        assert linecache.getline(str(path), 2) == _text(1, 60) + "\n"
    finally:
        del linecache.cache["<generated 7>"]


def test_re_is_dear_and_purged() -> None:
    """Compiled patterns go all at once, from CRITICAL on."""
    adapter = _adapter(re)
    re.purge()
    empty = adapter.size()
    for number in range(200):
        re.compile(f"word{number}|other{number}")
    assert (adapter.cost, adapter.at) == ("dear", Level.CRITICAL)
    assert empty == 0
    assert adapter.reclaim(1) is not None
    assert re._cache == {}  # type: ignore[attr-defined]


def test_a_weak_valued_dict_has_nothing_to_give() -> None:
    """It is taken and listed with 0 bytes, keeps its entries, and says why."""

    class Value:
        pass

    values = [Value() for _ in range(10)]
    table = weakref.WeakValueDictionary(enumerate(values))
    adapter, held = adapter_for(table, name="answers")
    assert isinstance(adapter, NothingToGive)
    assert isinstance(adapter, Reclaimer)
    assert not isinstance(adapter, Shelf)
    assert held is table
    assert (adapter.size(), adapter.reclaim(_MUCH), len(table)) == (0, 0, 10)
    assert "frees nothing" in repr(adapter)


def test_a_weak_keyed_dict_gives_its_values() -> None:
    """Its values are its own: they go."""

    class Key:
        pass

    keys = [Key() for _ in range(50)]
    table = weakref.WeakKeyDictionary({key: _text(number) for number, key in enumerate(keys)})
    assert _adapter(table).reclaim(_MUCH) > 40_000
    assert not table


# --- Django -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def locmem() -> Iterator[Any]:
    """Django's in-memory cache, of a name of its own."""
    from django.core.cache.backends import locmem as backend

    yield backend.LocMemCache("memguard-test", {"OPTIONS": {"MAX_ENTRIES": 10_000}})
    for table in (backend._caches, backend._expire_info, backend._locks):
        table.pop("memguard-test", None)


def test_locmem_gives_its_least_recently_used(locmem: Any) -> None:
    """Half goes, the older half by use; what is left can be read, and the two tables agree."""
    for number in range(200):
        locmem.set(f"page-{number}", _text(number))
    assert locmem.get("page-0") == _text(0)
    adapter, held = adapter_for(locmem, name="pages")
    assert held is None
    assert isinstance(adapter, Shelf)
    assert adapter.size() == pytest.approx(200 * 1100, rel=0.1)
    assert adapter.reclaim(110_000) == pytest.approx(110_000, rel=0.05)
    assert locmem.get("page-0") == _text(0)
    assert locmem.get("page-1") is None
    assert locmem.get("page-199") == _text(199)
    assert set(locmem._cache) == set(locmem._expire_info)


def test_locmem_drops_what_has_expired_first(locmem: Any) -> None:
    """One byte wanted: the expired entries go, all of them, and nothing else."""
    for number in range(50):
        locmem.set(f"fresh-{number}", _text(number), timeout=None)
    for number in range(50):
        locmem.set(f"stale-{number}", _text(number), timeout=100)
        locmem._expire_info[locmem.make_key(f"stale-{number}")] = 1.0
    assert _adapter(locmem).reclaim(1) > 40_000
    assert len(locmem._cache) == len(locmem._expire_info) == 50
    assert all("fresh" in key for key in locmem._cache)


def test_locmem_serves_every_thread_through_djangos_own_proxy() -> None:
    """django.core.cache.cache is an instance per thread over one table: that table is registered."""
    from django.conf import settings
    from django.core.cache import cache
    from django.core.cache import caches as all_caches
    from django.core.cache.backends import locmem as backend

    if not settings.configured:
        settings.configure()
    assert all_caches["default"].__class__ is backend.LocMemCache
    adapters: list[Any] = []
    thread = threading.Thread(target=lambda: adapters.append(adapter_for(cache, name="pages")[0]))
    thread.start()
    thread.join()
    cache.set("page", _text(1))
    gc.collect()
    assert adapters[0].size() > 1000
    assert adapters[0].reclaim(_MUCH) > 1000
    assert cache.get("page") is None


def test_locmem_lock_is_held_and_not_waited_for_long(locmem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a request keeps the lock the attempt ends with a TimeoutError and nothing is dropped."""
    monkeypatch.setattr(evicting, "_LOCK_S", 0.01)
    locmem.set("page", _text(1))
    adapter = _adapter(locmem)
    with locmem._lock, pytest.raises(TimeoutError, match="lock of 'answers' was busy"):
        adapter.reclaim(_MUCH)
    assert locmem.get("page") == _text(1)


def test_other_django_caches_are_refused() -> None:
    """A backend that keeps nothing here would be emptied for no memory at all."""
    from django.core.cache.backends.dummy import DummyCache

    with pytest.raises(TypeError, match="outside of this process"):
        _adapter(DummyCache("x", {}))


# --- aiocache ---------------------------------------------------------------------------------------------------------


def test_aiocache_gives_its_oldest_and_its_timers() -> None:
    """Oldest first from another thread; their timers are cancelled on the loop; what was set again keeps its own."""
    from aiocache import SimpleMemoryCache

    async def main() -> None:
        cache = SimpleMemoryCache()
        for number in range(100):
            await cache.set(f"page-{number}", _text(number), ttl=60 if number < 10 else None)
        timers = dict(cache._handlers)
        adapter = _adapter(cache)
        freed = await asyncio.to_thread(adapter.reclaim, 50_000)
        assert freed == pytest.approx(50_000, rel=0.05)
        await cache.set("page-0", "anew", ttl=60)
        await asyncio.sleep(0)
        assert list(cache._handlers) == ["page-0"]
        assert all(timer.cancelled() for timer in timers.values())
        assert not cache._handlers["page-0"].cancelled()
        assert await cache.get("page-0") == "anew"
        assert await cache.get("page-1") is None
        assert await cache.get("page-99") == _text(99)
        cache._handlers["page-0"].cancel()

    asyncio.run(main())


def test_aiocache_entries_set_again_at_once_keep_their_timers() -> None:
    """An entry that comes back before the loop has cancelled the old one's timer expires when it should."""
    from aiocache import SimpleMemoryCache

    async def main() -> None:
        cache = SimpleMemoryCache()
        await cache.set("page", _text(1), ttl=60)
        assert _adapter(cache).reclaim(_MUCH)
        await cache._set("page", "anew", ttl=60)  # runs through without giving the loop a turn
        await asyncio.sleep(0)
        assert not cache._handlers["page"].cancelled()
        cache._handlers["page"].cancel()

    asyncio.run(main())


def test_aiocache_after_its_loop_has_closed() -> None:
    """Timers of a closed loop are forgotten, and nothing is raised."""
    from aiocache import SimpleMemoryCache

    cache = SimpleMemoryCache()

    async def fill() -> None:
        for number in range(10):
            await cache.set(f"page-{number}", _text(number), ttl=60)

    asyncio.run(fill())
    assert _adapter(cache).reclaim(_MUCH) > 9000
    assert not cache._cache
    assert not cache._handlers


def test_a_function_under_aiocache_is_its_cache() -> None:
    """The decorated function leads to the cache behind it."""
    from aiocache import SimpleMemoryCache, cached

    @cached(cache=SimpleMemoryCache)  # type: ignore[untyped-decorator, unused-ignore]
    async def answer(number: int) -> str:
        return _text(number)

    async def main() -> None:
        for number in range(20):
            await answer(number)

    asyncio.run(main())
    adapter, held = adapter_for(answer, name="answers")
    assert held is answer.cache
    assert adapter.reclaim(_MUCH) == pytest.approx(20 * 1100, rel=0.15)


def test_remote_aiocache_backends_are_refused() -> None:
    """A backend in another process has no memory here."""
    from aiocache.base import BaseCache

    class Elsewhere(BaseCache):  # type: ignore[misc, unused-ignore]
        pass

    with pytest.raises(TypeError, match="outside of this process"):
        _adapter(Elsewhere())


# --- SQLAlchemy -------------------------------------------------------------------------------------------------------


def _engine(columns: int = 20) -> tuple[Any, Callable[[int], None]]:
    import sqlalchemy as sa
    from sqlalchemy.pool import StaticPool

    engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    table = sa.Table("t", sa.MetaData(), *(sa.Column(f"c{number}", sa.Integer) for number in range(columns)))
    table.metadata.create_all(engine)
    engine.clear_compiled_cache()

    def run(number: int) -> None:
        with engine.connect() as connection:
            connection.execute(sa.select(*table.c, sa.literal(1).label(f"label_{number}"))).all()

    return engine, run


def test_an_engine_gives_its_least_recently_used_statements() -> None:
    """Statements that were used lately stay compiled; the engine works on."""
    engine, run = _engine()
    for number in range(100):
        run(number)
    run(0)
    adapter = _adapter(engine)
    assert isinstance(_adapter(engine), Shelf)
    assert adapter_for(engine, name="statements")[1] == engine
    half = adapter.size() // 2
    assert adapter.reclaim(half) >= half
    assert len(engine._compiled_cache) == pytest.approx(50, abs=2)
    left = len(engine._compiled_cache)
    run(0)
    run(99)
    assert len(engine._compiled_cache) == left
    run(1)
    assert len(engine._compiled_cache) == left + 1
    adapter.reclaim(_MUCH)
    assert len(engine._compiled_cache) == 0
    run(2)
    engine.dispose()


def test_an_engines_size_is_of_the_right_order() -> None:
    """The estimate is within a factor of 2 of what tracemalloc sees."""
    engine, run = _engine()
    run(0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1, 200):
            run(number)
        gc.collect()
        held_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.5 < _adapter(engine).size() / held_bytes < 2
    engine.dispose()


def test_an_engine_beside_its_users() -> None:
    """Reliefs beside threads that execute statements raise nothing on either side."""
    engine, run = _engine(columns=3)
    failures: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                for number in range(40):
                    run(number)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        adapter = _adapter(engine)
        for _ in range(100):
            adapter.reclaim(100_000)
    finally:
        stop.set()
        worker.join()
    assert not failures
    engine.dispose()


def test_an_async_engine_is_its_engine() -> None:
    """The engine underneath is registered."""
    from sqlalchemy.ext.asyncio import AsyncEngine

    engine, run = _engine()
    run(1)
    outer = AsyncEngine.__new__(AsyncEngine)
    outer.sync_engine = engine
    adapter, held = adapter_for(outer, name="statements")
    assert held == engine
    assert adapter.reclaim(_MUCH)
    engine.dispose()


def test_an_engine_without_a_cache() -> None:
    """query_cache_size=0: nothing there, nothing raised."""
    import sqlalchemy as sa

    adapter = _adapter(sa.create_engine("sqlite://", query_cache_size=0))
    assert (adapter.size(), adapter.reclaim(_MUCH)) == (0, 0)


# --- LangGraph --------------------------------------------------------------------------------------------------------


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A compiled graph over an InMemorySaver: it answers, waits when told to, and asks a person when told to."""
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.types import interrupt

    monkeypatch.setattr(conversations, "_QUIET_S", 0.0)
    gates = {"entered": threading.Event(), "leave": threading.Event()}

    def talk(state: MessagesState) -> dict[str, Any]:
        said = state["messages"][-1].content
        if said == "wait":
            gates["entered"].set()
            assert gates["leave"].wait(30)
        if said == "ask":
            interrupt("may I?")
        return {"messages": [("ai", _text(len(state["messages"])))]}

    saver = InMemorySaver()
    built = StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile(checkpointer=saver)
    built.gates = gates  # type: ignore[attr-defined]
    return built


def _say(graph: Any, thread: str, text: str = "hello", **options: Any) -> Any:
    return graph.invoke({"messages": [("user", text)]}, {"configurable": {"thread_id": thread}}, **options)


def test_a_saver_gives_the_least_recently_written_threads(graph: Any) -> None:
    """As many whole threads as wanted, oldest first; the others keep all of theirs."""
    for thread in "abcdef":
        for _ in range(3):
            _say(graph, thread)
    _say(graph, "a")
    saver = graph.checkpointer
    adapter: Any = adapter_for(saver, name="conversations")[0]
    assert not isinstance(adapter, Shelf)
    assert (adapter.cost, adapter.at) == ("dear", Level.CRITICAL)
    size = adapter.size()
    assert size
    freed = adapter.reclaim(size // 4)
    assert freed is not None
    assert size // 4 <= freed <= size // 2
    gone = set("abcdef") - set(saver.storage)
    assert gone in ({"b"}, {"b", "c"})
    assert {key[0] for key in [*saver.blobs, *saver.writes]} == set(saver.storage)
    assert len(_say(graph, "a")["messages"]) == 10
    assert len(_say(graph, "b")["messages"]) == 2
    assert adapter.reclaim(_MUCH)
    assert not any((saver.storage, saver.blobs, saver.writes))


def test_a_savers_size_is_true() -> None:
    """The estimate is within a third of what tracemalloc sees."""
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, MessagesState, StateGraph

    saver = InMemorySaver()
    talk = StateGraph(MessagesState).add_node("talk", lambda state: {"messages": [("ai", _text(1))]})
    graph = talk.add_edge(START, "talk").compile(checkpointer=saver)
    _say(graph, "first")
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for thread in range(30):
            for _ in range(4):
                _say(graph, str(thread))
        gc.collect()
        held_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert _adapter(saver).size() == pytest.approx(held_bytes, rel=0.33)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_thread_that_runs_is_never_deleted(graph: Any, durability: str) -> None:
    """While a node works, its thread stays whatever is wanted, also when its checkpoint is written at the end only."""
    _say(graph, "done")
    _say(graph, "runs")
    runner = threading.Thread(target=_say, args=(graph, "runs", "wait"), kwargs={"durability": durability})
    runner.start()
    try:
        assert graph.gates["entered"].wait(30)
        _adapter(graph.checkpointer).reclaim(_MUCH)
        assert set(graph.checkpointer.storage) == {"runs"}
    finally:
        graph.gates["leave"].set()
        runner.join()
    assert len(_say(graph, "runs")["messages"]) == 6


def test_a_thread_that_waits_for_a_person_is_never_deleted(graph: Any) -> None:
    """An interrupted thread can be resumed after a relief."""
    from langgraph.types import Command

    _say(graph, "done")
    _say(graph, "waits", "ask")
    _adapter(graph.checkpointer).reclaim(_MUCH)
    assert set(graph.checkpointer.storage) == {"waits"}
    resumed = graph.invoke(Command(resume="yes"), {"configurable": {"thread_id": "waits"}})
    assert len(resumed["messages"]) == 2


def test_a_thread_that_stopped_between_steps_is_never_deleted(graph: Any) -> None:
    """A thread with a node yet to run, and nothing written since, goes on where it stopped."""
    _say(graph, "done")
    _say(graph, "stopped", interrupt_before=["talk"])
    _adapter(graph.checkpointer).reclaim(_MUCH)
    assert set(graph.checkpointer.storage) == {"stopped"}
    resumed = graph.invoke(None, {"configurable": {"thread_id": "stopped"}})
    assert len(resumed["messages"]) == 2


def test_a_thread_with_writes_that_wait_is_never_deleted(graph: Any) -> None:
    """Writes on the newest checkpoint belong to a step under way, whatever its channels are called."""
    saver = graph.checkpointer
    for thread in ("done", "writes"):
        _say(graph, thread)
    newest = max(saver.storage["writes"][""])
    config = {"configurable": {"thread_id": "writes", "checkpoint_ns": "", "checkpoint_id": newest}}
    saver.put_writes(config, [("anything", 1)], "task")
    _adapter(saver).reclaim(_MUCH)
    assert set(saver.storage) == {"writes"}


def test_a_thread_that_failed_in_a_step_is_never_deleted(graph: Any) -> None:
    """A run that raised can be taken up again."""
    _say(graph, "done")
    graph.gates["leave"].wait = lambda _timeout: False
    with pytest.raises(AssertionError):
        _say(graph, "failed", "wait")
    gc.collect()
    _adapter(graph.checkpointer).reclaim(_MUCH)
    assert set(graph.checkpointer.storage) == {"failed"}


def test_a_thread_that_was_just_written_to_is_left_alone(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within ten seconds of its last checkpoint a thread may be between two calls."""
    _say(graph, "new")
    monkeypatch.setattr(conversations, "_QUIET_S", 10.0)
    adapter = _adapter(graph.checkpointer)
    assert adapter.reclaim(_MUCH) == 0
    later = time.time() + 11
    monkeypatch.setattr(time, "time", lambda: later)
    assert adapter.reclaim(_MUCH) > 1000


def test_a_savers_own_delete_thread_is_asked() -> None:
    """A subclass that writes through is told which thread to delete."""
    from langgraph.checkpoint.memory import InMemorySaver

    told: list[str] = []

    class WritesThrough(InMemorySaver):
        def delete_thread(self, thread_id: str) -> None:
            told.append(thread_id)
            super().delete_thread(thread_id)

    saver = WritesThrough()
    saver.storage["a"][""]["not a time"] = (
        saver.serde.dumps_typed({"channel_versions": {}, "versions_seen": {}}),
    ) * 2 + (None,)
    assert _adapter(saver).reclaim(1)
    assert told == ["a"]
    assert not saver.storage


def test_a_checkpoint_that_cannot_be_read_stays() -> None:
    """Who knows what it was doing."""
    from langgraph.checkpoint.memory import InMemorySaver

    saver = InMemorySaver()
    saver.storage["a"][""]["x"] = (("msgpack", b"\xc1"), ("msgpack", b""), None)
    assert _adapter(saver).reclaim(_MUCH) == 0
    assert "a" in saver.storage


# --- LangChain --------------------------------------------------------------------------------------------------------


def test_langchain_gives_its_oldest_answers() -> None:
    """Half goes, the older half; a clear() by the application in between is seen."""
    from langchain_core.caches import InMemoryCache
    from langchain_core.outputs import Generation

    cache = InMemoryCache()
    for number in range(100):
        cache.update(_text(number), "model", [Generation(text=_text(number))])
    adapter, held = adapter_for(cache, name="answers")
    assert held is cache
    size = adapter.size()
    assert size is not None
    adapter.reclaim(size // 2)
    assert cache.lookup(_text(0), "model") is None
    assert cache.lookup(_text(99), "model") is not None
    assert 40 <= len(cache._cache) <= 60
    cache.clear()
    assert adapter.size() == 0
    cache.update("again", "model", [Generation(text=_text(1))])
    assert adapter.reclaim(_MUCH)
    assert not cache._cache


def test_a_bounded_langchain_cache_keeps_the_entry_it_would_delete_itself() -> None:
    """It deletes its oldest key without a lock: that key stays, so that the deletion cannot miss."""
    from langchain_core.caches import InMemoryCache
    from langchain_core.outputs import Generation

    cache = InMemoryCache(maxsize=10)
    for number in range(10):
        cache.update(str(number), "model", [Generation(text=_text(number))])
    _adapter(cache).reclaim(_MUCH)
    assert list(cache._cache) == [("0", "model")]


# --- diskcache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Cache", "FanoutCache"])
def test_diskcache_has_nothing_to_give(kind: str, tmp_path: Path) -> None:
    """Taken, 0 bytes, no entry lost, no connection opened, and it says what helps."""
    import diskcache

    cache = getattr(diskcache, kind)(str(tmp_path))
    try:
        cache["page"] = _text(1)
        adapter = _adapter(cache)
        assert isinstance(adapter, NothingToGive)
        assert (adapter.size(), adapter.reclaim(_MUCH)) == (0, 0)
        assert cache["page"] == _text(1)
        assert "PRAGMA shrink_memory" in adapter.why
    finally:
        cache.close()


# --- what nobody registered -------------------------------------------------------------------------------------------


def test_unregistered_functions_are_found_and_left_alone() -> None:
    """Name, module, entries, bytes and bound of each; a registered one is missing; nothing is cleared."""
    from memguard.reclaimers.unregistered import unregistered_lru_caches
    from memguard.roster import Roster

    @functools.cache
    def unbounded(number: int) -> str:
        return _text(number)

    @functools.lru_cache(maxsize=64)
    def bounded(number: int) -> str:
        return _text(number)

    @functools.cache
    def registered(number: int) -> str:
        return _text(number)

    for function in (unbounded, bounded, registered):
        for number in range(100):
            function(number)
    roster = Roster()
    adapter, held = adapter_for(registered, name="registered")
    roster.add(adapter, held=held)
    roster.add(Callback("holds nothing that it could tell", lambda _wanted_bytes: 0))
    found = {cache.name.rpartition(".")[2]: cache for cache in unregistered_lru_caches(roster, within_s=30)}
    assert "registered" not in found
    assert (found["unbounded"].entries, found["unbounded"].bounded) == (100, False)
    assert found["unbounded"].bytes == pytest.approx(100 * 1080, rel=0.15)
    assert (found["bounded"].entries, found["bounded"].bounded) == (64, True)
    assert found["bounded"].module == __name__
    assert "registered" in {cache.name.rpartition(".")[2] for cache in unregistered_lru_caches(within_s=30)}
    assert unbounded.cache_info().currsize == 100


def test_the_search_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is looked at every few thousand objects, and ends the search."""
    from memguard.reclaimers import unregistered

    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return float(looks)

    monkeypatch.setattr(time, "perf_counter", clock)
    kept = [[number] for number in range(300_000)]
    gc.collect()
    unregistered.unregistered_lru_caches(within_s=5.0)
    assert 5 < looks < 12
    unregistered.unregistered_lru_caches(within_s=1e9)
    assert looks > 30
    assert kept
