"""Async hits: what a cached coroutine function costs beside the bare one, and beside other caches.

Every figure is a ratio to awaiting the bare function, a trivial ``async def`` of one argument, within one process. Each
round awaits every candidate some thousand times, one after another, beginning with another one each time; what counts
is CPU time of the thread, and the table shows the median of the rounds' ratios with their quartiles. All caches hold
the key, bounded alike: 1,024 entries where the cache has a bound, 300 s where it has a time to live. "under a guard" is
with its coarse clock, as in a guarded service. A miss is 8 tasks that ask for one new key at once; its bare twin is 8
tasks that call the function. The bar: a hit costs at most 2 times an uncached await.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import report

from memguard import beat
from memguard.caching.functions import cached
from memguard.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Call = Callable[[int], Awaitable[int]]

BAR_RATIO = 2.0
BARE = "uncached await"
TASKS = 8


async def bare(number: int) -> int:
    return number


class Model:
    """Holds a cached method, and its bare twin."""

    @cached(roster=Roster())
    async def embed(self, number: int) -> int:
        """Trivial, as ``bare``."""
        return number


def ours() -> dict[str, Call]:
    roster = Roster()

    def fresh(**options: int) -> Call:
        async def function(number: int) -> int:
            return number

        call: Call = cached(roster=roster, **cast("dict[str, Any]", options))(function)
        return call

    return {
        "memguard.cached": fresh(),
        "memguard.cached(1024)": fresh(maxsize=1024),
        "memguard.cached, a method": Model().embed,
        "memguard.cached(ttl=300), under a guard": guarded(fresh(ttl=300)),
        "memguard.cached(ttl=300, stale_s=60), under a guard": guarded(fresh(ttl=300, stale_s=60)),
        "memguard.cached(ttl=300), no guard": fresh(ttl=300),
    }


def guarded(call: Call) -> Call:
    """Marks a call to be timed with the coarse clock running; a wrapper would cost what is to be measured."""
    GUARDED.add(id(call))
    return call


GUARDED: set[int] = set()


def peers() -> dict[str, Call]:
    """The other caches that are installed."""
    found: dict[str, Call] = {}
    try:
        from async_lru import alru_cache  # noqa: PLC0415 - extra

        found["async_lru.alru_cache(1024)"] = alru_cache(maxsize=1024)(bare)
        found["async_lru.alru_cache(1024, ttl=300)"] = alru_cache(maxsize=1024, ttl=300)(bare)
    except ImportError:
        print("async-lru is not installed: pip install 'pymemguard[bench]'")
    try:
        import aiocache  # noqa: PLC0415 - extra

        found["aiocache.cached(ttl=300), memory"] = aiocache.cached(ttl=300)(bare)
    except ImportError:
        print("aiocache is not installed: pip install 'pymemguard[bench]'")
    return found


async def timed(call: Call, count: int) -> float:
    """Seconds per await."""
    beat.NOW = time.monotonic() if id(call) in GUARDED else float("inf")
    began = time.thread_time()
    for _ in range(count):
        await call(1)
    taken_s = time.thread_time() - began
    beat.NOW = float("inf")
    return taken_s / count


async def hits(rounds: int, count: int) -> dict[str, list[float]]:
    calls: dict[str, Call] = {BARE: bare, **ours(), **peers()}
    counts = {}
    for name, call in calls.items():
        await timed(call, 10)
        # About as long for each: a slow one is not awaited as often.
        counts[name] = max(50, int(count * 1e-7 / max(1e-7, await timed(call, 50))))
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for turn in range(rounds):
        start = turn % len(order)
        taken = {name: await timed(calls[name], counts[name]) for name in (*order[start:], *order[:start])}
        for name in order:
            ratios[name].append(taken[name] / taken[BARE])
    return ratios


async def misses(rounds: int, keys: int) -> dict[str, list[float]]:
    """Stampedes: the time per task of ``TASKS`` tasks on one new key."""
    from_peers = {name: call for name, call in peers().items() if "ttl" not in name}
    calls: dict[str, Call] = {BARE: bare, "memguard.cached": ours()["memguard.cached"], **from_peers}
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        taken = {}
        for name, call in calls.items():
            began = time.thread_time()
            for key in range(keys):
                new = 2 + turn * keys + key
                await asyncio.gather(*(asyncio.ensure_future(call(new)) for _ in range(TASKS)))
            taken[name] = time.thread_time() - began
        for name in calls:
            ratios[name].append(taken[name] / taken[BARE])
    return ratios


def rows(ratios: dict[str, list[float]], what: str, *, bar: float | None) -> list[dict[str, str]]:
    made = []
    for name, found in ratios.items():
        low, middle, high = statistics.quantiles(found, n=4)
        verdict = "–"
        if bar is not None and name.startswith("memguard"):
            verdict = f"≤ {bar:g} ({'met' if middle <= bar else 'MISSED'})"
        made.append({"what": what, "function": name, "× bare": f"{middle:.2f} ({low:.2f}–{high:.2f})", "bar": verdict})
        print("  ".join(made[-1].values()), flush=True)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--count", type=int, default=20_000, help="awaits of the bare function per round")
    parser.add_argument("--save", action="store_true", help="write results/async_hits.md")
    arguments = parser.parse_args()
    gc.disable()  # collections fall on whoever is being timed
    table = rows(asyncio.run(hits(arguments.rounds, arguments.count)), "hit", bar=BAR_RATIO)
    table += rows(asyncio.run(misses(max(8, arguments.rounds // 10), 100)), f"miss, {TASKS} tasks", bar=None)
    if arguments.save:
        method = (__doc__ or "").split("\n\n")[1].splitlines()
        report.publish("async_hits", title="What an async hit costs", rows=table, method=method)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
