"""Places in plain data, and strata of containers: what was seen at each, and what that leaves open."""

from __future__ import annotations

from math import hypot
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard.sizing.dice import Deck

__all__ = ["NONE", "Place", "Stratum", "joined"]

NONE: Final[Any] = []
"""What a place holds before anything was found there; never changed."""


class Place:
    """What lies at one place of ``units``, which stand for ``population``, in an order whose beginning is a sample.

    ``done`` units were looked at; what they hold there sums up to ``bytes`` and ``squares``, beside containers with
    what is ``below``. ``key``: of dicts; None: the units are the values; ``...``: the units' own bytes. ``source``: the
    place where the units were found; ``deck``: where more units come from.
    """

    # Most places are leaves: what these never have is not made for each.
    deck: Deck | None = None
    done: int = 0
    found: int = 0
    bytes: float = 0.0
    squares: float = 0.0
    long: bool = False
    opened: bool = False
    dicts: list[Any] = NONE
    seqs: list[Any] = NONE
    odd: list[Any] = NONE
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
        return bool(self.dicts or self.seqs or self.odd)

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


class Stratum:
    """Containers of one place, in an order whose beginning is a sample; they stand for ``population``.

    ``source``: the place where they were found; looking at more there makes more of them. ``shapes``: of a few, the
    keys, or where there are none, how many elements; ``followed``: how many were opened.
    """

    __slots__ = ("followed", "places", "population", "shapes", "source", "units")

    def __init__(self, units: list[Any], population: float, source: Place | None = None) -> None:
        self.units: list[Any] = units
        self.population: float = population
        self.source: Place | None = source
        self.places: list[Place] = []
        self.shapes: list[Any] = []
        self.followed: int = len(units)

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
            each = sum([place.total for place in self.places if place.key is None]) * count
            each /= self.population * (sum(shapes) or 1)
            sums = [each * shape for shape in shapes]
        else:
            opened = [place for place in self.places if place.below and place.found < place.done]
            if not opened:
                return 0.0
            means = {place.key: place.total / place.population * place.done / place.found for place in opened}
            sums = [sum([means[key] for key in shape if key in means]) for shape in shapes]
        mean = sum(sums) / count
        spread = sum([(one - mean) ** 2 for one in sums]) / (count - 1)
        return float(self.population**2 * spread / self.followed * (1 - self.followed / self.population))


def joined(known: list[Any], more: list[Any]) -> list[Any]:
    """What is known, in the same list with more at its end."""
    if not known:
        return list(more)
    known += more
    return known
