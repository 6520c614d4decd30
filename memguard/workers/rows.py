"""Rows: what a worker says of itself, as others read it."""

from __future__ import annotations

from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.kinds import WorkerState
    from memguard.model import Level

__all__ = ["STATES", "Worker"]

STATES: tuple[WorkerState, ...] = ("serving", "draining", "handing over")
"""What a worker may be doing, in the order of their numbers in a slot."""


@value
class Worker:
    """One process that shares a limit, as it last said.

    ``slot`` is a small number that no other has while it lives, ``own`` whether it is this process, ``shedding``
    whether it is giving memory back now, ``used_bytes`` its resident memory (pages that forked workers share count in
    each), ``yield_bytes`` what it could shed without much harm, ``promised_bytes`` what it has promised to admitted
    work and not seen yet, ``running`` and ``refusals`` count admitted work. ``beat_at`` is when it last said so
    (monotonic seconds; 0.0: never), ``started_ticks`` its start since the machine's boot. ``known`` is False in another
    pid namespace: whether it lives shows in its beat alone.
    """

    slot: int
    pid: int
    own: bool
    level: Level
    state: WorkerState
    shedding: bool
    used_bytes: int
    yield_bytes: int
    promised_bytes: int
    running: int
    refusals: int
    beat_at: float
    started_ticks: int
    known: bool = True
