"""Workers that grew too large are replaced between tasks, and every task is done once."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from memguard.reclaimers import recycling
from memguard.reclaimers.recycling import RecycleAbove, RecyclingExecutor
from memguard.units import MIB
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]

# Each task keeps 2 MiB for good; after six a worker is larger than a fresh one by more than 10.
PRELUDE = """
import json, multiprocessing, os, sys, warnings
from concurrent.futures import wait
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of any fork while threads run
from memguard.reclaimers.processes import private_bytes
from memguard.reclaimers.recycling import RecycleAbove, RecyclingExecutor
KEPT = []
def task(number):
    KEPT.append(bytearray(os.urandom(1)) * (2 << 20))
    with open(sys.argv[2], "a") as file:
        file.write(f"{number}\\n")
    return number, os.getpid(), private_bytes(os.getpid())
def size(_):
    return private_bytes(os.getpid())
def say(results, fresh):
    with open(sys.argv[2]) as file:
        done = [int(line) for line in file]
    print(json.dumps({
        "answered": [number for number, _, _ in results], "done": sorted(done),
        "workers": len({pid for _, pid, _ in results}), "largest": max(size for _, _, size in results), "fresh": fresh,
    }))
"""

POOL = """
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(1) as pool:
        fresh = pool.apply(size, (0,))
    with context.Pool(3, maxtasksperchild=RecycleAbove(fresh + (11 << 20))) as pool:
        say(pool.map(task, range(90), chunksize=1), fresh)
"""

EXECUTOR = """
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with RecyclingExecutor(1, mp_context=context, max_worker_bytes="1GiB") as pool:
        fresh = pool.submit(size, 0).result()
    with RecyclingExecutor(3, mp_context=context, max_worker_bytes=fresh + (11 << 20)) as pool:
        futures = [pool.submit(task, number) for number in range(90)]
        results = [future.result(timeout=60) for future in futures]
    assert pool.recycled >= 3, pool.recycled
    say(results, fresh)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("kind", [POOL, EXECUTOR], ids=["Pool", "RecyclingExecutor"])
def test_no_task_is_lost(tmp_path: Path, kind: str, method: str) -> None:
    """90 tasks that each leave 2 MiB behind: each done and answered once, workers replaced, none far above the size."""
    script = tmp_path / "work.py"
    script.write_text(PRELUDE + dedent(kind))
    done = subprocess.run(
        [sys.executable, str(script), method, str(tmp_path / "done")],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["answered"] == list(range(90))
    assert said["done"] == list(range(90))
    assert said["workers"] >= 6
    # Above the size by one task; with the executor by the six that were in the pool when the size was told.
    assert said["largest"] - said["fresh"] < (11 + (14 if kind == EXECUTOR else 4)) * MIB


# --- the number that answers by size ----------------------------------------------------------------------------------


def test_the_pool_s_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes as a positive number, and is reached once the process is larger."""
    limit = RecycleAbove("10MiB")
    sizes = iter([9 * MIB, 11 * MIB, 9 * MIB, 11 * MIB])
    monkeypatch.setattr(recycling, "private_bytes", lambda pid: next(sizes))
    assert isinstance(limit, int)
    assert not limit <= 0
    assert limit >= 1
    assert limit
    assert [limit > 0, limit > 3, limit > 4] == [True, True, False]
    assert [limit <= 3, limit <= 4] == [False, True]
    assert repr(pickle.loads(pickle.dumps(limit))) == repr(limit)  # noqa: S301 - our own
    assert len({limit, limit}) == 1


@pytest.mark.parametrize("size", [0, "0", "much", -1])
def test_sizes_that_cannot_be_meant(size: Any) -> None:
    """Refused, before any process is started."""
    with pytest.raises(ValueError, match=r"every worker is|amount of memory|negative"):
        RecycleAbove(size)
    with pytest.raises(ValueError, match=r"every worker is|amount of memory|negative"):
        RecyclingExecutor(1, max_worker_bytes=size)


# --- the executor around the pool -------------------------------------------------------------------------------------


class FakePool:
    """A pool whose tasks end when the test says so."""

    def __init__(self) -> None:
        self.tasks: list[tuple[Any, Future[Any]]] = []
        self.shut: list[bool] = []
        self.broken = False

    def submit(self, _measured: Any, fn: Any, args: tuple[Any, ...], _kwargs: Any) -> Future[Any]:
        if self.broken:
            raise BrokenProcessPool("a worker was killed")
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self.tasks.append((args[0], future))
        return future

    def shutdown(self, *, wait: bool) -> None:
        self.shut.append(wait)

    def end(self, size_bytes: int = 0) -> None:
        number, future = self.tasks.pop(0)
        future.set_result((number, size_bytes))


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[FakePool]:
    """Every pool that an executor made, in order."""
    made: list[FakePool] = []

    def make(**options: Any) -> FakePool:
        made.append(FakePool())
        return made[-1]

    monkeypatch.setattr(recycling, "ProcessPoolExecutor", make)
    return made


def test_waiting_tasks_go_to_the_next_set(pools: list[FakePool]) -> None:
    """At most two tasks a worker are inside; after a large one the old set only finishes those."""
    executor = RecyclingExecutor(2, max_worker_bytes="10MiB")
    futures = [executor.submit(print, number) for number in range(8)]
    assert len(pools[0].tasks) == 4
    pools[0].end(11 * MIB)
    assert executor.recycled == 1
    assert pools[0].shut == [False]
    assert ([number for number, _ in pools[0].tasks], [number for number, _ in pools[1].tasks]) == ([1, 2, 3], [4])
    for _ in range(3):
        pools[0].end(11 * MIB)
    assert executor.recycled == 1
    while pools[1].tasks:
        pools[1].end()
    assert [future.result(timeout=0) for future in futures] == list(range(8))
    executor.shutdown()
    assert pools[1].shut == [True]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(print, 1)


def test_failures_and_cancellations(pools: list[FakePool]) -> None:
    """A task's exception is its future's; a cancelled waiting task is never started; a broken pool fails those left."""
    executor = RecyclingExecutor(1, max_worker_bytes="10MiB")
    futures = [executor.submit(print, number) for number in range(5)]
    assert futures[3].cancel()
    pools[0].tasks.pop(0)[1].set_exception(KeyError("x"))
    with pytest.raises(KeyError):
        futures[0].result(timeout=0)
    pools[0].end()
    assert [number for number, _ in pools[0].tasks] == [2, 4]
    pools[0].broken = True
    late = executor.submit(print, 5)
    pools[0].end()
    with pytest.raises(BrokenProcessPool):
        late.result(timeout=0)
    pools[0].end()
    assert futures[4].result(timeout=0) == 4
    with pytest.raises(CancelledError):
        futures[3].result(timeout=0)
    executor.shutdown()


def test_shutdown_without_waiting(pools: list[FakePool]) -> None:
    """What was scheduled is done all the same; with cancel_futures only what is under way."""
    executor = RecyclingExecutor(1, max_worker_bytes="10MiB")
    futures = [executor.submit(print, number) for number in range(4)]
    executor.shutdown(wait=False)
    assert pools[0].shut == []
    while pools[0].tasks:
        pools[0].end()
    wait_for(lambda: pools[0].shut == [True])
    assert [future.result(timeout=0) for future in futures] == [0, 1, 2, 3]
    other = RecyclingExecutor(1, max_worker_bytes="10MiB")
    futures = [other.submit(print, number) for number in range(4)]
    ending = threading.Thread(target=lambda: other.shutdown(cancel_futures=True))
    ending.start()
    wait_for(futures[3].cancelled)
    pools[1].end()
    pools[1].end()
    ending.join(10)
    assert [future.cancelled() for future in futures] == [False, False, True, True]


def test_it_makes_real_pools() -> None:
    """As ProcessPoolExecutor with a size does, it spawns unless told otherwise."""
    executor = RecyclingExecutor(1, max_worker_bytes="1GiB")
    assert isinstance(executor._pool, ProcessPoolExecutor)
    assert executor.submit(abs, -3).result(timeout=60) == 3
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 1, 0).result(timeout=60)
    assert list(executor.map(abs, [-1, -2])) == [1, 2]
    executor.shutdown()
