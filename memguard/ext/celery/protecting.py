"""Protecting: one call that connects a guard with Celery's signals."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from celery import Celery, current_app, signals

from memguard.errors import AlreadyGuarding
from memguard.ext.celery.door import DOOR, Door, fit
from memguard.ext.celery.leaving import GREEN, WholeWorker, pool_child
from memguard.guard import Guard
from memguard.units import parse_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memguard.servers import Way

    Task = Any  # Celery ships no types

__all__ = ["protect"]

_LIFE: Final = "memguard_life"
_PREFORK: Final = "celery.concurrency.prefork"
_numbers = itertools.count(1)


def protect(  # noqa: PLR0913 - each but the first has a default
    app: Any,  # noqa: ANN401 - Celery has no types
    guard: Guard | None = None,
    *,
    exempt: Iterable[str] = ("celery.accumulate", "celery.backend_cleanup", "celery.chord_unlock"),
    wait_s: float | str = 1.0,
    cost: Callable[[Task], int | str | None] | None = None,
    priority: Callable[[Task], str | None] | None = None,
    budget: Callable[[Task], str | None] | None = None,
    counted: bool = False,
    **rules: Any,  # noqa: ANN401 - as Guard has them
) -> Guard:
    """Put a guard beside every process in which a Celery application's tasks run; the guard.

    Call it where the application is made, so that workers call it too; a process that only sends tasks starts nothing.
    In each child of a prefork pool, and in a worker with another pool, the guard runs as long as that process does.
    Each task is an operation under its name, and is admitted before its body runs: what its kind held before is
    learned. One that does not fit goes back to its queue as ``Task.retry`` puts it there, with the guard's hint as
    countdown. A child that has to make room ends between two tasks, and the pool's main process forks another
    (``docs/celery.md``).

    Args:
        app: the application.
        guard: whose gate, holders and history; None: one that is made here, by ``rules``.
        exempt: names of tasks that are always run.
        wait_s: how long a task that does not fit waits in its worker for room before it goes back (not with gevent or
            eventlet): a long queue would be turned over in a moment otherwise, and be held by the worker until its
            countdowns end.
        cost: a function of the task (its ``request.args``, its attributes) that says how many bytes it will need,
            where you know better; None from it: as learned.
        priority: a function of the task that says "critical", "normal" or "sheddable".
        budget: a function of the task that names the budget (``guard.budget``) whose room it needs too.
        counted: whether a refusal counts as one of the task's ``max_retries``, and fails it after the last.
        rules: fields of ``Rules``, and options of ``Guard``.

    Raises:
        TypeError: no Celery application, no guard, or rules beside a guard.
        AlreadyGuarding: the application is protected already.
        RulesError: as ``Guard``.
    """
    _check(app, guard, exempt, rules, cost=cost, priority=priority, budget=budget)
    app = getattr(app, "_get_current_object", lambda: app)()  # of what celery.current_app stands for
    if DOOR in vars(app):
        raise AlreadyGuarding("this application is protected already: call protect() once")
    found = Guard(**rules) if guard is None else guard
    door = Door(
        found,
        exempt=frozenset(exempt),
        wait_s=parse_seconds(wait_s),
        cost=cost,
        priority=priority,
        budget=budget,
        counted=counted,
    )
    setattr(app, DOOR, door)
    life = _Life(app, door)
    setattr(app, _LIFE, life)  # signals know it weakly
    life.connect()
    return found


def _check(app: object, guard: object, exempt: object, rules: dict[str, Any], **callables: object) -> None:
    if not isinstance(app, Celery):
        raise TypeError(f"protect() takes a Celery application, not {type(app).__name__}: protect(app)")
    if guard is not None and not isinstance(guard, Guard):
        raise TypeError(
            f"protect(app, {guard!r}): the second is a Guard; rules are keywords: protect(app, limit='1GiB')"
        )
    if guard is not None and rules:
        names = ", ".join(rules)
        raise TypeError(f"protect(app, guard, {names}=…): give rules to Guard({names}=…), or leave the guard out")
    if isinstance(exempt, str):
        raise TypeError(f"exempt={exempt!r} is one name: write it as ({exempt!r},)")
    for name, found in callables.items():
        if found is not None and not callable(found):
            raise TypeError(f"{name}={found!r}: it has to be a function of the task, like lambda task: …")


class _Life:
    """When the guard of an application runs, and how its processes are left: what Celery's signals tell."""

    def __init__(self, app: Any, door: Door) -> None:  # noqa: ANN401
        self._app = app
        self._door = door
        self._guard = door.guard

    def connect(self) -> None:
        """Be told from now on."""
        number = next(_numbers)
        for signal, receiver in (
            (signals.worker_init, self._worker_init),
            (signals.celeryd_after_setup, self._worker_set_up),
            (signals.worker_process_init, self._process_init),
            (signals.worker_process_shutdown, self._process_shutdown),
            (signals.worker_shutdown, self._worker_shutdown),
            (signals.task_postrun, self._task_postrun),
            (self._app.on_after_finalize, self._fit),
        ):
            # Without a name of its own, Celery 5.4 takes the methods of two applications' lives for one receiver.
            signal.connect(receiver, dispatch_uid=f"memguard {number} {receiver.__name__}")
        fit(self._app.Task)  # the application's own base; tasks may have others, or hooks of their own
        if self._app.finalized:
            self._fit()

    def _fit(self, **_: object) -> None:
        for task in self._app.tasks.values():
            fit(type(task))

    def _worker_init(self, sender: Any, **_: object) -> None:  # noqa: ANN401 - as above
        if sender.app is self._app:
            self._fit()  # tasks that came after the application was finalized

    def _worker_set_up(self, instance: Any, **_: object) -> None:  # noqa: ANN401
        """A worker has its pool's class, and no pool yet."""
        if instance.app is not self._app:
            return
        name = instance.pool_cls.__module__.rpartition(".")[2]
        if name in GREEN:  # one that waits would hold up all
            self._door.wait_s = 0.0
        prefork = any(cls.__module__ == _PREFORK for cls in instance.pool_cls.__mro__)
        # The main process of a prefork pool runs no tasks; a guard that somebody started there should leave well.
        if self._guard.running or not prefork:
            self._start(WholeWorker(self._guard.rules, name))

    def _process_init(self, **_: object) -> None:
        """A child of a prefork pool before its first task, or a worker with --pool solo."""
        if current_app._get_current_object() is self._app:  # noqa: SLF001 - a proxy's documented door
            self._start(pool_child() or WholeWorker(self._guard.rules, "solo"))

    def _start(self, way: Way) -> None:
        self._guard.leave_by(way)
        self._guard.gate.learn()
        if not self._guard.running:
            self._guard.start()

    def _process_shutdown(self, **_: object) -> None:
        if current_app._get_current_object() is self._app:  # noqa: SLF001 - as above
            self._guard.stop()

    def _worker_shutdown(self, sender: Any, **_: object) -> None:  # noqa: ANN401 - as above
        if sender.app is self._app:
            self._guard.stop()

    def _task_postrun(self, task: Any, state: str | None, **_: object) -> None:  # noqa: ANN401
        if task.app is self._app:
            self._door.leave(task, state)
