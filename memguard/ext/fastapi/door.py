"""The door: what every connection passes on its way in; nobody reaches the control API unjudged.

Requests become operations on the way, and websockets are counted.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from memguard.ext.fastapi.problems import Problem, send_problem
from memguard.ext.fastapi.running import SAME, passing_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memguard.ext.asgi.wire import App, Message, Receive, Scope, Send
    from memguard.ext.fastapi.control import Control

__all__ = ["Door"]

# What an order may take: the longest that is known has 60 bytes.
_BODY_BYTES = 16 * 1024


class Door:
    """Pure ASGI middleware, below the one that admits; ``host`` serves what protect() has added."""

    def __init__(self, app: App, *, control: Control, host: App) -> None:
        self.app: App = app
        self.host: App = host
        self.control: Control = control
        self._passing = passing_of(control.guard.operations)
        self._first = True
        paths = control.paths
        self._watched = paths.looks | paths.acts
        self._quiet = frozenset(paths.all())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any type."""
        kind = scope["type"]
        if kind == "http":
            if self._first:
                self._first = False
                self._see_that_it_runs()
            path = scope["path"]
            if scope.get("root_path"):
                path = _below_root(path, scope["root_path"])
            if path in self._quiet:
                await self._own(path, scope, receive, send)
                return
            passing = self._passing
            operation = passing.begin(scope, path.encode("utf-8", "replace").translate(SAME))
            try:
                await self.app(scope, receive, send)
            except Exception:
                passing.end(operation, "failed")
                raise
            except BaseException:
                passing.end(operation, "abandoned")
                raise
            passing.end(operation, "done")
        elif kind == "websocket":
            socket = self.control.sockets.watch(scope, receive, send)
            try:
                await self.app(scope, socket.receive, socket.send)
            finally:
                socket.ended()
        else:
            await self.app(scope, receive, send)

    def _see_that_it_runs(self) -> None:
        guard = self.control.guard
        if not guard.running and guard.snapshot.reading is None:
            logging.getLogger("memguard").warning(
                "requests are served and the guard does not run: this server runs no lifespan, or this application is "
                "mounted in another; start the guard yourself, or call protect() on the outer application"
            )

    async def _own(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A request to what protect() has added."""
        body = _Body(receive, send)
        try:
            if path in self._watched:
                self.control.let_in(scope, path)
            body.announced(scope["headers"])
            await self.host(scope, body.receive, body.send)
        except Problem as problem:
            await send_problem(problem, send, close=scope.get("http_version", "1.1") < "2")
        except Exception:
            if not body.cut:
                raise
        if body.cut:
            await send_problem(_too_large(), send, close=True)


class _Body:
    """Lets a small body through, and no more: these paths pass the gate, which would have counted it."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._read = 0
        self._begun = False
        self.cut: bool = False

    @staticmethod
    def announced(headers: Iterable[tuple[bytes, bytes]]) -> None:
        for name, value in headers:
            if name == b"content-length" and (not value.isdigit() or int(value[:20]) > _BODY_BYTES):
                raise _too_large()

    async def send(self, message: Message) -> None:
        if not self.cut:
            self._begun = True
            await self._send(message)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body") or b"")
            if self._read > _BODY_BYTES and not self._begun:
                self.cut = True  # what the application says to that, nobody hears
                return {"type": "http.disconnect"}
        return message


def _too_large() -> Problem:
    return Problem(413, f"a body of more than {_BODY_BYTES // 1024} KiB is no order")


def _below_root(path: str, root: str) -> str:
    """The path as the application's routes see it (as Starlette has it)."""
    if not path.startswith(root):
        return path
    if path == root:
        return ""
    return path[len(root) :] if path[len(root)] == "/" else path
