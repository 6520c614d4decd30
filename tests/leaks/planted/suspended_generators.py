"""Generators that are begun and never finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("planted_suspended_generators.CURSORS",)
"""What the first answer must name, one of them."""

CURSORS: list[Iterator[str]] = []


def _rows(number: int) -> Iterator[str]:
    rows = [f"row {number} {place}" for place in range(20)]
    yield from rows


def work(number: int) -> None:
    """One request."""
    cursor = _rows(number)
    next(cursor)
    CURSORS.append(cursor)  # LEAK


def tidy() -> None:
    """Close them."""
    CURSORS.clear()
