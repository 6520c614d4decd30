"""The store: readings, operations and events in SQL tables, in SQLite by default, in PostgreSQL by its address.

Rows wait in bounded queues and are written about once a second, all in one transaction, on a thread that nobody waits
for. A store that cannot be written costs rows, oldest first, and nothing else.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from memguard.errors import MemguardError
from memguard.metrics import METRICS
from memguard.sinks.meters import Meters
from memguard.sinks.seeing import Held, told_of_incident
from memguard.telemetry import EVENTS
from memguard.units import MIB, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from memguard.model import Event
    from memguard.sinks.meters import Ended, Watched

__all__ = ["INCIDENT", "USED", "Average", "Row", "SqlSink", "StoreError", "Tables"]

USED = "system.memory.used"
"""The metric that operators ask the table ``metrics`` for: what the guard judges by, in MiB."""

INCIDENT = "incident_record"
"""The row beside ``incident.closed`` with all that the guard knew of the incident: rules, reliefs, its record."""

# Some 3 to 30 KB for an incident of a minute; a record is bounded by 256 KiB, packed.
_RECORD_CHARS = 512 * 1024
# Rows that wait for a store which cannot be written: some 3 MB of them.
_WAITING = 10_000
_BATCH = 2_000
_FIRST_S = 1.0
_LONGEST_S = 60.0
_PRUNE_S = 3600.0
# Not at the start, when everything else begins too.
_PRUNE_FIRST_S = 60.0
# A clock set by more was wrong, before or now: its word is not enough to delete by.
_MOVED_S = 600.0


class StoreError(MemguardError, OSError):
    """A store that cannot be written or read now: which, why, and the mend."""


class Row(NamedTuple):
    """One row on its way: the table, and its values by column; ``timestamp`` is an aware ``datetime``."""

    table: str
    values: Mapping[str, object]


class Average(NamedTuple):
    """One step of a metric's past, in MiB: when it began (seconds since 1970), mean, least, greatest, how many."""

    unix_s: float
    mean_mb: float
    min_mb: float
    max_mb: float
    limit_mb: float | None
    rows: int


class Tables(Protocol):
    """A database with our tables in it, reached from one thread, made where they are missing."""

    def write(self, rows: Sequence[Row]) -> None: ...  # noqa: D102 - the class says what it is

    def prune(self, before: datetime) -> int: ...  # noqa: D102

    def averages(self, metric: str, service: str, since: datetime, step_s: float) -> Sequence[Average]: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102

    def forget(self) -> None: ...  # noqa: D102


class SqlSink(Meters):
    """Writes what a guard reads and tells into a database.

    Tables: ``metrics`` (one row a metric and record), ``operation_metrics`` (one row an operation that has ended),
    ``memguard_events``. Several processes may write to one store.

    Args:
        target: a file for SQLite (or "sqlite:///path"), or the address of a PostgreSQL ("postgresql://…").
        keep: how long rows are kept.
        service: the service's name in every row; by default ``OTEL_SERVICE_NAME``, or else "".
        records: whether each incident's record is kept, too, so that ``memguard replay`` can decide it again.

    Raises:
        ValueError: an address of neither kind, or no duration.
        MissingExtra: PostgreSQL without ``pymemguard[postgres]``.
    """

    name = "sql"
    slow = True

    def __init__(
        self,
        target: str | os.PathLike[str] = "memguard.db",
        *,
        keep: str | float = "14d",
        service: str | None = None,
        records: bool = True,
    ) -> None:
        super().__init__()
        self._held = Held() if records else None
        self._keep_s = parse_seconds(keep)
        self._tables, self._notes = _tables(target)
        self._who = {
            "service": os.environ.get("OTEL_SERVICE_NAME", "") if service is None else service,
            "host": socket.gethostname(),
        }
        self._rows: deque[Row] = deque(maxlen=_WAITING)
        self._ended: deque[tuple[Ended, float]] = deque(maxlen=_WAITING)
        self._batch: list[Row] = []
        self._clock: Callable[[], float] = time.monotonic
        self._tell: Callable[..., None] | None = None
        self._retry_at = 0.0
        self._wait_s = 0.0
        self._prune_at = time.monotonic() + _PRUNE_FIRST_S
        self._offset_s = time.time() - time.monotonic()
        self._lost_before = 0
        self.lost: int = 0
        """Rows that were dropped because the store could not be written."""
        self.written: int = 0
        """Rows that were written."""

    def attach(self, guard: Watched) -> None:
        """Write what this guard reads and tells."""
        super().attach(guard)
        self._clock, self._tell = guard.now, guard.tell

    # --- taking down --------------------------------------------------------------------------------------------------

    def note(self, operation: Ended) -> None:
        """Keep an operation that has ended until the next write."""
        if len(self._ended) == _WAITING:
            self.lost += 1
        self._ended.append((operation, self._clock()))

    def __call__(self, event: Event, /) -> None:
        """Keep an event, or the readings that it announces, until the next write."""
        super().__call__(event)
        when = self._when(event.at)
        if event.name == "reading.recorded":
            for row in self._readings(event, when):
                self._keep(row)
            return
        told = EVENTS.get(event.name)  # an application may tell events of its own
        self._keep_event(event.name, "info" if told is None else told.severity, when, event.text, event.attributes)
        guard = self._guard()
        if guard is None or self._held is None:
            return
        if event.name == "incident.opened":
            self._held.opened(guard, event)
        elif event.name == "incident.closed":
            record = self._held.closed(guard, event)
            more = told_of_incident(guard, event, record)
            if len(more.get("record", "")) > _RECORD_CHARS:
                del more["record"]
                more["note"] = "its record was too large for the store"
            self._keep_event(INCIDENT, "info", when, event.text, {"at": event.at, **more})

    def _keep_event(
        self, name: str, severity: str, when: datetime, text: str, attributes: Mapping[str, object]
    ) -> None:
        shown = json.dumps(dict(attributes), default=str)
        known = {"event_name": name, "severity": severity, "text": text, "attributes": shown}
        self._keep(self._row("memguard_events", when, known))

    def _readings(self, event: Event, when: datetime) -> Sequence[Row]:
        """One row for what is used, and one for each metric that is a single number."""
        known = event.attributes
        used_mb, limit = _mb(known.get("used_bytes")), known.get("limit_bytes")
        beside = {
            "memory_used_mb": used_mb,
            "memory_limit_mb": None if limit is None else _mb(limit),
            "pressure": known.get("pressure"),
            "level": known.get("level"),
        }
        values = [(USED, used_mb, "MiB")]
        for row in METRICS.values():
            if row.kind != "histogram" and not row.attributes:
                values += [(row.name, value, row.unit) for _, value in self.read(row.name)]
        return [
            self._row("metrics", when, {"metric_name": name, "value": value, "unit": unit, **beside})
            for name, value, unit in values
        ]

    def _row(self, table: str, when: datetime, values: Mapping[str, object]) -> Row:
        return Row(table, {"timestamp": when, **values, **self._who, "pid": os.getpid()})

    def _keep(self, row: Row) -> None:
        if len(self._rows) == _WAITING:
            self.lost += 1
        self._rows.append(row)

    def _when(self, at: float) -> datetime:
        return datetime.fromtimestamp(time.time() - (self._clock() - at), UTC)

    # --- writing ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what waits, unless the last try has just failed; called about once a second on the sink's thread."""
        now = time.monotonic()
        if now < self._retry_at:
            return
        try:
            while self._next():
                self._tables.write(self._batch)
                self.written += len(self._batch)
                self._batch = []
            if now >= self._prune_at:
                self._prune_at = now + _PRUNE_S
                self._prune(now)
        except StoreError as error:
            self._failed(error, now)
            return
        if self._wait_s:
            self._wait_s, lost = 0.0, self.lost - self._lost_before
            self._say("store.restored", f"the store is written again; {lost} rows were lost", lost=lost)
        while self._notes:
            self._say("store.note", self._notes.pop(0))

    def _prune(self, now: float) -> None:
        """Delete what is older than it is kept, unless the clock says so only since it was set."""
        offset_s = time.time() - now
        moved_s, self._offset_s = offset_s - self._offset_s, offset_s
        if abs(moved_s) > _MOVED_S:
            self._notes.append(f"the clock was set by {moved_s:+.0f} s: nothing is deleted for being old for an hour")
            return
        self._tables.prune(datetime.fromtimestamp(max(0.0, time.time() - self._keep_s), UTC))

    def _next(self) -> bool:
        """Take the next rows to write, after those that could not be written last time; whether there are any."""
        while self._ended and len(self._batch) < _BATCH:
            operation, at = self._ended.popleft()
            known = {
                "operation_type": operation.type,
                "operation_id": operation.id,
                "status": operation.status,
                "duration_s": operation.duration_s,
                "memory_delta_mb": operation.delta_bytes / MIB,
                "shared": operation.shared_s > 0.0,
            }
            self._batch.append(self._row("operation_metrics", self._when(at), known))
        while self._rows and len(self._batch) < _BATCH:
            self._batch.append(self._rows.popleft())
        return bool(self._batch)

    def _failed(self, error: StoreError, now: float) -> None:
        if not self._wait_s:
            self._lost_before = self.lost
            self._say("store.failed", str(error))
        self._wait_s = min(self._wait_s * 2.0 or _FIRST_S, _LONGEST_S)
        self._retry_at = now + self._wait_s

    def _say(self, name: str, text: str, **attributes: float) -> None:
        if self._tell is not None:
            self._tell(name, text, **attributes)

    def hurry(self) -> None:
        """The guard stops: the last write is tried at once."""
        self._retry_at = 0.0

    def close(self) -> None:
        """Close the database; the next write opens it again."""
        self._tables.close()

    def forget(self) -> None:
        """In a forked child: the parent's rows are its to write, and its connection may not be used."""
        super().forget()
        self._rows.clear()
        self._ended.clear()
        self._batch = []
        self._tables.forget()

    # --- looking back -------------------------------------------------------------------------------------------------

    def averages(self, duration_s: float, step_s: float, *, metric: str = USED) -> Sequence[Average]:
        """A metric's past in this service, in steps, oldest first, those without a row left out.

        Raises:
            StoreError: the store cannot be read.
        """
        if self._wait_s:  # nobody has to wait for a connection that cannot be had
            raise StoreError(f"the store is away: it could not be written, and is tried again every {self._wait_s:g} s")
        oldest_s = max(0.0, time.time() - min(duration_s, self._keep_s))
        since = datetime.fromtimestamp(oldest_s, UTC)
        return self._tables.averages(metric, self._who["service"], since, max(1.0, step_s))


def _mb(count: object) -> float:
    return float(count) / MIB if isinstance(count, (int, float)) else 0.0


def _tables(target: str | os.PathLike[str]) -> tuple[Tables, list[str]]:
    """Where rows go, and what is to be told about it."""
    notes = list[str]()
    text = os.fspath(target)
    scheme, apart, rest = text.partition("://")
    if not apart:
        from memguard.sinks.sqlite import SqliteTables  # noqa: PLC0415 - 1 MB that other stores need not pay for

        return SqliteTables(text, note=notes.append), notes
    if scheme == "sqlite" and rest.startswith("/") and rest != "/":
        from memguard.sinks.sqlite import SqliteTables  # noqa: PLC0415 - as above

        return SqliteTables(rest[1:], note=notes.append), notes
    if scheme in {"postgres", "postgresql", "postgresql+psycopg"}:
        from memguard.sinks.postgres import PostgresTables  # noqa: PLC0415 - as above

        return PostgresTables(f"postgresql+psycopg://{rest}"), notes
    raise ValueError(
        f"store {scheme + '://…'!r} is no address of a database that is known here: write a file's path, "
        "'sqlite:///path' or 'postgresql://user@host/database'"
    )
