"""Websockets: admitted at the handshake, counted while they are open, each with a budget for its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memguard._core.costs import COLD_RATIO
from memguard.admission import Ticket
from memguard.ext.asgi.templates import template
from memguard.ext.asgi.wire import TOO_BIG, TRY_AGAIN_LATER

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

    from memguard.admission import Gate
    from memguard.ext.asgi.wire import Message, Receive, Scope, Send
    from memguard.kinds import Priority

__all__ = ["Socket"]


class Socket(Ticket):
    """A websocket's ticket. A message that needs more than the budget is charged, or the connection closed.

    It is closed with 1013 (try again later), or 1009 (too big) when the message could never fit.
    """

    __slots__ = ("_budget_bytes", "_receive", "_scope", "_send", "closed", "cut")

    def __init__(  # noqa: PLR0913 - a connection and its terms
        self, gate: Gate, scope: Scope, receive: Receive, send: Send, *, budget_bytes: int, priority: Priority
    ) -> None:
        super().__init__(gate, budget_bytes, "websocket", f"WEBSOCKET {scope['path']}", priority)
        self._scope = scope
        self._receive = receive
        self._send = send
        self._budget_bytes = budget_bytes
        self.closed: bool = False
        self.cut: bool = False

    @property
    def template(self) -> str | None:
        """The route's template, once the framework has put it into the scope."""
        found = template(self._scope)
        return None if found is None else f"WEBSOCKET {found}"

    async def receive(self) -> Message:
        """Pass the next message on, if there is room for it."""
        if self.closed:
            return {"type": "websocket.disconnect", "code": TRY_AGAIN_LATER, "reason": ""}
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.closed = True
        elif message["type"] == "websocket.receive":
            needed = COLD_RATIO * len(message.get("bytes") or message.get("text") or "")
            if needed > self._budget_bytes:
                return await self._charged(message, needed)
        return message

    async def _charged(self, message: Message, needed: int) -> Message:
        if self._gate.charge(self, needed - self._budget_bytes):
            self._budget_bytes = needed
            return message
        refused = self._gate.refusal(self, wanted_bytes=needed)
        self.closed = self.cut = True
        code = TOO_BIG if refused.never else TRY_AGAIN_LATER
        await self._send({"type": "websocket.close", "code": code, "reason": "memory is short"})
        return {"type": "websocket.disconnect", "code": code, "reason": ""}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A client that closes ends the work as meant, though frameworks raise that as an error."""
        if self.closed and not self.cut and kind is not None and issubclass(kind, Exception):
            self.close()
        super().__exit__(kind, error, trace)

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message on; after a close there is nobody to hear it."""
        if self.closed:
            return _nowhere()
        if message["type"] == "websocket.close":
            self.closed = True
        return self._send(message)


async def _nowhere() -> None:
    """Where messages go once the connection was closed."""
