"""Survival: the same growing service under a real kernel limit, bare and guarded, at several speeds.

Each run is a process of its own in a memory group of 512 MiB. It answers from a cache that grows without end and
makes agents that live for two seconds, together at the stated speed; in the "C call" rows it also makes one large
allocation inside a single C call every 0.4 s. "announced" means that the work asked ``guard.admit`` for those bytes.
A run counts as killed when the kernel says so. "useful" is the highest share of the limit that entries and agents
filled at once.

    python benchmarks/survival.py [--rounds 3] [--seconds 8] [--only 475]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections import OrderedDict, deque
from pathlib import Path

import report

from memguard.errors import AdmissionRefused
from memguard.guard import Guard
from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

LIMIT_BYTES = 512 * MIB
SPEEDS_MB_S = (50, 100, 300, 475, 800)
ENTRY_BYTES = 96 * 1024
AGENT_SHARE = 0.3
AGENT_LIFE_S = 2.0
CALL_EVERY_S = 0.4
CALL_MB = (100, 450)


class Service:
    """The growing service; ``guard`` is None in a bare run."""

    def __init__(self, guard: Guard | None, *, announce: bool, seed: int) -> None:
        self.guard = guard
        self.announce = announce
        self.cache: OrderedDict[int, bytes] = OrderedDict()
        self.agents: deque[tuple[float, bytes]] = deque()
        self.random = random.Random(seed)
        self.asked = self.refused = self.calls = self.calls_refused = 0
        self.useful_bytes = 0
        if guard is not None:
            guard.cache(self.cache, name="answers")

    def grow(self, wanted_bytes: int, now: float) -> None:
        """Take on so much work: answers for the cache, and agents."""
        while self.agents and self.agents[0][0] < now - AGENT_LIFE_S:
            self.agents.popleft()
        for _ in range(max(1, wanted_bytes // ENTRY_BYTES)):
            if self.random.random() < AGENT_SHARE:
                self.agent(now)
            else:
                self.cache[self.random.getrandbits(60)] = b"x" * ENTRY_BYTES
        self.useful_bytes = max(self.useful_bytes, (len(self.cache) + len(self.agents)) * ENTRY_BYTES)

    def agent(self, now: float) -> None:
        """Make one agent, if it is admitted."""
        self.asked += 1
        try:
            if self.guard is not None:
                with self.guard.admit(ENTRY_BYTES, label="agent"):
                    self.agents.append((now, b"x" * ENTRY_BYTES))
            else:
                self.agents.append((now, b"x" * ENTRY_BYTES))
        except AdmissionRefused:
            self.refused += 1

    def call(self) -> None:
        """One C call that takes it all at once, and holds the GIL meanwhile."""
        count = self.random.randint(*CALL_MB) * 1_000_000
        self.calls += 1
        try:
            if self.guard is not None and self.announce:
                with self.guard.admit(count, label="C call"):
                    bytearray(count).count(1)
            else:
                bytearray(count).count(1)
        except AdmissionRefused:
            self.calls_refused += 1


def worker(mode: str, speed_mb_s: int, seconds: float, calls: str, seed: int) -> None:
    guard = Guard(limit="auto").start() if mode == "guarded" else None
    service = Service(guard, announce=calls == "announced", seed=seed)
    began = last = time.monotonic()
    next_call = began + CALL_EVERY_S if calls != "none" else float("inf")
    told = 0.0
    while (now := time.monotonic()) < began + seconds:
        service.grow(int((now - last) * speed_mb_s * 1e6), now)
        last = now
        if now >= next_call:
            service.call()
            next_call = time.monotonic() + CALL_EVERY_S
        if now - told > 0.1:
            told = now
            print(json.dumps({"s": now - began, **_counts(service)}), flush=True)
        time.sleep(0.004)
    level = guard.level.name if guard else ""
    print(json.dumps({"s": seconds, "end": level, **_counts(service)}), flush=True)
    if guard is not None:
        guard.stop()


def _counts(service: Service) -> dict[str, float]:
    return {
        "useful": service.useful_bytes,
        "asked": service.asked,
        "refused": service.refused,
        "calls": service.calls,
        "calls_refused": service.calls_refused,
    }


def one_run(mode: str, speed: int, seconds: float, calls: str, seed: int) -> dict[str, float | bool]:
    argv = [sys.executable, __file__, "--worker", mode, str(speed), str(seconds), calls, str(seed)]
    with Cage(LIMIT_BYTES) as cage:
        process = cage.popen(argv, stdout=subprocess.PIPE, text=True)
        out, _ = process.communicate(timeout=seconds * 10 + 60)
        last = json.loads(out.splitlines()[-1]) if out.strip() else {"s": 0.0, "useful": 0}
        return {**last, "killed": cage.killed > 0, "peak": cage.peak_bytes, "code": process.returncode}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", type=int, help="one speed in MB/s instead of all")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        mode, speed, seconds, calls, seed = arguments.worker
        worker(mode, int(speed), float(seconds), calls, int(seed))
        return 0
    if reason := cage_unavailable():
        print(f"no survival matrix: {reason}")
        return 0
    rows = []
    cases = [(speed, "none") for speed in SPEEDS_MB_S if arguments.only in {None, speed}]
    cases += [(100, "announced"), (100, "unannounced")] if arguments.only is None else []
    for speed, calls in cases:
        runs: dict[str, list[dict[str, float | bool]]] = {"bare": [], "guarded": []}
        # Slow growth gets the time to reach the limit more than once.
        seconds = max(arguments.seconds, 1.6 * LIMIT_BYTES / (speed * 1e6))
        for seed in range(arguments.rounds):
            for mode, results in runs.items():
                results.append(one_run(mode, speed, seconds, calls, seed))
        rows.append(_row(speed, calls, runs))
        print(rows[-1], flush=True)
    report.publish(
        "survival",
        title=f"Survival under {LIMIT_BYTES // MIB} MiB, {arguments.rounds} rounds of at least {arguments.seconds:g} s",
        rows=rows,
        method=__doc__.splitlines()[2:8],
    )
    return 0


def _row(speed: int, calls: str, runs: dict[str, list[dict[str, float | bool]]]) -> dict[str, str]:
    bare, guarded = runs["bare"], runs["guarded"]
    alive = [run for run in guarded if not run["killed"]]
    asked = sum(run.get("asked", 0) + run.get("calls", 0) for run in guarded)
    refused = sum(run.get("refused", 0) + run.get("calls_refused", 0) for run in guarded)
    died_s = [run["s"] for run in bare if run["killed"]]
    return {
        "growth MB/s": str(speed),
        "C calls": calls,
        "bare killed": f"{len(died_s)}/{len(bare)}" + (f" after {statistics.median(died_s):.1f} s" if died_s else ""),
        "guarded killed": f"{len(guarded) - len(alive)}/{len(guarded)}",
        "guarded peak": f"{max(run['peak'] for run in guarded) / LIMIT_BYTES:.0%}",
        "useful": f"{max(run['useful'] for run in guarded) / LIMIT_BYTES:.0%}",
        "refused": f"{refused / asked:.1%}" if asked else "–",
        "level at end": ", ".join(sorted({str(run.get("end", "")) for run in alive})),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
