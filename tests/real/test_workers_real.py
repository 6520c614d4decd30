"""Several real processes: under one kernel limit, killed at any moment, forked and spawned."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB
from memguard.workers.ledger import SharedLedger
from memguard.workers.slots import Said

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")]

ROOT = Path(__file__).resolve().parents[2]
ENTRY_BYTES = 64 * 1024

WORKER = """
import json, sys, time
import memguard
role, entries = sys.argv[1], int(sys.argv[2])
cache = memguard.Cache(name="answers")
guard = memguard.Guard().start()
for number in range(entries):
    cache[number] = bytes([number % 251]) * 65536
    if number % 16 == 0: time.sleep(0.002)
print("ready", flush=True)
sys.stdin.readline()
began, number, most = time.monotonic(), 0, 0
while time.monotonic() - began < 5.0:
    if role == "greedy" and number < (time.monotonic() - began) * 480:
        cache[number] = bytes([number % 251]) * 65536
        number += 1
    else:
        time.sleep(0.002)
        most = max(most, len(guard.workers))
print(json.dumps({"entries": len(cache), "added": number, "workers": most}), flush=True)
sys.stdin.readline()
"""


def _run_workers(tmp_path: Path, roles: dict[str, int], limit: str) -> tuple[list[dict[str, Any]], int]:
    """What each worker says at its end, and how many the kernel killed."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with Cage(limit, name="workers", by="kernel") as cage:
        workers = [
            cage.popen(
                [sys.executable, str(script), role.split("-")[0], str(entries)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for role, entries in roles.items()
        ]
        for step in ("start", "end"):
            lines = [worker.stdout.readline() for worker in workers]  # type: ignore[union-attr]
            for worker in workers:
                if worker.poll() is None:
                    print(step, file=worker.stdin, flush=True)
        for worker in workers:
            worker.communicate(timeout=60)
        return [json.loads(line) for line in lines if line], cage.killed


@pytest.mark.skipif(cage_unavailable() is not None, reason=f"needs a real memory limit: {cage_unavailable()}")
def test_the_innocent_keep_their_caches(tmp_path: Path) -> None:
    """Under one limit, found by themselves, only the greedy one of three sheds, and nobody is killed."""
    entries = 24 * MIB // ENTRY_BYTES
    roles = {"innocent-1": entries, "innocent-2": entries, "greedy": 0}
    answers, killed = _run_workers(tmp_path, roles, "220MiB")
    assert killed == 0
    one, two, greedy = answers
    assert [answer["workers"] for answer in answers] == [3, 3, 3]
    assert greedy["entries"] < greedy["added"], "there was nothing to decide"
    assert min(one["entries"], two["entries"]) >= 0.75 * entries


def _victim(path: str) -> None:
    """Come, publish, promise and go, as fast as can be; numbers that are said together belong together."""
    number = 0
    while True:
        ledger = SharedLedger(path, now=time.monotonic())
        for _ in range(20):
            number += 1
            ledger.publish(Said(used_bytes=number, yield_bytes=number * 3, beat_at=time.monotonic()))
            ledger.promise(number * 7)
        ledger.close(now=time.monotonic())


def test_killed_at_any_moment_it_stays_whole(tmp_path: Path) -> None:
    """After kill -9 at 60 random moments no row is a mixture, the others' stand, and the slot can be claimed."""
    path = str(tmp_path / "app.workers1")
    reader, third = (SharedLedger(path, now=time.monotonic()) for _ in range(2))
    third.publish(Said(used_bytes=11, yield_bytes=33, beat_at=1.0))
    for _ in range(60):
        pid = os.fork()
        if not pid:
            try:
                _victim(path)
            finally:
                os._exit(1)
        time.sleep(random.random() * 0.006)
        os.kill(pid, signal.SIGKILL)
        reader.look(time.monotonic())
        for row in reader.others():
            assert row.yield_bytes == row.used_bytes * 3
            assert row.promised_bytes % 7 == 0
        os.waitpid(pid, 0)
        reader.look(time.monotonic())
        assert [row.used_bytes for row in reader.others()] == [11]
        successor = SharedLedger(path, now=time.monotonic())
        assert successor.slot == 3
        successor.close(now=time.monotonic())
    for ledger in (third, reader):
        ledger.close(now=time.monotonic())
    assert not Path(path).exists()


FAMILY = """
import json, multiprocessing, os, sys, time
import memguard

def until(guard, count):
    deadline = time.monotonic() + 30
    while len(guard.workers) != count and time.monotonic() < deadline:
        time.sleep(0.02)
    return sorted(row.slot for row in guard.workers)

def child(kind, results, done):
    guard = GUARD if kind == "fork" else memguard.Guard(workers=sys.argv[1]).start()
    results.put((kind, until(guard, 4), [row.pid for row in guard.workers][0] == os.getpid()))
    done.wait(60)
    os._exit(9) if kind == "spawn" else guard.stop()  # one dies without a word

GUARD = None
if __name__ == "__main__":
    GUARD = memguard.Guard(workers=sys.argv[1]).start()
    manager = multiprocessing.get_context("spawn")
    results, done = manager.Queue(), manager.Event()
    kinds = ["fork", "spawn", "forkserver"]
    children = [multiprocessing.get_context(kind).Process(target=child, args=(kind, results, done)) for kind in kinds]
    for each in children: each.start()
    print(json.dumps([results.get(timeout=60) for _ in children]), flush=True)
    done.set()
    for each in children: each.join(30)
    print(json.dumps(until(GUARD, 1)), flush=True)
    GUARD.stop()
"""


def test_forked_spawned_and_served_workers_meet(tmp_path: Path) -> None:
    """A fork of a running guard (preload), a spawned worker and a forkserver's each get a slot of their own."""
    script = tmp_path / "family.py"
    script.write_text(textwrap.dedent(FAMILY))
    group = f"family-{os.getpid()}"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), group],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    met, left = (json.loads(line) for line in run.stdout.splitlines())
    assert sorted(kind for kind, *_ in met) == ["fork", "forkserver", "spawn"]
    assert [slots for _, slots, _ in met] == [[1, 2, 3, 4]] * 3
    assert all(first_is_own for *_, first_is_own in met)
    assert left == [1]
