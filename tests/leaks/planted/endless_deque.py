"""A deque without maxlen that is meant to hold the last few."""

from __future__ import annotations

from collections import deque

NAMES = ("planted_endless_deque.RECENT",)
"""What the first answer must name, one of them."""

RECENT: deque[dict[str, int]] = deque()


def work(number: int) -> None:
    """One request."""
    RECENT.append({"number": number})  # LEAK
