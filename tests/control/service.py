"""A service that is protected, as operators meet it: agents with beliefs, caches, a websocket, slow work."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from fastapi import FastAPI, WebSocket

import memguard
from memguard.ext.fastapi import protect

guard = memguard.Guard(limit=os.environ.get("SERVICE_LIMIT", "2GiB"), roster=memguard.Roster())
app = FastAPI()
agents: Any = guard.pool("agents", max_size=100)
beliefs: Any = guard.states("beliefs", max_bytes_each="1MiB", spill=False)
expiring: Any = memguard.Cache(name="expiring", ttl=0.2, roster=guard.roster)
lasting: Any = memguard.Cache(name="lasting", roster=guard.roster)


class Agent:
    """Something that holds memory."""

    def __init__(self, size: int) -> None:
        self.memory = os.urandom(1 << 20) * (size >> 20)


@app.post("/agents/{name}")
async def make(name: str, mb: int = 1, *, hold: bool = False) -> str:
    """An agent of so many MiB, with a belief."""
    agents.create(name, lambda: Agent(mb << 20), owner=guard)
    beliefs[name] = [str(number) * 20 for number in range(500)]
    if not hold:
        agents.release(name)
    return name


@app.post("/orphans/{name}")
async def orphan(name: str) -> str:
    """An agent whose owner ends at once."""
    task = asyncio.create_task(asyncio.sleep(0))
    agents[name] = Agent(1 << 20)
    agents.own(name, task)
    await task
    return name


@app.post("/fill")
async def fill() -> int:
    """Two caches of 1,000 entries."""
    for number in range(1000):
        expiring[number] = str(number) * 100
        lasting[number] = str(number) * 100
    return len(lasting)


@app.get("/cached")
async def cached() -> dict[str, int]:
    """How many entries there are."""
    return {"lasting": len(lasting)}


@app.get("/slow/{seconds}")
async def slow(seconds: float) -> str:
    """Work that lasts."""
    await asyncio.sleep(seconds)
    return "done"


@app.websocket("/talk/{name}")
async def talk(socket: WebSocket, name: str) -> None:
    """An echo."""
    await socket.accept()
    while True:
        await socket.send_text(f"{name}: {await socket.receive_text()}")


@app.get("/{rest:path}")
async def everything(rest: str) -> str:
    """A route for all paths, which must not swallow ours."""
    return rest


protect(app, guard)
