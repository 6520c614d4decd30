"""A function cache on a method, which keeps every self."""

from __future__ import annotations

import functools

NAMES = ("planted_lru_cache_on_method.Page.render",)
"""What the first answer must name, one of them."""


class Page:
    """Kept by the cache of its method."""

    def __init__(self, number: int) -> None:
        self.number = number

    @functools.lru_cache(maxsize=None)  # noqa: B019, UP033 - the leak
    def render(self) -> str:
        """The page."""
        return f"page {self.number}" * 10  # LEAK


def work(number: int) -> None:
    """One request."""
    Page(number).render()


def tidy() -> None:
    """Forget them."""
    Page.render.cache_clear()
