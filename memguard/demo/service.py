"""The service of the demonstration: agents with histories and beliefs, and a response cache.

It is written as such services are: it keeps what it may need again, and nothing bounds that. The same code runs bare
and guarded; ``MEMGUARD_DEMO=guarded`` adds a guard, the middleware and two registrations, and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from array import array
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, Response

from memguard.ext.asgi import MemguardMiddleware
from memguard.guard import Guard
from memguard.model import Level
from memguard.units import KIB
from memguard.values import field, value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from memguard.model import Incident

__all__ = ["Service", "create_app", "main"]

_BELIEFS = 128 * KIB  # doubles: 1 MiB an agent
# An agent that has heard nothing for so long may be retired: its client starts it again when it comes back.
_IDLE_S = 2.0
_WORDS = ("agent", "belief", "cache", "memory", "limit", "answer", "pressure", "relief", "ticket", "token")


@value(frozen=False, kw_only=False)
class Agent:
    """One conversation: what was said, and what is believed."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    beliefs: array[float] = field(default_factory=lambda: array("d", [0.0]) * _BELIEFS)
    heard_at: float = field(default_factory=time.monotonic)
    body_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """What it holds: beliefs, and of each message a dict, two strings' heads and its text."""
        return len(self.beliefs) * self.beliefs.itemsize + 340 * len(self.messages) + self.body_bytes


class Service:
    """What the service keeps in memory."""

    def __init__(self) -> None:
        self.agents: OrderedDict[str, Agent] = OrderedDict()
        self.answers: OrderedDict[str, bytes] = OrderedDict()
        self.hits: int = 0
        self.misses: int = 0
        self.retired: int = 0

    def answer(self, key: str, kib: int) -> bytes:
        """An answer from the cache, or made anew: a text of so many KiB."""
        known = self.answers.get(key)
        if known is not None:
            self.hits += 1
            return known
        self.misses += 1
        words = random.Random(key).choices(_WORDS, k=64)
        made = (" ".join(words) * (1 + kib * KIB // 256))[: kib * KIB].encode()
        self.answers[key] = made
        return made

    def observe(self, name: str, messages: list[dict[str, Any]], body_bytes: int) -> int:
        """An agent hears messages and moves its beliefs; how many it remembers now."""
        agent = self.agents.get(name)
        if agent is None:
            agent = self.agents[name] = Agent()
        self.agents.move_to_end(name)
        agent.heard_at = time.monotonic()
        agent.messages.extend(messages)
        agent.body_bytes += body_bytes
        for at in range(0, _BELIEFS, 512):
            agent.beliefs[at] = 0.9 * agent.beliefs[at] + 0.1 * len(messages)
        return len(agent.messages)

    def idle_bytes(self) -> int:
        """What the idle agents hold, the longest idle ones first in the table."""
        before, total = time.monotonic() - _IDLE_S, 0
        for agent in list(self.agents.values()):
            if agent.heard_at > before:
                break
            total += agent.size_bytes
        return total

    def retire_idle(self, wanted_bytes: int) -> int:
        """Retire the longest idle agents until so many bytes are released."""
        before, released = time.monotonic() - _IDLE_S, 0
        for name, agent in list(self.agents.items()):
            if released >= wanted_bytes or agent.heard_at > before:
                break
            if self.agents.pop(name, None) is not None:
                released += agent.size_bytes
                self.retired += 1
        return released


def create_app(service: Service, guard: Guard | None) -> FastAPI:
    """The HTTP application; with a guard it is started and stopped by the lifespan."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        orphaned = asyncio.create_task(_end_with_parent(os.getppid()))
        try:
            if guard is None:
                yield
            else:
                with guard:
                    yield
        finally:
            orphaned.cancel()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.get("/answers/{key}")
    async def answer(key: str, kib: int = 64) -> Response:
        return Response(service.answer(key, kib), media_type="text/plain")

    @app.post("/agents/{name}/messages")
    async def observe(name: str, body: Annotated[dict[str, Any], Body()]) -> dict[str, int]:
        messages = body["messages"]
        return {"messages": service.observe(name, messages, sum(len(said["content"]) for said in messages))}

    @app.delete("/agents/{name}")
    async def finish(name: str) -> dict[str, bool]:
        return {"finished": service.agents.pop(name, None) is not None}

    @app.post("/documents")
    async def digest(body: Annotated[dict[str, Any], Body()]) -> dict[str, float]:
        records = body["records"]
        return {"records": len(records), "mean": sum(record["score"] for record in records) / len(records)}

    @app.get("/livez")
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        return _stats(service, guard)

    if guard is not None:
        app.add_middleware(MemguardMiddleware, guard=guard, exempt=("/livez", "/stats"))
        guard.cache(service.answers, name="answers")
        guard.reclaimer("idle-agents", service.retire_idle, size=service.idle_bytes, cost="dear", at=Level.WARNING)
    return app


def _stats(service: Service, guard: Guard | None) -> dict[str, Any]:
    """What the demonstration's table shows; it exists for the demonstration only."""
    facts: dict[str, Any] = {
        "agents": len(service.agents),
        "answers": len(service.answers),
        "hits": service.hits,
        "misses": service.misses,
        "retired": service.retired,
    }
    if guard is not None:
        snapshot = guard.snapshot
        incidents = [*guard.incidents, *([snapshot.incident] if snapshot.incident else [])]
        facts |= {
            "level": snapshot.level.name,
            "pressure": snapshot.pressure,
            "refusals": snapshot.refusals,
            "limit": snapshot.limit and {"bytes": snapshot.limit.bytes, "source": snapshot.limit.source},
            "rungs": {level.name: guard.rules.enter_ratio(level) for level in Level if level},
            "holders": [
                {"name": holder.name, "attempts": holder.attempts, "bought_bytes": holder.bought_bytes}
                for holder in guard.holders()
            ],
            "incidents": [_told(incident) for incident in incidents],
        }
    return facts


def _told(incident: Incident) -> dict[str, Any]:
    return {
        "lasted_s": incident.lasted_s,
        "peak_level": incident.peak_level.name,
        "attempts": incident.attempts,
        "refusals": incident.refusals,
        "verdict": incident.verdict,
        "reliefs": [
            [relief.name, relief.wanted_bytes, relief.bought_bytes, relief.cost_s, relief.error]
            for relief in incident.reliefs
        ],
    }


async def _end_with_parent(parent: int) -> None:
    """A demonstration that was killed must leave no service behind."""
    while os.getppid() == parent:  # noqa: ASYNC110 - no event tells of a parent's death
        await asyncio.sleep(1.0)
    os._exit(1)


def main() -> None:
    """Serve on an inherited socket, guarded or bare as ``MEMGUARD_DEMO`` says."""
    parser = argparse.ArgumentParser(prog="python -m memguard.demo.service")
    parser.add_argument("--fd", type=int, required=True, help="a listening socket that the parent opened")
    options = parser.parse_args()
    guard = Guard() if os.environ.get("MEMGUARD_DEMO") == "guarded" else None
    app = create_app(Service(), guard)
    # Kept connections outlive the load's quiet moments.
    uvicorn.run(app, fd=options.fd, log_level="warning", access_log=False, timeout_keep_alive=75)


if __name__ == "__main__":
    main()
