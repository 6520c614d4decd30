"""SQLite: the store of one machine, by the standard library; several processes may share the file."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memguard.sinks.sql import Average, Row, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

__all__ = ["SqliteTables"]

_COMMON = "service TEXT, host TEXT, pid INTEGER"
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS metrics (id INTEGER PRIMARY KEY, metric_name TEXT NOT NULL, timestamp TEXT NOT NULL,
  value REAL, unit TEXT, memory_used_mb REAL, memory_limit_mb REAL, pressure REAL, level TEXT, {_COMMON});
CREATE INDEX IF NOT EXISTS metrics_by_name ON metrics (metric_name, timestamp);
CREATE TABLE IF NOT EXISTS operation_metrics (id INTEGER PRIMARY KEY, operation_type TEXT NOT NULL, operation_id TEXT,
  status TEXT, timestamp TEXT NOT NULL, duration_s REAL, memory_delta_mb REAL, shared INTEGER, {_COMMON});
CREATE INDEX IF NOT EXISTS operation_metrics_by_time ON operation_metrics (timestamp, operation_type);
CREATE TABLE IF NOT EXISTS memguard_events (id INTEGER PRIMARY KEY, event_name TEXT NOT NULL, timestamp TEXT NOT NULL,
  severity TEXT, text TEXT, attributes TEXT, {_COMMON});
CREATE INDEX IF NOT EXISTS memguard_events_by_time ON memguard_events (timestamp);
"""
_TABLES = ("metrics", "operation_metrics", "memguard_events")
# Rows deleted in one transaction, so that other processes get their turn.
_CHUNK = 5_000
_CHUNKS = 100
# Pages of 4 KiB given back after each pruning.
_PAGES = 2_500
# Another process writes for milliseconds; who holds the file longer is told of.
_BUSY_S = 3.0
_STEPS = 20_000

_MENDS = {
    "SQLITE_READONLY": "it, or its folder, may not be written: change that, or name another path",
    "SQLITE_FULL": "its disk is full: make room, or keep rows for a shorter time",
    "SQLITE_BUSY": "another process holds it: rows wait until that one lets go",
    "SQLITE_LOCKED": "another process holds it: rows wait until that one lets go",
    "SQLITE_NOTADB": "that file is something else and was left alone: name another path",
    "SQLITE_CANTOPEN": "make its folder, see that it may be entered and written, or name another path",
    "SQLITE_IOERR": "its disk fails to read or write: look at the system's log",
    "SQLITE_PERM": "the system does not permit it: look at who owns it",
    "SQLITE_ERROR": "its tables may be somebody else's: name another path",
}


class SqliteTables:
    """Our tables in a file, written by one thread in WAL mode: a crash loses the last second, never the file."""

    def __init__(self, path: str, *, note: Callable[[str], object]) -> None:
        self._path = Path(path).absolute()  # a service may change its folder
        self._note = note
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._strangers: list[sqlite3.Connection] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Insert rows, all or none.

        Raises:
            StoreError: they could not be written; nothing was.
        """
        try:
            self._write(rows)
        except sqlite3.Error as error:
            self.close()
            if _name(error) != "SQLITE_CORRUPT" or not self._set_aside():
                raise self._error(error) from None
            try:
                self._write(rows)
            except sqlite3.Error as again:
                self.close()
                raise self._error(again) from None

    def _write(self, rows: Sequence[Row]) -> None:
        connection = self._open()
        with _transaction(connection):
            for row in rows:
                names = ", ".join(row.values)
                marks = ", ".join("?" * len(row.values))
                values = [_stamp(value) if name == "timestamp" else value for name, value in row.values.items()]
                # Names are ours, values are bound.
                connection.execute(f"INSERT INTO {row.table} ({names}) VALUES ({marks})", values)  # noqa: S608

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            with suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    return self._connection
            self.close()  # somebody moved or deleted the file: what we would write goes nowhere
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or it has no effect
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            connection.execute("PRAGMA synchronous = NORMAL")  # with WAL no crash can spoil the file
            connection.execute("PRAGMA journal_size_limit = 16777216")
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'memguard_events_by_time'").fetchone():
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            self._inode = self._path.stat().st_ino
        except (sqlite3.Error, OSError):
            connection.close()
            raise
        if mode != "wal":
            self._note(
                f"store {self._path}: its file system knows no write-ahead log; other processes may have to wait"
            )
        self._connection = connection
        return connection

    def _set_aside(self) -> bool:
        """Give a spoiled file another name, so that a new one takes its place; False when that cannot be done.

        What another process has put there meanwhile is left alone.
        """
        with suppress(sqlite3.Error), closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as fresh:
            if fresh.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
                return True
        aside = self._path.with_name(f"{self._path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
        try:
            if self._inode in {0, self._path.stat().st_ino}:
                self._path.rename(aside)
                for tail in ("-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        Path(f"{self._path}{tail}").rename(f"{aside}{tail}")
                self._note(f"store {self._path} was corrupt: it is kept as {aside.name}, and a new one has begun")
        except OSError:
            return False
        return True

    def prune(self, before: datetime) -> int:
        """Delete older rows and give their space back; how many there were.

        Raises:
            StoreError: they could not be deleted.
        """
        gone = 0
        try:
            connection = self._open()
            for table in _TABLES:
                for _ in range(_CHUNKS):
                    chosen = f"SELECT id FROM {table} WHERE timestamp < ? LIMIT {_CHUNK}"  # noqa: S608 - our own names
                    with _transaction(connection):
                        sql = f"DELETE FROM {table} WHERE id IN ({chosen})"  # noqa: S608 - as above
                        count = connection.execute(sql, (_stamp(before),)).rowcount
                    gone += count
                    if count < _CHUNK:
                        break
            if gone:
                # execute() takes one step of it, which is one page; a script is stepped to its end.
                connection.executescript(f"PRAGMA incremental_vacuum({_PAGES})")
        except sqlite3.Error as error:
            self.close()
            raise self._error(error) from None
        return gone

    def averages(self, metric: str, service: str, since: datetime, step_s: float) -> Sequence[Average]:
        """A metric's past in steps, on a connection of its own that only reads.

        Raises:
            StoreError: it cannot be read.
        """
        sql = """
            SELECT CAST(strftime('%s', timestamp) / :step AS INTEGER) * :step AS begun, avg(memory_used_mb),
                   min(memory_used_mb), max(memory_used_mb), max(memory_limit_mb), count(*)
            FROM metrics WHERE metric_name = :metric AND service = :service AND timestamp > :since
            GROUP BY begun ORDER BY begun LIMIT :most
        """
        bound = {"step": step_s, "metric": metric, "service": service, "since": _stamp(since), "most": _STEPS}
        try:
            with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)) as connection:
                return [Average(*row) for row in connection.execute(sql, bound)]
        except sqlite3.Error as error:
            raise self._error(error) from None

    def close(self) -> None:
        """Close the file; twice is fine."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def forget(self) -> None:
        """In a forked child: closing the parent's connection would take its locks and its log away from it."""
        if self._connection is not None:
            self._strangers.append(self._connection)
            self._connection = None

    def _error(self, error: sqlite3.Error) -> StoreError:
        name = _name(error)
        mend = next(
            (words for known, words in _MENDS.items() if name.startswith(known)), "rows wait and are tried again"
        )
        return StoreError(f"store {self._path} cannot be used: {error} ({name}); {mend}")


class _transaction:  # noqa: N801 - reads as a statement
    """All or nothing: a connection in autocommit mode has no transaction of its own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._connection.execute("COMMIT")
        elif self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _name(error: sqlite3.Error) -> str:
    name: str = getattr(error, "sqlite_errorname", None) or "SQLITE_ERROR"
    return "SQLITE_CORRUPT" if name.startswith("SQLITE_CORRUPT") else name


def _stamp(value: Any) -> str:  # noqa: ANN401 - a datetime, by the rows' promise
    """UTC as SQLite's own functions write and compare it."""
    text: str = value.strftime("%Y-%m-%d %H:%M:%S.%f")
    return text[:-3]
