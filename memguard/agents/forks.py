"""Forks: nothing is half done when a process divides, and its child waits for nobody who stayed behind."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from memguard.agents.keeping import Keeping

__all__ = ["enrol"]

# A fork waits so long for a change under way: far above what any takes.
_HOLD_S: Final = 5.0
_all: Final[weakref.WeakSet[Keeping]] = weakref.WeakSet()
_held: Final[list[tuple[Keeping, tuple[bool, bool]]]] = []
_hooked: Final[list[bool]] = []


def enrol(keeping: Keeping) -> None:
    """From now on, prepare these states for forks."""
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked.append(True)
        os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
    _all.add(keeping)


def _before() -> None:
    _held.extend((keeping, keeping.hold(_HOLD_S)) for keeping in tuple(_all))


def _in_parent() -> None:
    while _held:
        keeping, held = _held.pop()
        keeping.let_go(held, child=False)


def _in_child() -> None:
    while _held:
        keeping, held = _held.pop()
        keeping.let_go(held, child=True)
