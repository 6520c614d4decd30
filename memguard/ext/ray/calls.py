"""Calls: tasks and actor methods are admitted by the memory they need, or refused so that Ray makes them again."""

from __future__ import annotations

import functools
import inspect
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from memguard.errors import AdmissionRefused, MemguardError
from memguard.fuse.letting_go import out_of_memory
from memguard.threads import Bell, on_event_loop
from memguard.units import parse_bytes, parse_seconds
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Mapping
    from types import TracebackType
    from typing import Self

    from memguard.admission import Ticket
    from memguard.guard import Guard
    from memguard.kinds import Priority
    from memguard.operations import Operation

__all__ = ["WAIT_S", "NeverFits", "Passage", "Terms", "admitted", "is_admitted"]

F = TypeVar("F", bound="Callable[..., Any]")

WAIT_S = 10.0
"""Seconds that a call waits for room by default. Meanwhile it keeps its CPU, so Ray gives this node no more work."""

# A call that meets a hand-over waits for the end of the process; that it was called off is seen so soon.
_HELD_S = 0.05

# Whether this context is inside of an admitted call: its own calls are part of it.
_INSIDE: ContextVar[bool] = ContextVar("memguard_ray_call", default=False)


class NeverFits(MemguardError):
    """A call needs more memory than there can ever be for it.

    Not an ``AdmissionRefused``: to make the call again, as ``retry_exceptions`` does, would be in vain.
    """


@value
class Terms:
    """How a function's calls are admitted: ``bytes`` is an amount, None (unknown), or a function of the arguments."""

    type: str
    bytes: int | Callable[..., int | str | None] | None = None
    wait_s: float = WAIT_S
    priority: Priority = "normal"


@overload
def admitted(function: F, /) -> F: ...
@overload
def admitted(
    *,
    bytes: int | str | Callable[..., int | str | None] | None = None,
    wait_s: float | str = WAIT_S,
    type: str | None = None,
    priority: Priority = "normal",
) -> Callable[[F], F]: ...
def admitted(
    function: Any = None,
    /,
    *,
    bytes: Any = None,  # noqa: A002 - as Guard.admit has it
    wait_s: float | str = WAIT_S,
    type: str | None = None,  # noqa: A002 - as Guard.operation has it
    priority: Priority = "normal",
) -> Any:
    """Decorate a task or an actor method, below ``@ray.remote``: each call passes the gate of the worker's guard.

    A call that does not fit waits for ``wait_s`` and is then refused: let Ray make it again with
    ``@ray.remote(max_retries=…, retry_exceptions=[memguard.AdmissionRefused])``. ``bytes`` says what a call needs: an
    amount, or a function that is given the call's arguments; without it calls are refused from CRITICAL on. Each call
    is an operation of ``type``, by default the function's name. Functions, generators and either ``async``.

    Raises:
        TypeError: what is decorated is no function.
        ValueError: an amount or a time that cannot be meant.
    """
    needs = parse_bytes(bytes) if isinstance(bytes, str) else bytes
    terms = Terms(type=type or "", bytes=needs, wait_s=parse_seconds(wait_s), priority=priority)
    if function is None:
        return lambda made: guarded(made, terms)
    return guarded(function, terms)


def is_admitted(function: object) -> bool:
    """Whether a function has been decorated."""
    return hasattr(function, "__memguard_terms__")


def guarded(function: F, terms: Terms) -> F:
    """The function with a passage around each call.

    What Ray sends to workers may name nothing of this module but functions and classes: those go by name.
    """
    given: object = function
    if not inspect.isroutine(given):
        raise TypeError(f"admitted() decorates functions, not {given!r}: write it below @ray.remote")
    if not terms.type:
        name = function.__qualname__.rpartition("<locals>.")[2]
        terms = Terms(type=name, bytes=terms.bytes, wait_s=terms.wait_s, priority=terms.priority)
    made = _around(function, terms)
    vars(made)["__memguard_terms__"] = terms
    return cast("F", made)


def _around(function: Callable[..., Any], terms: Terms) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def streams(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - as it has them, and below
            async with Passage(terms, args, kwargs, nested=False), aclosing(function(*args, **kwargs)) as items:
                async for item in items:
                    yield item

        return streams
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def yields(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:  # noqa: ANN401
            with Passage(terms, args, kwargs, nested=False):
                return (yield from function(*args, **kwargs))

        return yields
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waits(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            async with Passage(terms, args, kwargs):
                return await function(*args, **kwargs)

        return waits

    @functools.wraps(function)
    def runs(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        with Passage(terms, args, kwargs):
            return function(*args, **kwargs)

    return runs


class Passage:
    """One call's way through the gate, used once; inside of another call it is part of that one.

    A process that hands over takes in no more calls: they wait for its end, and Ray makes them again elsewhere.
    """

    __slots__ = ("_args", "_guard", "_kwargs", "_nested", "_operation", "_terms", "_ticket", "_token")

    def __init__(self, terms: Terms, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, nested: bool = True) -> None:
        self._terms = terms
        self._args = args
        self._kwargs = kwargs
        self._nested = nested
        self._guard: Guard
        self._ticket: Ticket | None = None
        self._operation: Operation
        self._token: Any = None

    def __enter__(self) -> Self:
        if _INSIDE.get():
            return self
        from memguard.ext.ray.workers import get_guard  # noqa: PLC0415 - it knows this module's neighbours

        guard = self._guard = get_guard()
        while self._ticket is None:
            while guard.leaving and not on_event_loop():
                Bell().wait(_HELD_S)
            try:
                self._ticket = self._ask().__enter__()
            except AdmissionRefused as refused:
                self._refused(refused, holds=not on_event_loop())
        self._begin()
        return self

    async def __aenter__(self) -> Self:
        if _INSIDE.get():
            return self
        import asyncio  # noqa: PLC0415 - it runs

        from memguard.ext.ray.workers import get_guard  # noqa: PLC0415 - as above

        guard = self._guard = get_guard()
        while self._ticket is None:
            while guard.leaving:  # noqa: ASYNC110 - no event is set by a process that ends
                await asyncio.sleep(_HELD_S)
            try:
                self._ticket = await self._ask().__aenter__()
            except AdmissionRefused as refused:
                self._refused(refused, holds=True)
        self._begin()
        return self

    def _ask(self) -> Ticket:
        terms, wants = self._terms, self._terms.bytes
        wanted = wants(*self._args, **self._kwargs) if callable(wants) else wants
        if isinstance(wanted, str):
            wanted = parse_bytes(wanted)
        guard, limit = self._guard, self._guard.snapshot.limit
        in_vain = limit is not None and (wanted or 0) > limit.bytes
        wait_s = 0.0 if in_vain else terms.wait_s
        return guard.admit(wanted, kind="call", label=terms.type, wait_s=wait_s, priority=terms.priority)

    def _refused(self, refused: AdmissionRefused, *, holds: bool) -> None:
        """Raise what the caller is told, unless a hand-over has begun meanwhile and the call ``holds``."""
        if refused.never:
            raise NeverFits(str(refused)) from None
        if not (holds and self._guard.leaving):
            raise refused

    def _begin(self) -> None:
        self._args, self._kwargs = (), {}
        self._operation = self._guard.operation(self._terms.type)
        self._operation.start(nested=self._nested)
        if self._nested:  # a generator is left and entered again, by others
            self._token = _INSIDE.set(True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ticket = self._ticket
        if ticket is None:
            return
        if self._token is not None:
            _INSIDE.reset(self._token)
        ticket.__exit__(kind, error, trace)
        self._operation.__exit__(kind, error, trace)
        guard = self._guard
        if error is not None and guard.rules.fuse and out_of_memory(error):
            raise guard.memory_error(error) from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
