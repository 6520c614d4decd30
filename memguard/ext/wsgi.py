"""WSGI middleware: refuses requests whose memory would not fit; Flask and Django by their own conventions."""

from __future__ import annotations

import json
from random import random
from typing import TYPE_CHECKING, Any, Protocol

from memguard._core.costs import COLD_RATIO, SMALL_BODY_BYTES
from memguard.errors import AdmissionRefused, AlreadyGuarding
from memguard.units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memguard.admission import Ticket
    from memguard.guard import Guard
    from memguard.kinds import Outcome
    from memguard.operations import Operation

    Environ = dict[str, Any]
    StartResponse = Callable[..., Any]
    WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]
    GetResponse = Callable[[Any], Any]

__all__ = ["MemguardMiddleware", "Work", "django", "protect"]

_TICKET = "memguard.ticket"
_REASONS = {413: "413 Content Too Large", 503: "503 Service Unavailable"}


class _Flask(Protocol):
    wsgi_app: WsgiApp


class MemguardMiddleware:
    """Admits each request by the guard's last snapshot, or answers 503 with a problem object and a Retry-After.

    A request's body counts eight times its Content-Length; one without a length is admitted by the level alone. The
    ticket is closed when the server closes the answer, streamed ones included: done, or failed after an exception.
    Each request is an operation ("GET /users", the first part of its path: WSGI knows no routes).

    Args:
        app: the application.
        guard: whose gate decides; start it where the worker starts, after a fork.
        exempt: paths that are always served.
        wait_s: how long a request that does not fit may wait, in its thread, for room.
        cost: a function of the environ that says how many bytes a request will need, where you know better.

    Raises:
        TypeError: ``exempt`` is one string instead of several.
    """

    def __init__(
        self,
        app: WsgiApp,
        *,
        guard: Guard,
        exempt: Iterable[str] = ("/livez", "/readyz", "/healthz", "/health"),
        wait_s: float | str = 0.0,
        cost: Callable[[Environ], int | str | None] | None = None,
    ) -> None:
        if isinstance(exempt, str):
            raise TypeError(f"exempt={exempt!r} is one path: write it as ({exempt!r},)")
        self.app: WsgiApp = app
        self.guard: Guard = guard
        self.exempt: frozenset[str] = frozenset(exempt)
        self.wait_s: float = parse_seconds(wait_s)
        self._cost = cost

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        try:
            work = self.enter(environ)
        except AdmissionRefused as refused:
            status, headers, body = _refusal(refused)
            start_response(_REASONS[status], headers)
            return [body]
        if work is None:
            return self.app(environ, start_response)
        try:
            return _Answer(self.app(environ, start_response), work)
        except BaseException:
            work.end("failed")
            raise

    def enter(self, environ: Environ) -> Work | None:
        """Admit a request; None where it needs no leave.

        Raises:
            AdmissionRefused: it does not fit.
        """
        path, method = environ.get("PATH_INFO") or "/", environ["REQUEST_METHOD"]
        if path in self.exempt or _TICKET in environ:
            return None
        ticket = self.guard.admit(self._bytes(environ), label=f"{method} {path}", wait_s=self.wait_s)
        environ[_TICKET] = ticket
        operation = self.guard.operation(f"{method} /{path.lstrip('/').partition('/')[0]}")
        operation.start()
        return Work(ticket, operation)

    def _bytes(self, environ: Environ) -> int | None:
        """What a request will need, as far as it says."""
        if self._cost is not None:
            stated = self._cost(environ)
            if stated is not None:
                return parse_bytes(stated)
        length = environ.get("CONTENT_LENGTH") or ""
        # isdigit first: int() would take "-1" and "1_0"; 18 digits are an exabyte.
        announced = int(length) if length.isdigit() and len(length) <= 18 else 0  # noqa: PLR2004
        return COLD_RATIO * announced if announced > SMALL_BODY_BYTES else None


class Work:
    """One admitted request."""

    def __init__(self, ticket: Ticket, operation: Operation) -> None:
        self._ticket = ticket
        self._operation = operation

    def end(self, outcome: Outcome) -> None:
        """Give the promise back; only the first end counts."""
        self._ticket.close(outcome)
        self._operation.end(outcome)


class _Answer:
    """An application's answer; its end is the request's."""

    def __init__(self, answer: Iterable[bytes], work: Work) -> None:
        self._answer = answer
        self._work = work
        self._outcome: Outcome = "done"

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._answer
        except Exception:
            self._outcome = "failed"
            raise
        self._work.end("done")

    def close(self) -> None:
        """Let the application close its answer, and give the promise back (PEP 3333)."""
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        except BaseException:
            self._outcome = "failed"
            raise
        finally:
            self._work.end(self._outcome)


def _refusal(refused: AdmissionRefused) -> tuple[int, list[tuple[str, str]], bytes]:
    """503, or 413 when it can never fit; waits are spread, or all would come at once."""
    problem, retry_s = refused.answer(random())  # noqa: S311 - a spread, no secret
    headers = [("Content-Type", "application/problem+json")]
    if retry_s is not None:
        headers.append(("Retry-After", str(retry_s)))
    body = json.dumps(problem).encode()
    headers.append(("Content-Length", str(len(body))))
    return 413 if refused.never else 503, headers, body


def protect(app: _Flask, guard: Guard, **options: Any) -> None:  # noqa: ANN401 - as the middleware has them
    """Put a guard in front of a Flask application: its ``wsgi_app`` is wrapped, as Flask's documentation has it.

    Raises:
        AlreadyGuarding: it is protected already.
    """
    if isinstance(app.wsgi_app, MemguardMiddleware):
        raise AlreadyGuarding("this application is protected already: call protect() once")
    app.wsgi_app = MemguardMiddleware(app.wsgi_app, guard=guard, **options)


def django(guard: Guard, **options: Any) -> Callable[[GetResponse], GetResponse]:  # noqa: ANN401 - as above
    """Django middleware over a guard; name what it returns in ``MIDDLEWARE``, first of all.

    ``options`` are ``exempt``, ``wait_s`` and ``cost`` (of ``request.META``), as in ``MemguardMiddleware``. The ticket
    is closed when the answer is, streamed ones included.
    """
    judge = MemguardMiddleware(_nothing, guard=guard, **options)

    def middleware(get_response: GetResponse) -> GetResponse:
        def admitted(request: Any) -> Any:  # noqa: ANN401 - Django's request and response
            try:
                work = judge.enter(request.META)
            except AdmissionRefused as refused:
                from django.http import HttpResponse  # noqa: PLC0415 - only where Django is

                status, headers, body = _refusal(refused)
                return HttpResponse(body, status=status, headers=dict(headers))
            if work is None:
                return get_response(request)
            try:
                response = get_response(request)
            except BaseException:
                work.end("failed")
                raise
            close = response.close

            def closed() -> None:
                try:
                    close()
                finally:
                    work.end("failed" if response.status_code >= 500 else "done")  # noqa: PLR2004 - Django's own 500

            response.close = closed
            return response

        return admitted

    return middleware


def _nothing(_environ: Environ, _start_response: StartResponse) -> Iterable[bytes]:
    return ()
