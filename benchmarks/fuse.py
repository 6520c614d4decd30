"""The fuse: a service that grows and makes large C calls under a real kernel limit, bare, guarded, and with the fuse.

Each run is a process of its own in a memory group of 512 MiB. It answers from a cache that grows without end and
makes agents that live for two seconds, together at the stated speed; every 0.4 s it makes one large C call of 100 to
450 MB which it does not announce. "lump": one block, touched in C. "list": a list of so many bytes. "json": json.loads
of a body that becomes that large piece by piece, while the GIL is held. "threads": lumps from four threads at once.
"holes" frees and fills half of a heap of 250 MB of small objects meanwhile, so that much is mapped and not resident.
An operation is an entry, an agent or a call; refused are those that met a MemoryError or the gate. A run counts as
killed when the kernel says so, and as broken when the process ended otherwise or its data was not what it had stored.

    python benchmarks/fuse.py [--rounds 16] [--seconds 8] [--only lump]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from pathlib import Path
from typing import TYPE_CHECKING

import report

from memguard.errors import AdmissionRefused
from memguard.fuse.letting_go import out_of_memory
from memguard.guard import Guard
from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_BYTES = 512 * MIB
CASES = (("lump", 100), ("lump", 300), ("list", 100), ("json", 100), ("threads", 100), ("holes", 100))
ENTRY_BYTES = 96 * 1024
AGENT_SHARE = 0.3
AGENT_LIFE_S = 2.0
CALL_EVERY_S = 0.4
CALL_MB = (100, 450)
HOLE_BYTES = 2000
HOLES = 125_000

# The bar.
REFUSED_BAR_RATIO = 0.05


def lump(count: int) -> int:
    return bytearray(count).count(1)


def long_list(count: int) -> int:
    return len([None] * (count // 8))


def parsed(count: int) -> int:
    # About 120 bytes of objects for each 11 of text.
    text = "[" + "[1.25,2.5]," * (count // 150) + "0]"
    return len(json.loads(text))


CALLS: dict[str, Callable[[int], int]] = {
    "lump": lump, "list": long_list, "json": parsed, "threads": lump, "holes": lump,
}  # fmt: skip


class Service:
    """The growing service; ``guard`` is None in a bare run."""

    def __init__(self, guard: Guard | None, kind: str, seed: int) -> None:
        self.guard = guard
        self.kind = kind
        self.cache: OrderedDict[int, bytes] = OrderedDict()
        self.agents: deque[tuple[float, bytes]] = deque()
        self.random = random.Random(seed)
        self.counts = {"work": 0, "work_refused": 0, "calls": 0, "calls_refused": 0}
        self.heap: list[bytes | None] = [b"h" * HOLE_BYTES for _ in range(HOLES)] if kind == "holes" else []
        if guard is not None:
            guard.cache(self.cache, name="answers")

    def do(self, what: str, work: Callable[[], object]) -> None:
        """One operation, counted."""
        self.counts[what] += 1
        try:
            work()
        except AdmissionRefused:
            self.counts[f"{what}_refused"] += 1
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            self.counts[f"{what}_refused"] += 1
            if self.guard is not None:
                self.guard.memory_error(error)

    def grow(self, wanted_bytes: int, now: float) -> None:
        """Take on so much work: answers for the cache, and agents."""
        while self.agents and self.agents[0][0] < now - AGENT_LIFE_S:
            self.agents.popleft()
        for _ in range(max(1, wanted_bytes // ENTRY_BYTES)):
            if self.random.random() < AGENT_SHARE:
                self.do("work", lambda: self.agent(now))
            else:
                self.do("work", self.entry)

    def entry(self) -> None:
        """One answer for the cache."""
        number = self.random.getrandbits(31)
        self.cache[number] = number.to_bytes(4, "big") * (ENTRY_BYTES // 4)

    def agent(self, now: float) -> None:
        """One agent, if it is admitted."""
        if self.guard is None:
            self.agents.append((now, b"x" * ENTRY_BYTES))
            return
        with self.guard.admit(ENTRY_BYTES, label="agent"):
            self.agents.append((now, b"x" * ENTRY_BYTES))

    def stir(self) -> None:
        """Free half of the heap, or fill it again."""
        if self.heap:
            empty = self.heap[0] is None
            for number in range(0, HOLES, 2):
                self.heap[number] = b"h" * HOLE_BYTES if empty else None

    def call(self) -> None:
        """One large C call that nobody was told of, or four at once."""
        count = self.random.randint(*CALL_MB) * 1_000_000
        work = CALLS[self.kind]
        if self.kind != "threads":
            self.do("calls", lambda: work(count))
            return
        threads = [threading.Thread(target=self.do, args=("calls", lambda: work(count // 4))) for _ in range(4)]
        for thread in threads:
            self.do("work", thread.start)
        for thread in threads:
            if thread.ident is not None:
                thread.join()

    def healthy(self) -> bool:
        """Whether everything in it is what was put in."""
        return all(
            len(value) == ENTRY_BYTES and int.from_bytes(value[-4:], "big") == key for key, value in self.cache.items()
        )


def worker(mode: str, kind: str, speed_mb_s: int, seconds: float, seed: int) -> None:
    faults: list[str] = []
    note = lambda event: faults.append(event.text) if event.name == "guard.fault" else None  # noqa: E731
    guard = None if mode == "bare" else Guard(fuse=mode == "fused", sinks=[note]).start()
    service = Service(guard, kind, seed)
    began = last = time.monotonic()
    next_call = began + CALL_EVERY_S
    while (now := time.monotonic()) < began + seconds:
        service.grow(int((now - last) * speed_mb_s * 1e6), now)
        last = now
        if now >= next_call:
            service.do("work", service.stir)
            service.call()
            next_call = time.monotonic() + CALL_EVERY_S
        time.sleep(0.004)
    level = guard.level.name if guard else ""
    print(json.dumps({**service.counts, "healthy": service.healthy(), "level": level, "faults": faults}), flush=True)
    if guard is not None:
        guard.stop()


def one_run(mode: str, kind: str, speed: int, seconds: float, seed: int) -> dict[str, float]:
    argv = [sys.executable, __file__, "--worker", mode, kind, str(speed), str(seconds), str(seed)]
    with Cage(LIMIT_BYTES) as cage:
        process = cage.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = process.communicate(timeout=seconds * 20 + 60)
        said = json.loads(out.splitlines()[-1]) if out.strip() else {}
        broken = cage.killed == 0 and (process.returncode != 0 or not said.get("healthy"))
        if broken:
            print(process.returncode, err[-2000:], flush=True)
        return {**said, "killed": cage.killed > 0, "broken": broken, "peak": cage.peak_bytes}


def _row(kind: str, speed: int, runs: dict[str, list[dict[str, float]]]) -> dict[str, str]:
    row = {"C calls": kind, "growth MB/s": str(speed)}
    for mode, results in runs.items():
        alive = [run for run in results if not run["killed"] and not run["broken"]]
        row[f"{mode} survive"] = f"{len(alive)}/{len(results)}"
    fused = [run for run in runs["fused"] if "calls" in run]
    total = {name: sum(run[name] for run in fused) for name in ("work", "work_refused", "calls", "calls_refused")}
    refused = (total["work_refused"] + total["calls_refused"]) / max(1, total["work"] + total["calls"])
    verdict = (
        "met"
        if refused <= REFUSED_BAR_RATIO and row["fused survive"] == f"{len(runs['fused'])}/{len(runs['fused'])}"
        else "MISSED"
    )
    row["peak"] = f"{max(run['peak'] for run in runs['fused']) / LIMIT_BYTES:.0%}"
    row["refused of all"] = f"{refused:.1%}"
    row["of the entries and agents"] = f"{total['work_refused'] / max(1, total['work']):.1%}"
    row["of the calls"] = f"{total['calls_refused'] / max(1, total['calls']):.0%}"
    row["bar: all survive, ≤ 5 % refused"] = verdict
    print(row, flush=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", choices=sorted(CALLS))
    parser.add_argument("--twins", type=int, default=4, help="rounds of the bare and the merely guarded twin")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        mode, kind, speed, seconds, seed = arguments.worker
        worker(mode, kind, int(speed), float(seconds), int(seed))
        return 0
    if reason := cage_unavailable():
        print(f"no fuse benchmark: {reason}")
        return 0
    rows = []
    for kind, speed in CASES:
        if arguments.only not in {None, kind}:
            continue
        runs: dict[str, list[dict[str, float]]] = {"bare": [], "guarded": [], "fused": []}
        for seed in range(arguments.rounds):
            for mode, results in runs.items():
                if mode == "fused" or seed < arguments.twins:
                    results.append(one_run(mode, kind, speed, arguments.seconds, seed))
        rows.append(_row(kind, speed, runs))
    if arguments.only is None:
        title = f"The fuse under {LIMIT_BYTES // MIB} MiB, {arguments.rounds} rounds of {arguments.seconds:g} s"
        report.publish("fuse", title=title, rows=rows, method=__doc__.splitlines()[2:10])
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
