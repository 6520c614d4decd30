"""How a child of Celery's pool is left: between two tasks, with billiard's code, and with none in its hands."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from billiard import Pipe
from billiard.pool import EX_RECYCLE
from celery.worker import state

from memguard import Rules
from memguard._core.stimuli import HandOver
from memguard.admission import Gate
from memguard.ext.celery.leaving import PoolChild, WholeWorker, pool_child
from memguard.handover import Handover
from memguard.model import Level, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memguard.model import Event

WAIT_S = 30.0


class Inqueue:
    """The pipe that tasks come through; with a lock where all children have one pipe."""

    def __init__(self, *, shared: bool) -> None:
        self._reader, self._writer = Pipe(duplex=False)
        self._rlock = threading.Lock() if shared else None

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class Child:
    """What billiard's worker is to a way: a pipe, a way of receiving, and a loop in a thread of the test."""

    max_memory_per_child: int | None = None

    def __init__(self, *, shared: bool) -> None:
        self.inq = Inqueue(shared=shared)
        self.done: list[Any] = []
        self.working, self.go_on = threading.Event(), threading.Event()
        self.code: Any = None
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def wait_for_job(self) -> Any:
        if self.inq._rlock is None:
            return self.inq._reader.recv()
        with self.inq._rlock:
            return self.inq._reader.recv()

    def start(self) -> None:
        self._thread.start()

    def _loop(self) -> None:
        receive = self.wait_for_job
        try:
            while True:
                job = receive()
                self.working.set()
                if job == "long":
                    self.go_on.wait(WAIT_S)
                self.done.append(job)
        except SystemExit as ended:
            self.code = ended.code

    def ended(self) -> Any:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self.code


@pytest.fixture(params=[False, True], ids=["own pipe", "one pipe for all"])
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    """A child whose tasks come through a pipe of its own, or through one that it shares."""
    made = Child(shared=request.param)
    yield made
    made.inq.close()


def _eventually(true: Callable[[], object]) -> None:
    waiting = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if true():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not come true")


def test_an_idle_child_ends_at_once(child: Child) -> None:
    """It ends with the code that billiard gives to children that it recycles, which the main process takes for well."""
    way = PoolChild(child)
    child.start()
    way.halt()
    way.leave()
    assert child.ended() == EX_RECYCLE


def test_a_task_under_way_finishes_and_no_other_is_taken(child: Child) -> None:
    """halt() waits for it, however long it takes; what is sent meanwhile stays in the pipe, for another child."""
    way = PoolChild(child)
    child.start()
    child.inq._writer.send("long")
    assert child.working.wait(WAIT_S)
    halted = threading.Event()

    def halt() -> None:
        way.halt()
        halted.set()

    threading.Thread(target=halt, daemon=True).start()
    child.inq._writer.send("next")
    assert not halted.wait(0.05)
    child.go_on.set()
    assert halted.wait(WAIT_S)
    way.leave()
    assert child.ended() == EX_RECYCLE
    assert child.done == ["long"]
    assert child.inq._reader.recv() == "next"


def test_a_child_whose_turn_it_was_not_goes_on(child: Child) -> None:
    """After resume() it takes what has come, and can be halted again."""
    way = PoolChild(child)
    child.start()
    way.halt()
    child.inq._writer.send("one")
    way.resume()
    _eventually(lambda: child.done == ["one"])
    way.halt()
    way.leave()
    assert child.ended() == EX_RECYCLE


def test_a_main_process_that_has_gone_is_noticed(child: Child) -> None:
    """The end of the pipe goes to billiard's own receive, which knows what it means."""
    way = PoolChild(child)
    codes: list[object] = []

    def loop() -> None:
        try:
            child.wait_for_job()
        except EOFError:
            codes.append("EOF")

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    child.inq._writer.close()
    thread.join(WAIT_S)
    assert codes == ["EOF"]
    assert not way.hindrance


def test_its_words_name_the_limit_beside_ours() -> None:
    """explain() says that Celery's own limit per child is set, and what it goes by."""
    child = Child(shared=False)
    assert "worker_max_memory_per_child" not in PoolChild(child).words
    child.max_memory_per_child = 200 * 1024
    assert "worker_max_memory_per_child ends it once its peak was above 200.0 MiB" in PoolChild(child).words
    child.inq.close()


def test_an_unknown_billiard_hinders() -> None:
    """No child of a pool here; one whose loop is not as we know it never hands over, and says so."""
    assert pool_child() is None
    process = sys.modules["billiard.process"]
    own = process._current_process
    from billiard.pool import Worker

    odd = Worker.__new__(Worker)
    process._current_process = type("Process", (), {"_target": odd})()  # type: ignore[attr-defined]
    try:
        way = pool_child()
    finally:
        process._current_process = own  # type: ignore[attr-defined]
    assert way is not None
    assert "not known here" in way.hindrance


def test_a_whole_worker_stops_warmly(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks Celery for a warm shutdown with our exit code; nobody knows who would start it again, unless said so."""
    monkeypatch.setattr(state, "should_stop", None)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    way = WholeWorker(Rules(handover="on"), "thread")
    assert not way.hindrance
    assert way.words.startswith("celery worker (thread pool): exits with code 75")
    way.leave()
    assert state.should_stop == 75
    assert "celery worker (solo pool) exits with code 75" in WholeWorker(Rules(), "solo").hindrance
    assert "gevent" in WholeWorker(Rules(handover="on"), "gevent").hindrance


class Turn:
    """A lease that is free or not."""

    def __init__(self, *, free: bool) -> None:
        self.free = free

    def take(self, now: float, /) -> bool:
        return self.free

    def release(self) -> None: ...


class Memory:
    """A group that remembers nothing."""

    def past(self, now: float, /) -> tuple[float | None, float, float]:
        return None, 0.0, 0.0

    def note(self, now: float, /, *, wait_s: float, count: float) -> None: ...


@pytest.mark.parametrize("free", [True, False], ids=["its turn", "another's turn"])
def test_a_hand_over_of_a_child(child: Child, free: bool) -> None:
    """Hooks are called before it ends, and it is not ended otherwise; if it is another's turn it serves on."""
    way = PoolChild(child)
    child.start()
    told: list[Event] = []
    saved: list[object] = []
    rules = Rules(handover_drain_s=0.5)
    gate = Gate(rules=rules, clock=lambda: 0.0)
    gate.show(Snapshot(at=0.0, reading=None, limit=None, pressure=0.0, level=Level.OK, forecast=None))
    handover = Handover(
        rules=rules,
        gate=gate,
        clock=lambda: 0.0,
        tell=told.append,
        post=lambda _: None,
        saves=lambda: (lambda: saved.append(child.code),),
        stop=lambda: None,
        lease=lambda: Turn(free=free),
        way=way,
        memory=Memory(),
    )
    handover._run(HandOver(reason="asked", urgent=True, gain_bytes=0))  # returns, for nothing is ended by force
    if free:
        assert child.ended() == EX_RECYCLE
        assert saved == [None]
        assert [event.name for event in told] == ["handover.begun", "handover.drained"]
    else:
        assert [event.name for event in told] == ["handover.waits"]
        child.inq._writer.send("more")
        _eventually(lambda: child.done == ["more"])
        way.halt()
        way.leave()
        assert child.ended() == EX_RECYCLE
