"""Refusals that an application meets itself, and does not catch, are answered as those of the gate are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from memguard import Guard, Pool, PoolFull, Roster
from memguard.ext.asgi import MemguardMiddleware

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from starlette.websockets import WebSocket

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]


@pytest.fixture
def guard() -> Guard:
    """With much room."""
    return Guard(limit="64GiB", roster=Roster())


def _full(guard: Guard) -> None:
    pool: Pool[object] = guard.pool("agents", max_size=0)
    pool.create("a", object)


def _off(guard: Guard) -> Any:
    feature = guard.feature("search")
    feature.force(False)
    return feature


REFUSALS: dict[str, tuple[Callable[[Guard], object], str]] = {
    "pool": (_full, "pool 'agents' refused agent 'a'"),
    "budget": (lambda guard: guard.admit("2MiB", budget=guard.budget("own", "1MiB").name), "budget 'own'"),
    "feature": (lambda guard: _off(guard)(lambda: None)(), "feature 'search' is off by hand"),
}


def ask(app: Any, path: str = "/") -> httpx.Response:
    """The answer to a GET."""

    async def work() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.get(path)

    return asyncio.run(work())


@pytest.mark.parametrize("refuses", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("kind", ["inside", "outside", "bare"])
def test_they_are_answered(guard: Guard, refuses: tuple[Callable[[Guard], object], str], kind: str) -> None:
    """With 503 (413 when it can never fit) and a problem, also around a framework that answers 500 by itself."""
    refuse, words = refuses

    def view() -> object:
        return refuse(guard)

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        refuse(guard)

    app: Any = bare
    if kind != "bare":
        app = FastAPI()
        app.get("/")(view)
    if kind == "inside":
        app.add_middleware(MemguardMiddleware, guard=guard)
    else:
        app = MemguardMiddleware(app, guard=guard)
    answer = ask(app)
    assert answer.status_code == (413 if "budget" in words else 503)
    assert words in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in answer.headers) is (answer.status_code == 503)
    assert guard.gate.running == 0


def test_an_answer_of_the_applications_own_comes_first(guard: Guard) -> None:
    """Who catches a refusal answers as he likes; other errors are none; a 500 that is meant is one."""

    def catches(request: object) -> PlainTextResponse:
        try:
            _full(guard)
        except PoolFull:
            return PlainTextResponse("later", 429)
        return PlainTextResponse("")

    def says(request: object) -> PlainTextResponse:
        return PlainTextResponse("no", 500)

    def breaks(request: object) -> PlainTextResponse:
        raise LookupError

    views = {"/catches": catches, "/says": says, "/breaks": breaks}
    app = MemguardMiddleware(Starlette(routes=[Route(path, view) for path, view in views.items()]), guard=guard)
    assert ask(app, "/catches").status_code == 429
    assert ask(app, "/says").text == "no"
    with pytest.raises(LookupError):
        ask(app, "/breaks")
    assert guard.gate.running == 0


def test_after_an_answer_has_begun(guard: Guard) -> None:
    """Nothing more can be said: the error is the server's."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        _full(guard)

    with pytest.raises(PoolFull):
        ask(MemguardMiddleware(app, guard=guard))
    assert guard.gate.running == 0


def test_websockets(guard: Guard) -> None:
    """Closed with 1013: try again later."""
    sent: list[Message] = []

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        _full(guard)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = MemguardMiddleware(Starlette(routes=[WebSocketRoute("/", talk)]), guard=guard)
    asyncio.run(app({"type": "websocket", "path": "/", "root_path": "", "headers": []}, receive, send))
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[-1]["code"] == 1013
    assert guard.gate.running == 0
