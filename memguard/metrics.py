"""The table of signals, its metrics: from these rows come OpenTelemetry's instruments and the Prometheus text.

Apart from the events, because a started guard tells events and need not know of metrics: 55 KiB.
"""

from __future__ import annotations

from types import MappingProxyType

from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from memguard.kinds import MetricKind

__all__ = ["ATTRIBUTES", "METRICS", "MetricRow"]


@value
class MetricRow:
    """One metric: its name after OpenTelemetry's conventions, its unit after UCUM, and what it means.

    A "gauge" is what is now, a "counter" only grows, a "histogram" counts by size. ``attributes`` are the names that
    tell its series apart, ``bounds`` the upper bounds of a histogram's buckets. ``prometheus`` is its name there.
    """

    name: str
    kind: MetricKind
    unit: str
    meaning: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The attributes as Prometheus names them: ``holder_name``."""
        return tuple(attribute.removeprefix("memguard.").replace(".", "_") for attribute in self.attributes)

    @property
    def prometheus(self) -> str:
        """The name in Prometheus: with the unit, and ``_total`` where it only grows."""
        unit = {"By": "_bytes", "s": "_seconds", "1": "_ratio"}.get(self.unit, "")
        return self.name.replace(".", "_") + unit + "_total" * (self.kind == "counter")


def _metrics(*rows: MetricRow) -> Mapping[str, MetricRow]:
    return MappingProxyType({row.name: row for row in rows})


def _gauge(name: str, unit: str, meaning: str, *attributes: str) -> MetricRow:
    return MetricRow(name=name, kind="gauge", unit=unit, meaning=meaning, attributes=attributes)


def _counter(name: str, unit: str, meaning: str, *attributes: str) -> MetricRow:
    return MetricRow(name=name, kind="counter", unit=unit, meaning=meaning, attributes=attributes)


HOLDER: Final = "memguard.holder.name"
RECLAIMER: Final = "memguard.reclaimer.name"
OUTCOME: Final = "memguard.relief.outcome"
STALL: Final = "memguard.stall.kind"
OPERATION: Final = "memguard.operation.type"
STATUS: Final = "memguard.operation.status"
POOL: Final = "memguard.pool.name"
EVENT: Final = "memguard.event.name"
WORKER: Final = "memguard.worker.slot"
SINK: Final = "memguard.sink.name"
ALERT: Final = "memguard.alert.name"
SEVERITY: Final = "memguard.alert.severity"

ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        HOLDER: "the name a holder of memory is registered by",
        RECLAIMER: "who was asked to give memory back",
        OUTCOME: "what came of it: bought, useless, failed or overdue",
        STALL: "some: at least one task waited for memory; full: all did",
        OPERATION: "the type an operation was given, at most 200 of them",
        STATUS: "how it ended: done, failed or abandoned",
        POOL: "the name of a pool of agents",
        EVENT: "a row of the table of events",
        WORKER: "a small number that no other worker under the same limit has; a successor may get it",
        SINK: "the name of a sink",
        ALERT: "memory, forecast, swap or available",
        SEVERITY: "SEV-1 (act now), SEV-2 (act today), SEV-3 (look)",
    }
)
"""Every attribute of a metric, and what its values are; never an agent, a request or a user."""

# Work of services takes between a fast request and a long agent run; OpenTelemetry's own bounds are for milliseconds.
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

METRICS: Final = _metrics(
    _gauge("memguard.memory.usage", "By", "memory used, as the limit that binds counts it"),
    _gauge("memguard.memory.limit", "By", "the limit that binds"),
    _gauge("memguard.memory.utilization", "1", "memory pressure: usage divided by limit, above 1 when it is passed"),
    _gauge("memguard.memory.level", "{level}", "memory pressure as a level: 0 is ok, 4 an emergency"),
    _gauge(
        "memguard.memory.forecast",
        "s",
        "seconds until the memory limit at the present rate; absent while none is in sight",
    ),
    _gauge("memguard.memory.rss", "By", "resident memory of this process"),
    _gauge("memguard.memory.children", "By", "resident memory of this process's descendants"),
    _gauge("memguard.memory.page_cache", "By", "memory of the group that the kernel drops when it needs it"),
    _gauge("memguard.memory.available", "By", "memory that the machine has left"),
    _gauge("memguard.memory.swap.usage", "By", "swap space in use, the machine's, as part of memory pressure"),
    _gauge("memguard.memory.swap.limit", "By", "swap space there is, beside memory"),
    _gauge(
        "memguard.memory.stall", "1", "share of time lost waiting for memory, the kernel's average over 10 s", STALL
    ),
    _gauge("memguard.memory.held", "By", "memory that a registered holder accounts for", HOLDER),
    _gauge("memguard.memory.promised", "By", "memory promised to admitted work and not yet seen in readings"),
    _counter("memguard.memory.oom_kills", "{kill}", "kills for want of memory that the kernel reports of the group"),
    _counter("memguard.memory.relief.attempts", "{attempt}", "attempts to give memory back", RECLAIMER, OUTCOME),
    _counter("memguard.memory.relief.bought", "By", "memory that attempts gave back, as measured", RECLAIMER),
    MetricRow(
        name="memguard.memory.relief.duration",
        kind="histogram",
        unit="s",
        meaning="how long each attempt to give memory back took, settling trims and collections among them",
        attributes=(RECLAIMER,),
        bounds=_SECONDS,
    ),
    _gauge("memguard.admission.running", "{request}", "admitted work that has not ended"),
    _gauge("memguard.admission.waiting", "{request}", "work that waits for room"),
    _counter("memguard.admission.refused", "{request}", "work that was refused"),
    _counter("memguard.gc.collections", "{collection}", "collections of Python's garbage collector, of any generation"),
    _counter("memguard.gc.full_collections", "{collection}", "collections of the oldest generation"),
    _counter("memguard.gc.collected", "{object}", "objects that collections freed"),
    _counter("memguard.gc.pause.time", "s", "seconds that collections stopped the process"),
    _gauge("memguard.operation.running", "{operation}", "operations under way", OPERATION),
    _gauge(
        "memguard.operation.memory.growth", "By", "what memory grew by, net, for operations that have ended", OPERATION
    ),
    MetricRow(
        name="memguard.operation.duration",
        kind="histogram",
        unit="s",
        meaning="how long operations took",
        attributes=(OPERATION, STATUS),
        bounds=_SECONDS,
    ),
    _gauge("memguard.worker.memory.usage", "By", "resident memory of each worker under a shared limit", WORKER),
    _gauge("memguard.worker.memory.sheddable", "By", "memory that each worker could shed without much harm", WORKER),
    _gauge("memguard.worker.memory.promised", "By", "memory that each worker has promised and not seen yet", WORKER),
    _gauge("memguard.pool.agents", "{agent}", "agents in a pool", POOL),
    _gauge("memguard.pool.limit", "{agent}", "agents that a pool may have", POOL),
    _gauge("memguard.alert.active", "{alert}", "1 for every alert that is raised and not over", ALERT, SEVERITY),
    _counter("memguard.event.count", "{event}", "events told", EVENT),
    _counter("memguard.event.dropped", "{event}", "events that a slow sink did not get"),
    _counter("memguard.sink.failures", "{failure}", "calls of a sink that raised", SINK),
)
"""Every metric by name, from which OpenTelemetry's instruments and the Prometheus text are made."""
