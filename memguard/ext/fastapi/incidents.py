"""Incidents: those that are over or open, and the report of one, in JSON, as a page, in Markdown."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from memguard.ext.fastapi import answers
from memguard.ext.fastapi.asking import Asked, aside, mb
from memguard.ext.fastapi.control import Control
from memguard.ext.fastapi.problems import Problem
from memguard.reports import IncidentReport, report_of, stories_of_lines
from memguard.reports.story import Story

__all__ = ["add_incidents"]


def add_incidents(router: APIRouter) -> None:
    """Add these routes."""
    router.get("/monitoring/incidents", summary="Incidents, each in a sentence")(incidents)
    router.get(
        "/monitoring/incidents/report",
        summary="What happened in one: what grew, what was done, what to change",
        response_model=answers.IncidentReport,
        responses={
            200: {
                "content": {
                    "text/html": {"schema": {"type": "string"}},
                    "text/markdown": {"schema": {"type": "string"}},
                }
            }
        },
    )(report)


async def incidents(control: Asked) -> answers.Incidents:
    """The oldest first; as far as memory reaches: some hundreds of events."""
    return await aside(lambda: _incidents(control))


async def report(
    control: Asked,
    number: Annotated[int, Query(ge=-1000, le=1000, description="1 is the oldest that is known, -1 the last")] = -1,
    format: Annotated[Literal["json", "html", "markdown"], Query(description="what to answer")] = "json",  # noqa: A002
) -> Response:
    """The last one unless another is asked for; one that is open, as it stands."""
    return await aside(lambda: _report(control, number, format))


def _stories(control: Control) -> list[Story]:
    lines = control.chronicle.lines()
    return stories_of_lines(lines, "the chronicle") if lines else []


def _incidents(control: Control) -> answers.Incidents:
    rows = [_row(number, report_of(story)) for number, story in enumerate(_stories(control), start=1)]
    return answers.Incidents(incidents=rows, total=len(rows))


def _row(number: int, found: IncidentReport) -> answers.Incident:
    numbers = found.measures
    return answers.Incident(
        number=number,
        opened_at=_iso(found.opened_unix_s),
        closed_at=None if found.closed_unix_s is None else _iso(found.closed_unix_s),
        peak_level=numbers.peak_level.name,
        peak_mb=mb(numbers.peak_bytes),
        limit_mb=mb(numbers.limit_bytes),
        refusals=numbers.refusals,
        bought_mb=mb(numbers.bought_bytes),
        summary=found.summary,
    )


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _report(control: Control, number: int, kind: str) -> Response:
    found = _stories(control)
    if not found:
        raise Problem(404, "there was no incident since this service began")
    if number == 0 or not -len(found) <= number <= len(found):
        raise Problem(404, f"query.number: {len(found)} incidents are known, and {number} is none of them")
    made = report_of(found[number - 1 if number > 0 else number])
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    if kind == "html":
        headers["content-security-policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
        return HTMLResponse(made.html(), headers=headers)
    if kind == "markdown":
        return PlainTextResponse(made.markdown(), headers=headers, media_type="text/markdown")
    body: dict[str, Any] = made.to_dict()
    return JSONResponse(body, headers=headers)
