"""Buffers of a C library that are kept."""

from __future__ import annotations

import mmap

NAMES = ("planted_large_buffers.PAGES",)
"""What the first answer must name, one of them."""

PAGES: dict[int, mmap.mmap] = {}


def work(number: int) -> None:
    """One request."""
    page = mmap.mmap(-1, 4096)
    page[0] = 1
    PAGES[number] = page  # LEAK


def tidy() -> None:
    """Give them back."""
    while PAGES:
        PAGES.popitem()[1].close()
