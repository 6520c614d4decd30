"""Threads that wait for ever."""

from __future__ import annotations

import threading

NAMES = ("planted_unjoined_threads", "_wait")
"""What the first answer must name, one of them."""

END = threading.Event()


def _wait(_number: int) -> None:
    END.wait()


EACH = 10
"""Requests for one of them: a machine has not so many threads."""


def work(number: int) -> None:
    """One request."""
    if number % EACH == 0:
        threading.Thread(target=_wait, args=(number,), daemon=True).start()  # LEAK


def tidy() -> None:
    """Let them end."""
    END.set()
