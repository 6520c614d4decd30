"""Operations: who is running, for how long, and how much memory each kind of work leaves behind.

What memory grew by is split among those that ran, see ``_core/sharing.py``.
"""

from __future__ import annotations

import functools
from _thread import RLock
from collections import Counter, deque
from contextlib import aclosing
from contextvars import ContextVar
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

from memguard._core.sharing import Part, Sharing
from memguard._core.tally import OperationStats, Tally
from memguard.units import format_bytes, format_seconds
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Mapping
    from contextvars import Token
    from types import TracebackType
    from typing import Self

    from memguard.kinds import Outcome
    from memguard.ports import Clock

__all__ = ["Operation", "OperationRow", "OperationStats", "Operations"]

F = TypeVar("F", bound="Callable[..., Any]")
Status = Literal["running", "done", "failed", "abandoned"]

OTHER: Final = "other"
"""The row of all types beyond the bound."""

# Types with a row of their own; each takes some 5 KiB when its samples are full.
_TYPES: Final = 200
# Operations that ended, for those who ask what has just run.
_ENDED: Final = 256

_inside: ContextVar[Operation | None] = ContextVar("memguard_operation", default=None)


@value
class OperationRow:
    """One operation: ``at`` is the instant it began, ``duration_s`` how long it took or has been running.

    ``memory_delta_bytes`` is by how much memory grew for it (below 0: fell). ``shared`` says that others ran beside it,
    so that this is a fair part of what all of them grew by and not a measurement; ``alone_ratio`` is for which part of
    its time it ran alone.
    """

    id: str
    type: str
    status: Status
    at: float
    duration_s: float
    memory_delta_bytes: int
    shared: bool
    alone_ratio: float


class Operation(Part):
    """One piece of work under way: a context manager, sync and async, used once; or a decorator, used at will.

    Leaving the block ends it: "done", "failed" after an exception, "abandoned" after a cancellation.
    """

    __slots__ = ("_all", "_id", "_number", "_token", "delta_bytes", "duration_s", "shared_s", "status", "type")

    def __init__(self, all_: Operations, type_: str, id_: str | None) -> None:
        super().__init__()
        self._all: Operations | None = all_
        self._id = id_
        self._number = 0
        self._token: Token[Operation | None] | None = None
        self.type: str = type_
        self.status: Status | None = None
        self.duration_s: float = 0.0
        self.delta_bytes: float = 0.0
        self.shared_s: float = 0.0

    @property
    def id(self) -> str:
        """What it was called, or its type and number."""
        return f"{self.type}-{self._number}" if self._id is None else self._id

    def start(self, *, nested: bool = True) -> None:
        """Begin, as entering the block does; unless it is ``nested``, what begins inside is no part of it.

        Raises:
            RuntimeError: it began before; each piece of work is an operation of its own.
        """
        if self.status is not None or self._all is None:
            raise RuntimeError(f"operation {self.id!r} began before: make a new one for each piece of work")
        self._number = self._all.begin(self, _inside.get())
        self.status = "running"
        if nested:
            self._token = _inside.set(self)

    def end(self, outcome: Outcome = "done") -> None:
        """End; only the first end counts."""
        if self.status != "running" or self._all is None:
            return
        self.status = outcome
        token, self._token = self._token, None
        if token is not None:
            try:  # noqa: SIM105 - suppress() costs a twentieth of the whole operation
                _inside.reset(token)
            except ValueError:  # ended in another context than it began in: another task's, or over
                pass
        self._all.end(self, outcome)
        self._all = None  # what a context keeps of it holds nobody else

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end()
        elif kind is GeneratorExit or kind.__name__ in {"CancelledError", "Cancelled"}:
            self.end("abandoned")
        else:
            self.end("failed")

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Decorate a function, a generator or either ``async``: each call is an operation of this type."""
        operations = self._all
        if self.status is not None or operations is None:
            raise RuntimeError(f"operation {self.id!r} began before: decorate with a fresh one")
        return cast("F", _decorated(function, lambda: Operation(operations, self.type, self._id)))

    def __repr__(self) -> str:
        grown = f", {format_bytes(self.delta_bytes)} in {format_seconds(self.duration_s)}" if self.duration_s else ""
        return f"<Operation {self.id} {self.status or 'not begun'}{grown}>"


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
        self.completed: int = 0
        self._ended: deque[Operation] = deque(maxlen=_ENDED)
        self._lock = RLock()  # a finalizer or a signal handler may begin an operation in the middle of another's end
        self._sharing = Sharing(clock())
        self._hearers: tuple[Callable[[Operation], object], ...] = ()

    def listen(self, hear: Callable[[Operation], object]) -> None:
        """Have every operation that ends told to this, in the thread that ends it; it must be quick and not raise."""
        if hear not in self._hearers:
            self._hearers = (*self._hearers, hear)

    def forget(self) -> None:
        """In a forked child: the parent's operations are not ours, and /proc/self is the parent's."""
        if self._own_reader:
            self._read = None
        self._lock, self._sharing = RLock(), Sharing(self._clock())

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

    def begin(self, operation: Operation, outer: Operation | None) -> int:
        """Let an operation run from now on (called by it); its number."""
        with self._lock:
            self._sharing.pass_time(self._clock(), self._used())
            tally = self._tallies.get(operation.type)
            self._sharing.begin(operation, outer, 1.0 if tally is None else tally.weight(self._average))
            return next(self._numbers)

    def end(self, operation: Operation, outcome: Outcome) -> None:
        """Take an operation's end down (called by it)."""
        with self._lock:
            sharing = self._sharing
            if operation not in sharing.running:  # it began before a fork
                return
            sharing.pass_time(self._clock(), self._used())
            operation.delta_bytes, operation.shared_s = delta, shared_s = sharing.end(operation)
            operation.duration_s = lasted_s = sharing.at - operation.at
            tally = self._tallies.get(operation.type) or self._tally(operation.type)
            tally.add(lasted_s, delta, outcome, alone=shared_s <= 0.0)
            tally.learn(operation.own_bytes, operation.own_s)
            self._average.learn(operation.own_bytes, operation.own_s)
            self._ended.append(operation)
            self.completed += 1
            for hear in self._hearers:
                hear(operation)

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
            sharing.pass_time(self._clock(), self._used())
            now, found = sharing.at, sharing.under_way()
        return tuple(
            _row(cast("Operation", part), now - part.at, got, beside_s)
            for part, got, beside_s in found
            if (duration_gt is None or now - part.at > duration_gt) and type in {None, cast("Operation", part).type}
        )

    def ended(self, *, since: float = 0.0) -> tuple[OperationRow, ...]:
        """The last operations that ended (256 at most), newest first; only those that began after an instant."""
        return tuple(
            _row(operation, operation.duration_s, operation.delta_bytes, operation.shared_s)
            for operation in reversed(tuple(self._ended))
            if operation.at > since
        )

    def stats(self) -> tuple[OperationStats, ...]:
        """What each type cost, the costliest in memory first; types beyond the bound stand under "other"."""
        with self._lock:
            running = Counter(self._tally(cast("Operation", part).type).type for part in self._sharing.running)
            rows = [tally.stats(running[tally.type]) for tally in self._tallies.values()]
        return tuple(sorted(rows, key=lambda row: -row.memory_total_bytes))

    def running_types(self) -> Mapping[str, int]:
        """How many operations of each type are under way."""
        with self._lock:
            return Counter(cast("Operation", part).type for part in self._sharing.running)

    @property
    def unattributed_bytes(self) -> int:
        """What memory grew by (below 0: fell) while no operation ran."""
        return int(self._sharing.nobodys_bytes)

    def __len__(self) -> int:
        return len(self._sharing.running)

    def __repr__(self) -> str:
        return f"<Operations {len(self)} running, {len(self._tallies)} types>"


def _row(operation: Operation, duration_s: float, delta: float, shared_s: float) -> OperationRow:
    return OperationRow(
        id=operation.id,
        type=operation.type,
        status=operation.status or "running",
        at=operation.at,
        duration_s=duration_s,
        memory_delta_bytes=int(delta),
        shared=shared_s > 0.0,
        alone_ratio=max(0.0, 1.0 - shared_s / duration_s) if duration_s > 0.0 else float(shared_s <= 0.0),
    )


def _decorated(function: Callable[..., Any], fresh: Callable[[], Operation]) -> Callable[..., Any]:
    """The function with an operation around each call; around the whole life of a generator."""
    import inspect  # noqa: PLC0415 - 5 ms that only a decorator needs

    if not callable(function):
        raise TypeError(f"an operation decorates functions, not {function!r}")
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def streams(*args: object, **kwargs: object) -> AsyncIterator[object]:
            with _Loose(fresh()):
                async with aclosing(function(*args, **kwargs)) as items:
                    async for item in items:
                        yield item

        return streams
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def yields(*args: object, **kwargs: object) -> Generator[object, object, object]:
            with _Loose(fresh()):
                made: Generator[object, object, object] = function(*args, **kwargs)
                return (yield from made)

        return yields
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waits(*args: object, **kwargs: object) -> object:
            with fresh():
                answer: object = await function(*args, **kwargs)
                return answer

        return waits

    @functools.wraps(function)
    def runs(*args: object, **kwargs: object) -> object:
        with fresh():
            return function(*args, **kwargs)

    return runs


class _Loose:
    """An operation around work that is left and entered again: it is nobody's inside."""

    __slots__ = ("_operation",)

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        self._operation.start(nested=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._operation.__exit__(kind, error, trace)
