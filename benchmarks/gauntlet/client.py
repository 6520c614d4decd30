"""The gauntlet's client: requests come when they are due, whatever became of those before, and never twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import NamedTuple

__all__ = ["Asked", "Client"]

_TIMEOUT_S = 10.0


class Asked(NamedTuple):
    """One request of a load; ``held_bytes`` for ``held_s`` is what the service must hold for it meanwhile."""

    due_s: float
    path: str
    body: bytes = b""
    held_bytes: int = 0
    held_s: float = 0.0
    socket: bool = False
    light: bool = False


class Client:
    """Asks, and counts how each request ended: served, refused (503, 429, 1013), failed or lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.ended: Counter[str] = Counter()
        self.light: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.late_s: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def play(self, load: list[Asked]) -> None:
        """Ask for everything; returns when the last request has ended."""
        began = time.monotonic()
        for asked in load:
            wait_s = began + asked.due_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            task = asyncio.create_task(self._one(asked, began + asked.due_s))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _one(self, asked: Asked, due_at: float) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S + asked.held_s):
                ended = await (self._socket(asked) if asked.socket else self.ask(asked.path, asked.body))
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            ended = "lost"
            self.errors[type(error).__name__] += 1
        self.ended[ended] += 1
        if asked.light:
            self.light[ended] += 1
        if ended == "served":
            self.late_s.append(time.monotonic() - due_at - asked.held_s)

    async def ask(self, path: str, body: bytes = b"") -> str:
        """One request on a connection of its own; how it ended."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nhost: gauntlet\r\n"
            if body:
                head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            writer.write(head.encode() + b"\r\n" + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(answer.partition(b"content-length:")[2].split(None, 1)[0]))
        finally:
            writer.transport.abort()
        status = int(answer.split(None, 2)[1])
        return "served" if status < 400 else "refused" if status in {429, 503} else "failed"

    async def _socket(self, asked: Asked) -> str:
        from websockets.asyncio.client import connect  # noqa: PLC0415 - most loads have none
        from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException  # noqa: PLC0415

        try:
            async with connect(f"ws://127.0.0.1:{self._port}{asked.path}", open_timeout=_TIMEOUT_S) as line:
                await line.send("hello")
                await line.recv()
                await asyncio.sleep(asked.held_s)
                await line.send("still there")
                await line.recv()
        except InvalidStatus as error:
            return "refused" if error.response.status_code in {403, 429, 503} else "failed"
        except ConnectionClosed as error:
            return "refused" if error.rcvd is not None and error.rcvd.code in {1013, 1012} else "lost"
        except WebSocketException:
            return "lost"
        return "served"


def best(load: list[Asked], room_bytes: int) -> int:
    """How many requests could be served at best: each in its turn, if what it holds fits beside what is held then."""
    held: list[tuple[float, int]] = []
    served = 0
    for asked in load:
        held = [(until, size) for until, size in held if until > asked.due_s]
        if sum(size for _, size in held) + asked.held_bytes <= room_bytes:
            served += 1
            if asked.held_bytes:
                held.append((asked.due_s + asked.held_s, asked.held_bytes))
    return served
