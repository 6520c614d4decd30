"""OpenTelemetry: every metric as an instrument, refusals as events of the request's own span.

With the API alone nothing is measured and nothing is sent. Logs go by ``logging``, see ``log``.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from memguard.metrics import METRICS, OPERATION, RECLAIMER, STATUS
from memguard.sinks.meters import DURATION, RELIEF, Meters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memguard.errors import AdmissionRefused
    from memguard.metrics import MetricRow
    from memguard.model import Event, Relief
    from memguard.sinks.meters import Ended, Watched

__all__ = ["OtelSink"]

# Operations between two flushes, one second apart.
_QUEUE = 8192


class OtelSink(Meters):
    """Makes the instruments of the table; a provider's reader then reads the guard's last snapshot through them.

    Args:
        meter_provider: whose meters; by default the global one, also when it is set later.
        spans: whether a refused request's span gets an event ``memguard.admission.refused``.
    """

    name = "otel"
    slow = True

    def __init__(self, *, meter_provider: object = None, spans: bool = True) -> None:
        super().__init__()
        self._provider: Any = meter_provider
        self._spans = spans
        self._ended: deque[Ended] = deque(maxlen=_QUEUE)
        self._took: deque[tuple[str, float]] = deque(maxlen=_QUEUE)
        self._spreads_out: dict[str, Any] = {}
        self._instruments: list[object] = []  # the API holds proxies weakly

    def attach(self, guard: Watched) -> None:
        """Make the instruments and read this guard through them."""
        super().attach(guard)
        if not self._instruments:
            self._make()
        gate: Any = getattr(guard, "gate", None)
        if self._spans and gate is not None:
            gate.on_refusal = self._marker()

    def _make(self) -> None:
        from opentelemetry import metrics  # noqa: PLC0415 - 5 MB that only its users pay for

        provider = metrics.get_meter_provider() if self._provider is None else self._provider
        meter = provider.get_meter("memguard", _version())
        for row in METRICS.values():
            told: dict[str, Any] = {"unit": row.unit, "description": row.meaning}
            if row.kind == "histogram":
                try:
                    made = meter.create_histogram(row.name, **told, explicit_bucket_boundaries_advisory=row.bounds)
                except TypeError:  # an API before 1.30 has no advisory
                    made = meter.create_histogram(row.name, **told)
                self._spreads_out[row.name] = made
            else:
                observe = self._observer(row, metrics.Observation)
                create = meter.create_observable_gauge if row.kind == "gauge" else meter.create_observable_counter
                made = create(row.name, callbacks=[observe], **told)
            self._instruments.append(made)

    def _observer(self, row: MetricRow, observation: Callable[..., Any]) -> Callable[[object], Iterable[Any]]:
        def observe(_: object) -> Iterable[Any]:
            return [
                observation(value, dict(zip(row.attributes, values, strict=True)))
                for values, value in self.read(row.name)
            ]

        return observe

    def _marker(self) -> Callable[[str, AdmissionRefused], None]:
        from opentelemetry import trace  # noqa: PLC0415 - as in _make

        current = trace.get_current_span

        def mark(label: str, refused: AdmissionRefused) -> None:
            try:
                span = current()
                if span.is_recording():
                    span.add_event("memguard.admission.refused", _attributes(label, refused))
            except Exception:  # noqa: BLE001, S110 - a request is refused all the same
                pass

        return mark

    def note(self, operation: Ended) -> None:
        """Keep an operation that has ended until the next flush."""
        self._ended.append(operation)

    def note_relief(self, relief: Relief) -> None:
        """Keep how long an attempt took until the next flush."""
        self._took.append((relief.name, relief.cost_s))

    def flush(self) -> None:
        """Record what has ended, on a thread that nobody waits for."""
        ended, took = self._ended, self._took
        while ended:
            one = ended.popleft()
            self._spreads_out[DURATION].record(one.duration_s, {OPERATION: one.type, STATUS: one.status or "done"})
        while took:
            name, cost_s = took.popleft()
            self._spreads_out[RELIEF].record(cost_s, {RECLAIMER: name})

    def forget(self) -> None:
        """In a forked child: what the parent counted is not ours."""
        super().forget()
        self._ended.clear()
        self._took.clear()

    def __call__(self, event: Event, /) -> None:
        """Count one event."""
        super().__call__(event)


def _attributes(label: str, refused: AdmissionRefused) -> dict[str, str | float | int]:
    known: dict[str, str | float | int | None] = {
        "memguard.admission.label": label,
        "memguard.admission.reason": refused.reason,
        "memguard.memory.level": refused.level,
        "memguard.admission.retry_after": refused.retry_after_s,
        "memguard.admission.wanted": refused.wanted_bytes,
    }
    return {name: value for name, value in known.items() if value is not None}


def _version() -> str:
    """The front door's, which stands above this room and is open already."""
    return str(getattr(sys.modules.get("memguard"), "__version__", ""))
