"""Admission: what a decision costs, and what a service lives through that asks before it takes memory on.

"decision" is the gate alone, in process: CPU time of entering and closing a ticket over many thousands, the median of
batches. "hold" is the field's own bench: 120 requests a second that each hold 1 MiB for 6 s, so that 720 MiB are
wanted, against a server under a kernel limit of 512 MiB. What "could fit" is what an ideal gate admits of the same
arrivals: as many at once as there are MiB between the idle server and the limit ("the kernel's"), or the CRITICAL rung
("the rung's"), each for 6 s; "tight" is a guard whose CRITICAL rung is at 95 %, judged by the kernel's. Latencies are
told as multiples of the unloaded one. "flood" is a heavy route that parses JSON bodies of 60 MB (lines of 100 kB, so
that others get their turn) and holds the objects for another second, sent by six clients without a pause, beside a
light route asked 20 times a second; a light answer counts when it is 200 and
comes within 10 s. A heavy answer is "closed" when the server refused it and closed the connection before the client,
still sending, could read why. Server and clients are processes of their own, only the server is caged, and each run is
a new server. A run counts as killed when the kernel says so.

    python benchmarks/admission.py [--runs 5] [--seconds 30] [--only decision|hold|flood]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import report

from memguard.admission import Gate, Ticket
from memguard.ext.asgi import MemguardMiddleware
from memguard.guard import Guard
from memguard.model import Level, Limit, Reading, Snapshot
from memguard.rules import Rules
from memguard.testing.cage import Cage, cage_unavailable
from memguard.units import MIB

LIMIT_BYTES = 512 * MIB
RATE_PER_S = 120
HOLD_BYTES = MIB
HOLD_S = 6.0
HEAVY_CLIENTS = 6
HEAVY_BODY_MB = 60
HEAVY_HOLD_S = 1.0
LIGHT_PER_S = 20
LIGHT_IN_TIME_S = 10.0
PAGE = 4096
RUNG = Rules().critical_ratio
TIGHT_RUNG = 0.95
# The bars.
DECISION_BAR_US = 5.0
SERVED_BAR = 0.90
LATE_BAR = 1.5
LIGHT_BAR = 0.95

STATUSES = {200: "200", 413: "413", 503: "503", 0: "closed"}

Row = dict[str, str]


# --- the server ------------------------------------------------------------------------------------------------------


async def application(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - an ASGI app
    if scope["type"] != "http":
        return
    if scope["path"] == "/hold":
        block = bytearray(HOLD_BYTES)
        block[::PAGE] = b"x" * len(block[::PAGE])
        await asyncio.sleep(HOLD_S)
        del block
    elif scope["path"] == "/heavy":
        body, more = bytearray(), True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        held = []
        for line in bytes(body).splitlines():
            held.append(json.loads(line))
            await asyncio.sleep(0)
        await asyncio.sleep(HEAVY_HOLD_S)
        del body, held
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


def serve(mode: str) -> None:
    """A server process; prints its port."""
    import socket  # noqa: PLC0415 - only here

    import uvicorn  # noqa: PLC0415 - as above

    app: Any = application
    if mode != "bare":
        rungs = {"critical_ratio": TIGHT_RUNG, "emergency_ratio": 0.98} if mode == "tight" else {}
        guard = Guard(sinks=(), max_bytes=None, **rungs)
        app = MemguardMiddleware(app, guard=guard.start(), wait_s=1.0 if mode == "waiting" else 0.0)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off", backlog=2048)
    uvicorn.Server(config).run(sockets=[listener])


# --- the clients -----------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Answers: (begun, status, seconds); status 0 when the connection broke."""

    answers: list[tuple[float, int, float]] = field(default_factory=list)

    def of(self, status: int) -> list[float]:
        """How long those with this status took, shortest first."""
        return sorted(took for _, found, took in self.answers if found == status)


async def ask(port: int, tally: Tally, path: str, body: bytes = b"", timeout_s: float = 60.0) -> None:
    begun, status = time.monotonic(), 0
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError, IndexError, ValueError):
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                method = "POST" if body else "GET"
                head = (
                    f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                )
                writer.write(head.encode())
                if body:
                    with contextlib.suppress(OSError):  # it may answer before it has read all
                        for begin in range(0, len(body), MIB):
                            writer.write(body[begin : begin + MIB])
                            await writer.drain()
                line = await reader.readline()
                status = int(line.split()[1])
                await reader.read()
            finally:
                writer.close()
    tally.answers.append((begun, status, time.monotonic() - begun))


async def at_rate(port: int, per_s: float, seconds: float, path: str, timeout_s: float) -> Tally:
    """Requests at fixed instants, whatever becomes of them."""
    tally, begun, tasks = Tally(), time.monotonic(), []
    for number in range(int(per_s * seconds)):
        await asyncio.sleep(max(0.0, begun + number / per_s - time.monotonic()))
        tasks.append(asyncio.create_task(ask(port, tally, path, timeout_s=timeout_s)))
    await asyncio.gather(*tasks)
    return tally


def ideal(begun: list[float], places: int) -> int:
    """How many of these arrivals an ideal gate with so many places admits."""
    leaving: list[float] = []
    admitted = 0
    for at in sorted(begun):
        leaving = [end for end in leaving if end > at]
        if len(leaving) < places:
            leaving.append(at + HOLD_S)
            admitted += 1
    return admitted


# --- the parts -------------------------------------------------------------------------------------------------------


def decisions() -> list[Row]:
    gate = Gate(rules=Rules(), clock=time.monotonic)
    lessons = gate.learn()
    limit = Limit(bytes=512 * MIB, kind="kill", source="a constant")
    reading = Reading(at=1.0, used_bytes=430 * MIB, source="a constant")
    snapshot = Snapshot(at=1.0, reading=reading, limit=limit, pressure=0.84, level=Level.WARNING, forecast=None)
    gate.show(snapshot)
    flat = lessons.costs.route("GET /agents/7", 1.0).flat
    for _ in range(20):
        flat.requests += 1
        flat.moved(MIB, 1.0, sure=True)
    held = [gate.admit(1000, "request", f"GET /other/{name}", 0.0) for name in "abcdefgh"]

    def predicted() -> Ticket:
        ticket = Ticket(gate, None, "request", "GET /agents/7")
        if not gate.enter(ticket) or ticket.bytes != MIB:
            raise SystemExit("the decision that is measured must be an admission with a promise")
        return ticket

    def refused() -> None:
        if gate.enter(Ticket(gate, 100 * MIB, "request", "GET /agents/7")):
            raise SystemExit("the decision that is measured must be a refusal")

    rows = []
    for what, decide in (
        ("decision: enter with a learned promise, WARNING", lambda: gate.settle(predicted())),
        ("decision: enter and close", lambda: predicted().close()),
        ("decision: does not fit", refused),
        ("decision: guard.admit('1MiB') and close", lambda: gate.admit(MIB, "request", "GET /agents/7", 0.0).close()),
    ):
        taken = []
        for _ in range(40):
            began = time.process_time_ns()
            for _ in range(2000):
                decide()
            taken.append((time.process_time_ns() - began) / 2000 / 1e3)
            gate.open.clear()
        taken_us = statistics.median(taken)
        rows.append(
            _row(what, "–", f"{taken_us:.2f} µs (best {min(taken):.2f})", taken_us <= DECISION_BAR_US, "≤ 5 µs")
        )
    for ticket in held:
        ticket.close()
    return rows


def with_server(mode: str, limit_bytes: int, load: Any) -> dict[str, Any]:  # noqa: ANN401 - a coroutine function
    with Cage(limit_bytes, name=f"admission-{mode}") as cage:
        argv = [sys.executable, __file__, "--serve", mode]
        server = cage.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout is not None  # noqa: S101 - asked for above
        port = int(server.stdout.readline())
        time.sleep(1.0)
        idle_bytes = cage.working_bytes
        found: dict[str, Any] = asyncio.run(load(port))
        found |= {"killed": cage.killed, "peak": cage.peak_bytes, "idle": idle_bytes}
    return found


def holds(runs: int, seconds: float) -> list[Row]:
    async def load(port: int) -> dict[str, Any]:
        unloaded = await at_rate(port, 2.0, 2.0, "/hold", 60.0)
        loaded = await at_rate(port, RATE_PER_S, seconds, "/hold", 60.0)
        return {"unloaded": unloaded, "loaded": loaded}

    rows = []
    for mode in ("bare", "guarded", "waiting", "tight"):
        rung = TIGHT_RUNG if mode == "tight" else RUNG
        told, killed, served, late = [], 0, [], []
        for _ in range(1 if mode == "bare" else runs):
            found = with_server(mode, LIMIT_BYTES, load)
            killed += found["killed"]
            loaded, unloaded = found["loaded"], found["unloaded"].of(200)
            took = loaded.of(200)
            begun = [at for at, _, _ in loaded.answers]
            fits = [ideal(begun, int(share * LIMIT_BYTES - found["idle"]) // HOLD_BYTES) for share in (1.0, rung)]
            served.append((len(took) / fits[0], len(took) / fits[1]))
            base = statistics.median(unloaded) if unloaded else HOLD_S
            late.append(took[len(took) * 99 // 100] / base if took else float("inf"))
            told.append(
                f"{len(took)} of {len(begun)} served, {served[-1][1]:.0%} of the rung's {fits[1]} and "
                f"{served[-1][0]:.0%} of the kernel's {fits[0]}, p99 ×{late[-1]:.2f}, {len(loaded.of(503))} × 503, "
                f"{len(loaded.of(0))} broken, peak {found['peak'] / LIMIT_BYTES:.0%}"
            )
        could = [share[0 if mode == "tight" else 1] for share in served]
        met = not killed and min(could) >= SERVED_BAR and max(late) <= LATE_BAR
        bar = "no kill, ≥ 90 % of what could fit, p99 ≤ 1.5 × unloaded"
        shown = "; ".join(told) + f"; killed in {killed} of {len(told)} runs"
        bare = mode == "bare"
        rows.append(_row(f"hold: {mode}", shown if bare else "–", "–" if bare else shown, None if bare else met, bar))
    return rows


def floods(runs: int, seconds: float) -> list[Row]:
    item = json.dumps({"id": 12345678, "words": ["some", "words"], "x": 1.5})
    line = ("[" + ",".join([item] * (100_000 // (len(item) + 1))) + "]\n").encode()
    body = line * (HEAVY_BODY_MB * 1_000_000 // len(line))

    async def load(port: int) -> dict[str, Any]:
        heavy, until = Tally(), time.monotonic() + seconds

        async def flood() -> None:
            while time.monotonic() < until:
                await ask(port, heavy, "/heavy", body)

        floods = [asyncio.create_task(flood()) for _ in range(HEAVY_CLIENTS)]
        light = await at_rate(port, LIGHT_PER_S, seconds, "/light", LIGHT_IN_TIME_S)
        await asyncio.wait(floods, timeout=20.0)
        for task in floods:
            task.cancel()
        return {"light": light, "heavy": heavy}

    rows = []
    for limit_bytes in (LIMIT_BYTES, 4 * LIMIT_BYTES):
        for mode in ("bare", "guarded"):
            told, share, killed = [], [], 0
            for _ in range(1 if mode == "bare" else runs):
                found = with_server(mode, limit_bytes, load)
                killed += found["killed"]
                light, heavy = found["light"], found["heavy"]
                ok = light.of(200)
                share.append(len(ok) / len(light.answers))
                middle = f", p50 {ok[len(ok) // 2] * 1e3:.0f} ms, p99 {ok[len(ok) * 99 // 100]:.2f} s" if ok else ""
                counts = {name: (len(light.of(status)), len(heavy.of(status))) for status, name in STATUSES.items()}
                shown = ", ".join(f"{name} {one} and {other}" for name, (one, other) in counts.items() if one or other)
                told.append(f"light {share[-1]:.1%} of {len(light.answers)}{middle}; light and heavy: {shown}")
            bare = mode == "bare"
            shown = "; ".join(told) + f"; killed in {killed} of {len(told)} runs"
            met = None if bare else not killed and min(share) >= LIGHT_BAR
            title = f"flood under {limit_bytes // MIB} MiB: {mode}"
            rows.append(_row(title, shown if bare else "–", "–" if bare else shown, met, "light ≥ 95 %, no kill"))
    return rows


def _row(what: str, bare: str, guarded: str, met: bool | None, bar: str) -> Row:  # noqa: FBT001 - a verdict
    verdict = "–" if met is None else f"{bar} ({'met' if met else 'MISSED'})"
    row = {"what": what, "bare": bare, "with memguard": guarded, "bar": verdict}
    print("  ".join(row.values()), flush=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--only", choices=["decision", "hold", "flood"])
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return 0
    parts = {
        "decision": decisions,
        "hold": lambda: holds(arguments.runs, arguments.seconds),
        "flood": lambda: floods(min(3, arguments.runs), arguments.seconds),
    }
    if arguments.only not in {None, "decision"} or arguments.only is None:
        reason = cage_unavailable()
        if reason is not None:
            print(f"no memory limit can be enforced here: {reason}")
            return 1
    rows = [row for name, part in parts.items() if arguments.only in {None, name} for row in part()]
    if arguments.only is None:
        title, method = "What admission costs, and what it is good for", __doc__.split("\n\n")[1].splitlines()
        report.publish("admission", title=title, rows=rows, method=method)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
