"""Forks: in a child, a table's lock may be held by a thread that is gone."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from memguard.caching.table import Table

__all__ = ["enrol"]

_tables: Final[weakref.WeakSet[Table]] = weakref.WeakSet()
_hooked: Final[list[bool]] = []


def enrol(table: Table) -> None:
    """From now on, tell this table to forget its lock when it finds itself in a forked child."""
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked.append(True)
        os.register_at_fork(after_in_child=_in_child)
    _tables.add(table)


def _in_child() -> None:
    for table in tuple(_tables):
        table.forget()
