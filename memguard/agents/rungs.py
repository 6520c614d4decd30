"""Rungs: the three ways in which states give memory back, as reclaimers; the guard measures which pays."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from memguard.model import Level
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memguard.agents.upkeep import Upkeep
    from memguard.kinds import Cost

__all__ = ["Rung", "rungs_of"]


@value
class Share:
    """Bytes of the states that are kept in one way."""

    name: str
    bytes: int | None
    evicted_bytes: int = 0


class Rung:
    """One way; it does not keep the states alive."""

    at: Level = Level.WARNING
    settles: bool = False
    stalls: bool = False

    def __init__(
        self,
        name: str,
        upkeep: Upkeep,
        *,
        cost: Cost,
        size: Callable[[Upkeep], int | None],
        give: Callable[[Upkeep, int], int],
    ) -> None:
        self.name = name
        self.cost: Cost = cost
        self._upkeep = weakref.ref(upkeep)
        self._size = size
        self._give = give

    def size(self) -> int | None:
        """Bytes to be had at most, None while nobody knows; 0 once the states are gone."""
        upkeep = self._upkeep()
        return 0 if upkeep is None else self._size(upkeep)

    def reclaim(self, wanted_bytes: int, /) -> int:
        """Free so many bytes of memory, as accounted; gives up after 1.5 seconds, with what it has."""
        upkeep = self._upkeep()
        return 0 if upkeep is None or wanted_bytes <= 0 else self._give(upkeep, wanted_bytes)

    def learn(self, claimed_bytes: int, bought_bytes: int) -> None:  # noqa: ARG002 - as the port has it
        """So much of what was claimed came back to the kernel."""
        upkeep = self._upkeep()
        if upkeep is not None:
            upkeep.learn(bought_bytes)

    def __repr__(self) -> str:
        return f"<Rung {self.name!r} {self.cost} at {self.at.name}>"


class PackRung(Rung):
    """The first one, which also looks after the states and shows what there is."""

    def tend(self) -> None:
        """Measure a few states."""
        upkeep = self._upkeep()
        if upkeep is not None:
            upkeep.tend()

    def parts(self) -> Sequence[Share]:
        """What is kept as objects, and what in blobs."""
        upkeep = self._upkeep()
        if upkeep is None:
            return ()
        keeping = upkeep.keeping
        return (Share(name="live", bytes=keeping.live_bytes), Share(name="packed", bytes=keeping.attic.bytes))


def rungs_of(upkeep: Upkeep) -> tuple[Rung, ...]:
    """Packing, spilling, moving: the cheapest first."""
    name = upkeep.keeping.name
    return (
        PackRung(
            name,
            upkeep,
            cost="cheap",
            size=lambda kept: kept.packable_bytes,
            give=lambda kept, wanted_bytes: kept.relieve(wanted_bytes),
        ),
        Rung(
            f"{name}/spill",
            upkeep,
            cost="dear",
            size=lambda kept: kept.spillable_bytes,
            give=_spill,
        ),
        Rung(
            f"{name}/move",
            upkeep,
            cost="dear",
            size=lambda kept: kept.movable_bytes,
            give=lambda kept, _: kept.move(),
        ),
    )


def _spill(upkeep: Upkeep, wanted_bytes: int) -> int:
    freed, spill = upkeep.spill_cold(wanted_bytes), upkeep.keeping.spill
    if freed and spill is not None:
        spill.flush()
    return freed
