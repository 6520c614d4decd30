"""An ExitStack that is entered in each request and closed at the end of the program."""

from __future__ import annotations

import contextlib

NAMES = ("planted_exit_stack.STACK",)
"""What the first answer must name, one of them."""

STACK = contextlib.ExitStack()


class Resource:
    """It waits for its end."""

    def __init__(self, number: int) -> None:
        self.buffer = f"{number}" * 20

    def close(self) -> None:
        """Called at the end of the program."""


def work(number: int) -> None:
    """One request."""
    STACK.callback(Resource(number).close)  # LEAK


def tidy() -> None:
    """Close it."""
    STACK.close()
