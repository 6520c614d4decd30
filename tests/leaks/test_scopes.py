"""Scopes that have ended: several of a kind that stay are told with who holds them; what goes is not mentioned."""

from __future__ import annotations

import gc
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from memguard.ext.asgi import MemguardMiddleware
from memguard.guard import Guard
from memguard.leaks import scopes
from memguard.leaks.scopes import Scopes, finished, tickets
from memguard.operations import Operations
from memguard.roster import Roster
from memguard.testing import FakeClock, FakeMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.agents.pools import Pool
    from memguard.model import Event


class Agent:
    """It should go when it is retired."""


class Stage:
    """A guard whose clock is wound by hand, and its scopes, which look when they are asked to."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.guard = Guard(clock=self.clock, probe=FakeMemory(self.clock), limit="1GiB", roster=Roster())
        self.told: list[Event] = []
        open_ = self.guard.gate.open
        sources = [
            tickets(open_, kind="websocket"),
            tickets(open_, but="websocket"),
            finished(lambda: vars(self.guard).get("_operations")),
        ]
        self.scopes = Scopes(sources, tell=self.told.append, clock=self.clock, inline=True)
        vars(self.guard)["_scopes"] = self.scopes

    def look(self, seconds: float = 1.0) -> None:
        self.clock.advance(seconds)
        self.scopes.look(self.clock())

    def minutes(self, count: int) -> None:
        for _ in range(12 * count):
            self.look(5.0)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that is there for this test."""
    module = ModuleType("scoped_app")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.kept = []  # type: ignore[attr-defined]
    yield module
    vars(module).clear()


@pytest.fixture
def stage() -> Stage:
    """With its guard's clock, and nothing watched yet."""
    return Stage()


class Connection:
    """What a framework makes of a request: it keeps how to receive."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive


async def _receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(_message: Any) -> None:
    return None


def _serve(stage: Stage, kept: list[Any] | None, *, kind: str = "http", number: int = 1) -> None:
    """One request or websocket through the middleware, looked at while it is open; its object is kept, or not."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        connection = Connection(receive)
        if kept is not None:
            kept.append(connection)
        stage.look()
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    middleware = MemguardMiddleware(application, guard=stage.guard)
    scope = {"type": kind, "method": "GET", "path": f"/users/{number}", "headers": []}
    serving = middleware(scope, _receive, _send)
    with pytest.raises(StopIteration):
        serving.send(None)


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_requests_that_are_kept(kind: str, stage: Stage, app: Any) -> None:
    """Whoever keeps the framework's object of each request or websocket is told, by the way to that object."""
    for number in range(4):
        _serve(stage, app.kept, kind=kind, number=number)
    stage.minutes(1)
    assert stage.told == []
    stage.minutes(3)
    assert [event.name for event in stage.told] == ["leak.kept"]
    assert ("websockets" if kind == "websocket" else "requests") in stage.told[0].text
    assert "scoped_app.kept[" in stage.told[0].text
    assert stage.told[0].attributes["type"] == f"{__name__}.Connection"
    assert stage.told[0].attributes["kept"] == 4
    assert "memguard." not in stage.told[0].text


def test_requests_that_go(stage: Stage) -> None:
    """Requests that end and go are not mentioned, and cost no collection."""
    for number in range(20):
        _serve(stage, None, number=number)
    before = gc.get_stats()[2]["collections"]
    stage.minutes(5)
    assert stage.told == []
    assert len(stage.scopes) == 0
    assert gc.get_stats()[2]["collections"] == before


def test_one_alone_is_no_leak(stage: Stage, app: Any) -> None:
    """One that is kept may be the last one, kept on purpose."""
    for number in range(10):
        app.kept.clear()
        _serve(stage, app.kept, number=number)
    stage.minutes(5)
    assert stage.told == []


def test_it_is_not_told_again_at_once(stage: Stage, app: Any) -> None:
    """A kind that leaks is told once an hour."""
    for number in range(40):
        _serve(stage, app.kept, number=number)
        stage.minutes(1)
    assert len(stage.told) == 1
    stage.minutes(30)
    for number in range(4):
        _serve(stage, app.kept, number=number)
    stage.minutes(5)
    assert len(stage.told) == 2


def test_work_that_goes_on_is_no_leak_yet(stage: Stage) -> None:
    """What a running function holds is told after a quarter of an hour only."""
    held: list[Any] = []
    for number in range(4):
        _serve(stage, held, number=number)
    stage.minutes(10)
    assert stage.told == []
    stage.minutes(10)
    assert [event.name for event in stage.told] == ["leak.kept"]
    held.clear()


def test_retired_agents(stage: Stage, app: Any) -> None:
    """Agents that a pool has retired and that somebody still holds are told; those that go are not."""
    pool: Pool[Agent] = stage.guard.pool("agents", max_size=20)
    others: Pool[Agent] = stage.guard.pool("others", max_size=20)
    for number in range(5):
        app.kept.append(pool.create(f"a{number}", Agent))
        others.create(f"b{number}", Agent)
        pool.release(f"a{number}")
        others.release(f"b{number}")
    assert len(pool.retire_idle()) == 5
    assert len(others.retire_idle()) == 5
    stage.minutes(4)
    assert [event.name for event in stage.told] == ["leak.kept"]
    assert "agents retired from pool 'agents'" in stage.told[0].text
    assert "scoped_app.kept[" in stage.told[0].text


def test_agents_that_move_to_another_pool(stage: Stage) -> None:
    """What another pool holds is there on purpose."""
    pool: Pool[Agent] = stage.guard.pool("agents", max_size=20)
    others: Pool[Agent] = stage.guard.pool("others", max_size=20)
    vars(sys.modules[__name__])["POOL"] = others
    for number in range(5):
        others[f"a{number}"] = pool.create(f"a{number}", Agent)
        pool.release(f"a{number}")
    pool.retire_idle()
    stage.minutes(20)
    del vars(sys.modules[__name__])["POOL"]
    assert stage.told == []


def test_agents_that_cannot_be_watched(stage: Stage) -> None:
    """A dict cannot be referred to weakly: it is retired, and that is all."""
    pool: Pool[dict[str, int]] = stage.guard.pool("agents", max_size=20)
    pool["a"] = {}
    assert pool.retire_idle() == ("a",)
    stage.minutes(3)
    assert len(stage.scopes) == 0


def test_finished_operations(stage: Stage, app: Any) -> None:
    """Operations that somebody keeps are told, once the account has forgotten them."""
    operations = stage.guard.operations
    assert isinstance(operations, Operations)
    for _ in range(4):
        with stage.guard.operation("agent.run") as operation:
            app.kept.append(operation)
        stage.look()
    stage.minutes(3)
    assert stage.told == []  # the account itself remembers those that ended last
    for _ in range(300):
        with stage.guard.operation("other"):
            pass
    del operation
    stage.minutes(4)
    assert [event.attributes["label"] for event in stage.told] == ["operations 'agent.run'"]


def test_a_collector_that_is_off(stage: Stage, app: Any) -> None:
    """Whoever has switched the collector off gets no collection from us, and no word of what only a cycle may hold."""
    gc.disable()
    try:
        for number in range(4):
            _serve(stage, app.kept, number=number)
        before = gc.get_stats()[2]["collections"]
        stage.minutes(5)
        assert gc.get_stats()[2]["collections"] == before
        assert stage.told == []
        gc.collect()
        stage.look()
        assert len(stage.told) == 1
    finally:
        gc.enable()


def test_collections_are_rare(stage: Stage, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the time, collecting for this takes a thousandth at most."""
    monkeypatch.setattr("memguard.leaks.scopes.time.thread_time", iter(range(10_000)).__next__)  # each takes a second
    before = gc.get_stats()[2]["collections"]
    for number in range(16):
        _serve(stage, app.kept, number=number)
        stage.minutes(2)
    assert 1 <= gc.get_stats()[2]["collections"] - before <= 4


def test_a_search_that_fails(stage: Stage, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the search is told, and the next look works."""

    def fail(_thing: object) -> None:
        raise MemoryError

    monkeypatch.setattr(scopes, "find", fail)
    for number in range(4):
        _serve(stage, app.kept, number=number)
    stage.minutes(3)
    assert {event.name for event in stage.told} == {"leak.unexamined"}
    monkeypatch.undo()
    app.kept.clear()
    stage.minutes(1)


def test_what_is_watched_is_bounded(stage: Stage, app: Any) -> None:
    """However much is open and kept, little is watched."""
    for number in range(100):
        _serve(stage, app.kept, number=number)
        _serve(stage, app.kept, kind="websocket", number=number)
        stage.scopes.left(Agent(), "agents")
        assert len(stage.scopes) <= 64
    assert sum(map(len, stage.scopes._kept.values())) <= 16


def test_a_forked_child_forgets(stage: Stage, app: Any) -> None:
    """What was open is the parent's."""
    _serve(stage, app.kept)
    assert len(stage.scopes) == 1
    stage.guard._forget_examinations()
    assert len(stage.scopes) == 0


def test_a_running_guard_watches(app: Any) -> None:
    """A guard with the system's clock watches from a minute after its start on, when there is something; not before."""
    guard = Guard(limit="8GiB", roster=Roster())
    clock = FakeClock()

    def look(seconds: float) -> None:
        clock.advance(seconds)
        guard._look_around(_At(clock()))  # type: ignore[arg-type]

    look(0.0)
    look(100.0)
    assert "_scopes" not in vars(guard)
    pool: Pool[Agent] = guard.pool("agents")
    look(1.0)
    assert "_scopes" in vars(guard)
    app.kept.append(pool.create("a", Agent))
    pool.release("a")
    pool.retire_idle()
    look(1.0)
    look(1.0)
    assert len(vars(guard)["_scopes"]) == 1
    assert any("_look_around" in repr(show) for show in guard._watch.shown)
    for off in (
        Guard(limit="8GiB", roster=Roster(), leak_examine=False),
        Guard(limit="8GiB", roster=Roster(), mode="observe"),
    ):
        assert not any("_look_around" in repr(show) for show in off._watch.shown)


class _At:
    """A snapshot's instant."""

    def __init__(self, at: float) -> None:
        self.at = at
