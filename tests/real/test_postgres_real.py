"""The store in a real PostgreSQL: what all stores promise, the runbook's SQL unchanged, and a server that goes away."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memguard.sinks.sql import SqlSink, StoreError
from tests.sinks.stores import Ended, StorePromises, failing, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.real


def _programs() -> Path | None:
    """Where PostgreSQL's own programs are: on PATH, or where Debian puts them."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


class Server:
    """A PostgreSQL of our own, on a socket in a temporary folder, run by somebody who is not root."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="memguard-pg-"))
        candidates = ("postgres", "nobody") if os.getuid() == 0 else ()
        self._user = next((name for name in candidates if _exists(name)), None)
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self.url = f"postgresql://memguard@/postgres?host={self._folder}"
        self._run("initdb", "-D", "data", "-U", "memguard", "-A", "trust", "-N", "-E", "UTF8")

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / name), *arguments],
            cwd=self._folder,
            user=self._user,
            extra_groups=[] if self._user else None,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._folder}' -c fsync=off"
        self._run("pg_ctl", "-D", "data", "-l", "log", "-o", options, "-w", "start")

    def stop(self) -> None:
        """Stop it at once, as a crash of the machine would."""
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for the module; each test has fresh tables."""
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed")
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    made = Server(programs)
    made.start()
    yield made
    made.stop()
    made.remove()


def _ask(server: Server, sql: str) -> list[tuple[object, ...]]:
    import psycopg

    with psycopg.connect(server.url) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def store(server: Server) -> str:
    """The server's address, its tables gone."""
    _ask(server, "DROP TABLE IF EXISTS metrics, operation_metrics, memguard_events")
    return server.url


@pytest.fixture
def ask(server: Server) -> Callable[[str], list[tuple[object, ...]]]:
    """Runs SQL on it."""
    return lambda sql: _ask(server, sql)


class TestPostgres(StorePromises):
    pass


def test_the_runbooks_sql_unchanged(store: str, ask: Callable[[str], list[tuple[object, ...]]]) -> None:
    """date_trunc, NOW() and INTERVAL, as operators type them."""
    sink = SqlSink(store)
    sink._tables.write([reading(60 * number, float(number)) for number in range(120)])
    sink._tables.write([reading(25 * 3600, 9999.0)])
    for number in range(3):
        sink.note(Ended(id=str(number), delta_bytes=number * 2**20))
    sink.flush()
    hours = ask("""
        SELECT date_trunc('hour', timestamp) AS hour, AVG(memory_used_mb) AS avg_memory,
               MAX(memory_used_mb) AS max_memory, COUNT(*) AS samples
        FROM metrics
        WHERE metric_name = 'system.memory.used' AND timestamp > NOW() - INTERVAL '24 hours'
        GROUP BY hour ORDER BY hour DESC
    """)
    assert sum(int(str(row[3])) for row in hours) == 120
    assert max(float(str(row[2])) for row in hours) == 119.0
    types = ask("""
        SELECT operation_type, AVG(memory_delta_mb) AS avg_delta, MAX(memory_delta_mb) AS max_delta, COUNT(*) AS count
        FROM operation_metrics WHERE timestamp > NOW() - INTERVAL '1 hour'
        GROUP BY operation_type ORDER BY avg_delta DESC
    """)
    assert types == [("agent.run", 1.0, 2.0, 3)]
    sink.close()


def test_a_server_that_goes_away_and_comes_back(
    server: Server, store: str, ask: Callable[[str], list[tuple[object, ...]]]
) -> None:
    """Told once while it is away, rows wait, and all of them are there when it is back."""
    sink = SqlSink(store)
    log, flush = failing(sink)
    sink._keep(reading(0, 1.0))
    flush()
    server.stop()
    for _ in range(2):
        sink._keep(reading(0, 2.0))
        flush()
    server.start()
    flush()
    assert log.names == ["store.failed", "store.restored"]
    assert "look at the server" in log.events[0].text
    assert ask("SELECT count(*) FROM metrics") == [(3,)]
    sink.close()


def test_no_password_in_what_is_told(server: Server) -> None:
    """An address with a password is told without it."""
    sink = SqlSink(server.url.replace("memguard@", "nobody:s3cret@"))
    with pytest.raises(StoreError) as caught:
        sink._tables.write([reading(0, 1.0)])
    assert "s3cret" not in str(caught.value)
    assert "nobody" in str(caught.value)
    sink.close()


def test_a_child_does_not_use_its_parents_connection(
    store: str, ask: Callable[[str], list[tuple[object, ...]]]
) -> None:
    """Parent and forked child both write."""
    sink = SqlSink(store)
    sink._tables.write([reading(0, 1.0)])
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sink.forget()
            sink._tables.write([reading(0, 2.0)])
            sink.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sink._tables.write([reading(0, 3.0)])
    assert ask("SELECT count(*) FROM metrics") == [(3,)]
    sink.close()


def test_another_schema_by_its_address(store: str, ask: Callable[[str], list[tuple[object, ...]]]) -> None:
    """Where a table of that name is somebody else's, the address says where ours go."""
    ask("CREATE TABLE metrics (mine text)")
    ask("DROP SCHEMA IF EXISTS memguard CASCADE")
    ask("CREATE SCHEMA memguard")
    sink = SqlSink(store)
    with pytest.raises(StoreError):
        sink._tables.write([reading(0, 1.0)])
    sink.close()
    sink = SqlSink(f"{store}&options=-csearch_path%3Dmemguard")
    sink._tables.write([reading(0, 1.0)])
    assert ask("SELECT count(*) FROM memguard.metrics") == [(1,)]
    sink.close()
