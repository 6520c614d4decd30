"""A list in a closure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("closure variable seen",)
"""What the first answer must name, one of them."""


def _handler() -> Callable[[int], None]:
    seen: list[dict[str, int]] = []

    def handle(number: int) -> None:
        seen.append({"number": number})  # LEAK

    return handle


HANDLE = _handler()


def work(number: int) -> None:
    """One request."""
    HANDLE(number)
