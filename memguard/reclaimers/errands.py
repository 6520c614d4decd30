"""Errands: work too long for a guard's tick, done on a short-lived thread that leaves the processor to others."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from memguard.threads import Bell, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Errand", "Pace"]

# Work and rest of a slice: a fifth of a core while it lasts, and nobody waits for the GIL longer than a millisecond.
_WORK_S: Final = 0.001
_REST_S: Final = 0.004


class Pace:
    """Keeps long work in slices; ``step()`` says whether to go on.

    ``within_s`` ends the work after so long (None: when it is done); ``rest`` sleeps between slices, which work that
    somebody waits for does not do. ``stop`` may be called from any thread. ``worked_s`` adds up the slices so far.
    """

    __slots__ = ("_bell", "_rest", "_slice_at", "_until", "stopped", "worked_s")

    def __init__(self, *, within_s: float | None = None, rest: bool = False) -> None:
        self._slice_at = now = time.perf_counter()
        self._until = float("inf") if within_s is None else now + within_s
        self._rest = rest
        self._bell = Bell()
        self.worked_s: float = 0.0
        self.stopped: bool = False

    def step(self) -> bool:
        """Rest if the slice is over; False when the time is, or somebody stopped it."""
        now = time.perf_counter()
        if now >= self._until:
            self.stopped = True
        elif self._rest and now >= self._slice_at + _WORK_S and not self.stopped:
            self.worked_s += now - self._slice_at
            self._bell.wait(_REST_S)
            self._slice_at = time.perf_counter()
        return not self.stopped

    def stop(self) -> None:
        """End the work at its next step."""
        self.stopped = True


class Errand:
    """At most one piece of work at a time, on a daemon thread that ends with it.

    What a piece of work raised is raised by the next ``start``, so that whoever asks for the work hears of it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = 0
        self._error: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether one is under way in this process; a forked child has its parent's threads no more."""
        return self._pid == os.getpid()

    def start(self, work: Callable[[], object]) -> bool:
        """Begin this work unless another is under way or there is no thread to be had; whether it was begun."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        if self.busy:
            return False
        self._pid = os.getpid()

        def run() -> None:
            try:
                work()
            except Exception as failure:  # noqa: BLE001 - told by the next start
                self._error = failure
            finally:
                self._pid = 0

        try:
            start_thread(run, self._name)
        except RuntimeError:
            self._pid = 0
            return False
        return True
