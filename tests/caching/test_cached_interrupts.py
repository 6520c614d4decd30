"""Code that runs in the middle of the decorator's own: signal handlers, destructors, threads, forks. Nobody waits."""

from __future__ import annotations

import gc
import linecache
import os
import signal
import sys
import threading
from subprocess import run
from typing import Any

import pytest

from memguard.caching import spec
from memguard.caching.functions import cached

pytestmark = pytest.mark.timeout(90)

# What deadlocks is ended by its own alarm, and then the status is not 0.
_HEAD = """
import gc, os, signal, sys, threading
from memguard.caching import calls, instances, spec, wrapping
from memguard.caching.functions import cached
signal.alarm(30)

class Loud(dict):
    # A dict that calls back where it is asked for its length: in the middle of an invalidation.
    def __len__(self):
        if back:
            back.pop()()
        return super().__len__()

back = []

def under_way():
    # A function whose next invalidation runs what is put into `back`, at its most tender moment.
    function = cached(lambda key: [key])
    (course,) = [one for one in gc.get_objects() if type(one) is spec.Course and one not in before]
    course._invalidated = Loud()
    return function

before = [one for one in gc.get_objects() if type(one) is spec.Course]
"""

_SIGNAL = """
def handler(*_):
    assert f("b") == ["b"]
    f.cache_invalidate("a")
    f.cache_invalidate("b")
    f.cache_clear()

signal.signal(signal.SIGUSR1, handler)
f = under_way()
f("a")
back.append(lambda: signal.raise_signal(signal.SIGUSR1))
f.cache_invalidate("a")
assert not back and f.cache_info().currsize == 0
"""

_DESTRUCTOR = """
class Value:
    def __del__(self):
        f.cache_invalidate("a")
        f.cache_clear()
        f("a")

f = under_way()
back.append(Value)
f.cache_invalidate("a")
assert not back and f("a") == ["a"]
"""

_FORK = """
f = under_way()
f("a")
entered, door = threading.Event(), threading.Event()
back.append(lambda: (entered.set(), door.wait(20)))
thread = threading.Thread(target=f.cache_invalidate, args=("a",), daemon=True)
thread.start()
assert entered.wait(20)
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    status = 1
    try:
        assert f("b") == ["b"] and f.cache_invalidate("b")
        f.cache_clear()
        status = 0
    finally:
        os._exit(status)
status = os.waitpid(pid, 0)[1]
door.set()
thread.join(20)
assert status == 0 and not thread.is_alive()
"""

# At every line of the turn from a function into a method, another thread and the same one call it.
_FIRST_CALL = """
MACHINE = {module.__file__ for module in (calls, instances, wrapping)}

def held(frame):  # under the store's lock, for which others wait
    while frame is not None and not frame.f_code.co_filename.endswith(("caching/store.py", "caching/table.py")):
        frame = frame.f_back
    return frame is not None

def attempt(kind, at):
    def trace(frame, event, _):
        if frame.f_code.co_filename not in MACHINE or held(frame):
            return None
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == at:
                if kind == "thread":
                    other = threading.Thread(target=nested, daemon=True)
                    other.start()
                    other.join(20)
                    assert not other.is_alive(), "deadlock"
                else:
                    nested()
        return trace

    def nested():
        sys.settrace(None)
        got.append(second.price(2))
        Shop.price.cache_invalidate(second, 2)
        got.append(second.price(2))

    class Shop:
        @cached
        def price(self, item):
            return self, item

    class Stranger:
        pass

    first, second, stranger, got, lines = Shop(), Shop(), Stranger(), [], []
    if kind == "settled":  # called as a function first: it settles, and the nested calls turn it
        sys.settrace(trace)
        try:
            assert Shop.price(stranger, 1) == (stranger, 1)
        finally:
            sys.settrace(None)
        assert first.price(1) == (first, 1)
    else:
        sys.settrace(trace)
        try:
            assert first.price(1) == (first, 1)
        finally:
            sys.settrace(None)
    if len(lines) < at:
        return False
    assert got == [(second, 2)] * 2, got
    assert first.price(1) == (first, 1) and second.price(2) == (second, 2) and second.price(1) == (second, 1)
    info = Shop.price.cache_info()
    assert info.currsize >= 2, info
    assert Shop.price.cache_invalidate(first, 1) and Shop.price.cache_invalidate(second, 1)
    assert Shop.price.cache_info().currsize == info.currsize - 2
    return True

for kind in ("signal", "thread", "settled"):
    at = 1
    while attempt(kind, at):
        at += 1
    assert at > 30, at
"""

# Collections in the middle of a computation's own ContextVar.set, whose finalizers compute: Python 3.11 crashes there.
_COLLECTIONS = """
import contextvars
for number in range(40):
    contextvars.ContextVar(f"other {number}").set(number)

@cached(maxsize=10)
def look(number):
    return [number]

class Node:
    def __init__(self, number):
        self.me, self.number = self, number

    def __del__(self):
        right.append(look(self.number) == [self.number])

right = []
gc.set_threshold(7)
for number in range(3000):
    Node(number)
    look(-number - 1)
    contextvars.copy_context().run(look, -number)
gc.collect()
assert right == [True] * 3000
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(_SIGNAL, marks=pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")),
        _DESTRUCTOR,
        pytest.param(_FORK, marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")),
        _FIRST_CALL,
        _COLLECTIONS,
    ],
    ids=["signal", "destructor", "fork", "first call", "collections"],
)
def test_nobody_waits_for_what_it_interrupts(script: str) -> None:
    """Calls, invalidations and clears in the middle of one another, and in a child forked amid one, return and hold."""
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", _HEAD + script]
    done = run(command, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 0, done.stderr


def run_all(*works: Any) -> None:
    """Each in a thread of its own, for at most 5 s."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)


@pytest.mark.parametrize("options", [{}, {"ttl": 60}, {"maxsize": 1}, {"coalesce": False}])
def test_an_interrupt_at_any_line_of_a_miss(options: dict[str, Any]) -> None:
    """A KeyboardInterrupt anywhere in a miss leaves a function that all threads can call, and exact accounts."""
    lines, kept = 0, []

    def attempt(interrupt_at: int) -> None:
        nonlocal lines
        count, state = 0, ["old"]
        wrapped = cached(**options)(lambda key: [key, *state])
        wrapped("before")
        kept.append(wrapped)  # or its end would be interrupted, not the miss

        def trace(frame: Any, event: str, _: object) -> Any:
            nonlocal count
            name = frame.f_code.co_filename
            if "/memguard/" not in name and not name.startswith("<cached"):
                return None
            # No signal is ever handled on the way out of a with statement, nor at a try; both are traced.
            line = linecache.getline(name, frame.f_lineno).strip()
            if event == "line" and not line.startswith(("with ", "try:")):
                count += 1
                if count == interrupt_at:
                    raise KeyboardInterrupt
            return trace

        def call() -> None:
            sys.settrace(trace)
            try:
                wrapped("key")
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)

        gc.disable()
        # A thread of its own: what is raised where no signal is handled may leave the thread's state in disorder.
        run_all(call)
        gc.enable()
        lines = max(lines, count)
        state[0] = "new"
        results: list[object] = []
        run_all(*[lambda: results.append(wrapped("key"))] * 2)
        assert len(results) == 2, f"line {interrupt_at}: a thread waits for ever"
        assert results[0] == results[1]
        assert wrapped("key") == results[0]
        info = wrapped.cache_info()
        assert info.currsize <= (options.get("maxsize") or 2)
        wrapped.cache_clear()
        info = wrapped.cache_info()
        assert (info.currsize, info.bytes) == (0, 0)

    attempt(0)
    assert lines > 30
    for interrupt_at in range(1, lines + 1):
        attempt(interrupt_at)


def test_a_course_has_a_lock_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fork the lock is another, and stays that one."""
    course = spec.Course()
    first = course._lock()
    monkeypatch.setattr(spec, "fork_count", lambda: 99)
    assert course._lock() is course._lock() is not first
