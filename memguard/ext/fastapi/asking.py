"""Asking: what routes have in common: the control of their application, parameters, problems instead of tracebacks."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar, overload

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException

from memguard.errors import MemguardError
from memguard.ext.fastapi.access import Caller
from memguard.ext.fastapi.control import CALLER, CONTROL, Control
from memguard.ext.fastapi.problems import Problem
from memguard.units import MIB, format_seconds, parse_seconds

__all__ = [
    "Asked", "Asker", "ControlRoute", "Limit", "Offset", "Page", "answer_problem", "aside", "duration", "mb", "page_of",
]  # fmt: skip

T = TypeVar("T")

# A year: beyond what any store keeps, and far from what breaks arithmetic of times.
_LONGEST_S = 366 * 86400.0
# Work that blocks has places of its own: a service's busy threads must not keep its operator out.
_PLACES = 4
_LIMITERS: dict[str, CapacityLimiter] = {}


def _control(request: Request) -> Control:
    found = request.scope.get(CONTROL)
    if not isinstance(found, Control) or CALLER not in request.scope:
        raise Problem(403, "this request did not come in by the door of protect()")
    return found


def _caller(request: Request) -> Caller:
    found: Caller = request.scope[CALLER]
    return found


Asked = Annotated[Control, Depends(_control)]
"""The control of the application that was asked."""

Asker = Annotated[Caller, Depends(_caller)]
"""Who asks."""

Limit = Annotated[int, Query(ge=1, le=10_000, description="at most so many rows")]
Offset = Annotated[int, Query(ge=0, le=1_000_000_000, description="leave out so many rows at the front")]


class ControlRoute(APIRoute):
    """A route whose errors are problem objects."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, with its exceptions answered here: the application's own handlers are for its own routes."""
        inner = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await inner(request)
            except (Problem, RequestValidationError, StarletteHTTPException, MemguardError, MemoryError) as error:
                return _answer(_problem_of(error))

        return answered


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return _unprocessable(error)
    if isinstance(error, StarletteHTTPException):
        headers = dict(error.headers or {})
        allowed = headers.get("Allow")
        detail = str(error.detail) if allowed is None else f"this path takes {allowed} and no other method"
        return Problem(error.status_code, detail, headers=headers)
    return Problem.scarce() if isinstance(error, MemoryError) else Problem(409, str(error))


async def answer_problem(_request: Request, error: Exception) -> Response:
    """What no route of ours has caught: another method than the path has."""
    return _answer(_problem_of(error))


def _answer(problem: Problem) -> Response:
    return JSONResponse(
        problem.members,
        status_code=problem.status,
        headers={"cache-control": "no-store", **problem.headers},
        media_type="application/problem+json",
    )


def _unprocessable(error: RequestValidationError) -> Problem:
    """Which parameters are wrong and why; what was sent is not repeated."""
    errors = [
        {"where": ".".join(map(str, each.get("loc", ()))), "why": str(each.get("msg", ""))}
        for each in error.errors()[:20]
    ]
    detail = "; ".join(f"{each['where']}: {each['why']}" for each in errors)
    return Problem(422, detail or "the request cannot be meant", errors=errors)


def duration(name: str, text: str, *, zero: bool = False) -> float:
    """Seconds out of a query's parameter ("24h", "5m", "300").

    Raises:
        Problem: 422, with the parameter, the value and the mend.
    """
    try:
        seconds = parse_seconds(text)
    except ValueError as error:
        raise Problem(422, f"query.{name}: {_short(str(error))}") from None
    if seconds > _LONGEST_S or (seconds <= 0.0 and not zero):
        least = "0" if zero else "more than 0"
        raise Problem(
            422, f"query.{name}: {_short(text)!r} must be {least} and at most {format_seconds(_LONGEST_S)}, like '5m'"
        )
    return seconds


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"  # noqa: PLR2004 - of what a stranger sent


class Page:
    """A part of a longer list."""

    def __init__(self, limit: Limit = 1000, offset: Offset = 0) -> None:
        self.limit: int = limit
        self.offset: int = offset


def page_of(rows: Sequence[T], page: Page) -> Sequence[T]:
    """The rows that were asked for."""
    return rows[page.offset : page.offset + page.limit]


@overload
def mb(count: float) -> float: ...


@overload
def mb(count: None) -> None: ...


@overload
def mb(count: float | None) -> float | None: ...


def mb(count: float | None) -> float | None:
    """Bytes in MiB."""
    return None if count is None else round(count / MIB, 3)


async def aside(work: Callable[[], T]) -> T:
    """Do what blocks on a thread of our own."""
    limiter = _LIMITERS.get("")
    if limiter is None:
        limiter = _LIMITERS.setdefault("", CapacityLimiter(_PLACES))
    return await anyio.to_thread.run_sync(work, limiter=limiter)
