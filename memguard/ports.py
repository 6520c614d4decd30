"""Sockets in the wall: the shapes that the world plugs into.

Every port is a Protocol, matched by shape; nobody inherits. ``tests/contract`` holds one set of promises per
port, run over every implementation and over the shipped fakes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard.kinds import Cost
    from memguard.model import Event, GcStats, Level, Limit, Snapshot

__all__ = ["Clock", "GcDecider", "LimitSource", "Probe", "Reclaimer", "Sink"]


@runtime_checkable
class Clock(Protocol):
    """Tells a monotonic time in seconds; its zero means nothing."""

    def __call__(self) -> float: ...


@runtime_checkable
class Probe(Protocol):
    """Reads how many bytes are used now; knows nothing of limits.

    ``source`` names the measure ("cgroup v1 working set of /a"). ``read`` costs microseconds, raises OSError or
    ValueError when it cannot tell, and never guesses. ``close`` gives descriptors back and may be called twice.
    """

    @property
    def source(self) -> str: ...

    def read(self) -> int: ...

    def close(self) -> None: ...


@runtime_checkable
class LimitSource(Protocol):
    """Finds the limits that hold for this process now, each with its source in words; () when none does."""

    def __call__(self) -> Sequence[Limit]: ...


@runtime_checkable
class Reclaimer(Protocol):
    """Tries to give memory back. It is not trusted: what it claims is told, what it bought is measured.

    ``size`` is how many bytes it could give back at most, None when it cannot know; it is called often and must
    cost microseconds. ``reclaim`` tries to give ``wanted_bytes`` back and may say how many it released;
    it runs on the guard's relief thread, never on a request's.
    ``settles`` marks one that returns to the kernel what others freed (allocator trim, collection);
    ``stalls`` one that stops other threads while it works, so that its share of wall time is capped.
    One that waits for nobody (no lock, no code of others) may say so with an attribute ``prompt = True``: while it is
    quick it is then called on the guard's own thread.
    """

    @property
    def name(self) -> str: ...

    @property
    def cost(self) -> Cost: ...

    @property
    def at(self) -> Level: ...

    @property
    def settles(self) -> bool: ...

    @property
    def stalls(self) -> bool: ...

    def size(self) -> int | None: ...

    def reclaim(self, wanted_bytes: int, /) -> int | None: ...


@runtime_checkable
class Sink(Protocol):
    """Is told events; may fail; is never waited for (a thread of its own calls it)."""

    def __call__(self, event: Event, /) -> None: ...


@runtime_checkable
class GcDecider(Protocol):
    """Says when a collection is due: the generation (0 to 2), or None for not now.

    ``start`` and ``stop`` bracket the time it is in force; ``stop`` puts back everything ``start`` changed.
    A decider without them is accepted too.
    """

    def due(self, snapshot: Snapshot, stats: GcStats, /) -> int | None: ...
