"""WSGI middleware: refuses requests whose memory would not fit; Flask and Django by their own conventions."""

from __future__ import annotations

import functools
import json
import sys
from random import random
from typing import TYPE_CHECKING, Any, Protocol

from memguard._core.costs import COLD_RATIO, SMALL_BODY_BYTES
from memguard.errors import AdmissionRefused, AlreadyGuarding
from memguard.units import KIB, parse_bytes, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memguard.admission import Gate, Ticket
    from memguard.guard import Guard
    from memguard.kinds import Outcome, Priority
    from memguard.operations import Operation

    Environ = dict[str, Any]
    StartResponse = Callable[..., Any]
    WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]
    GetResponse = Callable[[Any], Any]

__all__ = ["MemguardMiddleware", "Work", "django", "protect"]

_TICKET = "memguard.ticket"
_PRIORITIES: dict[str, Priority] = {"critical": "critical", "normal": "normal", "sheddable": "sheddable"}
# A body of unknown length is read and charged in pieces of so much.
_PIECE_BYTES = 256 * KIB
# By one of them a server says that there is a body although nobody knows how long.
_UNENDING = frozenset({"HTTP_TRANSFER_ENCODING", "wsgi.input_terminated"})
_REASONS = {413: "413 Content Too Large", 503: "503 Service Unavailable"}


class _Flask(Protocol):
    wsgi_app: WsgiApp

    def register_error_handler(self, code_or_exception: type[Exception], f: Callable[..., Any], /) -> None: ...


class MemguardMiddleware:
    """Admits each request by the guard's last snapshot, or answers 503 with a problem object and a Retry-After.

    A request's body counts eight times its Content-Length; one without a length (chunked) is charged as it is read, and
    refused where it does not fit any more. The ticket is closed when the server closes the answer, streamed ones
    included: done, or failed after an exception. A refusal that the application itself meets (``PoolFull``,
    ``FeatureOff``, one of ``guard.admit``) and does not catch is answered in the same way; where the rules ask for a
    fuse, a MemoryError too.
    Each request is an operation ("GET /users", the first part of its path: WSGI knows no routes).

    Args:
        app: the application.
        guard: whose gate decides; start it where the worker starts, after a fork.
        exempt: paths that are always served.
        wait_s: how long a request that does not fit may wait, in its thread, for room.
        cost: a function of the environ that says how many bytes a request will need, where you know better.
        priority: a header's name, or a function of the environ, that says "critical", "normal" or "sheddable"; a client
            can write any header, so only name one that your proxy sets. None: all are normal.
        budget: a function of the environ that names the budget (``guard.budget``) whose room a request needs too.

    Raises:
        TypeError: ``exempt`` is one string instead of several.
    """

    def __init__(  # noqa: PLR0913 - each but the first two has a default
        self,
        app: WsgiApp,
        *,
        guard: Guard,
        exempt: Iterable[str] = ("/livez", "/readyz", "/healthz", "/health"),
        wait_s: float | str = 0.0,
        cost: Callable[[Environ], int | str | None] | None = None,
        priority: str | Callable[[Environ], str | None] | None = None,
        budget: Callable[[Environ], str | None] | None = None,
    ) -> None:
        if isinstance(exempt, str):
            raise TypeError(f"exempt={exempt!r} is one path: write it as ({exempt!r},)")
        self.app: WsgiApp = app
        self.guard: Guard = guard
        self.exempt: frozenset[str] = frozenset(exempt)
        self.wait_s: float = parse_seconds(wait_s)
        self._cost = cost
        self._header: str = f"HTTP_{priority.upper().replace('-', '_')}" if isinstance(priority, str) else ""
        self._priority: Callable[[Environ], str | None] | None = None if isinstance(priority, str) else priority
        self._budget = budget

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        try:
            work = self.enter(environ)
        except AdmissionRefused as refused:
            return _refuse(refused, start_response)
        if work is None:
            return self.app(environ, start_response)
        try:
            return _Answer(self.app(environ, start_response), work)
        except BaseException as error:
            work.end("failed")
            own = self.refusal(error)
            if own is None:
                raise
            return _refuse(own, start_response, sys.exc_info())

    def refusal(self, error: BaseException) -> AdmissionRefused | None:
        """The refusal that an error is, or that it stands for where the rules ask for a fuse; None: neither."""
        if isinstance(error, AdmissionRefused):
            return error
        if not self.guard.rules.fuse:
            return None
        from memguard.fuse.letting_go import out_of_memory  # noqa: PLC0415 - few have one

        return self.guard.memory_error(error) if out_of_memory(error) else None

    def enter(self, environ: Environ) -> Work | None:
        """Admit a request; None where it needs no leave.

        Raises:
            AdmissionRefused: it does not fit.
        """
        path, method = environ.get("PATH_INFO") or "/", environ["REQUEST_METHOD"]
        if path in self.exempt or _TICKET in environ:
            return None
        ticket = self.guard.admit(
            self._bytes(environ),
            label=f"{method} {path}",
            budget=None if self._budget is None else self._budget(environ),
            wait_s=self.wait_s,
            priority=self._rank(environ),
        )
        environ[_TICKET] = ticket
        if not environ.get("CONTENT_LENGTH") and not environ.keys().isdisjoint(_UNENDING):
            environ["wsgi.input"] = _Body(environ["wsgi.input"], self.guard.gate, ticket)
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

    def _rank(self, environ: Environ) -> Priority:
        """What the application says about this request; what is none of the words is normal."""
        said = environ.get(self._header, "") if self._header else None
        if self._priority is not None:
            said = self._priority(environ)
        return _PRIORITIES.get((said or "").strip().lower(), "normal")


class _Body:
    """A body without a length, charged as it is read; by pieces, also where all of it is wanted at once."""

    def __init__(self, source: Any, gate: Gate, ticket: Ticket) -> None:  # noqa: ANN401 - what the server gives
        self._source = source
        self._gate = gate
        self._ticket = ticket
        self._read_bytes = 0
        self._covered_bytes = SMALL_BODY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """So many bytes, or all.

        Raises:
            AdmissionRefused: it has become too long; the middleware answers that.
        """
        if size is not None and size >= 0:
            return self._counted(self._source.read(size))
        pieces: list[bytes] = []
        while piece := self._counted(self._source.read(_PIECE_BYTES)):
            pieces.append(piece)
        return b"".join(pieces)

    def readline(self, *size: int) -> bytes:
        """One line."""
        return self._counted(self._source.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        """All lines."""
        return [self._counted(line) for line in self._source.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        return (self._counted(line) for line in self._source)

    def _counted(self, piece: bytes) -> bytes:
        read = self._read_bytes = self._read_bytes + len(piece)
        if read > self._covered_bytes:
            covered, self._covered_bytes = self._covered_bytes, read + _PIECE_BYTES
            if not self._gate.charge(self._ticket, COLD_RATIO * (self._covered_bytes - covered)):
                raise self._gate.refusal(self._ticket, wanted_bytes=COLD_RATIO * read)
        return piece

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - what else a server's own has
        return getattr(self._source, name)


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


def _refuse(refused: AdmissionRefused, start_response: StartResponse, *error: object) -> list[bytes]:
    status, headers, body = _refusal(refused)
    start_response(_REASONS[status], headers, *error)
    return [body]


def protect(app: _Flask, guard: Guard, **options: Any) -> None:  # noqa: ANN401 - as the middleware has them
    """Put a guard in front of a Flask application: its ``wsgi_app`` is wrapped, as Flask's documentation has it.

    Raises:
        AlreadyGuarding: it is protected already.
    """
    if isinstance(app.wsgi_app, MemguardMiddleware):
        raise AlreadyGuarding("this application is protected already: call protect() once")
    app.wsgi_app = judge = MemguardMiddleware(app.wsgi_app, guard=guard, **options)
    for error in (AdmissionRefused, MemoryError) if guard.rules.fuse else (AdmissionRefused,):
        # Flask makes a 500 of it before anybody outside sees it.
        app.register_error_handler(error, functools.partial(_refuse_flask, judge))


def django(guard: Guard, **options: Any) -> Callable[[GetResponse], GetResponse]:  # noqa: ANN401 - as above
    """Django middleware over a guard; name what it returns in ``MIDDLEWARE``, first of all.

    ``options`` are those of ``MemguardMiddleware``; what is called there is given ``request.META``. The ticket
    is closed when the answer is, streamed ones included.
    """
    judge = MemguardMiddleware(_nothing, guard=guard, **options)

    def answered(refused: AdmissionRefused) -> Any:  # noqa: ANN401 - Django's response
        from django.http import HttpResponse  # noqa: PLC0415 - only where Django is

        status, headers, body = _refusal(refused)
        return HttpResponse(body, status=status, headers=dict(headers))

    def middleware(get_response: GetResponse) -> GetResponse:
        def admitted(request: Any) -> Any:  # noqa: ANN401 - Django's request and response
            try:
                work = judge.enter(request.META)
            except AdmissionRefused as refused:
                return answered(refused)
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

        def process_exception(_request: object, error: Exception) -> Any:  # noqa: ANN401 - Django's response
            refused = judge.refusal(error)
            return None if refused is None else answered(refused)

        vars(admitted)["process_exception"] = process_exception  # an attribute of the function: Django looks there
        return admitted

    return middleware


def _refuse_flask(judge: MemguardMiddleware, error: Exception) -> Any:  # noqa: ANN401 - Flask's response
    refused = judge.refusal(error)
    if refused is None:
        raise error
    status, headers, body = _refusal(refused)
    return body, status, headers


def _nothing(_environ: Environ, _start_response: StartResponse) -> Iterable[bytes]:
    return ()
