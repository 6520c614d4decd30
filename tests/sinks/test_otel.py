"""OpenTelemetry: nothing without an SDK, everything with one, names after its conventions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import memguard
from memguard.metrics import ATTRIBUTES, METRICS
from memguard.sinks.meters import _READERS as READERS
from memguard.sinks.otel import OtelSink
from memguard.units import MIB
from tests.sinks.stores import watched

if TYPE_CHECKING:
    from tests.sinks.conftest import Receiver

ROOT = Path(__file__).resolve().parents[2]


class TestNames:
    """The table follows OpenTelemetry's conventions for names and units."""

    def test_lower_case_dotted_and_ours(self) -> None:
        """Names and attributes are lower case, dotted, and all ours: nobody else's sums are doubled."""
        for name in (*METRICS, *ATTRIBUTES):
            assert re.fullmatch(r"memguard(\.[a-z][a-z0-9]*(_[a-z0-9]+)*)+", name), name

    def test_units_are_ucum_and_not_in_the_name(self) -> None:
        """By, s, 1 or a counted thing in braces, singular; the name repeats neither unit nor total."""
        for row in METRICS.values():
            assert re.fullmatch(r"By|s|1|\{[a-z]+[^s]\}", row.unit), row
            assert not re.search(r"(bytes|seconds|ratio|total)$", row.name), row.name

    def test_no_name_is_another_ones_folder(self) -> None:
        """A metric is no namespace of others, nor an attribute's."""
        for name in METRICS:
            assert [other for other in (*METRICS, *ATTRIBUTES) if other.startswith(f"{name}.")] == [], name

    def test_none_is_taken(self) -> None:
        """No semantic convention has one of our names."""
        metrics: Any = pytest.importorskip("opentelemetry.semconv.metrics")
        taken = {value for value in vars(metrics.MetricInstruments).values() if isinstance(value, str)}
        assert taken
        assert not taken & set(METRICS)

    def test_attributes_are_few_and_explained(self) -> None:
        """Every attribute has its line, and none names an agent, a request or a user."""
        used = {attribute for row in METRICS.values() for attribute in row.attributes}
        assert used == set(ATTRIBUTES)
        assert not [name for name in used if re.search(r"\.id$|agent|user|request|session", name)]

    def test_histograms_are_for_seconds(self) -> None:
        """Bounds rise from milliseconds to minutes, in seconds."""
        for row in METRICS.values():
            if row.kind == "histogram":
                assert row.unit == "s"
                assert list(row.bounds) == sorted(set(row.bounds))
                assert row.bounds[0] <= 0.01
                assert row.bounds[-1] >= 60
            else:
                assert row.bounds == ()

    def test_every_row_is_read(self) -> None:
        """No gauge or counter of the table is a promise that nobody keeps, and none is read that it does not have."""
        assert set(READERS) == {name for name, row in METRICS.items() if row.kind != "histogram"}


def _collected(reader: Any) -> dict[str, Any]:
    data = reader.get_metrics_data()
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if scope.scope.name == "memguard"
    }


def test_a_real_sdk_reads_the_snapshot() -> None:
    """Gauges, counters and the histogram arrive with values, units, attributes and our bounds."""
    sdk: Any = pytest.importorskip("opentelemetry.sdk.metrics")
    export: Any = pytest.importorskip("opentelemetry.sdk.metrics.export")
    reader = export.InMemoryMetricReader()
    provider = sdk.MeterProvider([reader])
    sink = OtelSink(meter_provider=provider)
    guard, clock, memory = watched(sink)
    for _ in range(5):
        guard.tick()
        with guard.operation("agent.run"):
            clock.advance(2.0)

    def pages(_: int) -> int:
        clock.advance(0.2)
        return 0

    guard.reclaimer("pages", pages)
    memory.grow(440 * MIB)
    guard.tick()
    guard.tick()
    with pytest.raises(memguard.AdmissionRefused):
        guard.admit("1MiB")
    guard.tick()
    sink.flush()
    found = _collected(reader)
    usage = found["memguard.memory.usage"]
    assert (usage.unit, usage.data.data_points[0].value) == ("By", 504 * MIB)
    assert found["memguard.memory.level"].data.data_points[0].value == 4
    refused = found["memguard.admission.refused"]
    assert refused.data.is_monotonic
    assert refused.data.data_points[0].value == 1
    duration = found["memguard.operation.duration"].data.data_points[0]
    assert (duration.count, duration.sum) == (5, pytest.approx(10.0))
    assert tuple(duration.explicit_bounds) == METRICS["memguard.operation.duration"].bounds
    assert dict(duration.attributes) == {"memguard.operation.type": "agent.run", "memguard.operation.status": "done"}
    reliefs = found["memguard.memory.relief.duration"].data.data_points
    assert tuple(reliefs[0].explicit_bounds) == METRICS["memguard.memory.relief.duration"].bounds
    of_pages = {"memguard.reclaimer.name": "pages"}
    assert [point.sum >= 0.2 * point.count > 0 for point in reliefs if dict(point.attributes) == of_pages] == [True]
    assert set(found) <= set(METRICS)
    provider.shutdown()


def test_a_guard_that_is_gone_has_no_values() -> None:
    """The provider's reader goes on without an error, and the guard is not kept alive."""
    sdk: Any = pytest.importorskip("opentelemetry.sdk.metrics")
    export: Any = pytest.importorskip("opentelemetry.sdk.metrics.export")
    import gc
    import weakref

    reader = export.InMemoryMetricReader()
    provider = sdk.MeterProvider([reader])
    guard, _, _ = watched(OtelSink(meter_provider=provider))
    guard.tick()
    seen = weakref.ref(guard)
    del guard
    gc.collect()
    assert seen() is None
    reader.get_metrics_data()
    provider.shutdown()


def test_a_refused_requests_span_gets_an_event() -> None:
    """The request's own span says that it was refused, why, and when to come again."""
    trace: Any = pytest.importorskip("opentelemetry.sdk.trace")
    export: Any = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory_export: Any = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory_export.InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    guard, _, memory = watched(OtelSink())
    memory.grow(440 * MIB)
    guard.tick()
    guard.tick()
    with provider.get_tracer("test").start_as_current_span("POST /agents"), pytest.raises(memguard.AdmissionRefused):
        guard.admit("1MiB", label="POST /agents")
    with pytest.raises(memguard.AdmissionRefused):
        guard.admit("1MiB")
    ((event,),) = [span.events for span in exporter.get_finished_spans()]
    assert event.name == "memguard.admission.refused"
    assert event.attributes["memguard.memory.level"] == "EMERGENCY"
    assert event.attributes["memguard.admission.label"] == "POST /agents"
    assert event.attributes["memguard.admission.wanted"] == MIB
    assert "504.0 MiB of 512.0 MiB used" in event.attributes["memguard.admission.reason"]
    assert event.attributes["memguard.admission.retry_after"] > 0


def test_a_real_exporter_delivers(receiver: Receiver) -> None:
    """OTLP over HTTP to a collector: the request carries our metrics, names and units."""
    sdk: Any = pytest.importorskip("opentelemetry.sdk.metrics")
    export: Any = pytest.importorskip("opentelemetry.sdk.metrics.export")
    otlp: Any = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.metric_exporter")
    messages: Any = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    receiver.answer = lambda _: (200, {"Content-Type": "application/x-protobuf"})
    exporter = otlp.OTLPMetricExporter(endpoint=f"http://127.0.0.1:{receiver.port}/v1/metrics")
    reader = export.PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = sdk.MeterProvider([reader])
    guard, clock, _ = watched(OtelSink(meter_provider=provider))
    guard.tick()
    clock.advance(1.0)
    provider.force_flush()
    provider.shutdown()
    path, _, body = receiver.requests[0]
    assert path == "/v1/metrics"
    sent = messages.ExportMetricsServiceRequest.FromString(body)
    metrics = {
        metric.name: metric
        for resource in sent.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert metrics["memguard.memory.usage"].unit == "By"
    assert metrics["memguard.memory.usage"].gauge.data_points[0].as_int == 64 * MIB


def test_the_api_alone_does_nothing() -> None:
    """Without an SDK no reader ever calls, no request costs more than a look at its span, and nothing fails."""
    program = """
import sys
from tests.sinks.stores import watched
from memguard.sinks.otel import OtelSink
sink = OtelSink()
guard, clock, memory = watched(sink)
calls = []
read = sink.read
sink.read = lambda name: calls.append(name) or read(name)
for _ in range(50):
    guard.tick()
    with guard.operation("agent.run"):
        clock.advance(1.0)
sink.flush()
assert calls == [], calls
assert not any(name.startswith("opentelemetry.sdk") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
