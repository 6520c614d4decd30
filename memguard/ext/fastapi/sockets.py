"""Websockets as operators ask for them: how many are open, what went through, what waits to be sent, by path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memguard.ext.asgi.templates import template
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from memguard.ext.asgi.wire import Message, Receive, Scope, Send

__all__ = ["Line", "Sockets"]

# Paths with a row of their own; where the framework tells no template, clients make them up.
_PATHS = 200
OTHER = "other"


@value(frozen=False)
class Line:
    """All websockets of one path; ``queued_bytes`` were handed over for sending and wait for their clients."""

    path: str
    open: int = 0
    opened: int = 0
    refused: int = 0
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    queued_bytes: int = 0


class Sockets:
    """Counts websockets as they go by; a few additions a message."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}

    def lines(self) -> Iterable[Line]:
        """Every path, the one with most open sockets first."""
        return sorted(self._lines.values(), key=lambda line: (-line.open, line.path))

    def line(self, scope: Scope) -> Line:
        """The row of a connection's path: its route's template, once that is known."""
        path = template(scope) or "(no route)"
        if path not in self._lines and len(self._lines) >= _PATHS:
            path = OTHER
        return self._lines.setdefault(path, Line(path=path))

    def watch(self, scope: Scope, receive: Receive, send: Send) -> Watched:
        """One connection to be."""
        return Watched(self, scope, receive, send)


class Watched:
    """One websocket: counted from its handshake to its end."""

    __slots__ = ("_line", "_receive", "_scope", "_send", "_sockets")

    def __init__(self, sockets: Sockets, scope: Scope, receive: Receive, send: Send) -> None:
        self._sockets = sockets
        self._scope = scope
        self._receive = receive
        self._send = send
        self._line: Line | None = None

    async def receive(self) -> Message:
        """Pass the next message on."""
        message = await self._receive()
        line = self._line
        if line is not None and message["type"] == "websocket.receive":
            line.messages_in += 1
            line.bytes_in += _length(message)
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message on."""
        kind = message["type"]
        if kind == "websocket.send" and self._line is not None:
            return self._sent(self._line, message)
        if kind == "websocket.accept" and self._line is None:
            self._line = line = self._sockets.line(self._scope)
            line.open += 1
            line.opened += 1
        elif self._line is None:
            self._sockets.line(self._scope).refused += kind in {"websocket.close", "websocket.http.response.start"}
        return self._send(message)

    async def _sent(self, line: Line, message: Message) -> None:
        size = _length(message)
        line.queued_bytes += size
        try:
            await self._send(message)
        finally:
            line.queued_bytes -= size
        line.messages_out += 1
        line.bytes_out += size

    def ended(self) -> None:
        """The application has returned."""
        if self._line is not None:
            self._line.open -= 1


def _length(message: Message) -> int:
    body = message.get("bytes")
    return len(body) if body is not None else len((message.get("text") or "").encode("utf-8", "surrogatepass"))
