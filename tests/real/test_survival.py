"""Under a real kernel limit: what dies bare lives guarded, and what needs no relief gets none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(cage_unavailable() is not None, reason=f"needs a real memory limit: {cage_unavailable()}"),
]

LIMIT_BYTES = 256 * MIB

PROLOGUE = """
import json, os, sys, time
from collections import OrderedDict
from memguard.guard import Guard
from memguard.model import Level
GUARDED = sys.argv[1] == "guarded"
events = []
guard = Guard(sinks=[events.append]) if GUARDED else None
if guard: guard.start()
def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()
def say(**more):
    told = [event.name for event in events]
    print(json.dumps({"level": guard.level.name if guard else "", "events": told, **more}), flush=True)
"""

SMALL_OBJECTS = """
cache = OrderedDict()
if guard: guard.cache(cache, name="answers")
for number in range(400_000):
    cache[number] = {"id": number, "words": [str(number + k) for k in range(8)]}
    if number % 500 == 0: time.sleep(0.001)
say(entries=len(cache), incidents=len(guard.incidents) if guard else 0)
"""

THREADS = """
import threading
cache = OrderedDict()
if guard: guard.cache(cache, name="answers")
def fill(seed):
    for number in range(40_000):
        cache[seed, number] = bytes([number % 256]) * 3000
        if number % 100 == 0: time.sleep(0.004)
threads = [threading.Thread(target=fill, args=(seed,)) for seed in range(6)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
say(entries=len(cache))
"""

PAGE_CACHE = """
path = sys.argv[2]
for _ in range(600):
    with open(path, "ab") as file: file.write(b"x" * (1 << 20))
    with open(path, "rb") as file: file.seek(-1 << 20, 2); file.read()
    if _ % 50 == 0: time.sleep(0.05)
limit = guard.snapshot.limit
file = {1: "memory.usage_in_bytes", 2: "memory.current"}[limit.version]
with open(f"{limit.path}/{file}") as group: raw = int(group.read())
usage = guard.snapshot.reading.used_bytes
say(used=usage, cached=raw - usage)
"""

CHILD = """
import subprocess
hog = "import sys; x = b'x' * (225 << 20); print(1, flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", hog], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
risen = until(lambda: guard.level >= Level.CRITICAL, 5)
refused = False
try:
    guard.admit("1MiB")
except Exception as error:
    refused = type(error).__name__
child.communicate()
calm = until(lambda: guard.level == Level.OK, 10)
say(risen=risen, refused=refused, calm=calm)
"""

RESIZED = """
cache = OrderedDict((number, b"x" * 100_000) for number in range(1500))
guard.cache(cache, name="answers")
print("ready", flush=True)
shrunk = until(lambda: len(cache) < 1450, 15)
calm = until(lambda: guard.snapshot.limit.bytes == 190 << 20 and guard.level < Level.WARNING, 10)
say(shrunk=shrunk, calm=calm, limit=guard.snapshot.limit.bytes)
"""


def run(body: str, mode: str, *arguments: str) -> tuple[bool, dict[str, Any]]:
    """Run a body in a cage; whether the kernel killed it, and what it said last."""
    program = PROLOGUE + textwrap.dedent(body)
    with Cage(LIMIT_BYTES) as cage:
        done = cage.popen([sys.executable, "-c", program, mode, *arguments], stdout=subprocess.PIPE, text=True)
        out, _ = done.communicate(timeout=120)
        killed = cage.killed > 0
    return killed, json.loads(out.splitlines()[-1]) if out.strip() and not killed else {}


@pytest.mark.parametrize("body", [SMALL_OBJECTS, THREADS], ids=["small objects", "six threads"])
def test_a_growing_cache_dies_bare_and_lives_guarded(body: str) -> None:
    """The same growing cache is killed by the kernel bare, and served to the end guarded."""
    bare_killed, _ = run(body, "bare")
    guarded_killed, said = run(body, "guarded")
    assert bare_killed
    assert not guarded_killed
    assert said["entries"] > 0
    assert "relief.bought" in said["events"]


def test_page_cache_is_not_usage(tmp_path: Path) -> None:
    """A flood of page cache fills the group and sheds nothing."""
    disk = os.environ.get("MEMGUARD_TEST_DISK", str(tmp_path))
    killed, said = run(PAGE_CACHE, "guarded", f"{disk}/flood")
    assert not killed
    assert said["cached"] > LIMIT_BYTES // 2, "the flood must have filled the group"
    assert said["used"] < LIMIT_BYTES // 2
    assert not {"level.changed", "relief.bought", "relief.useless"} & set(said["events"])


def test_children_count_and_their_end_recovers() -> None:
    """A child that takes the memory makes the parent's guard refuse; its end brings OK back."""
    killed, said = run(CHILD, "guarded")
    assert not killed
    assert said["risen"]
    assert said["refused"] == "AdmissionRefused"
    assert said["calm"]


def test_a_limit_lowered_in_place_is_found_and_kept() -> None:
    """Lowering the group's limit while running makes the guard shed below the new limit."""
    program = PROLOGUE + RESIZED
    with Cage(LIMIT_BYTES) as cage:
        done = cage.popen([sys.executable, "-c", program, "guarded"], stdout=subprocess.PIPE, text=True)
        assert done.stdout is not None
        assert done.stdout.readline().strip() == "ready"
        cage.resize(190 * MIB)
        said = json.loads(done.stdout.readline())
        done.communicate(timeout=60)
        assert cage.killed == 0
    assert said["limit"] == 190 * MIB
    assert said["shrunk"]
    assert said["calm"]
