"""Whose turn it is to shed, where several workers share one limit: who could give up most without harm goes first.

All see the same usage, so all would shed at once, and the innocent lose what one of them has taken. So whoever could
shed less waits for whoever could shed more, for a bounded time: one who does not get on with it is passed over. Nobody
waits for ever and nobody waits twice for the same one in a row, whatever the others say or do.
"""

from __future__ import annotations

from memguard.values import field, replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Protocol

    class Peer(Protocol):
        """What one worker says of itself."""

        @property
        def slot(self) -> int: ...
        @property
        def state(self) -> str: ...
        @property
        def yield_bytes(self) -> int: ...
        @property
        def shedding(self) -> bool: ...
        @property
        def beat_at(self) -> float: ...


__all__ = ["NOT_WAITING", "Turn", "Waiting", "relieved", "turn"]

# So long at most is one worker waited for, and all of them together: an eviction of some ten MiB and a trim take
# 20 to 100 ms, and a guard under pure Python wakes 10 to 20 ms late.
_ONE_S = 0.5
_ALL_S = 1.5
# And so many looks at least: on a machine that lets nobody run, whoever waits looks as rarely as the other sheds.
_ONE_LOOKS = 5
_ALL_LOOKS = 15
# Whoever was passed over is not waited for again for so long, and whoever has given up does not wait again sooner.
_AGAIN_S = 2.0
_FREE_S = 0.5
# A guard looks every 0.25 s at least: one that has not said anything for so long is stopped, or holds the GIL.
_SILENT_S = 1.0
# Without a question for so long, an occasion is over.
_OVER_S = 1.0


@value
class Waiting:
    """Whom a worker waits for, since when, and whom not again before when.

    ``began_at`` is when this waiting began (None: it has not), whoever it was for; ``for_slot`` whom for,
    ``since_at`` when that one last got on, ``left_bytes`` what it could still shed then; ``looks`` and ``looks_since``
    count the questions since either.
    """

    began_at: float | None = None
    asked_at: float = 0.0
    for_slot: int | None = None
    since_at: float = 0.0
    left_bytes: int = 0
    looks: int = 0
    looks_since: int = 0
    passed: Mapping[int, float] = field(default_factory=dict)
    free_until: float = 0.0


NOT_WAITING = Waiting()


@value
class Turn:
    """Whether to shed now (``go``), what to remember, and whom this waits for or has just passed over (slots)."""

    go: bool
    waiting: Waiting
    waits_for: int | None = None
    passed: int | None = None


def turn(  # noqa: PLR0913 - the question in full
    own: Peer, others: Sequence[Peer], waiting: Waiting, *, at: float, patience_s: float, least_bytes: int
) -> Turn:
    """Whether it is this worker's turn at an instant.

    ``patience_s`` is how long the limit leaves time to wait (0.0: no time); shedding less than ``least_bytes`` is not
    worth waiting for.
    """
    if at - waiting.asked_at > _OVER_S or at < waiting.asked_at:
        waiting = replace(waiting, began_at=None, for_slot=None)
    waiting = replace(waiting, asked_at=at)
    began_at, looks = (at, 0) if waiting.began_at is None else (waiting.began_at, waiting.looks + 1)
    if at < waiting.free_until <= at + _FREE_S or patience_s <= 0.0:
        return Turn(go=True, waiting=replace(waiting, began_at=None, for_slot=None))
    passed = {slot: until for slot, until in waiting.passed.items() if at < until <= at + _AGAIN_S}
    ahead = [
        other
        for other in others
        if other.yield_bytes >= least_bytes
        and _rank(other) > _rank(own)
        and abs(at - other.beat_at) <= _SILENT_S
        and other.slot not in passed
    ]
    if not ahead:
        return Turn(go=True, waiting=replace(waiting, began_at=None, for_slot=None, passed=passed))
    first = max(ahead, key=_rank)
    since_at, left, looks_since = waiting.since_at, waiting.left_bytes, waiting.looks_since + 1
    if first.slot != waiting.for_slot or first.shedding or first.yield_bytes + least_bytes <= left:
        since_at, left, looks_since = at, first.yield_bytes, 0
    if at - began_at >= min(_ALL_S, 3.0 * patience_s) and looks >= _ALL_LOOKS:
        waiting = replace(waiting, began_at=None, for_slot=None, passed=passed, free_until=at + _FREE_S)
        return Turn(go=True, waiting=waiting, passed=first.slot)
    waiting = replace(
        waiting,
        began_at=began_at,
        for_slot=first.slot,
        since_at=since_at,
        left_bytes=left,
        looks=looks,
        looks_since=looks_since,
        passed=passed,
    )
    if at - since_at >= min(_ONE_S, patience_s) and looks_since >= _ONE_LOOKS:
        passed[first.slot] = at + _AGAIN_S
        rest = [other for other in others if other.slot != first.slot]
        return replace(
            turn(own, rest, waiting, at=at, patience_s=patience_s, least_bytes=least_bytes), passed=first.slot
        )
    return Turn(go=False, waiting=waiting, waits_for=first.slot)


def relieved(waiting: Waiting) -> Waiting:
    """What is remembered once memory needs no relief any more: the next waiting begins anew."""
    return waiting if waiting.began_at is None else replace(waiting, began_at=None, for_slot=None)


def _rank(peer: Peer) -> tuple[bool, int, int]:
    """Whoever is leaving loses its caches anyhow; of two that could shed the same, the first to have come goes."""
    return peer.state != "serving", peer.yield_bytes, -peer.slot
