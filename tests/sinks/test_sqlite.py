"""The store in SQLite: what all stores promise, and what a file may meet."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memguard.sinks import sql, sqlite
from memguard.sinks.sql import SqlSink, StoreError
from tests.sinks.stores import Ended, StorePromises, failing, reading, watched

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A file that is not there yet."""
    return str(tmp_path / "memory.db")


@pytest.fixture
def ask(store: str) -> Callable[[str], list[tuple[object, ...]]]:
    """Runs SQL on it."""

    def run(sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(store)) as connection:
            return connection.execute(sql).fetchall()

    return run


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_S", 0.3)


class TestSqlite(StorePromises):
    @pytest.fixture(autouse=True)
    def _patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sqlite, "_BUSY_S", 20.0)


def test_the_runbooks_sql(store: str, ask: Callable[[str], list[tuple[object, ...]]]) -> None:
    """The operators' questions, in SQLite's words as docs/history.md gives them."""
    sink = SqlSink(store)
    sink._tables.write([reading(60 * number, float(number)) for number in range(120)])
    for number in range(3):
        sink.note(Ended(id=str(number), delta_bytes=number * 2**20))
    sink.flush()
    hours = ask("""
        SELECT strftime('%Y-%m-%d %H:00', timestamp) AS hour, avg(memory_used_mb), max(memory_used_mb), count(*)
        FROM metrics WHERE metric_name = 'system.memory.used' AND timestamp > datetime('now', '-24 hours')
        GROUP BY hour ORDER BY hour DESC
    """)
    assert sum(int(str(row[3])) for row in hours) == 120
    assert len(hours) in {2, 3}
    types = ask("""
        SELECT operation_type, avg(memory_delta_mb), max(memory_delta_mb), count(*)
        FROM operation_metrics WHERE timestamp > datetime('now', '-1 hour') GROUP BY operation_type
    """)
    assert types == [("agent.run", 1.0, 2.0, 3)]
    sink.close()


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}"])
def test_a_file_has_two_spellings(form: str, store: str) -> None:
    """A path, or an address with one."""
    sink = SqlSink(form.format(store))
    sink._tables.write([reading(0, 1.0)])
    sink.close()
    assert Path(store).exists()


@pytest.mark.parametrize("target", ["mysql://x/y", "sqlite://", "sqlite:///", "http://x"])
def test_other_addresses_are_refused(target: str) -> None:
    """An address that is not known fails at once and says which are."""
    with pytest.raises(ValueError, match="write a file's path"):
        SqlSink(target)


def test_wal_and_space_given_back(store: str, ask: Callable[[str], list[tuple[object, ...]]]) -> None:
    """The file is in WAL mode, and shrinks when rows go."""
    sink = SqlSink(store, keep="1h")
    sink._tables.write([reading(7200, 1.0)] * 5000)
    assert ask("PRAGMA journal_mode") == [("wal",)]
    pages = ask("PRAGMA page_count")[0][0]
    sink._prune_at = 0.0
    sink.flush()
    assert int(str(ask("PRAGMA page_count")[0][0])) < int(str(pages)) / 2
    sink.close()


def test_a_killed_process_spoils_nothing(store: str, ask: Callable[[str], list[tuple[object, ...]]]) -> None:
    """SIGKILL in the middle of writing: the file is whole, and what had been written is there."""
    program = f"""
import sys
import tempfile
from memguard.sinks.sql import SqlSink
from tests.sinks.stores import reading
sink = SqlSink({store!r})
for number in range(10**6):
    sink._tables.write([reading(0, 1.0)] * 50)
    print(number, flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert child.stdout is not None
    written = 0
    for line in child.stdout:
        written = int(line) + 1
        if written == 20:
            child.send_signal(signal.SIGKILL)
            break
    child.stdout.close()
    child.wait()
    sink = SqlSink(store)
    sink._tables.write([reading(0, 2.0)])
    assert ask("PRAGMA integrity_check") == [("ok",)]
    count = int(str(ask("SELECT count(*) FROM metrics WHERE memory_used_mb = 1.0")[0][0]))
    assert count >= written * 50
    assert count % 50 == 0
    sink.close()


def _give_up_root() -> None:
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    """Told once, with the mend; rows wait, the guard goes on, and what waits is written when it may be."""
    folder = tmp_path / "here" / "not"
    sink = SqlSink(folder / "memory.db")
    log, flush = failing(sink)
    for _ in range(3):
        sink._keep(reading(0, 1.0))
        flush()
    (failed,) = [event for event in log.events if event.name == "store.failed"]
    assert "SQLITE_CANTOPEN" in failed.text
    assert "make its folder" in failed.text
    folder.mkdir(parents=True)
    flush()
    assert log.names.count("store.restored") == 1
    with closing(sqlite3.connect(folder / "memory.db")) as connection:
        assert connection.execute("SELECT count(*) FROM metrics").fetchone() == (3,)
    sink.close()


def test_a_read_only_file() -> None:
    """A file that may be read only says so in words, to a process that is not root."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.db"
        sink = SqlSink(path)
        sink._tables.write([reading(0, 1.0)])
        sink.close()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _give_up_root()
                sink = SqlSink(path)
                sink._tell = lambda name, text, **_: print(name, text, file=os.fdopen(into, "w"), flush=True)
                sink._keep(reading(0, 1.0))
                sink.flush()
            finally:
                os._exit(0)
        os.close(into)
        os.waitpid(pid, 0)
        with os.fdopen(out) as said:
            text = said.read()
        Path(folder).chmod(0o755)
    assert text.startswith("store.failed")
    assert "SQLITE_READONLY" in text
    assert "name another path" in text


def test_a_full_disk(store: str) -> None:
    """A store that cannot grow keeps what it has, tells, and goes on when there is room."""
    sink = SqlSink(store)
    log, flush = failing(sink)
    sink._keep(reading(0, 1.0))
    flush()
    connection = sink._tables._connection  # type: ignore[attr-defined]
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for _ in range(2000):
        sink._keep(reading(0, 2.0))
    sink.flush()
    assert "its disk is full" in log.events[-1].text
    flush()  # a new connection has no such bound: there is room again
    assert log.names[-1] == "store.restored"
    with closing(sqlite3.connect(store)) as reader:
        assert reader.execute("SELECT count(*) FROM metrics").fetchone() == (2001,)
    sink.close()


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    """Somebody's file of another kind is left alone, byte for byte."""
    path = tmp_path / "settings.yaml"
    path.write_text("important: yes\n" * 100)
    sink = SqlSink(path)
    log, flush = failing(sink)
    sink._keep(reading(0, 1.0))
    flush()
    assert "left alone" in log.events[-1].text
    assert path.read_text() == "important: yes\n" * 100
    assert [each.name for each in tmp_path.iterdir()] == ["settings.yaml"]


def test_a_corrupt_store_is_set_aside(tmp_path: Path) -> None:
    """A spoiled file keeps another name, a new one begins, and that is told."""
    path = tmp_path / "memory.db"
    sink = SqlSink(path)
    sink._tables.write([reading(0, 1.0)] * 3000)
    sink.close()
    spoiled = bytearray(path.read_bytes())
    for page in range(1, len(spoiled) // 4096):
        spoiled[page * 4096 : page * 4096 + 512] = b"\xff" * 512
    path.write_bytes(spoiled)
    log, flush = failing(sink)
    sink._keep(reading(0, 5.0))
    flush()
    flush()
    aside = [each for each in tmp_path.iterdir() if ".corrupt-" in each.name]
    assert any(b"\xff" * 512 in each.read_bytes() for each in aside)
    assert "is kept as memory.db.corrupt-" in " ".join(event.text for event in log.events)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT memory_used_mb FROM metrics").fetchall() == [(5.0,)]
    sink.close()


def test_a_file_that_another_holds(store: str) -> None:
    """A locked file is told of once; rows wait and are all written when it is free."""
    sink = SqlSink(store)
    log, flush = failing(sink)
    sink._keep(reading(0, 1.0))
    flush()
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            sink._keep(reading(0, 2.0))
            flush()
        assert log.names.count("store.failed") == 1
        assert "another process holds it" in log.events[-1].text
        other.execute("ROLLBACK")
    flush()
    with closing(sqlite3.connect(store)) as reader:
        assert reader.execute("SELECT count(*) FROM metrics").fetchone() == (4,)
    sink.close()


def test_somebody_elses_table(store: str) -> None:
    """A table of that name with other columns is told of, and not touched."""
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("CREATE TABLE metrics (mine TEXT)")
        connection.commit()
    sink = SqlSink(store)
    log, flush = failing(sink)
    sink._keep(reading(0, 1.0))
    flush()
    assert log.names[-1] == "store.failed"
    assert "name another path" in log.events[-1].text


def test_a_file_that_was_removed_is_made_anew(store: str, ask: Callable[[str], list[tuple[object, ...]]]) -> None:
    """Rows do not go into a file that nobody sees any more."""
    sink = SqlSink(store)
    sink._tables.write([reading(0, 1.0)])
    for tail in ("", "-wal", "-shm"):
        Path(store + tail).unlink(missing_ok=True)
    sink._tables.write([reading(0, 2.0)])
    assert ask("SELECT memory_used_mb FROM metrics") == [(2.0,)]
    sink.close()


def test_rows_wait_in_a_bounded_queue(tmp_path: Path) -> None:
    """The oldest go first when a store stays away, and they are counted."""
    sink = SqlSink(tmp_path / "no" / "memory.db")
    for number in range(sql._WAITING + 500):
        sink._keep(reading(number, 1.0))
        sink.note(Ended())
    assert sink.lost == 1000
    assert len(sink._rows) == len(sink._ended) == sql._WAITING


def test_it_waits_longer_after_each_failure(tmp_path: Path) -> None:
    """A store that is away is asked after 1, 2, 4 … 60 s, not each second."""
    sink = SqlSink(tmp_path / "no" / "memory.db")
    _, flush = failing(sink)
    sink._keep(reading(0, 1.0))
    waits = []
    for _ in range(8):
        flush()
        waits.append(sink._wait_s)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    tried: list[object] = []
    sink._tables.write = tried.append  # type: ignore[assignment, method-assign]
    sink.flush()
    assert tried == []


def test_a_child_does_not_use_its_parents_connection(
    store: str, ask: Callable[[str], list[tuple[object, ...]]]
) -> None:
    """Parent and forked child both write, and the file stays whole."""
    sink = SqlSink(store)
    sink._tables.write([reading(0, 1.0)])
    sink._keep(reading(0, 7.0))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sink.forget()
            sink._tables.write([reading(0, 2.0)])
            sink.flush()
            sink.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sink.flush()
    assert sorted(str(row[0]) for row in ask("SELECT memory_used_mb FROM metrics")) == ["1.0", "2.0", "7.0"]
    assert ask("PRAGMA integrity_check") == [("ok",)]
    sink.close()


def test_a_started_guard_writes_at_its_stop(store: str, ask: Callable[[str], list[tuple[object, ...]]]) -> None:
    """What happened last is in the file when stop() returns, and the file is closed."""
    import memguard

    sink = SqlSink(store)
    guard = memguard.Guard(limit="4GiB", roster=memguard.Roster(), sinks=(sink,))
    with guard, guard.operation("agent.run"):
        pass
    assert ("guard.stopped",) in ask("SELECT event_name FROM memguard_events")
    assert ask("SELECT operation_type FROM operation_metrics") == [("agent.run",)]
    assert sink._tables._connection is None  # type: ignore[attr-defined]


def test_reading_a_store_that_is_not_there(tmp_path: Path) -> None:
    """averages() says so; guard.history() shows what is in memory all the same."""
    sink = SqlSink(tmp_path / "no" / "memory.db")
    with pytest.raises(StoreError, match="SQLITE_CANTOPEN"):
        sink.averages(3600, 60)
    guard, clock, _ = watched(sink)
    guard.tick()
    clock.advance(1.0)
    assert len(guard.history("1h")) == 1


def test_a_clock_that_was_set_deletes_nothing(
    store: str, ask: Callable[[str], list[tuple[object, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that jumps a year ahead does not make all rows old; one that stays there does, an hour later."""
    sink = SqlSink(store, keep="30d")
    log, flush = failing(sink)
    sink._tables.write([reading(0, 1.0)])
    real = time.time
    monkeypatch.setattr("memguard.sinks.sql.time.time", lambda: real() + 365 * 86400.0)
    sink._prune_at = 0.0
    flush()
    assert ask("SELECT count(*) FROM metrics") == [(1,)]
    assert "the clock was set by +31536000 s" in log.events[-1].text
    sink._prune_at = 0.0
    flush()
    assert ask("SELECT count(*) FROM metrics") == [(0,)]
    sink.close()
