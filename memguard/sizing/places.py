"""Places in plain data, and strata of containers: what was seen at each, and what that leaves open."""

from __future__ import annotations

from gc import get_referents
from math import hypot
from operator import mul
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard.sizing.dice import Deck

__all__ = ["NONE", "Column", "Place", "Stratum", "joined"]

NONE: Final[Any] = []
"""What a place holds before anything was found there; never changed."""
NO_THINGS: Final[dict[type, list[Any]]] = {}


class Place:
    """What lies at one place of ``units``, which stand for ``population``, in an order whose beginning is a sample.

    ``done`` units were looked at; what they hold there sums up to ``bytes`` and ``squares``, beside containers with
    what is ``below``. ``key``: of dicts; None: the units are the values; ``...``: the units' own bytes. ``source``: the
    place where the units were found; ``deck``: where more units come from, in so many lists of ``ours``.
    ``things`` are instances by their type; ``opened`` says which of all these were.
    """

    # Most places are leaves: what these never have is not made for each.
    deck: Deck | Column | None = None
    ours: int = 0
    done: int = 0
    found: int = 0
    bytes: float = 0.0
    squares: float = 0.0
    long: bool = False
    opened: Sequence[object] = ()
    dicts: list[Any] = NONE
    seqs: list[Any] = NONE
    odd: list[Any] = NONE
    things: dict[type, list[Any]] = NO_THINGS
    below: Sequence[Stratum] = ()
    refs: dict[int, float] | None = None

    def __init__(self, units: list[Any], population: float, key: object = None, source: Place | None = None) -> None:
        self.units: list[Any] = units
        self.population: float = population
        self.key: object = key
        self.source: Place | None = source

    @property
    def more(self) -> bool:
        """Whether there are units that were not looked at."""
        return self.done < len(self.units) or (self.deck is not None and not self.deck.empty)

    def add(self, sizes: list[int]) -> None:
        """Count values of these bytes."""
        self.bytes += sum(sizes)
        self.squares += hypot(*sizes) ** 2

    @property
    def inner(self) -> bool:
        """Whether there are values that lead to others."""
        return bool(self.dicts or self.seqs or self.things or self.odd)

    @property
    def total(self) -> float:
        """Bytes at this place of all units, with what is below."""
        own = self.population * self.bytes / self.done if self.done else 0.0
        return own + sum([stratum.total for stratum in self.below])

    def spread(self) -> tuple[float, float]:
        """What the values vary by, a standard deviation times their number; and the square of the error it leaves."""
        done, population = self.done, self.population
        if done > 1:
            square = population**2 * max(0.0, self.squares - self.bytes**2 / done) / (done - 1)
        else:  # one tells nothing: as much as it is
            square = population**2 * self.squares
        return square**0.5, square / done * max(0.0, 1 - done / population)


class Column:
    """What instances of one type hold at one place of as many as each of them refers to; a deck (dice.py).

    ``uneven``: some refer to more or to fewer, so that columns say nothing.
    """

    __slots__ = ("_at", "_column", "_units", "_width", "uneven")

    def __init__(self, units: list[Any], column: int, width: int) -> None:
        self._units, self._column, self._width, self._at = units, column, width, 0
        self.uneven: bool = False

    def draw(self, count: int) -> list[Any]:
        """So many more, or the rest."""
        part = self._units[self._at : self._at + count]
        self._at += len(part)
        flat = get_referents(*part)
        self.uneven |= len(flat) != self._width * len(part)
        return flat[self._column :: self._width]

    @property
    def empty(self) -> bool:
        """Whether all were drawn."""
        return self._at >= len(self._units)


class Stratum:
    """Containers of one place, in an order whose beginning is a sample; they stand for ``population``.

    ``source``: the place where they were found; looking at more there makes more of them. ``shapes``: of a few, the
    keys, or where there are none, how many elements; ``followed``: how many were opened.
    """

    __slots__ = ("_varies", "followed", "places", "population", "shapes", "source", "units")

    def __init__(self, units: list[Any], population: float, source: Place | None = None) -> None:
        self.units: list[Any] = units
        self.population: float = population
        self.source: Place | None = source
        self.places: list[Place] = []
        self.shapes: list[Any] = []
        self.followed: int = len(units)
        self._varies: float | None = None

    @property
    def total(self) -> float:
        """Bytes below all containers that it stands for."""
        return sum([place.total for place in self.places])

    def error2(self) -> float:
        """What remains open because not all containers were followed: they differ in what lies below them."""
        shapes = self.shapes
        count = len(shapes)
        if self.followed >= self.population or count < 2:  # noqa: PLR2004
            return 0.0
        if isinstance(shapes[0], int):
            if self._varies is None:
                self._varies = max(0.0, sum(map(mul, shapes, shapes)) - sum(shapes) ** 2 / count) / (count - 1)
            each = sum([place.total for place in self.places if place.key is None]) * count
            spread = (each / (self.population * (sum(shapes) or 1))) ** 2 * self._varies
        else:
            sums = [0.0] * count
            for place in self.places:
                if place.below and place.found < place.done:
                    key, mean = place.key, place.total / place.population * place.done / place.found
                    sums = [one + mean if key in shape else one for one, shape in zip(sums, shapes, strict=True)]
            spread = max(0.0, sum(map(mul, sums, sums)) - sum(sums) ** 2 / count) / (count - 1)
        return float(self.population**2 * spread / self.followed * (1 - self.followed / self.population))


def joined(known: list[Any], more: list[Any]) -> list[Any]:
    """What is known, in the same list with more at its end."""
    if not known:
        return list(more)
    known += more
    return known
