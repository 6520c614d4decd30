"""Requests as operations: each runs under its route's template, known once the framework has found the route.

Memory is read for a sample of them and for all that last (``memguard.operations.passing``): 10 requests a second of a
kind. Which route a request will find is not known when it begins, so a kind is its path without what ids are made of.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from memguard.ext.asgi.templates import template
from memguard.operations import TEND_S

if TYPE_CHECKING:
    from memguard.ext.asgi.wire import Scope
    from memguard.operations import Operations, Passing

__all__ = ["SAME", "passing_of", "type_of"]

# A client can send any word for a method, and each type has a row.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Digits of any base up to 16 count alike.
SAME: Final = bytes.maketrans(b"123456789abcdefABCDEF", b"0" * 21)
"""Makes of a path what it has in common with others of its route, most likely."""


def passing_of(operations: Operations) -> Passing:
    """Where requests pass; what has passed is taken down on the loop of the request after which it was quiet."""

    def wake() -> None:
        try:
            asyncio.get_running_loop().call_later(TEND_S, passing.tend)
        except RuntimeError:  # trio's loop: then when somebody asks, or when enough wait
            return

    passing = operations.passing(type_of)
    passing.wake = wake
    return passing


def type_of(scope: Scope) -> str:
    """The method and the template ("POST /users/{id}"); "GET (no route)" where no route was found."""
    method = scope["method"]
    return f"{method if method in _METHODS else 'OTHER'} {template(scope) or '(no route)'}"
