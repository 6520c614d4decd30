"""ASGI: what the middleware costs a request that is served, and what a request costs that is refused.

"in process": the app is called without any socket, bare and guarded in turns; the figure is the median of the
differences between neighbours. "uvicorn": a bare and a guarded server process of the same small JSON endpoint stand
side by side, and a separate client process asks one and then the other over 8 kept connections, one request at a time
on each, in slices of half a second; the ratio is the median over pairs of slices. "refused" is a guard at CRITICAL,
which answers 503 before the application. Nothing is pinned to a core; the client has most of the second one.

    python benchmarks/asgi.py [--pairs 30]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report

from memguard.ext.asgi import MemguardMiddleware
from memguard.guard import Guard
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
MODES = ("bare", "guarded", "refused")
CONNECTIONS = 8
SLICE_S = 0.5
REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n"
HEADERS = [(b"host", b"localhost"), (b"accept", b"*/*"), (b"user-agent", b"bench")]
# Bar of issue 2.
BAR_RATIO = 0.03

Row = dict[str, str]


class CriticalProbe:
    """Reads 92 of 100 MiB, whatever happens."""

    source = "a constant"

    def read(self) -> int:
        return 92 * MIB


def application() -> Any:  # noqa: ANN401 - FastAPI has no types of its own here
    from fastapi import FastAPI  # noqa: PLC0415 - not for the client

    app = FastAPI()

    @app.get("/small")
    async def small() -> dict[str, object]:
        return {"ok": True, "answer": 42, "text": "a small JSON"}

    return app


def critical_guard() -> Guard:
    return Guard(limit=100 * MIB, probe=CriticalProbe(), sinks=(_no_sink,))


def _no_sink(event: object) -> None:
    """Instead of the log: what is told is not what is measured."""


# --- in process ----------------------------------------------------------------------------------------------------


async def plain(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401, ARG001 - an ASGI app
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def _receive() -> dict[str, object]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: object) -> None:
    pass


async def _call_us(app: Any, count: int) -> float:  # noqa: ANN401 - an ASGI app
    """Microseconds for one request."""
    began = time.perf_counter_ns()
    for _ in range(count):
        scope = {
            "type": "http", "method": "GET", "path": "/small", "raw_path": b"/small", "root_path": "",
            "query_string": b"", "headers": HEADERS, "http_version": "1.1", "scheme": "http",
            "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 5000),
        }  # fmt: skip
        await app(scope, _receive, _send)
    return (time.perf_counter_ns() - began) / count / 1e3


async def in_process(pairs: int) -> list[Row]:
    rows = []
    with Guard(limit="4GiB") as guard:
        time.sleep(0.3)
        for title, app, count in (("in process: plain ASGI app", plain, 5000), ("in process: FastAPI", application(), 1000)):
            guarded = MemguardMiddleware(app, guard=guard)
            taken = [(await _call_us(app, count), await _call_us(guarded, count)) for _ in range(pairs)]
            bare_us = statistics.median(bare for bare, _ in taken)
            more_us = statistics.median(other - bare for bare, other in taken)
            rows.append(_row(title, f"{bare_us:.1f} µs", f"+{more_us:.2f} µs a request", "–"))
    with critical_guard() as guard:
        time.sleep(0.3)
        shedding = MemguardMiddleware(plain, guard=guard)
        shed_us = statistics.median([await _call_us(shedding, 2000) for _ in range(pairs)])
        rows.append(_row("in process: refused", "–", f"{shed_us:.1f} µs a refusal, {guard.level.name}", "–"))
    return rows


# --- over the loopback -----------------------------------------------------------------------------------------------


def serve(mode: str, http: str) -> None:
    """A server process; prints its port."""
    import uvicorn  # noqa: PLC0415 - not for the client

    app = application()
    if mode != "bare":
        guard = Guard() if mode == "guarded" else critical_guard()
        app.add_middleware(MemguardMiddleware, guard=guard.start())
    # With its protocol named: asyncio sets TCP_NODELAY only then, and without it every answer waits 40 ms for an ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    loop = "uvloop" if http == "httptools" else "asyncio"
    config = uvicorn.Config(app, http=http, loop=loop, log_level="error", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


def load(ports: list[int], pairs: int) -> None:
    """The client process: slices against each port in turn; prints requests per second and latencies in ms."""
    lines = {port: [_connected(port) for _ in range(CONNECTIONS)] for port in ports}
    for port in ports:
        _slice(lines[port], SLICE_S)
    results: dict[int, list[tuple[float, float, float]]] = {port: [] for port in ports}
    for turn in range(pairs):
        for port in ports if turn % 2 else reversed(ports):
            results[port].append(_slice(lines[port], SLICE_S))
    print(json.dumps([results[port] for port in ports]))


def _connected(port: int) -> socket.socket:
    deadline = time.monotonic() + 20.0
    while True:
        try:
            line = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return line


def _slice(lines: list[socket.socket], seconds: float) -> tuple[float, float, float]:
    """Requests per second, median and 99th percentile of the latency."""
    import select  # noqa: PLC0415 - Linux and others, only in the client

    poll, sent = select.poll(), {}
    known = {line.fileno(): line for line in lines}
    clock = time.perf_counter
    taken = []
    began = clock()
    for number, line in known.items():
        poll.register(number, select.POLLIN)
        sent[number] = clock()
        line.sendall(REQUEST)
    open_ = len(known)
    while open_:
        for number, _ in poll.poll(5000):
            answer = known[number].recv(65536)
            if not answer:
                raise ConnectionError("the server closed a kept connection")
            while not _whole(answer):
                answer += known[number].recv(65536)
            now = clock()
            taken.append(now - sent[number])
            if now - began < seconds:
                sent[number] = now
                known[number].sendall(REQUEST)
            else:
                open_ -= 1
    lasted = clock() - began
    taken.sort()
    return len(taken) / lasted, taken[len(taken) // 2] * 1e3, taken[len(taken) * 99 // 100] * 1e3


def _whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    start = head.lower().find(b"content-length:")
    return bool(found) and len(body) >= int(head[start + 15 :].split(b"\r\n", 1)[0])


def over_loopback(pairs: int, http: str) -> list[Row]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with ExitStack() as stack:
        ports = {}
        for mode in MODES:
            argv = [sys.executable, __file__, "--serve", mode, "--http", http]
            server = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)
            stack.callback(_end, server)
            assert server.stdout is not None  # noqa: S101 - asked for above
            ports[mode] = int(server.stdout.readline())
        argv = [sys.executable, __file__, "--load", *map(str, ports.values()), "--pairs", str(pairs)]
        out = subprocess.run(argv, env=env, check=True, capture_output=True, text=True, timeout=pairs * 10 + 60).stdout
    answers = dict(zip(MODES, json.loads(out), strict=True))
    ratios = sorted(one[0] / bare[0] for one, bare in zip(answers["guarded"], answers["bare"], strict=True))
    ratio = statistics.median(ratios)
    low, high = ratios[len(ratios) // 4], ratios[len(ratios) * 3 // 4]
    shown = {mode: _shown(slices) for mode, slices in answers.items()}
    bar = f"≤ {BAR_RATIO:.0%} less ({'met' if 1 - ratio <= BAR_RATIO else 'MISSED'})"
    text = f"{shown['guarded']}; ratio {ratio:.3f} (middle half {low:.3f}–{high:.3f})"
    return [
        _row(f"uvicorn, {http}", shown["bare"], text, bar),
        _row(f"uvicorn, {http}, refused", shown["bare"], shown["refused"], "–"),
    ]


def _shown(slices: list[tuple[float, float, float]]) -> str:
    rate, middle, late = (statistics.median(one[place] for one in slices) for place in range(3))
    return f"{rate:.0f} requests/s, p50 {middle:.2f} ms, p99 {late:.2f} ms"


def _end(server: subprocess.Popen[str]) -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _row(what: str, bare: str, guarded: str, bar: str) -> Row:
    row = {"what": what, "bare": bare, "with memguard": guarded, "bar": bar}
    print("  ".join(row.values()), flush=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--serve", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--http", default="h11", help=argparse.SUPPRESS)
    parser.add_argument("--load", type=int, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.http)
        return 0
    if arguments.load:
        load(arguments.load, arguments.pairs)
        return 0
    rows = asyncio.run(in_process(arguments.pairs))
    fast = all(importlib.util.find_spec(name) for name in ("httptools", "uvloop"))
    for http in ("h11", "httptools") if fast else ("h11",):
        rows += over_loopback(arguments.pairs, http)
    report.publish("asgi", title="What the ASGI middleware costs", rows=rows, method=__doc__.split("\n\n")[1].splitlines())
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
