"""What every store promises, whichever database it is."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import memguard
from memguard.model import Event, Limit
from memguard.sinks.sql import Row, SqlSink, StoreError
from memguard.testing import FakeClock, FakeMemory, RecordingSink
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.ports import Sink


@dataclass
class Ended:
    """An operation that has ended."""

    id: str = "run-1"
    type: str = "agent.run"
    status: str | None = "done"
    duration_s: float = 1.5
    delta_bytes: float = 10.0 * MIB
    shared_s: float = 0.0


def watched(*sinks: Sink, **settings: Any) -> tuple[memguard.Guard, FakeClock, FakeMemory]:
    """A guard over fake memory that ticks by hand."""
    clock = FakeClock()
    memory = FakeMemory(clock)
    limit = Limit(bytes=512 * MIB, kind="policy", source="test")
    guard = memguard.Guard(limit=limit, probe=memory, clock=clock, roster=memguard.Roster(), sinks=sinks, **settings)
    return guard, clock, memory


def reading(ago_s: float, used_mb: float, *, service: str = "") -> Row:
    """A record from the past."""
    when = datetime.now(UTC) - timedelta(seconds=ago_s)
    values = {
        "timestamp": when, "metric_name": "system.memory.used", "value": used_mb, "unit": "MiB",
        "memory_used_mb": used_mb, "memory_limit_mb": 512.0, "pressure": used_mb / 512, "level": "OK",
        "service": service, "host": "h", "pid": 1,
    }  # fmt: skip
    return Row("metrics", values)


class StorePromises:
    """A subclass brings the fixtures ``store`` (an address) and ``ask`` (runs SQL there)."""

    def test_readings_operations_and_events_are_written(
        self, store: str, ask: Callable[[str], list[tuple[object, ...]]]
    ) -> None:
        """A guard's records, operations and events arrive in their tables, with service, host and process."""
        sink = SqlSink(store, service="chat")
        guard, clock, memory = watched(sink, record_interval_s=10)
        for _ in range(30):
            guard.tick()
            with guard.operation("agent.run"):
                memory.grow(MIB)
            clock.advance(1.0)
        guard.stop()
        rows = ask(
            "SELECT memory_used_mb, memory_limit_mb, value, unit, level, service FROM metrics "
            "WHERE metric_name = 'system.memory.used' ORDER BY id"
        )
        assert [(row[0], *row[1:]) for row in rows] == [
            (64.0, 512.0, 64.0, "MiB", "OK", "chat"), (74.0, 512.0, 74.0, "MiB", "OK", "chat"),
            (84.0, 512.0, 84.0, "MiB", "OK", "chat"),
        ]  # fmt: skip
        assert ask("SELECT count(*) FROM metrics WHERE metric_name = 'memguard.memory.utilization'") == [(3,)]
        assert ask(
            "SELECT operation_type, status, count(*) FROM operation_metrics GROUP BY operation_type, status"
        ) == [("agent.run", "done", 30)]
        assert ("limit.found", "info") in ask("SELECT event_name, severity FROM memguard_events")
        assert sink.lost == 0
        assert sink.written > 30

    def test_a_bad_row_in_a_batch_leaves_nothing_behind(
        self, store: str, ask: Callable[[str], list[tuple[object, ...]]]
    ) -> None:
        """All or nothing: a transaction that fails in its middle has written no row."""
        sink = SqlSink(store)
        sink._tables.write([reading(10, 1.0)])
        bad = Row("metrics", {**reading(5, 2.0).values, "metric_name": None})
        with pytest.raises(StoreError, match="cannot be used"):
            sink._tables.write([reading(6, 3.0), bad])
        sink._tables.write([reading(1, 4.0)])
        assert ask("SELECT memory_used_mb FROM metrics ORDER BY id") == [(1.0,), (4.0,)]
        sink.close()

    def test_old_rows_go(self, store: str, ask: Callable[[str], list[tuple[object, ...]]]) -> None:
        """Retention deletes what is older than it keeps, in every table, and nothing else."""
        sink = SqlSink(store, keep="1h")
        sink._tables.write([reading(7200 + number, 1.0) for number in range(12_000)] + [reading(60, 2.0)])
        sink._prune_at = 0.0
        sink.flush()
        assert ask("SELECT memory_used_mb FROM metrics") == [(2.0,)]
        sink.close()

    def test_the_past_in_steps(self, store: str) -> None:
        """Averages are by step, oldest first, in order, of this service alone."""
        sink = SqlSink(store, service="chat")
        rows = [reading(3600 - 10 * number, float(number), service="chat") for number in range(300)]
        sink._tables.write([*rows, reading(100, 9999.0, service="other")])
        found = sink.averages(3600, 300)
        assert 10 <= len(found) <= 12
        assert [step.unix_s for step in found] == sorted(step.unix_s for step in found)
        assert sum(step.rows for step in found) in {299, 300}
        assert max(step.max_mb for step in found) == 299.0
        assert all(step.min_mb <= step.mean_mb <= step.max_mb for step in found)
        assert sink.averages(3600, 300, metric="nothing") == []
        sink.close()

    def test_a_new_process_remembers(self, store: str) -> None:
        """guard.history() reaches back behind the start of the process, once, oldest first."""
        sink = SqlSink(store)
        sink._tables.write([reading(3000 - 60 * number, 100.0) for number in range(45)])
        guard, clock, _ = watched(sink)
        for _ in range(5):
            guard.tick()
            clock.advance(1.0)
        points = guard.history("1h", "5m")
        assert points[0].mean_bytes == 100.0 * MIB
        assert points[-1].mean_bytes == 64.0 * MIB
        times = [point.unix_s for point in points]
        assert times == sorted(set(times))
        guard.stop()

    def test_several_writers_lose_nothing(self, store: str, ask: Callable[[str], list[tuple[object, ...]]]) -> None:
        """Four stores on one database, each from its own thread: every row is there."""
        wrong: list[BaseException] = []

        def write() -> None:
            sink = SqlSink(store)
            try:
                for number in range(20):
                    sink._tables.write([reading(number, 1.0)] * 5)
            except BaseException as error:  # noqa: BLE001 - shown by the test
                wrong.append(error)
            finally:
                sink.close()

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert ask("SELECT count(*) FROM metrics") == [(400,)]


def failing(sink: SqlSink) -> tuple[RecordingSink, Callable[[], None]]:
    """An ear for what a store tells, and a flush that may be tried again at once."""
    log = RecordingSink()

    def tell(name: str, text: str, **attributes: float) -> None:
        log(Event(at=0.0, name=name, text=text, attributes=attributes))

    def flush() -> None:
        sink._retry_at = 0.0
        sink.flush()

    sink._tell = tell
    return log, flush
