"""Reports: which states stay as they are, and why."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from memguard.agents.figures import Report
from memguard.model import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.agents.figures import Obstacle, ObstacleKind
    from memguard.ports import Clock

__all__ = ["Reports"]

_KEPT: Final = 64
# One of a kind is told in so many seconds; all are counted.
_TOLD_S: Final = 60.0
_WORTH_TELLING: Final = frozenset({"unpicklable", "unequal", "disk", "compact", "too large", "unreadable"})


class Reports:
    """The last reports of some states, and how many of each kind there were. ``tell`` hears of a kind once a minute."""

    def __init__(self, name: str, *, clock: Clock, tell: Callable[[Event], object] | None) -> None:
        self.last: deque[Report] = deque(maxlen=_KEPT)
        self.counts: Counter[ObstacleKind] = Counter()
        self._name = name
        self._clock = clock
        self._tell = tell
        self._told: dict[ObstacleKind, float] = {}

    def add(self, state: str, obstacle: Obstacle) -> None:
        """Take down that a state stays as it is; those that are just in use are only counted."""
        kind = obstacle.kind
        self.counts[kind] += 1
        if kind not in _WORTH_TELLING:
            return
        now = self._clock()
        self.last.append(Report(at=now, state=state, kind=kind, text=obstacle.text))
        if self._tell is not None and now >= self._told.get(kind, float("-inf")) + _TOLD_S:
            self._told[kind] = now
            name = "state.unreadable" if kind == "unreadable" else "state.kept"
            text = f"state {state!r} of {self._name!r} is kept as it is: {obstacle.text}"
            self._tell(Event(at=now, name=name, text=text, attributes={"states": self._name, "kind": kind}))
