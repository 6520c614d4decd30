"""Requests as operations: each runs under its route's template, known once the framework has found the route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memguard.ext.asgi.templates import template
from memguard.operations import Operation

if TYPE_CHECKING:
    from memguard.ext.asgi.wire import Scope
    from memguard.kinds import Outcome
    from memguard.operations import Operations

__all__ = ["RequestOperation"]

# A client can send any word for a method, and each type has a row.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestOperation(Operation):
    """One request; its type is read from the scope while it runs, and kept when it ends."""

    __slots__ = ("_scope", "_template")

    def __init__(self, operations: Operations, scope: Scope) -> None:
        self._scope: Scope | None = scope
        self._template = ""
        super().__init__(operations, "", None)

    @property
    def type(self) -> str:
        """The method and the template ("POST /users/{id}"); "GET (no route)" where no route was found."""
        scope = self._scope
        if scope is None:
            return self._template
        method = scope["method"]
        return f"{method if method in _METHODS else 'OTHER'} {template(scope) or '(no route)'}"

    @type.setter  # noqa: A003
    def type(self, type_: str) -> None:
        """What it is called at first is not known yet."""

    def close(self, outcome: Outcome) -> None:
        """End, and let the scope go: the last operations are kept for those who ask."""
        self._template = self.type
        self._scope = None
        self.end(outcome)
