"""Pure ASGI middleware: refuses HTTP requests whose memory would not fit, before their bodies are read."""

from __future__ import annotations

import json
from random import random
from typing import TYPE_CHECKING, Any

from memguard.admission import Ticket
from memguard.units import KIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from memguard.admission import Gate
    from memguard.errors import AdmissionRefused
    from memguard.guard import Guard

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["TICKET", "MemguardMiddleware"]

TICKET = "memguard.ticket"
"""The scope's key that holds a request's ticket until it ends; its presence tells mounted apps that it is admitted."""

# json.loads makes 6 to 13 times a body's size; 8 is the middle until the gate learns.
_AMPLIFICATION = 8
# Below it the whole parsed body is less than a reading's noise.
_SMALL_BODY_BYTES = 64 * KIB

_ENDS = frozenset({"http.response.body", "http.response.pathsend", "http.response.trailers"})

_encode = json.JSONEncoder(separators=(",", ":")).encode


class MemguardMiddleware:
    """Admits each HTTP request by the guard's last snapshot, or answers 503 with a problem object (RFC 9457).

    The promise is 8 times a known ``Content-Length`` above 64 KiB, and nothing is promised for smaller or unknown
    bodies, nor for a GET, whose body means nothing (RFC 9110, 9.3.1). The ticket is closed when the app returns,
    after streaming and background tasks: done, failed after an exception, abandoned when the client left or the task
    was cancelled. Websockets and lifespan pass untouched, as do the ``exempt`` paths: a health probe that is shed with
    the rest gets a healthy process restarted.

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
        self._gate = guard.gate

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
        method = scope["method"]
        wanted_bytes = None if method == "GET" else _promise_bytes(scope["headers"])
        gate = self._gate
        request = _Request(gate, wanted_bytes, f"{method} {scope['path']}", receive, send)
        if wanted_bytes is None and not gate.narrow:  # most requests: the gate's short way
            gate.open[request] = None
        elif not gate.enter(request):
            await _refuse(gate.refusal(request), send)
            return
        scope[TICKET] = request
        try:
            await self.app(scope, request.receive, request.send)
        except (KeyboardInterrupt, SystemExit):
            request.close("failed")
            raise
        except Exception as error:
            request.close("abandoned" if request.left(error) else "failed")
            raise
        except BaseException:  # asyncio's or trio's cancellation, or a coroutine that was dropped
            request.close("abandoned")
            raise
        finally:
            scope.pop(TICKET, None)  # or server, scope and request would be a cycle, for the collector to end
        request.close("done" if request.answered else "abandoned" if request.gone else "failed")

    def _below_root(self, scope: Scope) -> bool:
        """Whether it is an exempt path after all: mounted or behind a proxy, it begins with root_path (ASGI 3)."""
        path, root = scope["path"], scope["root_path"]
        return path.startswith(root) and path[len(root) :] in self.exempt


class _Request(Ticket):
    """A request's ticket, which watches its messages go by: was it answered in full, did the client leave before?

    One object for both, and nothing but a store for each message: it is on every request's way.
    """

    __slots__ = ("_last", "_receive", "_send", "gone")

    def __init__(self, gate: Gate, bytes_: int | None, label: str, receive: Receive, send: Send) -> None:
        self._gate = gate  # as Ticket does: a call of its own costs as much as all the rest
        self._wait_s = 0.0
        self.bytes = bytes_
        self.kind = "request"
        self.label = label
        self.outcome = None
        self._receive = receive
        self._send = send
        self._last: Message | None = None
        self.gone = False

    async def receive(self) -> Message:
        message = await self._receive()
        # After the answer a server says "disconnect" too: then nobody is missing anything.
        if message["type"] == "http.disconnect" and not self.answered:
            self.gone = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        self._last = message
        return self._send(message)

    @property
    def answered(self) -> bool:
        """Whether the last message ended the answer."""
        last = self._last
        return last is not None and last["type"] in _ENDS and not (last.get("more_body") or last.get("more_trailers"))

    def left(self, error: Exception) -> bool:
        """Whether this error means that the client has gone.

        Since ASGI 2.4 a server's ``send`` raises OSError then, which Starlette passes on as ``ClientDisconnect``; an
        OSError from before the answer began is the application's own.
        """
        return self.gone or (
            self._last is not None and (isinstance(error, OSError) or isinstance(error.__context__, OSError))
        )


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
