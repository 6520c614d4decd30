"""Cost: what an import and a started guard take in time, memory and CPU, each beside a bare twin.

Every figure comes from processes of its own, run in turn with a twin that does the same without memguard; the
compiled modules are there, as in an installed package. Import: wall time of a whole interpreter, median of the
differences between neighbours; ``import memguard`` alone loads nothing yet, the names are fetched when first used.
Memory: VmRSS after 1.5 s of sleep. Tick: calls of ``guard.tick()`` one after another ("hot"), and with 2 ms of sleep
before each ("after sleep"), as a started guard ticks: the processor's caches are lost. CPU: process CPU time over the
stated seconds, all four processes at once. "under pressure" is a process held at 85 % of its group's limit by bytes
that nobody can shed, with a cache registered that can.

    python benchmarks/cost.py [--runs 21] [--seconds 20] [--only import|memory|tick|cpu]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report

from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
CAGE_BYTES = 256 * MIB
PRESSED_RATIO = 0.85
CACHE_BYTES = 8 * MIB
ENTRY_BYTES = 64 * 1024
TICKS_HOT, TICKS_SLEPT = 20_000, 1_000

# The bars.
IMPORT_BAR_MS, RSS_BAR_MIB, TICK_BAR_US, CPU_BAR_RATIO = 8.0, 5.0, 25.0, 0.002

Row = dict[str, str]


# --- children ----------------------------------------------------------------------------------------------------

_RSS = """
import time
time.sleep(1.5)
print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
"""
_MODULES = """
import json, sys
before = set(sys.modules)
import memguard
{more}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def child(mode: str, seconds: float) -> None:
    """One measuring process; prints a JSON object."""
    kind, _, place = mode.partition("-")
    ballast, cache = bytearray(), {}
    if place == "pressed":
        cache = {number: os.urandom(ENTRY_BYTES) for number in range(CACHE_BYTES // ENTRY_BYTES)}
        ballast = bytearray(b"x") * max(0, int(CAGE_BYTES * PRESSED_RATIO) - CACHE_BYTES - _usage_bytes())
    if kind == "sleep":
        print(json.dumps(_cpu_s(seconds)))
        return
    from memguard.guard import Guard  # noqa: PLC0415 - the twin goes without

    guard = Guard(limit="4GiB" if place == "policy" else "auto")
    guard.cache(cache, name="answers")
    if kind == "guard":
        with guard:
            print(json.dumps({**_cpu_s(seconds), "level": guard.level.name}))
        return
    guard.tick()
    hot = _ticks(guard, TICKS_HOT, 0.0)
    slept = _ticks(guard, TICKS_SLEPT, 0.002)
    limits = [f"{limit.usage}" for limit in guard.limits]
    print(json.dumps({"hot": hot, "slept": slept, "level": guard.level.name, "limits": limits, "held": len(ballast)}))


def _usage_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - as cheap as can be
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu_s(seconds: float) -> dict[str, float]:
    time.sleep(1.0)
    began, cpu = time.monotonic(), time.process_time()
    time.sleep(seconds)
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - began}


def _ticks(guard: object, count: int, pause_s: float) -> list[float]:
    """Median, 99th percentile and mean of a tick in microseconds."""
    tick, clock = guard.tick, time.perf_counter_ns  # type: ignore[attr-defined]
    taken = []
    for _ in range(count):
        if pause_s:
            time.sleep(pause_s)
        began = clock()
        tick()
        taken.append((clock() - began) / 1e3)
    taken.sort()
    return [taken[count // 2], taken[count * 99 // 100], statistics.fmean(taken)]


# --- the parent ----------------------------------------------------------------------------------------------------


def environ(pyc: str) -> dict[str, str]:
    """Ours, with compiled modules kept in ``pyc`` and memguard found."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**known, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": pyc}


def run(code: str, env: dict[str, str]) -> str:
    return subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout


def imports(runs: int, env: dict[str, str]) -> list[Row]:
    codes = {"bare": "pass", "import": "import memguard", "guard": "from memguard import Guard"}
    taken: dict[str, Any] = {name: [] for name in codes}
    for code in codes.values():
        run(code, env)
    for turn in range(runs):
        order = list(codes)[turn % 3 :] + list(codes)[: turn % 3]
        for name in order:
            began = time.perf_counter()
            run(codes[name], env)
            taken[name].append((time.perf_counter() - began) * 1e3)
    bare = statistics.median(taken["bare"])
    rows = []
    for name, title, bar in (
        ("import", "import memguard", f"{IMPORT_BAR_MS:g} ms"),
        ("guard", "from memguard import Guard", ""),
    ):
        more = statistics.median(one - other for one, other in zip(taken[name], taken["bare"], strict=True))
        loaded = json.loads(run(_MODULES.format(more=codes[name]), env))
        foreign = [known for known in loaded if known.split(".")[0] not in {*sys.stdlib_module_names, "memguard"}]
        met = more <= IMPORT_BAR_MS and not foreign if bar else None
        text = f"{more:+.1f} ms; {len(loaded)} modules, third-party: {', '.join(foreign) or 'none'}"
        rows.append(_row(title, f"{bare:.1f} ms", text, bar and bar + ", no third-party", met=met))
    return rows


def memory(runs: int, env: dict[str, str]) -> list[Row]:
    codes = {"bare": _RSS, "guarded": f"from memguard import Guard\nguard = Guard().start()\n{_RSS}"}
    for code in codes.values():
        run(code, env)
    pairs = []
    for _ in range(max(5, runs // 3)):
        started = [
            subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
            for code in codes.values()
        ]
        pairs.append([int(process.communicate()[0]) / 1024 for process in started])
    more = statistics.median(guarded - bare for bare, guarded in pairs)
    bare = statistics.median(bare for bare, _ in pairs)
    loaded = json.loads(run(_MODULES.format(more="guard = memguard.Guard().start()"), env))
    foreign = [known for known in loaded if known.split(".")[0] not in {*sys.stdlib_module_names, "memguard"}]
    text = f"{more:+.2f} MiB; {len(loaded)} modules, third-party: {', '.join(foreign) or 'none'}"
    return [_row("RSS, guard started", f"{bare:.2f} MiB", text, f"{RSS_BAR_MIB:g} MiB", met=more <= RSS_BAR_MIB)]


def ticks(env: dict[str, str]) -> list[Row]:
    rows = []
    for title, mode, caged in (
        ("tick, OK, in a memory group", "tick-group", True),
        ("tick, OK, policy limit (statm)", "tick-policy", False),
        ("tick, OK, machine's memory (meminfo)", "tick-host", False),
        ("tick, under pressure, cache registered", "tick-pressed", True),
    ):
        if caged and cage_unavailable():
            continue
        results = [_measure(mode, env, caged=caged) for _ in range(3)]
        hot, slept = (
            [statistics.median(result[key][place] for result in results) for place in range(3)]
            for key in ("hot", "slept")
        )
        level = "/".join(sorted({result["level"] for result in results}))
        text = (
            f"hot {hot[0]:.1f} µs (p99 {hot[1]:.0f}), after sleep {slept[0]:.0f} µs (p99 {slept[1]:.0f}); "
            f"read: {', '.join(results[0]['limits'])}; {level}"
        )
        row = _row(title, "–", text, "", met=None)
        if mode != "tick-pressed":
            hot_met, slept_met = ("met" if taken[0] <= TICK_BAR_US else "MISSED" for taken in (hot, slept))
            row["bar"] = f"≤ {TICK_BAR_US:g} µs ({hot_met} hot, {slept_met} after sleep)"
        rows.append(row)
    return rows


def _measure(mode: str, env: dict[str, str], *, caged: bool, seconds: float = 0.0) -> dict[str, Any]:
    with ExitStack() as stack:
        process = _start(mode, env, stack, caged=caged, seconds=seconds)
        return _answer(process)


def _start(mode: str, env: dict[str, str], stack: ExitStack, *, caged: bool, seconds: float) -> subprocess.Popen[str]:
    argv = [sys.executable, __file__, "--child", mode, "--seconds", str(seconds)]
    start = stack.enter_context(Cage(CAGE_BYTES)).popen if caged else subprocess.Popen
    process: subprocess.Popen[str] = start(argv, env=env, stdout=subprocess.PIPE, text=True)
    return process


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=180)
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


def shares(seconds: float, env: dict[str, str]) -> list[Row]:
    cases = [("CPU of a guard, idle", "idle", False, f"{CPU_BAR_RATIO:.1%} of a core")]
    if not cage_unavailable():
        cases.append(("CPU of a guard, under pressure", "pressed", True, ""))
    with ExitStack() as stack:
        started = {
            (kind, place): _start(f"{kind}-{place}", env, stack, caged=caged, seconds=seconds)
            for _, place, caged, _ in cases
            for kind in ("sleep", "guard")
        }
        answers = {key: _answer(process) for key, process in started.items()}
    rows = []
    for title, place, _, bar in cases:
        bare, guarded = (answers[kind, place]["cpu_s"] / answers[kind, place]["wall_s"] for kind in ("sleep", "guard"))
        more = guarded - bare
        text = f"{more:+.3%} of a core over {seconds:g} s; {answers['guard', place]['level']}"
        rows.append(_row(title, f"{bare:.3%}", text, bar, met=more <= CPU_BAR_RATIO if bar else None))
    return rows


def _row(what: str, bare: str, guarded: str, bar: str, *, met: bool | None) -> Row:
    verdict = "" if met is None else f" ({'met' if met else 'MISSED'})"
    row = {"what": what, "bare": bare, "with memguard": guarded, "bar": f"≤ {bar}{verdict}" if bar else "–"}
    print("  ".join(row.values()), flush=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--only", choices=["import", "memory", "tick", "cpu"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.seconds)
        return 0
    with tempfile.TemporaryDirectory(prefix="memguard-pyc-") as pyc:
        env = environ(pyc)
        parts: dict[str, Callable[[], list[Row]]] = {
            "import": lambda: imports(arguments.runs, env),
            "memory": lambda: memory(arguments.runs, env),
            "tick": lambda: ticks(env),
            "cpu": lambda: shares(arguments.seconds, env),
        }
        wanted = parts.values() if arguments.only is None else (parts[arguments.only],)
        rows = [row for part in wanted for row in part()]
    if arguments.only is None:
        report.publish("cost", title="What memguard costs", rows=rows, method=__doc__.split("\n\n")[1].splitlines())
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
