"""GC policies: each on its own kind of load, against no guard and against a guard without a policy.

Sessions are cycles of a few objects with a payload. They live for a while, so that young collections have promoted
them when they end, and from then on only a full collection frees them. CPython starts one when the survivors since
the last exceed a quarter of the heap, counted in objects, not in bytes.

    python benchmarks/gc_policies.py [--rounds 3] [--only idle]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import deque
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report

from memguard.guard import Guard
from memguard.model import Level
from memguard.reclaimers.gc_policy import GcPolicy
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.model import GcStats, Snapshot
    from memguard.ports import GcDecider

MODES = ("bare", "guarded", "policy")
CHILDREN = 4
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class NoPolicy:
    """A policy that never asks."""

    def due(self, snapshot: Snapshot, stats: GcStats, /) -> int | None:  # noqa: ARG002 - the port's shape
        """Never."""
        return None


class Session:
    """A cycle, as frameworks make them: an object that its own parts refer back to."""

    __slots__ = ("parts", "payload")

    def __init__(self, payload_bytes: int, parts: int) -> None:
        self.payload = b"p" * payload_bytes
        self.parts = [[self] for _ in range(parts)]


class Watched:
    """Counts full collections and the time that they took."""

    def __init__(self) -> None:
        self.full, self.pause_s, self._began = 0, 0.0, 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, found: dict[str, int]) -> None:
        if found["generation"] == 2:
            if phase == "start":
                self._began = time.perf_counter()
            else:
                self.full += 1
                self.pause_s += time.perf_counter() - self._began


def live_heap(objects: int) -> list[list[int]]:
    """What a service has loaded and keeps."""
    heap = [[number] for number in range(objects)]
    gc.collect()
    return heap


def rss_bytes() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES


def guard_for(mode: str, policy: GcDecider, *, limit: str = "512MiB") -> Guard | None:
    """No guard, a guard without a policy, or one with this policy."""
    if mode == "bare":
        return None
    guard = Guard(limit=limit)
    guard.gc_policy(policy if mode == "policy" else NoPolicy())
    return guard


# --- the loads --------------------------------------------------------------------------------------------------------


def pressure(mode: str) -> dict[str, float]:
    """Sessions of 50 KB turn into garbage at some 100 MB/s, in a heap of 600 000 objects and a limit of 512 MiB."""
    heap = live_heap(600_000)
    watched = Watched()
    living: deque[Session] = deque(maxlen=1000)
    guard = guard_for(mode, GcPolicy.pressure())
    with guard or nullcontext():
        began = time.perf_counter()
        for number in range(30_000):
            living.append(Session(50_000, 2))
            if number % 20 == 19:
                time.sleep(0.01)
        took_s = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    warned = 0 if guard is None else sum(incident.peak_level >= Level.WARNING for incident in guard.incidents)
    return {
        "peak MiB": peak / MIB,
        "seconds": took_s,
        "full gcs": watched.full,
        "incidents above ELEVATED": warned,
        "heap": len(heap),
    }


def interval(mode: str) -> dict[str, float]:
    """The same at 20 MB/s, far below the limit; RSS in the second half of 10 s. One second stands for a minute."""
    heap = live_heap(200_000)
    watched = Watched()
    living: deque[Session] = deque(maxlen=300)
    seen: list[int] = []
    with guard_for(mode, GcPolicy.interval(1.0)) or nullcontext():
        began = time.perf_counter()
        while (at_s := time.perf_counter() - began) < 10.0:
            for _ in range(4):
                living.append(Session(50_000, 2))
            if at_s > 5.0:
                seen.append(rss_bytes())
            time.sleep(0.01)
    return {
        "mean RSS MiB": statistics.fmean(seen) / MIB,
        "pause ms a second": watched.pause_s * 100,
        "full gcs": watched.full,
        "heap": len(heap),
    }


def idle(mode: str) -> dict[str, float]:
    """Bursts of 100 requests at 200 a second, then a second of silence; latency from when each should have begun."""
    heap = live_heap(400_000)
    watched = Watched()
    living: deque[Session] = deque(maxlen=200)
    latencies_s: list[float] = []
    guard = guard_for(mode, GcPolicy.idle())
    with guard or nullcontext():
        for _ in range(12):
            began = time.perf_counter()
            for number in range(100):
                due = began + number * 0.005
                time.sleep(max(0.0, due - time.perf_counter()))
                with nullcontext() if guard is None else guard.admit():
                    living.append(Session(1000, 700))
                latencies_s.append(time.perf_counter() - due)
            time.sleep(1.0)
    latencies_s.sort()
    return {
        "p99 ms": latencies_s[int(len(latencies_s) * 0.99)] * 1000,
        "p50 ms": latencies_s[len(latencies_s) // 2] * 1000,
        "max ms": latencies_s[-1] * 1000,
        "full gcs": watched.full,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "heap": len(heap),
    }


def freeze(mode: str) -> dict[str, float]:
    """A server loads 1 000 000 objects and forks 4 workers; each keeps 300 000 more and collects fully once."""
    heap = live_heap(1_000_000)
    policy = GcPolicy.freeze(after_s=None)
    # Out of reach: the resident sizes of forked workers count the pages that they share several times.
    guard = guard_for(mode, policy, limit="4GiB")
    with guard or nullcontext():
        if mode == "policy":
            policy.warmed_up()
        workers = [fork_worker(heap) for _ in range(CHILDREN)]
        private = [json.loads(answer.readline()) for answer, _ in workers]
        for answer, pid in workers:
            answer.close()
            os.waitpid(pid, 0)
    return {
        "own MiB a worker": statistics.fmean(one["own"] for one in private) / MIB,
        "PSS MiB a worker": statistics.fmean(one["pss"] for one in private) / MIB,
        "full gcs a worker": statistics.fmean(one["full"] for one in private),
        "heap": len(heap),
    }


def fork_worker(heap: list[list[int]]) -> tuple[Any, int]:
    """A worker that allocates, collects as CPython decides, and reports once all have had the time to work."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return os.fdopen(reader), pid
    try:
        watched = Watched()
        kept = []
        for number in range(300_000):
            kept.append([number])
            if number % 1000 == 0:
                heap[number % len(heap)][0] += 1
        gc.collect()
        time.sleep(1.0)
        rollup = dict(
            line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
        )
        own = sum(int(rollup[key].split()[0]) for key in ("Private_Dirty", "Private_Clean")) * 1024
        pss = int(rollup["Pss"].split()[0]) * 1024
        os.write(writer, (json.dumps({"own": own, "pss": pss, "full": watched.full}) + "\n").encode())
    finally:
        os._exit(0)


LOADS: dict[str, tuple[Callable[[str], dict[str, float]], str]] = {
    "pressure": (pressure, "peak MiB"),
    "interval": (interval, "mean RSS MiB"),
    "idle": (idle, "p99 ms"),
    "freeze": (freeze, "own MiB a worker"),
}


# --- the comparison ---------------------------------------------------------------------------------------------------


def run(load: str, mode: str) -> dict[str, float]:
    """One run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", __file__, "--worker", load, mode],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{load} {mode} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(load: str, rounds: int) -> tuple[dict[str, str], bool]:
    """A row of the table, from interleaved rounds, and whether the policy did better than none in its median."""
    measure = LOADS[load][1]
    results: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    for number in range(rounds):
        for mode in MODES:
            results[mode].append(run(load, mode))
            shown = ", ".join(f"{key} {value:.1f}" for key, value in results[mode][-1].items() if key != "heap")
            print(f"{load} {number + 1}/{rounds} {mode}: {shown}", flush=True)
    middle = {
        mode: {key: statistics.median(one[key] for one in results[mode]) for key in results[mode][0]} for mode in MODES
    }
    ratios = sorted(
        ours[measure] / bare[measure] for ours, bare in zip(results["policy"], results["bare"], strict=True)
    )
    others = [key for key in middle["bare"] if key not in {measure, "heap"}]
    row = {
        "load": load,
        "measure": measure,
        **{mode: f"{middle[mode][measure]:.1f}" for mode in MODES},
        "policy ÷ bare": f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        "policy ÷ guarded": f"{middle['policy'][measure] / middle['guarded'][measure]:.2f}",
        "beside it (bare, guarded, policy)": "; ".join(
            f"{key} {', '.join(f'{middle[mode][key]:.1f}' for mode in MODES)}" for key in others
        ),
    }
    return row, statistics.median(ratios) < 1.0


def main() -> int:
    """Run every load in every mode; exit status 1 when a policy was no better than none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(LOADS))
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        load, mode = arguments.worker
        print(json.dumps(LOADS[load][0](mode)))
        return 0
    rows, better = [], []
    for load in [arguments.only] if arguments.only else LOADS:
        row, paid = compare(load, arguments.rounds)
        rows.append(row)
        better.append(paid)
    if arguments.only:
        print(report.table(rows))
    else:
        loads = [f"- **{name}**: {function.__doc__}" for name, (function, _) in LOADS.items()]
        report.publish(
            "gc_policies",
            title="GC policies, each on its own kind of load",
            rows=rows,
            method=[
                f"`benchmarks/gc_policies.py`: medians of {arguments.rounds} rounds, bare, guarded and policy",
                "interleaved, each run a process of its own. *guarded* is a guard with a policy that never asks. Less",
                "is better in every measure.",
                "",
                *loads,
            ],
        )
    return 0 if all(better) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
