"""Templates: what the application calls the route that a connection has found ("/users/{id}")."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memguard.ext.asgi.wire import Scope

__all__ = ["template"]


def template(scope: Scope) -> str | None:
    """The template with the prefixes of mounts and routers; None before routing, and where no route was found."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    if not isinstance(path, str):
        return None
    # Of late (0.165 does) a route of an included router knows its path below that router, and only this the whole.
    known = scope.get("fastapi")
    context = known.get("effective_route_context") if isinstance(known, dict) else None
    if context is not None:
        own = getattr(context, "starlette_route", None)
        if route is own or route is getattr(context, "original_route", None):
            whole = getattr(own, "path", None) or getattr(context, "path", None)
            path = whole if isinstance(whole, str) else path
    return f"{scope.get('root_path') or ''}{path}"
