"""The Prometheus text and the client library's registry: every row of the table, nothing that Prometheus refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import memguard
from memguard.metrics import METRICS
from memguard.model import Event
from memguard.sinks.prometheus import PrometheusSink
from memguard.sinks.prometheus_registry import RegistrySink
from memguard.units import MIB
from tests.sinks.stores import watched

if TYPE_CHECKING:
    from memguard.testing import FakeClock, FakeMemory

ROOT = Path(__file__).resolve().parents[2]


def parsed(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What Prometheus's own parser makes of it: samples by name and labels."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            key = tuple(sorted(sample.labels.items()))
            assert key not in series, f"{sample.name}{key} twice"
            series[key] = sample.value
    return found


def busy() -> tuple[memguard.Guard, FakeClock, FakeMemory]:
    """A guard that has seen something of everything."""
    guard, clock, memory = watched(PrometheusSink())
    for number in range(40):
        guard.tick()
        with guard.operation("agent.run"):
            clock.advance(0.3 if number % 2 else 3.0)
    agents: memguard.Pool[object] = guard.pool("agents", max_size=5)
    agents["a"] = object()
    guard.reclaimer('odd "name"\\\n', lambda _: 0, size=lambda: 3 * MIB)
    memory.grow(440 * MIB)
    clock.advance(2.0)
    guard.tick()
    guard.tick()
    with pytest.raises(memguard.AdmissionRefused):
        guard.admit("64MiB")
    guard.tick()
    guard.agents = agents  # type: ignore[attr-defined] # held as long as the guard
    return guard, clock, memory


def test_every_metric_has_its_value() -> None:
    """Usage, limit, refusals, holders, pools, operations, alerts, events: as the guard knows them."""
    guard, _, _ = busy()
    found = parsed(guard.exposition.text())
    assert found["memguard_memory_usage_bytes"][()] == 504 * MIB
    assert found["memguard_memory_limit_bytes"][()] == 512 * MIB
    assert found["memguard_memory_utilization_ratio"][()] == pytest.approx(504 / 512)
    assert found["memguard_memory_level"][()] == 4.0
    assert found["memguard_admission_refused_total"][()] == 1.0
    assert found["memguard_memory_held_bytes"][("holder_name", 'odd "name"\\\n'),] == 3 * MIB
    assert found["memguard_pool_agents"][("pool_name", "agents"),] == 1.0
    assert found["memguard_pool_limit"][("pool_name", "agents"),] == 5.0
    assert found["memguard_alert_active"][("alert_name", "memory"), ("alert_severity", "SEV-1")] == 1.0
    assert found["memguard_event_count_total"][("event_name", "level.changed"),] >= 1.0
    done = ("operation_status", "done"), ("operation_type", "agent.run")
    assert found["memguard_operation_duration_seconds_count"][done] == 40.0
    assert found["memguard_operation_duration_seconds_sum"][done] == pytest.approx(66.0)
    assert found["memguard_operation_duration_seconds_bucket"][("le", "0.5"), *done] == 20.0
    assert found["memguard_operation_duration_seconds_bucket"][("le", "+Inf"), *done] == 40.0
    attempts = found["memguard_memory_relief_attempts_total"]
    assert attempts
    assert {dict(key)["relief_outcome"] for key in attempts} <= {"bought", "useless", "failed", "overdue"}
    took = found["memguard_memory_relief_duration_seconds_count"]
    assert {dict(key)["reclaimer_name"] for key in attempts} <= {dict(key)["reclaimer_name"] for key in took}


def test_a_listener_that_raises_is_left_out() -> None:
    """Whoever hears of reliefs and raises hears of no more, is told of once, and the guard goes on relieving."""
    heard: list[str] = []
    told: list[str] = []

    def broken(relief: object) -> None:
        heard.append(str(relief))
        raise OSError("no room")

    guard, clock, memory = watched(lambda event: told.append(event.text))
    guard.on_relief(broken)

    def pages(_: int) -> int:
        memory.grow(-5 * MIB)
        return 5 * MIB

    guard.reclaimer("pages", pages, size=lambda: 100 * MIB)
    memory.grow(440 * MIB)
    for _ in range(5):
        clock.advance(0.5)
        guard.tick()
    assert len(heard) == 1
    assert guard.snapshot.incident is not None
    assert guard.snapshot.incident.attempts > 1
    assert sum("no room" in text for text in told) == 1


def test_grep_memory_finds_all_of_it() -> None:
    """Every line of a metric about bytes or pressure contains "memory", help and type too."""
    guard, _, _ = busy()
    for line in guard.exposition.text().splitlines():
        if "_bytes" in line or "pressure" in line or "swap" in line:
            assert "memory" in line, line


def test_one_metric_a_line_with_help_and_type() -> None:
    """The text has the format 0.0.4: help, type, samples, and ends with a line end."""
    guard, _, _ = busy()
    text = guard.exposition.text()
    assert text.endswith("\n")
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{.*\})? \S+", line), line
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    known = {row.prometheus: row.kind for row in METRICS.values()}
    assert kinds.items() <= known.items()


def test_labels_of_ones_own() -> None:
    """They go on every series, escaped; names that Prometheus does not take are refused."""
    guard, _, _ = watched(PrometheusSink(labels={"service": 'a "b"'}))
    guard.tick()
    assert all(("service", 'a "b"') in key for series in parsed(guard.exposition.text()).values() for key in series)
    for name in ("9x", "a-b", "__x", ""):
        with pytest.raises(ValueError, match="is no name"):
            PrometheusSink(labels={name: "x"})


def test_without_a_guard_it_is_empty() -> None:
    """A sink that belongs to nobody, or to a guard that is gone, has no numbers and no error."""
    assert PrometheusSink().text() == "\n"
    sink = PrometheusSink()
    watched(sink)
    assert "memguard_memory_usage" not in sink.text()


def test_the_exposition_is_one() -> None:
    """guard.exposition adds itself once, and is told what happens from then on."""
    guard, _, _ = watched()
    assert guard.exposition is guard.exposition
    guard.tell("store.note", "x")
    assert parsed(guard.exposition.text())["memguard_event_count_total"][("event_name", "store.note"),] == 1.0


def test_a_large_service() -> None:
    """50 holders, 20 pools and 50 types of operation are all there."""
    guard, clock, _ = watched(PrometheusSink())
    kept: list[memguard.Pool[object]] = [guard.pool(f"pool {number}", max_size=5) for number in range(20)]
    handles = [guard.reclaimer(f"holder {number}", lambda _: 0, size=lambda: MIB) for number in range(50)]
    for number in range(50):
        with guard.operation(f"type {number}"):
            clock.advance(0.1)
    guard.tick()
    text = guard.exposition.text()
    assert text.count("\n") > 500
    for what, count in (("holder", 50), ("pool", 20), ("type", 50)):
        assert len(set(re.findall(rf'"{what} \d+"', text))) == count
    assert len(kept) + len(handles) == 70


class TestRegistry:
    """The client library's registry shows the same."""

    def test_the_same_numbers(self) -> None:
        """What the registry writes is what our own text says."""
        client: Any = pytest.importorskip("prometheus_client")
        registry = client.CollectorRegistry()
        guard, clock, _ = watched(PrometheusSink(), RegistrySink(registry=registry))
        for _ in range(5):
            guard.tick()
            with guard.operation("agent.run"):
                clock.advance(1.0)
        guard.tick()
        theirs = parsed(client.generate_latest(registry).decode())
        ours = parsed(guard.exposition.text())
        assert set(ours) == {name for name, series in theirs.items() if series}
        for name, series in ours.items():
            if not name.startswith(("memguard_gc", "memguard_event")):
                assert series == theirs[name], name

    def test_two_guards_need_two_registries(self) -> None:
        """The library says so itself, at once."""
        client: Any = pytest.importorskip("prometheus_client")
        registry = client.CollectorRegistry()
        watched(RegistrySink(registry=registry))
        with pytest.raises(ValueError, match="Duplicated"):
            watched(RegistrySink(registry=registry))

    def test_several_processes(self, tmp_path: Path) -> None:
        """With PROMETHEUS_MULTIPROC_DIR set, a scrape shows parent and forked child; nothing counts twice."""
        program = """
import os
import prometheus_client
from prometheus_client import multiprocess
from memguard.sinks.prometheus_registry import RegistrySink
from tests.sinks.stores import watched
sink = RegistrySink(registry=prometheus_client.CollectorRegistry())
guard, clock, memory = watched(sink)

def work(times):
    for _ in range(times):
        guard.tick()
        with guard.operation("agent.run"):
            clock.advance(1.0)
        guard.tell("store.note", "x")
    sink.flush()

work(3)
pid = os.fork()
if pid == 0:
    sink.forget()
    work(2)
    os._exit(0)
os.waitpid(pid, 0)
scraped = prometheus_client.CollectorRegistry()
multiprocess.MultiProcessCollector(scraped)
print(prometheus_client.generate_latest(scraped).decode())
"""
        env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=env, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found = parsed(done.stdout)
        assert found["memguard_event_count_total"][("event_name", "store.note"),] == 5.0
        done_ = ("operation_status", "done"), ("operation_type", "agent.run")
        assert found["memguard_operation_duration_seconds_count"][done_] == 5.0
        assert len(found["memguard_memory_usage_bytes"]) == 2
        assert all("pid" in dict(key) for key in found["memguard_memory_usage_bytes"])


def test_series_that_end_in_several_processes_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolved alert is 0 there, not 1 for ever."""
    client: Any = pytest.importorskip("prometheus_client")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    registry = client.CollectorRegistry()
    sink = RegistrySink(registry=registry)
    guard, clock, memory = watched(sink)
    memory.grow(440 * MIB)
    guard.tick()
    guard.tick()
    sink.flush()
    labels = {"alert_name": "memory", "alert_severity": "SEV-1"}
    assert registry.get_sample_value("memguard_alert_active", labels) == 1.0
    memory.grow(-400 * MIB)
    for _ in range(70):
        clock.advance(1.0)
        guard.tick()
    sink.flush()
    assert registry.get_sample_value("memguard_alert_active", labels) == 0.0


def test_the_exposition_counts_by_event() -> None:
    """Events are counted under their own names."""
    sink = PrometheusSink()
    for _ in range(3):
        sink(Event(at=0.0, name="relief.bought", text="x", attributes={"name": "cache", "bought_bytes": 100}))
    sink(Event(at=0.0, name="relief.useless", text="x", attributes={"name": "cache", "bought_bytes": -5}))
    guard, _, _ = watched()
    sink.attach(guard)
    found = parsed(sink.text())
    assert found["memguard_memory_relief_bought_bytes_total"] == {(("reclaimer_name", "cache"),): 300.0}
    assert found["memguard_memory_relief_attempts_total"] == {
        (("reclaimer_name", "cache"), ("relief_outcome", "bought")): 3.0,
        (("reclaimer_name", "cache"), ("relief_outcome", "useless")): 1.0,
    }
