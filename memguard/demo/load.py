"""The client of the demonstration: a process of its own that replays a recorded load and notes every outcome.

It is no friend of the service: requests come when they are due, whatever became of those before (open loop), and a
503 counts as refused and is not tried again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from memguard.demo.schedule import body_of, read_schedule, sample_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.demo.schedule import Request

__all__ = ["Client", "main"]

_AT_ONCE = 32
_TIMEOUT_S = 15.0
_PROGRESS_S = 0.25

_Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Client:
    """A small HTTP/1.1 client with kept connections that counts how requests ended; ``note`` takes a line for each."""

    def __init__(self, port: int, note: Callable[[str], object]) -> None:
        self._port = port
        self._note = note
        self._spare: list[_Line] = []
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.counts: Counter[str] = Counter()

    async def send(self, request: Request, body: bytes, due_at: float) -> None:
        """Send one request and note how it ended; latency counts from when it was due."""
        async with self._room:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    status = await self._exchange(request, body)
                ended = "served" if status < 400 else "refused" if status == 503 else "failed"  # noqa: PLR2004
            except (OSError, EOFError, TimeoutError, ValueError):
                status, ended = 0, "lost"
        self.counts[ended] += 1
        latency_s = round(time.monotonic() - due_at, 6)
        outcome = {"due_s": request.due_s, "kind": request.kind, "ended": ended, "latency_s": latency_s}
        self._note(json.dumps({**outcome, "status": status}) + "\n")

    async def _exchange(self, request: Request, body: bytes) -> int:
        fresh = not self._spare
        line = await self._connect() if fresh else self._spare.pop()
        kept = False
        try:
            status = await self._speak(line, request, body)
            kept = True
        finally:
            if kept:
                self._spare.append(line)
            else:
                line[1].transport.abort()
        return status

    async def _connect(self) -> _Line:
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _speak(self, line: _Line, request: Request, body: bytes) -> int:
        reader, writer = line
        head = f"{request.method} {request.path} HTTP/1.1\r\nhost: demo\r\n"
        if body:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n")
        writer.write(body)
        await writer.drain()
        start = await reader.readline()
        status, length = int(start.split()[1]) if start else 0, 0
        if not status:
            raise EOFError
        while (header := await reader.readline()) not in {b"\r\n", b""}:
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        await reader.readexactly(length)
        return status

    def close(self) -> None:
        """Drop the kept connections."""
        for _, writer in self._spare:
            writer.transport.abort()


async def _replay(requests: list[Request], client: Client, text: str) -> None:
    began_at = time.monotonic()
    reporter = asyncio.create_task(_report(client))
    async with asyncio.TaskGroup() as tasks:
        for request in requests:
            body = body_of(request, text)
            due_at = began_at + request.due_s
            await asyncio.sleep(max(0.0, due_at - time.monotonic()))
            tasks.create_task(client.send(request, body, due_at))
    reporter.cancel()
    client.close()


async def _report(client: Client) -> None:
    parent = os.getppid()
    while True:
        if os.getppid() != parent:  # the demonstration was killed: nobody wants this load any more
            os._exit(1)
        print(json.dumps(client.counts), flush=True)
        await asyncio.sleep(_PROGRESS_S)


def main() -> int:
    """Replay a schedule against a port of this machine; outcomes go to a file, counts to standard output."""
    parser = argparse.ArgumentParser(prog="python -m memguard.demo.load")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--schedule", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    # Line by line: what was seen is on record even when this process is ended.
    with options.out.open("w", encoding="utf-8", buffering=1) as file:
        client = Client(options.port, file.write)
        asyncio.run(_replay(read_schedule(options.schedule), client, sample_text(0)))
    print(json.dumps(client.counts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
