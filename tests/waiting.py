"""Waiting for what other threads do, with a deadline."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_never = threading.Event()


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Return as soon as the condition holds; fail when it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        _never.wait(0.002)


def stays(condition: Callable[[], object], seconds: float = 0.1) -> bool:
    """Whether a condition holds all the time, for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not condition():
            return False
        _never.wait(0.002)
    return True
