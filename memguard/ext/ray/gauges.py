"""Gauges: a guard's figures among Ray's own metrics (``ray.util.metrics``), one series for each worker of a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import ray
from ray.util.metrics import Counter, Gauge

from memguard.metrics import METRICS, WORKER
from memguard.sinks.meters import Meters

if TYPE_CHECKING:
    from memguard.metrics import MetricRow

__all__ = ["RayMetrics"]

# Ray's agents collect every 10 s.
_EVERY_S: Final = 5.0
# What a node's memory is judged by; series that come and go would stay at their last value in Ray.
_SHOWN: Final = (
    "memguard.memory.usage", "memguard.memory.limit", "memguard.memory.utilization", "memguard.memory.level",
    "memguard.memory.rss", "memguard.memory.promised", "memguard.memory.relief.bought", "memguard.admission.running",
    "memguard.admission.waiting", "memguard.admission.refused", "memguard.pool.agents",
)  # fmt: skip
_SLOT: Final = WORKER.removeprefix("memguard.").replace(".", "_")


class RayMetrics(Meters):
    """A sink that sets Ray's gauges and counters by the guard's last snapshot, every five seconds.

    Names are those of Prometheus (``ray_memguard_memory_usage_bytes`` where Ray exports it). ``worker_slot`` is a small
    number that no other worker of the node has (0: it found no others), since Ray's own ``WorkerId`` is another one for
    each process, and need not be exported. Without Ray's dashboard agent (``ray[default]``) nobody collects them.
    """

    name = "ray"

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[str, Any] = {}
        self._counted: dict[tuple[str, ...], float] = {}
        self._at = float("-inf")
        self._met = False

    def flush(self) -> None:
        """Set them, if it is time."""
        guard = self._guard()
        if guard is None or not ray.is_initialized():
            return
        now = guard.now()
        if self._at <= now < self._at + _EVERY_S:
            return
        self._at = now
        slot = next((worker.slot for worker in guard.workers), 0)
        if not slot and not self._met:  # it is just looking for the others, and a series is not taken back
            self._met = True
            return
        for name in _SHOWN:
            self._set(METRICS[name], str(slot))

    def _set(self, row: MetricRow, slot: str) -> None:
        for labels, figure in self.read(row.name):
            metric = self._metric(row)
            tags = {**dict(zip(row.labels, labels, strict=True)), _SLOT: slot}
            if row.kind == "gauge":
                metric.set(float(figure), tags)
                continue
            key = (row.name, *labels)
            more = figure - self._counted.get(key, 0.0)
            if more > 0.0:
                metric.inc(float(more), tags)
                self._counted[key] = figure

    def _metric(self, row: MetricRow) -> Any:  # noqa: ANN401 - Ray's
        made = self._made.get(row.name)
        if made is None:
            kind: Any = Gauge if row.kind == "gauge" else Counter
            name = row.prometheus.removesuffix("_total")  # Ray adds it
            made = self._made[row.name] = kind(name, row.meaning, (*row.labels, _SLOT))
        return made

    def forget(self) -> None:
        """In a forked child: it is no worker of Ray's."""
        super().forget()
        self._guard = lambda: None
