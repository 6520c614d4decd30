"""Handlers that are added to a long-lived bus and never removed."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("planted_event_handlers.BUS._handlers",)
"""What the first answer must name, one of them."""


class Bus:
    """It lives as long as the program."""

    def __init__(self) -> None:
        self._handlers: dict[str, list[Callable[[], int]]] = defaultdict(list)

    def on(self, event: str, handler: Callable[[], int]) -> None:
        """Add a handler."""
        self._handlers[event].append(handler)


BUS = Bus()


def work(number: int) -> None:
    """One request."""
    BUS.on("saved", lambda: number)  # LEAK
