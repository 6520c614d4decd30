"""Real forks in the middle of a computation: a child waits for nothing that only its parent computes."""

from __future__ import annotations

import os
import sys
from subprocess import run

import pytest

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
]

# A child that hangs is killed by its own alarm, and then its status is not 0.
_HEAD = """
import asyncio, gc, os, signal, sys, threading, traceback
from memguard.caching import flights as graph
from memguard.caching.awaiting import Awaiting
from memguard.caching.functions import cached
from memguard.roster import Roster

entered, door = threading.Event(), threading.Event()
calls = []

def in_child(body):
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)
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

def start(work, *args):
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread

def join(*threads):
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "deadlock"
"""

_WHILE_A_THREAD_COMPUTES = """
@cached(roster=Roster())
def slow(key):
    calls.append(key)
    entered.set()
    if os.getpid() == parent:
        assert door.wait(20)
    return f"{key} of {os.getpid()}"

parent = os.getpid()
leader = start(slow, "a")
assert entered.wait(20)
waiter = start(slow, "a")
while not graph._waiting:
    pass

def child():
    assert not graph._waiting
    got = []
    threads = [start(lambda: got.append(slow("a"))) for _ in range(4)]
    join(*threads)
    assert got == [f"a of {os.getpid()}"] * 4, got
    assert slow("b") == f"b of {os.getpid()}"
    slow.cache_clear()
    assert slow("a") == f"a of {os.getpid()}"

ended_well(in_child(child))
door.set()
join(leader, waiter)
assert slow("a") == f"a of {parent}"
assert calls == ["a"], calls
"""

_INSIDE_A_COMPUTATION = """
@cached(roster=Roster())
def forking(key):
    calls.append(key)
    if len(calls) == 1:
        pid = os.fork()
        if pid == 0:
            signal.alarm(15)
            got = [forking(key)]
            other = start(lambda: got.append(forking(key)))
            join(other)
            assert got == ["value", "value"], got
            return "child's"
        ended_well(pid)
    return "value"

parent = os.getpid()
try:
    value = forking("a")
    if os.getpid() != parent:
        assert value == "child's"
        assert forking("b") == "value"
        os._exit(0)
except BaseException:
    if os.getpid() != parent:
        traceback.print_exc()
        os._exit(1)
    raise
assert value == forking("a") == "value"
assert calls == ["a"], calls
"""

_WHILE_A_LOOP_COMPUTES = """
@cached(roster=Roster())
async def slow(key):
    calls.append(key)
    if os.getpid() == parent:
        await gate.wait()
    return f"{key} of {os.getpid()}"

def child():
    async def main():
        return await asyncio.gather(slow("a"), slow("a"), slow("b"))
    me = os.getpid()
    got = []
    thread = start(lambda: got.extend(asyncio.run(main())))
    join(thread)
    assert got == [f"a of {me}", f"a of {me}", f"b of {me}"], got
    assert [len(one) for one in gc.get_objects() if type(one) is Awaiting] == [0]

parent = os.getpid()
gate = asyncio.Event()

async def main():
    tasks = [asyncio.create_task(slow("a")) for _ in range(3)]
    while not calls:
        await asyncio.sleep(0)
    pid = in_child(child)
    ended_well(pid)
    gate.set()
    assert await asyncio.gather(*tasks) == [f"a of {parent}"] * 3

asyncio.run(main())
assert calls == ["a"], calls
"""

# Forks at random moments of a busy cache: also in the middle of the machinery.
_UNDER_LOAD = """
import random
@cached(maxsize=8, roster=Roster())
def work(number):
    return sum(range(number)) + (work(number - 1) - work(number - 1) if number % 3 else 0)

sys.setswitchinterval(1e-5)
busy = True

def load(seed):
    mine = random.Random(seed)
    while busy:
        number = mine.randrange(24)
        assert work(number) == sum(range(number))

threads = [start(load, seed) for seed in range(3)]

def child():
    for number in range(24):
        assert work(number) == sum(range(number))

for _ in range(40):
    ended_well(in_child(child))
busy = False
join(*threads)
"""


@pytest.mark.parametrize(
    "script",
    [_WHILE_A_THREAD_COMPUTES, _INSIDE_A_COMPUTATION, _WHILE_A_LOOP_COMPUTES, _UNDER_LOAD],
    ids=["while a thread computes", "inside a computation", "while a loop computes", "under load"],
)
def test_child_computes_by_itself(script: str) -> None:
    """A forked child computes what its parent had under way, shares it among its own threads, and disturbs nobody."""
    # Python 3.12 and later warn of forks beside threads: that is what is tried here.
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        _HEAD + script + "\nprint('fine')",
    ]
    done = run(command, capture_output=True, text=True, timeout=80, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr
