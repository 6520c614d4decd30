"""Protected applications in this process, and those who ask them from here or from afar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
from fastapi import FastAPI

import memguard
from memguard.ext.fastapi import protect
from memguard.findings import Census, LeakReport, Trace
from memguard.testing import FakeClock, FakeMemory

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["API", "ask", "client", "fake_guard", "fake_report", "protected"]

API = "/api/v1"


def fake_guard(**rules: Any) -> tuple[memguard.Guard, FakeMemory, FakeClock]:
    """A guard over memory that tests make up: 1 GiB of limit, 100 MiB used."""
    clock = FakeClock()
    memory = FakeMemory(clock, base_bytes="100MiB")
    guard = memguard.Guard(limit="1GiB", probe=memory, clock=clock, roster=memguard.Roster(), **rules)
    guard.tick()
    return guard, memory, clock


def protected(**options: Any) -> FastAPI:
    """An application with a guard, and one route of its own."""
    app = FastAPI()

    @app.get("/work/{number}")
    async def work(number: int) -> int:
        return number

    guard = options.pop("guard", None) or fake_guard()[0]
    return protect(app, guard, **options)


def client(app: ASGIApp, *, address: str = "127.0.0.1", host: str = "localhost", **options: Any) -> httpx.AsyncClient:
    """Somebody at an address, who asks for a host."""
    transport = httpx.ASGITransport(app, client=(address, 40000), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}:8000", **options)


async def ask(app: ASGIApp, method: str, path: str, *, address: str = "127.0.0.1", **options: Any) -> httpx.Response:
    """One request, from this machine unless said otherwise."""
    async with client(app, address=address, host=options.pop("host", "localhost")) as line:
        return await line.request(method, path, **options)


def fake_report() -> LeakReport:
    """What an examination found that found nothing."""
    return LeakReport(
        at=0.0, seconds=0.0, requests=None, summary="Nothing grew.", verdict=None, suspects=(), types=(), swellings=(),
        trace=Trace(sites=(), seconds=0.0, frames=0), native=None, named=(), unchecked=(), curve=((0.0, 1),),
        census=Census(at=0.0, counts={"dict": 1}, objects=1, complete=True, cost_s=0.0, hold_s=0.0), cost_s=0.0,
        hold_s=0.0, text="Nothing grew.", html="<!doctype html><title>Nothing grew</title>",
    )  # fmt: skip
