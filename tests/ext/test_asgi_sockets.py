"""Websockets: admitted or refused at the handshake, counted, and held to a budget."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.websockets import WebSocketDisconnect

from memguard import Guard, Roster
from memguard.ext.asgi import TICKET, MemguardMiddleware
from memguard.testing import FakeClock, FakeMemory
from memguard.units import KIB, MIB


class Scene:
    """A guard over fake memory, 1000 MiB; an app that accepts and reads until the end."""

    def __init__(self, used_mib: int = 100, **options: Any) -> None:
        self.clock = FakeClock()
        self.memory = FakeMemory(self.clock, base_bytes=used_mib * MIB)
        self.guard = Guard(limit="1000MiB", probe=self.memory, clock=self.clock, roster=Roster())
        self.clock.advance(0.25)
        self.guard.tick()
        self.heard: list[Any] = []
        self.tickets: list[Any] = []
        self.running: list[int] = []
        self.app = MemguardMiddleware(self.talk, guard=self.guard, **options)

    async def talk(self, scope: Any, receive: Any, send: Any) -> None:
        self.tickets.append(scope[TICKET])
        while (message := await receive())["type"] != "websocket.disconnect":
            self.heard.append(message)
            self.running.append(self.guard.gate.running)
            if message["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
            else:
                await send({"type": "websocket.send", "text": "got it"})

    def connect(self, *messages: Any, extensions: Any = None, path: str = "/ws") -> list[Any]:
        inbox = [{"type": "websocket.connect"}, *messages]
        sent: list[Any] = []

        async def receive() -> Any:
            return inbox.pop(0) if inbox else {"type": "websocket.disconnect", "code": 1000}

        async def send(message: Any) -> None:
            sent.append(message)

        scope: Any = {"type": "websocket", "path": path, "headers": []}
        if extensions is not None:
            scope["extensions"] = extensions
        asyncio.run(self.app(scope, receive, send))
        assert TICKET not in scope
        return sent

    @property
    def is_empty(self) -> bool:
        gate = self.guard.gate
        return (gate.promised_bytes, gate.running, len(gate._ledger)) == (0, 0, 0)


def test_an_open_socket_is_counted_and_promised_its_budget() -> None:
    """It is work as any other: open while it lasts, done when it ends."""
    scene = Scene(websocket_bytes="1MiB")
    sent = scene.connect({"type": "websocket.receive", "text": "hello"})
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send"]
    assert scene.running == [1, 1]
    ticket = scene.tickets[0]
    assert (ticket.kind, ticket.label, ticket.bytes, ticket.outcome) == ("websocket", "WEBSOCKET /ws", MIB, "done")
    assert scene.is_empty


def test_a_handshake_is_refused_by_closing_with_1013() -> None:
    """Before it is accepted, servers make a 403 of that; the application is not asked."""
    scene = Scene(used_mib=920)
    sent = scene.connect()
    assert sent == [{"type": "websocket.close", "code": 1013, "reason": "memory is short: try again later"}]
    assert scene.heard == []
    assert scene.is_empty
    assert scene.guard.gate.refusals == 1


def test_a_handshake_is_refused_with_503_where_the_server_offers_that() -> None:
    """The extension websocket.http.response carries status, Retry-After and the problem object."""
    sent = Scene(used_mib=920).connect(extensions={"websocket.http.response": {}})
    assert [message["type"] for message in sent] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert sent[0]["status"] == 503
    assert b"retry-after" in dict(sent[0]["headers"])


def test_budgets_add_up() -> None:
    """A socket whose budget does not fit is refused at OK."""
    scene = Scene(websocket_bytes="795MiB")
    assert scene.connect()[0]["code"] == 1013
    scene = Scene(websocket_bytes="700MiB")
    assert scene.connect()[0]["type"] == "websocket.accept"


def test_a_message_above_the_budget_is_charged() -> None:
    """8 times its length, for as long as the socket is open."""
    scene = Scene(websocket_bytes=64 * KIB)
    scene.connect({"type": "websocket.receive", "bytes": b"x" * (10 * MIB)})
    assert scene.tickets[0].bytes == 80 * MIB
    assert scene.is_empty


@pytest.mark.parametrize(("size_mib", "code"), [(110, 1013), (120, 1009)])
def test_a_message_that_does_not_fit_ends_the_socket(size_mib: int, code: int) -> None:
    """1013 when there is no room now, 1009 when there never could be; the application hears that it is over."""
    scene = Scene()
    sent = scene.connect({"type": "websocket.receive", "bytes": b"x" * (size_mib * MIB)})
    assert sent[-1]["type"] == "websocket.close"
    assert sent[-1]["code"] == code
    assert [message["type"] for message in scene.heard] == ["websocket.connect"]
    assert scene.is_empty


def test_exempt_paths_pass() -> None:
    """As for requests."""
    scene = Scene(used_mib=920, exempt=("/ws",))
    scene.talk = None  # type: ignore[method-assign,assignment]
    passed: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    scene.app.app = app
    assert scene.connect() == []
    assert len(passed) == 1


def test_priority_counts_for_sockets_too() -> None:
    """A critical socket gets in at CRITICAL."""
    scene = Scene(used_mib=920, priority=lambda scope: "critical")
    assert scene.connect()[0]["type"] == "websocket.accept"


def test_an_error_in_the_application_is_failed_and_passes_on() -> None:
    """The server logs it; the budget is given back."""
    scene = Scene()

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        scene.tickets.append(scope[TICKET])
        raise LookupError("own")

    scene.app.app = broken
    with pytest.raises(LookupError):
        scene.connect()
    assert scene.tickets[0].outcome == "failed"
    assert scene.is_empty


def test_a_client_that_leaves_before_the_handshake_gets_no_answer() -> None:
    """There is nobody to refuse."""
    scene = Scene(used_mib=920)

    async def receive() -> Any:
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope: Any = {"type": "websocket", "path": "/ws", "headers": []}
    asyncio.run(scene.app(scope, receive, send))
    assert scene.is_empty


@pytest.mark.parametrize(("size_mib", "outcome"), [(0, "done"), (120, "failed")])
def test_frameworks_raise_when_a_socket_ends(size_mib: int, outcome: str) -> None:
    """An app that raises because its client has closed is done; after a cut its error is no news for the server."""
    scene = Scene()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scene.tickets.append(scope[TICKET])
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        raise WebSocketDisconnect(1000)

    scene.app.app = app
    message = {"type": "websocket.receive", "bytes": b"x" * (size_mib * MIB)}
    if size_mib:
        scene.connect(message)
    else:
        with pytest.raises(WebSocketDisconnect):
            scene.connect(message)
    assert scene.tickets[0].outcome == outcome
    assert scene.is_empty
