"""The plugin for the scheduler: answers for the whole cluster, and gives turns to workers that make room."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any, Final

from distributed.diagnostics.plugin import SchedulerPlugin

from memguard.ext.dask.fractions import Fractions, rungs
from memguard.ext.dask.recycling import Turns
from memguard.ext.dask.view import rows
from memguard.rules import Rules
from memguard.values import replace

if TYPE_CHECKING:
    from distributed import Scheduler

__all__ = ["LEND", "GuardScheduler"]

LEND: Final = "memguard-lend"
"""What a paused worker is told when another one needs somebody to take its results."""

_OPS: Final = ("memguard_cluster", "memguard_turn")
# What has not moved by then moves at the next turn; a lent worker is told when the other one has left.
_LENT_S: Final = 30.0
_RUNS_S: Final = 2.0
_AGAIN_S: Final = 2.0
_POLL_S: Final = 0.05


class GuardScheduler(SchedulerPlugin):
    """Lets workers that stay critical leave one at a time, and answers ``cluster(client)`` without running code.

    ``client.register_plugin(GuardScheduler())``. Of the rules ``handover_life_s`` and ``handover_backoff_max_s`` count:
    the first and the longest wait between two turns of a worker's name.

    Raises:
        RulesError: a setting that cannot hold.
    """

    name = "memguard"

    def __init__(self, rules: Rules | None = None, **overrides: object) -> None:
        self._rules = None if rules is None else replace(rules, origins=dict(rules.origins))
        self._overrides = overrides
        Rules.resolve({}, overrides, base=self._base())
        self._scheduler: Scheduler | None = None
        self._turns: Turns | None = None
        self._lent: dict[str, str] = {}

    def _base(self) -> Rules:
        """As a worker's, so that the same settings hold for both."""
        return rungs(Fractions.configured()) if self._rules is None else self._rules

    async def start(self, scheduler: Scheduler) -> None:
        """Dask calls it when the plugin comes to the scheduler.

        Raises:
            RulesError: a setting that cannot hold in the scheduler's environment.
        """
        self._turns = Turns(Rules.resolve(os.environ, self._overrides, base=self._base()))
        self._scheduler = scheduler
        scheduler.handlers.update(zip(_OPS, (self.cluster, self.turn), strict=True))

    async def close(self) -> None:
        """Dask calls it when the scheduler closes, or another plugin takes this one's place."""
        scheduler, self._scheduler = self._scheduler, None
        for op in _OPS:
            if scheduler is not None and getattr(scheduler.handlers.get(op), "__self__", None) is self:
                del scheduler.handlers[op]

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - Dask's
        """Dask calls it when a worker has left; whoever took its results need not any more."""
        lent = self._lent.pop(worker, None)
        if lent in scheduler.workers:
            scheduler.worker_send(lent, {"op": LEND, "seconds": 0.0})

    async def cluster(self) -> list[dict[str, Any]]:
        """What ``cluster(client)`` shows, a row a worker."""
        return [] if self._scheduler is None else rows(self._scheduler)

    async def turn(self, address: str, worker_name: str) -> dict[str, Any]:
        """Whether a worker may leave now; else when to ask again, and why."""
        if self._turns is None or self._scheduler is None:
            return {"go": False, "wait_s": 60.0, "why": "the scheduler closes"}
        present = {each.address: str(each.name) for each in self._scheduler.workers.values()}
        go, wait_s, why = self._turns.ask(address=address, name=worker_name, present=present, now=time.monotonic())
        if go and not await self._ready(self._scheduler, address):
            self._turns.take_back()
            go, wait_s, why = False, _AGAIN_S, "no other worker runs that could take its results"
        return {"go": go, "wait_s": wait_s, "why": why}

    async def _ready(self, scheduler: Scheduler, address: str) -> bool:
        """Whether somebody runs who can take results; where all are paused, the one that is least full is lent."""
        leaving = scheduler.workers.get(address)
        others = [worker for worker in scheduler.workers.values() if worker is not leaving]
        lendable = [worker for worker in others if worker.status.name == "paused" and "memguard" in worker.metrics]
        if scheduler.running - {leaving} or leaving is None or not leaving.has_what:
            return True
        if not lendable:
            return False
        lent = min(lendable, key=lambda worker: worker.memory.process / (worker.memory_limit or 1))
        scheduler.worker_send(lent.address, {"op": LEND, "seconds": _LENT_S})
        self._lent = {address: lent.address}
        deadline = time.monotonic() + _RUNS_S
        while not scheduler.running - {leaving} and time.monotonic() < deadline:  # noqa: ASYNC110 - Dask's own set
            await asyncio.sleep(_POLL_S)
        return bool(scheduler.running - {leaving})
