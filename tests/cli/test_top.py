"""``memguard top`` shows the guards that tell of themselves, by ledger or by control API, and ends cleanly."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from memguard.cli import top
from memguard.cli.guards import LedgerGuards, RemoteGuard, Seen
from memguard.errors import MemguardError
from memguard.model import Level
from memguard.workers.ledger import SharedLedger
from memguard.workers.slots import Said

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MIB = 1 << 20
MEMORY = {
    "level": "WARNING", "pressure": 0.82, "running": True, "limit_bytes": 512 * MIB,
    "limit_source": "cgroup v2 / memory.max", "used_bytes": 420 * MIB, "forecast_s": 90.0, "process": {"pid": 7},
    "running_requests": 3, "refused_requests": 1, "holders": [{"name": "embeddings", "bought_mb": 12.0, "attempts": 2}],
}  # fmt: skip
TOP = {"consumers": [{"name": "embeddings", "kind": "cache", "memory_mb": 100.0, "share": 0.2, "reclaimable_mb": 90.0}]}


class _Guards:
    """Guards as they are told to be; a MemguardError is raised."""

    def __init__(self, *looks: Sequence[Seen] | MemguardError | type[BaseException]) -> None:
        self._looks = list(looks)

    def look(self) -> Sequence[Seen]:
        now = self._looks.pop(0)
        if isinstance(now, MemguardError):
            raise now
        if isinstance(now, type):
            raise now
        return now


def _seen(**more: Any) -> Seen:
    known: dict[str, Any] = {
        "pid": 4711, "where": "web", "command": "uvicorn app:app", "level": "CRITICAL", "state": "serving",
        "used_bytes": 470 * MIB, "limit_bytes": 512 * MIB, "pressure": 470 / 512,
    }  # fmt: skip
    return Seen(**{**known, **more})


def test_a_worker_in_a_ledger_is_seen(tmp_path: Path) -> None:
    """Whoever published is listed with what he said, by pid and command; one who has left is not."""
    ledger = SharedLedger(str(tmp_path / "web.workers1"), now=time.monotonic())
    guards = LedgerGuards(folders=[str(tmp_path)])
    assert guards.look() == []
    said = Said(level=int(Level.WARNING), running=3, beat_at=time.monotonic(), used_bytes=300 * MIB, yield_bytes=MIB)
    ledger.publish(said)
    (one,) = guards.look()
    assert (one.pid, one.where, one.level, one.state) == (os.getpid(), "web", "WARNING", "serving")
    assert (one.used_bytes, one.shed_bytes, one.running, one.refusals) == (300 * MIB, MIB, 3, 0)
    assert one.limit_bytes is None or one.limit_bytes > 0
    assert "python" in one.command or "pytest" in one.command
    ledger.close(now=time.monotonic())
    assert guards.look() == []


def test_nothing_in_a_ledger_makes_it_raise(tmp_path: Path) -> None:
    """Files that are no ledgers, cut short or full of anything, show nobody."""
    for number, content in enumerate((b"", b"\0" * 64, b"\xff" * 16384, os.urandom(16384), b"mgworks1" + b"\1" * 500)):
        (tmp_path / f"f{number}.workers1").write_bytes(content)
    (tmp_path / "folder.workers1").mkdir()
    assert LedgerGuards(folders=[str(tmp_path)]).look() == []


def test_one_look(capsys: pytest.CaptureFixture[str]) -> None:
    """--once prints a table without colours, of 80 columns at most, and ends with 0."""
    assert top.main(["--once"], guards=[_Guards([_seen(), _seen(pid=12, command="x" * 300, level="OK")])]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("2 guards")
    assert told[1].split() == ["PID", "LEVEL", "USED", "LIMIT", "%", "SHED", "RUNS", "REFUSED", "COMMAND"]
    assert told[2].startswith("4711  CRITICAL  470 MiB  512 MiB  92%")
    assert max(map(len, told)) <= 80
    assert not any("\x1b" in line for line in told)
    assert told[2].index("uvicorn") == told[3].index("xxx") == told[1].index("COMMAND")


def test_nobody_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a guard the status is 1, and the text says how one is seen."""
    assert top.main(["--once"], guards=[_Guards([])]) == 1
    assert "--url" in capsys.readouterr().out


def test_a_service_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Who cannot be asked is named, the others are shown, and the status is 2."""
    assert top.main(["--once"], guards=[_Guards(MemguardError("10.0.0.1 is gone")), _Guards([_seen()])]) == 2
    told = capsys.readouterr().out
    assert "10.0.0.1 is gone" in told
    assert "4711" in told


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """--json is one document a look, in one line."""
    pauses: list[float] = []
    looks = _Guards([_seen(silent_s=99.0)], [])
    assert top.main(["--json", "--count", "2", "--interval", "5"], guards=[looks], sleep=pauses.append) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["guards"][0]["level"] == "CRITICAL"
    assert first["guards"][0]["stuck"] is True
    assert second["guards"] == []
    assert pauses == [5.0]


def test_an_interrupt_is_how_one_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends it with 0 and without a traceback."""

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    assert top.main([], guards=[_Guards([_seen()])], sleep=interrupted) == 0
    assert "4711" in capsys.readouterr().out


def test_a_control_api_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """By --url a service tells level, limit, forecast, holders and what reliefs gave back."""
    asked: list[str] = []

    def answer(self: RemoteGuard, path: str) -> Any:
        asked.append(path)
        return TOP if "top" in path else MEMORY

    monkeypatch.setattr(RemoteGuard, "_get", answer)
    assert top.main(["--once", "--url", "http://127.0.0.1:8000/memguard"]) == 0
    told = capsys.readouterr().out
    assert asked == ["/monitoring/memory", "/monitoring/memory/top?limit=8"]
    assert "WARNING" in told
    assert "cgroup v2 / memory.max" in told
    assert "the limit is 90.0 s away" in told
    assert ["embeddings", "cache", "100", "MiB", "12", "MiB", "2"] in [line.split() for line in told.splitlines()]


@pytest.mark.parametrize(
    "answer", [{}, [], {**MEMORY, "holders": None}, {**MEMORY, "process": 7}, {**MEMORY, "pressure": "high"}]
)
def test_what_is_no_control_api(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of another shape is an error in words."""
    monkeypatch.setattr(RemoteGuard, "_get", lambda self, path: TOP if "top" in path else answer)
    with pytest.raises(MemguardError, match="not as a control API does"):
        RemoteGuard("127.0.0.1:8000").look()


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://host:port", "http://host:99999", ""])
def test_addresses_that_are_none(url: str) -> None:
    """A wrong address is told before anybody is asked."""
    with pytest.raises(MemguardError, match="no address of a service"):
        RemoteGuard(url)


@pytest.mark.parametrize("arguments", [["--interval", "0"], ["--count", "-1"], ["--interval", "x"], ["extra"]])
def test_calls_that_make_no_sense(arguments: list[str]) -> None:
    """A wrong call ends with 2."""
    with pytest.raises(SystemExit) as ended:
        top.main(arguments)
    assert ended.value.code == 2


@pytest.mark.real
def test_over_http() -> None:
    """Path, token, statuses and answers that are no JSON, over a real socket."""
    seen: list[tuple[str, str | None]] = []

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            if not self.path.startswith("/api/v1/"):
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(TOP if "top" in self.path else MEMORY).encode())

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            at = f"http://127.0.0.1:{server.server_address[1]}"
            (one,) = RemoteGuard(at, token="secret").look()  # noqa: S106 - a test's
            assert (one.level, one.used_bytes) == ("WARNING", 420 * MIB)
            assert seen[0] == ("/api/v1/monitoring/memory", "Bearer secret")
            with pytest.raises(MemguardError, match="404 Not Found: name its prefix"):
                RemoteGuard(at + "/other").look()
        finally:
            server.shutdown()
            thread.join()
    with pytest.raises(MemguardError, match="cannot be asked"):
        RemoteGuard(at).look()


def test_a_reader_that_has_seen_enough() -> None:
    """``memguard top | head -1`` ends without a traceback."""
    command = f"{sys.executable} -m memguard top --interval 0.1 --json | head -n 1"
    environ = {**os.environ, "PYTHONPATH": os.getcwd()}  # noqa: PTH109 - text
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, env=environ, check=False)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_the_control_api_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``protect()`` really answers is understood: level, limit, holders."""
    import asyncio

    import httpx
    from fastapi import FastAPI

    import memguard
    from memguard.ext.fastapi import protect
    from memguard.testing import FakeClock, FakeMemory

    clock = FakeClock()
    memory = FakeMemory(clock, base_bytes="300MiB")
    guard = memguard.Guard(limit="1GiB", probe=memory, clock=clock, roster=memguard.Roster())
    guard.reclaimer("pages", lambda wanted: 0, size=lambda: 40 * MIB)
    guard.tick()
    app = FastAPI()
    protect(app, guard)

    async def ask(path: str) -> Any:
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 40000))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return (await client.get("/api/v1" + path)).json()

    monkeypatch.setattr(RemoteGuard, "_get", lambda self, path: asyncio.run(ask(path)))
    (one,) = RemoteGuard("localhost:8000").look()
    assert (one.level, one.used_bytes, one.limit_bytes, one.state) == ("OK", 300 * MIB, 1 << 30, "not running")
    assert ("pages", 40 * MIB) in [(share.name, share.bytes) for share in one.holders]
