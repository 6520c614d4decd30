"""Soak: a guarded process under a real limit, with faults from a seeded schedule, and its promises held every second.

The process keeps a cache, states and a pool, and its threads admit and hold work. Faults come one every few seconds:
a probe that raises, a reclaimer that raises, blocks, lies or allocates, a sink that raises or blocks, a limit that is
lowered and raised, a C call that starves the guard, a clock that jumps, a burst, a collector that is switched off, a
fork, a guard that is stopped and started. The same seed gives the same schedule.

Every second: nobody was killed; the guard has looked of late; its level is what the ladder says of the reading, after
a dwell at the most; what the cache says it holds is what its entries take, within a tenth; no more threads or
descriptors than at first. In the end: every promise is given back, the level is OK once all is let go, and what the
guard's own code has allocated has grown by half a MiB at the most.

It begins after two minutes without faults, in which records fill up to their bounds.

    python benchmarks/gauntlet/soak.py [--minutes 30] [--seed 1]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import memguard
from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import KIB, MIB, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_BYTES, LOWERED_BYTES = 320 * MIB, 256 * MIB
# A trim that was useless of late is tried again within ``backoff_max_s``, a minute.
WARM_S, CALM_S, EVERY_S = 120.0, 75.0, 4.0
GROWTH_BYTES = 512 * KIB
LATE_S = 6.0
PACKAGE = Path(memguard.__file__).parent


# --- what can fail ------------------------------------------------------------------------------------------------


class Probe:
    """This process's resident memory; raises while it is told to."""

    source = "resident memory"

    def __init__(self) -> None:
        self._file = os.open("/proc/self/statm", os.O_RDONLY)
        self._page = os.sysconf("SC_PAGE_SIZE")
        self.broken = False

    def read(self) -> int:
        """Bytes used."""
        if self.broken:
            raise OSError("a reading fails, as scheduled")
        return self.true()

    def true(self) -> int:
        """Bytes used, whatever is broken."""
        return int(os.pread(self._file, 128, 0).split()[1]) * self._page

    def close(self) -> None:
        """The descriptor is kept: the soak itself reads it."""


class Awkward:
    """A reclaimer that does whatever it is told; it never has anything."""

    name, cost, settles, stalls = "awkward", "free", False, False
    at = memguard.Level.ELEVATED
    mood = ""

    def size(self) -> int:
        """It says that it holds something."""
        return 8 * MIB

    def reclaim(self, wanted_bytes: int) -> int:
        """Raise, block, lie or allocate."""
        if self.mood == "raises":
            raise RuntimeError("as scheduled")
        if self.mood == "blocks":
            time.sleep(3.0)
        elif self.mood == "allocates":
            return -len(bytearray(4 * MIB))
        return wanted_bytes if self.mood == "lies" else 0


class Service:
    """What is guarded, and all that can go wrong with it."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.probe = Probe()
        self.offset_s = 0.0
        self.sink_mood = ""
        self.awkward = Awkward()
        self.guard = memguard.Guard(probe=self.probe, clock=None, sinks=[self.sink])
        self.guard.reclaimer("awkward", self.awkward.reclaim, size=self.awkward.size, cost="free")
        self.cache = memguard.Cache(name="answers")
        self.states = self.guard.states()
        self.stop = threading.Event()
        self.admitted = self.refused = 0
        self.wrong: list[str] = []

    def sink(self, _event: object) -> None:
        """Raise or block when told to."""
        if self.sink_mood == "raises":
            raise RuntimeError("as scheduled")
        if self.sink_mood == "blocks":
            time.sleep(2.0)

    def work(self, number: int) -> None:
        """A thread of the service: answers that stay, states read again, work that is admitted and held."""
        draw = random.Random(number)
        while not self.stop.is_set():
            self.cache[draw.getrandbits(40)] = bytes(draw.randrange(4, 96) * KIB)
            key = f"state-{draw.randrange(200)}"
            made = key.encode() * 3000
            if self.states.setdefault(key, made) != made:
                self.wrong.append(f"{key} is not what was put in")
            try:
                with self.guard.admit(2 * MIB, label="work"):
                    held = bytearray(2 * MIB)
                    time.sleep(0.02)
                    del held
                self.admitted += 1
            except memguard.AdmissionRefused:
                self.refused += 1
                time.sleep(0.05)

    # --- faults ---------------------------------------------------------------------------------------------------

    def faults(self) -> dict[str, Callable[[], Callable[[], object] | None]]:
        """By name: begin it; the answer ends it some seconds later."""
        return {
            "probe raises": lambda: self._set(self.probe, "broken", value=True),
            "reclaimer raises": lambda: self._set(self.awkward, "mood", "raises"),
            "reclaimer blocks": lambda: self._set(self.awkward, "mood", "blocks"),
            "reclaimer lies": lambda: self._set(self.awkward, "mood", "lies"),
            "reclaimer allocates": lambda: self._set(self.awkward, "mood", "allocates"),
            "sink raises": lambda: self._set(self, "sink_mood", "raises"),
            "sink blocks": lambda: self._set(self, "sink_mood", "blocks"),
            "limit lowered": self._lower,
            "guard starved": self._starve,
            "burst": self._burst,
            "collector off": self._collector_off,
            "fork": self._fork,
            "restart": self._restart,
        }

    @staticmethod
    def _set(target: object, name: str, value: object) -> Callable[[], object]:
        before = getattr(target, name)
        setattr(target, name, value)
        return lambda: setattr(target, name, before)

    @staticmethod
    def _lower() -> Callable[[], object]:
        tell(limit=LOWERED_BYTES)
        return lambda: tell(limit=LIMIT_BYTES)

    def _starve(self) -> None:
        sum(range(self.draw.randrange(5, 40) * 1_000_000))  # in C: no other thread runs meanwhile

    def _burst(self) -> None:
        for number in range(400):
            self.cache["burst", number] = bytes(128 * KIB)

    @staticmethod
    def _collector_off() -> Callable[[], object]:
        gc.disable()
        return gc.enable

    @staticmethod
    def _fork() -> None:
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)

    def _restart(self) -> None:
        self.guard.stop()
        self.guard.start()

    # --- promises -------------------------------------------------------------------------------------------------

    def let_go(self) -> dict[str, int]:
        """Let everything go; what the guard's own code has allocated then: bytes by file."""
        self.cache.clear()
        self.states.clear()
        gc.collect()
        time.sleep(1.0)
        found: dict[str, int] = {}
        for row in tracemalloc.take_snapshot().statistics("filename"):
            file = Path(row.traceback[0].filename)
            if "memguard" in file.parts:
                found[str(file.relative_to(PACKAGE))] = row.size
        return found

    def off_by(self) -> float:
        """By which share the cache's own account differs from what its entries take."""
        said = self.cache.bytes
        values = [value for value in list(self.cache.values()) if isinstance(value, bytes)]
        true = sum(sys.getsizeof(value) for value in values)
        return abs(said - true) / max(true, MIB)


def tell(**what: object) -> None:
    """A line for the parent."""
    print(json.dumps(what), flush=True)


def counts() -> tuple[int, int]:
    """Threads and open descriptors."""
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - quick


# --- the process inside -------------------------------------------------------------------------------------------


def soak(seed: int, seconds: float) -> None:  # noqa: C901 - one story
    """Run the schedule; every broken promise is a line."""
    tracemalloc.start()
    service = Service(seed)
    service.guard.start()
    workers = [threading.Thread(target=service.work, args=(number,), daemon=True) for number in range(4)]
    for worker in workers:
        worker.start()
    time.sleep(WARM_S)
    first, base = service.let_go(), counts()
    draw, began, ending = random.Random(seed), time.monotonic(), []
    next_at = began + EVERY_S
    off_since: dict[str, float] = {}
    while (now := time.monotonic()) < began + seconds:
        if now >= next_at:
            next_at = now + draw.uniform(0.5, 1.5) * EVERY_S
            name = draw.choice(list(service.faults()))
            tell(at_s=round(now - began, 1), fault=name)
            if (end := service.faults()[name]()) is not None:
                ending.append((now + draw.uniform(1.0, 3.0), end))
        for due_at, end in [pair for pair in ending if pair[0] <= now]:
            end()
            ending.remove((due_at, end))
        for promise, kept in promises(service, base).items():
            since = off_since.setdefault(promise, now) if not kept else off_since.pop(promise, now)
            if not kept and now - since > LATE_S:
                tell(at_s=round(now - began, 1), broken=promise, facts=facts(service))
                off_since[promise] = now + 60.0  # said once a minute
        time.sleep(1.0)
    for _, end in ending:
        end()
    service.stop.set()
    for worker in workers:
        worker.join(30.0)
    last = service.let_go()
    grown = {file: size - first.get(file, 0) for file, size in last.items()}
    deadline = time.monotonic() + CALM_S
    while service.guard.level and time.monotonic() < deadline:
        time.sleep(0.2)
    ended = {
        "promises given back": service.guard.gate.promised_bytes == 0 and not service.guard.gate.open,
        "level OK in the end": service.guard.level == memguard.Level.OK,
        "own memory flat": sum(grown.values()) <= GROWTH_BYTES,
        "states as they were put in": not service.wrong,
        "work was admitted": service.admitted > 0,
    }
    for promise, kept in ended.items():
        if not kept:
            tell(broken=promise, facts=facts(service))
    most = dict(sorted(grown.items(), key=lambda pair: -pair[1])[:5])
    tell(ended=True, admitted=service.admitted, refused=service.refused, grown=sum(grown.values()), most=most)
    service.guard.stop()


def promises(service: Service, base: tuple[int, int]) -> dict[str, bool]:
    """What has to hold, and whether it does now; a fault may break one for a moment."""
    guard, snapshot = service.guard, service.guard.snapshot
    threads, descriptors = counts()
    limit = snapshot.limit.bytes if snapshot.limit else LIMIT_BYTES
    ratio = service.probe.true() / limit
    rules = guard.rules
    low = ratio < rules.leave_ratio(memguard.Level.ELEVATED) - 0.02
    high = ratio > rules.critical_ratio + 0.02
    return {
        "the guard looks": guard.running and time.monotonic() - snapshot.at < LATE_S,
        "the level follows": service.probe.broken or not ((low and guard.level) or (high and guard.level < 3)),
        "accounted is real": service.off_by() <= 0.1,
        "threads do not grow": threads <= base[0] + 4,
        "descriptors do not grow": descriptors <= base[1] + 8,
    }


def facts(service: Service) -> dict[str, Any]:
    """For whoever looks into a broken promise."""
    snapshot = service.guard.snapshot
    return {
        "level": service.guard.level.name, "used": service.probe.true(),
        "limit": snapshot.limit and snapshot.limit.bytes,
        "counts": counts(), "cache": service.cache.bytes, "off_by": round(service.off_by(), 3),
        "age_s": round(time.monotonic() - snapshot.at, 2), "wrong": service.wrong[:3],
        "threads": [thread.name for thread in threading.enumerate()],
    }  # fmt: skip


# --- outside ------------------------------------------------------------------------------------------------------


def main() -> int:
    """0 when every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        soak(options.seed, options.minutes * 60)
        return 0
    if reason := cage_unavailable():
        print(f"no soak: {reason}", file=sys.stderr)
        return 2
    argv = [sys.executable, __file__, "--inside", "--minutes", str(options.minutes), "--seed", str(options.seed)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    broken, ended = 0, False
    with Cage(LIMIT_BYTES, name="soak") as cage:
        child = cage.popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert child.stdout is not None  # noqa: S101 - asked for above
        for line in child.stdout:
            said = json.loads(line)
            if "limit" in said:
                try:
                    cage.resize(said["limit"])
                except OSError as error:
                    said["error"] = str(error)
            broken += "broken" in said
            ended = ended or "ended" in said
            print(json.dumps(said), flush=True)
        child.wait()
        killed = cage.killed
    print(
        f"{options.minutes:g} minutes, seed {options.seed}: {broken} promises broken, killed {killed}, "
        f"{'ended' if ended else 'NOT ENDED'}; peak {format_bytes(cage.peak_bytes)} of {format_bytes(LIMIT_BYTES)}"
    )
    return 0 if ended and not broken and not killed else 1


if __name__ == "__main__":
    raise SystemExit(main())
