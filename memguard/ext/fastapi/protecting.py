"""Protecting: one call that puts a guard in front of an application, with probes, a control API and a page."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from memguard.errors import AlreadyGuarding, RulesError
from memguard.ext.asgi import MemguardMiddleware
from memguard.ext.fastapi import answers
from memguard.ext.fastapi.access import Access
from memguard.ext.fastapi.acting import add_acts
from memguard.ext.fastapi.asking import ControlRoute, answer_problem
from memguard.ext.fastapi.clearing import add_clearing, clear_caches
from memguard.ext.fastapi.control import Control, Paths
from memguard.ext.fastapi.crowd import add_crowd
from memguard.ext.fastapi.door import Door
from memguard.ext.fastapi.dumping import add_dumps, census_of
from memguard.ext.fastapi.feed import add_feed
from memguard.ext.fastapi.health import health_routes, page_route
from memguard.ext.fastapi.incidents import add_incidents
from memguard.ext.fastapi.lifespan import around
from memguard.ext.fastapi.looking import add_looks
from memguard.ext.fastapi.past import add_past

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memguard.guard import Guard

__all__ = ["protect"]

A = TypeVar("A", bound=Starlette)

_TAG = "memguard"
_ENV = "MEMGUARD_LOCAL_ACTIONS"
_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "model": answers.ProblemObject,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemObject"}}},
        "description": description,
    }
    for status, description in (
        (400, "A body that is no JSON"),
        (401, "The token is missing or wrong"),
        (403, "Not allowed from there, or not at all"),
        (404, "Nothing of that kind is registered"),
        (409, "Not possible now"),
        (413, "A body that is too large"),
        (415, "A body that is no JSON"),
        (422, "A parameter that cannot be meant"),
        (429, "Too often"),
        (503, "It could not be done"),
    )
}


def protect(  # noqa: PLR0913 - each but the first two has a default
    app: A,
    guard: Guard,
    *,
    prefix: str = "/api/v1",
    token: str | None = None,
    local_actions: bool | None = None,
    access: Callable[..., Any] | None = None,
    page: str | None = "/memguard",
    livez: str | None = "/livez",
    readyz: str | None = "/readyz",
    exempt: Iterable[str] = ("/healthz", "/health"),
    engines: Iterable[object] = (),
    **admission: Any,  # noqa: ANN401 - as the middleware has them
) -> A:
    """Put a guard in front of a FastAPI or Starlette application; the application, for chaining.

    Requests and websockets are admitted (``MemguardMiddleware``), each request is an operation under its route's
    template, and the guard runs as long as the application does, unless it runs already. Below ``prefix`` there is the
    control API (``docs/control.md``), at ``page`` the page, at ``livez`` and ``readyz`` the probes; all of these pass
    the gate. Call it once, before the application serves.

    Looking is open to direct clients of this machine and to those who have the token; acting is off until there is a
    ``token``, or ``local_actions`` lets direct clients of this machine act.

    Args:
        app: the application.
        guard: whose gate, holders and history.
        prefix: where the control API begins; "" for the root.
        token: what ``Authorization: Bearer …`` has to carry.
        local_actions: whether direct clients of this machine may act without a token; None: the environment's
            ``MEMGUARD_LOCAL_ACTIONS``.
        access: a FastAPI dependency of your own, which raises for those who may not; it decides alone, for looking too.
        page: where the page is; None: there is none.
        livez: answers 200 as long as the process can; None, or a route that the application has already: yours.
        readyz: answers 503 from the level on at which requests are refused; None: as for ``livez``.
        exempt: more paths that are always served.
        engines: SQLAlchemy engines whose connections an operator may reset.
        admission: options of ``MemguardMiddleware``: ``wait_s``, ``priority``, ``cost``, ``websocket_bytes``.

    Raises:
        AlreadyGuarding: the application is protected already, or has begun to serve.
        RulesError: a path, a token or a value in the environment that cannot be meant.
        TypeError: the application is of neither framework.
    """
    _check(app, guard)
    local = _local_actions() if local_actions is None else local_actions
    _check_token(token)
    if isinstance(exempt, str):
        raise TypeError(f"exempt={exempt!r} is one path: write it as ({exempt!r},)")
    router, admin = _routers(access)
    stem = _stem(prefix)
    taken = {getattr(route, "path", None) for route in app.routes}
    gets, posts = _paths(router, stem), _paths(admin, "")
    paths = Paths(
        prefix=stem,
        page=_path("page", page),
        livez=None if livez in taken else _path("livez", livez),
        readyz=None if readyz in taken else _path("readyz", readyz),
        looks=frozenset(gets["GET"]),
        acts=frozenset(gets["POST"] | gets["PUT"] | posts["POST"]),
    )
    judge = Access(token=token, local_actions=local, judged=access is not None)
    control = Control(guard=guard, access=judge, paths=paths, engines=tuple(engines))
    app.state.memguard_control = control
    health = [path for path in (livez, readyz) if path is not None]
    app.add_middleware(Door, control=control, host=_host(app, control, router, admin))
    app.add_middleware(MemguardMiddleware, guard=guard, exempt=(*paths.all(), *health, *exempt), **admission)
    if isinstance(app, FastAPI):
        _include(app, control, router, admin)  # for its documentation: the door lets nobody through to them

    def census() -> None:
        if judge.can_act:
            census_of(control)

    app.router.lifespan_context = around(app.router.lifespan_context, control, census=census)
    return app


def _check(app: object, guard: Guard) -> None:
    if not isinstance(app, Starlette):
        raise TypeError(
            f"protect() takes a FastAPI or Starlette application, not {type(app).__name__}: for any other ASGI "
            "application wrap it in memguard.ext.asgi.MemguardMiddleware"
        )
    known = getattr(app.state, "memguard_control", None)
    if isinstance(known, Control):
        whose = "by this guard" if known.guard is guard else "by another guard: one application has one guard"
        raise AlreadyGuarding(f"this application is protected already, {whose}; call protect() once")
    if app.middleware_stack is not None:
        raise AlreadyGuarding("this application serves already: call protect() before it starts")


def _local_actions() -> bool:
    said = os.environ.get(_ENV, "").strip().lower()
    if said not in _YES | _NO:
        raise RulesError(f"local_actions={said!r} (from environment {_ENV}) is neither yes nor no: write 1 or 0")
    return said in _YES


def _check_token(token: object) -> None:
    if token is None:
        return
    if not isinstance(token, str):
        raise TypeError(f"token must be text or None, not {type(token).__name__}")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise RulesError("token is blank or has characters that no header carries: write letters, digits, - and _")


def _stem(prefix: str) -> str:
    stem = prefix.rstrip("/")
    if (stem and not stem.startswith("/")) or "{" in stem or "//" in stem:
        raise RulesError(f"prefix={prefix!r} is no path: write it like '/api/v1'")
    return stem


def _path(name: str, path: str | None) -> str | None:
    if path is not None and (not path.startswith("/") or "{" in path or len(path) < 2):  # noqa: PLR2004 - "/" alone
        raise RulesError(f"{name}={path!r} is no path: write it like '/memguard', or None for none")
    return path


def _routers(access: Callable[..., Any] | None) -> tuple[APIRouter, APIRouter]:
    """The API below the prefix, and what has a name of its own."""
    # The door has judged already; this puts the lock on the documentation's page.
    judges = [Depends(HTTPBearer(auto_error=False, scheme_name="memguard token"))]
    if access is not None:
        judges.append(access if isinstance(access, type(judges[0])) else Depends(access))
    router = APIRouter(route_class=ControlRoute, dependencies=judges)
    for add in (add_looks, add_past, add_crowd, add_acts, add_clearing, add_dumps, add_incidents, add_feed):
        add(router)
    admin = APIRouter(route_class=ControlRoute, dependencies=judges)
    admin.post("/admin/clear-cache", summary="Empty every registered cache")(clear_caches)
    return router, admin


def _paths(router: APIRouter, prefix: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"GET": set(), "POST": set(), "PUT": set()}
    for route in router.routes:
        for method in getattr(route, "methods", ()):
            found[method].add(f"{prefix}{getattr(route, 'path', '')}")
    return found


def _host(app: Starlette, control: Control, router: APIRouter, admin: APIRouter) -> FastAPI:
    """What the door hands its own paths to, past the application's routes and whatever it has wrapped them in."""
    host = FastAPI(openapi_url=None)
    host.add_exception_handler(HTTPException, answer_problem)  # another method than a path has
    host.dependency_overrides = getattr(app, "dependency_overrides", {})
    _include(host, control, router, admin)
    host.router.routes.extend(health_routes(control))
    if control.paths.page is not None:
        host.router.routes.append(page_route(control, control.paths.page))
    return host


def _include(app: FastAPI, control: Control, router: APIRouter, admin: APIRouter) -> None:
    app.include_router(router, prefix=control.paths.prefix, tags=[_TAG], responses=_PROBLEMS)
    app.include_router(admin, tags=[_TAG], responses=_PROBLEMS)
    app.openapi_schema = None
