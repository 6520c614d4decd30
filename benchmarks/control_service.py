"""The service that ``control.py`` measures: protected, with a guard that looks 100 times a second."""

from __future__ import annotations

import os

from fastapi import FastAPI

import memguard
from memguard.ext.asgi import MemguardMiddleware
from memguard.ext.fastapi import protect


class Steady:
    """A probe that always reads the same."""

    source = "a steady number"

    def read(self) -> int:
        """The same each time."""
        return int(float(os.environ["USED_RATIO"]) * 2**30)

    def close(self) -> None:
        """Nothing is open."""


guard = memguard.Guard(limit="1GiB", probe=Steady(), roster=memguard.Roster(), pace_max_s=0.01)
app = FastAPI()


@app.get("/work/{number}")
async def work(number: int) -> int:
    return number


@app.get("/cpu")
async def cpu() -> float:
    """Processor seconds of this process so far."""
    times = os.times()
    return times.user + times.system


pool: memguard.Pool[object] = guard.pool("agents")
for each in range(50):
    pool[f"a{each}"] = object()
if os.environ.get("PROTECT", "1") == "1":
    protect(app, guard, exempt=("/cpu",))
else:
    app.add_middleware(MemguardMiddleware, guard=guard, exempt=("/cpu", "/livez"))

    @app.get("/livez")
    async def livez() -> str:
        return "alive"
