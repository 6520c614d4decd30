"""Carrying a hand-over out: turns, the door, draining, hooks, the end; with a server that only takes notes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from memguard._core.stimuli import HandOver, Stayed, Weighed
from memguard.admission import Gate
from memguard.errors import AdmissionRefused, MemguardError
from memguard.ext.asgi import MemguardMiddleware
from memguard.guard import Guard
from memguard.handover import Handover, group_of
from memguard.model import Level, Snapshot
from memguard.roster import Roster
from memguard.rules import Rules
from memguard.servers import Way, find_way
from memguard.workers.lineage import Lineage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memguard.model import Event

WHY = HandOver(reason="asked", urgent=False, gain_bytes=0)


class Server(Way):
    """A server that only takes notes."""

    def __init__(self, notes: list[str], *, shared: bool = True, drains: bool = True) -> None:
        super().__init__("a server of the test")
        self.notes, self.shared, self.drains, self.open = notes, shared, drains, 0

    def close_door(self) -> None:
        self.notes.append("door")

    def connections(self) -> int:
        return self.open

    def leave(self) -> None:
        self.notes.append("leave")


class Turn:
    """A lease that is free or not."""

    def __init__(self, *, free: bool = True) -> None:
        self.free = free

    def take(self, now: float, /) -> bool:
        return self.free

    def release(self) -> None:
        raise AssertionError("the lease ends with its holder")


class Memory:
    """What a group remembers."""

    def __init__(self) -> None:
        self.noted: list[tuple[float, float]] = []

    def past(self, now: float, /) -> tuple[float | None, float, float]:
        return 86400.0, 60.0, 203.0

    def note(self, now: float, /, *, wait_s: float, count: float) -> None:
        self.noted.append((wait_s, count))


class Scene:
    """One hand-over and all it touches."""

    def __init__(self, *, saves: tuple[Callable[[], Any], ...] = (), free: bool = True, **server: Any) -> None:
        self.notes: list[str] = []
        self.told: list[Event] = []
        self.posted: list[Any] = []
        self.server = Server(self.notes, **server)
        self.memory = Memory()
        self.rules = Rules(handover_drain_s=0.3, handover_notice_s=0.0)
        self.gate = Gate(rules=self.rules, clock=time.monotonic)
        self.gate.show(Snapshot(at=0.0, reading=None, limit=None, pressure=0.0, level=Level.OK, forecast=None))
        self.handover = Handover(
            rules=self.rules,
            gate=self.gate,
            clock=time.monotonic,
            tell=self.told.append,
            post=self.posted.append,
            saves=lambda: saves,
            stop=lambda: self.notes.append("stop"),
            lease=lambda: Turn(free=free),
            way=self.server,
            memory=self.memory,
        )
        self.handover._end = lambda: self.notes.append("end")  # type: ignore[method-assign]

    def run(self) -> list[str]:
        """All of it, in this thread; what happened in which order."""
        self.handover._run(WHY)
        return self.notes

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.told]


def test_the_order_is_door_hooks_stop_leave() -> None:
    """The door is closed, hooks are called once work is done, the guard stops, the server is asked to end."""
    scene = Scene(saves=(lambda: scene.notes.append("save"),))
    assert scene.run() == ["door", "save", "stop", "leave", "end"]
    assert scene.names == ["handover.begun", "handover.drained"]
    assert scene.memory.noted == [(60.0, 4.0)]


def test_another_workers_turn_calls_it_off() -> None:
    """Without the lease nothing happens, and the machine is told to try again later."""
    scene = Scene(free=False)
    assert scene.run() == []
    assert isinstance(scene.posted[0], Stayed)
    assert not scene.handover.leaving


def test_files_that_fail_call_it_off() -> None:
    """A group that cannot remember hands over nothing: it could become a loop."""
    scene = Scene()

    def fail(_now: float, /) -> tuple[float | None, float, float]:
        raise OSError("no space")

    scene.memory.past = fail  # type: ignore[method-assign]
    assert scene.run() == []
    assert scene.names == ["handover.failed"]
    scene.handover.weigh(at=1.0, born_at=0.0, own_bytes=1, fresh_bytes=1)
    found = scene.posted[-1]
    assert isinstance(found, Weighed)
    assert "no space" in found.hindrance


def test_work_under_way_finishes_first() -> None:
    """A ticket that is open holds the end up, for the drain time at most; what is cut off is told."""
    scene = Scene()
    with scene.gate.admit(None, "request", "GET /", 0.0):
        scene.run()
    assert scene.told[1].attributes["cut"] == 1
    assert "cut off" in scene.told[1].text


def test_new_work_is_refused_once_connections_are_gone() -> None:
    """After the drain an agent's loop that asks for more is refused, with words and a wait."""
    scene = Scene()
    scene.run()
    with pytest.raises(AdmissionRefused, match="hands over to a fresh one") as refused:
        scene.gate.admit(None, "request", "GET /", 0.0)
    assert refused.value.retry_after_s > 0


def test_a_server_that_drains_by_itself_is_only_asked() -> None:
    """Where the door cannot be closed from here nothing is refused: connections are told to end, the server does it."""
    scene = Scene(drains=False)
    assert scene.run() == ["stop", "leave", "end"]
    assert scene.gate.leaving == "closing"
    scene.gate.admit(None, "request", "GET /", 0.0).close()


def test_hooks_that_fail_or_are_coroutines() -> None:
    """A hook that raises is told and the next one is called; coroutine functions are awaited."""
    called = []

    def broken() -> None:
        raise RuntimeError("disk full")

    async def later() -> None:
        await asyncio.sleep(0)
        called.append("later")

    scene = Scene(saves=(broken, later))
    assert scene.run()[-1] == "end"
    assert called == ["later"]
    assert any("disk full" in event.text for event in scene.told)


def test_a_step_that_fails_does_not_stop_the_others() -> None:
    """The door is closed by then: whatever raises, the process is left."""
    scene = Scene()
    scene.handover._stop = lambda: (_ for _ in ()).throw(RuntimeError("cannot"))
    assert scene.run() == ["door", "leave", "end"]
    assert "handover.failed" in scene.names


def test_answers_end_their_connections_while_leaving() -> None:
    """Behind a server that cannot say so itself, the middleware answers with Connection: close, to HTTP/1 only."""
    guard = Guard(limit=None, sinks=(), roster=Roster())
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"keep-alive")]})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    middleware = MemguardMiddleware(app, guard=guard)
    guard.gate.leaving, guard.gate.narrow = "closing", True
    for version in ("1.1", "2"):
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "http_version": version}
        asyncio.run(middleware(scope, receive, send))
    assert sent[0]["headers"] == [(b"connection", b"close")]
    assert sent[2]["headers"] == [(b"connection", b"keep-alive")]


def test_by_hand_needs_somebody_who_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain process that nobody is known to restart refuses, and says what to do; so does mode 'observe'."""
    for name in ("KUBERNETES_SERVICE_HOST", "INVOCATION_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("memguard.servers._gunicorn", lambda _: None)
    monkeypatch.setattr("memguard.servers._uvicorn", lambda _: None)
    monkeypatch.setattr("memguard.servers._hypercorn", lambda _: None)
    monkeypatch.setattr("memguard.servers._granian", lambda _: None)
    guard = Guard(limit=None, roster=Roster())
    with pytest.raises(MemguardError, match="handover='on'"):
        guard.hand_over()
    assert "7. hand over:" in guard.explain()
    assert "never: a plain process" in guard.explain()
    assert not find_way(Rules(handover="on")).hindrance
    with pytest.raises(MemguardError, match="observe"):
        Guard(limit=None, roster=Roster(), mode="observe").hand_over()


def test_explain_shows_the_order() -> None:
    """Expire, collect, trim, shrink, compact, refuse, hand over: in this order, with what each has bought."""
    text = Guard(limit=None, roster=Roster()).explain()
    found = [
        line.split(". ")[1].split(":")[0] for line in text.splitlines() if line[:2] in {f"{n}." for n in range(1, 8)}
    ]
    assert found == ["expire", "collect", "trim", "shrink", "compact", "refuse", "hand over"]


def test_hooks_have_to_be_callable() -> None:
    """A hook that cannot be called is noticed at once; on_handover is a decorator, too."""
    guard = Guard(limit=None, roster=Roster())
    with pytest.raises(TypeError, match="function without arguments"):
        guard.on_handover(3)  # type: ignore[type-var]

    @guard.on_handover
    def save() -> str:
        return "saved"

    assert save() == "saved"


def test_the_group_remembers(tmp_path: Path) -> None:
    """What one process noted the next one reads; a damaged file, or one from before a start, says nothing."""
    lineage = Lineage("test-" + tmp_path.name.replace("_", "-"))
    lineage.path = str(tmp_path / "x.lineage")
    assert lineage.past(50.0) == (None, 0.0, 0)
    lineage.note(50.0, wait_s=120.0, count=2)
    assert lineage.past(60.0) == (10.0, 120.0, 2)
    assert lineage.past(40.0) == (None, 0.0, 0)
    (tmp_path / "x.lineage").write_bytes(b"x" * 40)
    assert lineage.past(60.0) == (None, 0.0, 0)


def test_a_process_belongs_to_how_it_was_started() -> None:
    """A plain process's group is the same after a restart with the same words."""
    assert group_of(Way("x")) == group_of(Way("y"))
    assert json.dumps(group_of(Way("x"))).startswith('"process-')
