"""Under a real kernel limit: a C call that takes too much while nobody can look raises, and the service goes on."""

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

LIMIT_BYTES = 256 * MIB

PROLOGUE = """
import json, sys, time
from collections import OrderedDict
from memguard.guard import Guard
MIB = 1 << 20
events = []
guard = Guard(fuse=sys.argv[1] == "fused", sinks=[lambda event: events.append(event.name)]).start()
def say(**more):
    print(json.dumps({"events": sorted(set(events)), "level": guard.level.name, **more}), flush=True)
"""

# A cache that fills what nobody else needs, and calls that want up to all of the limit at once.
LUMPS = """
cache = OrderedDict()
guard.cache(cache, name="answers")
served = refused = 0
for number in range(1200):
    try:
        cache[number] = number.to_bytes(4, "big") * 25_000
        if number % 60 == 0:
            bytearray((60, 120, 265)[number // 60 % 3] * 1_000_000).count(1)
            served += 1
    except MemoryError as error:
        refused += 1
        guard.memory_error(error)
    time.sleep(0.002)
whole = all(value == key.to_bytes(4, "big") * 25_000 for key, value in cache.items())
say(served=served, refused=refused, whole=whole, armed=guard._fuse is not None and guard._fuse.armed)
"""

# 120 MB of heap is freed and trimmed, and stays mapped; json.loads then fills it, and more, without letting the GIL go
# once: a collection would, since the guard's watch over those is Python code.
GAP = """
import gc
gc.disable()
held = [number.to_bytes(2000, "big") for number in range(60_000)]
pinned = held[::50]
del held
guard.trim()
time.sleep(0.5)
ends = []
row = "[" + ",".join("1" * 250) + "]"  # 501 bytes of text, 2.2 KB of list
for count in (110_000, 25_000, 110_000):
    text = ",".join(["[" + row, *[row] * (count - 2), row + "]"])
    try:
        ends.append(len(json.loads(text)))
    except MemoryError as error:
        ends.append(0)
        guard.memory_error(error)
    del text
    time.sleep(0.5)
say(ends=ends, pinned=len(pinned))
"""

# The fuse as one would reckon it at first: what is mapped now, and how far the limit is.
NAIVE = """
import os
import memguard.fuse.reckoning
honest = memguard.fuse.reckoning.fuse_bytes
def mapped_and_room(*, fits_bytes, **others):
    with open("/proc/self/statm") as file:
        fields = [int(word) * os.sysconf("SC_PAGE_SIZE") for word in file.read().split()]
    return honest(fits_bytes=fits_bytes - (fields[1] - fields[2]) + fields[5], **others)
memguard.fuse.reckoning.fuse_bytes = mapped_and_room
"""

ASGI = """
import asyncio
sizes = {"/small": 10, "/huge": 400}
async def app(scope, receive, send):
    block = bytearray(sizes[scope["path"]] * MIB)
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % len(block)})
async def answer(scope, receive, send):
    try:
        await app(scope, receive, send)
    except MemoryError as error:
        problem = guard.memory_error(error).problem()
        await send({"type": "http.response.start", "status": problem["status"], "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(problem).encode()})
async def ask(path):
    sent = []
    async def send(message): sent.append(message)
    await answer({"type": "http", "path": path}, None, send)
    return sent[0]["status"]
async def main():
    return [[await ask(path) for path in ("/small", "/huge", "/small")] for _ in range(10)]
answers = asyncio.run(main())
time.sleep(0.5)
say(answers=answers, trips=guard._fuse.trips)
"""


def run(body: str, mode: str = "fused", *, first: str = "") -> tuple[int, dict[str, Any]]:
    """How many the kernel killed, and what the service said last."""
    program = first + PROLOGUE + textwrap.dedent(body)
    with Cage(LIMIT_BYTES) as cage:
        done = cage.popen([sys.executable, "-c", program, mode], stdout=subprocess.PIPE, text=True)
        out, _ = done.communicate(timeout=120)
        return cage.killed, json.loads(out.splitlines()[-1]) if out.strip() else {}


def test_unannounced_lumps_are_survived() -> None:
    """Calls of up to the whole limit kill a service that is merely guarded; with the fuse what does not fit raises."""
    killed, _ = run(LUMPS, "guarded")
    assert killed == 1
    killed, said = run(LUMPS)
    assert killed == 0
    assert said["armed"]
    assert said["whole"]
    assert 0 < said["refused"] < 60
    assert said["served"] >= 7
    assert {"fuse.armed", "fuse.tripped"} <= set(said["events"])
    assert "guard.fault" not in said["events"]


def test_freed_heap_is_reckoned_with() -> None:
    """Memory that is mapped and not resident fills without asking: a fuse that forgets it lets the kernel kill."""
    killed, _ = run(GAP, first=NAIVE)
    assert killed == 1
    killed, said = run(GAP)
    assert killed == 0
    assert said["ends"] == [0, 25_000, 0]
    assert said["pinned"] == 1200


def test_the_request_that_asked_is_answered_503() -> None:
    """The one that wanted too much gets 503, those before and after it 200."""
    killed, said = run(ASGI)
    assert killed == 0
    assert said["answers"] == [[200, 503, 200]] * 10
    assert said["trips"] == 10
