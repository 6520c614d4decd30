"""Health: whether the process lives, whether it takes new work, and the page's own route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from memguard.ext.fastapi.page import sheet

if TYPE_CHECKING:
    from starlette.requests import Request

    from memguard.ext.fastapi.control import Control

__all__ = ["health_routes", "page_route"]


def health_routes(control: Control) -> list[BaseRoute]:
    """The probes, where the application leaves them to us."""

    async def livez(_request: Request) -> Response:
        # Never tied to memory: a probe that is, restarts a process that is busy giving memory back.
        return JSONResponse({"status": "alive"}, headers={"cache-control": "no-store"})

    async def readyz(_request: Request) -> Response:
        snapshot, ready = control.guard.snapshot, control.ready
        body = {"status": "ready" if ready else "not ready", "level": snapshot.level.name}
        if ready:
            return JSONResponse(body, headers={"cache-control": "no-store"})
        if control.guard.leaving:
            body["detail"] = "this process hands over to a fresh one"
            return JSONResponse(body, 503, headers={"cache-control": "no-store", "retry-after": "2"})
        body["detail"] = f"memory is short: pressure {snapshot.pressure:.0%}; new work goes elsewhere until it is not"
        return JSONResponse(body, 503, headers={"cache-control": "no-store", "retry-after": "2"})

    paths = control.paths
    found = ((paths.livez, livez), (paths.readyz, readyz))
    return [Route(path, endpoint, include_in_schema=False) for path, endpoint in found if path is not None]


def page_route(control: Control, path: str) -> BaseRoute:
    """The page; the same for everybody, since it holds nothing before it has asked."""
    made = sheet(page=path, prefix=control.paths.prefix)

    async def page(request: Request) -> Response:
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(made.gzipped, headers={**made.headers, "content-encoding": "gzip"})
        return Response(made.plain, headers=made.headers)

    return Route(path, page, include_in_schema=False)
