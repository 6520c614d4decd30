"""Function caches under a real kernel limit: unbounded, they die bare; guarded, the cold part goes, the hot stays."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from memguard.model import Level
from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(cage_unavailable() is not None, reason=f"needs a real memory limit: {cage_unavailable()}"),
]

LIMIT_BYTES = 256 * MIB

SERVICE = """
import json, sys, time
import memguard
guarded, kind = sys.argv[1] == "guarded", sys.argv[2]
guard = memguard.Guard() if guarded else None
if guard: guard.start()

@memguard.cached
def answer(number):
    return {"id": number, "words": [str(number + k) for k in range(8)]}

@memguard.cached(name="hot")
def hot(number):
    time.sleep(0.002)
    return str(number) * 50

pages = memguard.Cache(name="pages")

for number in range(400_000):
    if kind == "function":
        answer(number)
    else:
        pages[number] = {"id": number, "words": [str(number + k) for k in range(8)]}
    if number % 50 == 0: hot(number // 50 % 100)
    if number % 500 == 0: time.sleep(0.001)

kept = answer.cache_info().bytes + pages.bytes
for _ in range(500):
    hot(1)
    time.sleep(0.01)
print(json.dumps({
    "kept": kept,
    "bytes": answer.cache_info().bytes + pages.bytes,
    "hot": list(hot.cache_info()),
    "attempts": sum(holder.attempts for holder in guard.holders() if holder.name == "caches") if guard else 0,
    "level": guard.level if guard else 0,
}))
"""


def run(*arguments: str) -> tuple[bool, dict[str, Any]]:
    """Run the service in a cage; whether the kernel killed it, and what it said."""
    with Cage(LIMIT_BYTES) as cage:
        done = cage.popen([sys.executable, "-c", SERVICE, *arguments], stdout=subprocess.PIPE, text=True)
        out, _ = done.communicate(timeout=180)
        killed = cage.killed > 0
    return killed, {} if killed else json.loads(out)


@pytest.mark.parametrize("kind", ["function", "mapping"])
def test_unbounded_caches_die_bare_and_live_guarded(kind: str) -> None:
    """The cold cache gives way, in few attempts; the hot one stays; nothing goes on being evicted for nothing."""
    bare_killed, _ = run("bare", kind)
    assert bare_killed
    killed, said = run("guarded", kind)
    assert not killed
    assert said["level"] <= Level.WARNING
    hits, misses, *_ = said["hot"]
    assert misses < 0.1 * hits
    assert said["kept"] > 0.25 * LIMIT_BYTES
    assert said["bytes"] > 0.25 * said["kept"]
    assert said["attempts"] <= 60
