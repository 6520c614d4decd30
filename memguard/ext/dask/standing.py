"""Standing: the one guard of a process, and the workers that it stands for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from memguard import roster as rosters
from memguard.errors import MemguardError
from memguard.guard import Guard
from memguard.probes.limits import find_limits
from memguard.rules import Rules
from memguard.telemetry import EVENTS
from memguard.threads import new_lock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distributed import Worker

    from memguard.model import Event, Limit
    from memguard.ports import Sink

__all__ = ["Standing", "get_guard", "join", "part"]

_lock = new_lock()
_here: Standing | None = None


class Standing:
    """A guard, whether it is ours to stop, and the workers of this process.

    Called as a limit source: the smallest ``memory_limit`` of these workers (Dask, too, compares each with the memory
    of the whole process) or the operator's own limit, whichever is lower, beside what the machine sets.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules: Rules = rules
        self.guard: Guard
        self.own: bool = True
        self.workers: tuple[Worker, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.group: str | None = None
        self.group_version: int | None = None

    def __call__(self) -> tuple[Limit, ...]:
        """Every limit that holds now."""
        policy_bytes, source = self._policy()
        found = find_limits(environ=os.environ, policy_bytes=policy_bytes, policy_source=source)
        self.notes, self.group, self.group_version = found.notes, found.group, found.group_version
        return found.limits

    def _policy(self) -> tuple[int | None, str]:
        limits = [
            (limit_bytes, f"Dask's memory_limit (worker {worker.name})")
            for worker in self.workers
            if (limit_bytes := memory_limit(worker)) is not None
        ]
        if self.rules.max_bytes is not None:
            limits.append((self.rules.max_bytes, self.rules.origins.get("max_bytes", "keyword")))
        return min(limits, default=(None, ""))


class Topic:
    """A sink that passes on to Dask's topic ``memguard`` what is more than information, and the end of incidents.

    ``client.get_events("memguard")`` shows it, ``client.subscribe_topic("memguard", …)`` hears it.
    """

    name = "dask topic"

    def __init__(self, standing: Standing) -> None:
        self._standing: Standing | None = standing

    def __call__(self, event: Event, /) -> None:
        """Pass one event on; from any thread."""
        row, standing = EVENTS[event.name], self._standing
        if standing is not None and standing.workers and (row.severity != "info" or event.name == "incident.closed"):
            worker = standing.workers[0]
            said = {"name": event.name, "severity": row.severity, "text": event.text}
            worker.log_event("memguard", {"worker": worker.address, **said, "attributes": dict(event.attributes)})

    def forget(self) -> None:
        """In a forked child: the connection to the scheduler is the parent's."""
        self._standing = None


def memory_limit(worker: Worker) -> int | None:
    """What Dask allows a worker, in bytes; None when it sets no limit."""
    limit_bytes: int | None = worker.memory_manager.memory_limit
    return limit_bytes or None


def join(worker: Worker, *, base: Rules, overrides: Mapping[str, Any], sinks: Sequence[Sink]) -> Standing:
    """Have this process's guard stand for a worker, too; it is made and started for the first one.

    A guard that the application started itself over the process's roster is used as it is, and never stopped.

    Raises:
        RulesError: a setting that cannot hold in this worker's environment.
    """
    global _here  # noqa: PLW0603 - one guard a process is the point
    with _lock:
        standing = _here
        if standing is None:
            owner = rosters.DEFAULT.owner() if rosters.DEFAULT.owner is not None else None
            if isinstance(owner, Guard):
                standing = Standing(owner.rules)
                standing.guard, standing.own = owner, False
            else:
                standing = Standing(Rules.resolve(os.environ, overrides, base=base))
            standing.workers = (worker,)
            if standing.own:
                own: dict[str, Any] = {**overrides, "handover": "off"}  # a worker is left by Dask's own way
                limit = standing if standing() else None
                standing.guard = Guard(base, limit=limit, sinks=(*sinks, Topic(standing)), **own).start()
            _here = standing
        elif worker not in standing.workers:
            standing.workers = (*standing.workers, worker)
        return standing


def part(worker: Worker) -> None:
    """A worker leaves; with the last one the guard is stopped. Leaving twice is fine."""
    global _here  # noqa: PLW0603 - as above
    with _lock:
        standing = _here
        if standing is None or worker not in standing.workers:
            return
        standing.workers = tuple(known for known in standing.workers if known is not worker)
        if standing.workers:
            return
        _here = None
        if standing.own:
            standing.guard.stop()


def get_guard() -> Guard:
    """The guard of the Dask worker that this task runs in.

    Raises:
        MemguardError: no worker of this process is guarded.
    """
    standing = _here
    if standing is None:
        raise MemguardError(
            "no Dask worker of this process is guarded: client.register_plugin(GuardWorkers()), and call get_guard() "
            "inside a task"
        )
    return standing.guard
