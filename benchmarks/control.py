"""The control API: what open pages cost, how fast it answers when nothing else is, what the door costs a request.

One uvicorn process is measured, this one is all of its clients. Its guard looks 100 times a second. "pages": processor
time of the server with 20 pages that read their feed, less the same without, in turn. "at EMERGENCY": answers while the
gate refuses everything else and 8 clients go on asking, one after the other, 5 ms apart. "door": processor time per
request with protect() beside the bare middleware, in turn, medians; "in process" without any socket.

    python benchmarks/control.py [--seconds 10] [--rounds 3] [--requests 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

import report

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

Row = dict[str, str]
PAGES, PAGES_BAR_RATIO, P99_BAR_MS, DOOR_BAR_US = 20, 0.02, 50.0, 8.0
API = "/api/v1/monitoring"
LOOKS = ("memory", "memory/top", "metrics", "agents/memory", "operations", "metrics/memory?duration=1h")


class Client:
    """One kept connection; raw, so that clients cost little."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None

    async def get(self, path: str) -> tuple[int, bytes]:
        """Ask; status and body."""
        if self.reader is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(head[9:12]), await self.reader.readexactly(length)

    async def read_feed(self) -> None:
        """Read the feed as a page does: to the end of an answer, and again."""
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(f"GET {API}/stream HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            while b"0\r\n\r\n" not in await reader.read(65536):
                pass
            writer.close()


@asynccontextmanager
async def service(**environment: str) -> AsyncGenerator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "control_service:app", "--port", str(port), "--log-level", "error"]
    path = os.pathsep.join((str(Path(__file__).parent), str(Path(__file__).parents[1])))
    process = subprocess.Popen(  # noqa: ASYNC220 - before anything runs beside it
        [*command, "--no-access-log"], env={**os.environ, "PYTHONPATH": path, "USED_RATIO": "0.4", **environment}
    )
    try:
        for _ in range(400):
            try:
                await Client(port).get("/livez")
                break
            except OSError:
                await asyncio.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


async def cpu_s(port: int) -> float:
    return float((await Client(port).get("/cpu"))[1])


async def pages(seconds: float, rounds: int) -> Row:
    shares = []
    async with service() as port:
        for _ in range(rounds):
            taken = []
            for count in (0, PAGES):
                tasks = [asyncio.create_task(Client(port).read_feed()) for _ in range(count)]
                await asyncio.sleep(1.0)
                began, before = time.perf_counter(), await cpu_s(port)
                await asyncio.sleep(seconds)
                taken.append((await cpu_s(port) - before) / (time.perf_counter() - began))
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            shares.append(taken[1] - taken[0])
            print(f"without {taken[0]:.2%}, with {PAGES} pages {taken[1]:.2%} of a core", flush=True)
    share = median(shares)
    met = "met" if share <= PAGES_BAR_RATIO else "MISSED"
    return {
        "what": f"100 snapshots/s to {PAGES} pages",
        "measured": f"{share:.2%} of a core ({min(shares):.2%} to {max(shares):.2%})",
        "bar": f"≤ {PAGES_BAR_RATIO:.0%} ({met})",
    }


async def emergency(requests: int) -> list[Row]:
    rows = []
    async with service(USED_RATIO="0.99") as port:
        await asyncio.sleep(1.0)
        refused = 0

        async def push() -> None:
            nonlocal refused
            client = Client(port)
            while True:
                status, _ = await client.get("/work/1")
                if status != 503:
                    raise RuntimeError(f"/work/1 was answered {status}: the gate is open")
                refused += 1
                await asyncio.sleep(0.005)

        tasks = [asyncio.create_task(push()) for _ in range(8)]
        client = Client(port)
        for look in LOOKS:
            began, before, times = time.perf_counter(), refused, []
            for _ in range(requests):
                asked = time.perf_counter()
                status, _ = await client.get(f"{API}/{look}")
                times.append((time.perf_counter() - asked) * 1000)
                if status != 200:
                    raise RuntimeError(f"{look} was answered {status}")
            rate = (refused - before) / (time.perf_counter() - began)
            p99 = quantiles(times, n=100)[98]
            met = "met" if p99 <= P99_BAR_MS else "MISSED"
            rows.append(
                {
                    "what": f"GET {look.partition('?')[0]} at EMERGENCY, {rate:.0f} refusals/s",
                    "measured": f"median {median(times):.1f} ms, p99 {p99:.1f} ms",
                    "bar": f"p99 ≤ {P99_BAR_MS:g} ms ({met})",
                }
            )
            print("  ".join(rows[-1].values()), flush=True)
        for task in tasks:
            task.cancel()
    return rows


async def door(requests: int, rounds: int) -> Row:
    async with service(PROTECT="0") as bare, service() as ours:
        taken: dict[int, list[float]] = {bare: [], ours: []}
        for _ in range(rounds + 1):
            for port, times in taken.items():
                client = Client(port)
                before = await cpu_s(port)
                for _ in range(4 * requests):
                    await client.get("/work/1")
                times.append((await cpu_s(port) - before) / (4 * requests) * 1e6)
        plain, protected = (median(times[1:]) for times in taken.values())
    return {
        "what": "over uvicorn: a request through protect(), beside the bare middleware",
        "measured": f"{protected:.0f} µs beside {plain:.0f} µs: {protected - plain:+.0f} µs",
        "bar": "–",
    }


async def in_process(pairs: int) -> Row:
    """The same without a socket: FastAPI bare, with the middleware, protected; one after the other, in turns."""
    from fastapi import FastAPI  # noqa: PLC0415 - the server's, but for this

    import memguard  # noqa: PLC0415
    from memguard.ext.asgi import MemguardMiddleware  # noqa: PLC0415
    from memguard.ext.fastapi import protect  # noqa: PLC0415

    def application() -> FastAPI:
        app = FastAPI()

        @app.get("/work/{number}")
        async def work(number: int) -> int:
            return number

        return app

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: object) -> None:
        pass

    async def call_us(app: FastAPI, count: int) -> float:
        began = time.thread_time_ns()
        for number in range(count):
            path = f"/work/{number}"
            scope = {
                "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": "",
                "query_string": b"", "headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http",
                "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 5000),
            }  # fmt: skip
            await app(scope, receive, send)
        return (time.thread_time_ns() - began) / count / 1e3

    guard = memguard.Guard(limit="4GiB", roster=memguard.Roster())
    bare, admitted, protected = application(), application(), protect(application(), guard)
    admitted.add_middleware(MemguardMiddleware, guard=guard)
    with guard:
        guard.remember()
        guard.exposition  # noqa: B018 - as protect's lifespan does
        apps = (bare, admitted, protected)
        for app in apps:
            await call_us(app, 500)
        taken = [[await call_us(app, 200) for app in apps] for _ in range(pairs)]
    plain = median(row[0] for row in taken)
    gate, door, both = (median(row[a] - row[b] for row in taken) for a, b in ((1, 0), (2, 1), (2, 0)))
    met = "met" if door <= DOOR_BAR_US else "MISSED"
    return {
        "what": "in process: a request through protect(), beside the bare middleware",
        "measured": f"FastAPI alone {plain:.1f} µs; the middleware {gate:+.1f} µs, protect() {door:+.1f} µs more: "
        f"{both:+.1f} µs",
        "bar": f"≤ {DOOR_BAR_US:g} µs more ({met})",
    }


async def main(arguments: argparse.Namespace) -> None:
    rows = [await pages(arguments.seconds, arguments.rounds)]
    rows += await emergency(arguments.requests)
    rows.append(await door(arguments.requests, arguments.rounds))
    rows.append(await in_process(60))
    report.publish(
        "control", title="The control API and its page", rows=rows, method=(__doc__ or "").splitlines()[2:-2]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1000)
    asyncio.run(main(parser.parse_args()))
