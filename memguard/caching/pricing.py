"""What a cached entry is worth: seconds of recomputing that a byte of it saves, per second."""

from __future__ import annotations

from array import array
from itertools import accumulate
from math import frexp
from typing import TYPE_CHECKING, Final

from memguard.caching.entry import ENDLESS, Entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.caching.entry import Cohort

__all__ = ["Habits", "cheap_among", "price_of"]

# How often an entry can still yield its value, asked without a call in Python.
_LEFT: Final[Callable[[Entry], int]] = Entry.__length_hint__

# A recomputation costs at least this: clocks are no finer, and a price of 0 would tell nothing apart.
_LEAST_COST_S: Final = 1e-6

# Classes of entries: by hits so far (0, 1-2, 3-6, ... 127 and more) and by idle time, each twice the one before, from
# below a millisecond up. 64 columns reach further than any clock.
_ROWS: Final = 8
_COLUMNS: Final = 64
_FIRST: Final = 12
_SHORTEST_S: Final = 1e-3
# How many observed hits weigh as much as the guess made before anything is known, (1 + row) / idle time. Between 0.5
# and 5 it matters little: recompute cost 0.942 to 0.945 of GDSF's in geometric mean over the simulator's loads.
_GUESS_HITS: Final = 2.0
# Looks after which the past weighs half. 5,000 are too few to know 100 classes (+2 %), 100,000 gain 0.2 %.
_HALF_LOOKS: Final = 1 << 16


# Where the row of so many hits begins; 127 hits and more share the last one.
_MANY: Final = (1 << (_ROWS - 1)) - 1
_ROW: Final = tuple(((hits + 1).bit_length() - 1) * _COLUMNS + _FIRST for hits in range(_MANY + 1))


def _column_of(idle_s: float) -> int:
    return frexp(idle_s + _SHORTEST_S)[1] + _FIRST


class Habits:
    """How often the entries of one store are hit: hits and seconds watched, by hits so far and time since the last.

    A hit leaves nothing but a count. Whenever an entry is looked at, the hits since its last look and the time between
    are added to the class it was in then; so each class knows its hits a second, and an entry is expected to be hit as
    others of its class are. Entries of a scan thus get cheap at once, since nobody who had never been hit was hit
    later, and those of a session when its time is over. After Beckmann, Chen & Cidon, "LHD: Improving Cache Hit Rate
    by Maximizing Hit Density" (NSDI 2018), with time instead of accesses and sampled looks instead of events.
    """

    __slots__ = ("_left", "hits", "least", "rates", "time_s")

    def __init__(self) -> None:
        # Arrays, not lists: every cache that was ever looked through keeps a pair.
        self.hits: array[float] = array("d", bytes(8 * _ROWS * _COLUMNS))
        self.time_s: array[float] = array("d", bytes(8 * _ROWS * _COLUMNS))
        self.rates: list[float] = []
        """Hits a second by class, as of the last ``settle``; empty before the first."""
        self.least: list[float] = []
        """The least of the rates that an entry no older than a column may have."""
        self._left = _HALF_LOOKS
        for row in range(_ROWS):
            for column in range(_COLUMNS):
                self.hits[row * _COLUMNS + column] = _GUESS_HITS * (1 + row)
                self.time_s[row * _COLUMNS + column] = _GUESS_HITS * 2.0 ** (column - _FIRST)

    def look(self, entry: Entry, now: float) -> float:
        """Learn from an entry, and tell its hits a second."""
        cohort, slot = entry.cohort, entry.slot
        seen, at = cohort.seen[slot], cohort.at[slot]
        looked = cohort.looked[slot] or at
        new, watched_s = ENDLESS - _LEFT(entry) - seen, now - looked
        place = _ROW[seen if seen < _MANY else _MANY] + frexp(looked - at + _SHORTEST_S)[1]
        if new > 0:
            self.hits[place] += new
        self.time_s[place] += watched_s
        self._left -= 1
        if self._left <= 0:
            self._fade()
        if new > 0:
            # The last of so many hits that fall anywhere in a span lies at n / (n + 1) of it, on average.
            seen, at = seen + new, looked + watched_s * new / (new + 1)
            cohort.seen[slot], cohort.at[slot] = seen, at
        cohort.looked[slot] = now
        place = _ROW[seen if seen < _MANY else _MANY] + frexp(now - at + _SHORTEST_S)[1]
        return self.hits[place] / self.time_s[place]

    def settle(self) -> None:
        """Work out the rates of all classes; the market does so by sampling, before it lets a store shrink."""
        self.rates = [hits / time_s for hits, time_s in zip(self.hits, self.time_s, strict=True)]
        self.least = list(accumulate((min(self.rates[column::_COLUMNS]) for column in range(_COLUMNS)), min))

    def _fade(self) -> None:
        """Halve what has been learned, not the guess."""
        self._left = _HALF_LOOKS
        for place in range(_ROWS * _COLUMNS):
            row, column = divmod(place, _COLUMNS)
            self.hits[place] = (self.hits[place] + _GUESS_HITS * (1 + row)) / 2
            self.time_s[place] = (self.time_s[place] + _GUESS_HITS * 2.0 ** (column - _FIRST)) / 2


def price_of(entry: Entry, now: float, habits: Habits) -> float:
    """Hits a second times seconds to recompute, by bytes; 0.0 once expired. The habits learn from the look."""
    cohort, slot = entry.cohort, entry.slot
    if cohort.expires[slot] <= now:
        return 0.0
    return habits.look(entry, now) * (cohort.cost_s[slot] + _LEAST_COST_S) / (cohort.bytes[slot] or 1)


def cheap_among(cohort: Cohort, now: float, below: float, habits: Habits) -> list[Entry]:
    """Those of a cohort that are priced at or below, as ``price_of`` has it, without learning.

    An eviction looks at every entry of a store: most are told by their cost and bytes alone, at the least rate that
    any entry of that age may have. Rates are those of the last ``Habits.settle``.
    """
    most = below / habits.least[_column_of(now - cohort.born)]
    rates, late, seen, looked, found = habits.rates, now + _SHORTEST_S, cohort.seen, cohort.looked, list[Entry]()
    for slot, (entry, size, cost_s, at) in enumerate(
        zip(cohort.entries, cohort.bytes, cohort.cost_s, cohort.at, strict=False)
    ):
        if entry is None or cost_s > most * size:
            continue
        hits = ENDLESS - _LEFT(entry)
        if not hits:
            rate = rates[frexp(late - at)[1] + _FIRST]
        else:
            new, last = hits - seen[slot], at
            if new:
                since = looked[slot] or at
                last = since + (now - since) * new / (new + 1)
            rate = rates[_ROW[hits if hits < _MANY else _MANY] + frexp(late - last)[1]]
        if rate * (cost_s + _LEAST_COST_S) <= below * size:
            found.append(entry)
    return found
