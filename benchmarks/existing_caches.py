"""Existing caches: what each adapter accounts for, and what it really gives back, each in a process of its own.

Every case fills the real library's cache, then asks its adapter for all it has, collects garbage and trims the
allocator, and reads VmRSS after each of these. "holds" is VmRSS after filling less VmRSS before it (libraries
imported and used once); "size()" is what the adapter accounts for; "took" the time of the adapter's reclaim alone.

    python benchmarks/existing_caches.py [--only NAME]
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report

from memguard.reclaimers.caches import adapter_for
from memguard.reclaimers.trim import Trim
from memguard.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent


def text(number: int, size: int) -> str:
    return (f"{number} " * (size // (len(str(number)) + 1) + 1))[:size]


# ruff: noqa: PLC0415 - each case imports its own library

# --- cases: each returns a function that fills by a number of entries, and what to register -------------------------

Case = tuple["Callable[[int], object]", Any, int]


def of_cachetools() -> Case:
    import cachetools

    @cachetools.cached(cachetools.LRUCache(10**6))
    def answer(number: int) -> str:
        return text(number, 600)

    return lambda count: [answer(number) for number in range(count)][:0], answer, 100_000


def of_functools() -> Case:
    @functools.cache
    def answer(number: int) -> str:
        return text(number, 600)

    return lambda count: [answer(number) for number in range(count)][:0], answer, 100_000


def of_lru_cache() -> Case:
    @functools.lru_cache(10**6)
    def answer(number: int) -> str:
        return text(number, 600)

    return lambda count: [answer(number) for number in range(count)][:0], answer, 100_000


def of_django() -> Case:
    from django.conf import settings

    backend = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 10**6}}
    settings.configure(CACHES={"default": backend})
    from django.core.cache import cache

    return lambda count: [cache.set(f"page {number}", text(number, 2000)) for number in range(count)], cache, 30_000


def of_aiocache() -> Case:
    import asyncio

    from aiocache import SimpleMemoryCache

    cache = SimpleMemoryCache()

    async def fill(count: int) -> None:
        for number in range(count):
            await cache.set(f"page {number}", text(number, 2000))

    return lambda count: asyncio.run(fill(count)), cache, 30_000


def of_sqlalchemy() -> Case:
    import sqlalchemy as sa

    engine = sa.create_engine("sqlite://", query_cache_size=2000)
    table = sa.Table("t", sa.MetaData(), *(sa.Column(f"c{number}", sa.Integer) for number in range(40)))
    table.metadata.create_all(engine)

    def fill(count: int) -> None:
        with engine.connect() as connection:
            for number in range(count):
                picked = [column for at, column in enumerate(table.c) if number >> (at % 12) & 1 or at > 12]
                statement = sa.select(*picked).where(table.c.c1 == number).limit(10)
                connection.execute(statement).all()

    return fill, engine, 1000


def of_langgraph() -> Case:
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, MessagesState, StateGraph

    saver = InMemorySaver()

    def talk(state: MessagesState) -> dict[str, Any]:
        return {"messages": [("ai", text(len(state["messages"]), 400))]}

    graph = StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile(checkpointer=saver)

    def fill(count: int) -> None:
        for number in range(count):
            for turn in range(10):
                said = {"messages": [("user", text(turn, 400))]}
                graph.invoke(said, {"configurable": {"thread_id": str(number)}})  # type: ignore[arg-type]

    return fill, saver, 150


def of_langchain() -> Case:
    from langchain_core.caches import InMemoryCache
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration

    cache = InMemoryCache()

    def fill(count: int) -> None:
        for number in range(count):
            answer = ChatGeneration(message=AIMessage(text(number, 400)))
            cache.update(text(number, 400), "model", [answer])

    return fill, cache, 10_000


def of_linecache() -> Case:
    import linecache

    folder = tempfile.TemporaryDirectory(prefix="memguard-lines-")

    def fill(count: int) -> None:
        for number in range(count):
            path = Path(folder.name, f"{number}.py")
            path.write_text("\n".join(f"line {number} {row}" for row in range(1000)), encoding="utf-8")
            linecache.getlines(str(path))
            path.unlink()

    return fill, linecache, 500


def of_re() -> Case:
    import re

    def fill(count: int) -> None:
        for number in range(count):
            re.compile("|".join(f"word{number}x{at}" for at in range(60)))

    return fill, re, 512


CASES: dict[str, Callable[[], Case]] = {
    "cachetools.cached, LRUCache: 100,000 × 600 B": of_cachetools,
    "functools.cache: 100,000 × 600 B": of_functools,
    "functools.lru_cache(10**6): 100,000 × 600 B": of_lru_cache,
    "Django LocMemCache: 30,000 × 2 kB": of_django,
    "aiocache SimpleMemoryCache: 30,000 × 2 kB": of_aiocache,
    "SQLAlchemy compiled cache: 1,000 statements": of_sqlalchemy,
    "langgraph InMemorySaver: 150 threads × 10 turns × 0.8 kB": of_langgraph,
    "langchain InMemoryCache: 10,000 × 0.8 kB": of_langchain,
    "linecache: 500 files × 1,000 lines": of_linecache,
    "re: 512 patterns × 60 words": of_re,
}


def rss() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


def child(name: str) -> None:
    fill, cache, count = CASES[name]()
    trim = Trim()
    fill(2)
    gc.collect()
    trim.reclaim(1 << 40)
    before = rss()
    fill(count)
    gc.collect()
    filled = rss()
    if "langgraph" in name:  # a thread that was written to in the last 10 s is left alone: let them be old
        module = importlib.import_module("memguard.reclaimers.conversations")
        module._QUIET_S = 0.0  # type: ignore[attr-defined]  # noqa: SLF001
    adapter, _ = adapter_for(cache, name="cache")
    size = adapter.size()
    began = time.perf_counter()
    claimed = adapter.reclaim(1 << 40)
    took_s = time.perf_counter() - began
    evicted = rss()
    gc.collect()
    collected = rss()
    trim.reclaim(1 << 40)
    trimmed = rss()
    said = {
        "holds": filled - before,
        "size": size,
        "claimed": claimed,
        "evict": filled - evicted,
        "collect": filled - collected,
        "trim": filled - trimmed,
        "took_s": took_s,
    }
    print(json.dumps(said))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return 0
    rows = []
    for name in CASES:
        if arguments.only not in name:
            continue
        command = [sys.executable, __file__, "--child", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        said = json.loads(done.stdout.splitlines()[-1])
        rows.append(
            {
                "cache": name,
                "holds": format_bytes(said["holds"]),
                "size()": "unknown" if said["size"] is None else format_bytes(said["size"]),
                "back after reclaim": format_bytes(said["evict"]),
                "+ collect": format_bytes(said["collect"]),
                "+ trim": format_bytes(said["trim"]),
                "took": format_seconds(said["took_s"]),
            }
        )
        print(rows[-1])
    if not arguments.only:
        paragraph = (__doc__ or "").split("\n\n")[1].splitlines()
        report.publish("existing_caches", title="What existing caches give back", rows=rows, method=paragraph)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
