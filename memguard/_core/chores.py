"""Chores: which maintenance is due, whether to wait until less runs, and how long it rests after what it cost."""

from __future__ import annotations

from memguard.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Chore", "Load", "calm", "done", "due", "first", "seen"]

# What is due waits so long at most for less to run; a service that is never idle is maintained all the same.
_PATIENCE_S = 1800.0
# Little runs: no more than this share of what usually does, as known from the last half hour or so.
_CALM_RATIO, _USUAL_S = 0.5, 1800.0
# The share of wall time that one chore may take: one of 3 s rests for five minutes.
_DUTY_RATIO = 0.01
_LONGEST_S = 86400.0
# Workers that were started together must not all do it in the same second.
_SPREAD = 0.2


@value
class Chore:
    """One maintenance action and what became of it so far.

    ``every_s`` is how often it is wanted, ``due_at`` when it is next due, ``calm`` whether only when little runs.
    ``failures`` counts those in a row, ``cost_s`` is how long the last one took, ``bought_bytes`` what all of them gave
    back, as measured, ``words`` what the last one did.
    """

    name: str
    every_s: float
    due_at: float
    calm: bool = True
    runs: int = 0
    failures: int = 0
    cost_s: float = 0.0
    bought_bytes: int = 0
    words: str = ""


@value
class Load:
    """How much work usually runs at once; ``at`` is when that was last learned (None: never)."""

    at: float | None = None
    usual: float = 0.0


def first(name: str, every_s: float, at: float, dice: float, *, calm: bool = True) -> Chore:
    """A chore that is new at this instant; ``dice`` (0 to 1) spreads those of several workers."""
    return Chore(name=name, every_s=every_s, due_at=at + every_s * (0.5 + dice / 2.0), calm=calm)


def seen(load: Load, at: float, running: int) -> Load:
    """The load after a look: an average that forgets within half an hour."""
    if load.at is None or at < load.at:
        return Load(at=at, usual=float(running))
    weight = min(1.0, (at - load.at) / _USUAL_S)
    return Load(at=at, usual=load.usual + weight * (running - load.usual))


def calm(load: Load, running: int) -> bool:
    """Whether little runs, for this service."""
    return running == 0 or running <= _CALM_RATIO * load.usual


def due(chores: Iterable[Chore], at: float, *, calm: bool) -> Chore | None:
    """The chore to do now, the one that has waited longest; None while none is due, or all wait for less to run."""
    ready = [
        chore
        for chore in chores
        if at >= chore.due_at and (calm or not chore.calm or at >= chore.due_at + min(chore.every_s, _PATIENCE_S))
    ]
    return min(ready, key=lambda chore: chore.due_at, default=None)


def done(  # noqa: PLR0913 - what came of it
    chore: Chore, at: float, dice: float, *, cost_s: float, bought_bytes: int = 0, failed: bool = False, words: str = ""
) -> Chore:
    """The chore after it was done: it rests as often as wanted, longer after one that cost much, or failed."""
    failures = chore.failures + 1 if failed else 0
    rest_s = max(chore.every_s, cost_s / _DUTY_RATIO) * 2.0 ** min(failures, 20)
    rest_s = max(chore.every_s, min(rest_s, _LONGEST_S)) * (1.0 + _SPREAD * (dice - 0.5))
    return replace(
        chore,
        due_at=at + rest_s,
        runs=chore.runs + 1,
        failures=failures,
        cost_s=cost_s,
        bought_bytes=chore.bought_bytes + bought_bytes,
        words=words,
    )
