# ruff: noqa: PLC0415 - the service must not pay for what the client needs, nor the bare one for memguard
"""Hand-over: a service that leaks, behind servers with two workers, bare and guarded, under a real memory limit.

Each run is a server in a memory group of its own, with two workers that together leak the stated amount per second,
whoever answers. Requests come at a fixed rate, whether or not earlier ones are answered, from a client outside of the
group: four of five on connections that are kept, the rest on new ones; one in ten takes a second, the others 30 ms. The
client never tries again. It counts an answer other than 200, a connection refused, and one that ends after the request
was sent; a connection that it finds closed before it sends, or that was idle for a second, is opened anew. "killed" is
the kernel's own count; a bare run ends with its first. gunicorn keeps connections for 15 s instead of 2. Guarded is the
same service with `protect(app, guard)` (WSGI: the middleware) and default rules.

    python benchmarks/handover.py [--seconds 300] [--only uvicorn]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

LIMIT_MB, LEAK_MB_S, RATE = 384, 2.0, 50.0
# At its default of 2 s gunicorn resets connections whenever a loaded machine stalls for so long, hand-over or not.
_GUNICORN = ("gunicorn", "-w", "2", "--keep-alive", "15")
SERVERS = {
    "uvicorn --workers 2": ("uvicorn", "handover:app", "--workers", "2", "--no-access-log"),
    "gunicorn -w 2, UvicornWorker": (*_GUNICORN, "-k", "uvicorn.workers.UvicornWorker", "handover:app"),
    "gunicorn -w 2, asgi": (*_GUNICORN, "-k", "asgi", "handover:app"),
    "gunicorn -w 2, sync": (*_GUNICORN, "handover:wsgi"),
}
_BODY = 64
# Servers close connections that have been idle for some seconds, whoever is just about to ask.
IDLE_S = 1.0


# --- the service ------------------------------------------------------------------------------------------------

_leaked: list[bytes] = []
_LEAK_BYTES = int(float(os.environ.get("HANDOVER_LEAK_BYTES", "0")))
_EVENTS = os.environ.get("HANDOVER_EVENTS", "")


def _told(event: object) -> None:
    with open(_EVENTS, "a") as file:  # noqa: PTH123 - one line, one write
        file.write(f"{os.getpid()} {time.monotonic():.2f} {event.name}: {event.text}\n")  # type: ignore[attr-defined]


def _leak() -> None:
    _leaked.append(os.urandom(1) * _LEAK_BYTES)


def _app() -> object:
    """The ASGI service."""
    from fastapi import FastAPI

    made = FastAPI(openapi_url=None)

    @made.get("/")
    async def answer(hold_s: float = 0.03) -> dict[str, int]:
        _leak()
        await asyncio.sleep(hold_s)
        return {"pid": os.getpid()}

    if os.environ.get("HANDOVER_MODE") == "guarded":
        from memguard.ext.fastapi import protect
        from memguard.guard import Guard

        guard = Guard(sinks=[_told])
        guard.on_handover(lambda: _told(_Note("saved", "the hook was called")))
        protect(made, guard)
    return made


@dataclass
class _Note:
    name: str
    text: str


def _wsgi() -> object:
    """The WSGI service."""

    def answer(environ, start_response):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        _leak()
        time.sleep(float(environ["QUERY_STRING"].partition("=")[2] or 0.03) / 10)
        body = json.dumps({"pid": os.getpid()}).encode()
        start_response("200 OK", [("content-type", "application/json"), ("content-length", str(len(body)))])
        return [body]

    if os.environ.get("HANDOVER_MODE") != "guarded":
        return answer
    from memguard.ext.wsgi import MemguardMiddleware
    from memguard.guard import Guard

    guard = Guard(sinks=[_told])
    guard.on_handover(lambda: _told(_Note("saved", "the hook was called")))
    guard.start()
    return MemguardMiddleware(answer, guard=guard)


def __getattr__(name: str) -> object:
    if name in {"app", "wsgi"}:
        made = _app() if name == "app" else _wsgi()
        globals()[name] = made
        return made
    raise AttributeError(name)


# --- the client -------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the requests."""

    counts: Counter[str] = field(default_factory=Counter)
    pids: Counter[int] = field(default_factory=Counter)
    slowest_s: float = 0.0
    asked: int = 0
    losses_s: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Everything but 200."""
        return sum(count for what, count in self.counts.items() if what != "ok")


class Client:
    """Asks at a fixed rate and never twice."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = deque()
        self.tally = Tally()
        self.began = time.monotonic()

    async def run(self, seconds: float, rate: float, stop: asyncio.Event | None = None) -> Tally:
        """Ask for so long."""
        tasks = set()
        self.began = time.monotonic()
        for number in range(int(seconds * rate)):
            wait_s = self.began + number / rate - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if stop is not None and stop.is_set():
                break
            task = asyncio.create_task(self.ask(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=30.0)
        self.tally.counts["unanswered"] += len(tasks)
        for task in tasks:
            task.cancel()
        for _, writer, _ in self.idle:
            writer.close()
        return self.tally

    async def ask(self, number: int) -> None:
        """One request; what became of it is counted."""
        kept, hold_s, began = number % 5 != 0, 1.0 if number % 10 == 7 else 0.03, time.monotonic()
        self.tally.asked += 1
        try:
            what = await self._asked(hold_s, kept=kept)
        except (OSError, asyncio.IncompleteReadError, EOFError, ValueError) as error:
            what = f"lost ({type(error).__name__})"
        self.tally.counts[what] += 1
        self.tally.slowest_s = max(self.tally.slowest_s, time.monotonic() - began - hold_s)
        if what != "ok":
            self.tally.losses_s.append(round(time.monotonic(), 2))

    async def _asked(self, hold_s: float, *, kept: bool) -> str:
        pair = None
        while kept and self.idle and pair is None:
            found = self.idle.popleft()
            if found[0].at_eof() or found[1].is_closing() or time.monotonic() - found[2] > IDLE_S:
                found[1].close()
            else:
                pair = found[:2]
        reader, writer = pair or await asyncio.open_connection("127.0.0.1", self.port)
        close = "" if kept else "Connection: close\r\n"
        try:
            writer.write(f"GET /?hold_s={hold_s} HTTP/1.1\r\nHost: x\r\n{close}\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].split("\r\n")[0])
            body = await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        if "connection: close" in head or not kept:
            writer.close()
        else:
            self.idle.append((reader, writer, time.monotonic()))
        status = head.split(" ", 2)[1]
        if status != "200":
            return status
        self.tally.pids[json.loads(body)["pid"]] += 1
        return "ok"


# --- one run ----------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _until_up(port: int, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as found:
                found.sendall(b"GET /?hold_s=0 HTTP/1.0\r\n\r\n")
                if found.recv(_BODY):
                    return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"no server on port {port} after {seconds:.0f} s")


def one_run(  # noqa: PLR0913 - one experiment
    words: tuple[str, ...],
    mode: str,
    *,
    seconds: float,
    limit_mb: int = LIMIT_MB,
    leak_mb_s: float = LEAK_MB_S,
    rate: float = RATE,
    rules: dict[str, str] | None = None,
    stop_at_kill: bool = True,
) -> dict[str, object]:
    """Serve, ask, leak; what the client and the kernel counted, and what the guards told."""
    from memguard.testing.cage import Cage

    port = _free_port()
    bind = ("--port", str(port)) if words[0] == "uvicorn" else ("--bind", f"127.0.0.1:{port}")
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events"
        events.touch()
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(here), str(here.parent))),
            "PYTHONWARNINGS": "ignore",
            "HANDOVER_MODE": mode,
            "HANDOVER_LEAK_BYTES": str(leak_mb_s * 1e6 / rate),
            "HANDOVER_EVENTS": str(events),
            **{f"MEMGUARD_{name.upper()}": value for name, value in (rules or {}).items()},
        }
        with Cage(f"{limit_mb}MiB", name="handover") as cage:
            argv = [sys.executable, "-m", *words, *bind]
            server = cage.popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder, text=True)
            try:
                _until_up(port)
                tally, killed_s = asyncio.run(_asked(port, seconds, rate, cage, stop_at_kill=stop_at_kill))
            finally:
                killed, peak = cage.killed, cage.peak_bytes
                server.terminate()
                try:
                    _, err = server.communicate(timeout=20)
                except subprocess.TimeoutExpired:
                    server.kill()
                    _, err = server.communicate()
        told = events.read_text().splitlines()
    return {
        "asked": tally.asked,
        "failed": tally.failed,
        "counts": dict(tally.counts),
        "losses_s": tally.losses_s,
        "slowest_s": round(tally.slowest_s, 2),
        "workers": len(tally.pids),
        "killed": killed,
        "killed_s": killed_s,
        "peak_mb": peak / 2**20,
        "handovers": sum(" handover.begun:" in line for line in told),
        "told": told,
        "err": err,
    }


async def _asked(port, seconds, rate, cage, *, stop_at_kill):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    stop, killed_s = asyncio.Event(), None

    async def watch() -> None:
        nonlocal killed_s
        began = time.monotonic()
        while not stop.is_set():
            if cage.killed and killed_s is None:
                killed_s = time.monotonic() - began
                if stop_at_kill:
                    await asyncio.sleep(2.0)
                    stop.set()
            await asyncio.sleep(0.1)

    watcher = asyncio.create_task(watch())
    tally = await Client(port).run(seconds, rate, stop)
    stop.set()
    await watcher
    return tally, killed_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--only", help="servers whose name has this word")
    parser.add_argument("--mode", choices=("bare", "guarded"))
    parser.add_argument("--told", action="store_true", help="show what the guards told")
    parser.add_argument("--publish", action="store_true", help="keep the table in benchmarks/results")
    arguments = parser.parse_args()
    import report

    from memguard.testing.cage import cage_unavailable

    if reason := cage_unavailable():
        print(f"no hand-over benchmark: {reason}")
        return 0
    rows = []
    for name, words in SERVERS.items():
        if arguments.only and arguments.only not in name:
            continue
        for mode in ("bare", "guarded") if arguments.mode is None else (arguments.mode,):
            found = one_run(words, mode, seconds=arguments.seconds)
            rows.append(_row(name, mode, found))
            print(rows[-1], flush=True)
            if arguments.told:
                print("\n".join(map(str, found["told"])), found["err"], "lost at", found["losses_s"], sep="\n")  # type: ignore[call-overload]
            if arguments.publish:
                report.publish(
                    "handover",
                    title=f"Hand-over: a leak of {LEAK_MB_S:g} MB/s under {RATE:g} requests/s and {LIMIT_MB} MiB, "
                    f"{arguments.seconds:.0f} s at most",
                    rows=rows,
                    method=(__doc__ or "").splitlines()[2:9],
                )
    return 0


def _row(name: str, mode: str, found: dict[str, object]) -> dict[str, str]:
    counts = found["counts"]
    assert isinstance(counts, dict)  # noqa: S101 - for the type checker
    killed_s = found["killed_s"]
    return {
        "server": name,
        "mode": mode,
        "killed": str(found["killed"]) + (f", first after {killed_s:.0f} s" if isinstance(killed_s, float) else ""),
        "hand-overs": str(found["handovers"]),
        "requests": str(found["asked"]),
        "failed": str(found["failed"]),
        "of which": ", ".join(f"{count} {what}" for what, count in sorted(counts.items()) if what != "ok" and count)
        or "–",
        "slowest beyond its work": f"{found['slowest_s']} s",
        "peak": f"{found['peak_mb']:.0f} MiB",
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
