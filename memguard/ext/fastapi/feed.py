"""The feed: what the page shows, as server-sent events. All pages share one frame; who does not read is left."""

import json
from collections.abc import Callable
from math import floor
from time import monotonic, time
from typing import Any

import anyio
from fastapi import APIRouter, Response

from memguard.ext.asgi.wire import Message, Receive, Scope, Send
from memguard.ext.fastapi.asking import Asked, mb
from memguard.ext.fastapi.control import CALLER, CONTROL, Control
from memguard.ext.fastapi.looking import memory_now, top_now
from memguard.ext.fastapi.problems import Problem, send_problem
from memguard.units import MIB

__all__ = ["Feed", "add_feed", "frame"]

# Pages open at once; each is a task and a buffer of 64 KiB.
_CLIENTS = 32
# Twice a second: what changes faster is seen by nobody, and a level that changed is at most so old.
_PERIOD_S = 0.5
# A server that is told to end waits for its connections, and nothing tells those that it does: so each answer is
# short, and the page asks again.
_ANSWER_S = 5.0
# A client that has not taken a frame in so long is gone, or might as well be.
_STUCK_S = 5.0
_ROWS, _DONE, _RELIEFS, _FEW = 12, 12, 12, 200


def add_feed(router: APIRouter) -> None:
    """Add this route; the application's own dependency judges it as it does the others."""
    feed = Feed()

    async def stream(_: Asked) -> Response:
        return _Streamed(feed)

    router.get("/monitoring/stream", include_in_schema=False, response_class=Response)(stream)


class _Streamed(Response):
    """An answer that the feed gives."""

    def __init__(self, feed: "Feed") -> None:
        super().__init__()
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._feed(scope, receive, send)


class Feed:
    """An ASGI endpoint; one for each protected application."""

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self.clients: int = 0
        self.made: int = 0
        self._clock = clock
        self._number = -1
        self._frame = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one page until it leaves, or does not read any more."""
        control: Control | None = scope.get(CONTROL)
        if control is None or CALLER not in scope:
            await send_problem(Problem(403, "this request did not come in by the door of protect()"), send)
            return
        if self.clients >= _CLIENTS:
            wait = Problem.later(5.0, f"{_CLIENTS} pages are open already: close one")
            await send_problem(wait, send)
            return
        self.clients += 1
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_until_gone, receive, group.cancel_scope)
                await self._serve(control, send)
                group.cancel_scope.cancel()
        except* OSError:  # some servers say so when the page has gone
            pass
        finally:
            self.clients -= 1

    async def _serve(self, control: Control, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # nginx: pass on what comes
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        last = b""
        body = b"retry: 500\n\n" + self.frame(control)
        until = self._clock() + _ANSWER_S
        while True:
            if body is not last:
                with anyio.move_on_after(_STUCK_S) as patience:
                    # A server waits here while its buffer is full: nothing is queued for a client that does not read.
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                if patience.cancelled_caught:
                    return
                last = body
            now = self._clock()
            if now >= until:
                break
            await anyio.sleep(_PERIOD_S * (floor(now / _PERIOD_S) + 1) - now)
            body = self.frame(control)
        with anyio.move_on_after(_STUCK_S):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def frame(self, control: Control) -> bytes:
        """The present frame, made once for all pages."""
        number = floor(self._clock() / _PERIOD_S)
        if number != self._number:
            self._number = number
            self.made += 1
            text = json.dumps(frame(control), separators=(",", ":"))
            self._frame = f"id: {number}\ndata: {text}\n\n".encode()
        return self._frame


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            scope.cancel()
            return


def _pools(control: Control) -> list[dict[str, Any]]:
    """All pools; of a large one only what costs no look at every agent."""
    rows = []
    for pool in control.guard.pools:
        size = len(pool)
        running = pool.stats().running if size <= _FEW else None
        rows.append(
            {
                "name": pool.name,
                "size": size,
                "max_size": pool.max_size,
                "running": running,
                "memory_mb": mb(pool.bytes),
                "fits": pool.fits(),
            }
        )
    return rows


def frame(control: Control) -> dict[str, Any]:
    """Everything that the page shows."""
    guard = control.guard
    memory = memory_now(control).model_dump(exclude={"holders"})
    top = top_now(control, _ROWS)
    verdict, snapshot = guard.verdict(), guard.snapshot
    incident = snapshot.incident
    offset_s = time() - guard.now()
    closed = guard.incidents[-5:]
    last = ([incident] if incident is not None else []) + list(reversed(closed))
    reliefs = [relief for each in last for relief in reversed(each.reliefs)][:_RELIEFS]
    return {
        "at": round(time(), 3),
        "acts": control.access.can_act,
        "ready": control.ready,
        "memory": memory,
        "consumers": [row.model_dump() for row in top.consumers],
        "pools": _pools(control),
        "sockets": sum(line.open for line in control.sockets.lines()),
        "verdict": {"kind": verdict.kind, "confidence": round(verdict.confidence, 2), "words": verdict.words},
        "incident": None
        if incident is None
        else {
            "since": round(incident.opened_at + offset_s, 1),
            "peak_level": incident.peak_level.name,
            "bought_mb": round(incident.bought_bytes / MIB, 1),
            "attempts": incident.attempts,
            "refusals": incident.refusals,
        },
        "incidents": len(guard.incidents) + (incident is not None),
        "reliefs": [
            {
                "at": round(relief.at + offset_s, 1),
                "name": relief.name,
                "bought_mb": round(relief.bought_bytes / MIB, 2),
                "cost_ms": round(relief.cost_s * 1000, 1),
                "error": relief.error,
            }
            for relief in reliefs
        ],
        "done": [
            {"at": round(each.unix_s, 1), "who": each.who, "what": each.what, "text": each.text}
            for each in list(control.done)[: -_DONE - 1 : -1]
        ],
    }
