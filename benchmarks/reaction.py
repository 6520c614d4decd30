"""Reaction: from the moment at which memory crosses a rung to the first byte that has come back.

Each round is a process of its own in a memory group of 256 MiB. A cache is filled to just below the WARNING rung (80 %
of the limit); at a random moment a burst of 1 MiB blocks crosses it, and the clock starts at the block after which
usage is seen above. It stops at the end of the first relief that the guard measured as having bought something, and for
the twin after the ``clear()`` that made usage fall. The twin is the guard that services write themselves: a thread that
asks psutil once a second and clears the cache above 80 %. Usage is what the one who watches goes by: the group's for
the guard, RSS for the twin (10 MiB more here: with one measure for both the twin would act before the burst). A round
in which anything was shed before the burst does not count and is made again. "threads": three more threads compute in
pure Python. "event loop": a loop without a free moment, each callback 2 ms of pure Python.

    python benchmarks/reaction.py [--rounds 6] [--only idle]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import report

from memguard.probes.cgroup import CgroupProbe
from memguard.probes.limits import find_limits
from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import KIB, MIB

if TYPE_CHECKING:
    from memguard.guard import Guard

ROOT = Path(__file__).parent.parent
CAGE_BYTES = 256 * MIB
ENTRY_BYTES = 96 * KIB
BURST_BLOCKS = 24
RUNG_RATIO, BELOW_RATIO = 0.80, 0.785
POLL_S, GIVE_UP_S = 1.0, 5.0
# Rounds that do not count, before the case is given up.
SPOILT_AT_MOST = 6
LOADS = ("idle", "threads", "event loop")

Row = dict[str, str]


class Spoilt(Exception):
    """Somebody shed before the burst, or the burst did not cross: the round measures nothing."""


class Service:
    """A cache below a rung."""

    def __init__(self, watch: str) -> None:
        found = next(limit for limit in find_limits(environ={}).limits if limit.usage == "cgroup")
        assert found.path is not None  # noqa: S101 - a group has one
        assert found.version is not None  # noqa: S101
        self.rung_bytes = int(RUNG_RATIO * found.bytes)
        self.below_bytes = int(BELOW_RATIO * found.bytes)
        self.used_bytes = CgroupProbe(found.path, version=found.version).read if watch == "guard" else _rss_bytes
        self.cache: OrderedDict[int, bytes] = OrderedDict()
        self.burst: list[bytes] = []

    def fill(self) -> None:
        """Fill the cache to just below the rung."""
        while self.used_bytes() < self.below_bytes:
            self.cache[random.getrandbits(60)] = b"x" * ENTRY_BYTES

    def cross(self, entries: int) -> float:
        """Allocate past the rung; the instant at which usage was seen above it.

        Raises:
            Spoilt: the cache does not hold its ``entries`` any more, or usage was not seen to cross.
        """
        if len(self.cache) != entries or self.used_bytes() >= self.rung_bytes:
            raise Spoilt
        crossed_at = None
        for _ in range(BURST_BLOCKS):
            self.burst.append(b"x" * MIB)
            if crossed_at is None and self.used_bytes() >= self.rung_bytes:
                crossed_at = time.monotonic()
        if crossed_at is None:
            raise Spoilt
        return crossed_at


def _rss_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - as cheap as can be
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Guarded:
    """The guard as the one who watches."""

    def __init__(self, service: Service) -> None:
        from memguard.guard import Guard  # noqa: PLC0415 - the twin goes without

        self._guard: Guard = Guard()
        self._guard.cache(service.cache, name="answers")
        self._guard.start()

    def back_at(self, since: float) -> float | None:
        """When the first relief after an instant ended that bought something."""
        incidents = (*self._guard.incidents, self._guard.snapshot.incident)
        reliefs = [relief for incident in incidents if incident is not None for relief in incident.reliefs]
        return min((relief.at for relief in reliefs if relief.at > since and relief.bought_bytes > 0), default=None)


class Poller:
    """The twin: a thread that asks psutil once a second."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._cleared: list[float] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        import psutil  # noqa: PLC0415 - only the twin

        process = psutil.Process()
        while True:
            time.sleep(POLL_S)
            if process.memory_info().rss < self._service.rung_bytes:
                continue
            before = self._service.used_bytes()
            self._service.cache.clear()
            if self._service.used_bytes() < before:
                self._cleared.append(time.monotonic())

    def back_at(self, since: float) -> float | None:
        """When the first ``clear()`` after an instant had made usage fall."""
        return min((at for at in self._cleared if at > since), default=None)


def _spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:
        count += 1


async def _saturate() -> None:
    while True:
        _spin(0.002)
        await asyncio.sleep(0)


async def one_round(service: Service, watcher: Guarded | Poller) -> float | None:
    """Seconds from the crossing to the first byte back; None: it never came."""
    service.fill()
    entries = len(service.cache)
    await asyncio.sleep(0.3 + POLL_S * random.random())
    crossed_at = service.cross(entries)
    while time.monotonic() < crossed_at + GIVE_UP_S:
        await asyncio.sleep(0.01)
        back_at = watcher.back_at(crossed_at)
        if back_at is not None:
            return back_at - crossed_at
    return None


async def worker(watch: str, load: str, seed: int) -> None:
    random.seed(seed)
    service = Service(watch)
    watcher = Guarded(service) if watch == "guard" else Poller(service)
    if load == "threads":
        for _ in range(3):
            threading.Thread(target=_spin, args=(1e9,), daemon=True).start()
    busy = asyncio.create_task(_saturate()) if load == "event loop" else None
    try:
        print(json.dumps({"taken": await one_round(service, watcher)}), flush=True)
    except Spoilt:
        print(json.dumps({"spoilt": True}), flush=True)
    if busy is not None:
        busy.cancel()
    os._exit(0)  # threads that compute for ever would hold up the interpreter's end


class Case:
    """One who watches under one load, over all rounds."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.never = self.killed = self.spoilt = 0

    def play(self, watch: str, load: str, seed: int) -> None:
        """One round that counts, in a process of its own."""
        argv = [sys.executable, __file__, "--worker", watch, load]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        for again in range(SPOILT_AT_MOST):
            with Cage(CAGE_BYTES) as cage:
                process = cage.popen([*argv, str(seed * 1000 + again)], env=env, stdout=subprocess.PIPE, text=True)
                out, _ = process.communicate(timeout=120)
                died = cage.killed > 0
            if died:
                self.killed += 1
                return
            if process.returncode:
                raise RuntimeError(f"the worker of {watch}, {load} failed with status {process.returncode}")
            answer = json.loads(out.splitlines()[-1])
            if "spoilt" not in answer:
                self.delays += [answer["taken"]] if answer["taken"] is not None else []
                self.never += answer["taken"] is None
                return
            self.spoilt += 1

    def __str__(self) -> str:
        if self.delays:
            low, high = min(self.delays) * 1e3, max(self.delays) * 1e3
            text = f"{statistics.median(self.delays) * 1e3:.0f} ms ({low:.0f} to {high:.0f}, n={len(self.delays)})"
        else:
            text = "–"
        more = {"never": self.never, "killed": self.killed, "made again": self.spoilt}
        return text + "".join(f", {name} {count}" for name, count in more.items() if count)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", choices=LOADS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        watch, load, seed = arguments.worker
        asyncio.run(worker(watch, load, int(seed)))
        return 0
    if reason := cage_unavailable():
        print(f"no reaction times: {reason}")
        return 0
    rows = []
    for load in LOADS if arguments.only is None else (arguments.only,):
        cases = {"poller": Case(), "guard": Case()}
        for seed in range(arguments.rounds):
            for watch, case in cases.items():
                case.play(watch, load, seed)
        rows.append(_row(load, cases))
        print("  ".join(rows[-1].values()), flush=True)
    title = f"From crossing a rung to the first byte back, {arguments.rounds} rounds each"
    report.publish("reaction", title=title, rows=rows, method=__doc__.split("\n\n")[1].splitlines())
    return 0


def _row(load: str, cases: dict[str, Case]) -> Row:
    guard, poller = cases["guard"], cases["poller"]
    ratio = "–"
    if guard.delays and poller.delays:
        ratio = f"{statistics.median(guard.delays) / statistics.median(poller.delays):.3f}"
    return {
        "load": load,
        "1 s psutil poller and clear()": str(poller),
        "memguard": str(guard),
        "memguard ÷ poller, medians": ratio,
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
