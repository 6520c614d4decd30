"""The ASGI middleware: who is admitted, what a refusal says, and how every ticket ends."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest
from fastapi import FastAPI
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from memguard import Guard, Level, Roster, Rules, Snapshot, Ticket
from memguard.admission import Gate
from memguard.errors import AdmissionRefused
from memguard.ext.asgi import TICKET, MemguardMiddleware
from memguard.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Opened(dict[Ticket, None]):
    """The gate's open tickets, which keeps all that were ever opened too."""

    def __init__(self) -> None:
        super().__init__()
        self.ever: list[Ticket] = []

    def __setitem__(self, ticket: Ticket, nothing: None) -> None:
        self.ever.append(ticket)
        super().__setitem__(ticket, nothing)


class ShutGate(Gate):
    """A gate that refuses everything."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(rules=Rules(), clock=lambda: 0.0)
        self.narrow = True
        self.retry_after_s = retry_after_s

    def enter(self, ticket: Ticket) -> bool:
        return False

    def refusal(self, ticket: Ticket, *, wanted_bytes: int | None = None) -> AdmissionRefused:
        text = "admission refused: 480.0 MiB of 512.0 MiB used"
        return AdmissionRefused(text, retry_after_s=self.retry_after_s, level="CRITICAL")


class FakeGuard:
    """Admits everything, or refuses everything, and keeps the tickets."""

    rules = Rules()

    def __init__(self, *, refuses: bool = False, retry_after_s: float = 2.0) -> None:
        self.gate = ShutGate(retry_after_s) if refuses else Gate(rules=Rules(), clock=lambda: 0.0)
        blank = Snapshot(at=0.0, reading=None, limit=None, pressure=0.0, level=Level.OK, forecast=None)
        if not refuses:
            self.gate.show(blank)
        self._opened = self.gate.open = Opened()

    @property
    def tickets(self) -> list[Ticket]:
        return self._opened.ever

    @property
    def outcomes(self) -> list[str]:
        """How the only ticket was closed."""
        (ticket,) = self.tickets
        assert (ticket.outcome is None) is (ticket in self.gate.open)
        return [ticket.outcome] if ticket.outcome else []


def _protected(app: App, guard: FakeGuard, **options: Any) -> MemguardMiddleware:
    return MemguardMiddleware(app, guard=cast("Guard", guard), **options)


def _http_scope(path: str = "/x", *, headers: Iterable[tuple[bytes, bytes]] = (), root_path: str = "") -> Scope:
    return {"type": "http", "method": "POST", "path": path, "root_path": root_path, "headers": list(headers)}


@dataclass
class Line:
    """The server's side of one request: what it will deliver, and what it was sent."""

    inbox: list[Message] = field(default_factory=lambda: [{"type": "http.request", "body": b"", "more_body": False}])
    sent: list[Message] = field(default_factory=list)
    read: int = 0

    async def receive(self) -> Message:
        self.read += 1
        return self.inbox.pop(0) if self.inbox else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers 200 in one piece."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that must not be reached."""
    raise AssertionError(f"{scope['path']} reached the application")


def _run(app: App, scope: Scope, line: Line | None = None) -> Line:
    line = line or Line()
    asyncio.run(cast("Any", app(scope, line.receive, line.send)))
    return line


# --- admitted ----------------------------------------------------------------------------------------------------


def test_an_admitted_request_is_answered_and_its_ticket_done() -> None:
    """The app runs, its messages pass unchanged, and the ticket in the scope ends as done."""
    guard = FakeGuard()
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope[TICKET])
        await answer(scope, receive, send)

    line = _run(_protected(app, guard), _http_scope("/agents/7"))
    assert [message["type"] for message in line.sent] == ["http.response.start", "http.response.body"]
    assert guard.tickets[0].label == "POST /agents/7"
    assert seen == guard.tickets
    assert guard.outcomes == ["done"]


def test_a_request_leaves_no_cycle_behind() -> None:
    """A server's cycle object, which holds the scope, dies with its last reference: no collection is needed."""

    class Cycle:
        def __init__(self) -> None:
            self.scope = _http_scope()

        async def receive(self) -> Message:
            return {"type": "http.disconnect"}

        async def send(self, message: Message) -> None:
            """Nothing."""

    protected = _protected(answer, FakeGuard())
    protected.guard.gate.open = {}

    async def scenario() -> weakref.ref[Cycle]:
        cycle = Cycle()
        await protected(cycle.scope, cycle.receive, cycle.send)
        return weakref.ref(cycle)

    gc.disable()
    try:
        assert asyncio.run(scenario())() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("length", "promised"),
    [
        (None, None),
        (b"0", None),
        (b"%d" % (64 * KIB), None),
        (b"%d" % (64 * KIB + 1), 8 * (64 * KIB + 1)),
        (b"%d" % (10 * MIB), 80 * MIB),
        (b"-10000000", None),
        (b"10_000_000", None),
        (b"+10000000", None),
        (b"much", None),
        (b"", None),
        (b"9" * 5000, None),
    ],
)
def test_a_known_large_body_is_promised_eightfold(length: bytes | None, promised: int | None) -> None:
    """Above 64 KiB the promise is 8 times the Content-Length; a length that is none promises nothing."""
    guard = FakeGuard()
    headers = [(b"host", b"x")] + ([(b"content-length", length)] if length is not None else [])
    _run(_protected(answer, guard), _http_scope(headers=headers))
    assert guard.tickets[0].bytes == promised


# --- refused -----------------------------------------------------------------------------------------------------


def test_a_refusal_is_a_problem_object_and_reads_no_body() -> None:
    """503 with problem+json, a whole-second Retry-After, the right length; neither app nor body is touched."""
    line = _run(_protected(never, FakeGuard(refuses=True)), _http_scope(headers=[(b"content-length", b"90000000")]))
    assert line.read == 0
    assert line.status == 503
    body = b"".join(message.get("body", b"") for message in line.sent)
    assert line.headers[b"content-type"] == b"application/problem+json"
    assert int(line.headers[b"content-length"]) == len(body)
    problem = json.loads(body)
    assert problem["status"] == 503
    assert problem["title"] == "Service Unavailable"
    assert problem["level"] == "CRITICAL"
    assert "480.0 MiB of 512.0 MiB" in problem["detail"]
    assert 2.0 <= problem["retry_after_s"] <= 4.0
    assert int(line.headers[b"retry-after"]) == int(problem["retry_after_s"])
    assert not line.sent[-1].get("more_body", False)


def test_retries_are_spread() -> None:
    """Refused clients are told different waits, between once and twice the hint, or they would all return at once."""
    app = _protected(never, FakeGuard(refuses=True, retry_after_s=10.0))
    waits = [int(_run(app, _http_scope()).headers[b"retry-after"]) for _ in range(200)]
    assert min(waits) >= 10
    assert max(waits) <= 20
    assert len(set(waits)) >= 5


@pytest.mark.parametrize("retry_after_s", [0.0, 0.2])
def test_the_wait_is_never_below_a_second(retry_after_s: float) -> None:
    """Retry-After counts whole seconds, and 0 would mean a storm."""
    line = _run(_protected(never, FakeGuard(refuses=True, retry_after_s=retry_after_s)), _http_scope())
    assert int(line.headers[b"retry-after"]) >= 1


# --- who passes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/health"])
@pytest.mark.parametrize("root_path", ["", "/api/v1"])
def test_health_paths_are_never_refused(path: str, root_path: str) -> None:
    """A health probe passes at any level, also below the prefix of a mount or a proxy."""
    guard = FakeGuard(refuses=True)
    assert _run(_protected(answer, guard), _http_scope(root_path + path, root_path=root_path)).status == 200


@pytest.mark.parametrize(
    ("path", "root_path"), [("/livez2", ""), ("/x/livez", ""), ("/apilivez", "/api"), ("/", ""), ("/api/x", "/api")]
)
def test_other_paths_are_not_exempt(path: str, root_path: str) -> None:
    """Only the very paths are exempt, not what merely looks like them."""
    assert _run(_protected(never, FakeGuard(refuses=True)), _http_scope(path, root_path=root_path)).status == 503


def test_exempt_paths_can_be_chosen() -> None:
    """The application names its own exempt paths; then the default ones are no more exempt."""
    app = _protected(answer, FakeGuard(refuses=True), exempt=["/ping"])
    assert _run(app, _http_scope("/ping")).status == 200
    assert _run(app, _http_scope("/livez")).status == 503


def test_one_string_of_exempt_paths_is_refused() -> None:
    """exempt='/ping' would exempt '/', 'p', 'i' …: it is refused with the mend."""
    with pytest.raises(TypeError, match="'/ping',"):
        _protected(answer, FakeGuard(), exempt="/ping")


@pytest.mark.parametrize("kind", ["lifespan", "something.new"])
def test_other_scopes_pass_untouched(kind: str) -> None:
    """Lifespan and what is yet unknown get the server's own callables, whatever the level."""
    line, seen = Line(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    receive, send = line.receive, line.send
    scope: Scope = {"type": kind, "path": "/x", "headers": []}
    asyncio.run(_protected(app, FakeGuard(refuses=True))(scope, receive, send))
    assert seen == [(scope, receive, send)]
    assert TICKET not in scope


def test_a_mounted_app_with_its_own_middleware_admits_once() -> None:
    """A request that passes two middlewares is one piece of work: one ticket, closed once."""
    guard = FakeGuard()
    _run(_protected(_protected(answer, guard), guard), _http_scope())
    assert guard.outcomes == ["done"]


# --- how tickets end ---------------------------------------------------------------------------------------------


def test_an_exception_is_failed_and_passes_on() -> None:
    """The application's own error closes the ticket as failed and reaches the server."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("own error")

    guard = FakeGuard()
    with pytest.raises(KeyError, match="own error"):
        _run(_protected(app, guard), _http_scope())
    assert guard.outcomes == ["failed"]


def test_an_error_in_the_middle_of_an_answer_is_failed() -> None:
    """An answer that was begun and not finished, with the client still there, is failed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ValueError("half way")

    guard = FakeGuard()
    with pytest.raises(ValueError, match="half way"):
        _run(_protected(app, guard), _http_scope())
    assert guard.outcomes == ["failed"]


def test_an_app_that_says_nothing_has_failed() -> None:
    """An application that returns without an answer did not do its work."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    guard = FakeGuard()
    _run(_protected(app, guard), _http_scope())
    assert guard.outcomes == ["failed"]


def test_the_end_of_the_process_is_failed() -> None:
    """Ctrl-C is nobody's leaving."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyboardInterrupt

    guard = FakeGuard()
    line = Line()
    with pytest.raises(KeyboardInterrupt):
        _protected(app, guard)(_http_scope(), line.receive, line.send).send(None)
    assert guard.outcomes == ["failed"]


def test_a_cancelled_request_is_abandoned() -> None:
    """Cancellation closes the ticket as abandoned and passes on."""

    async def scenario() -> FakeGuard:
        guard, started, line = FakeGuard(), asyncio.Event(), Line()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            started.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(_protected(app, guard)(_http_scope(), line.receive, line.send))
        await started.wait()
        assert guard.outcomes == []
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return guard

    assert asyncio.run(scenario()).outcomes == ["abandoned"]


def test_a_dropped_request_is_abandoned() -> None:
    """A server that drops the coroutine, as at its own end, leaves no open ticket."""

    class Forever:
        def __await__(self) -> Any:
            yield

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Forever()

    guard, line = FakeGuard(), Line()
    request = _protected(app, guard)(_http_scope(), line.receive, line.send)
    request.send(None)
    request.close()
    assert guard.outcomes == ["abandoned"]


def test_a_client_that_leaves_while_sending_is_abandoned() -> None:
    """A disconnect in the middle of the body, which frameworks raise as an error, is abandoned and not failed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()

    guard = FakeGuard()
    line = Line(inbox=[{"type": "http.request", "body": b"half", "more_body": True}])
    with pytest.raises(ClientDisconnect):
        _run(_protected(app, guard), _http_scope(), line)
    assert guard.outcomes == ["abandoned"]


def test_a_client_that_leaves_a_stream_is_abandoned() -> None:
    """A stream that ends because its client left is abandoned, although nothing is raised."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"tick"
            await asyncio.sleep(0)

    guard = FakeGuard()
    _run(_protected(cast("App", StreamingResponse(endless())), guard), _http_scope())
    assert guard.outcomes == ["abandoned"]


def test_a_send_that_meets_no_client_is_abandoned() -> None:
    """Servers of ASGI 2.4 say by an OSError that the client left; the last message counts too."""

    async def scenario(fails_at: int) -> FakeGuard:
        guard, line = FakeGuard(), Line()

        async def send(message: Message) -> None:
            await line.send(message)
            if len(line.sent) == fails_at:
                raise ConnectionResetError("gone")

        with pytest.raises(ConnectionResetError):
            await _protected(answer, guard)(_http_scope(), line.receive, send)
        return guard

    for fails_at in (1, 2):
        assert asyncio.run(scenario(fails_at)).outcomes == ["abandoned"]


def test_a_disconnect_after_the_answer_is_done() -> None:
    """After the answer every server says disconnect: that is no leaving, even if the app fails to ignore it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await answer(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    guard = FakeGuard()
    _run(_protected(app, guard), _http_scope())
    assert guard.outcomes == ["done"]


def test_an_error_after_answer_and_disconnect_is_failed() -> None:
    """The disconnect that follows every answer does not turn a later failure into a leaving."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await answer(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"
        raise LookupError("after all that")

    guard = FakeGuard()
    with pytest.raises(LookupError):
        _run(_protected(app, guard), _http_scope())
    assert guard.outcomes == ["failed"]


def test_a_stream_holds_its_ticket_to_the_last_piece() -> None:
    """A streaming answer keeps its ticket open until the last piece is sent."""
    guard, during = FakeGuard(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for more in (True, True, False):
            await send({"type": "http.response.body", "body": b"x", "more_body": more})
            during.append(list(guard.outcomes))

    _run(_protected(app, guard), _http_scope())
    assert during == [[], [], []]
    assert guard.outcomes == ["done"]


def test_a_file_sent_by_its_path_is_done() -> None:
    """The pathsend extension completes an answer too."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/nowhere"})

    guard = FakeGuard()
    _run(_protected(app, guard), _http_scope())
    assert guard.outcomes == ["done"]


def test_background_tasks_hold_the_ticket() -> None:
    """What runs after the answer needs memory too: the ticket stays open until it has ended."""
    guard, during = FakeGuard(), []

    async def later() -> None:
        during.append(list(guard.outcomes))

    app = cast("App", PlainTextResponse("ok", background=BackgroundTask(later)))
    _run(_protected(app, guard), _http_scope())
    assert during == [[]]
    assert guard.outcomes == ["done"]


def test_a_background_task_that_fails_is_failed_not_done() -> None:
    """An error after the answer still closes the ticket as failed."""

    async def later() -> None:
        raise LookupError("after the answer")

    guard = FakeGuard()
    app = cast("App", PlainTextResponse("ok", background=BackgroundTask(later)))
    with pytest.raises(LookupError):
        _run(_protected(app, guard), _http_scope())
    assert guard.outcomes == ["failed"]


# --- with FastAPI and a real guard -------------------------------------------------------------------------------


class Gauge:
    """A probe that reads what it is told to."""

    source = "a gauge"

    def __init__(self) -> None:
        self.used_bytes = 10 * MIB

    def read(self) -> int:
        return self.used_bytes

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture
def gauge() -> Gauge:
    """A gauge at 10 MiB."""
    return Gauge()


@pytest.fixture
def guard(gauge: Gauge) -> Guard:
    """A guard of 100 MiB that looks only when it is told to."""
    guard = Guard(limit=100 * MIB, probe=gauge, roster=Roster(), clock=lambda: 1.0)
    guard.tick()
    return guard


def _make_site(guard: Guard) -> FastAPI:
    """An application with a mounted one, both behind the same guard."""
    site, inner = FastAPI(), FastAPI()

    @site.post("/work")
    async def work(request: Request) -> dict[str, int]:
        return {"running": guard.snapshot.running, "bytes": len(await request.body())}

    @site.get("/livez")
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @inner.get("/stream")
    async def stream() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for piece in (b"a", b"b", b"c"):
                yield piece

        return StreamingResponse(pieces())

    inner.add_middleware(MemguardMiddleware, guard=guard)
    site.mount("/inner", inner)
    site.add_middleware(MemguardMiddleware, guard=guard)
    return site


def _ask(site: FastAPI, *requests: tuple[str, str, bytes]) -> list[httpx.Response]:
    async def scenario() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=cast("Any", site))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [await client.request(method, path, content=body) for method, path, body in requests]

    return asyncio.run(scenario())


def test_a_real_guard_admits_and_forgets(guard: Guard) -> None:
    """At OK everything is served, and no ticket or promise is left."""
    answers = _ask(_make_site(guard), ("POST", "/work", b"x" * 100_000), ("GET", "/inner/stream", b""))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].text == "abc"
    guard.tick()
    assert (guard.snapshot.running, guard.snapshot.promised_bytes, guard.snapshot.refusals) == (0, 0, 0)


def test_a_real_guard_refuses_at_critical(guard: Guard, gauge: Gauge) -> None:
    """At CRITICAL work is refused, in a mounted application too, while a health path answers."""
    site = _make_site(guard)
    gauge.used_bytes = 92 * MIB
    guard.tick()
    assert guard.level is Level.CRITICAL
    paths = ("POST", "/work", b""), ("GET", "/inner/stream", b""), ("GET", "/livez", b"")
    answers = _ask(site, *paths)
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].json()["level"] == "CRITICAL"
    guard.tick()
    assert guard.snapshot.refusals == 2


def test_a_body_that_cannot_fit_is_refused_before_the_rung(guard: Guard) -> None:
    """20 MiB of JSON need 160 MiB of a limit of 100: 413 at OK, while small work is served."""
    answers = _ask(_make_site(guard), ("POST", "/work", b"x" * (20 * MIB)), ("POST", "/work", b"x"))
    assert [answer.status_code for answer in answers] == [413, 200]
