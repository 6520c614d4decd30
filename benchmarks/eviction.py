"""Eviction: what putting and evicting cost, how long others wait meanwhile, and how much memory really comes back.

Put: CPU time of the thread per new key, automatic collection off, beside a miss of ``functools.lru_cache(None)`` and
a ``cachetools.LRUCache`` under an RLock; median of 5. Eviction: a store of 1,000,000 entries (cost and bytes at random,
a third hit); the price below which 10 % of the bytes lie is found by ``Store.sample(1024)``, then ``Store.shrink``.
"Longest wait" is the longest of single puts that another thread makes all the while, from pauses of 0.1 ms, with waking
up from these; its twins do the same beside nothing, and beside a thread that counts in Python (then it waits for the
interpreter alone). "Longest slice" is the longest that the evicting thread was on the processor, by its own CPU clock,
before it let others have lock and interpreter: what of a wait is the eviction's, whatever else the machine does.
Returned: a process of its own fills a cache with 1,000,000 small values (80 to 120 bytes), half of which are hit, at
random or as they came; it evicts the other half, collects and trims, and reads VmRSS. "at random" drops half blindly.
Overhead: VmRSS by entry for keys and values that exist already.

    python benchmarks/eviction.py [--entries 1000000] [--only put|evict|rss|overhead]
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import report

from memguard.caching.entry import ENTRY_BYTES
from memguard.caching.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
PUTS = 200_000
PAUSE_S = 0.0001

# The bars.
PUT_BAR_US, EVICT_BAR_MS, WAIT_BAR_MS = 1.5, 100.0, 5.0

Row = dict[str, str]


def small(maxsize: int | None = None, max_bytes: int | None = None) -> Store:
    return Store(name="bench", size_of=lambda _key, _value: 400, maxsize=maxsize, max_bytes=max_bytes)


# --- put ------------------------------------------------------------------------------------------------------------


def puts() -> list[Row]:  # noqa: C901 - three ways to do the same
    import cachetools  # noqa: PLC0415 - the twin

    def into_store(options: dict[str, int]) -> Callable[[list[str]], None]:
        def fill(keys: list[str]) -> None:
            put = small(**options).put
            for key in keys:
                put(key, key)

        return fill

    def into_lru(keys: list[str]) -> None:
        @functools.lru_cache(None)
        def same(key: str) -> str:
            return key

        for key in keys:
            same(key)

    def into_cachetools(keys: list[str]) -> None:
        cache: Any = cachetools.LRUCache(PUTS // 10)
        lock = threading.RLock()
        for key in keys:
            with lock:
                cache[key] = key

    ways: dict[str, Callable[[list[str]], None]] = {
        "functools.lru_cache(None), a miss": into_lru,
        "cachetools.LRUCache, RLock, evicting": into_cachetools,
        "put, no bound": into_store({}),
        "put, maxsize, evicting": into_store({"maxsize": PUTS // 10}),
        "put, max_bytes, evicting": into_store({"max_bytes": 400 * PUTS // 10}),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(5):
        for way, fill in ways.items():
            keys = [f"key {number}" for number in range(PUTS)]
            gc.collect()
            gc.disable()
            began = time.thread_time()
            fill(keys)
            taken[way].append((time.thread_time() - began) / PUTS * 1e6)
            gc.enable()
    rows = []
    for way, times in taken.items():
        typical = statistics.median(times)
        bar = _bar(f"{PUT_BAR_US:g} µs", met=typical <= PUT_BAR_US) if way == "put, no bound" else "–"
        rows.append(_row(way, f"{typical:.2f} µs (best {min(times):.2f})", bar))
    return rows


# --- evict ----------------------------------------------------------------------------------------------------------


def filled(entries: int) -> Store:
    sizes = iter([random.randint(200, 2000) for _ in range(entries)])
    store = Store(name="bench", size_of=lambda _key, _value: next(sizes, 400))
    for number in range(entries):
        store.put(f"key {number}", number, cost_s=random.expovariate(100.0))
    for _ in range(entries // 3):
        next(store.table[f"key {random.randrange(entries)}"])
    gc.collect()
    gc.freeze()  # a full collection during the run would be measured instead
    return store


def sliced(work: Callable[[], object]) -> float:
    """Do some work; milliseconds on the processor of the longest slice of it between two turns of others."""
    slices, began = list[float](), time.thread_time()

    def sleep(seconds: float) -> None:
        nonlocal began
        slices.append(time.thread_time() - began)
        time.sleep(seconds)
        began = time.thread_time()

    with mock.patch("memguard.turns.sleep", sleep):
        work()
    return max(*slices, time.thread_time() - began) * 1e3


def beside(store: Store, work: Callable[[], object]) -> tuple[float, list[float]]:
    """Milliseconds that the work took, and those that each put of another thread took meanwhile."""
    waits = list[float]()
    done = threading.Event()
    ready = threading.Event()

    def put() -> None:
        number = 0
        while not done.is_set():
            began = time.perf_counter()
            time.sleep(PAUSE_S)  # waking up waits for the interpreter, as a request does
            store.put(f"other {number % 1000}", number)
            waits.append((time.perf_counter() - began - PAUSE_S) * 1e3)
            number += 1
            ready.set()

    thread = threading.Thread(target=put)
    thread.start()
    ready.wait()
    began = time.perf_counter()
    work()
    took = (time.perf_counter() - began) * 1e3
    done.set()
    thread.join()
    return took, sorted(waits)


def evict(entries: int) -> list[Row]:
    random.seed(1)
    alone, shared = list[tuple[float, float]](), list[float]()
    waits, slices = list[float](), list[float]()
    for _ in range(3):
        store = filled(entries)
        alone.append(_timed(functools.partial(_shrink, store)))
        slices.append(sliced(functools.partial(_shrink, store)))
        gc.unfreeze()
        del store
        store = filled(entries)
        took, times = beside(store, functools.partial(_shrink, store))
        shared.append(took)
        waits.append(times[-1])
        gc.unfreeze()
    _, quiet = beside(store, functools.partial(time.sleep, 0.3))
    _, busy = beside(store, functools.partial(_count, 0.3))
    took, clearing = beside(store, store.clear)
    cleared = sliced(filled(entries).clear)
    gc.unfreeze()
    typical, longest = statistics.median(clock for clock, _ in alone), statistics.median(waits)
    on_cpu = statistics.median(cpu for _, cpu in alone)
    return [
        _row(
            f"evict 10 % of {entries:,} by price",
            f"{on_cpu:.0f} ms on the processor; by the clock {typical:.0f} ms (best {min(alone)[0]:.0f}), "
            f"with another thread putting {statistics.median(shared):.0f} ms",
            _bar(f"{EVICT_BAR_MS:g} ms", met=on_cpu <= EVICT_BAR_MS),
        ),
        _row(
            "longest slice of it",
            f"{statistics.median(slices):.1f} ms (most {max(slices):.1f})",
            _bar(f"{WAIT_BAR_MS:g} ms", met=max(slices) <= WAIT_BAR_MS),
        ),
        _row(
            "longest wait of a put meanwhile",
            f"{longest:.1f} ms (best {min(waits):.1f})",
            _bar(f"{WAIT_BAR_MS:g} ms", met=longest <= WAIT_BAR_MS),
        ),
        _row("the same beside nothing", f"{quiet[-1]:.1f} ms", "–"),
        _row("the same beside a thread that counts", f"{busy[-1]:.1f} ms", "–"),
        _row(
            "clear of the rest",
            f"{took:.0f} ms; longest wait of a put {clearing[-1]:.1f} ms; longest slice of all of it {cleared:.1f} ms",
            "–",
        ),
    ]


def _shrink(store: Store) -> None:
    wanted = store.bytes // 10
    offers = sorted(store.sample(1024))
    share, summed, total = 0.0, 0, sum(size for _, size in offers)
    for price, size in offers:
        summed += size
        share = price
        if summed >= total / 10:
            break
    freed = store.shrink(wanted, share)
    assert freed >= wanted * 0.7, (freed, wanted)  # noqa: S101 - else it measured something else


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds by the clock, and on the processor."""
    began, cpu = time.perf_counter(), time.thread_time()
    work()
    return (time.perf_counter() - began) * 1e3, (time.thread_time() - cpu) * 1e3


def _count(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


# --- memory ---------------------------------------------------------------------------------------------------------


def _rss_mib() -> float:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - as cheap as can be
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _settle() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _rss_mib()


def child_rss(mode: str, entries: int) -> dict[str, float]:
    """Fill, use a half, evict the other; MiB before, after, and after relocation."""
    random.seed(2)
    bare = _rss_mib()
    store = Store(name="bench", size_of=lambda key, value: ENTRY_BYTES + len(key) + len(value), relocates=True)
    for number in range(entries):
        store.put(f"key {number}", os.urandom(random.randint(80, 120)), cost_s=0.001)
    order = "together" if mode == "together" else "scattered"
    for number in range(entries):
        if (number >= entries // 2) if order == "together" else random.random() < 0.5:
            for _ in range(4):
                next(store.table[f"key {number}"])
    before = _settle()
    store.sample(4096)  # the habits learn
    if mode == "random":
        for entry in random.sample(list(store), entries // 2):
            store.pop(entry.key)
    elif mode == "clear":
        store.clear()
    else:
        # Kept, each number of the sample would pin the arena that it lies in.
        store.shrink(store.bytes // 2, statistics.median(price for price, _ in store.sample(4096)))
    left, after = len(store), _settle()
    began = time.perf_counter()
    moved = store.relocate() if mode != "clear" else 0
    moved_s = time.perf_counter() - began
    return {
        "bare": bare, "before": before, "left": left / entries, "after": after, "moved": moved / 2**20,
        "relocated": _settle(), "moved_s": moved_s,
    }  # fmt: skip


def child_overhead(mode: str, entries: int) -> dict[str, float]:
    """Bytes of RSS by entry, keys and values apart."""
    import cachetools  # noqa: PLC0415 - the twin

    keys = [f"key {number}" for number in range(entries)]
    before = _settle()
    held: Any = None
    if mode == "store":
        held = small()
        for key in keys:
            held.put(key, key, cost_s=time.perf_counter())
    elif mode == "dict":
        held = {key: key for key in keys}
    elif mode.startswith("lru"):
        held = functools.lru_cache(None if mode == "lru, unbounded" else entries)(str)
        for key in keys:
            held(key)
    else:
        kind: Any = cachetools.LRUCache if mode == "cachetools.LRUCache" else cachetools.TTLCache
        held = kind(entries, *([3600] if mode == "cachetools.TTLCache" else []))
        for key in keys:
            held[key] = key
    return {"bytes": (_settle() - before) * 2**20 / entries}


def _measure(kind: str, mode: str, entries: int) -> dict[str, float]:
    argv = [sys.executable, __file__, "--child", f"{kind}:{mode}", "--entries", str(entries)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
    answer: dict[str, float] = json.loads(out)
    return answer


def memory(entries: int) -> list[Row]:
    rows = []
    for mode, title in (
        ("random", "half at random"),
        ("price", "the half not used, scattered"),
        ("together", "the half not used, inserted together"),
        ("clear", "everything (clear)"),
    ):
        found = _measure("rss", mode, entries)
        held = found["before"] - found["bare"]
        back, moved = ((found["before"] - found[when]) / held for when in ("after", "relocated"))
        text = f"RSS {found['before']:.0f} to {found['after']:.0f} MiB: {back:.0%} back"
        if mode != "clear":
            text += f"; {found['moved']:.0f} MiB relocated in {found['moved_s'] * 1e3:.0f} ms:"
            text += f" {found['relocated']:.0f} MiB, {moved:.0%} back"
        rows.append(_row(f"evict {title}, {found['left']:.0%} left", text, "–"))
    return rows


def overhead(entries: int) -> list[Row]:
    rows = []
    for mode in ("dict", "lru, unbounded", "lru, bounded", "cachetools.LRUCache", "cachetools.TTLCache", "store"):
        found = _measure("overhead", mode, entries)
        accounted = f" (accounted: {ENTRY_BYTES})" if mode == "store" else ""
        rows.append(_row(f"bytes by entry: {mode}", f"{found['bytes']:.0f}{accounted}", "–"))
    return rows


# --- the parent -----------------------------------------------------------------------------------------------------


def _bar(text: str, *, met: bool) -> str:
    return f"≤ {text} ({'met' if met else 'MISSED'})"


def _row(what: str, measured: str, bar: str) -> Row:
    row = {"what": what, "measured": measured, "bar": bar}
    print("  ".join(row.values()), flush=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["put", "evict", "rss", "overhead"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, _, mode = arguments.child.partition(":")
        print(json.dumps((child_rss if kind == "rss" else child_overhead)(mode, arguments.entries)))
        return 0
    parts: dict[str, Callable[[], list[Row]]] = {
        "put": puts,
        "evict": lambda: evict(arguments.entries),
        "rss": lambda: memory(arguments.entries),
        "overhead": lambda: overhead(arguments.entries // 2),
    }
    wanted = parts.values() if arguments.only is None else (parts[arguments.only],)
    rows = [row for part in wanted for row in part()]
    if arguments.only is None:
        method = __doc__.split("\n\n")[1].splitlines()
        report.publish("eviction", title="Evicting, and what comes back", rows=rows, method=method)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
