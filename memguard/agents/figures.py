"""What is known of states, as frozen values."""

from __future__ import annotations

from typing import Literal

from memguard.values import value

__all__ = ["Figures", "Obstacle", "ObstacleKind", "Report", "StateRow", "Stored"]

Stored = Literal["live", "packed", "spilled"]
"""Where a state is: an object, a blob in memory, a blob on disk."""

ObstacleKind = Literal[
    "", "used", "shared", "no gain", "unpicklable", "unequal", "disk", "compact", "too large", "unreadable"
]
"""Why a state stays as it is: somebody is just using it; somebody else refers to it or to something in it; a blob would
not be smaller; it cannot be pickled, or not be loaded back; what loads back is not equal; the disk failed or is full;
the ``compact`` callable failed; it is larger than it may be even so; its bytes cannot be loaded."""


@value(kw_only=False)
class Obstacle:
    """What stands in the way, in words; false when nothing does."""

    kind: ObstacleKind = ""
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.kind)


@value
class Report:
    """Something about one state that its owner should know; the state is kept in any case. ``at`` is monotonic."""

    at: float
    state: str
    kind: ObstacleKind
    text: str


@value
class StateRow:
    """One state: bytes as an object (as last measured), where it is, bytes there, how long unused, leased or not."""

    id: str
    bytes: int
    stored: Stored
    stored_bytes: int
    idle_s: float
    leased: bool


@value
class Figures:
    """All states of one mapping, added up.

    ``live_bytes`` are of objects, as last measured; ``packed_bytes`` and ``spilled_bytes`` of blobs in memory and on
    disk; ``rest_bytes`` what those blobs were as objects. ``bytes`` is what all takes in memory. ``refused`` counts by
    kind how often a state could not be made smaller.
    """

    live: int
    packed: int
    spilled: int
    leased: int
    bytes: int
    live_bytes: int
    packed_bytes: int
    spilled_bytes: int
    rest_bytes: int
    refused: dict[ObstacleKind, int]

    @property
    def ratio(self) -> float:
        """By which factor blobs are smaller than their objects were; 1.0 while there are none."""
        blobs = self.packed_bytes + self.spilled_bytes
        return self.rest_bytes / blobs if blobs else 1.0
