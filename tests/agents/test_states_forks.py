"""States in forked children: all there, as they were, and nobody waits for a thread that stayed behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
]

# A child that hangs is killed by its own alarm, and then its status is not 0.
HEAD = """
import gc, os, signal, sys, threading, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads are what is tested
from memguard.agents import codecs
from memguard.agents.states import States

def talk(number):
    return {"id": number, "lines": [f"line {n} of talk {number}" for n in range(200)]}

def in_child(body):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        status = 1
        try:
            body()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return pid

def ended_well(pid):
    assert os.waitpid(pid, 0)[1] == 0, "the child failed or hung"

def check(states, numbers=range(9)):
    for n in numbers:
        assert states[str(n)] == talk(n), n
"""

EVERYWHERE = """
states = States("talks")
for n in range(9):
    states[str(n)] = talk(n)
    if n in (2, 5): states.pack()
    if n == 2: states.spill()
assert {row.stored for row in states.rows()} == {"live", "packed", "spilled"}
def child():
    check(states)
    states["own"] = talk(100)
    states.spill()
    check(states)
    assert states["own"] == talk(100)
ended_well(in_child(child))
assert "own" not in states
check(states)
"""

PARENT_GOES_ON = """
states = States("talks")
for n in range(9): states[str(n)] = talk(n)
states.spill()
read, write = os.pipe()
def child():
    os.read(read, 1)
    check(states)
pid = in_child(child)
for n in range(9): states[str(n)] = "other"
states.clear()
states["x"] = talk(1)
states.spill()
os.write(write, b"x")
ended_well(pid)
assert states["x"] == talk(1)
"""

WHILE_PACKING = """
states = States("talks")
for n in range(9): states[str(n)] = talk(n)
inside, door, pack = threading.Event(), threading.Event(), codecs.pack
def slow(*args, **options):
    inside.set()
    door.wait(20)
    return pack(*args, **options)
codecs.pack = slow
thread = threading.Thread(target=states.spill)
thread.start()
assert inside.wait(10)
def child():
    codecs.pack = pack
    check(states)
    states.pack()
    states.spill()
    check(states)
    assert not states._keeping._busy
ended_well(in_child(child))
door.set()
thread.join()
check(states)
"""

UNDER_LOAD = """
states = States("talks", max_bytes="100KiB")
for n in range(9): states[str(n)] = talk(n)
stop = threading.Event()
def load(seed):
    n = seed
    while not stop.is_set():
        n = (n + 1) % 9
        assert states[str(n)] == talk(n)
        if n % 3 == 0: states.spill(10_000)
threads = [threading.Thread(target=load, args=(seed,), daemon=True) for seed in range(4)]
for thread in threads: thread.start()
def child():
    check(states)
    states.max_bytes = None  # what threads of the parent had in hand stays in hand
    states["own"] = talk(100)
    states.spill()
    check(states)
pids = [in_child(child) for _ in range(8)]
for pid in pids: ended_well(pid)
stop.set()
for thread in threads: thread.join()
check(states)
"""

GRANDCHILDREN = """
states = States("talks")
for n in range(9): states[str(n)] = talk(n)
states.spill()
def grandchild():
    check(states)
    assert states["child"] == talk(50)
def child():
    check(states, range(4))
    states["child"] = talk(50)
    states.spill()
    ended_well(in_child(grandchild))
    check(states)
for _ in range(3):
    ended_well(in_child(child))
check(states)
"""

POOL = """
import multiprocessing
states = States("talks")
for n in range(9): states[str(n)] = talk(n)
states.spill()
def look(n):
    return states[str(n)] == talk(n)
with multiprocessing.get_context("fork").Pool(3) as pool:
    assert all(pool.map(look, range(9)))
check(states)
"""


@pytest.mark.parametrize(
    "body",
    [EVERYWHERE, PARENT_GOES_ON, WHILE_PACKING, UNDER_LOAD, GRANDCHILDREN, POOL],
    ids=["everywhere", "parent goes on", "while packing", "under load", "grandchildren", "pool"],
)
def test_forks(body: str) -> None:
    """A child finds every state as it was when it was born, and changes nothing for its parent."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(body)], capture_output=True, text=True, timeout=80, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
