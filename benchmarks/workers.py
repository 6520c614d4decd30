"""Workers: several processes under one limit, and what the ledger that they share costs.

One limit: four processes in one memory group of 512 MiB, each with a cache of ours. Three fill 64 MiB and serve hits
from then on; the greedy one adds entries of 64 KiB without end, paced to 40 MiB/s. Modes in turn: bare; every guard
sheds when the group's usage says so (workers="off"); each has a quarter of the limit for itself; the ledger, found
without configuration. "lost" is the worst of the innocent, of its entries. "useful" is the median of the group's usage
without page cache in the second half of the run, of the limit; "late rungs" sheds from 90 % instead of 80 %, in every
mode alike. Publish: calls one after another in one process, CPU time, the median of 7 rounds. Kills: a process that
claims, publishes, promises and leaves without pause is killed by SIGKILL at a random moment; a third one has its slot
in the same file throughout; after each kill every row is compared with what its writer may have said, and the dead
one's slot is claimed.

    python benchmarks/workers.py [--kills 1000] [--seconds 8] [--only publish|kills|limit]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import report

from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

ROOT = Path(__file__).parent.parent
LIMIT_BYTES = 512 * MIB
WORKERS = 4
INNOCENT_BYTES, ENTRY_BYTES = 64 * MIB, 64 * 1024
PACE_BYTES_PER_S = 40 * MIB
LATE = {
    "elevated_ratio": 0.86, "collect_ratio": 0.88, "warning_ratio": 0.90, "critical_ratio": 0.95,
    "emergency_ratio": 0.98, "leave_gap_ratio": 0.02,
}  # fmt: skip

# The bars.
PUBLISH_BAR_US, LOST_BAR_RATIO, USEFUL_BAR_RATIO = 5.0, 0.05, 0.85

Row = dict[str, str]


# --- children ----------------------------------------------------------------------------------------------------


def worker(mode: str, rungs: str, role: str, seconds: float) -> None:
    """One process under the limit; a line on stdin starts the greedy one, another ends it."""
    import logging  # noqa: PLC0415 - as a service would, below too

    import memguard  # noqa: PLC0415

    logging.getLogger("memguard").setLevel(logging.CRITICAL)

    cache: Any = {}
    guard: Any = None
    if mode != "bare":
        rules: dict[str, Any] = dict(LATE) if rungs == "late" else {}
        rules["workers"] = "auto" if mode == "ledger" else "off"
        limit = LIMIT_BYTES // WORKERS if mode == "quarter" else "auto"
        events: list[str] = []
        guard = memguard.Guard(
            limit=limit, sinks=[lambda event: events.append(f"{event.at:.2f} {event.name}: {event.text}")], **rules
        )
        cache = memguard.Cache(name="answers")
        guard.start()
    filled = 0
    if role == "innocent":
        filled = INNOCENT_BYTES // ENTRY_BYTES
        for number in range(filled):
            cache[number] = bytes([number % 251]) * ENTRY_BYTES
            if not number % 16:
                time.sleep(0.002)
    print(json.dumps({"ready": filled}), flush=True)
    sys.stdin.readline()
    began, number = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        if role == "greedy":
            cache[number] = bytes([number % 251]) * ENTRY_BYTES
            number += 1
            ahead = number * ENTRY_BYTES / PACE_BYTES_PER_S - (time.monotonic() - began)
            if ahead > 0.002:
                time.sleep(ahead)
        else:
            cache.get(random.randrange(filled))
            time.sleep(0.005)
    answer: dict[str, Any] = {"role": role, "entries": len(cache), "added": number}
    if guard is not None:
        answer |= {"workers": len(guard.workers), "level": guard.level.name, "events": events[-40:]}
    print(json.dumps(answer), flush=True)
    sys.stdin.readline()


def victim(path: str) -> None:
    """Claim, publish and promise until killed; every number that is said together has the same remainder."""
    from memguard.workers.ledger import SharedLedger  # noqa: PLC0415 - the parent's import is not ours
    from memguard.workers.slots import Said  # noqa: PLC0415

    ledger = SharedLedger(path, now=time.monotonic())
    print("claimed", flush=True)
    number = 0
    while True:
        number += 1
        ledger.publish(Said(used_bytes=number, yield_bytes=number * 3, refusals=number, beat_at=time.monotonic()))
        ledger.promise(number * 7)
        if not number % 50:
            ledger.close(now=time.monotonic())
            ledger = SharedLedger(path, now=time.monotonic())


# --- one limit ---------------------------------------------------------------------------------------------------


def limit_run(mode: str, rungs: str, seconds: float) -> dict[str, Any]:
    """Four workers under one limit; what became of them."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "2"}
    with Cage(LIMIT_BYTES, name="workers") as cage:
        processes = [
            cage.popen(
                [sys.executable, __file__, "--child", f"{mode}:{rungs}:{role}", "--seconds", str(seconds)],
                env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for role in ["innocent"] * (WORKERS - 1) + ["greedy"]
        ]  # fmt: skip
        for process in processes:
            process.stdout.readline()  # type: ignore[union-attr]
        for process in processes:
            print(file=process.stdin, flush=True)
        seen, began = [], time.monotonic()
        while time.monotonic() - began < seconds:
            time.sleep(0.05)
            seen.append(cage.working_bytes)
        answers = []
        for process in processes:
            line = process.stdout.readline()  # type: ignore[union-attr]
            answers.append(json.loads(line) if line else None)
        for process in processes:
            if process.poll() is None:
                print(file=process.stdin, flush=True)
        killed = sum(process.wait(timeout=60) != 0 for process in processes)
    filled = INNOCENT_BYTES // ENTRY_BYTES
    kept = [answer["entries"] / filled for answer in answers if answer and answer["role"] == "innocent"]
    return {
        "killed": killed,
        "lost": 1.0 - min(kept) if len(kept) == WORKERS - 1 else None,
        "useful": statistics.median(seen[len(seen) // 2 :]) / LIMIT_BYTES,
        "peak": max(seen) / LIMIT_BYTES,
        "answers": answers,
    }


def limits(seconds: float) -> list[Row]:
    rows = []
    for rungs in ("default", "late"):
        for mode, title in (
            ("bare", "bare"),
            ("everybody", "everybody sheds on the group's usage"),
            ("quarter", "limit ÷ N"),
            ("ledger", "the ledger"),
        ):
            if (mode, rungs) == ("bare", "late"):
                continue
            runs = [limit_run(mode, rungs, seconds) for _ in range(3)]
            rows.append(_limit_row(f"{title}, {rungs} rungs", runs, judged=(mode, rungs) == ("ledger", "late")))
            if mode == "ledger":
                found = {answer["workers"] for run in runs for answer in run["answers"] if answer}
                print("   workers seen:", found)
    return rows


def _limit_row(title: str, runs: list[dict[str, Any]], *, judged: bool) -> Row:
    killed = sum(run["killed"] for run in runs)
    lost = [run["lost"] for run in runs if run["lost"] is not None]
    useful = statistics.median(run["useful"] for run in runs)
    row = {
        "what": title,
        "result": f"{killed} of {len(runs) * WORKERS} killed; "
        + (f"innocents lost {max(lost):.1%}; " if lost else "")
        + f"useful {useful:.0%}, peak {max(run['peak'] for run in runs):.0%}",
        "bar": "–",
    }
    if judged:
        met = not killed and max(lost) < LOST_BAR_RATIO and useful >= USEFUL_BAR_RATIO
        row["bar"] = f"0 killed, < {LOST_BAR_RATIO:.0%} lost, ≥ {USEFUL_BAR_RATIO:.0%} useful ({_verdict(met=met)})"
    print("  ".join(row.values()), flush=True)
    return row


# --- publish -----------------------------------------------------------------------------------------------------


def publishing() -> list[Row]:
    from memguard.workers.ledger import SharedLedger  # noqa: PLC0415 - not in the children
    from memguard.workers.slots import Said  # noqa: PLC0415

    rows, count = [], 20_000
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ledgers = [SharedLedger(f"{folder}/one.workers1", now=time.monotonic()) for _ in range(WORKERS)]
        ledger = ledgers[0]
        for each in ledgers:
            each.publish(Said(beat_at=time.monotonic()))
            each.look(time.monotonic())

        def publish(number: int) -> None:
            ledger.publish(Said(level=1, running=3, beat_at=float(number), used_bytes=number, yield_bytes=number))

        for title, call, bar in (
            ("publish", publish, PUBLISH_BAR_US),
            ("promise", ledger.promise, None),
            ("what three others have promised", lambda _: ledger.promised_elsewhere, None),
            ("rows of three others", lambda _: ledger.others(), None),
            ("look who of three others is alive (1 a second)", lambda _: ledger.look(time.monotonic()), None),
        ):
            times = count // (20 if "look" in title else 1)
            rounds = []
            for _ in range(7):
                began = time.process_time()
                for number in range(times):
                    call(number)
                rounds.append((time.process_time() - began) / times * 1e6)
            taken = statistics.median(rounds)
            verdict = "–" if bar is None else f"≤ {bar:g} µs ({_verdict(met=taken <= bar)})"
            rows.append({"what": title, "result": f"{taken:.2f} µs", "bar": verdict})
            print("  ".join(rows[-1].values()), flush=True)
        for each in ledgers:
            each.close(now=time.monotonic())
    return rows


# --- kills -------------------------------------------------------------------------------------------------------


def kills(count: int) -> list[Row]:
    from memguard.workers.ledger import SharedLedger  # noqa: PLC0415 - as above
    from memguard.workers.slots import Said  # noqa: PLC0415

    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    wrong, torn, middle = 0, 0, 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = f"{folder}/one.workers1"
        ledger, third = (SharedLedger(path, now=time.monotonic()) for _ in range(2))
        third.publish(Said(used_bytes=11, yield_bytes=33, refusals=11, beat_at=1.0))
        for turn in range(count):
            process = _forked(path) if turn % 20 else _spawned(path, env)
            time.sleep(random.random() * 0.004)
            os.kill(process, signal.SIGKILL)
            before = ledger.look(time.monotonic()), ledger.others()
            os.waitpid(process, 0)
            ledger.look(time.monotonic())
            wrong += [(left.used_bytes, left.yield_bytes) for left in ledger.others()] != [(11, 33)]
            for seen in before[1]:
                wrong += seen.yield_bytes != seen.used_bytes * 3 or seen.promised_bytes % 7 != 0
            torn += before[0] != len(before[1])
            again = SharedLedger(path, now=time.monotonic())
            middle += again.slot > 3
            again.close(now=time.monotonic())
            wrong += ledger.own().used_bytes != 0
        for each in (third, ledger):
            each.close(now=time.monotonic())
        wrong += middle + len(list(Path(folder).iterdir()))
    text = (
        f"{count} kills, {wrong} wrong rows, slots lost or files left; {torn} met in the middle of a write or a claim"
    )
    row = {"what": "kill -9 at random points", "result": text, "bar": f"none wrong ({_verdict(met=not wrong)})"}
    print("  ".join(row.values()), flush=True)
    return [row]


def _forked(path: str) -> int:
    """As gunicorn does; the pipe says when it has its slot, or nothing when it should be killed while it claims."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(writer, 1)
        try:
            victim(path)
        finally:
            os._exit(1)
    os.close(writer)
    if random.random() < 0.7:
        os.read(reader, 1)
    os.close(reader)
    return pid


def _spawned(path: str, env: dict[str, str]) -> int:
    argv = [sys.executable, __file__, "--child", f"victim:{path}"]
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE)
    process.stdout.readline()  # type: ignore[union-attr]
    process.stdout.close()  # type: ignore[union-attr]
    process.returncode = 0  # waited for by its number
    return process.pid


def _verdict(*, met: bool) -> str:
    return "met" if met else "MISSED"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", choices=["publish", "kills", "limit"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, _, rest = arguments.child.partition(":")
        if kind == "victim":
            victim(rest)
        rungs, role = rest.split(":")
        worker(kind, rungs, role, arguments.seconds)
        return 0
    parts = {
        "publish": publishing,
        "kills": lambda: kills(arguments.kills),
        "limit": lambda: [] if cage_unavailable() else limits(arguments.seconds),
    }
    wanted = parts.values() if arguments.only is None else (parts[arguments.only],)
    rows = [row for part in wanted for row in part()]
    if arguments.only is None:
        report.publish(
            "workers", title="Several workers, one limit", rows=rows, method=__doc__.split("\n\n")[1].splitlines()
        )
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
