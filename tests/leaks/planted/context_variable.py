"""A context variable to which each request adds."""

from __future__ import annotations

import contextvars

NAMES = ("context variable trail",)
"""What the first answer must name, one of them."""


class Step:
    """One of them."""

    def __init__(self, number: int) -> None:
        self.number = number


TRAIL: contextvars.ContextVar[list[Step]] = contextvars.ContextVar("trail")


def work(number: int) -> None:
    """One request."""
    steps = TRAIL.get(None)
    if steps is None:
        TRAIL.set(steps := [])
    steps.append(Step(number))  # LEAK


def tidy() -> None:
    """Forget them."""
    TRAIL.set([])
