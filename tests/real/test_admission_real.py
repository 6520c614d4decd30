"""Under a real kernel limit: a service that asks before it takes memory on lives, and learns what requests hold."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(cage_unavailable() is not None, reason=f"needs a real memory limit: {cage_unavailable()}"),
]

LIMIT_BYTES = 192 * MIB

PROLOGUE = """
import asyncio, json, mmap, random, sys, time
from memguard import Guard
from memguard.ext.asgi import MemguardMiddleware
MIB = 1 << 20
def hold(mib):
    block = mmap.mmap(-1, max(1, int(mib * MIB)))  # goes back to the kernel when it is closed, as known costs must
    for at in range(0, len(block), 4096): block[at] = 1
    return block
async def receive(): return {"type": "http.request", "body": b"", "more_body": False}
async def ask(app, path):
    sent = []
    async def send(message): sent.append(message)
    await app({"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}, receive, send)
    return sent[0]["status"]
async def answer(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})
"""

# 60 a second, each holds 1 MiB for 4 s: 240 MiB wanted of 192.
HOLD = """
async def app(scope, receive, send):
    with hold(1.0): await asyncio.sleep(4.0)
    await answer(send)
async def main(app):
    tasks = []
    for _ in range(8 * 60):
        tasks.append(asyncio.create_task(ask(app, "/hold")))
        await asyncio.sleep(1 / 60)
    statuses = await asyncio.gather(*tasks)
    print(json.dumps({"served": statuses.count(200), "refused": statuses.count(503)}))
if sys.argv[1] == "guarded":
    with Guard(sinks=()) as guard:
        asyncio.run(main(MemguardMiddleware(app, guard=guard)))
else:
    asyncio.run(main(app))
"""

LEARN = """
COSTS = {"small": (4.0, 0.3), "middle": (8.0, 0.5), "large": (16.0, 0.4), "none": (0.0, 0.2)}
async def app(scope, receive, send):
    mib, lasts = COSTS[scope["path"].split("/")[1]]
    with hold(mib): await asyncio.sleep(lasts * random.uniform(0.7, 1.3))
    await answer(send)
async def main(app):
    tasks = []
    async def route(name):
        for number in range(50):
            await asyncio.sleep(random.expovariate(5.0))
            tasks.append(asyncio.create_task(ask(app, f"/{name}/{number}")))
    await asyncio.gather(*map(route, COSTS))
    await asyncio.gather(*tasks)
random.seed(int(sys.argv[1]))
with Guard(sinks=()) as guard:
    asyncio.run(main(MemguardMiddleware(app, guard=guard)))
    costs = guard.gate.learn().costs
    print(json.dumps({name: costs.route(f"GET /{name}/1", 0.0).flat.unit_bytes / MIB for name in COSTS}))
"""


def run(body: str, argument: str, limit_bytes: int = LIMIT_BYTES) -> tuple[int, dict[str, Any]]:
    """Run a body in a cage: kernel kills, and what it said."""
    program = PROLOGUE + textwrap.dedent(body)
    with Cage(limit_bytes, name="admission") as cage:
        done = cage.popen([sys.executable, "-c", program, argument], stdout=subprocess.PIPE, text=True)
        out, _ = done.communicate(timeout=120)
        return cage.killed, json.loads(out) if out.strip() else {}


def test_more_than_fits_dies_bare_and_is_refused_guarded() -> None:
    """Bare it is killed; guarded it serves most of what fits, refuses the rest, and is never killed."""
    assert run(HOLD, "bare")[0] == 1
    killed, said = run(HOLD, "guarded")
    assert killed == 0
    assert said["served"] + said["refused"] == 480
    # Idle it takes some 30 MiB, so that at 90 % of 192 some 140 fit at once, twice in 8 s.
    assert said["served"] >= 0.8 * 2 * 140
    assert said["refused"] > 50


def test_known_costs_are_learned_from_the_kernels_numbers() -> None:
    """Fifty overlapping requests of each of four routes: within 30 % of what they hold (0.9 MiB for nothing)."""
    _, learned = run(LEARN, "7", 2048 * MIB)
    truth = {"small": 4.0, "middle": 8.0, "large": 16.0, "none": 0.0}
    for name, mib in truth.items():
        assert learned[name] == pytest.approx(mib, rel=0.3, abs=0.9), learned
