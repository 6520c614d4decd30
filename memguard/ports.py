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

__all__ = ["Clock", "GcDecider", "LimitSource", "Part", "Probe", "Reclaimer", "Shelf", "Sink"]


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
    One that consists of several may list them as ``Part`` values in ``parts()``. One that looks after itself may do so
    in ``tend()``, called about once a second on the guard's thread; it must cost under a millisecond, and is then
    told by ``learn(claimed_bytes, bought_bytes)`` how much of what it claimed came back.
    One that fills while it gives may tell in ``refilled_bytes`` what it took anew during its last attempt: what is in
    use again did come back.
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
class Shelf(Protocol):
    """A cache as the market of all caches sees it; prices are seconds of recomputing that a byte saves per second.

    ``size`` is its accounted bytes (None: it cannot know), cheap enough to ask once a second. ``sample`` gives
    (price per byte, bytes) of up to ``count`` entries picked at random, none of those below its floor. ``shrink``
    evicts what is priced at or below ``below``, expired entries first, until ``wanted_bytes`` are gone, and says how
    many bytes went; ``below`` is infinite when anything may go. A shelf may look after itself in ``tend()``, which is
    called about once a second and must cost under a millisecond.
    """

    @property
    def name(self) -> str: ...

    def size(self) -> int | None: ...

    def sample(self, count: int, /) -> Sequence[tuple[float, int]]: ...

    def shrink(self, wanted_bytes: int, below: float, /) -> int: ...


@runtime_checkable
class Part(Protocol):
    """One of several holders behind one reclaimer, as its ``parts()`` lists them.

    ``bytes`` is what it holds (None: it cannot tell), ``evicted_bytes`` what it says that it has given up so far.
    """

    @property
    def name(self) -> str: ...

    @property
    def bytes(self) -> int | None: ...

    @property
    def evicted_bytes(self) -> int: ...


@runtime_checkable
class Sink(Protocol):
    """Is told events; may fail; is never waited for (a thread of its own calls it).

    One that may take long says so with an attribute ``slow = True``: it gets a queue and a thread of its own. What else
    a sink may have: ``attach(guard)``, called once, for one that looks by itself (it must hold the guard weakly);
    ``flush()``, called after events and about once a second; ``hurry()``, called when the guard stops; ``close()``,
    after the last event of a guard that stopped and may start again; ``forget()``, in a forked child.
    """

    def __call__(self, event: Event, /) -> None: ...


@runtime_checkable
class GcDecider(Protocol):
    """Says when a collection is due: the generation (0 to 2), or None for not now.

    ``start`` and ``stop`` bracket the time it is in force; ``stop`` puts back everything ``start`` changed.
    A decider without them is accepted too.
    """

    def due(self, snapshot: Snapshot, stats: GcStats, /) -> int | None: ...
