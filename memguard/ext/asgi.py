"""Pure ASGI middleware: refuses HTTP requests whose memory would not fit, before their bodies are read."""

from __future__ import annotations

import json
from random import random
from typing import TYPE_CHECKING, Any

from memguard.errors import AdmissionRefused
from memguard.units import KIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from memguard.guard import Guard

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["TICKET", "MemguardMiddleware"]

TICKET = "memguard.ticket"
"""The scope's key that holds a request's open ticket; its presence tells mounted apps that it is admitted."""

# json.loads makes 6 to 13 times a body's size; 8 is the middle until the gate learns.
_AMPLIFICATION = 8
# Below it the whole parsed body is less than a reading's noise.
_SMALL_BODY_BYTES = 64 * KIB

_encode = json.JSONEncoder(separators=(",", ":")).encode


class MemguardMiddleware:
    """Admits each HTTP request by the guard's last snapshot, or answers 503 with a problem object (RFC 9457).

    The promise is 8 times a known ``Content-Length`` above 64 KiB, and nothing is promised for smaller or unknown
    bodies. The ticket is closed when the app returns, after streaming and background tasks: done, failed after an
    exception, abandoned when the client left or the task was cancelled. Websockets and lifespan pass untouched, as do
    the ``exempt`` paths: a health probe that is shed with the rest gets a healthy process restarted.

    Raises:
        TypeError: ``exempt`` is one string instead of several.
    """

    def __init__(
        self, app: App, *, guard: Guard, exempt: Iterable[str] = ("/livez", "/readyz", "/healthz", "/health")
    ) -> None:
        if isinstance(exempt, str):
            raise TypeError(f"exempt={exempt!r} is one path: write it as ({exempt!r},)")
        self.app = app
        self.guard = guard
        self.exempt: frozenset[str] = frozenset(exempt)
        self._admit = guard.admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any type."""
        if (
            scope["type"] != "http"
            or TICKET in scope
            or scope["path"] in self.exempt
            or (scope.get("root_path") and self._below_root(scope))
        ):
            await self.app(scope, receive, send)
            return
        try:
            ticket = self._admit(_promise_bytes(scope["headers"]), label=f"{scope['method']} {scope['path']}")
        except AdmissionRefused as refused:
            await _refuse(refused, send)
            return
        scope[TICKET] = ticket
        exchange = _Exchange(receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except (KeyboardInterrupt, SystemExit):
            ticket.close("failed")
            raise
        except Exception as error:
            ticket.close("abandoned" if exchange.left(error) else "failed")
            raise
        except BaseException:  # asyncio's or trio's cancellation, or a coroutine that was dropped
            ticket.close("abandoned")
            raise
        ticket.close("done" if exchange.answered else "abandoned" if exchange.gone else "failed")

    def _below_root(self, scope: Scope) -> bool:
        """Whether it is an exempt path after all: mounted or behind a proxy, it begins with root_path (ASGI 3)."""
        path, root = scope["path"], scope["root_path"]
        return path.startswith(root) and path[len(root) :] in self.exempt


class _Exchange:
    """Watches one request's messages go by: was it answered in full, did the client leave before?"""

    __slots__ = ("_receive", "_send", "answered", "gone", "started")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.started = False
        self.answered = False
        self.gone = False

    async def receive(self) -> Message:
        message = await self._receive()
        # After the answer a server says "disconnect" too: then nobody is missing anything.
        if message["type"] == "http.disconnect" and not self.answered:
            self.gone = True
        return message

    def send(self, message: Message) -> Awaitable[None]:  # no coroutine of its own: it is on every request's way
        kind = message["type"]
        if kind == "http.response.start":
            self.started = True
        elif (kind == "http.response.body" and not message.get("more_body", False)) or kind == "http.response.pathsend":
            self.answered = True
        return self._send(message)

    def left(self, error: Exception) -> bool:
        """Whether this error means that the client has gone.

        Since ASGI 2.4 a server's ``send`` raises OSError then, which Starlette passes on as ``ClientDisconnect``; an
        OSError from before the answer began is the application's own.
        """
        return self.gone or (self.started and (isinstance(error, OSError) or isinstance(error.__context__, OSError)))


def _promise_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """What a request's body will need once it is parsed; None when small or unknown."""
    for name, value in headers:
        if name == b"content-length":
            # isdigit first: int() would take b"-1" and b"1_0"; 18 digits are an exabyte.
            length = int(value) if value.isdigit() and len(value) <= 18 else 0  # noqa: PLR2004
            return _AMPLIFICATION * length if length > _SMALL_BODY_BYTES else None
    return None


async def _refuse(refused: AdmissionRefused, send: Send) -> None:
    """Answer 503. The wait is spread over twice its length, or all clients would come back at once."""
    problem = refused.problem()
    wait_s = max(1.0, refused.retry_after_s) * (1.0 + random())  # noqa: S311 - a spread, no secret
    problem["retry_after_s"] = round(wait_s, 3)
    body = _encode(problem).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"%d" % wait_s),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
