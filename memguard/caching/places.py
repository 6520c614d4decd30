"""Places: the shelves on a market, each under a unique name, with what it has given so far."""

from __future__ import annotations

import weakref
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.ports import Shelf

__all__ = ["Part", "Place", "Places"]


@value
class Part:
    """One cache on the market: its accounted bytes (None: it cannot tell) and those evicted so far, as claimed.

    ``error`` is what it last raised, in words; "" when it never did.
    """

    name: str
    bytes: int | None
    evicted_bytes: int
    error: str = ""


class _Gone:
    """In the place of a shelf that is no more."""

    @staticmethod
    def size() -> int:
        return 0

    @staticmethod
    def sample(_count: int) -> list[tuple[float, int]]:
        return []

    @staticmethod
    def shrink(_wanted_bytes: int, _below: float) -> int:
        return 0


class Place:
    """A shelf's place on the market, under its unique name.

    ``weakly``: somebody else holds the shelf. What that keeps may refer to whom it is held by: from here, where
    everything is held for good, both would never go.
    """

    __slots__ = ("_alive", "_shelf", "error", "evicted_bytes", "name")

    def __init__(self, name: str, shelf: Shelf, *, weakly: bool) -> None:
        self.name: str = name
        self._shelf: Callable[[], Shelf | None] = weakref.ref(shelf) if weakly else lambda: shelf
        self.evicted_bytes: int = 0
        self.error: str = ""
        self._alive = [True]

    @property
    def shelf(self) -> Any:  # noqa: ANN401 - what not every shelf has is asked for
        """The shelf, or an empty one once it is gone."""
        found = self._shelf()
        return _Gone if found is None else found

    @property
    def alive(self) -> bool:
        """Whether it has not been given up."""
        return bool(self._alive)

    @property
    def floor_bytes(self) -> int:
        """What the shelf may not be shrunk below."""
        floor: int = getattr(self.shelf, "min_bytes", 0)
        return floor

    def give_up(self) -> bool:
        """Whether this call was the first to do so."""
        try:
            return self._alive.pop()
        except IndexError:
            return False

    def size(self, errors: list[Exception] | None = None) -> int | None:
        """Accounted bytes; None when they cannot be told. What that raised is added to ``errors``."""
        try:
            size: int | None = self.shelf.size()
        except Exception as error:  # noqa: BLE001 - one broken shelf must not end the others
            self.failed(error)
            if errors is not None:
                errors.append(error)
            return None
        return size

    def call(self, name: str, *arguments: object) -> Exception | None:
        """Call a method that not every shelf has; what it raised."""
        method = getattr(self.shelf, name, None)
        if callable(method):
            try:
                method(*arguments)
            except Exception as error:  # noqa: BLE001
                self.failed(error)
                return error
        return None

    def failed(self, error: Exception) -> None:
        """Remember what the shelf raised."""
        self.error = f"{type(error).__name__}: {error}"


class Places:
    """All places by unique name, without a lock.

    Finalizers give places up, and they run inside of any allocation of any thread: only single steps of a dict.
    """

    __slots__ = ("_by_name",)

    def __init__(self) -> None:
        self._by_name: dict[str, Place] = {}

    def add(self, shelf: Shelf, *, weakly: bool = False) -> Place:
        """A place for a shelf; a name that is taken gets a number: "answers", then "answers#2"."""
        place = Place(str(shelf.name), shelf, weakly=weakly)
        base = place.name
        for number in count(2):
            if self._by_name.setdefault(place.name, place) is place:
                break
            place.name = f"{base}#{number}"
        return place

    def drop(self, place: Place) -> bool:
        """Give a place up; whether it was not given up before."""
        if not place.give_up():
            return False
        self._by_name.pop(place.name, None)
        return True

    def all(self) -> tuple[Place, ...]:
        """Every place, oldest first."""
        while True:
            with suppress(RuntimeError):  # changed by a finalizer in the middle
                return tuple(self._by_name.values())
