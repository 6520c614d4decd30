"""The ASGI middleware behind a fuse: what met a MemoryError is answered 503, whatever a framework made of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi import Request as FastRequest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from memguard import Guard, Roster
from memguard.ext.asgi import MemguardMiddleware

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]


@pytest.fixture
def guard() -> Guard:
    """One whose rules ask for a fuse; it is not started, so that none is armed in this process."""
    return Guard(limit="64GiB", roster=Roster(), fuse="force")


def ask(app: Any, path: str = "/", **request: Any) -> httpx.Response:
    """The answer of an application to a POST."""

    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post(path, **request)

    return asyncio.run(work())


def refused(answer: httpx.Response, guard: Guard) -> None:
    """It is a refusal as the gate gives it, and nothing is left open."""
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "more memory than is left" in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert guard.gate.running == 0


def starved(_request: object = None) -> PlainTextResponse:
    """A handler that is refused memory, with something large in its frame."""
    held = bytearray(1000)
    raise MemoryError(len(held))


def test_a_bare_application(guard: Guard) -> None:
    """It raises before it answers: 503, and the ticket ends as failed."""
    outcomes: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ticket = scope["memguard.ticket"]
        asyncio.get_running_loop().call_soon(lambda: outcomes.append(ticket.outcome))
        starved()

    refused(ask(MemguardMiddleware(app, guard=guard)), guard)
    assert outcomes == ["failed"]


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: ExceptionGroup("tasks", [error])])
def test_starlette(guard: Guard, outside: bool, wrap: Callable[[Exception], Exception]) -> None:
    """Around it and inside of it, where it answers 500 by itself; a task group's error counts too."""

    def starves(request: object) -> PlainTextResponse:
        raise wrap(MemoryError())

    app: Any = Starlette(routes=[Route("/", starves, methods=["POST"])])
    if outside:
        app = MemguardMiddleware(app, guard=guard)
    else:
        app.add_middleware(MemguardMiddleware, guard=guard)
    refused(ask(app), guard)


def test_fastapi_parsing_a_body(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI makes 400 of whatever goes wrong while it parses: that is not the client's fault."""
    app = FastAPI()

    @app.post("/")
    def keep(body: dict[str, int]) -> int:
        return len(body)

    async def starves(self: FastRequest) -> None:
        raise MemoryError

    monkeypatch.setattr(FastRequest, "json", starves)
    refused(ask(MemguardMiddleware(app, guard=guard), json={"a": 1}), guard)


def test_what_has_nothing_to_do_with_memory(guard: Guard) -> None:
    """Other errors, and 400 and 500 that an application means, pass as they are."""

    def breaks(request: object) -> PlainTextResponse:
        raise LookupError("other")

    def says(request: object) -> PlainTextResponse:
        try:
            return PlainTextResponse(str(int("no")))
        except ValueError:
            return PlainTextResponse("no number", 400)

    routes = [Route("/breaks", breaks, methods=["POST"]), Route("/says", says, methods=["POST"])]
    app = MemguardMiddleware(Starlette(routes=routes), guard=guard)
    with pytest.raises(LookupError):
        ask(app, "/breaks")
    assert ask(app, "/says").status_code == 400


def test_an_answer_that_has_begun_is_broken_off(guard: Guard) -> None:
    """Then the error is the server's to deal with, as without a fuse."""
    sent: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        starved()

    async def send(message: Message) -> None:
        sent.append(message["type"])

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []}
    with pytest.raises(MemoryError):
        asyncio.run(MemguardMiddleware(app, guard=guard)(scope, receive, send))
    assert sent == ["http.response.start", "http.response.body"]
    assert guard.gate.running == 0


@pytest.mark.parametrize("accepts", [True, False])
def test_websockets_are_closed(guard: Guard, accepts: bool) -> None:
    """With 1013, before the handshake and after."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if accepts:
            await send({"type": "websocket.accept"})
        starved()

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/", "root_path": "", "headers": []}
    asyncio.run(MemguardMiddleware(app, guard=guard)(scope, receive, send))
    assert sent[-1]["type"] == "websocket.close"
    assert sent[-1]["code"] == 1013
    assert guard.gate.running == 0


def test_lifespan_passes(guard: Guard) -> None:
    """An application that cannot start for want of memory does not start."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        starved()

    async def none() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        raise AssertionError(json.dumps(dict(message)))

    with pytest.raises(MemoryError):
        asyncio.run(MemguardMiddleware(app, guard=guard)({"type": "lifespan"}, none, send))


def test_without_a_fuse_nothing_is_between() -> None:
    """Nobody pays for what was not asked for, and a MemoryError is the application's."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        starved()

    plain = MemguardMiddleware(app, guard=Guard(limit="64GiB", roster=Roster()))
    assert plain.app is app
    with pytest.raises(MemoryError):
        ask(plain)
