"""The WSGI middleware, and what Flask and Django make of it."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from memguard import AlreadyGuarding, Guard, Roster
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
    answer = app(environ, lambda status, headers: started.extend((status, dict(headers))))
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
