"""Objects that hold the one before: no container grows."""

from __future__ import annotations

from typing import Any

NAMES = ("planted_linked_list.LAST", "planted_linked_list.Entry")
"""What the first answer must name, one of them."""

LAST: Entry | None = None


class Entry:
    """It keeps the one before."""

    def __init__(self, before: Any) -> None:
        self.before = before


def work(_number: int) -> None:
    """One request."""
    global LAST  # noqa: PLW0603 - the leak
    LAST = Entry(LAST)  # LEAK


def tidy() -> None:
    """Take it apart: a long chain of finalizers would go deep."""
    global LAST  # noqa: PLW0603 - the leak
    while LAST is not None:
        LAST = LAST.before
