"""What a pool tells of itself: its agents, its figures, what a new cap did."""

from __future__ import annotations

from typing import Literal

from memguard.values import value

__all__ = ["AgentRow", "PoolStats", "Resized", "State"]

State = Literal["building", "idle", "running", "retiring", "gone"]
"""Of an agent: being made, held by nobody, held, going while its hook runs, no longer in the pool."""


@value
class AgentRow:
    """One agent: ``at`` is the instant it was created, ``idle_s`` for how long nobody has held it (0.0: running).

    ``orphan`` says that nobody is left to use it: its holders' tasks and threads have ended, or its owner has.
    ``bytes`` is measured on the object, at least what agents of the pool typically grow memory by. ``holds`` counts
    acquisitions that are not released, ``held_by`` names who has them.
    """

    id: str
    state: State
    orphan: bool
    bytes: int
    at: float
    idle_s: float
    holds: int
    held_by: tuple[str, ...]


@value
class PoolStats:
    """A pool as it stands, and what has become of its agents so far.

    ``fits`` says how many more agents fit below the CRITICAL rung (None: nothing limits, or no agent was seen yet),
    each taking ``cost_bytes``. ``refused`` counts those turned away, ``finished`` those taken out by their user,
    ``orphaned`` those found without anybody left to use them, ``failed`` hooks and ``unborn`` factories that raised.
    """

    name: str
    size: int
    max_size: int
    running: int
    idle: int
    building: int
    retiring: int
    orphans: int
    waiting: int
    oldest_idle_s: float
    bytes: int
    idle_bytes: int
    cost_bytes: int
    fits: int | None
    created: int
    retired: int
    finished: int
    refused: int
    orphaned: int
    failed: int
    unborn: int
    last_error: str


@value
class Resized:
    """What a change of the cap did: who was retired, who runs on above the cap, and who could not be saved.

    ``leaving`` are those whose async hook still runs, since the caller is on an event loop.
    """

    max_size: int
    retired: tuple[str, ...]
    running_above: int
    kept: tuple[str, ...]
    leaving: tuple[str, ...] = ()
