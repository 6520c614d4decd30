"""functools.cache on a function with ever new arguments."""

from __future__ import annotations

import functools

NAMES = ("planted_unbounded_cache.describe",)
"""What the first answer must name, one of them."""


@functools.cache
def describe(number: int) -> str:
    """A text for each."""
    return f"number {number}" * 10  # LEAK


def work(number: int) -> None:
    """One request."""
    describe(number)


def tidy() -> None:
    """Forget them."""
    describe.cache_clear()
