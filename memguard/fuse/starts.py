"""Starts of threads: under a fuse they get room for their first steps, or fail at once."""

from __future__ import annotations

import threading
from functools import update_wrapper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["StartWatch"]


class StartWatch:
    """Calls ``edge(1)`` before and ``edge(-1)`` after every ``Thread.start`` while it is in place.

    A thread that gets a stack and then no memory leaves whoever started it waiting for ever: ``Thread.start`` waits for
    the new thread to say that it runs (seen in CPython 3.11).
    """

    def __init__(self, edge: Callable[[int], None]) -> None:
        self._edge = edge
        self._pair: tuple[Any, Any] | None = None

    def begin(self) -> None:
        """Wrap it."""
        if self._pair is not None:
            return
        before, edge = threading.Thread.start, self._edge

        def start(self: threading.Thread) -> None:
            edge(1)
            try:
                before(self)
            finally:
                edge(-1)

        self._pair = before, start
        threading.Thread.start = update_wrapper(start, before)  # type: ignore[method-assign]

    def end(self) -> None:
        """Put back what was there; whoever has wrapped ours since keeps his wrapper, and ours does nothing more."""
        if self._pair is not None and threading.Thread.start is self._pair[1]:
            threading.Thread.start = self._pair[0]  # type: ignore[method-assign]
        self._pair = None
