"""Scopes that have ended: of requests, websockets, operations and retired agents a sample is watched by itself.

Nobody on a request's way pays for it: the guard's thread looks, about once a second, at a few of those that are open,
and later whether they have gone. What stays for a minute after its end, and through a full collection of Python's own
pace, is held by somebody; when three of a kind do, one search says who. One alone may be the last one, kept on purpose.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from memguard.leaks.chains import find
from memguard.model import Event
from memguard.threads import start_thread
from memguard.units import format_seconds
from memguard.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from memguard.findings import Chain

__all__ = ["Scopes", "Source", "finished", "tickets"]

_EVERY_S: Final = 1.0
# Of each source, sampled at a look, and watched at a time.
_EACH: Final = 2
_AT_MOST: Final = 16
# Of those that are open, looked at from either end.
_NEAR: Final = 8
# Agents that leave between two looks.
_LEFT_AT_MOST: Final = 64
# What is still there so long after its end is not just on its way out; whom a task, a thread or a frame works with,
# after fifteen minutes.
_GRACE_S: Final = 60.0
_AT_WORK: Final = frozenset({"frame", "task", "thread"})
_AT_WORK_S: Final = 900.0
# Fewer of a kind may be kept on purpose.
_FEW: Final = 3
_KEPT: Final = 8
_KINDS: Final = 100
# A kind that was told is not told again for so long.
_QUIET_S: Final = 3600.0
# Where Python collects too seldom, we do: a thousandth of the time at most.
_COLLECT_S: Final = 60.0
_COLLECT_TIMES: Final = 1000.0
_BLOCKS_AT_MOST: Final = 6_000_000
_OURS: Final = "memguard."
_PASSING: Final = frozenset({"method", "builtin_function_or_method", "cell", "tuple"})


class Source(NamedTuple):
    """Where things come from that should go: a few that are there, whether one is over, and what kind it is."""

    some: Callable[[], Iterable[Any]]
    over: Callable[[Any], bool]
    kind: Callable[[Any], str]


def tickets(open_: Mapping[Any, None], *, kind: str | None = None, but: str | None = None) -> Source:
    """Requests and websockets: their tickets, which whoever keeps a framework's request object keeps, too.

    The newest that are open, which are passing, and the oldest, which last; of one ``kind``, or of all ``but`` one.
    """

    def some() -> list[Any]:
        near = [*islice(reversed(open_), _NEAR), *islice(open_, _NEAR)]
        return [one for one in near if (kind is None or one.kind == kind) and one.kind != but]

    def name(ticket: Any) -> str:  # noqa: ANN401 - see above
        label = ticket.template or ("" if "/" in ticket.label else ticket.label)  # each path by itself is no kind
        return f"{ticket.kind}s of {label}" if label else f"{ticket.kind}s"

    return Source(some, lambda ticket: ticket.outcome is not None, name)


def finished(operations: Callable[[], Any]) -> Source:
    """Operations, once nobody remembers them as the last that ended."""

    def some() -> list[Any]:
        known = operations()
        last = None if known is None else known.latest()
        return [] if last is None else [last]

    def over(operation: Any) -> bool:  # noqa: ANN401 - as above
        known = operations()
        return known is None or not known.remembers(operation)

    return Source(some, over, lambda operation: f"operations {operation.type!r}")


class _Row:
    """One thing that is watched, weakly, until it goes; ``ended_at`` is None while it is at work."""

    __slots__ = ("collections", "ended_at", "kind", "reference", "source")

    def __init__(self, thing: object, source: Source | None) -> None:
        self.reference: weakref.ref[Any] = weakref.ref(thing)
        self.source = source
        self.kind: str = ""
        self.ended_at: float | None = None
        self.collections: int = 0

    def end(self, at: float, kind: str, collections: int) -> None:
        self.ended_at, self.kind, self.collections = at, kind, collections


class Scopes:
    """What is watched by itself. ``look`` takes some 15 µs, in the guard's thread; another thread does the rest."""

    def __init__(
        self,
        sources: Iterable[Source],
        *,
        tell: Callable[[Event], None],
        clock: Callable[[], float],
        inline: bool = False,
    ) -> None:
        self._sources = tuple(sources)
        self._tell = tell
        self._clock = clock
        self._inline = inline
        self._rows: list[_Row] = []
        self._left: deque[tuple[weakref.ref[Any], str, float]] = deque(maxlen=_LEFT_AT_MOST)
        self._kept: dict[str, list[_Row]] = {}
        self._quiet: dict[str, float] = {}
        self._look_at = self._collect_at = -float("inf")
        self._busy = False

    def __len__(self) -> int:
        return len(self._rows)

    def left(self, thing: object, kind: str) -> None:
        """Something has ended just now, told by whoever let it go; in any thread, a microsecond."""
        try:
            self._left.append((weakref.ref(thing), kind, self._clock()))
        except TypeError:  # a list, a dict, a number: nobody can tell whether it goes
            return

    def look(self, now: float) -> None:
        """See who has come, who has ended, who has gone, and who stays."""
        if now < self._look_at:
            return
        self._look_at = now + _EVERY_S
        collections = gc.get_stats()[-1]["collections"]
        for source in self._sources:
            self._sample(source)
        while self._left:
            reference, kind, at = self._left.popleft()
            thing = reference()
            if thing is not None and len(self._rows) < _AT_MOST * (len(self._sources) + 1):
                row = _Row(thing, None)
                row.end(at, kind, collections)
                self._rows.append(row)
            del thing
        self._rows = [row for row in self._rows if self._waits(row, now, collections)]
        overdue = [row for row in self._rows if row.ended_at is not None and now - row.ended_at >= _GRACE_S]
        if not self._busy and (self._ripe(now) or (overdue and self._may_collect(now))):
            self._busy = True
            self._elsewhere(lambda: self._see_to(now, collect=bool(overdue)))

    def _sample(self, source: Source) -> None:
        known = [row.reference() for row in self._rows if row.source is source]
        if len(known) >= _AT_MOST:
            return
        try:
            some = list(islice(source.some(), 2 * _EACH))
        except RuntimeError:  # it changed while we looked: another time
            return
        for thing in some:
            if not any(thing is one for one in known):
                known.append(thing)
                self._rows.append(_Row(thing, source))

    def _waits(self, row: _Row, now: float, collections: int) -> bool:
        """Whether to go on watching one; it is among those that were kept when its time was over."""
        thing = row.reference()
        if thing is None:
            return False
        if row.ended_at is None:
            if row.source is not None and row.source.over(thing):
                row.end(now, row.source.kind(thing), collections)
            return True
        if now - row.ended_at < _GRACE_S or collections <= row.collections:
            return True
        if row.kind in self._kept or len(self._kept) < _KINDS:
            kept = self._kept.setdefault(row.kind, [])
            kept[:] = [*(one for one in kept if one.reference() is not None), row][-_KEPT:]
        return False

    def _ripe(self, now: float) -> list[str]:
        """The kinds of which several stay, and which were not told lately."""
        found = []
        for kind, rows in list(self._kept.items()):
            rows[:] = [row for row in rows if row.reference() is not None]
            if not rows:
                del self._kept[kind]
            elif len(rows) >= _FEW and now >= self._quiet.get(kind, now):
                found.append(kind)
        return found

    def _may_collect(self, now: float) -> bool:
        import sys  # noqa: PLC0415

        return gc.isenabled() and now >= self._collect_at and sys.getallocatedblocks() <= _BLOCKS_AT_MOST

    def _elsewhere(self, work: Callable[[], None]) -> None:
        if self._inline:
            work()
            return
        try:
            start_thread(work, "memguard-examine")
        except RuntimeError:  # no thread to be had: the next look tries again
            self._busy = False

    # --- on a thread of its own ---------------------------------------------------------------------------------------

    def _see_to(self, now: float, *, collect: bool) -> None:
        try:
            if collect and self._may_collect(now):
                began = time.thread_time()
                gc.collect()
                self._collect_at = now + max(_COLLECT_S, _COLLECT_TIMES * (time.thread_time() - began))
            for kind in self._ripe(now):
                self._say(kind, now)
        except BaseException as error:  # noqa: BLE001 - nothing escapes from a guard's thread
            words = f"scopes that have ended could not be looked at: {type(error).__name__}: {error}"
            self._tell(Event(at=now, name="leak.unexamined", text=words))
        finally:
            self._busy = False

    def _say(self, kind: str, now: float) -> None:
        """Who holds the last one of a kind, unless it is at work still, or a holder of ours has it."""
        rows = list(self._kept.get(kind, ()))
        thing = rows[-1].reference() if rows else None
        if thing is None:
            return
        chain = find(thing)
        del thing
        shown = _trimmed(chain)
        if any(link.type.startswith(_OURS) for link in shown.links[:-1]):
            self._quiet[kind] = now + _QUIET_S  # another pool, a cache: there on purpose
            return
        since = now - min(row.ended_at or now for row in rows)
        if chain.kind in _AT_WORK and since < _AT_WORK_S:
            self._quiet[kind] = now + _GRACE_S
            return
        self._quiet[kind] = now + _QUIET_S
        held = f"one is held as {shown}" if shown.found else f"who holds one is not known: {shown.note}"
        text = f"{kind}: {len(rows)} that ended {format_seconds(since)} ago or less are still there; {held}"
        attributes: dict[str, str | int | float | bool] = {
            "label": kind, "type": shown.links[-1].type if shown.links else "", "path": shown.path, "kept": len(rows),
        }  # fmt: skip
        self._tell(Event(at=now, name="leak.kept", text=text, attributes=attributes))

    def forget(self) -> None:
        """In a forked child: what was open is the parent's."""
        self._rows, self._busy = [], False
        self._kept.clear()
        self._left.clear()


def _trimmed(chain: Chain) -> Chain:
    """The chain without its end in our own objects: what the program holds is what holds those."""
    links = list(chain.links)
    while len(links) > 1 and links[-1].type.startswith(_OURS):
        links.pop()
        while len(links) > 1 and links[-1].type in _PASSING:
            links.pop()
    return replace(chain, links=tuple(links))
