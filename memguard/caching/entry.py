"""Entries, and the cohorts in which a store keeps them: 256 that came one after another."""

from __future__ import annotations

from array import array
from itertools import repeat
from math import frexp, inf
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["COHORT", "ENDLESS", "ENTRY_BYTES", "NEVER", "Cohort", "Counted", "Entry", "Figures", "deadline", "hits_of"]

ENDLESS: Final = 2**62
"""How often a new entry could yield its value: what is missing from it are its hits."""

# Slot numbers are then small integers, which CPython keeps ready; some 100 KiB of small values lie together.
COHORT: Final = 256
# The dict's own slots, at a load of two thirds, and the cohort's.
_SLOT_BYTES: Final = 112
# Expiry is early by at most this share of a lifetime, and by at most so many seconds: entries that expire at nearly
# the same time then share an instant, so that a store looks for them 128 times in a lifetime, or 32 times a second.
_EARLY_RATIO: Final = 1 / 64
_EARLY_S: Final = 1 / 16

Figures = tuple[int, float, float, float, int, float]
"""What a cohort keeps of an entry: bytes, cost_s, at, looked, seen, expires."""

if TYPE_CHECKING:
    _Repeat = repeat[Any]
    Doubles = array[float]
    Counts = array[int]
else:
    _Repeat = repeat


class Entry(_Repeat):
    """One cached value: an iterator that yields it for ever, so that C counts the hits.

    A hit is ``for value in table[key]: return value``: no call, no attribute, no lock; the count is exact under
    threads because one C function takes it. The rest is touched by misses and evictions alone. Its figures lie in the
    arrays of its cohort: a number of its own, made when somebody looks at an old entry, is a new object on some other
    page, which that entry then keeps from going back (of 50 % evicted 22 % came back, and 39 % without).
    """

    __slots__ = ("cohort", "key", "slot", "value")

    cohort: Cohort
    key: Any
    slot: int
    value: Any

    @property
    def bytes(self) -> int:
        """Accounted bytes; 0 once it is out."""
        return self.cohort.bytes[self.slot]

    @property
    def cost_s(self) -> float:
        """Seconds that making it took."""
        return self.cohort.cost_s[self.slot]

    @property
    def expires(self) -> float:
        """The instant at which it expires; infinity: never."""
        return self.cohort.expires[self.slot]

    @property
    def figures(self) -> Figures:
        """All that its cohort keeps of it."""
        cohort, slot = self.cohort, self.slot
        return (
            cohort.bytes[slot], cohort.cost_s[slot], cohort.at[slot], cohort.looked[slot], cohort.seen[slot],
            cohort.expires[slot],
        )  # fmt: skip


class Counted(Entry):
    """An entry whose owner measures it in units of its own beside bytes."""

    __slots__ = ("units",)

    units: float


ENTRY_BYTES: Final = 80 + 6 * 8 + _SLOT_BYTES
"""Bytes that an entry costs beside its key and value: itself, its figures, and its places in dict and cohort."""

_LEFT: Final[Callable[[Entry], int]] = Entry.__length_hint__


def hits_of(entry: Entry) -> int:
    """How often the entry's value was taken."""
    return ENDLESS - _LEFT(entry)


def deadline(now: float, ttl_s: float) -> float:
    """When a value that is good for so many seconds from now expires.

    Rounded down to a power of two of at most 1/64 of them and 1/16 s.

    Raises:
        ValueError: the number of seconds is none.
    """
    if not ttl_s >= 0:
        raise ValueError(f"a ttl of {ttl_s!r} is not a number of seconds above 0")
    early_s = min(ttl_s * _EARLY_RATIO, _EARLY_S)
    step_s: float = 2.0 ** (frexp(early_s)[1] - 1)
    return (now + ttl_s) // step_s * step_s if early_s and ttl_s != inf else now + ttl_s


NEVER: Final[Doubles] = array("d", [inf]) * COHORT
"""The ``expires`` of cohorts where nothing does."""


_OUT: Final[Counts] = array("q", bytes(8 * COHORT))
"""The ``bytes`` of cohorts that were emptied; nobody writes there."""


class Cohort:
    """Up to 256 entries that were inserted one after another; holes are None. By slot it keeps their figures.

    ``at`` is the estimated instant of the last hit, or the one of insertion, ``looked`` that of the last look (0.0:
    none yet), ``seen`` the hits at that look. ``born`` is when the oldest came, ``due`` when the first of them expires
    (or earlier). ``places`` is for how many there are figures; it grows.
    """

    __slots__ = (
        "at", "born", "bytes", "cost_s", "due", "entries", "expires", "holes", "looked", "places", "seen",
    )  # fmt: skip

    def __init__(self, born: float, places: int = COHORT) -> None:
        self.entries: list[Entry | None] = []
        self.holes: int = 0
        self.born: float = born
        self.due: float = inf
        self.places: int = places
        none = bytes(8 * places)
        self.bytes: Counts = array("q", none)
        self.cost_s: Doubles = array("d", none)
        self.at: Doubles = array("d", none)
        self.looked: Doubles = array("d", none)
        self.seen: Counts = array("q", none)
        self.expires: Doubles = NEVER

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.living())

    def living(self) -> list[Entry]:
        """Its entries without the holes; safe without the lock."""
        return [entry for entry in self.entries if entry is not None]

    @property
    def full(self) -> bool:
        """Whether no more entries fit."""
        return len(self.entries) >= COHORT

    def place(self, entry: Entry, figures: Figures) -> None:
        """Give an entry the next place, and keep its figures: others may ask for them from now on."""
        slot = len(self.entries)
        if slot >= self.places:
            self._grow()
        _, self.cost_s[slot], self.at[slot], self.looked[slot], self.seen[slot], expires = figures
        if expires < inf and self.expires is NEVER:
            self.expires = NEVER[:]
        if self.expires is not NEVER:
            self.expires[slot] = expires
        entry.slot = slot
        entry.cohort = self

    def take_in(self, entry: Entry, entry_bytes: int) -> None:
        """Put the entry in that was placed last."""
        self.entries.append(entry)
        self.bytes[entry.slot] = entry_bytes

    def drop(self, entry: Entry) -> None:
        """Take out an entry that is in."""
        slot = entry.slot
        self.entries[slot] = None
        self.bytes[slot] = 0
        self.holes += 1

    def empty(self) -> list[Entry | None]:
        """Take out all; whoever holds one of them sees that it is out. It stays empty."""
        taken, self.entries, self.holes = self.entries, [], 0
        self.bytes = _OUT
        return taken

    def _grow(self) -> None:
        places = min(COHORT, 4 * self.places)
        more = bytes(8 * (places - self.places))
        for figures in (self.bytes, self.cost_s, self.at, self.looked, self.seen):
            figures.frombytes(more)
        self.places = places
