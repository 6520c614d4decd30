"""Threads, signals and forks in the decorator's miss path."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from functools import partial
from typing import Any

import pytest

from memguard.caching.functions import cached
from tests.waiting import wait_for


def run(*works: Any) -> None:
    """Each in a thread of its own; all end."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a thread did not end"


class Gate:
    """A function under a cache whose computation waits until it is opened."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, key: object) -> list[object]:
        self.calls.append(key)
        self.entered.set()
        assert self.opened.wait(30)
        return [key]


def test_a_stampede_computes_once() -> None:
    """Eight threads that miss one key share one call; one is the miss, the others count as hits."""
    gate = Gate()
    wrapped: Any = cached(gate)
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(wrapped("a")), daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert gate.entered.wait(10)
    gate.opened.set()
    for thread in threads:
        thread.join(10)
    assert gate.calls == ["a"]
    assert len(results) == 8
    assert all(result is results[0] for result in results)
    assert wrapped.cache_info()[:2] == (7, 1)


def test_without_coalescing_each_computes() -> None:
    """coalesce=False lets every thread compute, as lru_cache does."""
    barrier = threading.Barrier(3)
    calls: list[int] = []

    @cached(coalesce=False)
    def wrapped(key: int) -> int:
        calls.append(key)
        barrier.wait(10)
        return key

    run(*[partial(wrapped, 1)] * 3)
    assert calls == [1, 1, 1]
    assert wrapped.cache_info()[:2] == (0, 3)
    assert wrapped.cache_info().currsize == 1


def test_who_asks_after_an_invalidation_does_not_get_the_old() -> None:
    """A caller that comes after an invalidation computes anew, though the old computation still runs."""
    old = Gate()
    state: list[Any] = [old]
    wrapped: Any = cached(lambda key: state[0](key))  # noqa: PLW0108 - it is asked at each call
    first: list[object] = []
    thread = threading.Thread(target=lambda: first.append(wrapped("a")), daemon=True)
    thread.start()
    assert old.entered.wait(10)
    state[0] = lambda key: ["new"]
    wrapped.cache_invalidate("a")
    assert wrapped("a") == ["new"]
    old.opened.set()
    thread.join(10)
    assert first == [["a"]]
    assert wrapped("a") == ["new"]


def test_functions_that_call_each_other_in_a_circle() -> None:
    """Two cached functions that need each other's key from two threads end, both with an answer."""
    barrier = threading.Barrier(2)
    depth = threading.local()

    def step(other: Any, key: str) -> str:
        depth.value = getattr(depth, "value", 0) + 1
        try:
            if depth.value == 1:
                barrier.wait(10)
            return "end" if depth.value > 2 else str(other(key))
        finally:
            depth.value -= 1

    @cached
    def left(key: str) -> str:
        return step(right, key)

    @cached
    def right(key: str) -> str:
        return step(left, key)

    results: list[str] = []
    run(lambda: results.append(left("k")), lambda: results.append(right("k")))
    assert results == ["end", "end"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_during_a_miss() -> None:
    """A child forked while a thread computes a key computes that key itself, and misses and clears work in it."""
    gate = Gate()
    parent = os.getpid()
    wrapped: Any = cached(ttl=60)(lambda key: gate(key) if os.getpid() == parent else ["child"])
    thread = threading.Thread(target=lambda: wrapped("a"), daemon=True)
    thread.start()
    assert gate.entered.wait(10)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            right = wrapped("a") == ["child"] and wrapped("b") == ["child"] and wrapped.cache_invalidate("b")
            wrapped.cache_clear()
            os._exit(0 if right and wrapped.cache_info().currsize == 0 else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(pid, 0)
    gate.opened.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(status) == 0
    assert wrapped("a") == ["a"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_signal_handlers_that_call_back() -> None:
    """A signal handler that calls, clears and invalidates in the middle of anything breaks nothing."""
    wrapped = cached(maxsize=5)(lambda number: [number])
    ticks: list[int] = []

    def handler(*_: object) -> None:
        tick = len(ticks)
        ticks.append(tick)
        assert wrapped(tick % 7) == [tick % 7]
        if tick % 3 == 0:
            wrapped.cache_invalidate(tick % 7)
        if tick % 10 == 0:
            wrapped.cache_clear()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        number = 0
        while len(ticks) < 200:
            number += 1
            assert wrapped(number % 9) == [number % 9]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert wrapped.cache_info().currsize <= 5
    wrapped.cache_clear()
    assert wrapped.cache_info().bytes == 0


def test_destructors_that_call_back() -> None:
    """A value whose __del__ calls the function again as it is evicted neither hangs nor breaks the limit."""

    class Value:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            if not sys.is_finalizing() and (function := ref()) is not None and self.number < 1000:
                function(self.number + 1000)

    wrapped = cached(maxsize=3)(Value)
    ref = weakref.ref(wrapped)
    for number in range(50):
        assert wrapped(number).number == number
        assert wrapped.cache_info().currsize <= 3


def test_a_miss_that_is_interrupted_leaves_the_key_free() -> None:
    """After a KeyboardInterrupt out of a computation, the next caller computes."""
    calls: list[int] = []

    @cached
    def wrapped(key: int) -> int:
        calls.append(key)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return key

    with pytest.raises(KeyboardInterrupt):
        wrapped(1)
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(wrapped(1)), daemon=True)
    thread.start()
    wait_for(lambda: results == [1])
    thread.join(10)
