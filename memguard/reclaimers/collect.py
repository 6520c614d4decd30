"""Python's cyclic garbage collector as a reclaimer, and a watch over what it does."""

from __future__ import annotations

import gc
import time

from memguard.model import GcStats, Level

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Final

    from memguard.kinds import Cost

__all__ = ["Collect", "GcWatch"]

_FULL: Final = 2
# An object with its gc header is 56 to 120 bytes in CPython 3.11 to 3.13 (an instance 56, a dict 80 to 248): a round
# figure, for the claim only. What a collection bought is measured.
_OBJECT_BYTES: Final = 100
# The duty ratio looks back 10 to 20 s: short enough to notice a storm, long enough to hold several full collections.
_DUTY_WINDOW_S: Final = 10.0


class Collect:
    """A full collection: gives back what cycles of unreachable objects hold.

    It holds the GIL throughout, 150 to 165 ms per million live containers (next to nothing once they are frozen), so
    it ``stalls``. Finalizers of the dead run in the calling thread.
    """

    name: str = "collect"
    cost: Cost = "free"
    at: Level = Level.WARNING
    settles: bool = True
    stalls: bool = True
    prompt: bool = True

    def size(self) -> int | None:
        """None: nobody knows how much garbage there is before looking."""
        return None

    def reclaim(self, wanted_bytes: int, /) -> int | None:  # noqa: ARG002 - a collection has no dose
        """Collect generation 2, however much is wanted; claims roughly what was found."""
        return self.run(_FULL)

    def run(self, generation: int = _FULL) -> int:
        """Collect this generation and the younger ones; roughly the bytes of the unreachable objects found.

        Raises:
            ValueError: there is no such generation.
        """
        if generation not in {0, 1, _FULL}:
            raise ValueError(f"there is no gc generation {generation!r}: choose 0, 1 or 2 (2 collects everything)")
        return gc.collect(generation) * _OBJECT_BYTES

    def __repr__(self) -> str:
        return "<Collect>"


class GcWatch:
    """A watch over the collector through ``gc.callbacks``: how often, for how long, how much of the time.

    ``start`` hooks in, ``stop`` unhooks; both may be called twice. It sees automatic and asked-for collections
    alike, also while automatic ones are disabled or objects are frozen. ``clock`` gives the instants (monotonic
    seconds), ``timer`` measures the pauses. A hook runs inside every collection: it costs about a microsecond and
    keeps nothing per collection. The interpreter runs one collection at a time, so its pair of calls never nests.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, timer: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        self._timer = timer
        self._began: float | None = None
        self._collections = 0
        self._full = 0
        self._collected = 0
        self._uncollectable = 0
        self._pause_total_s = 0.0
        self._pause_max_s = 0.0
        self._last_full_at: float | None = None
        self._last_freed_bytes: int | None = None
        self._marks = ((0.0, 0.0), (0.0, 0.0))

    @property
    def running(self) -> bool:
        """Whether it is hooked in."""
        return self._hook in gc.callbacks

    def start(self) -> None:
        """Hook in."""
        if not self.running:
            mark = (self._clock(), self._pause_total_s)
            self._marks = (mark, mark)
            self._began = None
            gc.callbacks.append(self._hook)

    def stop(self) -> None:
        """Unhook; the counts stay."""
        while self.running:
            gc.callbacks.remove(self._hook)

    def note_freed(self, freed_bytes: int) -> None:
        """Tell it what the last full collection that was asked for bought, as measured."""
        self._last_freed_bytes = freed_bytes

    def _hook(self, phase: str, found: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = self._timer()
            return
        self._collections += 1
        self._collected += found["collected"]
        self._uncollectable += found["uncollectable"]
        if found["generation"] == _FULL:
            self._full += 1
            self._last_full_at = self._clock()
        began, self._began = self._began, None
        if began is not None:  # None: the hook was set inside a collection
            pause_s = self._timer() - began
            self._pause_total_s += pause_s
            self._pause_max_s = max(self._pause_max_s, pause_s)

    def stats(self) -> GcStats:
        """What it saw until now; ``duty_ratio`` over the last 10 to 20 s."""
        now, total_s = self._clock(), self._pause_total_s
        older, newer = self._marks
        if now - newer[0] >= _DUTY_WINDOW_S:
            self._marks = (newer, (now, total_s))
        spent_s = now - older[0]
        return GcStats(
            collections=self._collections,
            full_collections=self._full,
            collected_objects=self._collected,
            uncollectable_objects=self._uncollectable,
            pause_total_s=total_s,
            pause_max_s=self._pause_max_s,
            last_full_at=self._last_full_at,
            last_freed_bytes=self._last_freed_bytes,
            duty_ratio=min(1.0, (total_s - older[1]) / spent_s) if spent_s > 0 else 0.0,
        )

    def __repr__(self) -> str:
        return f"<GcWatch {'running' if self.running else 'stopped'}: {self._full} full of {self._collections}>"
