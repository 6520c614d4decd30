"""Meters: the value of every metric in the table, read off a guard, and counted from what it tells.

What exporters share. Reading costs microseconds and asks nobody outside: numbers are those of the last snapshot.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from memguard.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from memguard.model import Event, GcStats, Relief, Snapshot, Vitals

__all__ = ["DURATION", "RELIEF", "Ended", "Meters", "Reading", "Spread", "Watched"]

Reading = tuple[tuple[str, ...], float]
"""Values of a metric's attributes, in the table's order, and its value."""

_RELIEFS = {"relief.bought", "relief.useless", "relief.failed", "relief.overdue"}
DURATION = "memguard.operation.duration"
RELIEF = "memguard.memory.relief.duration"
# As many as operations themselves are told apart by.
_TYPES = 200
OTHER = "other"


class Ended(Protocol):
    """An operation that has ended, as far as it is measured."""

    @property
    def id(self) -> str: ...  # noqa: D102 - the class says what they are
    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def status(self) -> str | None: ...  # noqa: D102
    @property
    def duration_s(self) -> float: ...  # noqa: D102
    @property
    def delta_bytes(self) -> float: ...  # noqa: D102
    @property
    def shared_s(self) -> float: ...  # noqa: D102


class _Operations(Protocol):
    def listen(self, hear: Callable[[Ended], object], /) -> None: ...

    def running_types(self) -> Mapping[str, int]: ...


class _Pool(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def max_size(self) -> int: ...
    def __len__(self) -> int: ...


class _Worker(Protocol):
    @property
    def slot(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def yield_bytes(self) -> int: ...
    @property
    def promised_bytes(self) -> int: ...


class _Alert(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def severity(self) -> str: ...


class Watched(Protocol):
    """What a sink sees of the guard it belongs to; ``memguard.Guard`` has this shape."""

    @property
    def snapshot(self) -> Snapshot: ...  # noqa: D102 - as the guard has it
    @property
    def gc_stats(self) -> GcStats: ...  # noqa: D102
    @property
    def waiting(self) -> int: ...  # noqa: D102
    @property
    def dropped_events(self) -> int: ...  # noqa: D102
    @property
    def sink_failures(self) -> Mapping[str, int]: ...  # noqa: D102
    @property
    def operations(self) -> _Operations: ...  # noqa: D102
    @property
    def pools(self) -> Sequence[_Pool]: ...  # noqa: D102
    @property
    def workers(self) -> Sequence[_Worker]: ...  # noqa: D102
    @property
    def alerts(self) -> Sequence[_Alert]: ...  # noqa: D102
    def tell(self, name: str, text: str, **attributes: str | float | bool) -> None: ...  # noqa: D102
    def now(self) -> float: ...  # noqa: D102
    def on_relief(self, hear: Callable[[Relief], object]) -> None: ...  # noqa: D102


class Spread:
    """How many were how large: counts up to each bound, one for the rest, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds: tuple[float, ...] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.total: float = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Meters:
    """Every metric of one guard; a sink that counts, and a source that is read."""

    def __init__(self) -> None:
        self._guard: Callable[[], Watched | None] = lambda: None
        self._events = Counter[tuple[str, ...]]()
        self._attempts = Counter[tuple[str, ...]]()
        self._bought = Counter[tuple[str, ...]]()
        self._grown: dict[tuple[str, ...], float] = {}
        self._durations: dict[tuple[str, ...], Spread] = {}
        self._reliefs: dict[tuple[str, ...], Spread] = {}

    def attach(self, guard: Watched) -> None:
        """Read this guard from now on; it is held weakly."""
        self._guard = weakref.ref(guard)
        guard.operations.listen(self.note)
        guard.on_relief(self.note_relief)

    def forget(self) -> None:
        """In a forked child: what the parent counted is not ours."""
        for counted in (self._events, self._attempts, self._bought, self._grown, self._durations, self._reliefs):
            counted.clear()

    def __call__(self, event: Event, /) -> None:
        """Count one event."""
        self._events[event.name,] += 1
        if event.name in _RELIEFS:
            name = str(event.attributes.get("name", ""))
            self._attempts[name, event.name.partition(".")[2]] += 1
            self._bought[name,] += max(0, int(event.attributes.get("bought_bytes", 0)))

    def note(self, operation: Ended) -> None:
        """Count an operation that has ended: a microsecond of the thread that ended it."""
        type_ = self._bounded(operation.type)
        key = (type_, operation.status or "done")
        spread = self._durations.get(key)
        if spread is None:
            spread = self._durations.setdefault(key, Spread(METRICS[DURATION].bounds))
        spread.add(operation.duration_s)
        self._grown[type_,] = self._grown.get((type_,), 0.0) + operation.delta_bytes

    def note_relief(self, relief: Relief) -> None:
        """Count how long an attempt took, on the guard's thread: a microsecond."""
        key = (relief.name,)
        spread = self._reliefs.get(key)
        if spread is None:
            if len(self._reliefs) >= _TYPES:
                key = (OTHER,)
            spread = self._reliefs.setdefault(key, Spread(METRICS[RELIEF].bounds))
        spread.add(relief.cost_s)

    def _bounded(self, type_: str) -> str:
        """A type with a series of its own, or the one of all types beyond the bound."""
        return type_ if (type_,) in self._grown or len(self._grown) < _TYPES else OTHER

    def running(self, counts: Mapping[str, int]) -> Iterable[Reading]:
        """How many operations run by type, also of those types of which none runs now."""
        found = Counter[tuple[str, ...]](dict.fromkeys(list(self._grown), 0))
        for type_, count in counts.items():
            found[self._bounded(type_),] += count
        return found.items()

    def read(self, name: str) -> Sequence[Reading]:
        """The present values of a gauge or a counter; () while they are not known, or the guard is gone."""
        guard = self._guard()
        return () if guard is None else tuple(dict(_READERS[name](guard, self)).items())

    def spreads(self, name: str) -> Sequence[tuple[tuple[str, ...], Spread]]:
        """The present counts of a histogram."""
        return tuple({DURATION: self._durations, RELIEF: self._reliefs}.get(name, {}).items())

    @property
    def counted_events(self) -> Iterable[Reading]:
        """How many events of each name."""
        return list(self._events.items())

    @property
    def counted_attempts(self) -> Iterable[Reading]:
        """How many attempts by reclaimer and outcome."""
        return list(self._attempts.items())

    @property
    def grown_bytes(self) -> Iterable[Reading]:
        """By how much memory grew for operations that ended, by type."""
        return list(self._grown.items())

    @property
    def bought_bytes(self) -> Iterable[Reading]:
        """Bytes bought by reclaimer."""
        return list(self._bought.items())


def _one(value: float | None) -> Iterator[Reading]:
    """A single series, or none while its value is unknown."""
    if value is not None:
        yield (), value


def _vital(name: str) -> Callable[[Watched, Meters], Iterable[Reading]]:
    return lambda guard, _: _one(getattr(guard.snapshot.vitals, name, None))


def _of_workers(name: str) -> Callable[[Watched, Meters], Iterable[Reading]]:
    return lambda guard, _: [((str(worker.slot),), getattr(worker, name)) for worker in guard.workers]


def _usage(guard: Watched, _: Meters) -> Iterable[Reading]:
    reading = guard.snapshot.reading
    return _one(None if reading is None else reading.used_bytes)


def _limit(guard: Watched, _: Meters) -> Iterable[Reading]:
    limit = guard.snapshot.limit
    return _one(None if limit is None else limit.bytes)


def _pressure(guard: Watched, _: Meters) -> Iterable[Reading]:
    return _one(None if guard.snapshot.limit is None else guard.snapshot.pressure)


def _stalls(guard: Watched, _: Meters) -> Iterator[Reading]:
    vitals: Vitals | None = guard.snapshot.vitals
    for kind in ("some", "full"):
        ratio: float | None = getattr(vitals, f"psi_{kind}_ratio", None)
        if ratio is not None:
            yield (kind,), ratio


def _held(guard: Watched, _: Meters) -> Iterator[Reading]:
    """Holders, and of one that consists of several these instead: so the series add up."""
    known = {holder.name: holder.size_bytes for holder in guard.snapshot.holders if holder.size_bytes is not None}
    wholes = {name.partition("/")[0] for name in known if "/" in name}
    for name, size_bytes in known.items():
        if name not in wholes:
            yield (name,), size_bytes


_READERS: Mapping[str, Callable[[Watched, Meters], Iterable[Reading]]] = {
    "memguard.memory.usage": _usage,
    "memguard.memory.limit": _limit,
    "memguard.memory.utilization": _pressure,
    "memguard.memory.level": lambda guard, _: _one(int(guard.snapshot.level)),
    "memguard.memory.forecast": lambda guard, _: _one(guard.snapshot.forecast),
    "memguard.memory.rss": _vital("rss_bytes"),
    "memguard.memory.children": _vital("children_bytes"),
    "memguard.memory.page_cache": _vital("page_cache_bytes"),
    "memguard.memory.available": _vital("available_bytes"),
    "memguard.memory.swap.usage": _vital("swap_used_bytes"),
    "memguard.memory.swap.limit": _vital("swap_total_bytes"),
    "memguard.memory.stall": _stalls,
    "memguard.memory.held": _held,
    "memguard.memory.promised": lambda guard, _: _one(guard.snapshot.promised_bytes),
    "memguard.memory.oom_kills": _vital("oom_kills"),
    "memguard.memory.relief.attempts": lambda _, meters: meters.counted_attempts,
    "memguard.memory.relief.bought": lambda _, meters: meters.bought_bytes,
    "memguard.admission.running": lambda guard, _: _one(guard.snapshot.running),
    "memguard.admission.waiting": lambda guard, _: _one(guard.waiting),
    "memguard.admission.refused": lambda guard, _: _one(guard.snapshot.refusals),
    "memguard.gc.collections": lambda guard, _: _one(guard.gc_stats.collections),
    "memguard.gc.full_collections": lambda guard, _: _one(guard.gc_stats.full_collections),
    "memguard.gc.collected": lambda guard, _: _one(guard.gc_stats.collected_objects),
    "memguard.gc.pause.time": lambda guard, _: _one(guard.gc_stats.pause_total_s),
    "memguard.operation.running": lambda guard, meters: meters.running(guard.operations.running_types()),
    "memguard.operation.memory.growth": lambda _, meters: meters.grown_bytes,
    "memguard.worker.memory.usage": _of_workers("used_bytes"),
    "memguard.worker.memory.sheddable": _of_workers("yield_bytes"),
    "memguard.worker.memory.promised": _of_workers("promised_bytes"),
    "memguard.pool.agents": lambda guard, _: [((pool.name,), len(pool)) for pool in guard.pools],
    "memguard.pool.limit": lambda guard, _: [((pool.name,), pool.max_size) for pool in guard.pools],
    "memguard.alert.active": lambda guard, _: [((alert.name, alert.severity), 1) for alert in guard.alerts],
    "memguard.event.count": lambda _, meters: meters.counted_events,
    "memguard.event.dropped": lambda guard, _: _one(guard.dropped_events),
    "memguard.sink.failures": lambda guard, _: [((name,), count) for name, count in guard.sink_failures.items()],
}
