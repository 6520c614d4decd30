"""Celery's tasks behind a gate, without a worker: traced as a worker traces them, with a broker in memory."""

from __future__ import annotations

import datetime as dt
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, Task, signals
from celery.app.trace import build_tracer
from celery.canvas import Signature
from celery.exceptions import Reject, Retry

from memguard import AdmissionRefused, AlreadyGuarding, Guard, Level, Roster, RulesError
from memguard.ext.celery import protect
from memguard.testing import FakeClock, FakeMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FREE, SHORT, FULL = "100MiB", "870MiB", "990MiB"


class _Worker:
    """What Celery's signals are sent by."""

    pool_cls: type | None = None

    def __init__(self, app: Any) -> None:
        self.app = app


def _task(app: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    # Shared, the tasks of all tests would meet in each application.
    decorate: Callable[[Callable[..., Any]], Any] = app.task(shared=False, **options)
    return decorate


class Scene:
    """An application, its guard, and a worker's way of running a task."""

    def __init__(self, used: str = FREE, *, protected: bool = True, **options: Any) -> None:
        clock = FakeClock()
        self.memory = FakeMemory(clock, base_bytes=used)
        self.guard = Guard(limit="1GiB", probe=self.memory, clock=clock, roster=Roster())
        self.guard.tick()
        self.app = Celery("scene", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.app.conf.task_publish_retry = False
        if protected:
            protect(self.app, self.guard, **{"wait_s": 0.0, **options})

    def task(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        """The application's decorator."""
        return _task(self.app, **options)

    def run(self, task: Any, *args: Any, **request: Any) -> Any:
        """Run a task as a worker's child does; the tracer's (return value, info, …)."""
        where = {"exchange": "", "routing_key": "celery", "priority": None, "redelivered": False}
        known = {"id": "id-1", "delivery_info": where, "retries": 0, "is_eager": False, **request}
        self.app.finalize()
        signals.worker_init.send(sender=_Worker(self.app))
        tracer = build_tracer(task.name, task, app=self.app)
        return tracer("id-1", args, {}, known)

    def sent(self) -> list[Any]:
        """The messages in the queue."""
        found = []
        with self.app.connection_for_read() as connection, connection.SimpleQueue("celery") as queue:
            while queue.qsize():
                message = queue.get_nowait()
                message.ack()
                found.append(message)
        return found

    def ended(self) -> list[tuple[str, str]]:
        """Every operation that is over, the first to end first."""
        return [(row.type, row.status) for row in reversed(self.guard.operations.ended())]


@pytest.fixture(autouse=True)
def queues() -> Iterator[None]:
    """A broker in memory is the whole process's."""
    Scene(protected=False).sent()
    yield
    Scene(protected=False).sent()


def test_a_task_is_an_operation_under_its_name() -> None:
    """It runs with a ticket, which is closed at its end, and is an operation with the task's id."""
    scene = Scene()
    seen: list[str] = []

    @scene.task(name="add")
    def add(a: int, b: int) -> int:
        seen.extend(ticket.label for ticket in scene.guard.gate.open)
        return a + b

    assert scene.run(add, 1, 2)[:2] == (3, None)
    assert seen == ["add"]
    assert not scene.guard.gate.open
    (row,) = scene.guard.operations.ended()
    assert (row.type, row.status, row.id) == ("add", "done", "id-1")


def test_how_tasks_end() -> None:
    """A failure is failed, a retry of the task's own is abandoned; the tickets are closed either way."""
    scene = Scene()

    @scene.task(name="fails")
    def fails() -> None:
        raise ValueError("no")

    @scene.task(name="again", bind=True)
    def again(self: Any) -> None:
        raise self.retry(countdown=9)

    scene.run(fails)
    scene.run(again)
    assert scene.ended() == [("fails", "failed"), ("again", "abandoned")]
    assert not scene.guard.gate.open


def test_a_task_that_does_not_fit_goes_back() -> None:
    """Its body does not run; its message is queued again for later: its id, retries, chain and headers as they were."""
    scene = Scene(FULL)
    ran = []

    @scene.task(name="work", max_retries=0)
    def work(_number: int) -> None:
        ran.append(1)

    chain = [Signature("work", (2,), app=scene.app)]
    retval, info, *_ = scene.run(work, 7, retries=3, headers={"tenant": "a"}, chain=chain, root_id="id-0")
    assert not ran
    assert info.state == "RETRY"
    assert isinstance(info.retval.exc, AdmissionRefused)
    assert "refused: 990.0 MiB of 1.00 GiB used" in str(info.retval.exc)
    assert isinstance(pickle.loads(pickle.dumps(retval)).exception, Retry)  # noqa: S301 - as the main process gets it
    (message,) = scene.sent()
    headers = message.headers
    assert (headers["id"], headers["task"], headers["retries"], headers["tenant"]) == ("id-1", "work", 3, "a")
    args, _, embedded = message.payload
    assert args == [7]
    assert [link["args"] for link in embedded["chain"]] == [[2]]
    hint_s = info.retval.exc.retry_after_s
    eta = dt.datetime.fromisoformat(headers["eta"]) - dt.datetime.now(dt.UTC)
    assert max(1.0, hint_s) - 5.0 < eta.total_seconds() <= 2.0 * max(1.0, hint_s)
    assert not scene.guard.gate.open
    assert scene.ended() == []
    assert scene.guard.gate.refusals == 1


def test_waits_are_spread() -> None:
    """Refusals at once do not all come back at the same moment."""
    scene = Scene(FULL)

    @scene.task(name="work")
    def work() -> None: ...

    waits = [scene.run(work)[1].retval.when for _ in range(20)]
    assert len(set(waits)) > 3
    assert max(waits) <= 2.0 * min(waits) + 0.1


def test_a_refusal_may_count() -> None:
    """counted=True is Task.retry itself: the retries grow, and after the last the task fails with the refusal."""
    scene = Scene(FULL, counted=True)

    @scene.task(name="work", max_retries=1)
    def work() -> None: ...

    assert scene.run(work)[1].state == "RETRY"
    (message,) = scene.sent()
    assert message.headers["retries"] == 1
    info = scene.run(work, retries=1)[1]
    assert (info.state, type(info.retval)) == ("FAILURE", AdmissionRefused)
    assert scene.sent() == []


def _broken_broker(monkeypatch: pytest.MonkeyPatch, meanwhile: Any = lambda: None) -> None:
    def fails(*_: Any, **__: Any) -> None:
        meanwhile()
        raise ConnectionError("no broker")

    monkeypatch.setattr(Signature, "apply_async", fails)


def test_without_a_broker_an_unacknowledged_task_goes_back_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """With acks_late the message is rejected and queued again by the broker."""
    scene = Scene(FULL)

    @scene.task(name="work", acks_late=True)
    def work() -> None: ...

    _broken_broker(monkeypatch)
    info = scene.run(work)[1]
    assert info.state == "REJECTED"
    assert isinstance(info.retval, Reject)
    assert info.retval.requeue


def test_without_a_broker_an_acknowledged_task_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its message is gone from the broker, so it stays in the worker until it fits, and that is told."""
    scene = Scene(FULL)

    @scene.task(name="work")
    def work() -> str:
        return "done"

    def eases() -> None:
        scene.memory.base_bytes = 100 << 20
        scene.memory.clock.advance(60.0)
        for _ in range(3):
            scene.guard.tick()
            scene.memory.clock.advance(60.0)

    _broken_broker(monkeypatch, eases)
    assert scene.run(work)[0] == "done"
    assert "cannot be sent back (ConnectionError: no broker): it waits here" in caplog.text
    assert scene.ended() == [("work", "done")]


def test_what_can_never_fit_fails() -> None:
    """A stated cost beyond the limit fails the task, with words, and does not travel for ever."""
    scene = Scene(cost=lambda task: "2GiB" if task.request.args == (1,) else None)

    @scene.task(name="work")
    def work(_number: int) -> str:
        return "done"

    info = scene.run(work, 1)[1]
    assert (info.state, type(info.retval)) == ("FAILURE", AdmissionRefused)
    assert "it can never fit under the limit of 1.00 GiB; split the work" in str(info.retval)
    assert scene.sent() == []
    assert scene.run(work, 2)[0] == "done"


def test_priorities_and_exemptions() -> None:
    """Sheddable tasks go back from WARNING on, normal ones run there; exempt ones run always, and chord's own."""
    scene = Scene(SHORT, priority=lambda task: getattr(task, "rank", None), exempt=("vital",))

    @scene.task(name="idle", rank="sheddable")
    def idle() -> None: ...

    @scene.task(name="usual")
    def usual() -> str:
        return "done"

    @scene.task(name="vital")
    def vital() -> str:
        return "done"

    assert scene.guard.level == Level.WARNING
    assert scene.run(idle)[1].state == "RETRY"
    assert scene.run(usual)[0] == "done"
    scene.memory.base_bytes = 990 << 20
    scene.memory.clock.advance(1.0)
    scene.guard.tick()
    assert scene.run(usual)[1].state == "RETRY"
    assert scene.run(vital)[0] == "done"


def test_a_budget_is_charged() -> None:
    """A task needs room in the budget that is named for it, for as long as it runs."""
    scene = Scene(budget=lambda _: "reports", cost=lambda _: "60MiB")
    scene.guard.budget("reports", "100MiB")

    @scene.task(name="work", bind=True)
    def work(self: Any) -> str:
        try:
            scene.guard.admit("60MiB", budget="reports")
        except AdmissionRefused:
            return "full"
        return "free"

    assert scene.run(work)[0] == "full"
    scene.guard.admit("60MiB", budget="reports").close()


@pytest.mark.parametrize("option", ["cost", "priority", "budget"])
def test_a_callable_that_fails_is_told_once(option: str, caplog: pytest.LogCaptureFixture) -> None:
    """The task runs as if nothing had been said about it, and the log says what went wrong."""
    options: dict[str, Any] = {option: lambda _: 1 // 0}
    scene = Scene(**options)

    @scene.task(name="work")
    def work() -> str:
        return "done"

    assert [scene.run(work)[0] for _ in range(3)] == ["done"] * 3
    assert caplog.text.count(f"protect({option}= failed for work: ZeroDivisionError") == 1


@pytest.mark.parametrize(("option", "said"), [("cost", "a lot"), ("priority", "urgent"), ("budget", "unheard-of")])
def test_an_answer_that_cannot_be_meant_is_told(option: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    """An amount, a priority or a budget that is none counts as if nothing had been said."""
    options: dict[str, Any] = {option: lambda _: said}
    scene = Scene(**options)

    @scene.task(name="work")
    def work() -> str:
        return "done"

    assert scene.run(work)[0] == "done"
    assert f"protect({option}= failed for work" in caplog.text


# --- eager --------------------------------------------------------------------------------------------------------


def test_eager_tasks_run_and_are_refused_to_their_caller() -> None:
    """With task_always_eager there is no queue to go back to: the caller gets AdmissionRefused."""
    scene = Scene()
    scene.app.conf.task_always_eager = True

    @scene.task(name="add")
    def add(a: int, b: int) -> int:
        return a + b

    assert add.delay(1, 2).get() == 3
    assert scene.ended() == [("add", "done")]
    full = Scene(FULL)
    full.app.conf.task_always_eager = True

    @full.task(name="add")
    def more(a: int, b: int) -> int:
        return a + b

    result = more.delay(1, 2)
    assert result.state == "FAILURE"
    with pytest.raises(AdmissionRefused):
        result.get()
    assert more(1, 2) == 3  # a function that is called is a function


def test_a_guard_that_never_ran_admits() -> None:
    """A process that only imports the application, and calls tasks eagerly in its tests, starts no guard."""
    app = Celery("plain", broker="memory://", set_as_current=False)
    guard = protect(app, roster=Roster())
    app.conf.task_always_eager = True

    @_task(app, name="add")
    def add(a: int, b: int) -> int:
        return a + b

    assert add.delay(1, 2).get() == 3
    assert not guard.running


def test_what_a_task_calls_eagerly_is_part_of_it() -> None:
    """Memory that runs short meanwhile does not refuse the rest of work that was admitted."""
    scene = Scene()

    @scene.task(name="inner")
    def inner() -> str:
        return "done"

    @scene.task(name="outer")
    def outer() -> str:
        scene.memory.base_bytes = 990 << 20
        scene.memory.clock.advance(1.0)
        scene.guard.tick()
        return str(inner.apply().result)

    assert scene.run(outer)[0] == "done"
    assert scene.ended() == [("inner", "done"), ("outer", "done")]
    assert scene.run(outer)[1].state == "RETRY"


# --- tasks of every kind ------------------------------------------------------------------------------------------


class Base(Task):  # type: ignore[misc]
    """An application's own base, with a hook of its own."""

    calls: list[str] = []  # noqa: RUF012 - what the test looks at

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self.calls.append(f"base {task_id}")


class Above(Base):
    """One that calls its base's."""

    name = "above"

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        super().before_start(task_id, args, kwargs)
        self.calls.append("above")

    def run(self) -> str:
        return "done"


def test_hooks_of_tasks_own_are_called_after_admission() -> None:
    """before_start of a base, of a class, inherited: each is called once, with its arguments, and not when refused."""
    scene = Scene()
    scene.app.register_task(Above())

    @scene.task(name="based", base=Base)
    def based() -> str:
        return "done"

    scene.app.finalize()
    Base.calls.clear()
    for name in ("above", "based"):
        assert scene.run(scene.app.tasks[name])[0] == "done"
    assert Base.calls == ["base id-1", "above", "base id-1"]
    assert scene.ended() == [("above", "done"), ("based", "done")]
    scene.memory.base_bytes = 990 << 20
    scene.memory.clock.advance(1.0)
    scene.guard.tick()
    assert scene.run(scene.app.tasks["above"])[1].state == "RETRY"
    assert len(Base.calls) == 3


def test_tasks_defined_before_and_after() -> None:
    """It does not matter whether a task comes before protect(), after it, or after the application was finalized."""
    scene = Scene(FULL, protected=False)

    @scene.task(name="before")
    def before() -> None: ...

    scene.app.finalize()
    protect(scene.app, scene.guard, wait_s=0)

    @scene.task(name="after")
    def after() -> None: ...

    assert [scene.run(task)[1].state for task in (before, after)] == ["RETRY", "RETRY"]


def test_a_hook_that_fails_gives_the_ticket_back() -> None:
    """The task fails as it would without us, and nothing stays promised."""
    scene = Scene()

    class Broken(Task):  # type: ignore[misc]
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            raise ValueError("no")

    @scene.task(name="work", base=Broken)
    def work() -> None: ...

    assert scene.run(work)[1].state == "FAILURE"
    assert not scene.guard.gate.open
    assert scene.ended() == [("work", "failed")]


# --- protect() ----------------------------------------------------------------------------------------------------


def test_what_protect_does_not_take() -> None:
    """Each mistake is named, with the mend, and leaves the application as it was."""
    app = Celery("wrong", set_as_current=False)
    guard = Guard(limit=None, roster=Roster())
    with pytest.raises(TypeError, match="takes a Celery application, not str"):
        protect("app")
    with pytest.raises(TypeError, match=r"the second is a Guard; .*limit='1GiB'"):
        protect(app, "1GiB")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give rules to Guard"):
        protect(app, guard, limit="1GiB")
    with pytest.raises(TypeError, match="is one name"):
        protect(app, guard, exempt="add")
    with pytest.raises(TypeError, match="cost='1GiB': it has to be a function"):
        protect(app, guard, cost="1GiB")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="soon"):
        protect(app, guard, wait_s="soon")
    with pytest.raises(RulesError, match="critical_ratio"):
        protect(app, critical_ratio=7)
    assert protect(app, guard) is guard
    with pytest.raises(AlreadyGuarding, match="call protect"):
        protect(app, guard)


def test_the_guard_runs_while_a_worker_does() -> None:
    """A solo worker's signals start and stop it; those of another application's worker do not."""
    app, other = (Celery(name, broker="memory://", set_as_current=False) for name in ("own", "other"))
    guard = protect(app, limit="64GiB", roster=Roster(), handover="on")
    other.set_current()
    signals.worker_process_init.send(sender=None)
    assert not guard.running
    app.set_current()
    signals.worker_process_init.send(sender=None)
    try:
        assert guard.running
        assert guard.gate.lessons is not None
        assert "celery worker (solo pool)" in guard.explain()
        signals.worker_shutdown.send(sender=_Worker(other))
        assert guard.running
    finally:
        signals.worker_shutdown.send(sender=_Worker(app))
    assert not guard.running


class _Pool:
    __module__ = "celery.concurrency.gevent"


class _Prefork:
    __module__ = "celery.concurrency.prefork"


def test_which_pools_have_a_guard_in_the_main_process() -> None:
    """One with threads or greenlets, where tasks run; not prefork's, which runs none. Greenlets do not wait."""
    app = Celery("own", broker="memory://", set_as_current=False)
    guard = protect(app, limit="64GiB", roster=Roster(), handover="on")
    worker = _Worker(app)
    worker.pool_cls = _Prefork
    signals.celeryd_after_setup.send(sender="w1", instance=worker)
    assert not guard.running
    worker.pool_cls = _Pool
    signals.celeryd_after_setup.send(sender="w1", instance=worker)
    try:
        assert guard.running
        assert app.memguard_door.wait_s == 0.0
        assert "never: a gevent pool" in guard.explain()
    finally:
        signals.worker_shutdown.send(sender=worker)
    assert not guard.running
