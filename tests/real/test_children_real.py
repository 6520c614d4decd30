"""Under a real kernel limit: a registered child is ended before the kernel chooses whom to kill."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(cage_unavailable() is not None, reason=f"needs a real memory limit: {cage_unavailable()}"),
]

LIMIT_BYTES = 256 * MIB

PROGRAM = """
import json, subprocess, sys, time
from memguard.guard import Guard
from memguard.reclaimers.children import Child, watch_child
MIB = 1 << 20
grow = '''
import sys, time
kept, until = [], int(sys.argv[1])
for number in range(1 << 20):
    if len(kept) < until: kept.append(bytearray(b"x") * (1 << 20))
    time.sleep(0.01)
'''
how, quota, until = sys.argv[1:]
events = []
guard = Guard(sinks=[events.append]).start()
child = subprocess.Popen([sys.executable, "-c", grow, until])
if how == "registered":
    watch_child(guard.roster, Child(child, max_bytes=int(quota) * MIB, tell=events.append))
deadline = time.monotonic() + 30
while child.poll() is None and time.monotonic() < deadline:
    time.sleep(0.05)
time.sleep(0.5)
guard.stop()
print(json.dumps({"code": child.returncode, "events": {event.name: event.text for event in events}}), flush=True)
"""


def run(how: str, *, quota_mib: int, until_mib: int) -> tuple[int, dict[str, Any]]:
    """How many the kernel killed, and what the service said in the end."""
    with Cage(LIMIT_BYTES) as cage:
        service = cage.popen(
            [sys.executable, "-c", PROGRAM, how, str(quota_mib), str(until_mib)], stdout=subprocess.PIPE, text=True
        )
        out, _ = service.communicate(timeout=120)
        return cage.killed, json.loads(out.splitlines()[-1]) if out.strip() else {}


def test_a_child_above_its_quota_is_ended_in_time() -> None:
    """A child that holds 60 MiB of its 40 for a few seconds is told to end, long before there is pressure."""
    killed, said = run("registered", quota_mib=40, until_mib=60)
    assert killed == 0
    assert said["code"] == -15
    assert "child.over" in said["events"]
    assert "of 40.0 MiB" in said["events"]["child.killed"]
    assert "level.changed" not in said["events"]


def test_a_child_is_the_last_resort() -> None:
    """One that would fill the group is ended by the guard in the emergency; unregistered, the kernel kills."""
    killed, said = run("registered", quota_mib=1000, until_mib=1000)
    assert killed == 0
    assert said["code"] == -15
    assert "memory is needed elsewhere" in said["events"]["child.killed"]
    killed, _ = run("alone", quota_mib=1000, until_mib=1000)
    assert killed >= 1
