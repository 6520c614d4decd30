"""Behind a fuse: a request that met a MemoryError is answered 503, as if the gate had refused it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memguard.ext.asgi.requests import TICKET
from memguard.ext.asgi.wire import TRY_AGAIN_LATER, refuse_request
from memguard.fuse.letting_go import out_of_memory

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from memguard.errors import AdmissionRefused
    from memguard.ext.asgi.wire import App, Message, Receive, Scope, Send
    from memguard.guard import Guard

__all__ = ["Fused"]

# What frameworks make of an error before anybody outside sees it: Starlette answers 500 first and raises then, FastAPI
# turns one that it meets while it parses a body into 400.
_MADE_OF_ERRORS = frozenset({400, 500})


class Fused:
    """The application, between the middleware and what it protects; only where the rules ask for a fuse.

    A websocket is closed with 1013. An answer that has begun is broken off by the error, as without it.
    """

    def __init__(self, app: App, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or websocket; the rest passes."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._guard)
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            if not answer.refused:
                if not out_of_memory(error):
                    raise
                refused = self._guard.memory_error(error)
                if answer.begun:
                    raise
                await answer.refuse(refused)
        ticket = scope.get(TICKET)
        if answer.refused and ticket is not None:
            ticket.close("failed")


class _Answer:
    """What goes out, until it is known that memory failed."""

    __slots__ = ("_guard", "_scope", "_send", "begun", "refused")

    def __init__(self, scope: Scope, send: Send, guard: Guard) -> None:
        self._scope = scope
        self._send = send
        self._guard = guard
        self.begun = self.refused = False

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message on, or the refusal in its place when a MemoryError made it."""
        if self.refused:
            return _nowhere()
        if not self.begun and message["type"] == "http.response.start" and message["status"] in _MADE_OF_ERRORS:
            error = sys.exc_info()[1]
            if error is not None and out_of_memory(error):
                return self.refuse(self._guard.memory_error(error))
        self.begun = self._scope["type"] == "http" or message["type"] == "websocket.close"
        return self._send(message)

    def refuse(self, refused: AdmissionRefused) -> Awaitable[None]:
        """Answer in the application's place; what it says from now on is not sent."""
        self.refused = True
        if self._scope["type"] == "http":
            return refuse_request(refused, self._send)
        return self._send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "memory is short"})


async def _nowhere() -> None:
    """Where the rest goes then."""
