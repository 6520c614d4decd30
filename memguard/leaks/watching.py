"""Watched objects: what should be gone soon, and who holds it when it is not."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any, Final, cast

from memguard.leaks.chains import find
from memguard.leaks.names import type_name
from memguard.model import Event
from memguard.threads import new_lock, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.findings import Chain

__all__ = ["Watched", "Watchlist"]

# Watched at a time, at some 300 bytes each; above, the oldest are given up.
_AT_MOST: Final = 4096
# A collection for watched objects stops the process too: none sooner than that after the last one.
_COLLECT_S: Final = 10.0
# Chains for so many of one look; of a hundred with one label, one says it.
_TOLD_EACH: Final = 3


class Watched:
    """One watched object, held weakly; ``close`` stops watching it."""

    __slots__ = ("_reference", "chain", "closed", "due_at", "label")

    def __init__(self, reference: weakref.ref[Any], label: str, due_at: float) -> None:
        self._reference = reference
        self.label: str = label
        self.due_at: float = due_at
        self.closed: bool = False
        self.chain: Chain | None = None

    @property
    def gone(self) -> bool:
        """Whether it is gone, as it should be."""
        return self._reference() is None

    def thing(self) -> object | None:
        """The object, while it is there."""
        held: object | None = self._reference()
        return held

    def close(self) -> None:
        """Watch it no longer; twice is fine."""
        self.closed = True

    def __repr__(self) -> str:
        return f"<Watched {self.label!r}{' gone' if self.gone else ''}>"


class Watchlist:
    """All watched objects of a guard. ``look`` costs nothing until one is due; a thread of its own does the rest."""

    def __init__(self, *, tell: Callable[[Event], None], clock: Callable[[], float], inline: bool = False) -> None:
        self._tell = tell
        self._clock = clock
        self._inline = inline
        self._lock = new_lock()
        self._rows: list[Watched] = []
        self._next_at = float("inf")
        self._busy = False
        self._collected_at = -float("inf")
        self.given_up: int = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, thing: object, label: str, *, grace_s: float, now: float) -> Watched:
        """Watch an object, or what a weak reference refers to.

        Raises:
            TypeError: it cannot be referred to weakly, or the label is no text.
        """
        if not isinstance(label, str):
            raise TypeError(f"label={label!r} must be text: it names the object in reports, like 'session 12'")
        row = Watched(_weakly(thing), label, now + grace_s)
        with self._lock:
            if len(self._rows) >= _AT_MOST:
                self._rows = [known for known in self._rows if not known.closed and not known.gone][-_AT_MOST + 1 :]
                self.given_up += 1
            self._rows.append(row)
            self._next_at = min(self._next_at, row.due_at)
        return row

    def look(self, now: float) -> None:
        """On the guard's thread: see to what is due, elsewhere."""
        if now < self._next_at or self._busy or now < self._collected_at + _COLLECT_S:
            return
        self._busy = True
        if self._inline:
            self.see_to(now)
            return
        try:
            start_thread(lambda: self.see_to(now), "memguard-examine")
        except RuntimeError:  # no thread to be had: the next look tries again
            self._busy = False

    def see_to(self, now: float) -> None:
        """Collect, once, if something due is still there; then tell who holds what stayed."""
        try:
            due = self._take_due(now)
            if not due:
                return
            self._collected_at = now
            gc.collect()
            told: dict[str, int] = {}
            for row in due:
                if not row.gone and not row.closed:
                    told[row.label] = told.get(row.label, 0) + 1
                    if told[row.label] <= _TOLD_EACH:
                        self._tell_kept(row, now)
        except BaseException as error:  # noqa: BLE001 - nothing escapes from a guard's thread
            words = f"watched objects could not be looked at: {type(error).__name__}: {error}"
            self._tell(Event(at=now, name="leak.unexamined", text=words))
        finally:
            self._busy = False

    def _take_due(self, now: float) -> list[Watched]:
        with self._lock:
            alive = [row for row in self._rows if not row.closed and not row.gone]
            due = [row for row in alive if row.due_at <= now]
            self._rows = [row for row in alive if row.due_at > now]
            self._next_at = min((row.due_at for row in self._rows), default=float("inf"))
        return due

    def _tell_kept(self, row: Watched, now: float) -> None:
        thing = row.thing()
        if thing is None:
            return
        kind = type_name(type(thing))
        row.chain = chain = find(thing)
        held = f"held as {chain}" if chain.found else f"who holds it is not known: {chain.note}"
        text = f"{row.label} ({kind}) should be gone and is not; {held}"
        attributes: dict[str, str | int | float | bool] = {"label": row.label, "type": kind, "path": chain.path}
        self._tell(Event(at=now, name="leak.kept", text=text, attributes=attributes))

    def forget(self) -> None:
        """In a forked child: the lock may be held by a thread that is not here; the objects are watched on."""
        self._lock = new_lock()
        self._busy = False


def _weakly(thing: object) -> weakref.ref[Any]:
    if issubclass(type(thing), weakref.ref):
        reference: Any = thing
        return cast("weakref.ref[Any]", reference)
    try:
        return weakref.ref(thing)
    except TypeError:
        name = type_name(type(thing))
        raise TypeError(
            f"a {name} cannot be referred to weakly, so it cannot be watched without keeping it alive: watch the "
            "object that owns it, or add '__weakref__' to its class's __slots__"
        ) from None
