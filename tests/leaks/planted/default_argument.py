"""A mutable default argument."""

from __future__ import annotations

NAMES = ("default of argument seen",)
"""What the first answer must name, one of them."""


def remember(number: int, seen: list[list[int]] = []) -> None:  # noqa: B006 - the leak
    """Keep it in the default."""
    seen.append([number])  # LEAK


def work(number: int) -> None:
    """One request."""
    remember(number)
