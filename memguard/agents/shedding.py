"""Shedding: a pool as the guard sees it: how much its idle agents hold, and who of them goes."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from memguard.model import Level

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.agents.floor import Floor
    from memguard.kinds import Cost
    from memguard.rules import Rules

__all__ = ["Shedder"]

# Idle for less, an agent may be between two turns.
_STALE_S: Final = 3.0
# A pool whose idle agents hold more than this share of what is left of the ladder's first rung is itself the reason
# for the pressure, and gives the rest back before any cache is asked: there, caches are not.
_FAIR_RATIO: Final = 0.5
# The guard goes on without who takes longer than 5 s.
_SAVE_S: Final = 3.0


class Shedder:
    """Retires idle agents, the cheapest first; running ones never.

    From WARNING on all idle agents may go; at ELEVATED only what the pool holds beyond its fair share in agents that
    have been idle for a while. The pool is held weakly.
    """

    cost: Cost = "dear"
    settles: bool = False
    stalls: bool = False

    def __init__(self, floor: Floor[Any], *, rules: Rules, tend: Callable[[], None]) -> None:
        self.name: str = floor.name
        self._floor = weakref.ref(floor)
        self._rules = rules
        self._tend = weakref.WeakMethod(tend)

    @property
    def at(self) -> Level:
        """From which level on it wants to be asked."""
        return Level.ELEVATED if self._surplus_bytes() else Level.WARNING

    @property
    def bytes(self) -> int:
        """What all agents hold, running or not."""
        floor = self._floor()
        return 0 if floor is None else floor.all_bytes()

    def size(self) -> int:
        """What idle agents hold that may go now."""
        return self._surplus_bytes() or self._idle_bytes()

    def _idle_bytes(self) -> int:
        floor = self._floor()
        return 0 if floor is None else max(floor.idle_bytes, floor.idle * floor.room.typical_bytes)

    def _surplus_bytes(self) -> int:
        """What the pool would give at ELEVATED; 0 at any other level."""
        floor = self._floor()
        if floor is None or not floor.idle or floor.room.level is not Level.ELEVATED:
            return 0
        fair = int(_FAIR_RATIO * self._rules.leave_ratio(Level.ELEVATED) * (floor.room.limit_bytes() or 0))
        surplus = min(self._idle_bytes() - fair, floor.stale_bytes(_STALE_S))
        return surplus if surplus >= self._rules.ask_min_bytes else 0

    def reclaim(self, wanted_bytes: int, /) -> int:
        """Retire idle agents until so many accounted bytes are gone; how many that were.

        Raises:
            RuntimeError: no agent went, since no state could be saved.
        """
        floor = self._floor()
        if floor is None or wanted_bytes <= 0:
            return 0
        picked = floor.pick_cheapest(lambda _count, bytes_: bytes_ >= wanted_bytes)
        weights = {seat.id: floor.weight(seat) for seat in picked}
        gone = floor.retire(picked, within_s=_SAVE_S)
        del picked
        if weights and not gone:
            raise RuntimeError(floor.last_error)
        return sum(weights[id_] for id_ in gone)

    def tend(self) -> None:
        """Look after the pool; called about once a second."""
        tend = self._tend()
        if tend is not None:
            tend()
