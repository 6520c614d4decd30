"""The middleware: who passes, who waits, who is refused, and how every ticket ends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from memguard._core.costs import SMALL_BODY_BYTES
from memguard.errors import AdmissionRefused
from memguard.ext.asgi.requests import TICKET, BodyRequest, Request, announced_bytes
from memguard.ext.asgi.sockets import Socket
from memguard.ext.asgi.wire import TRY_AGAIN_LATER, closing, refuse_request, refuse_socket
from memguard.units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memguard.admission.tickets import Purse
    from memguard.ext.asgi.wire import App, Receive, Scope, Send
    from memguard.guard import Guard
    from memguard.kinds import Priority

    Rank = str | Callable[[Scope], str | None]
    Choice = Callable[[Scope], str | None]
    Cost = Callable[[Scope], int | str | None]

__all__ = ["MemguardMiddleware"]

_PRIORITIES: dict[str | None, Priority] = {"critical": "critical", "normal": "normal", "sheddable": "sheddable"}


class MemguardMiddleware:
    """Admits each HTTP request and websocket by the guard's last snapshot, or answers 503 with a problem object.

    What a request will need is learned per route (``docs/admission.md``); until it is, 8 times a body above 64 KiB and
    nothing for the rest. Bodies without a true length are charged as they come, and cut off with 413 or 503 when they
    outgrow the room. A refusal that the application itself meets (``PoolFull``, ``FeatureOff``, one of ``guard.admit``)
    and does not catch is answered in the same way; where the rules ask for a fuse, a MemoryError too. The ticket is
    closed when the app returns, after streaming and background tasks: done, failed after an exception, abandoned when
    the client left or the task was cancelled. Lifespan passes untouched, as do the ``exempt`` paths: a health probe
    that is shed with the rest gets a healthy process restarted.

    Args:
        app: the application.
        guard: whose gate decides.
        exempt: paths that always pass.
        wait_s: how long a request that does not fit may wait for room before it is refused.
        priority: a header's name, or a function of the scope, that says "critical", "normal" or "sheddable"; a client
            can write any header, so only name one that your proxy sets. None: all are normal.
        cost: a function of the scope that says how many bytes a request will need, where you know better; None from
            it: as learned. It is asked for requests with a body, and for all while room is short.
        budget: a function of the scope that names the budget (``guard.budget``) whose room a request needs too; None
            from it: none.
        websocket_bytes: what an open websocket is promised, at least.

    Raises:
        TypeError: ``exempt`` is one string instead of several.
        ValueError: no amount of memory, or no time.
    """

    def __init__(  # noqa: PLR0913 - each but the first two has a default
        self,
        app: App,
        *,
        guard: Guard,
        exempt: Iterable[str] = ("/livez", "/readyz", "/healthz", "/health"),
        wait_s: float | str = 0.0,
        priority: Rank | None = None,
        cost: Cost | None = None,
        budget: Choice | None = None,
        websocket_bytes: int | str = "64KiB",
    ) -> None:
        if isinstance(exempt, str):
            raise TypeError(f"exempt={exempt!r} is one path: write it as ({exempt!r},)")
        self.app: App = _behind_fuse(app, guard) if guard.rules.fuse else app
        self.guard = guard
        self.exempt: frozenset[str] = frozenset(exempt)
        self.wait_s: float = parse_seconds(wait_s)
        self.websocket_bytes: int = parse_bytes(websocket_bytes)
        self._priority = priority
        self._header = priority.lower().encode("latin-1") if isinstance(priority, str) else b""
        self._cost = cost
        self._budget = budget
        self._quick = frozenset({"GET"} if budget is None else ())
        self._faults: set[str] = set()
        self._gate = guard.gate
        self._lessons = guard.gate.learn()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any type."""
        if (
            scope["type"] != "http"
            or TICKET in scope
            or scope["path"] in self.exempt
            or (scope.get("root_path") and self._below_root(scope))
        ):
            await self._other(scope, receive, send)
            return
        gate = self._gate
        quick = not gate.narrow and (scope["method"] in self._quick or self._small(scope))
        if quick:
            request = Request(gate, scope, receive, send)  # most requests: the gate's short way
            gate.open[request] = None
        else:
            request = self._asked(scope, receive, send)
            if request.fate and not await self._let_in(request, send):
                return
        scope[TICKET] = request
        try:
            await self.app(scope, request.receive, request.send)
        except BaseException as error:
            scope.pop(TICKET, None)
            if await self._broken(request, error, send):
                raise
            return
        scope.pop(TICKET, None)  # or server, scope and request would be a cycle, for the collector to end
        last = request.last
        if (
            quick
            and last is not None
            and last["type"] == "http.response.body"
            and not (last.get("more_body") or request.fate or request.bytes or request.outcome)
        ):
            request.outcome = "done"  # as close() does: its call is a tenth of what the middleware takes
            gate.open.pop(request, None)
            gate.closed.append((scope["method"], scope["path"]))
            gate.completed += 1
        else:
            request.close()

    async def _broken(self, request: Request, error: BaseException, send: Send) -> bool:
        """Close a request whose application raised; whether the server has to hear of it."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            request.close("failed")
            return True
        if not isinstance(error, Exception):  # asyncio's or trio's cancellation, or a coroutine that was dropped
            request.close("abandoned")
            return True
        if request.fate == "cut":  # it was told that the client has gone: that it minds is no news
            request.close("failed")
            return False
        if isinstance(error, AdmissionRefused) and not request.begun:  # by a pool, a budget, a feature
            request.close("failed")
            await refuse_request(error, send)
            return False
        request.close("abandoned" if request.left(error) else "failed")
        return True

    def _small(self, scope: Scope) -> bool:
        """Whether a request's body says that it is small, and nobody wants to be asked what it costs, or whom."""
        if self._budget is not None:
            return False
        announced = announced_bytes(scope["headers"])
        return announced == 0 or (0 < announced <= SMALL_BODY_BYTES and self._cost is None)

    def _asked(self, scope: Scope, receive: Receive, send: Send) -> BodyRequest:
        """A request with a body, or one that came while room is short; its fate is "asked" when it does not fit."""
        announced = 0 if scope["method"] == "GET" else announced_bytes(scope["headers"])
        if self._gate.leaving:
            send = closing(scope, send)
        request = BodyRequest(self._gate, scope, receive, send, announced)
        if self._priority is not None:
            request.priority = self._rank(scope)
        if self._cost is not None:
            request.bytes = self._stated(scope)
        if self._budget is not None:
            request.budget = self._purse(scope)
        gate, asks = self._gate, request.bytes is not None or request.budget is not None
        if request.body_bytes <= SMALL_BODY_BYTES and not asks and not gate.narrow:
            gate.open[request] = None
        elif not gate.enter(request):
            request.fate = "asked"
        return request

    async def _let_in(self, request: BodyRequest, send: Send) -> bool:
        """Wait for room if that is allowed; whether there was some. Else the request is refused."""
        gate = self._gate
        try:
            if self.wait_s <= 0.0 or gate.leaving == "refusing":
                raise gate.refusal(request)
            await gate.wait_async(request, self.wait_s)
        except AdmissionRefused as refused:
            # A body that nobody reads is left to the server, which drops it: closed on, a client that is still sending
            # would see a reset connection and no answer (RFC 9112, section 9.6).
            await refuse_request(refused, send, close=bool(gate.leaving))
            return False
        request.fate = ""
        return True

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Websockets; the rest passes."""
        kind = scope["type"]
        exempt = TICKET in scope or scope.get("path") in self.exempt
        if kind != "websocket" or exempt or (scope.get("root_path") and self._below_root(scope)):
            await self.app(scope, receive, send)
            return
        gate = self._gate
        priority = "normal" if self._priority is None else self._rank(scope)
        socket = Socket(gate, scope, receive, send, budget_bytes=self.websocket_bytes, priority=priority)
        learned = self._lessons.costs.route(socket.label, gate.clock()).predict(0)
        socket.bytes = max(self.websocket_bytes, learned or 0)
        try:
            if not gate.enter(socket):
                if self.wait_s <= 0.0:
                    raise gate.refusal(socket)
                await gate.wait_async(socket, self.wait_s)
        except AdmissionRefused as refused:
            await refuse_socket(refused, scope, receive, send)
            return
        scope[TICKET] = socket
        try:
            with socket:
                await self.app(scope, socket.receive, socket.send)
                if socket.cut:
                    socket.close("failed")
        except Exception as error:
            if isinstance(error, AdmissionRefused) and not socket.closed:  # as for requests
                await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "memory is short"})
            elif not socket.cut:
                raise
        finally:
            scope.pop(TICKET, None)

    def _rank(self, scope: Scope) -> Priority:
        """What the application says about this request; what is none of the words, or fails, is normal."""
        said: str | None = None
        if self._header:
            for name, value in scope["headers"]:
                if name == self._header:
                    said = value.decode("latin-1").strip().lower()
        elif callable(self._priority):
            try:
                said = self._priority(scope)
            except Exception as error:  # noqa: BLE001 - it is asked when room is short: no time to fail for that
                self._fault("priority", error)
        return _PRIORITIES.get(said, "normal")

    def _stated(self, scope: Scope) -> int | None:
        """How many bytes the application says that this request needs."""
        try:
            stated = self._cost(scope) if self._cost is not None else None
            return None if stated is None else parse_bytes(stated)
        except Exception as error:  # noqa: BLE001 - as in _rank
            self._fault("cost", error)
            return None

    def _purse(self, scope: Scope) -> Purse | None:
        """The budget that the application names for this request."""
        try:
            name = self._budget(scope) if self._budget is not None else None
            return None if name is None else self.guard.budget(name)
        except Exception as error:  # noqa: BLE001 - as in _rank
            self._fault("budget", error)
            return None

    def _fault(self, what: str, error: Exception) -> None:
        """Tell of a failing callable, once in these words."""
        text = f"{what}= failed: {type(error).__name__}: {error}; the request counts as if there were none"
        if text not in self._faults and len(self._faults) < 100:  # noqa: PLR2004 - texts may differ each time
            self._faults.add(text)
            logging.getLogger("memguard").error("MemguardMiddleware(%s", text)

    def _below_root(self, scope: Scope) -> bool:
        """Whether it is an exempt path after all: mounted or behind a proxy, it begins with root_path (ASGI 3)."""
        path, root = scope["path"], scope["root_path"]
        return path.startswith(root) and path[len(root) :] in self.exempt


def _behind_fuse(app: App, guard: Guard) -> App:
    from memguard.ext.asgi.fused import Fused  # noqa: PLC0415 - few have one

    return Fused(app, guard)
