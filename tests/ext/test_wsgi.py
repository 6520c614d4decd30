"""The WSGI middleware, and what Flask and Django make of it."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from memguard import AlreadyGuarding, Guard, Pool, Roster
from memguard.ext.wsgi import MemguardMiddleware, django, protect
from memguard.testing import FakeClock, FakeMemory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def _guard(*, full: bool = False) -> Guard:
    clock = FakeClock()
    memory = FakeMemory(clock, base_bytes="990MiB" if full else "100MiB")
    guard = Guard(limit="1GiB", probe=memory, clock=clock, roster=Roster())
    guard.tick()
    return guard


def _environ(path: str = "/work/7", *, method: str = "GET", length: int | str = "") -> dict[str, Any]:
    return {"PATH_INFO": path, "REQUEST_METHOD": method, "CONTENT_LENGTH": str(length), "wsgi.input": io.BytesIO()}


def _call(app: Any, environ: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
    """As a server does: start, read, close."""
    started: list[Any] = []
    answer = app(environ, lambda status, headers, *_error: started.extend((status, dict(headers))))
    try:
        body = b"".join(answer)
    finally:
        close = getattr(answer, "close", None)
        if close is not None:
            close()
    return started[0], started[1], body


def _hello(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


def test_a_request_is_admitted_and_ends() -> None:
    """It is answered, its ticket closed, and it is an operation."""
    guard = _guard()
    app = MemguardMiddleware(_hello, guard=guard)
    assert _call(app, _environ())[::2] == ("200 OK", b"hello")
    assert not guard.gate.open
    assert [(row.type, row.status) for row in guard.operations.ended()] == [("GET /work", "done")]


def test_a_request_is_refused() -> None:
    """When memory is short it gets 503, a Retry-After and a problem object; health paths are served."""
    app = MemguardMiddleware(_hello, guard=_guard(full=True))
    status, headers, body = _call(app, _environ())
    assert status == "503 Service Unavailable"
    assert int(headers["Retry-After"]) >= 1
    assert headers["Content-Type"] == "application/problem+json"
    assert int(headers["Content-Length"]) == len(body)
    assert json.loads(body)["level"] == "EMERGENCY"
    assert _call(app, _environ("/livez"))[0] == "200 OK"


def test_a_body_counts() -> None:
    """A body that cannot fit, eight times its length, is 413; one without a length is admitted by the level."""
    app = MemguardMiddleware(_hello, guard=_guard())
    assert _call(app, _environ(method="POST", length=900 << 20))[0] == "413 Content Too Large"
    assert _call(app, _environ(method="POST", length=1000))[0] == "200 OK"
    for odd in ("-1", "1_0", "x", "9" * 40):
        assert _call(app, _environ(method="POST", length=odd))[0] == "200 OK"


def test_a_cost_that_is_stated_counts() -> None:
    """cost= says what a request needs, None leaves it to the body."""
    app = MemguardMiddleware(
        _hello, guard=_guard(), cost=lambda environ: "2GiB" if "x" in environ["PATH_INFO"] else None
    )
    assert _call(app, _environ("/x"))[0] == "413 Content Too Large"
    assert _call(app, _environ("/y"))[0] == "200 OK"


def _reads(take: Any) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        count = len(take(environ["wsgi.input"]))
        start_response("200 OK", [])
        return [b"%d" % count]

    return app


@pytest.mark.parametrize(
    "take",
    [lambda body: body.read(), lambda body: body.read(1 << 30), lambda body: b"".join(body.readlines()),
     lambda body: b"".join(list(body)), lambda body: b"".join(iter(body.readline, b""))],
    ids=["all", "much", "lines", "iterated", "line"],
)  # fmt: skip
def test_a_body_without_a_length_is_charged_as_it_is_read(take: Any) -> None:
    """It is read whole while it fits; a bomb is refused, however it is read, and its promise given back."""
    guard = _guard()
    app = MemguardMiddleware(_reads(take), guard=guard)
    environ = _environ(method="POST") | {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    status, _, body = _call(app, environ | {"wsgi.input": io.BytesIO(b"x" * 99 + b"\n" * 1_000_000)})
    assert (status, body) == ("200 OK", b"1000099")
    bomb = io.BytesIO((b"x" * 999_999 + b"\n") * 150)
    status, _, body = _call(app, environ | {"wsgi.input": bomb})
    assert status.startswith(("503", "413"))
    assert "refused" in json.loads(body)["detail"]
    assert guard.gate.promised_bytes == 0
    assert not guard.gate.open


def test_a_bomb_is_not_read_to_its_end() -> None:
    """Who asks for all of it is stopped at what fits."""
    guard = _guard()
    bomb = io.BytesIO(bytes(1 << 20) * 200)
    app = MemguardMiddleware(_reads(lambda body: body.read()), guard=guard)
    environ = _environ(method="POST") | {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": bomb}
    assert _call(app, environ)[0].startswith("503")
    assert bomb.tell() < 130 << 20


def test_priorities() -> None:
    """By a header or by a function: sheddable work goes first, critical work last; other words are normal."""
    clock = FakeClock()
    guard = Guard(limit="1GiB", probe=FakeMemory(clock, base_bytes="850MiB"), clock=clock, roster=Roster())
    guard.tick()
    by_header = MemguardMiddleware(_hello, guard=guard, priority="x-priority")
    by_path = MemguardMiddleware(_hello, guard=guard, priority=lambda environ: environ["PATH_INFO"][1:])
    for word, status in (("sheddable", "503"), ("normal", "200"), ("critical", "200"), ("other", "200")):
        assert _call(by_header, _environ() | {"HTTP_X_PRIORITY": word.upper()})[0].startswith(status)
        assert _call(by_path, _environ(f"/{word}"))[0].startswith(status)
    assert _call(by_header, _environ())[0].startswith("200")


def test_a_budget() -> None:
    """What has no room in the budget that it belongs to is refused, whatever is left elsewhere."""
    guard = _guard()
    guard.budget("uploads", "1MiB")
    app = MemguardMiddleware(_hello, guard=guard, budget=lambda environ: "uploads")
    assert _call(app, _environ(method="POST", length=100_000))[0].startswith("200")
    assert _call(app, _environ(method="POST", length=1_000_000))[0].startswith("413")


def test_streams_end_when_they_are_closed() -> None:
    """A ticket is open while an answer is streamed, and closed with it, read to its end or not."""
    guard = _guard()
    closed: list[bool] = []

    class Stream:
        def __iter__(self) -> Iterator[bytes]:
            yield b"a"
            yield b"b"

        def close(self) -> None:
            closed.append(True)

    app = MemguardMiddleware(lambda *_: Stream(), guard=guard)
    answer: Any = app(_environ(), lambda *_: None)
    assert next(iter(answer)) == b"a"
    assert len(guard.gate.open) == 1
    answer.close()
    assert not guard.gate.open
    assert closed == [True]


@pytest.mark.parametrize("late", [False, True])
def test_failures_pass_through(late: bool) -> None:
    """An exception, at once or in the middle of a stream, is the server's, and the request has failed."""
    guard = _guard()

    def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def stream() -> Iterator[bytes]:
            yield b"a"
            raise ValueError("a bug")

        if not late:
            raise ValueError("a bug")
        return stream()

    with pytest.raises(ValueError, match="a bug"):
        _call(MemguardMiddleware(broken, guard=guard), _environ())
    assert not guard.gate.open
    assert guard.operations.ended()[0].status == "failed"


def test_one_path_is_no_list() -> None:
    """exempt="/livez" would exempt letters."""
    with pytest.raises(TypeError, match="exempt"):
        MemguardMiddleware(_hello, guard=_guard(), exempt="/livez")


def test_flask() -> None:
    """protect(app, guard) wraps a Flask application, once."""
    flask = pytest.importorskip("flask")
    app, guard = flask.Flask("service"), _guard()
    app.add_url_rule("/users/<name>", view_func=lambda name: name, endpoint="user")
    protect(app, guard)
    assert app.test_client().get("/users/ada").text == "ada"
    assert not guard.gate.open
    with pytest.raises(AlreadyGuarding, match="already"):
        protect(app, guard)
    full = flask.Flask("full")
    protect(full, _guard(full=True))
    assert full.test_client().get("/").status_code == 503


def test_django() -> None:
    """A middleware by Django's convention: admits, refuses, and closes with the answer."""
    pytest.importorskip("django")
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8")
    from django.http import HttpResponse
    from django.test import RequestFactory

    guard = _guard()
    seen: list[int] = []

    def view(request: Any) -> Any:
        seen.append(len(guard.gate.open))
        return HttpResponse(b"hello")

    response = django(guard)(view)(RequestFactory().get("/users/ada"))
    assert (response.content, seen) == (b"hello", [1])
    response.close()
    assert not guard.gate.open
    refused = django(_guard(full=True))(view)(RequestFactory().get("/"))
    assert refused.status_code == 503
    assert int(refused["Retry-After"]) >= 1
    assert django(_guard(full=True))(view)(RequestFactory().get("/livez")).status_code == 200


# --- behind a fuse ----------------------------------------------------------------------------------------------------


def _starves(*_: object) -> Any:
    raise MemoryError


def _fused() -> Guard:
    """A guard whose rules ask for a fuse; not started, so that none is armed in this process."""
    return Guard(limit="64GiB", roster=Roster(), fuse="force")


def test_a_memory_error_is_refused() -> None:
    """503 in place of an answer that has not begun; other errors, and guards without a fuse, let it pass."""
    guard = _fused()
    status, headers, body = _call(MemguardMiddleware(_starves, guard=guard), _environ())
    assert status == "503 Service Unavailable"
    assert int(headers["Retry-After"]) >= 1
    assert "more memory than is left" in json.loads(body)["detail"]
    assert [row.status for row in guard.operations.ended()] == ["failed"]
    assert not guard.gate.open
    with pytest.raises(MemoryError):
        _call(MemguardMiddleware(_starves, guard=_guard()), _environ())

    def breaks(*_: object) -> Any:
        raise LookupError

    with pytest.raises(LookupError):
        _call(MemguardMiddleware(breaks, guard=guard), _environ())


def test_a_memory_error_after_the_first_line() -> None:
    """The server is handed the error with the refusal, to judge whether anything was sent already (PEP 3333)."""
    seen: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        raise MemoryError

    def start_response(status: str, headers: list[tuple[str, str]], *error: Any) -> None:
        seen.append((status, *(each[0] for each in error)))

    MemguardMiddleware(app, guard=_fused())(_environ(), start_response)
    assert seen == [("200 OK",), ("503 Service Unavailable", MemoryError)]


def test_flask_behind_a_fuse() -> None:
    """Flask would answer 500 by itself; it is told to answer 503, and only of MemoryErrors."""
    flask = pytest.importorskip("flask")
    app = flask.Flask("starving")
    app.add_url_rule("/starves", view_func=_starves)
    app.add_url_rule("/breaks", "breaks", lambda: 1 // 0)
    protect(app, _fused())
    client = app.test_client()
    answer = client.get("/starves")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert client.get("/breaks").status_code == 500


def test_refusals_of_the_applications_own() -> None:
    """A full pool's, a feature's: 503 as at the gate, in Flask too; and no fuse is needed for that."""
    guard = _guard()
    pool: Pool[object] = guard.pool("agents", max_size=0)

    def full(*_: object) -> Any:
        pool.create("a", object)

    status, headers, body = _call(MemguardMiddleware(full, guard=guard), _environ())
    assert status == "503 Service Unavailable"
    assert int(headers["Retry-After"]) >= 1
    assert "pool 'agents' refused agent 'a'" in json.loads(body)["detail"]
    assert not guard.gate.open
    flask = pytest.importorskip("flask")
    app = flask.Flask("full")
    app.add_url_rule("/", view_func=full)
    protect(app, guard)
    answer = app.test_client().get("/")
    assert answer.status_code == 503
    assert "pool 'agents'" in answer.json["detail"]


def test_django_behind_a_fuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django hands a view's error to the middleware before it makes a 500 of it."""
    pytest.importorskip("django")
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8")
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import RequestFactory

    monkeypatch.setattr(settings, "MIDDLEWARE", [f"{__name__}._DJANGO"], raising=False)
    monkeypatch.setattr(settings, "ROOT_URLCONF", __name__, raising=False)
    answer = WSGIHandler().get_response(RequestFactory().get("/starves"))
    assert answer.status_code == 503
    assert answer["Retry-After"]
    answer.close()
    assert not _DJANGO_GUARD.gate.open


def __getattr__(name: str) -> Any:
    if name != "urlpatterns":
        raise AttributeError(name)
    from django.urls import path

    return [path("starves", _starves)]


_DJANGO_GUARD = _fused()
_DJANGO = django(_DJANGO_GUARD)
