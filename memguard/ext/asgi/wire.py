"""The wire: ASGI's shapes as types, and refusals as messages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from random import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memguard.errors import AdmissionRefused

__all__ = ["App", "Message", "Receive", "Scope", "Send", "closing", "refuse_request", "refuse_socket"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TRY_AGAIN_LATER = 1013
"""The close code of RFC 6455's registry for a server under load."""

TOO_BIG = 1009
"""The close code for a message that is too large to take."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


async def refuse_request(refused: AdmissionRefused, send: Send, *, prefix: str = "http", close: bool = False) -> None:
    """Answer 503, or 413 when it can never fit. Waits are spread over twice their length, or all would come at once.

    ``close`` ends the connection too: a body that is still on its way need not be read.
    """
    problem, retry_s = refused.answer(random())  # noqa: S311 - a spread, no secret
    headers = [(b"content-type", b"application/problem+json")]
    if retry_s is not None:
        headers.append((b"retry-after", b"%d" % retry_s))
    body = _encode(problem).encode()
    headers.append((b"content-length", b"%d" % len(body)))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": f"{prefix}.response.start", "status": problem["status"], "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": body})


def closing(scope: Scope, send: Send) -> Send:
    """A ``send`` whose answer says that the connection ends with it; HTTP/2 and later have no such header."""
    if scope.get("http_version", "1.1") >= "2":
        return send

    async def closed(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if bytes(pair[0]).lower() != b"connection"]
            message = {**message, "headers": [*kept, (b"connection", b"close")]}
        await send(message)

    return closed


async def refuse_socket(refused: AdmissionRefused, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a websocket at its handshake: with 503 and a problem object where the server offers that.

    Elsewhere by closing with 1013, which servers answer with 403: before the handshake is accepted there is no
    websocket to close.
    """
    if (await receive())["type"] != "websocket.connect":
        return
    if "websocket.http.response" in (scope.get("extensions") or ()):
        await refuse_request(refused, send, prefix="websocket.http")
    else:
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "memory is short: try again later"})
