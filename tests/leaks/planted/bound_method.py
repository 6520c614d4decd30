"""Bound methods that are registered as callbacks, and keep their objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("planted_bound_method.CALLBACKS",)
"""What the first answer must name, one of them."""

CALLBACKS: list[Callable[[], None]] = []


class Request:
    """Kept by its method."""

    def __init__(self, number: int) -> None:
        self.body = f"{number}" * 50

    def done(self) -> None:
        """Called never."""


def work(number: int) -> None:
    """One request."""
    CALLBACKS.append(Request(number).done)  # LEAK
