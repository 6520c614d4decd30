"""The door: each task is admitted before its body runs, or goes back to its queue by Celery's own retry."""

from __future__ import annotations

import functools
import inspect
import logging
from contextvars import ContextVar
from random import random
from typing import TYPE_CHECKING, Any, Final

from celery import states
from celery.exceptions import Reject, Retry

from memguard.errors import AdmissionRefused
from memguard.units import format_seconds, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.admission import Ticket
    from memguard.guard import Guard
    from memguard.kinds import Outcome, Priority
    from memguard.operations import Operation

    Task = Any  # Celery ships no types

__all__ = ["Door", "fit"]

DOOR: Final = "memguard_door"
"""The attribute of an application that its tasks find their door by."""

_WORK: Final = "memguard_work"
_FITTED: Final = "memguard_fitted"
_PRIORITIES: Final[dict[str | None, Priority]] = {"critical": "critical", "normal": "normal", "sheddable": "sheddable"}
_FAULTS_AT_MOST: Final = 100
_log = logging.getLogger("memguard")

# Whether this context is inside of an admitted task: what that calls eagerly is part of it.
_inside: ContextVar[bool] = ContextVar("memguard_celery_inside", default=False)


class _Work:
    """One task that runs; ``ticket`` is None where another task's covers it."""

    def __init__(self, ticket: Ticket | None, operation: Operation) -> None:
        self._ticket = ticket
        self._operation = operation
        self._token = _inside.set(True)

    def end(self, outcome: Outcome) -> None:
        _inside.reset(self._token)
        self._operation.end(outcome)
        if self._ticket is not None:
            self._ticket.close(outcome)


class Door:
    """Admits the tasks of one application; the arguments are those of ``protect``."""

    def __init__(  # noqa: PLR0913 - as protect() has them
        self,
        guard: Guard,
        *,
        exempt: frozenset[str],
        wait_s: float,
        cost: Callable[[Task], int | str | None] | None,
        priority: Callable[[Task], str | None] | None,
        budget: Callable[[Task], str | None] | None,
        counted: bool,
    ) -> None:
        self.guard = guard
        self._exempt = exempt
        self.wait_s: float = wait_s
        self._cost = cost
        self._priority = priority
        self._budget = budget
        self._counted = counted
        self._faults: set[str] = set()

    # --- where Celery calls us ------------------------------------------------------------------------------------

    def enter(self, task: Task) -> None:
        """Before the body of a task.

        Raises:
            Retry: it does not fit now, and is in its queue again.
            AdmissionRefused: it never will, or there is no queue: it is called eagerly.
        """
        request = task.request
        if task.name in self._exempt or _WORK in vars(request):
            return
        ticket = None if request.is_eager and _inside.get() else self._admitted(task)
        try:
            operation = self.guard.operation(task.name, id=request.id)
            operation.start()
            setattr(request, _WORK, _Work(ticket, operation))
        except BaseException:
            if ticket is not None:
                ticket.close("failed")
            raise

    def leave(self, task: Task, state: str | None) -> None:
        """After a task, whatever came of it."""
        work = vars(task.request).pop(_WORK, None)
        if work is not None:
            done = state in {states.SUCCESS, states.IGNORED}
            work.end("done" if done else "abandoned" if state in {states.RETRY, states.REJECTED} else "failed")

    # --- deciding -------------------------------------------------------------------------------------------------

    def _admitted(self, task: Task) -> Ticket:
        """Permission for a task.

        Raises:
            Retry, Reject, AdmissionRefused: as ``enter``.
        """
        stated = self._asked("cost", self._cost, task, parse_bytes)
        wait_s = self.wait_s
        while True:
            try:
                return self.guard.admit(
                    stated,
                    kind="task",
                    label=task.name,
                    wait_s=wait_s,
                    priority=self._asked("priority", self._priority, task, _PRIORITIES.__getitem__) or "normal",
                    budget=self._asked("budget", self._budget, task, self._known_budget),
                )
            except AdmissionRefused as refused:
                if task.request.is_eager or (refused.never and stated is not None):
                    raise
                # Waits are spread, or all would come at once.
                countdown_s = round(max(1.0, refused.retry_after_s) * (1.0 + random()), 1)  # noqa: S311 - no secret
                self._send_back(task, refused, countdown_s)
                wait_s = max(wait_s, countdown_s)

    def _send_back(self, task: Task, refused: AdmissionRefused, countdown_s: float) -> None:
        """Put a task into its queue again, as ``Task.retry`` does; returns when that cannot be done.

        Raises:
            Retry: it is there.
            Reject: it could not be put there, but its message is not acknowledged yet: it goes back as it came.
        """
        if self._counted:
            raise task.retry(exc=refused, countdown=countdown_s)
        request = task.request
        again = task.signature_from_request(request, countdown=countdown_s, retries=request.retries)
        try:
            again.apply_async()
        except Exception as error:
            if task.acks_late:
                raise Reject(error, requeue=True) from error
            _log.warning(
                "task %s[%s] does not fit and cannot be sent back (%s: %s): it waits here for %s",
                task.name, request.id, type(error).__name__, error, format_seconds(countdown_s),
            )  # fmt: skip
            return
        raise Retry(exc=refused, when=countdown_s, sig=again)

    def _known_budget(self, name: str) -> str:
        self.guard.budget(name)
        return name

    def _asked(
        self,
        what: str,
        ask: Callable[[Task], Any] | None,
        task: Task,
        read: Callable[[Any], Any],
    ) -> Any:  # noqa: ANN401 - what ``read`` makes of it
        """What the application says about a task; where that fails it has said nothing, and is told so once."""
        try:
            said = None if ask is None else ask(task)
            return None if said is None else read(said)
        except Exception as error:  # noqa: BLE001 - it is asked before every task: none shall fail for that
            text = f"{what}= failed for {task.name}: {type(error).__name__}: {error}; the task counts as if it had none"
            if text not in self._faults and len(self._faults) < _FAULTS_AT_MOST:
                self._faults.add(text)
                _log.error("protect(%s", text)
            return None


def fit(cls: Any) -> None:  # noqa: ANN401 - a class of tasks
    """Have a class of tasks ask the door of their application in ``before_start``, ahead of what it does there."""
    own = inspect.getattr_static(cls, "before_start")
    if getattr(own, _FITTED, False):
        return

    @functools.wraps(cls.before_start)
    def before_start(self: Task, task_id: str, args: object, kwargs: object) -> None:
        door = getattr(self.app, DOOR, None)
        if door is not None:
            door.enter(self)
        own.__get__(self, type(self))(task_id, args, kwargs)

    setattr(before_start, _FITTED, True)
    cls.before_start = before_start
