# ruff: noqa: PLC0415 - the service must not pay for what a way of protection does not need
"""The gauntlet's service: one FastAPI application that can grow in every way, under the protection it is told.

``GAUNTLET`` names the protection. None of them changes an endpoint; ``protections.py`` says in words what each is.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response, WebSocket

if TYPE_CHECKING:
    from collections.abc import MutableMapping

LIMIT_BYTES = int(os.environ.get("GAUNTLET_LIMIT_BYTES", "0"))
PROTECTION = os.environ.get("GAUNTLET", "bare")
KIB = 1024


class Store:
    """What the service keeps: answers that can be made again, pieces that hold the heap, states, and what leaks."""

    def __init__(self, answers: MutableMapping[Any, Any], pieces: MutableMapping[Any, Any]) -> None:
        self.answers = answers
        self.pieces = pieces
        self.states: MutableMapping[str, bytes] = {}
        self.leaked: list[bytes] = []
        self.made: int = 0

    def answer(self, key: str, kib: int) -> bytes:
        """From the cache, or made."""
        known = self.answers.get(key)
        if known is None:
            self.made += 1
            known = self.answers[key] = key.encode().ljust(16) * (kib * KIB // 16)
        return bytes(known)

    def scatter(self, key: str, count: int) -> int:
        """So many small objects, of which every tenth stays: what is freed lies between what is not."""
        made = [{"text": f"{key} {number} " + "x" * 100} for number in range(count)]
        self.pieces[key] = made[::10]
        return len(made)


def create_app(store: Store) -> FastAPI:  # noqa: C901 - endpoints, one after another
    """The endpoints."""
    app = FastAPI(openapi_url=None)

    @app.get("/answers/{key}")
    async def answer(key: str, kib: int = 64) -> Response:
        return Response(store.answer(key, kib)[:1024])

    @app.get("/hold")
    async def hold(kib: int, hold_s: float) -> dict[str, int]:
        held = b"\1" * (kib * KIB)
        await asyncio.sleep(hold_s)
        return {"held": len(held)}

    @app.post("/documents")
    async def digest(request: Request) -> dict[str, int]:
        records = (await request.json())["records"]
        await asyncio.sleep(0.5)  # as one that asks a database for what they name
        return {"records": len(records)}

    @app.get("/scatter/{key}")
    async def scatter(key: str, count: int) -> dict[str, int]:
        return {"made": store.scatter(key, count)}

    @app.get("/lump")
    def lump(mb: int) -> dict[str, int]:
        return {"zeros": bytearray(mb * 1_000_000).count(0)}

    @app.get("/hog")
    def hog(rounds: int) -> dict[str, int]:
        return {"sum": sum(number & 7 for number in range(rounds))}

    @app.get("/leak")
    async def leak(kib: int, hold_s: float = 0.0) -> dict[str, int]:
        store.leaked.append(b"\1" * (kib * KIB))
        await asyncio.sleep(hold_s)
        return {"pid": os.getpid()}

    @app.get("/states/{key}")
    async def state(key: str, kib: int) -> dict[str, str]:
        if key not in store.states:
            store.states[key] = random.Random(key).randbytes(kib * KIB)
        return {"digest": hashlib.sha256(store.states[key]).hexdigest()}

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, kib: int = 0) -> None:
        await websocket.accept()
        held = b"\1" * (kib * KIB)
        async for text in websocket.iter_text():
            await websocket.send_text(f"{len(held)} {text}")

    @app.get("/small")
    async def small() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/facts")
    async def facts() -> dict[str, Any]:
        guard = getattr(app.state, "guard", None)
        told: dict[str, Any] = {"answers": len(store.answers), "made": store.made, "threads": threading.active_count()}
        if guard is not None:
            told |= {
                "level": guard.snapshot.level.name,
                "refusals": guard.snapshot.refusals,
                "reliefs": {holder.name: holder.bought_bytes for holder in guard.holders() if holder.attempts},
            }
        return told

    return app


# --- protections --------------------------------------------------------------------------------------------------


def build() -> Any:  # noqa: ANN401 - an ASGI application, wrapped or not
    """The application under its protection."""
    if PROTECTION == "cachetools":
        import cachetools

        return create_app(Store(cachetools.LRUCache(1000), cachetools.LRUCache(1000)))
    store = Store(OrderedDict(), OrderedDict())
    app = create_app(store)
    if PROTECTION == "memguard":
        return guarded(app, store)
    if PROTECTION == "rlimit":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(0.9 * LIMIT_BYTES), int(0.9 * LIMIT_BYTES)))
    elif PROTECTION == "psutil":
        app.middleware("http")(polling())
    elif PROTECTION == "resource-pressure":
        return Governed(app)
    return app


def guarded(app: FastAPI, store: Store) -> FastAPI:
    """The same with memguard; ``GAUNTLET_TROUBLE`` makes one of its own parts fail."""
    from memguard.ext.fastapi import protect
    from memguard.guard import Guard

    trouble, full, sinks, clock = os.environ.get("GAUNTLET_TROUBLE", ""), os.environ.get("GAUNTLET_FULL"), [], None
    if trouble == "store":
        from memguard.sinks.sql import SqlSink

        sinks.append(SqlSink("postgresql://nobody@127.0.0.1:1/none"))
    elif trouble == "disk":
        from memguard.sinks.sql import SqlSink

        sinks.append(SqlSink(Path(full or ".") / "history.db"))
    elif trouble == "clock":
        clock = jumping()
    guard = Guard(sinks=sinks, clock=clock)
    guard.cache(store.answers, name="answers")
    guard.cache(store.pieces, name="pieces")
    store.states = guard.states(spill=full if trouble == "disk" and full else True)
    app.state.guard = guard
    return protect(app, guard, exempt=("/facts",), cost=stated)


def stated(scope: Any) -> int | None:  # noqa: ANN401 - ASGI's
    """What the service's author knows: a lump needs what its query says."""
    if scope["path"] != "/lump":
        return None
    return int(scope["query_string"].decode().partition("mb=")[2]) * 1_000_000


def jumping() -> Any:  # noqa: ANN401 - a clock
    """A clock that jumps an hour ahead after 3 s and two hours back after 6."""
    import time

    began = time.monotonic()

    def now() -> float:
        at = time.monotonic()
        return at + (3600.0 if 3.0 < at - began < 6.0 else -3600.0 if at - began >= 6.0 else 0.0)

    return now


def polling() -> Any:  # noqa: ANN401 - a middleware
    """What people write themselves: RSS before each request, 503 above 85 % of the limit, after a collection."""
    import gc

    import psutil
    from fastapi.responses import JSONResponse

    process = psutil.Process()

    async def refuse_when_full(request: Any, call_next: Any) -> Any:  # noqa: ANN401 - Starlette's
        if process.memory_info().rss > 0.85 * LIMIT_BYTES:
            gc.collect()
            if process.memory_info().rss > 0.85 * LIMIT_BYTES:
                return JSONResponse({"error": "out of memory"}, status_code=503)
        return await call_next(request)

    return refuse_when_full


class Governed:
    """Each request in a slot of resource-pressure's governor, or 503 after a second."""

    def __init__(self, app: Any) -> None:  # noqa: ANN401 - ASGI's
        self.app = app
        self.governor: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        """Serve one connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        if self.governor is None:
            from resource_pressure import PressureGovernor

            self.governor = await PressureGovernor.auto(max_in_flight=100).__aenter__()
        try:
            lease = self.governor.slot(timeout=1.0)
            await lease.__aenter__()
        except TimeoutError:
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})
            else:
                await send({"type": "websocket.close", "code": 1013})
            return
        try:
            await self.app(scope, receive, send)
        finally:
            await lease.__aexit__(None, None, None)


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = made = build()
    return made


def main() -> None:
    """Serve on the given port; a second number is uvicorn's ``limit_concurrency``."""
    import uvicorn

    at_once = int(sys.argv[2]) if len(sys.argv) > 2 else None
    uvicorn.run(build(), port=int(sys.argv[1]), log_level="error", access_log=False, limit_concurrency=at_once)


if __name__ == "__main__":
    main()
