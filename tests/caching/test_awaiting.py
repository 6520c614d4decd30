"""Tasks that miss one key share an execution; loops, cancellations and circles leave nobody waiting."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import sys
import threading
import traceback
import weakref
from subprocess import run
from typing import TYPE_CHECKING, Any

import pytest

from memguard.caching import flights as graph
from memguard.caching.awaiting import Awaiting
from memguard.caching.calls import Routes
from memguard.caching.functions import cached
from memguard.caching.spec import Spec, counted
from memguard.caching.store import Store
from memguard.roster import Roster
from memguard.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

pytestmark = pytest.mark.timeout(60)
DEADLINE_S = 20.0
MINE: contextvars.ContextVar[str] = contextvars.ContextVar("mine", default="nobody's")


class Cached:
    """One cached coroutine function with its parts laid open, and a clock that the test moves."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.clock = FakeClock()
        self.store = Store(name="answers", size_of=lambda key, value: 100, clock=self.clock)
        self.spec = Spec(name="answers", function=function, store=self.store, **options)
        self.awaiting = Awaiting(self.spec)
        self.routes = Routes(self.spec, awaited=True)
        self.call = self.routes.wrapper(self.routes.diverted(self.awaiting.miss), self.awaiting.due)

    def __call__(self, *args: Any) -> Coroutine[Any, Any, Any]:
        coroutine: Coroutine[Any, Any, Any] = self.call(*args)
        return coroutine


class Backend:
    """An ``async def`` whose calls wait for a door, and say how they ended."""

    def __init__(self, *results: Any) -> None:
        self.door = asyncio.Event()
        self.results = list(results)
        self.calls: list[Any] = []
        self.ends: list[str] = []

    async def __call__(self, key: Any = None) -> Any:
        number = len(self.calls)
        self.calls.append(key)
        try:
            await self.door.wait()
        except BaseException as error:
            await asyncio.sleep(0)
            self.ends.append(type(error).__name__)
            raise
        self.ends.append("done")
        result = self.results[min(number, len(self.results) - 1)] if self.results else object()
        if isinstance(result, BaseException):
            raise result
        return result

    async def entered(self, count: int = 1) -> None:
        await until(lambda: len(self.calls) >= count)


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks run until it holds."""
    while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)


def play(main: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop of its own, in time."""

    async def timed() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await main

    asyncio.run(timed())


async def some(cached_one: Cached, backend: Backend, count: int = 5) -> list[asyncio.Task[Any]]:
    """So many tasks that all wait for the answer to one key."""
    tasks = [asyncio.create_task(cached_one("key")) for _ in range(count)]
    await backend.entered()
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


@pytest.fixture(autouse=True)
def nothing_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After every test the graph of waits is empty, and asyncio had nothing to complain about us."""
    yield
    gc.collect()
    assert graph._waiting == {}
    assert graph.INSIDE.get() is None
    assert [record for record in caplog.records if "answers" in record.getMessage()] == []


# --- sharing ------------------------------------------------------------------------------------------------------


def test_stampede_calls_once() -> None:
    """Tasks that miss a key at once share one execution and its very result; later ones find it."""

    async def main() -> None:
        backend = Backend()
        answers = Cached(backend)
        tasks = await some(answers, backend)
        backend.door.set()
        results = await asyncio.gather(*tasks)
        assert len({id(result) for result in [*results, await answers("key")]}) == 1
        assert backend.calls == ["key"]
        assert (counted(answers.spec.course.misses), counted(answers.spec.course.shared)) == (1, 4)
        assert answers.store.hits == 1
        assert len(answers.awaiting) == 0

    play(main())


def test_without_coalescing() -> None:
    """With coalesce=False each task that misses calls the function."""

    async def main() -> None:
        backend = Backend()
        tasks = await some(Cached(backend, coalesce=False), backend)
        backend.door.set()
        await asyncio.gather(*tasks)
        assert len(backend.calls) == 5

    play(main())


def test_through_the_decorator() -> None:
    """``cached`` on an ``async def`` and on a method of one: shared, counted, still a coroutine function."""
    import inspect

    calls: list[object] = []

    @cached(roster=Roster())
    async def square(number: int) -> int:
        calls.append(number)
        await asyncio.sleep(0)
        return number * number

    class Model:
        @cached(roster=Roster())
        async def embed(self, text: str) -> list[str]:
            calls.append(text)
            await asyncio.sleep(0)
            return [text]

    async def main() -> None:
        model = Model()
        assert await asyncio.gather(*(square(3) for _ in range(4))) == [9] * 4
        one, other = await asyncio.gather(model.embed("a"), model.embed("a"))
        assert one is other
        assert await Model().embed("a") is not one

    play(main())
    assert inspect.iscoroutinefunction(square)
    assert calls == [3, "a", "a"]
    assert square.cache_info()[:2] == (3, 1)


def test_context_is_the_first_callers() -> None:
    """The execution sees the context variables of the caller that began it, and changes nobody's."""

    async def main() -> None:
        async def read(key: str) -> str:
            seen = MINE.get()
            MINE.set("the execution's")
            await asyncio.sleep(0)
            return seen

        answers = Cached(read)

        async def ask(name: str) -> tuple[str, str]:
            MINE.set(name)
            return await answers("key"), MINE.get()

        got = await asyncio.gather(ask("first's"), ask("second's"))
        assert list(got) == [("first's", "first's"), ("first's", "second's")]

    play(main())


@pytest.mark.parametrize("how", ["invalidate", "clear"])
def test_dropped_under_way(how: str) -> None:
    """What was under way at an invalidation answers those who waited, and is neither kept nor joined any more."""

    async def main() -> None:
        backend = Backend("old", "new")

        async def find(key: str) -> Any:
            return await backend(key)

        answers = Cached(find)
        before = await some(answers, backend, 2)
        answers.spec.invalidate("key") if how == "invalidate" else answers.spec.clear()
        after = asyncio.create_task(answers("key"))
        await backend.entered(2)
        gc.collect()
        backend.door.set()
        assert await asyncio.gather(*before, after) == ["old", "old", "new"]
        assert await answers("key") == "new"
        assert len(backend.calls) == 2
        assert len(answers.awaiting) == 0

    play(main())


# --- errors -------------------------------------------------------------------------------------------------------


def test_errors_are_shared_and_not_kept() -> None:
    """An error is raised to each as its own, its traceback leads to the failing line once, and it is not cached."""

    async def main() -> None:
        backend = Backend(KeyError("gone"), "there")
        answers = Cached(backend)
        tasks = await some(answers, backend)
        backend.door.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(error) for error in errors] == ["'gone'"] * 5
        assert len({id(error) for error in errors}) == 5
        for error in errors:
            names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            assert names.count("_compute") == names.count("__call__") == 1
        assert len(backend.calls) == 1
        assert await answers("key") == "there"

    play(main())


def test_errors_keep_no_frames() -> None:
    """When the callers are done with an error, what the execution held is gone without a collection."""

    class Body:
        pass

    held: list[weakref.ref[Body]] = []

    async def fail(key: str) -> None:
        body = Body()
        held.append(weakref.ref(body))
        await asyncio.sleep(0)
        raise KeyError(key)

    async def main() -> None:
        answers = Cached(fail)
        errors = await asyncio.gather(*(answers("key") for _ in range(3)), return_exceptions=True)
        assert held[0]() is not None
        assert len(errors) == 3
        del errors
        await asyncio.sleep(0)
        assert held[0]() is None
        assert len(held) == 1

    gc.collect()
    gc.disable()
    try:
        play(main())
    finally:
        gc.enable()


def test_failures_that_are_kept() -> None:
    """Where ``failures`` says so an error is kept for its time."""

    async def main() -> None:
        backend = Backend(KeyError("gone"), "there")
        answers = Cached(backend, failures=((KeyError, 10.0),))
        backend.door.set()
        for _ in range(2):
            with pytest.raises(KeyError, match="gone"):
                await answers("key")
        assert len(backend.calls) == 1
        answers.clock.advance(11)
        assert await answers("key") == "there"

    play(main())


# --- cancelling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [[0], [2], [0, 1, 2, 3], [1, 2, 3, 4]])
def test_cancelled_waiters_cancel_nobody_else(who: list[int]) -> None:
    """Whoever is cancelled, the first caller too, the execution goes on for those who stay."""

    async def main() -> None:
        backend = Backend("value")
        tasks = await some(Cached(backend), backend)
        for number in who:
            tasks[number].cancel()
        results = await asyncio.gather(*(tasks[number] for number in who), return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * len(who)
        assert backend.ends == []
        backend.door.set()
        stay = [task for number, task in enumerate(tasks) if number not in who]
        assert await asyncio.gather(*stay) == ["value"] * len(stay)
        assert len(backend.calls) == 1

    play(main())


def test_all_cancelled_cancels_the_execution() -> None:
    """With its last waiter the execution is cancelled; that one goes on after its clean-up, and the next computes."""

    async def main() -> None:
        backend = Backend("value")
        answers = Cached(backend)
        tasks = await some(answers, backend, 3)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert backend.ends == ["CancelledError"]
        assert len(answers.awaiting) == len(answers.store) == 0
        backend.door.set()
        assert await answers("key") == "value"

    play(main())


def test_timeout_waits_for_the_clean_up() -> None:
    """A timeout over the only caller ends the execution before it goes on, as without a cache."""

    async def main() -> None:
        backend = Backend()
        answers = Cached(backend)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await answers("key")
        assert backend.ends == ["CancelledError"]

    play(main())


def test_nobody_joins_what_is_being_cancelled() -> None:
    """Who comes during the clean-up of a cancelled execution begins a new one."""

    async def main() -> None:
        ended, door = asyncio.Event(), asyncio.Event()
        calls: list[str] = []

        async def slow_end(key: str) -> str:
            calls.append(key)
            if len(calls) > 1:
                return "new"
            try:
                await door.wait()
            finally:
                ended.set()
                await door.wait()
            return "old"

        answers = Cached(slow_end)
        first = asyncio.create_task(answers("key"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        await ended.wait()
        assert not first.done()
        assert await answers("key") == "new"
        door.set()
        await asyncio.wait([first])
        assert first.cancelled()

    play(main())


def test_error_of_the_clean_up_is_told() -> None:
    """An error of the clean-up reaches the last waiter instead of the cancellation, as without a cache."""

    async def main() -> None:
        async def fail_late(key: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise KeyError("clean-up")

        task = asyncio.create_task(Cached(fail_late)("key"))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(KeyError, match="clean-up"):
            await task

    play(main())


def test_execution_that_is_cancelled_by_others() -> None:
    """An execution that ends cancelled by itself cancels its first caller; the others share a new one."""

    async def main() -> None:
        calls: list[str] = []

        async def cancel_self(key: str) -> str:
            calls.append(key)
            if len(calls) == 1:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            await asyncio.sleep(0)
            return "value"

        answers = Cached(cancel_self)
        results = await asyncio.gather(*(answers("key") for _ in range(4)), return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == ["value"] * 3
        assert len(calls) == 2

    play(main())


def test_clean_up_is_not_cancelled_twice() -> None:
    """A caller that is cancelled after its execution was, as at a loop's end, does not disturb the clean-up."""

    async def main() -> None:
        backend = Backend()
        answers = Cached(backend)
        caller = asyncio.create_task(answers("key"))
        await backend.entered()
        (execution,) = (task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == "answers")
        execution.cancel()
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller, execution])
        assert caller.cancelled()
        assert backend.ends == ["CancelledError"]

    play(main())


def test_exit_within_an_execution(caplog: pytest.LogCaptureFixture) -> None:
    """SystemExit goes through the loop as it does without a cache, and nobody complains of an error unseen."""

    async def leave(key: str) -> None:
        await asyncio.sleep(0)
        raise SystemExit(3)

    answers = Cached(leave)
    with pytest.raises(SystemExit):
        asyncio.run(answers("key"))
    gc.collect()
    assert caplog.records == []
    assert len(answers.awaiting) == 0


def test_caller_that_is_closed() -> None:
    """A caller's coroutine that is closed by hand, and is the only one, ends the execution."""

    async def main() -> None:
        backend = Backend()
        answers = Cached(backend)
        coroutine = answers("key")
        coroutine.send(None)
        await backend.entered()
        coroutine.close()
        await until(lambda: backend.ends)
        assert backend.ends == ["CancelledError"]

    play(main())


# --- never for ever -----------------------------------------------------------------------------------------------


def test_recursion_of_the_same_key() -> None:
    """An execution that asks for its own key computes it, in its task, in its children and in other threads."""

    async def main() -> None:
        depth = 0

        async def again(key: str) -> int:
            nonlocal depth
            depth += 1
            if depth == 1:
                return 1 + int(await answers(key))
            if depth == 2:
                return 1 + int((await asyncio.gather(answers(key)))[0])
            if depth == 3:
                loop = asyncio.get_running_loop()
                submit = asyncio.run_coroutine_threadsafe
                return 1 + int(await asyncio.to_thread(lambda: submit(answers(key), loop).result(DEADLINE_S)))
            return 1

        answers = Cached(again)
        assert await answers("key") == 4

    play(main())


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("children", [False, True])
def test_circle_of_tasks(size: int, children: bool) -> None:
    """Tasks that each compute one key and need the next one's come to an end, also when children do the waiting."""

    async def main() -> None:
        entered: set[int] = set()

        async def need(number: int) -> int:
            if number in entered:
                return 1
            entered.add(number)
            await until(lambda: len(entered) == size)
            following = caches[(number + 1) % size]((number + 1) % size)
            return 1 + int(await (asyncio.create_task(following) if children else following))

        caches = [Cached(need) for _ in range(size)]
        results = await asyncio.gather(*(caches[number](number) for number in range(size)))
        assert set(results) <= set(range(1, size + 2))

    play(main())


def test_circle_of_a_thread_and_a_task() -> None:
    """A thread that needs the loop's answer and a task that needs the thread's: one computes what the other has."""

    async def main() -> None:
        flights, loop = graph.Flights(), asyncio.get_running_loop()
        in_thread, in_task = threading.Event(), asyncio.Event()
        depth = 0

        def of_thread() -> str:
            if in_thread.is_set():
                return "thread's"
            in_thread.set()
            return "from " + str(asyncio.run_coroutine_threadsafe(answers("key"), loop).result(DEADLINE_S))

        async def of_task(key: str) -> str:
            nonlocal depth
            depth += 1
            if depth > 1:
                return "task's"
            in_task.set()
            await asyncio.to_thread(in_thread.wait, DEADLINE_S)
            return "from " + await asyncio.to_thread(flights.compute, "key", of_thread)

        answers = Cached(of_task)
        task = asyncio.create_task(answers("key"))
        await in_task.wait()
        thread = asyncio.create_task(asyncio.to_thread(flights.compute, "key", of_thread))
        for answer in await asyncio.gather(task, thread):
            assert answer.removeprefix("from ").removeprefix("from ") in {"thread's", "task's"}

    play(main())


@pytest.mark.parametrize("seed", range(4))
def test_any_graph_of_calls_ends(seed: int) -> None:
    """Tasks that walk random graphs of calls, circles, children and cancellations always get right values."""
    draw, size = random.Random(seed), 12
    needs = {node: [draw.randrange(size) for _ in range(draw.randrange(4))] for node in range(size)}

    async def main() -> None:
        async def square(node: int, need: int) -> int:
            await asyncio.sleep(0)
            for other in needs[node] if need else ():
                child = caches[other % 3](other, need - 1)
                assert await (asyncio.create_task(child) if draw.random() < 0.5 else child) == other * other
            if draw.random() < 0.5:  # or soon everything is a hit
                caches[node % 3].spec.clear()
            return node * node

        caches = [Cached(square, key=lambda node, need: node) for _ in range(3)]

        async def walk() -> None:
            for _ in range(40):
                node = draw.randrange(size)
                task = asyncio.create_task(caches[node % 3](node, 4))
                if draw.random() < 0.3:
                    for _ in range(draw.randrange(6)):
                        await asyncio.sleep(0)
                    task.cancel()
                result = (await asyncio.gather(task, return_exceptions=True))[0]
                assert result == node * node or isinstance(result, asyncio.CancelledError), repr(result)

        await asyncio.gather(*(walk() for _ in range(6)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert [len(one.awaiting) for one in caches] == [0, 0, 0]

    play(main())


# --- loops --------------------------------------------------------------------------------------------------------


def test_loops_in_several_threads() -> None:
    """A loop in another thread shares the entries and computes by itself; it waits for no foreign future."""
    entered, door = threading.Event(), threading.Event()
    calls: list[str] = []

    async def find(key: str) -> str:
        calls.append(threading.current_thread().name)
        if threading.current_thread().name == "other":
            entered.set()
            await asyncio.to_thread(door.wait, DEADLINE_S)
        return threading.current_thread().name

    answers = Cached(find)
    results: list[str] = []
    other = threading.Thread(target=lambda: results.append(asyncio.run(answers("key"))), name="other", daemon=True)
    other.start()
    assert entered.wait(DEADLINE_S)
    here = asyncio.run(answers("key"))
    assert len(answers.awaiting) == 1
    door.set()
    other.join(DEADLINE_S)
    assert not other.is_alive()
    assert results == ["other"]
    assert here == threading.current_thread().name
    assert len(calls) == 2
    assert len(answers.awaiting) == 0


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_loop_that_closes_with_waiters(steps: int, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that closes takes its flights along: a new loop computes anew, and nothing of ours complains."""

    async def never(key: str) -> str:
        if loop.is_running() and asyncio.get_running_loop() is loop:
            await asyncio.Event().wait()
        return "value"

    answers = Cached(never)
    loop = asyncio.new_event_loop()

    async def leave() -> None:
        tasks = [asyncio.ensure_future(answers("key")) for _ in range(3)]
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined] # they are the user's
        for _ in range(steps):
            await asyncio.sleep(0)

    loop.run_until_complete(leave())
    assert len(answers.awaiting) == 1
    loop.close()
    assert asyncio.run(answers("key")) == "value"
    assert len(answers.awaiting) == 0
    closed = weakref.ref(loop)
    loop = asyncio.new_event_loop()
    loop.close()
    gc.collect()
    assert closed() is None
    assert caplog.records == []


def test_loop_that_pauses() -> None:
    """A loop that stops in the middle and runs on later finds its flight where it was."""
    loop = asyncio.new_event_loop()
    backend = Backend("value")
    answers = Cached(backend)
    task = loop.create_task(answers("key"))
    loop.run_until_complete(backend.entered())
    loop.call_soon(backend.door.set)
    assert loop.run_until_complete(answers("key")) == "value"
    assert loop.run_until_complete(task) == "value"
    loop.close()
    assert len(backend.calls) == 1


def test_everything_cancelled_at_the_end() -> None:
    """``asyncio.run`` that leaves while tasks wait cancels them and the execution, once, and its clean-up runs."""
    backend = Backend()
    answers = Cached(backend)

    async def leave() -> None:
        await some(answers, backend, 3)

    asyncio.run(leave())
    assert backend.ends == ["CancelledError"]
    assert len(answers.awaiting) == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks() -> None:
    """Under an eager task factory an execution that need not wait has ended before its caller would wait."""

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        depth = 0

        async def at_once(key: str) -> str:
            nonlocal depth
            depth += 1
            return str(await answers("key")) if depth == 1 else "value"

        answers = Cached(at_once)
        assert await answers("key") == "value"
        backend = Backend("late")
        late = Cached(backend)
        tasks = await some(late, backend)
        backend.door.set()
        assert await asyncio.gather(*tasks) == ["late"] * 5
        failing = Cached(Backend(KeyError("gone")))
        failing.spec.function.door.set()  # type: ignore[attr-defined]
        with pytest.raises(KeyError, match="gone"):
            await failing("key")
        assert (len(backend.calls), len(answers.awaiting), len(late.awaiting)) == (1, 0, 0)

    play(main())


def test_uvloop() -> None:
    """Another implementation of the loop is as good."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        backend = Backend("value")
        tasks = await some(Cached(backend), backend)
        tasks[0].cancel()
        backend.door.set()
        assert await asyncio.gather(*tasks[1:]) == ["value"] * 4
        assert len(backend.calls) == 1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


_WITHOUT_ASYNCIO = """
import sys
from memguard.caching.functions import cached
from memguard.roster import Roster
calls = []

@cached(roster=Roster(), ttl=60, stale_s=60)
async def square(number):
    calls.append(number)
    return number * number

assert "asyncio" not in sys.modules, "imported at decoration"
for _ in range(2):
    try:
        square(3).send(None)
    except StopIteration as end:
        assert end.value == 9
assert calls == [3]
assert "asyncio" not in sys.modules, "imported at a call"
print("fine")
"""

_TRIO = """
import trio
from memguard.caching.functions import cached
from memguard.roster import Roster
calls = []

@cached(roster=Roster())
async def square(number):
    calls.append(number)
    await trio.sleep(0)
    return number * number

async def main():
    got = []
    async def ask():
        got.append(await square(3))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        assert await square(3) == 9
    assert got == [9] * 3
    assert 1 <= len(calls) <= 3

trio.run(main)
print("fine")
"""


@pytest.mark.parametrize("script", [_WITHOUT_ASYNCIO, _TRIO], ids=["no loop", "trio"])
def test_without_asyncio(script: str) -> None:
    """Without an asyncio loop coroutines are cached, computed by each who misses; asyncio is not imported for it."""
    if script is _TRIO:
        pytest.importorskip("trio")
    done = run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr


# --- time ---------------------------------------------------------------------------------------------------------


def test_time_to_live() -> None:
    """An entry answers until its time is over, and then is computed anew."""

    async def main() -> None:
        backend = Backend("one", "two")
        backend.door.set()
        answers = Cached(backend, ttl_s=10.0)
        for advance_s, value in ((0, "one"), (9, "one"), (2, "two"), (9, "two")):
            answers.clock.advance(advance_s)
            assert await answers("key") == value

    play(main())


def test_stale_while_one_task_refreshes() -> None:
    """Past its time an entry is answered at once while one task in the background computes it anew."""

    async def main() -> None:
        backend = Backend("one", "two", "three")
        backend.door.set()
        answers = Cached(backend, ttl_s=10.0, stale_s=5.0)
        assert await answers("key") == "one"
        answers.clock.advance(11)
        backend.door.clear()
        for _ in range(3):
            assert await answers("key") == "one"
        await backend.entered(2)
        gc.collect()  # asyncio holds its tasks weakly
        assert await answers("key") == "one"
        assert len(backend.calls) == 2
        backend.door.set()
        await until(lambda: not len(answers.awaiting))
        assert await answers("key") == "two"
        answers.clock.advance(9)
        assert await answers("key") == "two"
        assert len(backend.calls) == 2
        answers.clock.advance(7)
        assert await answers("key") == "three"

    play(main())


def test_fresh_answers_are_fast_hits() -> None:
    """While nothing is stale the generated code answers by itself: it is told when the first entry turns stale."""

    async def main() -> None:
        backend = Backend("one")
        backend.door.set()
        answers = Cached(backend, ttl_s=10.0, stale_s=5.0)
        await answers("key")
        assert answers.awaiting.due[0] == answers.clock() + 10
        answers.clock.advance(16)
        await answers("key")
        assert answers.awaiting.due[0] == answers.clock() + 10

    play(main())


def test_refresh_that_fails_is_told() -> None:
    """A failed refresh is told to the loop, put off for a while, and leaves the stale value until that is over."""

    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        backend = Backend("one", KeyError("away"), KeyError("still away"), "two", KeyError("gone"))
        backend.door.set()
        answers = Cached(backend, ttl_s=10.0, stale_s=16.0)
        assert await answers("key") == "one"
        answers.clock.advance(11)

        async def ask() -> Any:
            for _ in range(6):
                value = await answers("key")
                await asyncio.sleep(0)
            return value

        assert await ask() == "one"
        assert len(backend.calls) == 2
        assert [str(context["exception"]) for context in told] == ["'away'"]
        assert "answers" in told[0]["message"]
        answers.clock.advance(1.5)
        assert await ask() == "one"
        assert len(backend.calls) == 3
        answers.clock.advance(1.5)
        assert await ask() == "two"
        assert answers.awaiting._failed == {}
        answers.clock.advance(30)
        with pytest.raises(KeyError, match="gone"):
            await answers("key")

    play(main())


def test_refresh_is_not_cancelled_by_who_joins() -> None:
    """Who misses joins a refresh that is under way, and may leave it again without ending it."""

    async def main() -> None:
        backend = Backend("one", "two")
        backend.door.set()
        answers = Cached(backend, ttl_s=10.0, stale_s=5.0)
        await answers("key")
        answers.clock.advance(11)
        backend.door.clear()
        assert await answers("key") == "one"
        await backend.entered(2)
        answers.clock.advance(5)
        task = asyncio.create_task(answers("key"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        backend.door.set()
        assert await answers("key") == "two"
        assert len(backend.calls) == 2

    play(main())


def test_loop_that_closes_on_a_refresh(caplog: pytest.LogCaptureFixture) -> None:
    """A refresh goes down with its loop without a word, and the next loop refreshes."""
    calls: list[str] = []

    async def find(key: str) -> str:
        calls.append(key)
        if len(calls) == 2:
            await asyncio.Event().wait()
        return f"value {len(calls)}"

    answers = Cached(find, ttl_s=10.0, stale_s=5.0)
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(answers("key")) == "value 1"
    answers.clock.advance(11)
    assert loop.run_until_complete(answers("key")) == "value 1"
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def main() -> None:
        assert await answers("key") == "value 1"
        await until(lambda: not len(answers.awaiting))
        assert await answers("key") == "value 3"

    play(main())
    gc.collect()
    assert caplog.records == []
