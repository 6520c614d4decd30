"""Passing: work so frequent that to read memory for each would cost more than the work. A sample of it is read.

The rest is counted and timed exactly. Where memory grew while some of it passed, it is reckoned with as those are that
are read: with the time for which it ran (``_core/sharing.py``).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from memguard.operations.work import INSIDE, Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from memguard.kinds import Outcome
    from memguard.operations.account import Operations
    from memguard.operations.work import Status
    from memguard.ports import Clock

__all__ = ["TEND_S", "Passer", "Passing"]

# Memory is read for one of a kind in so many seconds, and for so many a second of all kinds together: a reading takes
# 2 µs, 10 with all that hangs on it, so that this is half a percent of a core at most.
_EVERY_S: Final = 0.1
_A_SECOND: Final = 200
_KINDS: Final = 1024
# Whoever runs for so long is read from then on.
_LONG_S: Final = 1.0
TEND_S: Final = 0.5
"""How long what has ended may wait to be taken down, and what lasts to be read."""

# What has ended waits for its turn to be taken down: together they cost half.
_WAITING: Final = 64


class Passer:
    """One that passes. What it is an operation of is known at its end; ``operation`` is there when memory is read."""

    __slots__ = (
        "at", "delta_bytes", "duration_s", "number", "operation", "shared_s", "status", "subject", "type",
    )  # fmt: skip

    # Without __init__: its call would cost a request as much as all of these.
    at: float
    delta_bytes: float
    duration_s: float
    number: int
    operation: Operation | None
    shared_s: float
    status: Status
    subject: Any
    type: str
    sampled: bool = False

    @property
    def id(self) -> str:
        """Its type and number."""
        return f"{self.type}-{self.number}"


class _Read(Operation):
    """The operation of one that is read; it is called what it is called when it ends."""

    __slots__ = ("_naming",)

    def __init__(self, operations: Operations, naming: Callable[[], str]) -> None:
        super().__init__(operations, "", None)
        self._naming = naming

    def go_on(self, one: Passer) -> None:
        """Be what passed until now."""
        self.at, self.status, self._number = one.at, "running", one.number

    @property
    def type(self) -> str:
        return self._naming()

    @type.setter  # noqa: A003
    def type(self, type_: str) -> None:
        self._naming = lambda: type_


class Passing:
    """What passes now, and what has passed and is not taken down yet; ``naming`` tells a subject's type."""

    def __init__(
        self, operations: Operations, *, naming: Callable[[Any], str], clock: Clock, numbers: Iterator[int]
    ) -> None:
        self.operations: Operations = operations
        self.naming: Callable[[Any], str] = naming
        self.open: dict[Passer, None] = {}
        self.ended: deque[Passer] = deque()
        self.nests: bool = False
        """Whether there is work inside of work: else nobody has to know where he is."""
        self.wake: Callable[[], object] = bool
        """Called when something has begun to pass: to have ``tend`` called ``TEND_S`` later, whoever comes then."""
        self._clock = clock
        self._tend_at = 0.0
        self._numbers = numbers
        self._next_at: dict[Hashable, float] = {}
        self._second = self._read = 0

    def begin(self, subject: Any, kind: Hashable) -> Passer:  # noqa: ANN401 - as in Passer
        """Let one run: read or passing, as it is its turn among its kind; what is inside of another is read."""
        at = self._clock()
        one = Passer()
        one.at, one.number, one.subject, one.operation, one.status = at, next(self._numbers), subject, None, "running"
        outer = INSIDE.get()
        inside = outer is not None and outer.status == "running"
        if inside or (at >= self._next_at.get(kind, 0.0) and self._due(kind, at)):
            one.operation = read = _Read(self.operations, lambda: self.naming(subject))
            read.start()
            return one
        self.open[one] = None
        if at >= self._tend_at:
            self._tend_at = at + TEND_S
            self.wake()
        if self.nests:
            INSIDE.set(one)  # left there at the end: that it is over, it says itself
        return one

    def _due(self, kind: Hashable, at: float) -> bool:
        if int(at) != self._second:
            self._second, self._read = int(at), 0
        if self._read >= _A_SECOND:
            return False
        self._read += 1
        if len(self._next_at) >= _KINDS:
            self._next_at.clear()
        self._next_at[kind] = at + _EVERY_S
        return True

    def end(self, one: Passer, outcome: Outcome) -> None:
        """Let one end, once; its subject is let go."""
        type_, one.subject = self.naming(one.subject), None
        if self.open.pop(one, one) is None:
            one.type = type_
            one.duration_s = self._clock() - one.at
            one.status = outcome
            self.ended.append(one)
            if len(self.ended) >= _WAITING:
                self.operations.catch_up()
        elif one.operation is not None:
            one.operation.type = type_
            one.operation.end(outcome)

    def tend(self) -> None:
        """Take down what has passed, and see who has become one that lasts."""
        self.operations.catch_up()
        if self.open:
            self._tend_at = self._clock() + TEND_S
            self.wake()

    def grown_old(self, at: float) -> list[Passer]:
        """Those that have run for long enough to be read."""
        old = []
        for one in tuple(self.open):  # the oldest first
            if at - one.at < _LONG_S:
                break
            old.append(one)
        return old

    def read(self, one: Passer) -> Operation | None:
        """Have one be read from now on; its operation, to begin now. None: it is over, or is read already."""
        subject = one.subject
        one.operation = read = _Read(self.operations, lambda: self.naming(subject))
        read.go_on(one)
        return read if self.open.pop(one, one) is None else None

    def under_way(self) -> list[tuple[Passer, str]]:
        """Those that pass now, the oldest first, and what each is called."""
        known = [(one, one.subject) for one in tuple(self.open)]
        return [(one, self.naming(subject)) for one, subject in known if subject is not None]

    def seconds(self, since: float, at: float) -> float:
        """For how long those under way have run since an instant, added up."""
        return sum(at - max(one.at, since) for one in tuple(self.open))

    def forget(self) -> None:
        """In a forked child: what passes is the parent's."""
        self.open.clear()
        self.ended.clear()
