"""The roster: who holds memory. Holders may sign up before any guard exists.

It keeps the adapters (reclaimers); adapters keep the held objects weakly wherever Python allows that.
"""

from __future__ import annotations

import itertools
import weakref

from memguard.threads import new_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from memguard.ports import Reclaimer

__all__ = ["DEFAULT", "Handle", "Roster"]


# The guard's own reclaimers answer to these names.
_RESERVED = frozenset({"collect", "trim"})


def _within(_name: str) -> int:
    """Without budgets nobody is over."""
    return 0


class Handle:
    """A holder's place; ``close()`` gives it up, as does the end of the held object. Closing twice is fine."""

    __slots__ = ("__weakref__", "_alive", "close", "name")

    def __init__(self, name: str, *, close: Callable[[], None], alive: Callable[[], bool]) -> None:
        self.name: str = name
        self.close: Callable[[], None] = close
        self._alive = alive

    @property
    def closed(self) -> bool:
        """Whether the place has been given up."""
        return not self._alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Handle {self.name!r}{' closed' if self.closed else ''}>"


class Roster:
    """A set of reclaimers with unique names, safe to change from any thread.

    ``owner`` is the guard that works through it now; two at a time would measure each other's reliefs. ``over`` tells
    by how many bytes the holder of a name is over its budget.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[str, Reclaimer]] = {}
        self._gone: set[int] = set()
        self._keys = itertools.count()
        self._lock = new_lock()
        self.owner: weakref.ref[object] | None = None
        self.over: Callable[[str], int] = _within

    def add(self, reclaimer: Reclaimer, *, held: object | None = None) -> Handle:
        """Sign a reclaimer up. When ``held`` is given and dies, the reclaimer leaves by itself.

        A name that is taken gets a number: ``"answers"``, then ``"answers#2"``.
        """
        with self._lock:
            self._sweep()
            key = next(self._keys)
            name = self._free_name(reclaimer.name)
            # A new dict each time: readers iterate over the one they picked up, without a lock.
            self._entries = {**self._entries, key: (name, reclaimer)}
        if held is not None:
            weakref.finalize(held, self._drop, key).atexit = False
        return Handle(name, close=lambda: self._drop(key), alive=lambda: self._has(key))

    def _has(self, key: int) -> bool:
        return key in self._entries and key not in self._gone

    def _free_name(self, name: str) -> str:
        taken = {entry[0] for entry in self._entries.values()} | _RESERVED
        if name not in taken:
            return name
        return next(new for number in itertools.count(2) if (new := f"{name}#{number}") not in taken)

    def _drop(self, key: int) -> None:
        # Runs from weakref callbacks too, which may interrupt add() in this very thread: never wait for the lock.
        self._gone.add(key)
        if self._lock.acquire(blocking=False):
            self._sweep()
            self._lock.release()

    def _sweep(self) -> None:
        gone = set(self._gone)
        self._entries = {key: entry for key, entry in self._entries.items() if key not in gone}
        self._gone -= gone

    def entries(self) -> tuple[tuple[str, Reclaimer], ...]:
        """Every (unique name, reclaimer), oldest first."""
        entries, gone = self._entries, self._gone
        return tuple(entry for key, entry in entries.items() if key not in gone)

    @property
    def budgeted(self) -> bool:
        """Whether anybody has a budget."""
        return self.over is not _within

    def find(self, name: str) -> Reclaimer | None:
        """The reclaimer of that name, or None."""
        return next((reclaimer for known, reclaimer in self.entries() if known == name), None)

    def __len__(self) -> int:
        return len(self.entries())

    def forget(self) -> None:
        """After a fork the lock may be held by a thread that no longer exists."""
        self._lock = new_lock()


DEFAULT = Roster()
"""The process's roster: where decorators sign up at import time."""
