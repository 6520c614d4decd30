"""A process's memory that exists as numbers only: what is live, what is held, what the allocator keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memguard.model import Level, Vitals
from memguard.reclaimers.collect import Collect
from memguard.reclaimers.trim import Trim
from memguard.units import MIB, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.kinds import Cost
    from memguard.testing.clock import FakeClock

    Rate = float | Callable[[float], float]

__all__ = ["FakeCollect", "FakeHolder", "FakeMemory", "FakeTrim"]

# A script of rates is looked up at least so often while time passes.
_STEP_S: Final = 1.0
# glibc's malloc_trim takes 0.25 to 0.5 ms per MB released.
_TRIM_S_PER_MIB: Final = 0.0004
# CPython's full collection of a million containers.
_COLLECT_S: Final = 0.15


class FakeHolder:
    """A reclaimer whose content is part of a ``FakeMemory``, as honest and as quick as it is told to be.

    It gives back ``gives_ratio`` of what it is asked for, at ``speed_bytes_per_s``; claims what it gave, or
    ``claims_ratio`` of what it was asked for. With ``into_heap`` what it frees stays with the allocator until a trim.
    ``asked`` holds (elapsed seconds, wanted bytes, given bytes) of every attempt.
    """

    settles: bool = False
    stalls: bool = False

    def __init__(  # noqa: PLR0913 - each is one way to be awkward
        self,
        memory: FakeMemory,
        name: str,
        *,
        held_bytes: int | str = 0,
        max_bytes: int | str | None = None,
        cost: Cost = "cheap",
        at: Level = Level.WARNING,
        gives_ratio: float = 1.0,
        claims_ratio: float | None = None,
        into_heap: bool = False,
        speed_bytes_per_s: float = 1000.0 * MIB,
    ) -> None:
        self.name = name
        self.cost: Cost = cost
        self.at = at
        self.held_bytes: float = float(parse_bytes(held_bytes))
        self.max_bytes: float = float("inf") if max_bytes is None else float(parse_bytes(max_bytes))
        self.gives_ratio = gives_ratio
        self.claims_ratio = claims_ratio
        self.into_heap = into_heap
        self.speed_bytes_per_s = speed_bytes_per_s
        self.asked: list[tuple[float, int, int]] = []
        self._memory = memory

    def fill(self, amount_bytes: float) -> None:
        """Take in so many bytes; a full one evicts as much first."""
        room = self.max_bytes - self.held_bytes
        self.held_bytes += min(amount_bytes, room)

    def size(self) -> int | None:
        """What it holds."""
        return int(self.held_bytes)

    def reclaim(self, wanted_bytes: int, /) -> int | None:
        """Give some back; time passes on the fake clock."""
        memory = self._memory
        given = min(self.held_bytes, wanted_bytes * self.gives_ratio)
        memory.clock.advance(given / self.speed_bytes_per_s)
        self.held_bytes -= given
        if self.into_heap:
            memory.heap_bytes += given
        self.asked.append((memory.clock.elapsed_s, wanted_bytes, int(given)))
        return int(given if self.claims_ratio is None else wanted_bytes * self.claims_ratio)

    def __repr__(self) -> str:
        return f"<FakeHolder {self.name!r} {self.held_bytes / MIB:.1f} MiB>"


class FakeMemory:
    """A ``Probe`` whose usage follows a script: base + live + garbage + heap + what the holders hold.

    ``live_bytes`` nobody can give back, ``garbage_bytes`` a collection frees into the heap, ``heap_bytes`` are freed
    but kept by the allocator until a trim, or until something new is allocated. ``page_cache_bytes`` never counts as
    used. ``limit_bytes`` is where the process dies (``killed_s``, in elapsed seconds). While ``broken`` holds an
    exception, reading raises it.
    """

    source = "fake memory"

    def __init__(self, clock: FakeClock, *, base_bytes: int | str = "64MiB", limit_bytes: int | None = None) -> None:
        self.clock = clock
        self.base_bytes: int = parse_bytes(base_bytes)
        self.limit_bytes = limit_bytes
        self.live_bytes: float = 0.0
        self.garbage_bytes: float = 0.0
        self.heap_bytes: float = 0.0
        self.page_cache_bytes = 0
        self.peak_bytes: int = 0
        self.killed_s: float | None = None
        self.broken: Exception | None = None
        self.holders: list[FakeHolder] = []
        self._flows: list[tuple[Rate, FakeHolder | None]] = []
        self._seen_s = clock.elapsed_s
        self._closed = False

    def flow(self, rate_bytes_per_s: Rate, *, into: FakeHolder | None = None) -> None:
        """Let memory grow (or, below 0, shrink) by so many bytes a second from now on.

        A rate may be a function of the elapsed seconds. It goes into a holder, or else into what is live.
        """
        self._pass_time()
        self._flows.append((rate_bytes_per_s, into))

    def grow(self, amount_bytes: float, *, into: FakeHolder | None = None) -> None:
        """Allocate so many bytes now (below 0: free them); what the allocator kept is used first."""
        if amount_bytes > 0.0 and self.heap_bytes > 0.0:
            self.heap_bytes -= min(self.heap_bytes, amount_bytes)
        if into is None:
            self.live_bytes = max(0.0, self.live_bytes + amount_bytes)
        else:
            into.fill(amount_bytes)
        self._watch_peak()

    @property
    def used_bytes(self) -> int:
        """What is used now."""
        held = self.base_bytes + self.live_bytes + self.garbage_bytes + self.heap_bytes
        for holder in self.holders:
            held += holder.held_bytes
        return int(held)

    def read(self) -> int:
        """One look."""
        if self._closed:
            raise ValueError("the fake memory has been closed")
        if self.broken is not None:
            raise self.broken
        self._pass_time()
        return self.used_bytes

    def close(self) -> None:
        """Refuse to be read from now on."""
        self._closed = True

    def vitals(self, at: float) -> Vitals:
        """What a slow look shows: this memory's numbers instead of the machine's."""
        return Vitals(
            at=at, rss_bytes=self.used_bytes, page_cache_bytes=self.page_cache_bytes, peak_bytes=self.peak_bytes
        )

    def _pass_time(self) -> None:
        elapsed_s = self.clock.elapsed_s
        while self._seen_s < elapsed_s:
            step_s = min(_STEP_S, elapsed_s - self._seen_s)
            for rate, into in self._flows:
                amount = (rate(self._seen_s) if callable(rate) else rate) * step_s
                if amount:
                    self.grow(amount, into=into)
            self._seen_s = min(elapsed_s, self._seen_s + step_s)

    def _watch_peak(self) -> None:
        used = self.used_bytes
        if used > self.peak_bytes:
            self.peak_bytes = used
            if self.limit_bytes is not None and used >= self.limit_bytes and self.killed_s is None:
                self.killed_s = self._seen_s

    def __repr__(self) -> str:
        return f"<FakeMemory {self.used_bytes / MIB:.1f} MiB>"


class FakeTrim(Trim):
    """An allocator trim of a ``FakeMemory``."""

    def __init__(self, memory: FakeMemory) -> None:
        super().__init__()
        self._memory = memory
        self.attempts: int = 0

    def reclaim(self, wanted_bytes: int, /) -> int | None:  # noqa: ARG002 - as Trim
        """Give the heap back; time passes on the fake clock."""
        self.attempts += 1
        memory = self._memory
        released, memory.heap_bytes = memory.heap_bytes, 0.0
        memory.clock.advance(released / MIB * _TRIM_S_PER_MIB)
        return None if released else 0


class FakeCollect(Collect):
    """A full collection of a ``FakeMemory``; the process stands still for ``pause_s``."""

    def __init__(self, memory: FakeMemory) -> None:
        self._memory = memory
        self.pause_s = _COLLECT_S
        self.ran: list[tuple[float, float]] = []

    def run(self, generation: int = 2) -> int:  # noqa: ARG002 - as Collect
        """Free garbage into the heap; ``ran`` gets (elapsed seconds, pause)."""
        memory = self._memory
        self.ran.append((memory.clock.elapsed_s, self.pause_s))
        memory.clock.advance(self.pause_s)
        found, memory.garbage_bytes = memory.garbage_bytes, 0.0
        memory.heap_bytes += found
        return int(found)
