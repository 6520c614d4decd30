"""Dumping: an examination on demand, as JSON or as a page."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse, JSONResponse

from memguard.errors import MemguardError
from memguard.ext.fastapi import outcomes
from memguard.ext.fastapi.asking import Asked, Asker, aside, duration
from memguard.ext.fastapi.control import Control
from memguard.ext.fastapi.problems import Problem
from memguard.findings import Census, LeakReport

__all__ = ["add_dumps", "census_of"]

_LONGEST_S = 120.0
_TYPES = 50


def add_dumps(router: APIRouter) -> None:
    """Add these routes."""
    router.post(
        "/monitoring/memory/dump",
        summary="Find out what grows and who holds it: types and sizes, never contents",
        response_model=outcomes.Dump,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )(dump)


async def dump(  # noqa: PLR0913, PLR0917 - as operators ask
    control: Asked,
    asker: Asker,
    seconds: Annotated[str, Query(max_length=100, description="how long to watch, at most two minutes")] = "5",
    trace: Annotated[bool, Query(description="allocation sites too: slows allocations down meanwhile")] = False,  # noqa: FBT002
    format: Annotated[Literal["json", "html"], Query(description="what to answer")] = "json",  # noqa: A002
    name: Annotated[
        str, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", description="what a browser calls the file")
    ] = "memory_dump",
) -> Response:
    """One at a time. Keys of mappings are left out, since they may be contents."""
    span_s = duration("seconds", seconds, zero=True)
    if span_s > _LONGEST_S:
        raise Problem(422, f"query.seconds: {seconds!r} is longer than {_LONGEST_S:.0f} s")
    try:
        report = await aside(lambda: control.guard.diagnose(seconds=span_s, trace=trace, redact_keys=True))
    except MemguardError as error:  # another one is under way
        raise Problem.later(span_s, str(error)) from None
    control.audit(asker, "examined memory", report.summary)
    headers = {"cache-control": "no-store", "content-disposition": f'attachment; filename="{name}.{format}"'}
    if format == "html":
        headers["content-security-policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
        headers["x-content-type-options"] = "nosniff"
        return HTMLResponse(report.html, headers=headers)
    return JSONResponse(await aside(lambda: _body(control, report)), headers=headers)


def census_of(control: Control) -> None:
    """Count what is there at the start, so that a dump can say what has come since."""
    from memguard.leaks.census import take  # noqa: PLC0415 - only where dumps are allowed

    control.census = take(budget_s=1.0)


def _body(control: Control, report: LeakReport) -> Mapping[str, Any]:
    body: dict[str, Any] = report.to_dict()
    body["text"] = report.text
    census = body["census"]
    counts = list(report.census.counts.items())
    census["counts"] = dict(counts[:500])
    body["since_start"] = _since(control.census, report.census)
    return body


def _since(before: Census | None, after: Census) -> list[dict[str, Any]]:
    if before is None:
        return []
    from memguard.leaks.census import growth  # noqa: PLC0415 - as above

    return [
        {"type": row.type, "before": row.before, "after": row.after, "grown": row.grown}
        for row in growth(before, after)[:_TYPES]
    ]
