"""The account of all operations: who is running, for how long, and how much memory each kind of work leaves behind.

What memory grew by is split among those that ran, see ``_core/sharing.py``.
"""

from __future__ import annotations

from _thread import RLock
from collections import Counter, deque
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from memguard._core.sharing import Sharing
from memguard._core.tally import OperationStats, Tally
from memguard.operations.passing import Passer, Passing
from memguard.operations.work import Operation
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memguard.kinds import Outcome
    from memguard.operations.work import Status
    from memguard.ports import Clock

__all__ = ["OTHER", "OperationRow", "Operations"]

OTHER: Final = "other"
"""The row of all types beyond the bound."""

# Types with a row of their own; each takes some 5 KiB when its samples are full.
_TYPES: Final = 200
# Operations that ended, for those who ask what has just run.
_ENDED: Final = 256


@value
class OperationRow:
    """One operation: ``at`` is the instant it began, ``duration_s`` how long it took or has been running.

    ``memory_delta_bytes`` is by how much memory grew for it (below 0: fell). ``shared`` says that others ran beside it,
    so that this is a fair part of what all of them grew by and not a measurement; ``alone_ratio`` is for which part of
    its time it ran alone. Where memory was not read for it (not ``sampled``) the delta is the mean of its type.
    """

    id: str
    type: str
    status: Status
    at: float
    duration_s: float
    memory_delta_bytes: int
    shared: bool
    alone_ratio: float
    sampled: bool = True


class Operations:
    """All operations of a process: those that run, the last ones that ended, and what each type cost.

    Args:
        used_bytes: tells what this process uses now, in a microsecond or two; by default its resident memory.
        clock: monotonic seconds.
        max_types: types with a row of their own; later ones share the row "other".
    """

    def __init__(
        self, *, used_bytes: Callable[[], int] | None = None, clock: Clock = monotonic, max_types: int = _TYPES
    ) -> None:
        self._read = used_bytes
        self._own_reader = used_bytes is None
        self._clock = clock
        self._max_types = max_types
        self._numbers = count(1)
        self._tallies: dict[str, Tally] = {}
        self._average = Tally("")
        self._completed = 0
        self._ended: deque[Operation | Passer] = deque(maxlen=_ENDED)
        self._lock = RLock()  # a finalizer or a signal handler may begin an operation in the middle of another's end
        self._sharing = Sharing(clock())
        self._hearers: tuple[Callable[[Operation | Passer], object], ...] = ()
        self._passing: Passing | None = None
        self._passed_s = 0.0  # since the last reading

    def passing(self, naming: Callable[[Any], str]) -> Passing:
        """For work that is too frequent to be read each time; ``naming`` tells what a subject is an operation of."""
        if self._passing is None:
            self._passing = Passing(self, naming=naming, clock=self._clock, numbers=self._numbers)
        return self._passing

    @property
    def completed(self) -> int:
        """How many have ended."""
        return self._completed + (0 if self._passing is None else len(self._passing.ended))

    def listen(self, hear: Callable[[Operation | Passer], object]) -> None:
        """Have every operation that ends told to this, in the thread that ends it; it must be quick and not raise."""
        if hear not in self._hearers:
            self._hearers = (*self._hearers, hear)

    def forget(self) -> None:
        """In a forked child: the parent's operations are not ours, and /proc/self is the parent's."""
        if self._own_reader:
            self._read = None
        self._lock, self._sharing = RLock(), Sharing(self._clock())
        if self._passing is not None:
            self._passing.forget()

    def operation(self, type_: str, *, id: str | None = None) -> Operation:  # noqa: A002 - the public name
        """An operation of a type ("agent.run"), not begun yet: a context manager, or a decorator.

        Raises:
            TypeError: the type or the id is no text.
            ValueError: the type is blank.
        """
        if type(type_) is not str or not type_:
            self._refuse(type_)
        if id is not None and not isinstance(cast("object", id), str):
            raise TypeError(f"operation {type_!r}: an id is text, not {id!r}: write id=str(…)")
        return Operation(self, type_, id)

    @staticmethod
    def _refuse(type_: object) -> None:
        if not isinstance(type_, str):
            raise TypeError(f"an operation's type is text, not {type_!r}: write operation('agent.run')")
        if not type_.strip():
            raise ValueError("an operation's type is blank: write operation('agent.run')")

    # --- beginning and ending -----------------------------------------------------------------------------------------

    def begin(self, operation: Operation, outer: Operation | Passer | None) -> int:
        """Let an operation run from now on (called by it); its number."""
        with self._lock:
            if self._passing is not None:
                self._passing.nests |= type(operation) is Operation
            if isinstance(outer, Passer):
                outer = None if self._passing is None else self._be_read(self._passing, outer)
            self._pass_time()
            tally = self._tallies.get(operation.type)
            self._sharing.begin(operation, outer, 1.0 if tally is None else tally.weight(self._average))
            return next(self._numbers)

    def end(self, operation: Operation, outcome: Outcome) -> None:
        """Take an operation's end down (called by it)."""
        with self._lock:
            sharing = self._sharing
            if operation not in sharing.running:  # it began before a fork
                return
            self._pass_time()
            operation.delta_bytes, operation.shared_s = delta, shared_s = sharing.end(operation)
            operation.duration_s = lasted_s = sharing.at - operation.at
            tally = self._tallies.get(operation.type) or self._tally(operation.type)
            tally.add(lasted_s, delta, outcome, alone=shared_s <= 0.0)
            tally.learn(operation.own_bytes, operation.own_s)
            self._average.learn(operation.own_bytes, operation.own_s)
            self._ended.append(operation)
            self._completed += 1
            for hear in self._hearers:
                hear(operation)

    def _pass_time(self) -> None:
        """Share out what memory grew by until now."""
        sharing, passing = self._sharing, self._passing
        passed_s = 0.0
        if passing is not None:
            self._take_down(passing)
            passed_s, self._passed_s = self._passed_s, 0.0
            passed_s += passing.seconds(sharing.at, self._clock())
        sharing.pass_time(self._clock(), self._used(), passed_s)

    def catch_up(self) -> None:
        """Take down what has passed since the last time, and read what has been passing for long from now on."""
        passing = self._passing
        if passing is not None:
            with self._lock:
                self._take_down(passing)
                for one in passing.grown_old(self._clock()):
                    self._be_read(passing, one)

    def _take_down(self, passing: Passing) -> None:
        since, waiting, keep, hearers = self._sharing.at, passing.ended, self._ended.append, self._hearers
        type_, tally, mean_bytes = "", None, 0.0
        while waiting:
            one = waiting.popleft()
            begun, lasted_s = one.at, one.duration_s
            self._passed_s += lasted_s if begun > since else max(0.0, begun + lasted_s - since)
            if tally is None or one.type != type_:
                type_ = one.type
                tally = self._tallies.get(type_) or self._tally(type_)
                mean_bytes = tally.mean_bytes
            tally.count_one(lasted_s, cast("Outcome", one.status))
            # Nobody says that it was alone, and what it grew memory by is what its type does.
            one.delta_bytes, one.shared_s = mean_bytes, lasted_s
            self._completed += 1
            keep(one)
            for hear in hearers:
                hear(one)

    def _be_read(self, passing: Passing, one: Passer) -> Operation | None:
        """Have one that passes be read from now on; its operation, if it is not over."""
        if one.operation is None and one in passing.open:
            self._pass_time()
            read = passing.read(one)
            if read is not None:
                self._sharing.begin(read, None)
                read.at = one.at
        return one.operation

    def _used(self) -> int | None:
        try:
            return self._first() if self._read is None else self._read()
        except (OSError, ValueError):
            if self._own_reader:  # its descriptor may be gone: a new one next time
                self._read = None
            return None

    def _first(self) -> int:
        """Open what tells this process's own memory, without its children and its group."""
        from memguard.probes.portable import PortableProbe  # noqa: PLC0415 - not where /proc is
        from memguard.probes.procfs import TreeProbe  # noqa: PLC0415 - not with another reader

        try:
            self._read = TreeProbe(children=lambda: 0).read
        except OSError:
            self._read = PortableProbe("tree").read
        return self._read()

    def _tally(self, type_: str) -> Tally:
        """The row of a type; of those beyond the bound, the common one."""
        if type_ not in self._tallies and len(self._tallies) >= self._max_types:
            type_ = OTHER
        return self._tallies.setdefault(type_, Tally(type_))

    # --- looking ------------------------------------------------------------------------------------------------------

    def running(
        self,
        *,
        duration_gt: float | None = None,
        type: str | None = None,  # noqa: A002 - as operators write it
    ) -> tuple[OperationRow, ...]:
        """Operations under way, longest first; only those above so many seconds, or of one type."""
        with self._lock:
            sharing = self._sharing
            self.catch_up()
            self._pass_time()
            now = sharing.at
            rows = [_row(cast("Operation", part), now - part.at, *got) for part, *got in sharing.under_way()]
            for one, type_ in () if self._passing is None else self._passing.under_way():
                tally = self._tallies.get(type_, self._average)
                rows.append(_passing_row(one, type_, now - one.at, tally.mean_bytes))
        return tuple(
            row
            for row in sorted(rows, key=lambda row: row.at)
            if (duration_gt is None or row.duration_s > duration_gt) and type in {None, row.type}
        )

    def ended(self, *, since: float = 0.0) -> tuple[OperationRow, ...]:
        """The last operations that ended (256 at most), newest first; only those that began after an instant."""
        self.catch_up()
        return tuple(
            _row(operation, operation.duration_s, operation.delta_bytes, operation.shared_s)
            for operation in reversed(tuple(self._ended))
            if operation.at > since
        )

    def latest(self) -> Operation | None:
        """The last one that ended and was read; None: none yet, or one that passed came after it."""
        last = self._ended[-1] if self._ended else None
        return last if isinstance(last, Operation) else None

    def remembers(self, operation: Operation) -> bool:
        """Whether it runs, or is among those that have ended last, which are kept here."""
        return operation in self._sharing.running or any(operation is one for one in tuple(self._ended))

    def stats(self) -> tuple[OperationStats, ...]:
        """What each type cost, the costliest in memory first; types beyond the bound stand under "other"."""
        self.catch_up()
        with self._lock:
            running = Counter(self._tally(type_).type for type_ in self._types())
            rows = [tally.stats(running[tally.type]) for tally in self._tallies.values()]
        return tuple(sorted(rows, key=lambda row: -row.memory_total_bytes))

    def running_types(self) -> Mapping[str, int]:
        """How many operations of each type are under way."""
        self.catch_up()
        with self._lock:
            return Counter(self._types())

    def _types(self) -> list[str]:
        passing = () if self._passing is None else self._passing.under_way()
        return [*(cast("Operation", part).type for part in self._sharing.running), *(type_ for _, type_ in passing)]

    @property
    def unattributed_bytes(self) -> int:
        """What memory grew by (below 0: fell) while no operation ran."""
        return int(self._sharing.nobodys_bytes)

    @property
    def passed_bytes(self) -> int:
        """What memory grew by (below 0: fell) for those that passed and were not read."""
        return int(self._sharing.passing_bytes)

    def __len__(self) -> int:
        return len(self._sharing.running) + (0 if self._passing is None else len(self._passing.open))

    def __repr__(self) -> str:
        return f"<Operations {len(self)} running, {len(self._tallies)} types>"


def _passing_row(one: Passer, type_: str, duration_s: float, delta: float) -> OperationRow:
    return OperationRow(
        id=f"{type_}-{one.number}", type=type_, status="running", at=one.at, duration_s=duration_s,
        memory_delta_bytes=int(delta), shared=True, alone_ratio=0.0, sampled=False,
    )  # fmt: skip


def _row(operation: Operation | Passer, duration_s: float, delta: float, shared_s: float) -> OperationRow:
    return OperationRow(
        id=operation.id,
        type=operation.type,
        status=operation.status or "running",
        at=operation.at,
        duration_s=duration_s,
        memory_delta_bytes=int(delta),
        shared=shared_s > 0.0,
        sampled=operation.sampled,
        alone_ratio=max(0.0, 1.0 - shared_s / duration_s) if duration_s > 0.0 else float(shared_s <= 0.0),
    )
