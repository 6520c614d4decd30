"""Agents that believe: a FastAPI service whose agents update belief arrays, as in active inference.

``uvicorn examples.belief_service:app`` serves it; run as a program it makes 600 observations of 200 agents itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx
import numpy as np
from fastapi import FastAPI

import memguard
from memguard.ext.asgi import MemguardMiddleware
from memguard.units import format_bytes

STATES = 64
PLACES = 4096

guard = memguard.Guard()
# Beliefs outlive their agents: packed when nobody uses them, on disk when that is not enough, and equal when they are
# asked for again.
beliefs: dict[str, np.ndarray] = guard.states("beliefs", max_bytes_each="8MiB")  # type: ignore[assignment]


@memguard.cached(name="likelihoods")
def likelihood(observation: int) -> np.ndarray:
    """How likely each state makes an observation: costly to make, the same for all agents."""
    dice = np.random.default_rng(observation)
    return dice.dirichlet(np.ones(STATES), size=PLACES)


@dataclass
class Agent:
    """Keeps its belief while it works; what it learned goes back to the states."""

    name: str
    belief: np.ndarray

    def observe(self, observation: int) -> float:
        """Bayes' rule at every place; how sure the agent is now, 0 to 1."""
        posterior = self.belief * likelihood(observation)
        self.belief = posterior / posterior.sum(axis=1, keepdims=True)
        return float(self.belief.max(axis=1).mean())


def wake(name: str) -> Agent:
    belief = beliefs.get(name)
    return Agent(name, np.full((PLACES, STATES), 1 / STATES) if belief is None else belief)


def rest(name: str, agent: Agent) -> None:
    beliefs[name] = agent.belief


agents = guard.pool("agents", max_size=40, on_retire=rest)

app = FastAPI()
app.add_middleware(MemguardMiddleware, guard=guard)


@app.post("/agents/{name}/observations/{observation}")
async def observe(name: str, observation: int) -> dict[str, object]:
    # Its own PoolFull and the gate's refusals are answered 503 with Retry-After.
    async with agents.lease(name, lambda: wake(name), wait_s=5) as agent:
        return {"agent": name, "sure": agent.observe(observation)}


@app.get("/livez")
async def alive() -> str:
    return "alive"


async def main() -> None:
    transport = httpx.ASGITransport(app)
    with guard:
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            answers = [
                (await client.post(f"/agents/a{number % 200}/observations/{number % 7}")).status_code
                for number in range(600)
            ]
        limit = guard.snapshot.limit
    stats = agents.stats()
    below = "no limit" if limit is None else f"{format_bytes(limit.bytes)}, {limit.source}"
    print(f"{answers.count(200)} of 600 observations served below {below}")
    print(f"{stats.created} agents made, {stats.retired} retired to {len(beliefs)} beliefs")


if __name__ == "__main__":
    asyncio.run(main())
