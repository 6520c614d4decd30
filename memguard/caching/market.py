"""The market: all caches of a process as one reclaimer, which evicts what is worth the least, wherever it lies."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from math import ceil, inf
from operator import itemgetter
from random import random
from typing import TYPE_CHECKING, Any, Final

from memguard import roster as rosters
from memguard.caching.places import Part, Place, Places
from memguard.caching.returns import Returns
from memguard.model import Level
from memguard.threads import new_lock
from memguard.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard.kinds import Cost
    from memguard.ports import Shelf
    from memguard.roster import Handle, Roster

__all__ = ["Market", "Part", "market_of"]

# Entries looked at to find the price below which enough bytes lie, of all shelves together, by their bytes: 5 % is
# then found to within a seventh of it.
_SAMPLED: Final = 1024
# Of each shelf at least, and for each entry evicted at a growth: eviction by sampling 16.
_SAMPLE: Final = 16
# A sample errs: a price is found for a tenth more than is wanted, and anew while that was not enough. Two rounds are
# usual; the rest is for shelves that others fill meanwhile.
_MARGIN: Final = 1.1
_ROUNDS: Final = 16
# Entries that one growth may evict one by one, some 0.3 ms; what is more goes by a price for all.
_VICTIMS: Final = 16
# A growth above the budget evicts so much more, so that the next few need not look: 1/1024 of the budget, and no more
# than half of what may go one by one.
_SLACK_RATIO: Final = 1 / 1024
_PRICE: Final = itemgetter(0)


def market_of(roster: Roster | None = None) -> Market:
    """The roster's market, which signs up there at the first call; the same for all threads."""
    roster = rosters.DEFAULT if roster is None else roster
    for _, reclaimer in roster.entries():
        if isinstance(reclaimer, Market):
            return reclaimer
    # One step in C: of several first callers one wins, without a lock that a fork or a finalizer could leave held.
    fresh = Market()
    market: Market = vars(roster).setdefault("_market", fresh)
    if market is fresh:
        roster.add(market)
    return market


class Market:
    """All caches of a process as one reclaimer.

    It samples entries of every shelf, finds the price below which the wanted bytes lie, and lets each shelf evict
    what is cheaper: expired entries first, and no shelf below its ``min_bytes``. Shelves are held weakly when they say
    by what (``held``). What it claims are accounted bytes.

    ``budget_bytes`` bounds all caches together, None: the guard alone does. A shelf with an attribute ``on_growth``
    then finds a function there that it asks before every new entry whether so many bytes may come; it makes room first,
    and answers no to what is larger than the whole budget. Shelves without are looked at once a second. ``offers`` and
    ``evict`` (see Store) let single entries go; shelves without are asked to ``shrink`` by as much.

    ``why`` says why the last ``reclaim`` gave less than wanted, "" when it did not, and ``refilled_bytes`` how much the
    caches took anew during it.
    """

    name = "caches"
    cost: Cost = "cheap"
    at = Level.WARNING
    settles = False
    stalls = False

    def __init__(self) -> None:
        self._places = Places()
        self._budget_bytes: int | None = None
        self._maxsize: int | None = None
        self.why: str = ""
        self.refilled_bytes: int = 0
        self._returns = Returns()
        self._scattered = False
        self._room = 0
        self._mean = 1024.0
        self._keeper, self._pid = new_lock(), os.getpid()

    # --- who is on it ---------------------------------------------------------------------------------------------

    def join(self, shelf: Shelf, *, held: object | None = None, weakly: bool = False) -> Handle:
        """Put a shelf on the market; it leaves when ``held`` dies or the handle is closed.

        ``weakly``: somebody else keeps it alive, and what it keeps may refer to that one.

        A name that is taken gets a number: ``"answers"``, then ``"answers#2"``; the handle knows it.
        """
        place = self._places.add(shelf, weakly=weakly)
        self._listen(place)
        if self._maxsize is not None:
            place.call("limit", self._maxsize)

        def leave() -> None:
            if self._places.drop(place):
                self._listen(place)

        if held is not None:
            weakref.finalize(held, leave).atexit = False
        return rosters.Handle(place.name, close=leave, alive=lambda: place.alive)

    @property
    def shelves(self) -> tuple[Shelf, ...]:
        """Every cache on the market."""
        return tuple(place.shelf for place in self._places.all())

    def size(self) -> int:
        """Accounted bytes of all caches that know theirs."""
        return sum(place.size() or 0 for place in self._places.all())

    def parts(self) -> Sequence[Part]:
        """Each cache: what it holds, and what it has given so far."""
        return [
            Part(name=place.name, bytes=place.size(), evicted_bytes=place.evicted_bytes, error=place.error)
            for place in self._places.all()
        ]

    # --- giving back ----------------------------------------------------------------------------------------------

    def reclaim(self, wanted_bytes: int, /) -> int:
        """Evict the cheapest entries of all caches until so many accounted bytes are gone; claims their sum.

        Raises:
            Exception: what a shelf raised, when nothing at all could be evicted.
        """
        self.why = ""
        if wanted_bytes <= 0:
            return 0
        if self._scattered:
            self._scattered = False
            for place in self._places.all():
                place.call("relocate")
        errors, before = list[Exception](), self.size()
        freed = self._evict(wanted_bytes, errors)
        self.refilled_bytes = max(0, self.size() - before + freed)
        if not freed and errors:
            raise errors[-1]
        if freed < wanted_bytes:
            self.why = self._explain(wanted_bytes, freed, errors)
        return freed

    def _evict(self, wanted: int, errors: list[Exception]) -> int:
        freed = self._expire(errors)
        for _ in range(_ROUNDS):
            if freed >= wanted:
                return freed
            gone = 0
            for price, share, place in self._shares(wanted - freed, errors):
                gone += self._shrink(place, min(share, wanted - freed - gone), price, errors)
            freed += gone
            if gone <= 0:  # no prices to be had: then anything, as far as floors allow
                break
        for place in self._places.all():
            freed += self._shrink(place, wanted - freed, inf, errors)
        return freed

    def _explain(self, wanted: int, freed: int, errors: list[Exception]) -> str:
        why = "every cache is empty or at its floor (min_bytes)" if self._places.all() else "there is no cache"
        if errors:
            why = f"{type(errors[-1]).__name__}: {errors[-1]}"
        return f"asked for {format_bytes(wanted)}, evicted {format_bytes(freed)}: {why}"

    def _expire(self, errors: list[Exception]) -> int:
        """Let what has expired go, everywhere, before anything that has not."""
        freed = 0
        for place in self._places.all():
            before = place.size()
            error = place.call("expire")
            if error is not None:
                errors.append(error)
            gone = max(0, (before or 0) - (place.size() or 0))
            place.evicted_bytes += gone
            freed += gone
        return freed

    def _shrink(self, place: Place, wanted: int, price: float, errors: list[Exception]) -> int:
        if not place.alive or wanted <= 0:
            return 0
        try:
            gone: int = place.shelf.shrink(wanted, price)
        except Exception as error:  # noqa: BLE001
            place.failed(error)
            errors.append(error)
            return 0
        place.evicted_bytes += gone
        return gone

    def _shares(self, wanted: int, errors: list[Exception]) -> list[tuple[float, int, Place]]:
        """(price, bytes, place): the price at or below which so many bytes lie, and how many of them where."""
        offers = list[tuple[float, float, Place]]()
        sizes = [(place, place.size(errors)) for place in self._places.all()]
        whole = sum(size or 0 for _, size in sizes) or 1
        for place, size in sizes:
            looks = max(_SAMPLE, ceil(_SAMPLED * (size or 0) / whole))
            try:
                sample = sorted(place.shelf.sample(looks), key=_PRICE)
            except Exception as error:  # noqa: BLE001
                place.failed(error)
                errors.append(error)
                continue
            seen = sum(each for _, each in sample)
            scale = (seen if size is None else size) / (seen or 1)
            spare = (seen if size is None else size) - place.floor_bytes
            for price, each in sample:
                if spare <= 0:
                    break
                offers.append((price, min(each * scale, spare), place))
                spare -= each * scale
        offers.sort(key=_PRICE)
        shares: dict[Place, float] = {}
        price, summed = inf, 0.0
        for price, each, place in offers:  # noqa: B007 - the last one is the threshold
            shares[place] = shares.get(place, 0.0) + each
            summed += each
            if summed >= wanted * _MARGIN:
                break
        # Rounding up lets every shelf evict at least one of the entries that were found cheap.
        return [(price, ceil(share), place) for place, share in shares.items()]

    # --- the budget -----------------------------------------------------------------------------------------------

    @property
    def budget_bytes(self) -> int | None:
        """What all caches together may hold; None: the guard alone bounds them."""
        return self._budget_bytes

    @budget_bytes.setter
    def budget_bytes(self, budget_bytes: int | None) -> None:
        self._budget_bytes, self._room = budget_bytes, 0
        for place in self._places.all():
            self._listen(place)

    @property
    def maxsize(self) -> int | None:
        """How many entries a cache of ours may have that was given no limits; None: as many as fit."""
        return self._maxsize

    @maxsize.setter
    def maxsize(self, maxsize: int | None) -> None:
        self._maxsize = maxsize
        for place in self._places.all():
            place.call("limit", maxsize)

    def _listen(self, place: Place) -> None:
        """Be asked by a shelf that grows only while there is a budget: asking costs every miss."""
        if hasattr(place.shelf, "on_growth"):
            place.shelf.on_growth = self._admits if place.alive and self._budget_bytes is not None else None

    def _admits(self, grown_bytes: int) -> bool:
        """Whether a shelf may keep a new entry; makes room for it, in the thread that brings it."""
        if self._budget_bytes is not None and grown_bytes > self._budget_bytes:
            return False
        self._room -= grown_bytes
        if self._room < 0:
            with suppress(Exception):  # another cache's; its place remembers it
                self.hold(grown_bytes)
        return True

    def hold(self, grown_bytes: int = 0) -> int:
        """Evict what is above the budget, once so many bytes will have come; how many bytes.

        One thread does so at a time, others go on: for as long the caches may be over by what these bring.
        """
        budget = self._budget_bytes
        if budget is None:
            return 0
        if not self._keeper.acquire(blocking=False):
            if self._pid == os.getpid():
                return 0
            self._keeper, self._pid = new_lock(), os.getpid()  # a fork: who held it is gone
            self._keeper.acquire(blocking=False)
        keeper = self._keeper
        try:
            freed, over = 0, self.size() + grown_bytes - budget
            if over > 0:
                wanted = over + int(min(budget * _SLACK_RATIO, self._mean * _VICTIMS / 2))
                if wanted <= self._mean * _VICTIMS:
                    freed = self._trickle(wanted)
                if freed < over:
                    freed += self._evict(over - freed, [])
            self._room = max(0, budget - self.size() - grown_bytes)
            return freed
        finally:
            keeper.release()

    def _trickle(self, wanted: int) -> int:
        """Evict the cheapest few of some entries picked at random from all shelves."""
        victims = ceil(wanted / self._mean)
        offers = self._offers(_SAMPLE * victims)
        offers.sort(key=_PRICE)
        freed = evicted = 0
        # Of few offers at most a quarter: the rest of a small sample is no longer cheap.
        for price, size, place, entry in offers[: max(1, len(offers) // 4)]:
            if freed >= wanted:
                break
            gone = 0
            try:
                gone = place.shelf.evict(entry) if entry is not None else place.shelf.shrink(size, price)
            except Exception as error:  # noqa: BLE001
                place.failed(error)
            if gone > 0:
                place.evicted_bytes += gone
                freed += gone
                evicted += 1
        if evicted:
            self._mean += (freed / evicted - self._mean) / 16
        return freed

    def _offers(self, looks: int) -> list[tuple[float, int, Place, Any]]:
        """(price, bytes, place, entry) of about so many entries, of every shelf as many as it has bytes.

        By bytes, because by entries a few large ones are hardly ever seen: "mixture" then costs 1.25 of GDSF's, not
        1.10. The entry is None where a shelf does not show them.
        """
        places = [(place, place.size() or 0) for place in self._places.all()]
        whole = sum(size for _, size in places) or 1
        offers = list[tuple[float, int, Place, Any]]()
        for place, size in places:
            wanted = int(looks * size / whole + random())  # noqa: S311 - no secret
            if not wanted or size <= place.floor_bytes:
                continue
            try:
                if hasattr(place.shelf, "offers"):
                    offers += [(price, entry.bytes, place, entry) for price, entry in place.shelf.offers(wanted)]
                else:
                    offers += [(price, each, place, None) for price, each in place.shelf.sample(wanted)]
            except Exception as error:  # noqa: BLE001
                place.failed(error)
        return offers

    # --- what came of it ------------------------------------------------------------------------------------------

    @property
    def return_ratio(self) -> float | None:
        """Bytes that came back per byte evicted, 0 to 1, recent evictions first; None: nothing was measured yet."""
        return self._returns.ratio

    def learn(self, claimed_bytes: int, bought_bytes: int) -> None:
        """Take note of what a relief really bought, for what was claimed and not taken again at once.

        When little of much came back, the next ``reclaim`` first lets shelves that can do so (``relocate``) move
        together what survived.
        """
        self._scattered = self._returns.learn(claimed_bytes, bought_bytes)

    def tend(self) -> None:
        """Let every cache look after itself, and hold the budget; called about once a second."""
        for place in self._places.all():
            place.call("tend")
        with suppress(Exception):
            self.hold()

    def __repr__(self) -> str:
        ratio = self.return_ratio
        returned = "" if ratio is None else f", {ratio:.0%} of what was evicted came back"
        budget = "" if self.budget_bytes is None else f" of {format_bytes(self.budget_bytes)}"
        return f"<Market {len(self._places.all())} caches, {format_bytes(self.size())}{budget}{returned}>"
