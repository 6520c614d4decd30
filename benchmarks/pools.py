"""Pools, operations, features: what each costs a request, and how fairly growth is attributed when work overlaps.

Costs are process CPU time per call, each beside a bare twin that does the same without memguard, in turn, the best of
15 rounds: other work on the machine only adds. "operation" begins and ends one around nothing, both readings of
/proc/self/statm included; its twin is an empty context manager. "lease" acquires and releases an idle agent of a pool
of 100; its twin is a dict under a lock.
Attribution: threads run operations of three types that keep 0.25, 0.75 and 2.25 MiB (fresh pages, written in one call)
for up to 8 ms; each type's mean over 1,200 operations is compared with the truth. "equal" splits growth in equal parts,
"weighted" is what memguard does: in proportion to what each type is known to grow by.

    python benchmarks/pools.py [--rounds 15] [--count 20000]
"""

from __future__ import annotations

import argparse
import mmap
import random
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import report

from memguard._core.tally import Tally
from memguard.features import Features
from memguard.guard import Guard
from memguard.operations import Operations
from memguard.roster import Roster
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.agents.pools import Pool

Row = dict[str, str]
OPERATION_BAR_US = 10.0
TRUTH_MIB = {"small": 0.25, "middle": 0.75, "large": 2.25}
KEPT = 1200


def cpu_us(work: Callable[[], object], count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - began) / count * 1e6


def pair(name: str, bare: Callable[[], object], ours: Callable[[], object], *, rounds: int, count: int) -> Row:
    taken = [(cpu_us(bare, count), cpu_us(ours, count)) for _ in range(rounds)]
    bare_us, ours_us = (min(column) for column in zip(*taken, strict=True))
    row = {"what": name, "bare": f"{bare_us:.2f} µs", "with memguard": f"{ours_us:.2f} µs", "bar": "–"}
    if name == "operation":
        more = ours_us - bare_us
        row["bar"] = f"≤ {OPERATION_BAR_US:g} µs ({'met' if more <= OPERATION_BAR_US else 'MISSED'})"
    print("  ".join(row.values()), flush=True)
    return row


def costs(rounds: int, count: int) -> list[Row]:  # noqa: C901 - pairs of tiny functions
    guard = Guard(limit="4GiB", roster=Roster())
    guard.tick()
    operations, feature = Operations(), Features(clock=time.monotonic).feature("embeddings")
    pool: Pool[object] = guard.pool("agents", max_size=200)
    plain, lock, on = dict[str, object](), threading.Lock(), [True]
    for number in range(100):
        pool[f"a{number}"] = plain[f"a{number}"] = object()
    empty = nullcontext()

    def bare_block() -> None:
        with empty:
            pass

    def operation() -> None:
        with operations.operation("agent.run"):
            pass

    def nested() -> None:
        with operations.operation("agent.run"), operations.operation("llm"):
            pass

    def bare_lease() -> None:
        with lock:
            plain["a7"]

    def lease() -> None:
        with pool.lease("a7"):
            pass

    def asks() -> None:
        if feature:
            pass

    def bare_asks() -> None:
        if on[0]:
            pass

    return [
        pair("operation", bare_block, operation, rounds=rounds, count=count),
        pair("two operations, one inside the other", bare_block, nested, rounds=rounds, count=count // 2),
        pair("feature, asked", bare_asks, asks, rounds=rounds, count=count * 5),
        pair("lease of an idle agent", bare_lease, lease, rounds=rounds, count=count),
        pair("pool.fits()", bare_block, pool.fits, rounds=rounds, count=count),
    ]


def attribution(threads: int, *, weighted: bool) -> dict[str, float]:
    """Each type's mean in MiB, after operations that keep a known amount each."""
    operations, kept, end = Operations(), list[mmap.mmap](), threading.Event()
    types, source = list(TRUTH_MIB), bytes(int(max(TRUTH_MIB.values()) * MIB))

    def work(seed: int) -> None:
        dice = random.Random(seed)
        while not end.is_set():
            type_ = dice.choice(types)
            with operations.operation(type_):
                time.sleep(dice.uniform(0.0, 0.004))
                # An anonymous mapping: pages that nothing else reuses, so that the truth is known.
                body = mmap.mmap(-1, int(TRUTH_MIB[type_] * MIB))
                body[:] = source[: len(body)]
                time.sleep(dice.uniform(0.0, 0.004))
                kept.append(body)

    weight = Tally.weight
    if not weighted:
        Tally.weight = lambda self, average: 1.0  # type: ignore[method-assign]  # noqa: ARG005
    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    try:
        for worker in workers:
            worker.start()
        while len(kept) < KEPT:
            time.sleep(0.005)
    finally:
        end.set()
        for worker in workers:
            worker.join()
        Tally.weight = weight  # type: ignore[method-assign]
        for body in kept:
            body.close()
    return {row.type: row.memory_mean_bytes / MIB for row in operations.stats()}


def split(threads: int) -> Row:
    row = {"threads": str(threads), "truth, MiB": ", ".join(f"{type_} {mib}" for type_, mib in TRUTH_MIB.items())}
    for name, weighted in (("equal", False), ("weighted", True)):
        means = attribution(threads, weighted=weighted)
        worst = max(abs(means[type_] / truth - 1) for type_, truth in TRUTH_MIB.items())
        row[name] = ", ".join(f"{means[type_]:.2f}" for type_ in TRUTH_MIB) + f" (worst {worst:.0%})"
    print("  ".join(row.values()), flush=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=20_000)
    arguments = parser.parse_args()
    rows = costs(arguments.rounds, arguments.count)
    table = report.table([split(threads) for threads in (1, 2, 4, 8)])
    method = [table, "", *__doc__.split("\n\n")[1].splitlines()]
    report.publish(
        "pools", title="What pools and operations cost, and whom growth is charged to", rows=rows, method=method
    )
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
