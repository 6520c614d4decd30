"""One piece of work: a context manager or a decorator; it knows when it began, and with which others."""

from __future__ import annotations

import functools
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from memguard._core.sharing import Part
from memguard.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator
    from contextvars import Token
    from types import TracebackType
    from typing import Self

    from memguard.kinds import Outcome
    from memguard.operations.account import Operations
    from memguard.operations.passing import Passer

__all__ = ["INSIDE", "Operation", "Status"]

F = TypeVar("F", bound="Callable[..., Any]")
Status = Literal["running", "done", "failed", "abandoned"]

INSIDE: ContextVar[Operation | Passer | None] = ContextVar("memguard_operation", default=None)
"""The operation that this context is inside of, if it still runs."""


class Operation(Part):
    """One piece of work under way: a context manager, sync and async, used once; or a decorator, used at will.

    Leaving the block ends it: "done", "failed" after an exception, "abandoned" after a cancellation.
    """

    __slots__ = (
        "__weakref__", "_all", "_id", "_number", "_token", "delta_bytes", "duration_s", "shared_s", "status", "type",
    )  # fmt: skip

    def __init__(self, all_: Operations, type_: str, id_: str | None) -> None:
        super().__init__()
        self._all: Operations | None = all_
        self._id = id_
        self._number = 0
        self._token: Token[Operation | Passer | None] | None = None
        self.type: str = type_
        self.status: Status | None = None
        self.duration_s: float = 0.0
        self.delta_bytes: float = 0.0
        self.shared_s: float = 0.0

    @property
    def id(self) -> str:
        """What it was called, or its type and number."""
        return f"{self.type}-{self._number}" if self._id is None else self._id

    @property
    def sampled(self) -> bool:
        """Whether memory was read for it."""
        return True

    def start(self, *, nested: bool = True) -> None:
        """Begin, as entering the block does; unless it is ``nested``, what begins inside is no part of it.

        Raises:
            RuntimeError: it began before; each piece of work is an operation of its own.
        """
        if self.status is not None or self._all is None:
            raise RuntimeError(f"operation {self.id!r} began before: make a new one for each piece of work")
        self._number = self._all.begin(self, INSIDE.get())
        self.status = "running"
        if nested:
            self._token = INSIDE.set(self)

    def end(self, outcome: Outcome = "done") -> None:
        """End; only the first end counts."""
        if self.status != "running" or self._all is None:
            return
        self.status = outcome
        token, self._token = self._token, None
        if token is not None:
            try:  # noqa: SIM105 - suppress() costs a twentieth of the whole operation
                INSIDE.reset(token)
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
