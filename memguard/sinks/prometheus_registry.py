"""Prometheus by its client library: for services that scrape its registry already, also with several processes."""

from __future__ import annotations

import os
from math import nan
from typing import TYPE_CHECKING, Any

from memguard.errors import MissingExtra
from memguard.metrics import METRICS
from memguard.sinks.meters import DURATION, RELIEF, Meters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.metrics import MetricRow
    from memguard.model import Relief
    from memguard.sinks.meters import Ended, Watched

__all__ = ["RegistrySink"]


class RegistrySink(Meters):
    """Puts every metric into a registry of ``prometheus_client``.

    One process: the registry asks when it is scraped. With ``PROMETHEUS_MULTIPROC_DIR`` set, values are written once a
    second where the library's multiprocess collector reads them; gauges then carry the process in the label ``pid``.

    Raises:
        MissingExtra: ``prometheus_client`` is not installed.
    """

    name = "prometheus_client"

    def __init__(self, *, registry: object = None) -> None:
        super().__init__()
        self._client = _client()
        self._registry: Any = self._client.REGISTRY if registry is None else registry
        self._multiprocess = bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
        self.slow: bool = self._multiprocess  # only then is there something to write
        self._made: dict[str, Any] = {}
        self._last: dict[tuple[str, tuple[str, ...]], float] = {}
        self._enrolled = False

    def attach(self, guard: Watched) -> None:
        """Read this guard from now on."""
        super().attach(guard)
        if self._enrolled:
            return
        self._enrolled = True
        if not self._multiprocess:
            self._registry.register(self)
            return
        for row in METRICS.values():
            self._made[row.name] = self._make(row)

    def _make(self, row: MetricRow) -> Any:  # noqa: ANN401 - the library's own kinds
        name, labels, client = row.prometheus.removesuffix("_total"), row.labels, self._client
        if row.kind == "gauge":
            return client.Gauge(name, row.meaning, labels, registry=self._registry, multiprocess_mode="liveall")
        if row.kind == "counter":
            return client.Counter(name, row.meaning, labels, registry=self._registry)
        return client.Histogram(name, row.meaning, labels, registry=self._registry, buckets=row.bounds)

    # --- one process --------------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Any]:
        """What the registry asks for when it is scraped."""
        core = self._client.core
        for row in METRICS.values():
            if row.kind == "histogram":
                yield self._histogram(row)
                continue
            kind = core.GaugeMetricFamily if row.kind == "gauge" else core.CounterMetricFamily
            family = kind(row.prometheus, row.meaning, labels=row.labels)
            for values, value in self.read(row.name):
                family.add_metric(values, value)
            yield family

    def describe(self) -> Iterator[Any]:
        """The names alone: registering must not read a guard."""
        for row in METRICS.values():
            yield self._client.core.Metric(row.prometheus.removesuffix("_total"), row.meaning, row.kind)

    def _histogram(self, row: MetricRow) -> Any:  # noqa: ANN401 - the library's own kind
        family = self._client.core.HistogramMetricFamily(row.prometheus, row.meaning, labels=row.labels)
        for values, spread in self.spreads(row.name):
            counts, so_far = list(spread.counts), 0
            buckets = list[tuple[str, float]]()
            for bound, count in zip([*map(repr, spread.bounds), "+Inf"], counts, strict=True):
                so_far += count
                buckets.append((bound, float(so_far)))
            family.add_metric(values, buckets, spread.total)
        return family

    # --- several processes --------------------------------------------------------------------------------------------

    def note(self, operation: Ended) -> None:
        """Count an operation that has ended."""
        made = self._made.get(DURATION)
        if made is None:
            super().note(operation)
        else:
            made.labels(operation.type, operation.status or "done").observe(operation.duration_s)

    def note_relief(self, relief: Relief) -> None:
        """Count how long an attempt took."""
        made = self._made.get(RELIEF)
        if made is None:
            super().note_relief(relief)
        else:
            made.labels(relief.name).observe(relief.cost_s)

    def flush(self) -> None:
        """Write what has changed, where the multiprocess collector reads it."""
        for name, made in self._made.items():
            row = METRICS[name]
            if row.kind == "histogram":
                continue
            present = dict(self.read(name))
            for values, value in present.items():
                child = made.labels(*values) if values else made
                if row.kind == "gauge":
                    child.set(value)
                elif value > self._last.get((name, values), 0.0):
                    child.inc(value - self._last.get((name, values), 0.0))
                self._last[name, values] = value
            if row.kind == "gauge":
                self._end(name, made, present)

    def _end(self, name: str, made: Any, present: dict[tuple[str, ...], float]) -> None:  # noqa: ANN401 - as _make
        """Series that are no more: files of several processes cannot forget, so they say so."""
        gone = [key for key in self._last if key[0] == name and key[1] not in present]
        for key in gone:
            child = made.labels(*key[1]) if key[1] else made
            child.set(0.0 if name == "memguard.alert.active" else nan)
            del self._last[key]

    def forget(self) -> None:
        """In a forked child: only what happens from now on is ours."""
        super().forget()
        self._last = {
            (name, values): value
            for name, row in METRICS.items()
            if name in self._made and row.kind == "counter"
            for values, value in self.read(name)
        }


def _client() -> Any:  # noqa: ANN401 - a module
    try:
        import prometheus_client  # noqa: PLC0415 - an extra
        import prometheus_client.core  # noqa: PLC0415 - as above
    except ImportError:
        raise MissingExtra("a registry of prometheus_client", "prometheus") from None
    return prometheus_client
