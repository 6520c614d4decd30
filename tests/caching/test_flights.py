"""Threads that miss one key share a computation, and never wait for ever."""

from __future__ import annotations

import _thread
import contextvars
import gc
import random
import signal
import sys
import threading
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from subprocess import run
from typing import TYPE_CHECKING, Any

import pytest

from memguard.caching import flights as module
from memguard.caching.flights import Flights, own_error
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("plain_copies")]
DEADLINE_S = 20.0


class Threads:
    """Daemon threads whose end is demanded in time: a deadlock fails the test and does not hold it up."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], Any]) -> threading.Thread:
        def body() -> None:
            try:
                self.results.append(work())
            except BaseException as error:  # noqa: BLE001 - whatever comes is what the test asks about
                self.errors.append(error)

        thread = threading.Thread(target=body, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def join(self) -> None:
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "deadlock: a thread did not end"


@pytest.fixture
def threads() -> Threads:
    """Threads that must end."""
    return Threads()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After every test the graph of waits is empty."""
    yield
    assert module._waiting == {}
    assert module.INSIDE.get() is None


def waiting_for(flights: Flights, count: int) -> None:
    """Return as soon as so many threads wait for flights."""
    wait_for(lambda: sum(map(len, list(module._waiting.values()))) >= count)
    assert len(flights) >= 1


def interrupt(flights: Flights, count: int) -> None:
    """Send the main thread a signal as soon as so many threads wait."""
    waiting_for(flights, count)
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGUSR1)


def shut(threads: Threads, flights: Flights, make: Callable[[], Any], others: int = 8) -> tuple[threading.Event, Any]:
    """One thread computes behind a shut door, so many others wait for it; gives the door's key."""
    entered, door = threading.Event(), threading.Event()

    def first() -> Any:
        entered.set()
        assert door.wait(DEADLINE_S)
        return make()

    leader = threads.start(lambda: flights.compute("key", first))
    assert entered.wait(DEADLINE_S)
    for _ in range(others):
        threads.start(lambda: flights.compute("key", make))
    waiting_for(flights, others)
    return door, leader


# --- sharing ------------------------------------------------------------------------------------------------------


def test_stampede_calls_once(threads: Threads) -> None:
    """Of nine threads on one key one computes, and all get the very same object."""
    calls: list[int] = []
    joined: list[int] = []
    flights = Flights(joined=lambda: joined.append(1))

    def make() -> object:
        calls.append(_thread.get_ident())
        return object()

    door, leader = shut(threads, flights, make)
    door.set()
    threads.join()
    assert len({id(result) for result in threads.results}) == 1
    assert len(threads.results) == 9
    assert calls == [leader.ident]
    assert len(joined) == 8
    assert len(flights) == 0


def test_stampede_through_a_cache(threads: Threads) -> None:
    """Threads let loose at once on a cache call its function once per key, whoever comes late."""
    flights, cache, calls = Flights(), dict[int, int](), list[int]()
    barrier = threading.Barrier(8)

    def look(key: int) -> int:
        if key in cache:
            return cache[key]

        def make() -> int:
            if key not in cache:  # as the contract of compute asks
                calls.append(key)
                cache[key] = key * 2
            return cache[key]

        return flights.compute(key, make)

    def work() -> list[int]:
        barrier.wait(DEADLINE_S)
        return [look(key) for key in range(200)]

    for _ in range(8):
        threads.start(work)
    threads.join()
    assert threads.results == [[key * 2 for key in range(200)]] * 8
    assert calls == list(range(200))


def test_other_keys_do_not_wait(threads: Threads) -> None:
    """A computation holds up nobody who asks for another key."""
    flights = Flights()
    door, _ = shut(threads, flights, lambda: 1, others=0)
    assert flights.compute("other", lambda: 2) == 2
    door.set()
    threads.join()


def test_unhashable_key() -> None:
    """A key that cannot be hashed is a TypeError, and nothing is left under way."""
    flights = Flights()
    with pytest.raises(TypeError, match="unhashable"):
        flights.compute([], lambda: 1)  # type: ignore[arg-type]
    assert len(flights) == 0


def test_drop_lets_nobody_join(threads: Threads) -> None:
    """After a drop the next caller computes anew; those who waited already get the answer they waited for."""
    flights = Flights()
    door, _ = shut(threads, flights, lambda: "old", others=2)
    flights.drop("key")
    assert flights.compute("key", lambda: "new") == "new"
    door.set()
    threads.join()
    assert threads.results == ["old"] * 3
    assert len(flights) == 0


def test_drop_all(threads: Threads) -> None:
    """A drop without a key is for all of them."""
    flights = Flights()
    door, _ = shut(threads, flights, lambda: "old", others=1)
    flights.drop()
    assert flights.compute("key", lambda: "new") == "new"
    door.set()
    threads.join()
    assert threads.results == ["old"] * 2


# --- errors -------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """Copies well."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Stubborn(Exception):
    """Does not copy: its constructor wants another thing than ``args``."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class Changed(Exception):
    """Copies into something else."""

    def __init__(self, code: object) -> None:
        super().__init__(f"code {code}")


def test_error_goes_to_all(threads: Threads) -> None:
    """A backend that fails is called once; everybody who waited is raised an error of their own, cause and all."""
    calls: list[int] = []
    flights = Flights()

    def make() -> None:
        calls.append(1)
        error = Refused(7)
        error.add_note("the backend is away")
        raise error from KeyError("cause")

    door, _ = shut(threads, flights, make)
    door.set()
    threads.join()
    assert len(calls) == 1
    assert len({id(error) for error in threads.errors}) == 9
    for error in threads.errors:
        assert isinstance(error, Refused)
        assert (error.code, error.args, error.__notes__) == (7, (7,), ["the backend is away"])
        assert isinstance(error.__cause__, KeyError)
        assert error.__suppress_context__


def test_traceback_is_ones_own(threads: Threads) -> None:
    """Each traceback leads from the caller to the failing line, once: none grows by the others' frames."""
    flights = Flights()

    def make() -> None:
        raise Refused(1)

    door, _ = shut(threads, flights, make)
    door.set()
    threads.join()
    for error in threads.errors:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names[0] == "body"
        assert names[-1] == "make"
        assert names.count("make") == names.count("body") == 1


@pytest.mark.parametrize("error", [Stubborn(code=3), Changed(3)])
def test_errors_that_do_not_copy(threads: Threads, error: Exception) -> None:
    """An error that cannot be copied is raised as it is, and its traceback stays as long as one caller's."""
    flights = Flights()

    def make() -> None:
        raise error

    door, _ = shut(threads, flights, make)
    door.set()
    threads.join()
    assert all(raised is error for raised in threads.errors)
    assert len(threads.errors) == 9
    assert len(traceback.extract_tb(error.__traceback__)) < 10
    error.__traceback__ = None


def test_copies_are_like_the_original() -> None:
    """Errors of C and groups copy with what they say."""
    missing = FileNotFoundError(2, "No such file", "/a")
    undecodable = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")
    group = ExceptionGroup("both", [ValueError(1), missing])
    for error in (missing, undecodable, group, KeyError("a")):
        twin = own_error(error, None)
        assert twin is not error
        assert str(twin) == str(error)
    twin = own_error(missing, None)
    assert isinstance(twin, FileNotFoundError)
    assert twin.filename == "/a"


@pytest.mark.parametrize("kind", [Refused, Stubborn])
def test_errors_keep_no_frames(threads: Threads, kind: type[Exception]) -> None:
    """When the callers are done with their errors, what the computation held is gone without a collection."""

    class Body:
        pass

    flights, held = Flights(), list[weakref.ref[Body]]()

    def make() -> None:
        body = Body()
        held.append(weakref.ref(body))
        raise Refused(1) if kind is Refused else Stubborn(code=1)

    gc.collect()
    gc.disable()
    try:
        door, _ = shut(threads, flights, make, others=3)
        door.set()
        threads.join()
        assert len(threads.errors) == 4
        assert held[0]() is not None
        threads.errors.clear()
        wait_for(lambda: held[0]() is None)
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError])
def test_ends_that_are_ones_own(threads: Threads, kind: type[BaseException]) -> None:
    """A thread that is told to end, or is too deep in its stack, tells nobody else: one of the others computes."""
    calls: list[int] = []
    flights = Flights()

    def make() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise kind
        return "value"

    door, _ = shut(threads, flights, make)
    door.set()
    threads.join()
    assert [type(error) for error in threads.errors] == [kind]
    assert threads.results == ["value"] * 8
    assert len(calls) <= 9


def test_interrupt_at_any_line(threads: Threads) -> None:
    """An interrupt that hits any line of the machinery itself leaves nobody waiting, and no stale answer."""
    lines = 0

    def flown(interrupt_at: int) -> None:
        nonlocal lines
        flights, count = Flights(), 0

        def trace(frame: Any, event: str, _arg: object) -> Any:
            nonlocal count
            if not frame.f_code.co_filename.endswith("flights.py"):
                return None
            if event == "line":
                count += 1
                if count == interrupt_at:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            flights.compute("key", lambda: "old")
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
            module.INSIDE.set(None)
        lines = max(lines, count)
        other = Threads()
        other.start(lambda: flights.compute("key", lambda: "new"))
        other.join()
        assert other.results == ["new"], f"interrupted at line event {interrupt_at}"

    flown(0)
    assert lines > 20
    for interrupt_at in range(1, lines + 1):
        flown(interrupt_at)


# --- never for ever -----------------------------------------------------------------------------------------------


def test_recursion_of_the_same_key(threads: Threads) -> None:
    """A computation that asks for its own key computes it, even from an empty context."""
    flights, depth = Flights(), [0]

    def make() -> int:
        depth[0] += 1
        if depth[0] == 1:
            return flights.compute("key", make) + 1
        if depth[0] == 2:
            return contextvars.Context().run(flights.compute, "key", make) + 1
        return 1

    threads.start(lambda: flights.compute("key", make))
    threads.join()
    assert threads.results == [3]


def test_recursion_through_another_thread(threads: Threads) -> None:
    """A computation that hands its context to another thread, as asyncio.to_thread does, may ask for its key there."""
    flights, depth = Flights(), [0]

    def make() -> int:
        depth[0] += 1
        if depth[0] == 2:
            return 1
        with ThreadPoolExecutor(1) as pool:
            context = contextvars.copy_context()
            return pool.submit(context.run, flights.compute, "key", make).result(DEADLINE_S) + 1

    threads.start(lambda: flights.compute("key", make))
    threads.join()
    assert threads.results == [2]


@pytest.mark.parametrize("size", [2, 3, 7])
def test_circle_of_threads(threads: Threads, size: int) -> None:
    """Threads that each compute a key of a cache of their own and need the next one's all come to an end."""
    caches = [Flights() for _ in range(size)]
    barrier = threading.Barrier(size)
    inside = threading.local()

    def compute(number: int, need: int) -> int:
        def make() -> int:
            if not getattr(inside, "met", False):
                inside.met = True
                barrier.wait(DEADLINE_S)
            return 1 + (compute((number + 1) % size, need - 1) if need else 0)

        return caches[number].compute("key", make)

    for number in range(size):
        threads.start(partial(compute, number, 1))
    threads.join()
    assert threads.errors == []
    assert set(threads.results) <= set(range(1, size + 2))
    assert len(threads.results) == size


def test_circle_with_another_context(threads: Threads) -> None:
    """Circles are seen where a computation goes on in an empty context, as some frameworks run callbacks."""
    flights, barrier = Flights(), threading.Barrier(2)
    inside = threading.local()

    def compute(key: str, other: str) -> str:
        def make() -> str:
            if getattr(inside, "met", False):
                return key
            inside.met = True
            barrier.wait(DEADLINE_S)
            return key + contextvars.Context().run(compute, other, key)

        return flights.compute(key, make)

    threads.start(lambda: compute("a", "b"))
    threads.start(lambda: compute("b", "a"))
    threads.join()
    assert sorted(threads.results) in (["ab", "ba"], ["aba", "ba"], ["ab", "bab"], ["aba", "bab"])


def test_own_wait_of_others_is_no_circle(threads: Threads) -> None:
    """A caller inside one computation waits for another one that does not need it."""
    flights = Flights()
    door, _ = shut(threads, flights, lambda: "value", others=0)
    threads.start(lambda: flights.compute("outer", lambda: flights.compute("key", lambda: "again")))
    waiting_for(flights, 1)
    door.set()
    threads.join()
    assert threads.results == ["value", "value"]


def test_loop_thread_does_not_wait(threads: Threads) -> None:
    """A thread that runs an event loop computes by itself: what it would wait for may need that loop."""
    import asyncio

    flights = Flights()
    door, _ = shut(threads, flights, lambda: "value", others=0)

    async def ask() -> str:
        return flights.compute("key", lambda: "own")

    assert asyncio.run(ask()) == "own"
    door.set()
    threads.join()
    assert threads.results == ["value"]


def test_signal_in_the_middle(threads: Threads) -> None:
    """A signal handler asks for the key that its thread computes, and for one that it waits for."""
    flights, got = Flights(), list[object]()
    entered, door = threading.Event(), threading.Event()

    def other() -> str:
        entered.set()
        assert door.wait(DEADLINE_S)
        return "other"

    def on_signal(*_: object) -> None:
        got.append(flights.compute("key", lambda: "from the handler"))
        door.set()
        got.append(flights.compute("other", other))

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        threads.start(lambda: flights.compute("other", other))
        assert entered.wait(DEADLINE_S)

        def make() -> str:
            threads.start(partial(interrupt, flights, 1))
            return flights.compute("other", other)

        assert flights.compute("key", make) == "other"
    finally:
        signal.signal(signal.SIGUSR1, before)
    threads.join()
    assert got == ["from the handler", "other"]


def test_interrupt_of_a_waiter(threads: Threads) -> None:
    """A thread that is interrupted while it waits stops waiting, and the others get their answer."""
    flights = Flights()
    door, _ = shut(threads, flights, lambda: "value", others=2)

    def on_signal(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        threads.start(partial(interrupt, flights, 3))
        with pytest.raises(KeyboardInterrupt):
            flights.compute("key", lambda: "own")
    finally:
        signal.signal(signal.SIGUSR1, before)
    door.set()
    threads.join()
    assert threads.results.count("value") == 3


# --- keys that misbehave -----------------------------------------------------------------------------------------


class Moody:
    """A key that can be told to raise, to hash otherwise, or to call back when it is compared."""

    def __init__(self) -> None:
        self.hash = 1
        self.on_eq: Callable[[], bool] = lambda: True

    def __hash__(self) -> int:
        if self.hash < 0:
            raise RuntimeError("hash")
        return self.hash

    def __eq__(self, other: object) -> bool:
        return self.on_eq()


@pytest.mark.parametrize("hash_then", [2, -1])
def test_key_that_changes_under_way(hash_then: int) -> None:
    """A key that hashes otherwise when its computation ends leaves nothing behind for others to wait for."""
    flights, key, other = Flights(), Moody(), Moody()

    def make() -> str:
        key.hash = hash_then
        return "value"

    assert flights.compute(key, make) == "value"
    assert len(flights) == 0
    assert flights.compute(other, lambda: "other") == "other"


def test_key_that_raises_on_comparison(threads: Threads) -> None:
    """An error out of a key's __eq__ goes to who asked with it; the computation under way does not notice."""
    flights, key, other = Flights(), Moody(), Moody()

    def fail() -> bool:
        raise RuntimeError("eq")

    key.on_eq = other.on_eq = fail
    entered, door = threading.Event(), threading.Event()

    def make() -> str:
        entered.set()
        door.wait(DEADLINE_S)
        return "value"

    threads.start(lambda: flights.compute(key, make))
    assert entered.wait(DEADLINE_S)
    with pytest.raises(RuntimeError, match="eq"):
        flights.compute(other, lambda: "other")
    door.set()
    threads.join()
    assert threads.results == ["value"]
    assert len(flights) == 0


def test_key_that_calls_back(threads: Threads) -> None:
    """A comparison that asks the same cache runs while nothing is locked."""
    flights, key, other = Flights(), Moody(), Moody()
    other.on_eq = lambda: flights.compute("inner", lambda: True)

    def work() -> str:
        return flights.compute(key, lambda: flights.compute(other, lambda: "inside"))

    key.on_eq = other.on_eq
    threads.start(work)
    threads.join()
    assert threads.results == ["inside"]


# --- at large ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_any_graph_of_calls_ends(seed: int) -> None:
    """Threads that walk random graphs of calls, circles and all, over several caches always get right values."""
    threads, draw = Threads(), random.Random(seed)
    caches = [Flights() for _ in range(3)]
    size = 12
    needs = {node: [draw.randrange(size) for _ in range(draw.randrange(4))] for node in range(size)}

    def ask(node: int, need: int) -> int:
        # The value depends on the node alone, whatever ``need`` allows below it.
        def make() -> int:
            for other in needs[node] if need else ():
                assert ask(other, need - 1) == other * other
            return node * node

        return caches[node % 3].compute(node, make)

    def work(own: int) -> None:
        mine = random.Random(own)
        for _ in range(150):
            node = mine.randrange(size)
            assert ask(node, 4) == node * node

    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for number in range(6):
            threads.start(partial(work, seed * 100 + number))
        threads.join()
    finally:
        sys.setswitchinterval(switch_s)
    assert threads.errors == []
    assert all(len(flights) == 0 for flights in caches)


def test_contexts_keep_no_values() -> None:
    """A context that outlives the computation it was copied in keeps neither its value nor a growing chain."""

    class Body:
        pass

    flights, kept = Flights(), list[contextvars.Context]()

    def make() -> Body:
        kept.append(contextvars.copy_context())
        return Body()

    for _ in range(50):
        context = kept[-1] if kept else contextvars.copy_context()
        body = weakref.ref(context.run(flights.compute, "key", make))
        assert body() is None
    leg, length = kept[-1][module.INSIDE], 0
    while leg is not None:
        leg, length = leg.parent, length + 1
    assert length <= 2


_GEVENT = """
from gevent import monkey
monkey.patch_all()
import gevent, threading
from gevent.event import Event
from memguard.caching import flights as module
from memguard.caching.flights import Flights

flights, calls, door, ticks = Flights(), [], Event(), []

def make():
    calls.append(1)
    door.wait()
    return "value"

def tick():
    while not door.is_set():
        ticks.append(1)
        if len(ticks) == 5:
            assert sum(map(len, module._waiting.values())) == 9
            door.set()
        gevent.sleep(0)

jobs = [gevent.spawn(flights.compute, "key", make) for _ in range(10)] + [gevent.spawn(tick)]
gevent.joinall(jobs, timeout=20, raise_error=True)
assert [job.value for job in jobs[:10]] == ["value"] * 10, [job.value for job in jobs]
assert len(calls) == 1, calls

# A circle of greenlets on one thread, and recursion of a greenlet.
met = []
def both(key, other):
    def make():
        if len(met) >= 2:
            return key
        met.append(key)
        while len(met) < 2:
            gevent.sleep(0)
        return key + both(other, key)
    return flights.compute(key, make)
jobs = [gevent.spawn(both, "a", "b"), gevent.spawn(both, "b", "a")]
gevent.joinall(jobs, timeout=20, raise_error=True)
assert all(job.value for job in jobs), [job.value for job in jobs]

# A greenlet that is killed while it computes.
never = Event()
first = gevent.spawn(flights.compute, "key", never.wait)
gevent.sleep(0)
second = gevent.spawn(flights.compute, "key", lambda: "second")
gevent.sleep(0)
first.kill()
assert second.get(timeout=20) == "second"
assert not module._waiting and not len(flights)
print("fine")
"""


def test_greenlets_wait_for_each_other() -> None:
    """Under gevent's patches a waiting greenlet leaves the hub to the others, and is not taken for its thread."""
    pytest.importorskip("gevent")
    done = run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", _GEVENT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr
