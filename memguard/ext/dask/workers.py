"""The plugin for workers: a guard in each worker's process, told of Dask's tasks and heeded by Dask's own means."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Final

from dask.utils import key_split
from distributed import Scheduler, Worker
from distributed.diagnostics.plugin import WorkerPlugin
from tornado.ioloop import PeriodicCallback

from memguard.ext.dask import standing as standings
from memguard.ext.dask.fractions import Fractions, rungs
from memguard.ext.dask.pausing import Hold
from memguard.ext.dask.recycling import Recycling
from memguard.ext.dask.scheduler import LEND, GuardScheduler
from memguard.ext.dask.spilling import Results
from memguard.ext.dask.view import metrics_of
from memguard.rules import Rules
from memguard.values import fields, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from distributed import Client

    from memguard.kinds import Outcome
    from memguard.operations import Operation
    from memguard.ports import Sink
    from memguard.roster import Handle

__all__ = ["GuardWorkers", "dask_setup", "protect"]

_NAME: Final = "memguard"
# As often as Dask's own monitor looks (distributed.worker.memory.monitor-interval); it reads two attributes.
_LOOK_MS: Final = 100
# A task that is in one of these states has a thread, or is thought to.
_AT_WORK: Final = frozenset({"executing", "long-running", "cancelled", "resumed"})
_ENDS: Final[dict[str, Outcome]] = {"memory": "done", "error": "failed"}
# Names of tasks may be whole expressions.
_KEY_LENGTH: Final = 100


class GuardWorkers(WorkerPlugin):
    """Guards every worker: ``client.register_plugin(GuardWorkers())``.

    In each worker's process one guard runs, whose limit is the worker's ``memory_limit`` and the container's own,
    whichever binds, and whose rungs stand between Dask's fractions (``rungs``). Caches and states of tasks give way
    before Dask writes results to disk; at CRITICAL the worker is paused until both have room again; one that stays
    there is recycled (``GuardScheduler`` gives turns). Each task is an operation by its key's prefix. Levels go to the
    scheduler with each heartbeat (``cluster``), events to Dask's topic ``memguard``.

    Args:
        rules: as for ``Guard``; without them Dask's fractions make the rungs.
        pause: whether CRITICAL pauses a worker; None: unless ``distributed.worker.memory.pause`` is off.
        prometheus: whether each worker's own ``/metrics`` shows ours, too.
        sinks: called in each worker; makes sinks that are told every event.
        overrides: fields of ``Rules``; ``MEMGUARD_*`` in a worker's environment stands between them and Dask's.

    Raises:
        RulesError: a setting that cannot hold with Dask's configuration as it is here.
    """

    name = _NAME

    def __init__(
        self,
        rules: Rules | None = None,
        *,
        pause: bool | None = None,
        prometheus: bool = False,
        sinks: Callable[[], Iterable[Sink]] | None = None,
        **overrides: object,
    ) -> None:
        # A proxy around a mapping cannot be pickled.
        self._rules = None if rules is None else replace(rules, origins=dict(rules.origins))
        self._pause = pause
        self._prometheus = prometheus
        self._sinks = sinks
        self._overrides: dict[str, Any] = dict(overrides)
        Rules.resolve({}, self._overrides, base=self._base(Fractions.configured()))
        self._desk: _Desk | None = None

    def _base(self, fractions: Fractions) -> Rules:
        """Dask's fractions as rungs, unless rules were given."""
        return rungs(fractions) if self._rules is None else self._rules

    def setup(self, worker: Worker) -> None:
        """Dask calls it when the plugin comes to a worker.

        Raises:
            RulesError: a setting that cannot hold in this worker's environment.
        """
        made = tuple(self._sinks()) if self._sinks is not None else ()
        if self._prometheus:
            made = (*made, _registry_sink())
        standing = standings.join(
            worker, base=self._base(Fractions.of(worker.memory_manager)), overrides=self._overrides, sinks=made
        )
        try:
            self._desk = _Desk(worker, standing, pause=self._pause)
        except BaseException:
            standings.part(worker)
            raise

    async def teardown(self, worker: Worker) -> None:
        """Dask calls it when the worker closes, or another plugin takes this one's place."""
        desk, self._desk = self._desk, None
        if desk is not None:
            desk.close()
        await asyncio.to_thread(standings.part, worker)  # a guard's threads may take a moment to end

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - Dask's own
        """Dask calls it when a task's state changes."""
        if self._desk is not None and (finish in _AT_WORK or start in _AT_WORK):
            self._desk.moved(key, finish)


@functools.cache
def _registry_sink() -> Sink:
    """One for the process: its registry takes each name once, and a plugin may come again."""
    from memguard.sinks.prometheus_registry import RegistrySink  # noqa: PLC0415 - an extra

    return RegistrySink()


class _Desk:
    """What one guarded worker needs: its operations, its hold, its way out, what it tells the scheduler."""

    def __init__(self, worker: Worker, standing: standings.Standing, *, pause: bool | None) -> None:
        self._worker = worker
        self._guard = guard = standing.guard
        self._running: dict[Any, Operation] = {}
        self._holders: list[Handle] = []
        if pause is None:
            pause = bool(worker.memory_manager.memory_pause_fraction)
        acts = standing.rules.mode == "act"
        self._hold = Hold(worker)
        self._pauses = pause and acts
        self._recycling = Recycling(worker, rules=standing.rules, hold=self._hold, tell=guard.tell)
        if acts and Results.spills(worker):
            self._holders.append(guard.roster.add(Results(worker)))
        worker.metrics[_NAME] = lambda _: metrics_of(guard, hold=self._hold)
        worker.metrics["memguard level"] = lambda _: guard.level.name  # a column of the dashboard's workers
        self._callback = PeriodicCallback(self._look, _LOOK_MS)
        worker.periodic_callbacks[_NAME] = self._callback
        worker.stream_handlers[LEND] = self._hold.lend  # it stays: a message without a handler ends the connection
        self._callback.start()

    def _look(self) -> None:
        snapshot = self._guard.snapshot
        if self._pauses:
            self._hold.look(snapshot.level)
            self._recycling.look(snapshot)

    def moved(self, key: Any, finish: str) -> None:  # noqa: ANN401 - a key is text or a tuple
        """A task began to work, or ended."""
        if finish not in _AT_WORK:
            ended = self._running.pop(key, None)
            if ended is not None:
                ended.end(_ENDS.get(finish, "abandoned"))
        elif finish == "executing" and key not in self._running:
            operation = self._guard.operation(key_split(key) or "task", id=str(key)[:_KEY_LENGTH])
            operation.start(nested=False)
            self._running[key] = operation

    def close(self) -> None:
        """Leave the worker as it was."""
        self._callback.stop()
        self._worker.periodic_callbacks.pop(_NAME, None)
        self._hold.release()
        for handle in self._holders:
            handle.close()
        for name in (_NAME, "memguard level"):
            self._worker.metrics.pop(name, None)
        for operation in self._running.values():
            operation.end("abandoned")
        self._running.clear()


async def dask_setup(service: object) -> None:
    """For clusters whose start is configured: ``dask worker --preload memguard.ext.dask``, and the scheduler alike."""
    if isinstance(service, Worker):
        await service.plugin_add(plugin=GuardWorkers(), catch_errors=False)
    elif isinstance(service, Scheduler):
        await service.register_scheduler_plugin(GuardScheduler(), idempotent=False)


def protect(client: Client, rules: Rules | None = None, **options: Any) -> Any:  # noqa: ANN401 - GuardWorkers' own
    """Guard every worker of a client's cluster, and have its scheduler give turns; options as for ``GuardWorkers``.

    Awaitable where the client is asynchronous.

    Raises:
        RulesError: a setting that cannot hold.
    """
    known = {field.name for field in fields(Rules)}
    overrides = {name: option for name, option in options.items() if name in known}
    plugins = GuardScheduler(rules, **overrides), GuardWorkers(rules, **options)
    asked = [client.register_plugin(plugin) for plugin in plugins]
    return asyncio.gather(*asked) if client.asynchronous else None
