"""Bodies as they really come: in pieces, without a length, with a false one, never; priorities, costs and waiting."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.requests import ClientDisconnect, Request

from memguard import Guard, Roster
from memguard.ext.asgi import TICKET, MemguardMiddleware
from memguard.testing import FakeClock, FakeMemory
from memguard.units import MIB

PIECE = 1 * MIB


class Line:
    """The server's side of one request: pieces it will deliver, and what it was sent."""

    def __init__(self, *pieces: int, ends: bool = True) -> None:
        last = len(pieces) - 1
        self.inbox: list[dict[str, Any]] = [
            {"type": "http.request", "body": b"x" * size, "more_body": number < last or not ends}
            for number, size in enumerate(pieces or (0,))
        ]
        self.sent: list[Any] = []
        self.read_bytes = 0

    async def receive(self) -> Any:
        await asyncio.sleep(0)
        if not self.inbox:
            return {"type": "http.disconnect"}
        message = self.inbox.pop(0)
        self.read_bytes += len(message["body"])
        return message

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"]) if self.sent else 0

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


class Scene:
    """A guard over fake memory, 1000 MiB, of which some are used; an app behind its middleware."""

    def __init__(self, app: Any = None, *, used_mib: int = 100, **options: Any) -> None:
        self.clock = FakeClock()
        self.memory = FakeMemory(self.clock, base_bytes=used_mib * MIB)
        self.guard = Guard(limit="1000MiB", probe=self.memory, clock=self.clock, roster=Roster(), promise_s=30.0)
        self.look()
        self.seen: list[Any] = []
        self.app = MemguardMiddleware(app or self.reads, guard=self.guard, **options)

    def look(self, seconds: float = 0.05) -> None:
        self.clock.advance(seconds)
        self.guard.tick()

    async def reads(self, scope: Any, receive: Any, send: Any) -> None:
        """Reads the whole body, then answers."""
        self.seen.append(scope[TICKET])
        await read_all(receive)
        self.seen.append(self.guard.gate.promised_bytes)
        await answer(send)

    def ask(self, line: Line, *lengths: bytes, method: str = "POST", path: str = "/x", **headers: str) -> Line:
        asyncio.run(self.ask_async(line, *lengths, method=method, path=path, **headers))
        return line

    async def ask_async(
        self, line: Line, *lengths: bytes, method: str = "POST", path: str = "/x", **headers: str
    ) -> None:
        pairs = [(b"content-length", length) for length in lengths]
        pairs += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope: Any = {
            "type": "http", "method": method, "path": path, "headers": pairs,
            "http_version": "1.1", "query_string": b"",
        }  # fmt: skip
        await asyncio.wait_for(self.app(scope, line.receive, line.send), 20.0)

    @property
    def is_empty(self) -> bool:
        gate = self.guard.gate
        return (gate.promised_bytes, gate.running, gate.waiting, len(gate._ledger)) == (0, 0, 0, 0)


async def read_all(receive: Any) -> int:
    """A body's length; raises as Starlette does when the client leaves."""
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        total += len(message["body"])
        if not message["more_body"]:
            return total


async def turns_until(condition: Any) -> None:
    """Let others run until it holds."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


async def answer(send: Any) -> None:
    """200."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


# --- bodies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_body_without_a_length_is_charged_as_it_comes(method: str) -> None:
    """Chunked: 8 times what has come, whatever the method is."""
    scene = Scene()
    assert scene.ask(Line(*[PIECE] * 20), method=method).status == 200
    assert scene.seen[1] == pytest.approx(8 * 20 * MIB, rel=0.05)
    assert scene.is_empty


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_chunked_bomb_is_cut_off(method: str) -> None:
    """503 in the middle, before it is all read; the app is told that the client has gone, and nothing is kept."""
    scene = Scene()
    line = scene.ask(Line(*[PIECE] * 300), method=method)
    assert line.status == 503
    assert line.headers[b"connection"] == b"close"
    assert b"retry-after" in line.headers
    assert 90 * MIB <= line.read_bytes <= 105 * MIB
    assert scene.seen[0].outcome == "failed"
    assert len(line.sent) == 2
    assert scene.is_empty
    scene.look()
    assert scene.guard.snapshot.refusals == 1


def test_a_bomb_that_could_never_fit_is_too_large() -> None:
    """413 once what has come would not fit even into an empty process: a retry would be in vain."""
    scene = Scene(used_mib=1)
    line = scene.ask(Line(*[10 * MIB] * 30))
    assert line.status == 413
    assert b"retry-after" not in line.headers
    assert json.loads(line.sent[1]["body"])["title"] == "Content Too Large"


def test_one_huge_piece_is_charged_too() -> None:
    """A server that hands the whole body over at once, announced as nothing, is no way around."""
    assert Scene().ask(Line(200 * MIB), b"10").status == 413


@pytest.mark.parametrize("length", [b"-5", b"+5", b"5, 6", b"0x10", b"1_000", b"", b"9" * 400, b"ten"])
def test_a_length_that_is_none_is_not_believed(length: bytes) -> None:
    """Negative, listed, hexadecimal, endless: the body is counted as it comes."""
    scene = Scene()
    assert scene.ask(Line(*[PIECE] * 300), length).status == 503
    assert scene.ask(Line(*[PIECE] * 3), length).status == 200
    assert scene.is_empty


def test_of_two_lengths_the_larger_counts() -> None:
    """Two that differ are a smuggler's or a mistake: nobody is let in for the smaller one."""
    scene = Scene()
    assert scene.ask(Line(10), b"10", b"200000000").status == 413
    assert scene.ask(Line(10), b"10", b"10").status == 200


def test_a_body_longer_than_announced_is_charged() -> None:
    """The part beyond what was announced is charged as it comes."""
    scene = Scene()
    assert scene.ask(Line(*[PIECE] * 30), b"%d" % (10 * MIB)).status == 200
    assert scene.seen[1] == pytest.approx(8 * 30 * MIB, rel=0.05)
    assert scene.ask(Line(*[PIECE] * 300), b"%d" % (10 * MIB)).status == 503
    assert scene.is_empty


def test_a_body_that_stops_half_way_gives_its_promise_back() -> None:
    """The client leaves after a tenth of what it announced: abandoned, and the room is free at once."""
    scene = Scene()
    with pytest.raises(ClientDisconnect):
        scene.ask(Line(*[PIECE] * 5, ends=False), b"%d" % (50 * MIB))
    assert scene.seen[0].outcome == "abandoned"
    assert scene.is_empty


def test_a_body_that_never_comes_holds_its_promise_for_a_time() -> None:
    """Announced and not sent: after promise_s the room is free; when the body comes after all it is charged anew."""
    scene = Scene()
    late = asyncio.Event()
    line = Line(*[PIECE] * 300)

    async def receive() -> Any:
        await late.wait()
        return await line.receive()

    async def story() -> None:
        scope: Any = {
            "type": "http", "method": "POST", "path": "/x", "headers": [(b"content-length", b"%d" % (90 * MIB))],
        }  # fmt: skip
        task = asyncio.create_task(scene.app(scope, receive, line.send))
        await asyncio.sleep(0)
        assert scene.guard.gate.promised_bytes == 720 * MIB
        scene.look(31.0)
        scene.look(1.1)
        assert scene.guard.gate.promised_bytes == 0
        late.set()
        await task

    asyncio.run(story())
    assert line.status == 503
    assert line.read_bytes <= 105 * MIB
    assert scene.is_empty


def test_a_client_that_never_reads_holds_no_promise() -> None:
    """Once the answer is handed over, what was promised and not taken is free, however slowly it is read."""
    scene = Scene()
    stuck = asyncio.Event()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await stuck.wait()

    async def story() -> None:
        line = Line(*[PIECE] * 50)
        scope: Any = {
            "type": "http", "method": "POST", "path": "/x", "headers": [(b"content-length", b"%d" % (50 * MIB))],
        }  # fmt: skip
        task = asyncio.create_task(scene.app(scope, line.receive, send))
        await turns_until(lambda: len(sent) == 2)
        assert scene.guard.gate.running == 1
        assert scene.guard.gate.promised_bytes == 0
        stuck.set()
        await task

    asyncio.run(story())
    assert scene.is_empty


def test_an_answer_that_has_begun_is_broken_off() -> None:
    """An echo that streams while it reads can get no other status: it is told that the client has gone."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})

    scene = Scene(echo)
    line = scene.ask(Line(*[PIECE] * 300))
    assert [message["type"] for message in line.sent].count("http.response.start") == 1
    assert line.sent[-1]["more_body"]
    assert line.read_bytes <= 105 * MIB
    assert scene.is_empty


def test_an_app_that_goes_on_reading_after_the_cut_gets_nothing() -> None:
    """However often it asks, it hears that the client has gone, and not one byte more is read."""
    heard: list[str] = []

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        heard.extend([(await receive())["type"] for _ in range(400)])
        await answer(send)

    scene = Scene(stubborn)
    line = scene.ask(Line(*[PIECE] * 300))
    assert line.status == 503
    assert len(line.sent) == 2
    assert "http.request" not in heard[heard.index("http.disconnect") :]
    assert scene.is_empty


def test_fastapi_and_a_bomb() -> None:
    """A framework's own reading of the body ends in 503, without an error for the server's log."""
    site = FastAPI()

    @site.post("/things/{name}")
    async def things(name: str, request: Request) -> int:
        return len(await request.body())

    scene = Scene(site)
    assert scene.ask(Line(*[PIECE] * 300), path="/things/a").status == 503
    line = scene.ask(Line(*[PIECE] * 3), path="/things/b")
    assert line.status == 200
    assert line.sent[1]["body"] == str(3 * MIB).encode()
    assert scene.is_empty


@pytest.mark.parametrize("prefix", ["", "/books"])
def test_a_templates_paths_are_one_route(prefix: str) -> None:
    """FastAPI says which route a path belongs to: what one path taught counts for another of other words.

    A router's prefix is a part of it, or routes of two routers would share what was learned.
    """
    site, router = FastAPI(), APIRouter()
    arrived, go_on = asyncio.Event(), asyncio.Event()

    @router.get("/wiki/{title}")
    async def wiki(title: str) -> str:
        arrived.set()
        await go_on.wait()
        return title

    site.include_router(router, prefix=prefix)
    scene = Scene(site)

    async def story() -> None:
        task = asyncio.create_task(scene.ask_async(Line(), method="GET", path=f"{prefix}/wiki/cats"))
        await asyncio.wait_for(arrived.wait(), 20.0)
        scene.look()
        go_on.set()
        await task
        scene.look()

    asyncio.run(story())
    costs = scene.guard.gate.learn().costs
    assert [route.name for route in costs.routes()] == [f"GET {prefix}/wiki/{{title}}"]


# --- priorities and costs ----------------------------------------------------------------------------------------


def test_no_header_is_trusted_unless_it_is_named() -> None:
    """A client that calls itself critical is normal; with the header named by the application it counts."""
    assert Scene(used_mib=920).ask(Line(), method="GET", x_priority="critical").status == 503
    scene = Scene(used_mib=920, priority="X-Priority")
    assert scene.ask(Line(), method="GET", x_priority="Critical").status == 200
    assert scene.ask(Line(), method="GET", x_priority="most critical").status == 503
    assert scene.ask(Line(), method="GET").status == 503


def test_sheddable_requests_go_first() -> None:
    """At WARNING a function of the scope decides who is refused; at OK it is not even asked."""
    asked: list[str] = []

    def rank(scope: Any) -> str:
        asked.append(scope["path"])
        return "sheddable" if scope["path"].startswith("/export") else "normal"

    scene = Scene(used_mib=820, priority=rank)
    assert scene.ask(Line(), method="GET", path="/export/7").status == 503
    assert scene.ask(Line(), method="GET", path="/x").status == 200
    calm = Scene(used_mib=100, priority=rank)
    assert calm.ask(Line(), method="GET", path="/export/8").status == 200
    assert asked == ["/export/7", "/x"]


def test_a_priority_or_cost_that_fails_is_told_once_and_counts_as_none(caplog: pytest.LogCaptureFixture) -> None:
    """An error in the application's function is no reason to fail requests when memory is short."""

    def broken(scope: Any) -> str:
        raise KeyError("who")

    scene = Scene(used_mib=820, priority=broken, cost=broken)
    with caplog.at_level(logging.ERROR, "memguard"):
        assert [scene.ask(Line(), method="GET").status for _ in range(3)] == [200, 200, 200]
    told = [record.getMessage() for record in caplog.records if "MemguardMiddleware" in record.getMessage()]
    assert len(told) == 2
    assert "KeyError: 'who'" in told[0]


def test_a_cost_that_the_application_states_wins() -> None:
    """An upload that goes to disk is said to need little; a report that needs much is refused by its bytes."""
    costs = {"/upload": "1MiB", "/report": 850 * MIB, "/other": None}
    scene = Scene(cost=lambda scope: costs[scope["path"]])
    assert scene.ask(Line(), b"%d" % (500 * MIB), path="/upload").status == 200
    assert scene.ask(Line(), b"100", path="/report").status == 503
    assert scene.ask(Line(), b"%d" % (500 * MIB), path="/other").status == 413
    assert scene.is_empty


def test_a_route_may_have_a_budget() -> None:
    """What the budget of a request has no room for is refused, 413 when it never will; other routes do not mind."""
    inside: list[int] = []

    async def holds(scope: Any, receive: Any, send: Any) -> None:
        inside.append(scene.guard.budget("uploads").used_bytes)
        await scene.reads(scope, receive, send)

    scene = Scene(holds, budget=lambda scope: "uploads" if scope["path"] == "/upload" else None)
    budget = scene.guard.budget("uploads", "100MiB")
    other = budget.charge(lambda: 60 * MIB, name="files")
    assert scene.ask(Line(), b"%d" % (4 * MIB), path="/upload").status == 200  # cold: eight times its body
    assert scene.ask(Line(), b"%d" % (6 * MIB), path="/upload").status == 503
    assert scene.ask(Line(), b"%d" % (6 * MIB), path="/other").status == 200
    assert scene.ask(Line(), b"%d" % (50 * MIB), path="/upload").status == 413
    other.close()
    assert scene.ask(Line(), b"%d" % (6 * MIB), path="/upload").status == 200
    assert scene.ask(Line(), method="GET", path="/upload").status == 200
    assert [inside[0], inside[2]] == [(60 + 32) * MIB, 48 * MIB]
    assert budget.used_bytes == 0
    assert scene.is_empty


def test_a_budget_that_fails_is_told_once_and_counts_as_none(caplog: pytest.LogCaptureFixture) -> None:
    """A name that no budget has is no reason to fail requests."""
    scene = Scene(budget=lambda scope: "nobody's")
    with caplog.at_level(logging.ERROR, "memguard"):
        assert [scene.ask(Line(), method="GET").status for _ in range(2)] == [200, 200]
    (told,) = [record.getMessage() for record in caplog.records if "MemguardMiddleware" in record.getMessage()]
    assert 'there is no budget "nobody\'s" yet' in told


# --- waiting -----------------------------------------------------------------------------------------------------


def test_a_request_may_wait_for_room() -> None:
    """With wait_s a request that does not fit now is served as soon as another ends."""
    go_on = asyncio.Event()

    async def holds(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        if scope["path"] == "/first":
            await go_on.wait()
        await answer(send)

    scene = Scene(holds, wait_s=20.0)

    async def story() -> list[int]:
        length = b"%d" % (60 * MIB)
        first, second = Line(*[PIECE] * 60), Line(*[PIECE] * 60)
        tasks = [asyncio.create_task(scene.ask_async(first, length, path="/first"))]
        await turns_until(lambda: not first.inbox)
        tasks.append(asyncio.create_task(scene.ask_async(second, length)))
        await turns_until(lambda: scene.guard.gate.waiting)
        assert second.read_bytes == 0
        go_on.set()
        await asyncio.gather(*tasks)
        return [first.status, second.status]

    assert asyncio.run(story()) == [200, 200]
    assert scene.is_empty


def test_a_wait_has_an_end() -> None:
    """Without room in time it is 503, as without waiting."""
    scene = Scene(wait_s=0.02)
    held = scene.guard.admit("700MiB")
    assert scene.ask(Line(), b"%d" % (60 * MIB)).status == 503
    held.close()
    assert scene.is_empty


@pytest.mark.parametrize("wait_s", ["soon", -1, float("nan")])
def test_a_wait_that_is_none(wait_s: Any) -> None:
    """A time that can't be meant is refused when the middleware is made."""
    with pytest.raises((ValueError, TypeError)):
        Scene(wait_s=wait_s)
