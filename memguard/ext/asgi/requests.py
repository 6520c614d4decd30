"""Requests: tickets that watch a request's messages go by."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memguard._core.costs import COLD_RATIO, SMALL_BODY_BYTES
from memguard.admission import Ticket
from memguard.errors import AdmissionRefused
from memguard.ext.asgi.templates import template
from memguard.ext.asgi.wire import refuse_request
from memguard.units import KIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from memguard.admission import Gate
    from memguard.admission.tickets import Purse
    from memguard.ext.asgi.wire import Message, Receive, Scope, Send
    from memguard.kinds import Outcome, Priority

__all__ = ["TICKET", "BodyRequest", "Request", "announced_bytes"]

TICKET = "memguard.ticket"
"""The scope's key that holds a request's ticket until it ends; its presence tells mounted apps that it is admitted."""

# A body that is longer than announced is charged in steps of so much: a lock is cheap, but not free.
_STEP_BYTES = 256 * KIB
_FAILED = 500
_ENDS = frozenset({"http.response.body", "http.response.pathsend", "http.response.trailers"})


class Request(Ticket):
    """A request's ticket: was it answered in full, did the client leave before, did its body outgrow the room?

    One object for ticket and messages, and nothing but a store for each message: it is on every request's way. What is
    the same for all of them belongs to the class; the label is put together when somebody asks.
    """

    __slots__ = ("_covered_bytes", "_read_bytes", "_receive", "_scope", "_send", "fate", "last")

    bytes: int | None
    outcome: Outcome | None
    kind: str = "request"
    priority: Priority = "normal"
    _wait_s: float = 0.0

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self._gate = gate  # as Ticket does: a call of its own costs as much as all the rest
        self._scope = scope
        self._receive = receive
        self._send = send
        self.last: Message | None = None
        """What the application sent last."""
        self.bytes = None
        self.outcome = None
        self.fate: str = ""
        """"left" once the client has gone, "cut" once it was refused in the middle."""

    @property
    def label(self) -> str:
        """The request's first line."""
        return f"{self._scope['method']} {self._scope['path']}"

    @property
    def template(self) -> str | None:
        """The route's template, once the framework has put it into the scope."""
        found = template(self._scope)
        return None if found is None else f"{self._scope['method']} {found}"

    def close(self, outcome: Outcome | None = None) -> None:
        """Give the promise back; only the first close counts. None: as it ended, now that the application returned."""
        if self.outcome is None:
            self.outcome = outcome or self._ending()
            gate, scope = self._gate, self._scope
            gate.open.pop(self, None)  # as the middleware does for most
            gate.closed.append((scope["method"], scope["path"]))
            gate.completed += 1
            if self.bytes:
                gate.settle(self)

    async def receive(self) -> Message:
        """Pass the next message on."""
        message = await self._receive()
        # After the answer a server says "disconnect" too: then nobody is missing anything.
        if message["type"] == "http.disconnect":
            if not self.answered:
                self.fate = self.fate or "left"
        elif message.get("more_body") or len(message.get("body") or b"") > SMALL_BODY_BYTES:
            return await self._counted(message)  # not the small request that it was taken for
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message on."""
        self.last = message
        return self._failed(message) if message.get("status") == _FAILED else self._send(message)

    def _failed(self, message: Message) -> Awaitable[None]:
        """A 500 that a framework makes of a refusal (of a full pool, a feature that is off) becomes that refusal."""
        error = sys.exc_info()[1]
        if not isinstance(error, AdmissionRefused):
            return self._send(message)
        self.fate, send = "cut", self._send
        self._send = _nowhere
        return refuse_request(error, send)

    @property
    def begun(self) -> bool:
        """Whether an answer has begun."""
        return self.last is not None

    @property
    def read_bytes(self) -> int:
        """How much of a body has come so far."""
        return getattr(self, "_read_bytes", 0)

    async def _counted(self, message: Message) -> Message:
        """Charge for what the body has beyond what is covered; when that does not fit, refuse it here and now."""
        read = self._read_bytes = self.read_bytes + len(message.get("body") or b"")
        covered = getattr(self, "_covered_bytes", SMALL_BODY_BYTES)
        if read <= covered:
            return message
        self._covered_bytes = read + (_STEP_BYTES if message.get("more_body") else 0)
        gate, ratio = self._gate, float(COLD_RATIO)
        if gate.lessons is not None:
            ratio = gate.lessons.costs.route(self.label, gate.clock()).ratio
        more_bytes = int(ratio * (self._covered_bytes - covered))
        if gate.charge(self, more_bytes):
            return message
        self.fate = "cut"
        refused, send = gate.refusal(self, wanted_bytes=int(ratio * read)), self._send
        self._receive, self._send = _gone, _nowhere
        if self.last is None:
            await refuse_request(refused, send, close=self._scope.get("http_version", "1.1") < "2")
        return await _gone()

    @property
    def answered(self) -> bool:
        """Whether the last message ended the answer."""
        last = self.last
        return last is not None and last["type"] in _ENDS and not (last.get("more_body") or last.get("more_trailers"))

    def _ending(self) -> Outcome:
        """How it ended, when the application returned."""
        if self.fate == "cut" or not (self.answered or self.fate):
            return "failed"
        return "done" if self.answered else "abandoned"

    def left(self, error: Exception) -> bool:
        """Whether this error means that the client has gone.

        Since ASGI 2.4 a server's ``send`` raises OSError then, which Starlette passes on as ``ClientDisconnect``; an
        OSError from before the answer began is the application's own.
        """
        return bool(self.fate) or (
            self.last is not None and (isinstance(error, OSError) or isinstance(error.__context__, OSError))
        )


class BodyRequest(Request):
    """A request with a large body or one of unknown length, or one that came while room was short."""

    __slots__ = ("_announced_bytes", "budget", "priority")

    budget: Purse | None
    fate: str
    last: Message | None

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send, announced: int) -> None:
        super().__init__(gate, scope, receive, send)
        self.budget = None
        self.priority: Priority = "normal"
        self._announced_bytes = announced
        self._read_bytes = 0
        self._covered_bytes = max(SMALL_BODY_BYTES, announced)

    def close(self, outcome: Outcome | None = None) -> None:
        """As any request, and give the budget its part back."""
        super().close(outcome)
        if self.budget is not None:
            self.budget.give(self)

    @property
    def body_bytes(self) -> int:
        """How long the body is, as far as is known."""
        return max(0, self._announced_bytes, self._read_bytes)

    def lapse(self) -> None:
        """The promise was given back: the rest of the body is charged as it comes."""
        self._covered_bytes = max(SMALL_BODY_BYTES, self._read_bytes)

    async def receive(self) -> Message:
        """Pass the next message on, if there is room for it."""
        message = await self._receive()
        if message["type"] == "http.request":
            return await self._counted(message)
        if not self.answered:
            self.fate = self.fate or "left"
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message on; the promise ends with the answer, however slowly it is read."""
        self.last = message
        if self.bytes and self.answered:
            self._gate.settle(self)
        return self._failed(message) if message.get("status") == _FAILED else self._send(message)


def announced_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The Content-Length; -1 when there is none, or none that can be one: then the body is counted as it comes.

    Several that differ are a smuggler's or a mistake, which servers should refuse: the largest counts.
    """
    longest = -1
    for name, value in headers:
        if name == b"content-length":
            # isdigit first: int() would take b"-1" and b"1_0"; 18 digits are an exabyte.
            length = int(value) if value.isdigit() and len(value) <= 18 else -1  # noqa: PLR2004
            longest = length if length > longest else longest
    return longest


async def _gone() -> Message:
    """What an application hears once its request was refused."""
    return {"type": "http.disconnect"}


async def _nowhere(message: Message) -> None:
    """Where its answer goes then."""
