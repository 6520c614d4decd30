"""Dask: jobs that end bare and finish guarded, on a real ``LocalCluster`` of two workers with nannies.

Each job runs in a process of its own: bare, and after ``memguard.ext.dask.protect(client)``. *cache*: every task goes
through more documents than a worker's memory_limit holds, through a cache without bounds; the nanny ends a worker at
95 % of its limit, and Dask gives a task up after it has met that four times (distributed.scheduler.allowed-failures,
3). *leak*: every task leaves 8 MiB in a list; Dask pauses a worker at 80 %, and nothing ever resumes it. *container*:
the cache again, where Dask has no limit and a control group of the kernel has one. "equal": the results are those that
were computed without a cluster. Rules are the defaults, but for the leak a worker is recycled after 0.5 s instead of 30
(``handover_after_s``), and may be 1.5 s old instead of 60 (``handover_life_s``), to keep the run short.

    python benchmarks/dask_jobs.py [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import memguard
from memguard.units import MIB

ROOT = Path(__file__).parent.parent
WORKER_BYTES = 256 * MIB
CONTAINER_BYTES = 480 * MIB
JOBS = ("cache", "leak", "container")
# A stalled job is given up after so long, a guarded one after four times that: the machine may be slow.
STALLED_S = 30.0
QUICK = {"handover_after_s": 0.5, "handover_life_s": 1.5}


# --- what the tasks do --------------------------------------------------------------------------------------------

DOCUMENTS, DOCUMENT_BYTES, PER_TASK = 1000, MIB // 2, 700
KEPT: list[bytes] = []


def vector(document: int) -> bytes:
    """What is dear to make again."""
    time.sleep(0.0005)
    return bytes([document % 251]) * DOCUMENT_BYTES


embed = memguard.cached(name="embeddings")(vector)


def score(batch: int) -> int:
    """A sum over many documents, some of which other tasks have seen."""
    picked = random.Random(batch).sample(range(DOCUMENTS), PER_TASK)
    return sum(zlib.crc32(embed(document)[:64]) for document in picked)


def remember(number: int) -> int:
    """Leaves something behind each time."""
    KEPT.append(bytes([number % 251]) * (8 * MIB))
    time.sleep(0.05)
    return zlib.crc32(KEPT[-1])


def expected(job: str) -> int:
    """The result, without a cluster and without a cache."""
    if job == "leak":
        return sum(zlib.crc32(bytes([number % 251]) * (8 * MIB)) for number in range(LEAKS))
    crcs = [zlib.crc32(bytes([document % 251]) * 64) for document in range(DOCUMENTS)]
    return sum(sum(crcs[document] for document in random.Random(batch).sample(range(DOCUMENTS), PER_TASK))
               for batch in range(BATCHES))  # fmt: skip


BATCHES, LEAKS = 5, 44


# --- one job on one cluster ---------------------------------------------------------------------------------------


def run(job: str, mode: str) -> dict[str, Any]:
    """Run a job on a cluster; what came of it."""
    import dask_jobs as work  # noqa: PLC0415 - as a module: a script's own functions travel by value, with their cache
    from distributed import Client, KilledWorker, LocalCluster  # noqa: PLC0415

    limit: Any = 0 if job == "container" else WORKER_BYTES
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=limit, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        Client(cluster) as client,
    ):
        found: dict[str, Any] = {"result": None, "error": ""}
        if mode == "guarded":
            from memguard.ext.dask import protect  # noqa: PLC0415

            protect(client, **(QUICK if job == "leak" else {}))
        began = time.monotonic()
        task, count = (work.remember, LEAKS) if job == "leak" else (work.score, BATCHES)
        futures = client.map(task, range(count))
        try:
            found["result"] = client.submit(sum, futures).result(timeout=STALLED_S * (4 if mode == "guarded" else 1))
        except (KilledWorker, TimeoutError) as error:
            found["error"] = type(error).__name__
        found["seconds"] = time.monotonic() - began
        found["nanny_kills"] = len(client.get_events("worker-restart-memory"))
        if mode == "guarded":
            from memguard.ext.dask import cluster as look  # noqa: PLC0415

            view = look(client)
            told = [message for _, message in client.get_events("memguard")]
            found["recycled"] = sum(message["name"] == "handover.begun" for message in told)
            found["pauses"] = sum(worker.pauses for worker in view.workers)
            found["bought_bytes"] = sum(holder.bought_bytes for worker in view.workers for holder in worker.holders)
            found["levels"] = [worker.level is not None for worker in view.workers]
        return found


def child(job: str, mode: str, *, contained: bool = False) -> dict[str, Any]:
    """Run a job in a process of its own, in a control group where that or the job asks for one."""
    argv = [sys.executable, str(Path(__file__).resolve()), "--job", job, "--mode", mode]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}
    if job != "container" and not contained:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300, check=False)
        return _answer(done.stdout, done.stderr, killed=0)
    from memguard.testing.cage import Cage  # noqa: PLC0415

    with Cage(CONTAINER_BYTES, name="dask", by="kernel") as cage:
        process = cage.popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = process.communicate(timeout=300)
        killed = cage.killed
    return _answer(out, err, killed=killed)


def _answer(out: str, err: str, *, killed: int) -> dict[str, Any]:
    lines = [line for line in out.splitlines() if line.startswith("{")]
    ended = "killed, scheduler and all" if killed else err[-500:]
    answer: dict[str, Any] = json.loads(lines[-1]) if lines else {"result": None, "error": ended, "nanny_kills": 0}
    return {**answer, "kernel_kills": killed}


def main() -> None:
    """Run every job bare and guarded, and publish."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--job", choices=JOBS)
    parser.add_argument("--mode", choices=("bare", "guarded"))
    asked = parser.parse_args()
    if asked.mode:
        print(json.dumps(run(asked.job, asked.mode)), flush=True)
        return
    import report  # noqa: PLC0415 - not in the children

    rows = []
    for job in [asked.job] if asked.job else JOBS:
        for mode in ("bare", "guarded"):
            answers = [child(job, mode) for _ in range(asked.runs)]
            finished = [answer for answer in answers if answer["result"] is not None]
            rows.append(
                {
                    "job": job,
                    "mode": mode,
                    "finished": f"{len(finished)} of {len(answers)}",
                    "equal": str(sum(answer["result"] == expected(job) for answer in finished)),
                    "ended by": ", ".join(sorted({answer["error"] for answer in answers} - {""})),
                    "killed by the nanny": str(sum(answer.get("nanny_kills", 0) for answer in answers)),
                    "killed by the kernel": str(sum(answer["kernel_kills"] for answer in answers)),
                    "recycled": str(sum(answer.get("recycled", 0) for answer in answers)),
                    "seconds": "/".join(f"{answer.get('seconds', 0.0):.1f}" for answer in answers),
                }
            )
    report.publish("dask_jobs", title="Dask: jobs that end bare", rows=rows, method=(__doc__ or "").splitlines()[2:])


if __name__ == "__main__":
    main()
