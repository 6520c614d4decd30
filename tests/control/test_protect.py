"""protect(): one call, and an application has a guard; everything it had before is as it was."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
import weakref
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import memguard
from memguard import AlreadyGuarding, Guard, Roster, RulesError
from memguard.ext.fastapi import protect
from tests.control.asking import API, ask, client, fake_guard, protected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def _guard() -> Guard:
    return Guard(limit="4GiB", roster=Roster())


def _local(app: Any) -> TestClient:
    return TestClient(app, base_url="http://localhost:8000", client=("127.0.0.1", 4000))


def _types(guard: Guard) -> list[str]:
    return [row.type for row in guard.operations.ended()]


# --- life -------------------------------------------------------------------------------------------------------------


def test_the_guard_lives_with_the_application() -> None:
    """It starts before the application's own lifespan begins, and stops after that has ended; its state is kept."""
    guard, seen = _guard(), list[object]()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, int]]:
        seen.append(guard.running)
        yield {"answer": 42}
        seen.append(guard.running)

    app = protect(FastAPI(lifespan=lifespan), guard)
    with _local(app) as line:
        assert guard.running
        assert line.get(f"{API}/monitoring/memory").json()["running"]
        assert line.app_state["answer"] == 42
    assert seen == [True, True]
    assert not guard.running


def test_a_guard_that_runs_is_left_running() -> None:
    """Who started it stops it."""
    with _guard() as guard:
        with _local(protect(FastAPI(), guard)):
            assert guard.running
        assert guard.running


def test_several_applications_share_a_guard() -> None:
    """It runs until the last of them has ended."""
    guard = _guard()
    one, two = protect(FastAPI(), guard), protect(FastAPI(), guard)
    with _local(one):
        with _local(two):
            assert guard.running
        assert guard.running
    assert not guard.running


def test_an_application_that_fails_to_start_leaves_no_guard() -> None:
    """A lifespan that raises is not hidden, and the guard is stopped."""
    guard = _guard()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        raise LookupError("no database")
        yield

    with pytest.raises(LookupError, match="no database"), _local(protect(FastAPI(lifespan=lifespan), guard)):
        pass
    assert not guard.running


def test_it_starts_again() -> None:
    """A client that is opened twice, as tests do, finds a guard that runs each time."""
    guard = _guard()
    app = protect(FastAPI(), guard)
    for _ in range(2):
        with _local(app) as line:
            assert line.get("/readyz").status_code == 200
            assert guard.running


def test_a_guard_that_nobody_started_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Where no lifespan runs, the first request says in the log that nothing is guarded; the API says it too."""
    app = protect(FastAPI(), _guard())
    for _ in range(2):
        found = asyncio.run(ask(app, "GET", f"{API}/monitoring/memory")).json()
    assert not found["running"]
    assert found["used_mb"] is None
    (said,) = [record.getMessage() for record in caplog.records if "does not run" in record.getMessage()]
    assert "start the guard yourself" in said


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_once_is_enough() -> None:
    """A second call, by the same or another guard, is refused in clear words."""
    guard = _guard()
    app = protect(FastAPI(), guard)
    with pytest.raises(AlreadyGuarding, match="by this guard"):
        protect(app, guard)
    with pytest.raises(AlreadyGuarding, match="another guard"):
        protect(app, _guard())


def test_too_late() -> None:
    """An application that serves already is not protected any more."""
    app = FastAPI()
    asyncio.run(ask(app, "GET", "/"))
    with pytest.raises(AlreadyGuarding, match="before it starts"):
        protect(app, _guard())


@pytest.mark.parametrize(
    "wrong",
    [{"prefix": "api"}, {"prefix": "/a/{b}"}, {"page": "memguard"}, {"livez": "/"}, {"readyz": "ready"}],
    ids=str,
)
def test_paths_that_are_none(wrong: dict[str, str]) -> None:
    """A path that cannot be meant is refused with its name and the mend."""
    with pytest.raises(RulesError, match=next(iter(wrong))):
        protect(FastAPI(), _guard(), **wrong)  # type: ignore[arg-type]


def test_other_applications() -> None:
    """What is neither FastAPI nor Starlette is told of the middleware."""
    with pytest.raises(TypeError, match="MemguardMiddleware"):
        protect(object(), _guard())  # type: ignore[type-var]


# --- probes and the gate ----------------------------------------------------------------------------------------------


def test_ready_as_long_as_work_is_taken() -> None:
    """At CRITICAL requests are refused and /readyz says 503; /livez, the API and the page answer as before."""
    guard, memory, clock = fake_guard()
    app = protected(guard=guard)

    async def run() -> None:
        async with client(app) as line:
            assert (await line.get("/work/1")).status_code == 200
            assert (await line.get("/readyz")).status_code == 200
            memory.grow(990 << 20)
            clock.advance(1.0)
            guard.tick()
            assert guard.level == memguard.Level.EMERGENCY
            refused = await line.get("/work/1")
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            not_ready = await line.get("/readyz")
            assert not_ready.status_code == 503
            assert not_ready.json()["level"] == "EMERGENCY"
            for path in ("/livez", "/memguard", f"{API}/monitoring/memory", f"{API}/monitoring/memory/top"):
                assert (await line.get(path)).status_code == 200

    asyncio.run(run())


def test_a_guard_that_only_observes_is_always_ready() -> None:
    """In the mode "observe" nothing is refused, so nothing is unready."""
    guard, memory, clock = fake_guard(mode="observe")
    memory.grow(990 << 20)
    clock.advance(1.0)
    guard.tick()
    assert asyncio.run(ask(protected(guard=guard), "GET", "/readyz")).status_code == 200


def test_probes_of_its_own() -> None:
    """Probes that the application has already stay its own, and pass the gate too; None leaves them out."""
    app = FastAPI()

    @app.get("/livez")
    async def own() -> str:
        return "mine"

    guard, memory, clock = fake_guard()
    protect(app, guard, readyz=None, page=None)
    memory.grow(990 << 20)
    clock.advance(1.0)
    guard.tick()
    assert asyncio.run(ask(app, "GET", "/livez")).json() == "mine"
    for path in ("/readyz", "/memguard"):
        assert asyncio.run(ask(app, "GET", path)).status_code == 503, "not ours: a path like any other"


# --- routes -----------------------------------------------------------------------------------------------------------


def test_requests_are_operations_by_template() -> None:
    """Each request is an operation called by its route's template, in routers and mounts too; strangers share one."""
    app, inner, router = FastAPI(), FastAPI(), APIRouter()

    @router.get("/users/{name}")
    async def user(name: str) -> str:
        return name

    @inner.get("/things/{number}")
    async def thing(number: int) -> int:
        return number

    app.include_router(router, prefix="/v2")
    app.mount("/inner", inner)
    guard, _, _ = fake_guard()
    protect(app, guard)

    async def run() -> None:
        async with client(app) as line:
            for path in ("/v2/users/ada", "/v2/users/bob", "/inner/things/7", "/nowhere", f"{API}/monitoring/memory"):
                await line.get(path)

    asyncio.run(run())
    assert sorted(_types(guard)) == [
        "GET (no route)", "GET /inner/things/{number}", "GET /v2/users/{name}", "GET /v2/users/{name}",
    ]  # fmt: skip


def test_a_failure_is_a_failed_operation() -> None:
    """An exception passes through, and the operation is "failed"."""
    app = FastAPI()

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("a bug")

    guard, _, _ = fake_guard()
    protect(app, guard)
    assert asyncio.run(ask(app, "GET", "/broken")).status_code == 500
    assert [(row.type, row.status) for row in guard.operations.ended()] == [("GET /broken", "failed")]


def test_ended_operations_keep_no_request() -> None:
    """The last operations are kept for those who ask; their requests are not."""
    guard, _, _ = fake_guard()
    app = protected(guard=guard)
    held: list[weakref.ref[Any]] = []

    async def outside(scope: Any, receive: Any, send: Any) -> None:
        scope["mark"] = mark = type("Mark", (), {})()
        held.append(weakref.ref(mark))
        await app(scope, receive, send)
        del scope["mark"]

    async def twice() -> None:
        for _ in range(2):  # one that is read, one that passes
            await ask(outside, "GET", "/work/1")

    asyncio.run(twice())
    assert len(guard.operations.ended()) == 2
    gc.collect()
    assert [ref() for ref in held] == [None, None]


def test_websockets_are_counted() -> None:
    """Open ones, messages and bytes by template; those refused, too."""
    app = FastAPI()

    @app.websocket("/talk/{name}")
    async def talk(socket: WebSocket, name: str) -> None:
        if name == "eve":
            await socket.close()
            return
        await socket.accept()
        await socket.send_text(await socket.receive_text() + "!")
        with suppress(WebSocketDisconnect):
            await socket.receive_text()

    guard = _guard()
    protect(app, guard)
    with _local(app) as line:
        with line.websocket_connect("/talk/ada") as socket:
            socket.send_text("hé")
            assert socket.receive_text() == "hé!"
            found = line.get(f"{API}/monitoring/websocket/stats").json()
            (row,) = found["paths"]
            assert row == {
                "path": "/talk/{name}", "open": 1, "opened": 1, "refused": 0, "messages_in": 1, "messages_out": 1,
                "bytes_in": 3, "bytes_out": 4, "queued_bytes": 0,
            }  # fmt: skip
        with pytest.raises(Exception), line.websocket_connect("/talk/eve"):  # noqa: B017, PT011 - whatever it says
            pass
        (row,) = line.get(f"{API}/monitoring/websocket/stats").json()["paths"]
        assert (row["open"], row["refused"]) == (0, 1)


def test_starlette() -> None:
    """A Starlette application has it all, before a route for everything."""
    app = Starlette(routes=[Route("/{rest:path}", lambda _: PlainTextResponse("mine"))])
    guard, _, _ = fake_guard()
    protect(app, guard, local_actions=True)

    async def run() -> None:
        async with client(app) as line:
            assert (await line.get("/anything")).text == "mine"
            assert (await line.get("/livez")).json() == {"status": "alive"}
            assert (await line.get(f"{API}/monitoring/memory")).json()["limit_mb"] == 1024
            assert (await line.post(f"{API}/system/gc")).json()["mode"] == "full"
            assert (await line.post("/admin/clear-cache")).status_code == 200
            assert (await line.get(f"{API}/monitoring/memory?x=1")).status_code == 200
            assert "<title>memguard" in (await line.get("/memguard")).text

    asyncio.run(run())


def test_below_a_root() -> None:
    """Behind a prefix that a proxy strips, and mounted in another application, paths are the same below the root."""
    inner = protected(prefix="/ops", page="/ops/page")
    outer = Starlette(routes=[Mount("/service", app=inner)])

    async def run() -> None:
        async with client(outer) as line:
            assert (await line.get("/service/ops/monitoring/memory")).status_code == 200
            assert (await line.get("/service/livez")).status_code == 200
            page = (await line.get("/service/ops/page")).text
            assert "&quot;api&quot;: &quot;.&quot;" in page, "relative to where the page is"
            assert (await line.get("/service/work/3")).json() == 3
            refused = await line.post("/service/ops/system/gc")
            assert refused.status_code == 403

    asyncio.run(run())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FastAPI's newest would have the server say it
        rooted = FastAPI(root_path="/stripped")
    guard, _, _ = fake_guard()
    protect(rooted, guard)
    assert asyncio.run(ask(rooted, "GET", f"{API}/monitoring/memory")).status_code == 200
    assert asyncio.run(ask(rooted, "POST", f"{API}/system/gc")).status_code == 403


def test_a_part_may_be_protected_by_itself() -> None:
    """A mounted application has a control API of its own, also inside of one that is protected by the same guard."""
    guard, _, _ = fake_guard()
    inner = protected(guard=guard)
    outer = protected(guard=guard)
    outer.mount("/part", inner)
    assert asyncio.run(ask(outer, "GET", f"/part{API}/monitoring/memory")).status_code == 200
    assert asyncio.run(ask(outer, "GET", "/part/work/3")).json() == 3
    assert not guard.gate.open


def test_without_the_door_nobody_is_answered() -> None:
    """Our routes taken out and served by another application answer nobody."""
    app = protected(local_actions=True)
    naked = Starlette(routes=list(app.router.routes))
    for method, path in (("GET", f"{API}/monitoring/memory"), ("POST", f"{API}/system/gc")):
        answer = asyncio.run(ask(naked, method, path))
        assert answer.status_code in {403, 500}, answer.text


def test_the_api_is_documented() -> None:
    """Every route stands in the application's OpenAPI under the tag "memguard", with a typed answer."""
    app = protected()
    paths = app.openapi()["paths"]
    ours = {
        path: operation
        for path, methods in paths.items()
        for operation in methods.values()
        if operation.get("tags") == ["memguard"]
    }
    assert len(ours) >= 22
    assert "/work/{number}" not in ours
    for path, operation in ours.items():
        content = operation["responses"]["200"]["content"]
        assert any("$ref" in each["schema"] or each["schema"].get("type") == "string" for each in content.values()), (
            path
        )
        assert "application/problem+json" in operation["responses"]["422"]["content"]


def test_several_at_once_with_the_rest_of_the_framework() -> None:
    """Errors of the application's own routes look as they did before."""
    app = protected()
    answer = asyncio.run(ask(app, "GET", "/work/none"))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"
    assert isinstance(answer.json()["detail"], list)


@pytest.fixture(scope="module")
def shared() -> Iterator[FastAPI]:
    """An application with a pool, for those who change nothing."""
    guard, _, _ = fake_guard()
    pool: Any = guard.pool("agents")
    yield protected(guard=guard, local_actions=True)
    pool.close()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("metrics/memory?duration=∞", "duration"), ("metrics/memory?duration=-1h", "duration"),
        ("metrics/memory?duration=1e308", "duration"), ("metrics/memory?duration=0", "duration"),
        ("metrics/memory?duration=1h&interval=2h", "interval"), ("metrics/memory?duration=1h&interval=0", "interval"),
        ("metrics/memory?duration=inf", "duration"), ("metrics/memory?duration=nan", "duration"),
        ("metrics/memory?duration=9999999d", "duration"), ("metrics/memory?duration=90d&interval=1ms", "interval"),
        ("metrics/memory?duration=", "duration"), ("metrics/memory?duration=1 h", "duration"),
        ("metrics/memory/trend?duration=x", "duration"), ("operations?duration_gt=-1", "duration_gt"),
        ("operations?status=sleeping", "status"), ("operations?limit=0", "limit"), ("operations?offset=-1", "offset"),
        ("agents/memory?limit=99999999", "limit"), ("memory/top?limit=x", "limit"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(shared: FastAPI, path: str, named: str) -> None:
    """A parameter that cannot be meant is 422 with its name, as a problem object."""
    answer = asyncio.run(ask(shared, "GET", f"{API}/monitoring/{path}"))
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert named in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "system/agents/pool", '{"max_size": -1}'), ("POST", "system/agents/pool", '{"max_size": "50"}'),
        ("POST", "system/agents/pool", '{"max_size": true}'), ("POST", "system/agents/pool", "{}"),
        ("POST", "system/agents/pool", "[]"), ("POST", "agents/gc", '{"mode": "hardest"}'),
        ("PUT", "system/config", '{"belief_compression": "yes"}'), ("PUT", "system/config", "null"),
        ("PUT", "system/config", '{"belief_size_limit_mb": NaN}'),
        ("PUT", "system/config", '{"belief_size_limit_mb": 0}'),
        ("PUT", "system/config", '{"belief_size_limit_mb": 1e308}'), ("PUT", "system/config", "{"),
    ],
)  # fmt: skip
def test_orders_that_cannot_be_meant(method: str, path: str, body: str) -> None:
    """An order that cannot be meant is 422, and nothing is done."""
    guard, _, _ = fake_guard()
    app = protected(guard=guard, local_actions=True)
    pool: Any = guard.pool("agents")
    answer = asyncio.run(ask(app, method, f"{API}/{path}", content=body, headers={"content-type": "application/json"}))
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert pool.max_size == 100


def test_a_pool_that_is_not_there() -> None:
    """Without a pool, or with another name, 404 says which there are."""
    guard, _, _ = fake_guard()
    app = protected(guard=guard, local_actions=True)
    path = f"{API}/system/agents/pool"
    none = asyncio.run(ask(app, "POST", path, json={"max_size": 5}))
    pool: Any = guard.pool("agents")
    other = asyncio.run(ask(app, "POST", path, json={"max_size": 5, "pool": "others"}))
    assert (none.status_code, other.status_code, pool.max_size) == (404, 404, 100)
    assert "agents" in other.json()["detail"]


def test_pages_of_a_list() -> None:
    """Limit and offset walk through a long list without a gap."""
    guard, _, _ = fake_guard()
    app = protected(guard=guard)
    pool: Any = guard.pool("agents")
    for number in range(25):
        pool[f"a{number}"] = object()

    async def run() -> list[str]:
        async with client(app) as line:
            pages = [
                (await line.get(f"{API}/monitoring/agents/memory?limit=10&offset={offset}")).json()
                for offset in (0, 10, 20, 30)
            ]
        assert {page["total"] for page in pages} == {25}
        return [row["id"] for page in pages for row in page["agents"]]

    assert sorted(asyncio.run(run())) == sorted(f"a{number}" for number in range(25))


def test_an_engine_is_reset() -> None:
    """Idle connections of a registered engine are closed, however it was registered."""
    alchemy = pytest.importorskip("sqlalchemy")
    # Reset in a thread of the API's: one that SQLite lets close it.
    threads = {"check_same_thread": False}
    engine = alchemy.create_engine("sqlite://", poolclass=alchemy.pool.QueuePool, connect_args=threads)
    with engine.connect():
        pass
    assert engine.pool.checkedin() == 1
    guard, _, _ = fake_guard()
    app = protected(guard=guard, local_actions=True, engines=(engine,))
    found = asyncio.run(ask(app, "POST", f"{API}/system/db/pool/reset")).json()["engines"]
    assert (found[0]["open_before"], found[0]["open_after"]) == (1, 0)
    other, _, _ = fake_guard()
    other.cache(engine, name="db")
    again = asyncio.run(ask(protected(guard=other, local_actions=True), "POST", f"{API}/system/db/pool/reset"))
    assert [row["name"] for row in again.json()["engines"]] == ["db"]
    engine.dispose()


def test_a_cache_that_cannot_be_cleared_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """One broken cache is named with its error; the others are cleared."""
    caplog.set_level(logging.CRITICAL)

    class Broken(dict[str, int]):
        def pop(self, *_: object) -> int:
            raise RuntimeError("no")

        def popitem(self) -> tuple[str, int]:
            raise RuntimeError("no")

    guard, _, _ = fake_guard()
    broken, sound = Broken(a=1), {"b": 2}
    guard.cache(broken, name="broken")
    guard.cache(sound, name="sound")
    found = asyncio.run(ask(protected(guard=guard, local_actions=True), "POST", "/admin/clear-cache"))
    rows = {row["name"]: row for row in found.json()["caches"]}
    assert rows["sound"]["entries"] == 1
    assert not sound
    assert rows["broken"]["error"] or rows["broken"]["entries"] == 0


@pytest.mark.parametrize(("method", "path"), [("DELETE", f"{API}/monitoring/memory"), ("POST", "/livez")])
def test_another_method_is_a_problem(method: str, path: str) -> None:
    """405 on a path of ours is a problem object, like every other error, and says which methods there are."""
    answer = asyncio.run(ask(protected(local_actions=True), method, path))
    assert (answer.status_code, answer.headers["content-type"]) == (405, "application/problem+json")
    assert "GET" in answer.headers["allow"]
    assert "GET" in answer.json()["detail"]


def test_of_frequent_requests_a_sample_is_read() -> None:
    """All are counted and timed; memory is read for ten a second of a kind, and the rest take their mean."""
    guard, _, clock = fake_guard()
    readings = iter(range(0, 1 << 40, 1 << 20))
    guard.operations._read = lambda: next(readings)
    app = FastAPI()

    @app.get("/work/{number}")
    async def work(number: int) -> None:
        clock.advance(0.02)

    protect(app, guard)

    async def many() -> None:
        for number in range(50):
            await ask(app, "GET", f"/work/{number % 10}")

    asyncio.run(many())
    (row,) = guard.operations.stats()
    assert (row.type, row.count) == ("GET /work/{number}", 50)
    assert row.sampled == 10
    assert row.memory_mean_bytes == 1 << 20  # two readings each, and each reading is a MiB more
    assert row.memory_total_bytes == 50 << 20
    assert guard.operations.completed == 50
    rows = asyncio.run(ask(app, "GET", f"{API}/monitoring/operations")).json()["operations"]
    assert len(rows) == 50
    assert [each["memory_sampled"] for each in rows].count(True) == 10
    assert {each["memory_delta_mb"] for each in rows} == {1.0}
    assert len({each["id"] for each in rows}) == 50


def test_a_request_that_lasts_is_read() -> None:
    """A request that passes at first is listed while it runs, and read from its first second on."""
    app, (guard, _, clock) = FastAPI(), fake_guard()
    used = [100]
    guard.operations._read = lambda: used[0]
    seen: list[tuple[bool, int]] = []

    @app.get("/long")
    async def long(last: int = 0) -> None:
        if last:
            for seconds in (0.1, 2.0):
                clock.advance(seconds)
                (row,) = guard.operations.running(type="GET /long")
                seen.append((row.sampled, row.memory_delta_bytes))
            clock.advance(5.0)
            used[0] = 700

    protect(app, guard)

    async def both() -> None:
        await ask(app, "GET", "/long")
        await ask(app, "GET", "/long?last=1")

    asyncio.run(both())
    last, first = guard.operations.ended()
    assert (first.sampled, last.sampled) == (True, True)
    assert [sampled for sampled, _ in seen] == [False, True]
    assert last.memory_delta_bytes == 600
    assert last.duration_s == pytest.approx(7.1)


def test_work_inside_of_a_request_that_passes_is_measured() -> None:
    """An operation inside of a request that was not read has its growth to itself, and the request has it too."""
    app, (guard, _, clock) = FastAPI(), fake_guard()
    used = [100]
    guard.operations._read = lambda: used[0]

    @app.get("/agent")
    async def agent() -> None:
        with guard.operation("agent.run"):
            clock.advance(0.01)
            used[0] += 50

    protect(app, guard)

    async def thrice() -> None:
        for _ in range(3):
            await ask(app, "GET", "/agent")

    asyncio.run(thrice())
    deltas = [(row.type, row.memory_delta_bytes) for row in guard.operations.ended() if row.sampled]
    assert deltas.count(("agent.run", 50)) == 3
    assert deltas.count(("GET /agent", 50)) == 3
    assert guard.operations.unattributed_bytes == 0
