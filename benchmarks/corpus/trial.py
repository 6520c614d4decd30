"""One case on one release, in this process: the trend's verdict while requests are served, then an examination.

Writes one JSON object to standard output. Run by ``run.py`` with the release installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from table import load

from memguard import Guard, Roster
from memguard.units import MIB

# The guard's clock: a look each four seconds of it, four hours at most. The rules are the defaults, so
# leak-like takes an hour of growth at least.
LOOK_S, LOOKS = 4.0, 3600
# What the requests of one look leak, and what may be used on top of what the service starts with: the limit is about
# five hours away then.
LOOK_BYTES, ROOM_BYTES = 28_000, 128 * MIB
# The examination is long enough for so much.
EXAMINED_BYTES = 8 * MIB
REPEATS = (1_600, 50_000)
WARM = 20


def resident_bytes() -> int:
    """What this process has in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Clock:
    """The guard's clock: it stands while requests are served, is set ahead for each look, and then runs."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.began: float | None = None

    def __call__(self) -> float:  # noqa: D102 - a clock
        return self.ahead_s + (0.0 if self.began is None else time.perf_counter() - self.began)


def main() -> None:
    """Run the case that is named on the command line."""
    case = load(sys.argv[1])
    request = case.module.service()
    for _ in range(WARM):
        request()
    clock = Clock()
    told: list[str] = []
    guard = Guard(
        limit=resident_bytes() + ROOM_BYTES,
        clock=clock,
        roster=Roster(),
        pace_min_s=LOOK_S,
        pace_max_s=LOOK_S,
        slow_s=LOOK_S,
        sinks=[lambda event: told.append(event.name)],
    )
    each = max(1, round(LOOK_BYTES / case.bytes))
    began, cpu = time.perf_counter(), time.process_time()
    kinds: dict[str, int] = {}
    done = 0
    tick_s = 0.0
    for _ in range(LOOKS):
        for _ in range(each):
            with guard.admit():
                request()
        done += each
        clock.ahead_s += LOOK_S
        tick = time.process_time()
        guard.tick()
        tick_s += time.process_time() - tick
        kind = guard.verdict().kind
        kinds[kind] = kinds.get(kind, 0) + 1
        if "leak.suspected" in told:
            break
    verdict = guard.verdict()
    trend: dict[str, Any] = {
        "verdict": "leak-like" if "leak.suspected" in told else verdict.kind,
        "ever": kinds.get("leak-like", 0),
        "words": verdict.words,
        "bytes_per_request": verdict.bytes_per_request,
        "after_s": clock.ahead_s,
        "requests": done,
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "tick_s": tick_s,
    }
    clock.began = began = time.perf_counter()
    repeats = min(max(REPEATS[0], round(EXAMINED_BYTES / case.bytes)), REPEATS[1])
    report = guard.diagnose(work=request, repeats=repeats)
    trend |= {
        "repeats": repeats,
        "examined_s": time.perf_counter() - began,
        "cost_s": report.cost_s,
        "summary": report.summary,
        "text": report.text,
        "native": report.native is not None and report.native.is_native,
        "suspects": [
            {"kind": one.kind, "name": one.name, "site": one.site, "words": one.words, "certainty": one.certainty,
             "chain": str(one.chain or "")}
            for one in report.suspects[:5]
        ],
    }  # fmt: skip
    sys.stdout.write("\n" + json.dumps(trend) + "\n")
    sys.stdout.flush()
    os._exit(0)  # threads that a case leaks would be waited for


if __name__ == "__main__":
    main()
