"""What a hit, a miss and an entry of memguard.cached cost, beside functools.lru_cache and cachetools.

Method: the same function under each decorator, all in one process, in turns of a few thousand calls; the ratio is
taken within each turn and its median over the turns is told, so that what else the machine does meets all alike. Hits
are calls of a warm key with small integers, ten calls to a loop. "With a guard" means that the coarse clock runs, as
it does under a started guard; without one every hit of a function with a ttl asks the system's clock. Misses are calls
of new keys of a function that does nothing. Bytes an entry: tracemalloc over 100,000 entries of small integers, keys
and values included. Threads: the time of 4 threads with a quarter of the calls each, divided by that of one thread.
"""

from __future__ import annotations

import argparse
import functools
import gc
import statistics
import sys
import threading
import time
import timeit
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cachetools
import report

from memguard import beat
from memguard.caching.functions import cached

if TYPE_CHECKING:
    from collections.abc import Callable

    Row = dict[str, str]

HIT_BAR, TTL_BAR, THREADS_BAR, CACHETOOLS_BAR = 1.4, 1.6, 1.2, 4.0
CALLS = {"1 argument": "(1)", "2 arguments": "(1, 2)", "3 arguments": "(1, 2, 3)"}
LOOP = 10
ENTRIES = 100_000


def one(a: int) -> int:
    return a


def two(a: int, b: int) -> int:
    return a + b


def three(a: int, b: int, c: int) -> int:
    return a + b + c


def lru(function: Any) -> Any:  # noqa: ANN401 - any function
    return functools.lru_cache(maxsize=1000)(function)


def locked(function: Any) -> Any:  # noqa: ANN401 - any function
    return cachetools.cached(cachetools.LRUCache(1000), lock=threading.Lock())(function)


class Shop:
    """Methods and properties under both decorators."""

    @lru
    def lru_price(self, item: int) -> int:  # noqa: D102
        return item

    @cached
    def price(self, item: int) -> int:  # noqa: D102
        return item

    @property
    @lru
    def lru_size(self) -> int:  # noqa: D102
        return 1

    @property
    @cached
    def size(self) -> int:  # noqa: D102
        return 1


def turns(statements: dict[str, str], scope: dict[str, Any], count: int, number: int) -> dict[str, list[float]]:
    """Nanoseconds a call of each statement, in each turn."""
    timers = {name: timeit.Timer("; ".join([text] * LOOP), globals=scope) for name, text in statements.items()}
    for timer in timers.values():
        timer.timeit(number)
    taken: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(count):
        for name, timer in timers.items():
            # Of three, the least: a turn in which this one alone was pushed aside tells nothing.
            taken[name].append(min(timer.repeat(3, number)) / number / LOOP * 1e9)
    return taken


def ratio(taken: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(mine / other for mine, other in zip(taken[name], taken[base], strict=True))


def _row(what: str, base: str, ours: str, bar: str = "", *, met: bool | None = None) -> Row:
    verdict = "" if met is None else f" ({'met' if met else 'MISSED'})"
    row = {"what": what, "lru_cache": base, "memguard.cached": ours, "bar": f"{bar}{verdict}" if bar else "–"}
    print("  ".join(row.values()), flush=True)
    return row


def hits(count: int, number: int) -> list[Row]:
    scope: dict[str, Any] = {"shop": Shop()}
    statements: dict[str, str] = {}
    makers: dict[str, Callable[[Any], Any]] = {
        "lru": lru,
        "cached": cached,
        "ttl": cached(ttl="1h"),
        "typed": cached(typed=True),
        "lru_typed": functools.lru_cache(1000, typed=True),
        "locked": locked,
    }
    for function, arguments in zip((one, two, three), CALLS.values(), strict=True):
        for kind, maker in makers.items():
            name = f"{kind}_{function.__name__}"
            scope[name] = maker(function)
            statements[name] = f"{name}{arguments}"
    statements |= {"lru_method": "shop.lru_price(1)", "method": "shop.price(1)"}
    statements |= {"lru_property": "shop.lru_size", "property": "shop.size"}
    beat.NOW = time.monotonic()
    taken = turns(statements, scope, count, number)
    beat.NOW = float("inf")
    bare = turns({name: text for name, text in statements.items() if name[:3] in {"ttl", "lru"}}, scope, count, number)
    rows = []
    for function, what in zip((one, two, three), CALLS, strict=True):
        name = function.__name__
        base = f"{statistics.median(taken[f'lru_{name}']):.0f} ns"
        for kind, title, bar in (("cached", "", HIT_BAR), ("ttl", ", ttl, with a guard", TTL_BAR)):
            got = ratio(taken, f"{kind}_{name}", f"lru_{name}")
            rows.append(_row(f"hit, {what}{title}", base, f"{got:.2f} ×", f"≤ {bar} ×", met=got <= bar))
        rows.append(_row(f"hit, {what}, ttl, no guard", base, f"{ratio(bare, f'ttl_{name}', f'lru_{name}'):.2f} ×"))
        rows.append(_row(f"hit, {what}, typed", base, f"{ratio(taken, f'typed_{name}', f'lru_typed_{name}'):.2f} ×"))
        got = ratio(taken, f"locked_{name}", f"cached_{name}")
        peer = f"cachetools with a lock: {got:.1f} × as dear"
        rows.append(_row(f"hit, {what}", base, peer, f"≥ {CACHETOOLS_BAR} ×", met=got >= CACHETOOLS_BAR))
    for kind in ("method", "property"):
        base = f"{statistics.median(taken[f'lru_{kind}']):.0f} ns"
        rows.append(_row(f"hit, {kind}", base, f"{ratio(taken, kind, f'lru_{kind}'):.2f} ×"))
    return rows


def threads(count: int, number: int) -> list[Row]:
    """How much slower four threads are than one, over the same number of calls."""

    def timed(function: Callable[..., object], workers: int) -> float:
        calls = number * 40 // workers
        start = threading.Barrier(workers + 1)

        def work() -> None:
            start.wait()
            for _ in range(calls):
                function(1, 2)

        running = [threading.Thread(target=work) for _ in range(workers)]
        for thread in running:
            thread.start()
        start.wait()
        began = time.perf_counter()
        for thread in running:
            thread.join()
        return time.perf_counter() - began

    pair = {"lru": lru(two), "cached": cached(two)}
    slower: dict[str, list[float]] = {name: [] for name in pair}
    for _ in range(count):
        for name, function in pair.items():
            slower[name].append(min(timed(function, 4) for _ in range(3)) / min(timed(function, 1) for _ in range(3)))
    theirs, mine = (statistics.median(slower[name]) for name in ("lru", "cached"))
    bar = f"≤ {THREADS_BAR} × lru_cache's"
    met = mine <= THREADS_BAR * theirs
    return [_row("4 threads ÷ 1 thread, hits", f"{theirs:.2f} ×", f"{mine:.2f} ×", bar, met=met)]


def misses(count: int) -> list[Row]:
    """Microseconds a miss: the least of the turns, as misses allocate and collections come in between."""
    makers: dict[str, Any] = {
        "lru_cache(None)": functools.lru_cache(None),
        "lru_cache(1000), evicting": functools.lru_cache(1000),
        "cachetools LRU with a lock, evicting": locked,
        "cached": cached,
        "cached, coalesce=False": cached(coalesce=False),
        "cached(1000), evicting": cached(1000),
        "cached, ttl": cached(ttl="1h"),
    }
    least = dict.fromkeys(makers, float("inf"))
    for _ in range(max(3, count // 4)):
        for name, maker in makers.items():
            function = maker(lambda number: number)
            began = time.perf_counter()
            for number in range(10_000):
                function(number)
            least[name] = min(least[name], (time.perf_counter() - began) / 10_000 * 1e6)
            del function
    names = iter(least.items())
    rows = []
    for name, taken in names:
        theirs = not name.startswith("cached")
        rows.append(_row(f"miss: {name}", f"{taken:.2f} µs" if theirs else "–", "–" if theirs else f"{taken:.2f} µs"))
    return rows


def sizes() -> list[Row]:
    makers: dict[str, Any] = {
        "lru_cache(None)": functools.lru_cache(None),
        f"lru_cache({ENTRIES})": functools.lru_cache(ENTRIES),
        "cachetools LRU": cachetools.cached(cachetools.LRUCache(ENTRIES)),
        "cached": cached,
        f"cached({ENTRIES})": cached(ENTRIES),
    }
    rows = []
    for name, maker in makers.items():
        function = maker(two)
        gc.collect()
        tracemalloc.start()
        for number in range(ENTRIES):
            function(number, 1)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] / ENTRIES
        tracemalloc.stop()
        accounted = getattr(function.cache_info(), "bytes", None) if name.startswith("cached") else None
        text = f"{held:.0f} B" + (f"; accounted {accounted / ENTRIES:.0f} B" if accounted else "")
        ours = name.startswith("cached(") or name == "cached"
        rows.append(_row(f"bytes an entry, 2 arguments: {name}", "–" if ours else text, text if ours else "–"))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--only", choices=["hits", "threads", "misses", "bytes"])
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], list[Row]]] = {
        "hits": lambda: hits(arguments.turns, arguments.number),
        "threads": lambda: threads(max(3, arguments.turns // 4), arguments.number),
        "misses": lambda: misses(arguments.turns),
        "bytes": sizes,
    }
    wanted = parts.values() if arguments.only is None else (parts[arguments.only],)
    rows = [row for part in wanted for row in part()]
    if arguments.only is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        method = __doc__.split("\n\n")[1].splitlines()
        report.publish(f"hits-{version}", title="What a cached function costs", rows=rows, method=method)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
