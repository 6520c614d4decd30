"""ASGI: what the middleware costs a request that is served, and what a request costs that is refused.

"in process": the app is called without any socket, bare and guarded in turns; the figure is the median of the
differences between neighbours. "uvicorn": server processes of the same small JSON endpoint stand side by side, and a
separate client process asks one after the other over 8 kept connections, one request at a time on each, in slices of
0.05 s. A ratio is to the mean of two bare servers in the same turn: its median over all turns, with the 95 % interval
of that median; a bar is met or missed only when the whole interval says so. "bare again" compares the bare servers
with each other and shows what the method can't tell apart; "guard alone" is a started guard without the middleware:
a second thread takes glibc off its single-threaded ways, whoever starts it. "CPU" is what the server process used a
request, all its threads together. "refused" is a guard at CRITICAL, which answers 503 before the application. Nothing
is pinned to a core. The httptools rows need httptools and uvloop, and are left out without them.

    python benchmarks/asgi.py [--turns 400]
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
from typing import Any

import report

from memguard.ext.asgi import MemguardMiddleware
from memguard.guard import Guard
from memguard.units import MIB

ROOT = Path(__file__).parent.parent
MODES = ("bare", "again", "alone", "guarded", "refused")
CONNECTIONS = 8
SLICE_S = 0.05
IN_PROCESS_PAIRS = 60
REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n"
HEADERS = [(b"host", b"localhost"), (b"accept", b"*/*"), (b"user-agent", b"bench")]
# The bar.
BAR_RATIO = 0.03

Row = dict[str, str]
Slice = tuple[float, float, float, float]


class CriticalProbe:
    """Reads 92 of 100 MiB, whatever happens."""

    source = "a constant"

    def read(self) -> int:
        """Bytes used."""
        return 92 * MIB

    def close(self) -> None:
        """Nothing to give back."""


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
        await asyncio.sleep(0.3)
        for title, app, count in (
            ("in process: plain ASGI app", plain, 2000),
            ("in process: FastAPI", application(), 200),
        ):
            guarded = MemguardMiddleware(app, guard=guard)
            taken = [(await _call_us(app, count), await _call_us(guarded, count)) for _ in range(pairs)]
            bare_us = statistics.median(bare for bare, _ in taken)
            more_us = statistics.median(other - bare for bare, other in taken)
            rows.append(_row(title, f"{bare_us:.1f} µs", f"+{more_us:.2f} µs a request", "–"))
    with critical_guard() as guard:
        await asyncio.sleep(0.3)
        shedding = MemguardMiddleware(plain, guard=guard)
        shed_us = statistics.median([await _call_us(shedding, 500) for _ in range(pairs)])
        rows.append(_row("in process: refused", "–", f"{shed_us:.1f} µs a refusal, {guard.level.name}", "–"))
    return rows


# --- over the loopback -----------------------------------------------------------------------------------------------


def serve(mode: str, http: str) -> None:
    """A server process; prints its port."""
    import uvicorn  # noqa: PLC0415 - not for the client

    app = application()
    if mode in {"alone", "guarded", "refused"}:
        guard = (critical_guard() if mode == "refused" else Guard()).start()
    if mode in {"guarded", "refused"}:
        app.add_middleware(MemguardMiddleware, guard=guard)
    # With its protocol named: asyncio sets TCP_NODELAY only then, and without it every answer waits 40 ms for an ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    loop = "uvloop" if http == "httptools" else "asyncio"
    config = uvicorn.Config(app, http=http, loop=loop, log_level="error", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


def load(servers: list[tuple[int, int]], turns: int) -> None:
    """The client process: slices against each (port, pid) in turn; prints a list of slices for each server."""
    lines = {port: [_connected(port) for _ in range(CONNECTIONS)] for port, _ in servers}
    for port, pid in servers:
        _slice(lines[port], pid)
    results: dict[int, list[Slice]] = {port: [] for port, _ in servers}
    for turn in range(turns):
        first = turn % len(servers)
        for port, pid in servers[first:] + servers[:first]:
            results[port].append(_slice(lines[port], pid))
    print(json.dumps([results[port] for port, _ in servers]))


def _cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process (proc(5), schedstat)."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text(encoding="ascii").split()[0]) for file in files)


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


def _slice(lines: list[socket.socket], pid: int) -> Slice:
    """Requests per second, median and 99th percentile of the latency in ms, server CPU a request in µs."""
    import select  # noqa: PLC0415 - Linux and others, only in the client

    poll, sent = select.poll(), {}
    known = {line.fileno(): line for line in lines}
    clock = time.perf_counter
    taken = []
    cpu_ns, began = _cpu_ns(pid), clock()
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
            if now - began < SLICE_S:
                sent[number] = now
                known[number].sendall(REQUEST)
            else:
                open_ -= 1
    lasted, cpu_us, count = clock() - began, (_cpu_ns(pid) - cpu_ns) / 1e3, len(taken)
    taken.sort()
    return count / lasted, taken[count // 2] * 1e3, taken[count * 99 // 100] * 1e3, cpu_us / count


def _whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    start = head.lower().find(b"content-length:")
    return bool(found) and len(body) >= int(head[start + 15 :].split(b"\r\n", 1)[0])


def over_loopback(turns: int, http: str) -> list[Row]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with ExitStack() as stack:
        servers = []
        for mode in MODES:
            argv = [sys.executable, __file__, "--serve", mode, "--http", http]
            server = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)
            stack.callback(_end, server)
            assert server.stdout is not None  # noqa: S101 - asked for above
            servers.append(f"{int(server.stdout.readline())}:{server.pid}")
        argv = [sys.executable, __file__, "--load", *servers, "--turns", str(turns)]
        out = subprocess.run(argv, env=env, check=True, capture_output=True, text=True, timeout=turns * 2 + 60).stdout
    answers: dict[str, list[Slice]] = dict(zip(MODES, json.loads(out), strict=True))
    rows = []
    bare, again = answers["bare"], answers["again"]
    titles = {"again": "bare again", "alone": "guard alone", "guarded": "guarded", "refused": "refused"}
    for mode, title in titles.items():
        to = [(one, one) for one in bare] if mode == "again" else list(zip(bare, again, strict=True))
        each = list(zip(answers[mode], to, strict=True))
        low, ratio, high = _interval([one[0] / statistics.fmean((a[0], b[0])) for one, (a, b) in each])
        cpu = _interval([one[3] - statistics.fmean((a[3], b[3])) for one, (a, b) in each])
        text = (
            f"{_shown(answers[mode])}; requests/s ×{ratio:.3f} ({low:.3f} to {high:.3f}), "
            f"CPU {cpu[1]:+.1f} µs ({cpu[0]:+.1f} to {cpu[2]:+.1f})"
        )
        met = "met" if 1 - low <= BAR_RATIO else "MISSED" if 1 - high > BAR_RATIO else "not resolved"
        bar = f"≤ {BAR_RATIO:.0%} fewer requests/s ({met})" if mode == "guarded" else "–"
        rows.append(_row(f"uvicorn, {http}: {title}", _shown(bare), text, bar))
    return rows


def _interval(values: list[float]) -> tuple[float, float, float]:
    """The median between the ends of its 95 % interval (order statistics, normal approximation of the binomial)."""
    known, middle = sorted(values), len(values) / 2
    reach = 0.98 * len(values) ** 0.5
    return known[max(0, int(middle - reach))], statistics.median(known), known[min(len(known) - 1, int(middle + reach))]


def _shown(slices: list[Slice]) -> str:
    rate, middle, late, cpu_us = (statistics.median(one[place] for one in slices) for place in range(4))
    return f"{rate:.0f} requests/s, p50 {middle:.2f} ms, p99 {late:.2f} ms, CPU {cpu_us:.0f} µs"


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
    parser.add_argument("--turns", type=int, default=400)
    parser.add_argument("--serve", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--http", default="h11", help=argparse.SUPPRESS)
    parser.add_argument("--load", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.http)
        return 0
    if arguments.load:
        servers = [tuple(map(int, server.split(":"))) for server in arguments.load]
        load([(port, pid) for port, pid in servers], arguments.turns)
        return 0
    rows = asyncio.run(in_process(min(arguments.turns, IN_PROCESS_PAIRS)))
    fast = all(importlib.util.find_spec(name) for name in ("httptools", "uvloop"))
    for http in ("h11", "httptools") if fast else ("h11",):
        rows += over_loopback(arguments.turns, http)
    report.publish(
        "asgi", title="What the ASGI middleware costs", rows=rows, method=__doc__.split("\n\n")[1].splitlines()
    )
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
