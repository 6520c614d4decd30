"""A pool under a real limit: 400 agents are wanted where 200 may be, and what is idle gives way to who must live."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from memguard.testing.cage import Cage, cage_unavailable

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(cage_unavailable() is not None, reason=f"needs a real memory limit: {cage_unavailable()}"),
]

PROLOGUE = """
import json, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from memguard.errors import PoolFull
from memguard.guard import Guard
from memguard.model import Level
guard = Guard()
class Agent:
    def __init__(self): self.beliefs = b"x" * (2 << 20)
def until(condition, seconds):
    began = time.monotonic()
    while not condition() and time.monotonic() < began + seconds:
        time.sleep(0.01)
    return time.monotonic() - began if condition() else None
def say(**more):
    stats = pool.stats()
    print(json.dumps({"size": stats.size, "created": stats.created, "refused": stats.refused, "retired": stats.retired,
                      "peak": guard.snapshot.reading.used_bytes, "fits": stats.fits, **more}), flush=True)
"""

# 400 ask for an agent that they hold to the load's end; then all are released, and nothing else is done.
WANTED_AT_ONCE = """
pool, end, refusals = guard.pool("agents", max_size=200), threading.Event(), []
def request(number):
    try:
        with pool.lease(f"a{number}", Agent):
            end.wait(60)
    except PoolFull as error:
        refusals.append(str(error))
with guard:
    with ThreadPoolExecutor(400) as threads:
        jobs = [threads.submit(request, number) for number in range(400)]
        until(lambda: len(refusals) + pool.stats().running == 400, 30)
        served, level = pool.stats().running, guard.level.name
        end.set()
    recovered_s = until(lambda: guard.level is Level.OK, 10)
    say(served=served, level=level, refusals=refusals, recovered_s=recovered_s)
"""

# 40 at a time, each for 50 ms, 4,000 in all by 400 names: idle agents stay, and go when memory runs short.
CHURN = """
saved = []
pool = guard.pool("agents", max_size=400, on_retire=lambda id_, agent: saved.append(id_))
refused = [0]
def request(number):
    try:
        with pool.lease(f"a{number * 7 % 400}", Agent, wait_s=5):
            time.sleep(0.05)
    except PoolFull:
        refused[0] += 1
with guard:
    with ThreadPoolExecutor(40) as threads:
        list(threads.map(request, range(4000)))
    recovered_s = until(lambda: guard.level is Level.OK, 10)
    say(saved=len(saved), recovered_s=recovered_s, turned_away=refused[0])
"""

# Agents of 2 MiB where the cap is no help: 1,000 would be allowed and 512 MiB hold some 210.
NO_CAP = """
pool, refusals = guard.pool("agents", max_size=1000), []
with guard:
    for number in range(400):
        try:
            pool.create(f"a{number}", Agent)
        except PoolFull as error:
            refusals.append(str(error))
    pressure, size = guard.snapshot.pressure, len(pool)
    for name in list(pool):
        del pool[name]
    recovered_s = until(lambda: guard.level is Level.OK, 10)
    say(served=size, pressure=pressure, refusals=refusals, recovered_s=recovered_s)
"""


def _run(body: str) -> tuple[int, dict[str, Any]]:
    """Run a body in a cage of 512 MiB; how many the kernel killed, and what the body said."""
    with Cage("512MiB", name="pool") as cage:
        program = PROLOGUE + textwrap.dedent(body)
        done = cage.popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        out, _ = done.communicate(timeout=150)
        assert done.returncode == 0 or cage.killed
        return cage.killed, json.loads(out) if out else {}


def test_400_wanted_at_once_of_200() -> None:
    """Never killed: 200 run, 200 are refused in clear words, and 10 s after the load's end all is OK by itself."""
    killed, said = _run(WANTED_AT_ONCE)
    assert killed == 0
    assert said["served"] == 200
    assert len(said["refusals"]) == said["refused"] == 200
    assert all("200 of 200 places are taken, none idle" in text for text in said["refusals"])
    assert said["recovered_s"] is not None
    assert said["retired"] > 0


def test_churn_beyond_what_fits() -> None:
    """4,000 requests for 400 agents of 2 MiB: idle ones are saved and go, nobody is killed, hardly anybody refused."""
    killed, said = _run(CHURN)
    assert killed == 0
    assert said["saved"] == said["retired"] > 100
    assert said["turned_away"] < 40
    assert said["recovered_s"] is not None


def test_memory_refuses_where_no_cap_does() -> None:
    """The pool stops at the CRITICAL rung by itself, and says what an agent takes and what is left."""
    killed, said = _run(NO_CAP)
    assert killed == 0
    assert 150 < said["served"] < 230
    assert said["served"] + len(said["refusals"]) == 400
    assert all("left below the CRITICAL rung" in text for text in said["refusals"])
    assert said["pressure"] < 0.95
    assert said["recovered_s"] is not None
