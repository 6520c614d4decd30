"""Weak references that are kept for their callback, which keeps more."""

from __future__ import annotations

import weakref
from typing import Any

NAMES = ("planted_weakref_callback.WATCHERS",)
"""What the first answer must name, one of them."""

WATCHERS: list[weakref.ref[Any]] = []


class Connection:
    """It goes; who watches it stays."""


def work(number: int) -> None:
    """One request."""
    connection, log = Connection(), [f"{number}"] * 20
    WATCHERS.append(weakref.ref(connection, lambda _: log.clear()))  # LEAK
