"""The store: entries, their bytes and their prices, behind a lock that no hit ever takes."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from math import inf
from operator import itemgetter
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from memguard.caching.entry import ENDLESS, NEVER, Counted, Entry, deadline
from memguard.caching.pricing import price_of
from memguard.caching.shelf import Shelved
from memguard.caching.table import PASSES, is_mine, units_of
from memguard.turns import give_way

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from memguard.caching.entry import Cohort, Figures

__all__ = ["Store"]

# Candidates of one eviction by price: more buy little (facts of the design), fewer miss the cheap ones.
_SAMPLE: Final = 16
# So many of them are new at each eviction, as in Redis: the others are the cheapest that were seen before.
_FRESH: Final = 4
_PRICE: Final = itemgetter(0)
_TRIES: Final = 8
# More cannot be accounted for.
_MOST_BYTES: Final = 1 << 62
# Keys whose comparison is C's.
_TAME: Final = frozenset({str, bytes, int, float, bool})
# Victims that one put takes one by one; more go at once, by a price that so many looks tell, in so many rounds.
_VICTIMS: Final = 32
_LOOKS: Final = 256
_ROUNDS: Final = 3
# What one look after itself may measure anew, and for how long.
_REMEASURED: Final = 64
_TEND_S: Final = 0.0005


class Store(Shelved):
    """Entries whose bytes are accounted, bounded by count, by bytes, or by the market alone.

    ``maxsize`` evicts by SIEVE (Zhang et al., NSDI 2024): the hand passes from old to new and takes the first that was
    not hit since it last came by. It counts entries, or ``units`` when these are given. ``max_bytes`` and the market
    evict by price: the least of hits a second times seconds of recomputing by bytes. ``size_of(key, value)`` gives the
    bytes of an entry, itself included. ``relocates`` allows ``relocate()``.
    As a Shelf it is what the market sees of a cache.
    """

    bytes: int
    units: Any

    def __init__(  # noqa: PLR0913 - what a cache is told, by name
        self,
        *,
        name: str,
        size_of: Callable[[Any, Any], int],
        maxsize: float | None = None,
        max_bytes: int | None = None,
        min_bytes: int = 0,
        weight: float = 1.0,
        relocates: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock, name=name, min_bytes=min_bytes, weight=weight)
        self.maxsize: float | None = maxsize
        self.max_bytes: int | None = max_bytes
        self.relocates: bool = relocates
        self.on_growth: Callable[[int], bool] | None = None
        """Asked before every new value, without the lock, whether so many bytes may come: the market's budget."""
        self.too_large: int = 0
        self._limitless = maxsize is None and max_bytes is None
        self._size_of = size_of
        self._offers: list[tuple[float, int, int, Cohort, int]] = []

    # --- changing -------------------------------------------------------------------------------------------------

    def put(  # noqa: C901, PLR0912, PLR0913, PLR0915 - what is known of a value, by name; every miss pays
        self,
        key: Hashable,
        value: object,
        *,
        cost_s: float = 0.0,
        ttl_s: float | None = None,
        units: Any = None,  # noqa: ANN401 - an int or a Fraction
        over: bool = True,
        still: Callable[[], bool] | None = None,
    ) -> bool:
        """Keep a value, in place of the one of that key; whether it was small enough.

        ``cost_s`` is how long making it took, ``ttl_s`` how long it is good for (0 or less: only the old one goes),
        ``units`` what it counts against ``maxsize``, an int or a Fraction: for all entries of a store or for none.
        Without ``over`` a living entry of that key stays, and the answer is False. ``still`` is asked at the last
        moment, as part of the change, whether the value is wanted: who makes it say no, and then pops the key, knows
        that nobody sees the value from then on.

        Raises:
            ValueError: ``size_of`` gave a negative size or none, or ``ttl_s`` is not a number.
            TypeError: the key cannot be hashed, or ``size_of`` gave no number.
        """
        size = self._size_of(key, value)
        if type(size) is not int or not 0 <= size < _MOST_BYTES:
            size = self._whole(size)
        if self.on_growth is not None and not self._busy and not self.on_growth(size):
            self.too_large += 1
            return False
        now = self.clock()
        entry = Entry(value, ENDLESS) if units is None else Counted(value, ENDLESS)
        entry.key = key
        entry.value = value
        expires = inf
        if ttl_s is not None:
            if ttl_s <= 0:
                self.pop(key)
                return False
            expires = deadline(now, ttl_s)
        most = self.max_bytes
        if most is not None and (self.bytes + size - most) * len(self.table) > _VICTIMS * self.bytes and size <= most:
            self._cede(key, size, most)
        if units is not None or not over:
            return self._put_counted(entry, (size, cost_s, now, 0.0, 0, expires), units, over=over)
        kept: bool | None = None
        with self._lock:
            if not self._busy:
                self._busy = True
                cohort = self._cohorts.newest
                entries = cohort.entries
                slot = len(entries)
                if still is not None and not still():
                    kept = False
                elif (
                    (self.maxsize is None or len(self.table) < self.maxsize)
                    and (self.max_bytes is None or self.bytes + size <= self.max_bytes)
                    and 0 < slot < cohort.places
                    and expires >= cohort.due
                ):  # _insert, unrolled
                    cohort.at[slot] = now
                    cohort.cost_s[slot] = cost_s
                    if cohort.expires is not NEVER:
                        cohort.expires[slot] = expires
                    entry.slot = slot
                    entry.cohort = cohort
                    try:
                        old = self.table.setdefault(key, entry)
                    except Exception:
                        self._unharmed()
                        raise
                    if old is not entry:
                        self._replace(entry, old)
                    entries.append(entry)
                    cohort.bytes[slot] = size
                    self.bytes += size
                    kept = True
                else:
                    kept = self._insert(entry, (size, cost_s, now, 0.0, 0, expires))
                self._busy = False
                if self._later:
                    self._catch_up()
                dropped = self._dropped  # their destructors may call back: they die at our return, without the lock
                if dropped:
                    self._dropped = []
                elif kept:
                    return True
        # Not kept: from inside of another change, or after one that was broken off.
        if kept is None:
            hash(key)  # raises now, not later
            insert = self._insert if still is None else partial(self._insert_if, still)
            kept = self._change(insert, entry, (size, cost_s, now, 0.0, 0, expires)) is not False
        return kept

    def _insert_if(self, still: Callable[[], bool], entry: Entry, figures: Figures) -> bool:
        return still() and self._insert(entry, figures)

    def _put_counted(self, entry: Entry, figures: Figures, units: Any, *, over: bool) -> bool:  # noqa: ANN401
        if isinstance(entry, Counted):
            entry.units, self._counts = units, True
        return self._change(self._insert if over else self._insert_new, entry, figures) is not False

    def _cede(self, key: Hashable, size: int, max_bytes: int) -> None:
        """Make room for what takes the place of many: by a price for all and in slices, not one by one in the lock."""
        if is_mine(self._lock):
            return
        old = None
        with suppress(Exception):  # a key that raises will do so again
            old = self.table.get(key)
        for _ in range(_ROUNDS):
            wanted = self.bytes + size - max_bytes - (0 if old is None else old.bytes)
            if wanted * len(self.table) <= _VICTIMS * self.bytes:
                return
            offers = sorted(self.sample(_LOOKS), key=_PRICE)
            summed, share = 0, wanted / self.bytes * sum(each for _, each in offers)
            for price, each in offers:
                summed += each
                if summed >= share:
                    self.shrink(wanted, price)
                    break

    def limit(self, maxsize: int | None) -> None:
        """Have at most so many entries, if no limit was given at the start."""
        if self._limitless:
            self.maxsize = maxsize
            began = perf_counter()
            while maxsize is not None and len(self.table) > maxsize and self.take() is not None:
                began = give_way(began)

    def take(self) -> Entry | None:
        """Take out the entry that would be evicted next; None when there is none."""
        self.expire()
        while (entry := self._change(self._choose) or next(iter(self._cohorts.pick(1)), None)) is not None:
            if self._change(self._remove, entry) is not False:
                return entry
        return None

    def _whole(self, size: Any) -> int:  # noqa: ANN401 - whatever size_of gave
        if not 0 <= size < _MOST_BYTES:
            raise ValueError(f"cache {self.name!r}: a value's size is {size!r} bytes; it must be a number from 0 on")
        return int(size)

    def _insert(self, entry: Entry, figures: Figures) -> bool:
        table, maxsize, max_bytes, size = self.table, self.maxsize, self.max_bytes, figures[0]
        full = (maxsize is not None and (self._counts or len(table) >= maxsize)) or (
            max_bytes is not None and self.bytes + size > max_bytes
        )
        if full and not self._make_room(entry, size, figures[2]):
            self.too_large += 1
            return False
        self._cohorts.place(entry, figures)
        try:
            old = table.setdefault(entry.key, entry)
        except Exception:
            self._unharmed()
            raise
        if old is not entry:
            self._replace(entry, old)
        self._cohorts.take_in(entry, size)
        self.bytes += size
        if self._counts:
            self.units += units_of(entry)
        return True

    def _insert_new(self, entry: Entry, figures: Figures) -> bool:
        try:
            old = self.table.get(entry.key)
        except Exception:
            self._unharmed()
            raise
        if old is not None and old.expires > figures[2]:
            return False
        return self._insert(entry, figures)

    def _replace(self, entry: Entry, old: Entry) -> None:
        """Put an entry in the old one's place."""
        table, key = self.table, entry.key
        try:
            if type(key) in _TAME and type(old.key) in _TAME:  # at no time is there none
                table[key] = entry
                entry.key = old.key  # which the dict keeps
                self._retire(old)
                return
            # Only pop tells which entry it takes: an __eq__ may have changed its mind.
            for _ in range(_TRIES):
                found = table.pop(key, None)
                if found is not None:
                    self._retire(found)
                if table.setdefault(key, entry) is entry:
                    return
        except Exception:
            self._unharmed()
            raise
        self._unharmed()
        raise RuntimeError(f"cache {self.name!r}: a key of type {type(key).__name__} equals others only now and then")

    def _make_room(self, entry: Entry, size: int, now: float) -> bool:
        """Evict until an entry fits; False when it never will."""
        maxsize, max_bytes, units = self.maxsize, self.max_bytes, units_of(entry)
        if (maxsize is not None and units > maxsize) or (max_bytes is not None and size > max_bytes):
            return False
        if self.due[0] <= now:
            self._expire(now, PASSES)
        try:
            old = self.table.get(entry.key)
        except Exception:
            self._unharmed()
            raise
        if old is not None:
            units -= units_of(old)
        while maxsize is not None and (self.units if self._counts else len(self.table)) + units > maxsize:
            if not self._evict(self._by_hand(old)):
                break
        need = size - (old.bytes if old is not None else 0)
        while max_bytes is not None and self.bytes + need > max_bytes:
            if not self._evict(self._by_price(old)):
                break
        return True

    def _by_price(self, spared: Entry | None = None) -> Entry | None:
        """The cheapest of 16: the best of those seen at earlier evictions, and a few picked at random."""
        now, offers, habits = self.clock(), self._offers, self.habits
        for entry in self._cohorts.pick(_FRESH if len(offers) >= _SAMPLE - _FRESH else _SAMPLE):
            price = price_of(entry, now, habits)
            offers.append((price, id(entry), entry.__length_hint__(), entry.cohort, entry.slot))
        offers.sort(key=_PRICE, reverse=True)
        del offers[: -_SAMPLE + 1]
        while offers:
            _, number, left, cohort, slot = offers.pop()
            entries = cohort.entries
            found = entries[slot] if slot < len(entries) else None
            # Places, not entries, are remembered, or what is dropped would stay alive.
            if found is not None and id(found) == number and found is not spared and found.__length_hint__() == left:
                return found
        return next((entry for entry in self._cohorts.pick(2) if entry is not spared), None)

    def _choose(self) -> Entry | None:
        return self._by_price() if self.maxsize is None else self._by_hand(None)

    def _by_hand(self, spared: Entry | None) -> Entry | None:
        now, habits = self.clock(), self.habits
        return self._cohorts.by_hand(spared, lambda entry: habits.look(entry, now))

    # --- looking after itself -----------------------------------------------------------------------------------------

    def tend(self) -> None:
        """Look after a few entries: what grew is accounted anew, what has expired goes, sparse cohorts are merged."""
        self._change(self._expire, self.clock(), PASSES)
        until = perf_counter() + _TEND_S
        for entry in self._cohorts.pick(_REMEASURED):
            self.habits.look(entry, self.clock())
            with suppress(Exception):
                size = self._whole(self._size_of(entry.key, entry.value))
                if size != entry.bytes:
                    self._change(self._reweigh, entry, size)
            if perf_counter() > until:
                break
        self._change(self._cohorts.tidy)
        self._change(self._cohorts.sweep)

    def _reweigh(self, entry: Entry, size: int) -> None:
        if self._cohorts.holds(entry):
            self.bytes += size - entry.bytes
            entry.cohort.bytes[entry.slot] = size
            while self.max_bytes is not None and self.bytes > self.max_bytes:
                if not self._evict(entry if size > self.max_bytes else self._by_price()):
                    break
