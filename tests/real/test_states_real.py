"""Under a real kernel limit: conversations that outgrow it die as a dict, live as states, and come back whole."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(cage_unavailable() is not None, reason=f"needs a real memory limit: {cage_unavailable()}"),
]

LIMIT_BYTES = 256 * MIB

# Sessions begin, are talked to for a while, 200 at a time, and are looked at again now and then, as those of a chat
# service are. What the service notes down lies in arrays: small objects of its own would pin what is given back.
SERVICE = """
import json, random, sys, time
from array import array
from memguard.errors import AdmissionRefused
from memguard.guard import Guard
from memguard.sizing import sizeof

GUARDED, SESSIONS = sys.argv[1] == "guarded", 4000
guard = Guard() if GUARDED else None
states = {}
if guard:
    guard.start()
    states = guard.states("sessions")

def turn(n, k):
    words = f"message {k} of session {n}: the weather is fine today, and so it was on day {k % 7}. "
    return {"role": "user" if k % 2 else "assistant", "text": words * 14, "at": 1.7e9 + k, "tags": [f"t{k % 5}", n]}

refused = 0

def admitted():
    global refused
    while guard:
        try:
            with guard.admit(label="turn"):
                return
        except AdmissionRefused:
            refused += 1
            time.sleep(0.005)

rng, count, waits = random.Random(3), array("q", [0]) * SESSIONS, array("d")
for step in range(SESSIONS * 15):
    begun = step // 15
    n = min(SESSIONS - 1, begun + rng.randrange(200)) if rng.random() < 0.97 else rng.randrange(begun + 1)
    admitted()
    key = f"session-{n}"
    began = time.perf_counter()
    if key not in states:
        states[key] = {"id": n, "messages": []}
    messages = states[key]["messages"]
    waits.append(time.perf_counter() - began)
    for _ in range(4):
        messages.append(turn(n, count[n]))
        count[n] += 1
    del messages
    if step % 20 == 0:
        time.sleep(0.001)

figures = states.figures() if guard else None
lost = size = 0
for n in range(SESSIONS):
    if count[n]:
        admitted()
        whole = {"id": n, "messages": [turn(n, k) for k in range(count[n])]}
        lost += states.get(f"session-{n}") != whole
        size += sizeof(whole) if n % 100 == 0 else 0
waits = sorted(waits)
said = {"lost": lost, "sessions": len(states), "turns": sum(count), "refused": refused, "whole_mib": size * 100 / 2**20}
said |= {"p50_us": waits[len(waits) // 2] * 1e6, "p99_ms": waits[len(waits) * 99 // 100] * 1e3}
if figures:
    said |= {"live": figures.live, "packed": figures.packed, "spilled": figures.spilled, "ratio": figures.ratio}
print(json.dumps(said), flush=True)
"""


def run(mode: str) -> tuple[bool, int, str]:
    """Run the service in a cage; whether the kernel killed it, its peak, and what it said last."""
    with Cage(LIMIT_BYTES) as cage:
        service = cage.popen([sys.executable, "-c", SERVICE, mode], stdout=subprocess.PIPE, text=True)
        out, _ = service.communicate(timeout=240)
        return cage.killed > 0, cage.peak_bytes, out.strip().rpartition("\n")[2]


@pytest.mark.timeout(500)
def test_conversations_outgrow_the_limit() -> None:
    """More than 256 MiB of conversations: a dict is killed; states live, and every one comes back equal."""
    killed, _, _ = run("bare")
    assert killed
    killed, peak, out = run("guarded")
    assert not killed
    said = json.loads(out)
    print(said, f"peak {peak / MIB:.0f} MiB")  # noqa: T201 - for `pytest -s`
    assert said["lost"] == 0
    assert said["whole_mib"] > 1.2 * LIMIT_BYTES / MIB
    assert said["packed"] + said["spilled"] > 0
    assert said["turns"] == 4000 * 15 * 4
