"""Leases: a state that is in use stays an object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from memguard.agents.upkeep import Upkeep

__all__ = ["Lease"]

T = TypeVar("T")


class Lease(Generic[T]):
    """A state held as an object while a ``with`` block runs; as often as you like, also one inside of another."""

    __slots__ = ("_upkeep", "key")

    def __init__(self, upkeep: Upkeep, key: str) -> None:
        self._upkeep = upkeep
        self.key: str = key

    def __enter__(self) -> T:
        keeping = self._upkeep.keeping
        self._upkeep.settle()
        keeping.pin(self.key)
        try:
            state: T = self._upkeep.fetch(self.key)
        except BaseException:
            keeping.unpin(self.key)
            raise
        return state

    def __exit__(self, *exc: object) -> None:
        upkeep = self._upkeep
        try:
            if upkeep.keeping.clock() >= upkeep.gauge.due:
                upkeep.look_over(self.key)
        finally:
            upkeep.keeping.unpin(self.key)
        upkeep.settle()
