"""Trend: how often a verdict is wrong, how late it is right, and what it costs to have one.

Services as numbers (`tests/sim/growth_loads.py`): each run draws sizes, rates, rhythms and noise anew, seeded. Readings
go through the guard's own evidence; a verdict is asked for about every 20 minutes of 8 to 96 simulated hours. One that
is leak-like at any of those times counts, for a service that does not leak, as a false alarm; beside it the shares of
all verdicts. A delay is from the leak's begin to the first leak-like verdict, "grown" that time at the verdict's rate.
Leaks take 2 to 100 MiB an hour (with a day 2 to 30, in noise 10 to 100), and the limit is where they end after one to
four days. Costs: processor time of taking in one reading and of looking at one scale, over the readings of four days;
and ticks of two guards without a thread in turn, one of them without evidence, 4 a second of their clock.

    python benchmarks/trend.py [--runs 200] [--only controls|leaks|cost] [--name "slow logarithmic fill"] [--jobs 1]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from memguard.growth import Growth
from memguard.guard import Guard
from memguard.units import MIB
from tests.sim.growth_loads import CONTROLS, LEAKS, judged, load

EVERY_S = 1200.0
FALSE_BAR, CPU_BAR = 0.01, 0.005

Row = dict[str, str]
Found = tuple[int, Counter[str], float | None, float | None, str]


def follow(name: str, seed: int) -> Found:
    """One run: its verdicts by kind; when the first leak-like came, what had leaked by then, and its words."""
    run, kinds = load(name, seed), Counter[str]()
    for at, verdict in judged(run, every_s=EVERY_S):
        kinds[verdict.kind] += 1
        if verdict.kind == "leak-like":
            grown = verdict.bytes_per_s * (at - run.leaks_at)
            return seed, kinds, at - run.leaks_at, grown, verdict.words
    return seed, kinds, None, None, ""


def runs_of(name: str, runs: int, pool: ProcessPoolExecutor) -> list[Found]:
    return list(pool.map(follow, [name] * runs, range(runs), chunksize=5))


def controls(names: list[str], runs: int, pool: ProcessPoolExecutor) -> list[Row]:
    rows = []
    for name in names:
        found = runs_of(name, runs, pool)
        alarms = [one for one in found if one[2] is not None]
        kinds = sum((one[1] for one in found), Counter[str]())
        met = "met" if len(alarms) <= FALSE_BAR * runs else "MISSED"
        rows.append(_row(name, f"{len(alarms)} of {runs} leak-like ({met})", _kinds(kinds)))
        for seed, _, at, _, words in alarms:
            print(f"    seed {seed} at {(at or 0.0) / 3600:.1f} h: {words}", flush=True)
    return rows


def leaks(names: list[str], runs: int, pool: ProcessPoolExecutor) -> list[Row]:
    rows = []
    for name in names:
        found = runs_of(name, runs, pool)
        delays = sorted(at / 3600 for _, _, at, _, _ in found if at is not None)
        grown = [grown for *_, grown, _ in found if grown is not None]
        early = sum(delay < 0 for delay in delays)
        shown = "–"
        if delays:
            late = delays[int(len(delays) * 0.95)]
            shown = (
                f"median {statistics.median(delays):.1f} h, 95 % {late:.1f} h, "
                f"{statistics.median(grown) / MIB:.0f} MiB grown" + (f", {early} before it began" if early else "")
            )
        rows.append(_row(name, f"{len(delays)} of {runs} found", shown))
        print("    missed:", [seed for seed, _, at, _, _ in found if at is None], flush=True)
    return rows


def _kinds(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count / kinds.total():.0%}" for kind, count in kinds.most_common(4))


def _row(what: str, result: str, detail: str) -> Row:
    row = {"what": what, "result": result, "detail": detail}
    print("  ".join(row.values()), flush=True)
    return row


# --- cost ---------------------------------------------------------------------------------------------------------


def costs() -> list[Row]:
    run = load("with a diurnal load", 1)
    columns = [column.tolist() for column in (run.at, run.used, run.requests, run.open, run.cpu_s)]
    growth, spans = Growth(), list[float]()
    began = time.process_time()
    for at, used, requests, open_, cpu_s in zip(*columns, strict=True):
        growth.note(at, used_bytes=used, requests=requests, open=open_, cpu_s=cpu_s)
    note_us = (time.process_time() - began) / len(columns[0]) * 1e6
    growth = Growth()
    for at, used, requests, open_, cpu_s in zip(*columns, strict=True):
        growth.note(at, used_bytes=used, requests=requests, open=open_, cpu_s=cpu_s)
        began = time.process_time()
        if growth.examine(patience_s=3600.0):
            growth.verdict(limit_bytes=None, patience_s=3600.0)
            spans.append(time.process_time() - began)
    spans.sort()
    look = f"median {statistics.median(spans) * 1e3:.1f} ms, 99 % {spans[len(spans) * 99 // 100] * 1e3:.1f} ms"
    share = sum(spans) / run.at[-1]
    rows = [
        _row("taking in a reading, once a second", f"{note_us:.1f} µs", ""),
        _row("a look at one scale, and the verdict", look, f"most {spans[-1] * 1e3:.1f} ms; {share:.4%} of a core"),
    ]
    return [*rows, _ticks(note_us * 1e-6 + share)]


def _ticks(reckoned: float) -> Row:
    """Guards with and without evidence, 900 s of their clock, tick by tick in turn."""
    now = [0.0]
    guards = [Guard(limit="4GiB", clock=lambda: now[0], gc_interval_s=None) for _ in range(2)]
    guards[1]._watch.tended = None  # noqa: SLF001 - the twin goes without
    taken = [0.0, 0.0]
    for tick in range(3600):
        now[0] += 0.25
        for place in (0, 1) if tick % 2 else (1, 0):
            began = time.process_time_ns()
            guards[place].tick()
            taken[place] += (time.process_time_ns() - began) / 1e9
    with_, without = (one / now[0] for one in taken)
    more = max(with_ - without, reckoned)
    met = "met" if more <= CPU_BAR else "MISSED"
    return _row(
        "always on, of a core",
        f"≤ {CPU_BAR:.1%}: {more:.3%} ({met})",
        f"ticks of 15 minutes: {without:.3%} without, {with_:.3%} with evidence",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", choices=["controls", "leaks", "cost"])
    parser.add_argument("--name")
    arguments = parser.parse_args()
    rows = list[Row]()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for kind, part, names in (("controls", controls, CONTROLS), ("leaks", leaks, LEAKS)):
            if arguments.only in {None, kind}:
                wanted = [name for name in names if arguments.name in {None, name}]
                rows += part(wanted, arguments.runs, pool)
    if arguments.only in {None, "cost"}:
        rows += costs()
    if arguments.only is None and arguments.name is None:
        report.publish("trend", title="Verdicts on growth", rows=rows, method=__doc__.split("\n\n")[1].splitlines())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
