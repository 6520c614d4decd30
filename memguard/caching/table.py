"""The table: entries behind a lock that no hit ever takes, changed by one change at a time, and what they add up to."""

from __future__ import annotations

import time
from _thread import RLock
from collections import deque
from contextlib import suppress
from itertools import repeat
from operator import attrgetter, is_
from sys import is_finalizing
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from memguard.caching import forks
from memguard.caching.cohorts import Cohorts
from memguard.caching.entry import ENDLESS, Counted, Entry, hits_of
from memguard.turns import bury

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from memguard.caching.entry import Cohort, Figures

__all__ = ["PASSES", "Table", "is_mine", "units_of"]

# A table of so many bytes is emptied before it dies: it would die in one piece of a millisecond and more.
_MANY_BYTES: Final = 2 << 20
# How often an entry can still yield its value, asked without a call in Python.
_LEFT: Final = Entry.__length_hint__
_KEY: Final = attrgetter("key")
# Due cohorts that one look-up may clear on its way, and after how many bytes it leaves the rest to the next: some 1 ms.
PASSES: Final = 4
_EXPIRED_BYTES: Final = 1 << 20


class Table:
    """A dict of entries whose bytes and units are accounted exactly.

    ``table[key]`` may be read by any thread at any time without the lock; iterating the entry found is a hit. Every
    change takes the lock, and is put off until the one under way has ended when it comes from inside of it (a key's
    ``__eq__``, a signal handler, a finalizer); what it raises then is lost. What is dropped dies after the lock is
    free. A change that is broken off (KeyboardInterrupt) is mended by the next.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.table: dict[Any, Entry] = {}
        self.bytes: int = 0
        self.units: Any = 0
        """What the entries' ``units`` add up to, exactly; 0 while none have any."""
        self._counts = False
        self._retired_hits = 0
        self._clearings = 0
        self._lock = RLock()
        # A change is under way, or was broken off.
        self._busy = False
        self._later: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._dropped: list[object] = []
        # Keys that changed while their entries were out to be relocated; None: none are out.
        self._changed: set[Any] | None = None
        self._cohorts = Cohorts()
        self.due: list[float] = self._cohorts.due
        """The instant at which the next entry expires, for generated code to compare with; infinity: none does."""
        forks.enrol(self)

    def __del__(self) -> None:
        if self.bytes > _MANY_BYTES and not is_finalizing():
            self.clear()
        # Entries know their cohorts, and cohorts their entries: all would wait for the collector.
        self._cohorts.take()

    # --- reading --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, oldest first; changes meanwhile are seen or not."""
        return iter(self._cohorts)

    @property
    def hits(self) -> int:
        """How often any value was taken; walks all entries."""
        return self._retired_hits + sum(map(hits_of, self))

    def fresh(self, key: Hashable) -> Entry | None:
        """The entry of a key, unless it has expired; takes a few expired ones out on the way."""
        now = self.clock()
        if self.due[0] <= now:
            self._change(self._expire, now, PASSES)
        entry = self.table.get(key)
        return None if entry is None or entry.expires <= now else entry

    # --- changing -------------------------------------------------------------------------------------------------

    def pop(self, key: Hashable) -> Entry | None:
        """Take an entry out, expired or not; None when there is none, and no put under way brings one."""
        while (entry := self.table.get(key) or self._change(self.table.get, key)) is not None:
            if self._change(self._remove, entry) is not False:
                return entry
        if self._changed is not None:
            self._changed.add(key)
        return None

    def clear(self) -> None:
        """Drop everything, and count hits from zero.

        It goes at once; then it dies bit by bit, and others work between. A dict of a million takes 8 to 13 ms to be
        emptied: half of that goes into giving its 40 MiB back, which nobody can do bit by bit.
        """
        began, each = perf_counter(), self._each_bytes
        taken = self._change(self._clear) or []
        while taken:
            began = bury(taken.pop(), each, began)

    def expire(self) -> int:
        """Drop all that has expired; how many entries went."""
        now, gone, began = self.clock(), 0, perf_counter()
        dead, each = list[object](), self._each_bytes
        while self.due[0] <= now:
            dropped = self._change(self._gather, dead, self._expire, now, 1)
            if dropped is None:  # put off
                break
            gone += dropped
            began = bury(dead, each, began)
        return gone

    def forget(self) -> None:
        """In a forked child: the lock may be held for ever by a thread that is gone, amid a change."""
        if not is_mine(self._lock):
            self._lock = RLock()
            self._later.clear()
        self._changed = None

    def _change(self, operation: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401 - what the operation gives
        """Run it as the only change; None when it is put off because it comes from inside of another."""
        # A busy table whose lock was free: that change was broken off.
        inside = is_mine(self._lock)
        with self._lock:
            if inside and self._busy:
                self._later.append((operation, args))
                return None
            torn, self._busy = self._busy, True
            if torn:
                self._mend()
            result = operation(*args)
            self._busy = False
            if self._later:
                self._catch_up()
            dropped, self._dropped = self._dropped, []
        del dropped  # their destructors may call back: not under the lock
        return result

    def _gather(self, dead: list[object], operation: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401 - as above
        """Make a change, and hand over what it drops: to ``bury`` where much may die."""
        result = operation(*args)
        dead += self._dropped
        self._dropped = []
        return result

    @property
    def _each_bytes(self) -> float:
        return self.bytes / (len(self.table) or 1)

    def _catch_up(self) -> None:
        """Make the changes that were put off."""
        while self._later:
            operation, args = self._later.popleft()
            with suppress(Exception):
                self._change(operation, *args)
            self._dropped.append(args)  # what was gathered there must not die under the lock

    def _unharmed(self) -> None:
        """A key has raised while the dict was asked: when both still agree, nothing has changed."""
        if len(self.table) == self._cohorts.live():
            self._busy = False

    def _remove(self, entry: Entry) -> bool:
        if not self._cohorts.holds(entry):
            return False
        try:
            found = self.table.pop(entry.key, None)
        except Exception:  # noqa: BLE001 - whatever a key may raise
            found = None
        if found is entry:
            self._retire(entry)
        else:  # its key hashes or compares otherwise than when it came
            self._mend(without=entry)
        return True

    def _retire(self, entry: Entry) -> None:
        """Account for an entry that has left the table."""
        if self._cohorts.holds(entry):
            self.bytes -= entry.bytes
            entry.cohort.drop(entry)
            if self._counts:
                self.units -= units_of(entry)
            self._part([entry])

    def _part(self, entries: list[Entry]) -> None:
        """Let go of entries that are out."""
        self._retired_hits += ENDLESS * len(entries) - sum(map(_LEFT, entries))
        self._dropped += entries
        if self._changed is not None:
            for entry in entries:
                with suppress(Exception):
                    self._changed.add(entry.key)

    def _account(self, entry: Entry, figures: Figures) -> None:
        """Count an entry that is in the table already, old as it may be."""
        size, _, at, *_ = figures
        self._cohorts.place(entry, figures)
        self._cohorts.take_in(entry, size)
        entry.cohort.born = min(at, entry.cohort.born)
        self.bytes += size
        if self._counts:
            self.units += units_of(entry)

    def _mend(self, *, without: Entry | None = None) -> None:
        """Build dict, cohorts and sums anew after a key has misbehaved or a change was broken off."""
        table, cohorts = self.table, self._cohorts
        kept = [(key, entry) for key, entry in table.items() if entry is not without]
        lost = {id(entry): entry for entry in (*self, *table.values())}
        figures = {number: entry.figures for number, entry in lost.items() if hasattr(entry, "cohort")}  # placed
        table.clear()
        cohorts.take()
        self.bytes = self.units = 0
        for key, entry in kept:
            with suppress(Exception):
                if table.setdefault(key, entry) is not entry:
                    continue
                if table.get(key) is not entry:  # it hashes as it likes
                    table.popitem()
                    continue
                if id(entry) not in figures:  # its insertion was broken off
                    table.popitem()
                    continue
                self._account(entry, figures[id(entry)])
                del lost[id(entry)]
        self._part([*lost.values()])

    def _empty(self, cohort: Cohort) -> int:
        """Take out a whole cohort; how many bytes went."""
        entries, size, before = cohort.living(), sum(cohort.bytes), self.bytes
        found: list[Any] = []
        try:
            found.extend(map(self.table.pop, list(map(_KEY, entries)), repeat(None)))
        except Exception:  # noqa: BLE001 - whatever a key may raise
            found.append(None)
        if len(found) != len(entries) or not all(map(is_, found, entries)):
            self._mend()
            return before - self.bytes
        cohort.empty()
        self.bytes -= size
        if self._counts:
            self.units -= sum(map(units_of, entries))
        self._part(entries)
        return size

    def _clear(self) -> list[list[Any]]:
        taken = self._cohorts.take()
        self.table.clear()
        self._retired_hits = self.bytes = self.units = 0
        self._clearings += 1
        return taken

    def _expire(self, now: float, passes: int) -> int:
        """Take out what has expired, in so many cohorts as long as that is not much; how many entries went."""
        gone, least_bytes = 0, self.bytes - _EXPIRED_BYTES
        for _ in range(passes):
            if self.due[0] > now or self.bytes < least_bytes:
                break
            for entry in self._cohorts.expired(now):
                gone += self._remove(entry)
                if self.bytes < least_bytes:
                    break
            self._cohorts.renew()
        return gone


def is_mine(lock: Any) -> bool:  # noqa: ANN401 - typeshed does not know it
    """Whether this thread holds the lock, as ``threading.Condition`` asks."""
    return bool(lock._is_owned())  # noqa: SLF001


def units_of(entry: Entry) -> Any:  # noqa: ANN401 - an int or a Fraction
    """What an entry counts: its own units, or 1."""
    return entry.units if isinstance(entry, Counted) else 1
