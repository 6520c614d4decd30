"""Pausing: no new task starts on a worker while memory is critical, by Dask's own status."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from distributed.core import Status

from memguard.model import Level

if TYPE_CHECKING:
    from distributed import Worker

    from memguard.ports import Clock

__all__ = ["Hold"]


class Hold:
    """Keeps one worker paused from CRITICAL on until that is left; to be used on the worker's event loop.

    Dask's monitor sets a paused worker to running as soon as *its* measure allows, ten times a second. So while a
    worker is held its pause fraction is off, and both must agree before it goes on: letting go puts the fraction back,
    and then it is Dask's monitor that resumes. Where Dask does not pause by itself, what we have paused is resumed.
    Lent, a held worker runs without threads for tasks: only running ones take results of others.
    """

    def __init__(self, worker: Worker, *, clock: Clock = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._fraction: float | Literal[False] = False
        self._ours = False
        self._held_s = 0.0
        self._lent_until: float | None = None
        self._threads = 0
        self.since: float | None = None
        self.count: int = 0

    @property
    def held_s(self) -> float:
        """For how many seconds in all the worker was held."""
        return self._held_s + (0.0 if self.since is None else self._clock() - self.since)

    def look(self, level: Level) -> None:
        """Hold the worker, or let it go, as the level says."""
        if self._lent_until is not None:
            if self._clock() < self._lent_until:
                return
            self._end_lending()
        if level >= Level.CRITICAL:
            self._take()
        else:
            self.release()

    def lend(self, seconds: float) -> None:
        """Have a held worker take results for so long from now on, and start no task."""
        worker = self._worker
        if self._lent_until is not None:
            self._lent_until = self._clock() + seconds
            return
        if self.since is None or worker.status != Status.paused:
            return
        self._lent_until = self._clock() + seconds
        self._threads, worker.state.nthreads = worker.state.nthreads, 0
        self._ours = True
        worker.status = Status.running

    def _end_lending(self) -> None:
        worker, self._lent_until = self._worker, None
        worker.state.nthreads = self._threads
        if worker.status == Status.running:
            worker.status = Status.paused  # whoever lets it run makes it look for tasks

    def _take(self) -> None:
        worker, manager = self._worker, self._worker.memory_manager
        if self.since is None:
            if worker.status not in {Status.running, Status.paused}:  # it starts, or leaves
                return
            self.since = self._clock()
            self.count += 1
            self._fraction, manager.memory_pause_fraction = manager.memory_pause_fraction, False
        if worker.status == Status.running:
            self._ours = True
            worker.status = Status.paused

    def release(self) -> None:
        """Let go; fine when nothing is held."""
        if self.since is None:
            return
        if self._lent_until is not None:
            self._end_lending()
        worker, ours = self._worker, self._ours
        self._held_s, self.since, self._ours = self.held_s, None, False
        worker.memory_manager.memory_pause_fraction = self._fraction
        dask_looks = self._fraction and "memory_monitor" in worker.periodic_callbacks
        if ours and not dask_looks and worker.status == Status.paused:
            worker.status = Status.running
