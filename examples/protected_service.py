"""A FastAPI service with a guard in front: probes, a control API, a page.

``MEMGUARD_LOCAL_ACTIONS=1 uvicorn examples.protected_service:app`` serves it: look at http://localhost:8000/memguard.
Run as a program it makes 100 requests itself and asks its own control API.
"""

from __future__ import annotations

import asyncio

import httpx
from fastapi import FastAPI

import memguard
from memguard.ext.fastapi import protect

guard = memguard.Guard()
agents: memguard.Pool[list[str]] = guard.pool("agents", max_size=50)

app = FastAPI()


@memguard.cached(ttl="1h", name="answers")
def answer(question: int) -> str:
    return f"the answer to {question} is {question**0.5:.6f}"


@app.get("/ask/{name}/{question}")
async def ask(name: str, question: int) -> str:
    async with agents.lease(name, list, wait_s=5) as agent:
        agent.append(answer(question))
        return agent[-1]


protect(app, guard)  # token="…" lets operators act from afar, local_actions=True those on this machine


async def main() -> None:
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 40000))
    async with (
        app.router.lifespan_context(app),  # a server does this: the guard runs inside
        httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client,
    ):
        served = [(await client.get(f"/ask/agent-{n % 9}/{n % 20}")).status_code for n in range(100)]
        top = (await client.get("/api/v1/monitoring/memory/top")).json()
        pool = (await client.get("/api/v1/monitoring/agents/pool")).json()
        ready = (await client.get("/readyz")).json()
    print(f"{served.count(200)} of 100 requests served, {ready['status']}")
    print(f"{pool['size']} agents; {len(top['consumers'])} rows make up the memory in use")


if __name__ == "__main__":
    asyncio.run(main())
