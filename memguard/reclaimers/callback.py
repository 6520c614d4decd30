"""Any callable as a reclaimer, and the checks that every reclaimer's labels pass."""

from __future__ import annotations

import types
import weakref
from typing import TYPE_CHECKING, Any, Final, get_args

from memguard.kinds import Cost
from memguard.model import Level

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Callback", "check_labels"]

_COSTS: Final = get_args(Cost)


def check_labels(name: object, cost: object, at: object) -> None:
    """Refuse a name, a cost or a level that cannot be meant.

    Raises:
        TypeError: the name is no text, or the level no ``Level``.
        ValueError: the name is blank, or the cost unknown.
    """
    if not isinstance(name, str):
        raise TypeError(f"a holder's name must be text, not {name!r}: write name='answers'")
    if not name.strip():
        raise ValueError("a holder's name is blank: events and reports need one, write name='answers'")
    if cost not in _COSTS:
        raise ValueError(f"holder {name!r}: {cost!r} is no cost: choose one of {', '.join(_COSTS)}")
    if not isinstance(at, Level):
        names = ", ".join(f"Level.{level.name}" for level in Level)
        raise TypeError(f"holder {name!r}: at={at!r} is no level: choose one of {names}")


class Callback:
    """A plain callable as a reclaimer: ``reclaim(wanted_bytes)`` may return the bytes it released, or None.

    ``size()``, when given, says how many bytes there are to give back and must cost microseconds. Bound methods
    are held weakly, so a callback never keeps its owner alive (an owner whose class has ``__slots__`` without
    ``__weakref__`` cannot be); closures, partials and methods of built-in objects hold what they hold. Whatever
    the callable raises passes through: the caller records it.

    Raises:
        TypeError: ``reclaim`` or ``size`` cannot be called in that way, or a label is of the wrong type.
        ValueError: the name is blank, or the cost unknown.
    """

    settles: bool = False
    stalls: bool = False

    def __init__(
        self,
        name: str,
        reclaim: Callable[[int], int | None],
        *,
        size: Callable[[], int | None] | None = None,
        cost: Cost = "cheap",
        at: Level = Level.WARNING,
    ) -> None:
        check_labels(name, cost, at)
        _check_call(name, "reclaim", reclaim, arguments=(0,), mend="lambda wanted_bytes: cache.clear()")
        if size is not None:
            _check_call(name, "size", size, arguments=(), mend="lambda: len(cache) * 2048")
        self.name = name
        self.cost: Cost = cost
        self.at = at
        self._reclaim = _weak(reclaim)
        self._weak = isinstance(self._reclaim, weakref.ref)
        self._size = None if size is None else _weak(size)

    @property
    def held(self) -> object | None:
        """The owner of a bound ``reclaim`` that is held weakly; None when there is none, or no more."""
        return getattr(self._reclaim(), "__self__", None) if self._weak else None

    def size(self) -> int | None:
        """Bytes to be had at most: what ``size`` says, 0 once the owner is gone, None without a ``size``."""
        if self._reclaim() is None:
            return 0
        if self._size is None:
            return None
        call = self._size()
        return 0 if call is None else _amount(call())

    def reclaim(self, wanted_bytes: int, /) -> int | None:
        """Call it; 0 once its owner is gone. A result that is no amount of bytes counts as no claim."""
        call = self._reclaim()
        return 0 if call is None else _amount(call(wanted_bytes))

    def __repr__(self) -> str:
        return f"<Callback {self.name!r} {self.cost} at {self.at.name}>"


def _amount(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return max(0, value)
    return None


def _weak(call: Any) -> Callable[[], Any]:  # noqa: ANN401 - whichever callable goes in comes out
    if isinstance(call, types.MethodType):
        try:
            return weakref.WeakMethod(call)
        except TypeError:  # __slots__ without __weakref__
            pass
    return lambda: call


def _check_call(name: str, what: str, call: object, *, arguments: tuple[int, ...], mend: str) -> None:
    if not callable(call):
        raise TypeError(f"holder {name!r}: {what}={call!r} cannot be called: write {what}={mend}")
    import inspect  # noqa: PLC0415 - 5 ms that only a registration needs

    if inspect.iscoroutinefunction(call) or inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise TypeError(
            f"holder {name!r}: {what}={call!r} is async or yields, and the guard's thread would never run it: write a "
            f"plain function, which may hand over to a loop by asyncio.run_coroutine_threadsafe"
        )
    try:
        signature = inspect.signature(call)
    except (ValueError, TypeError):
        return  # built-ins without a signature are found out when they run
    try:
        signature.bind(*arguments)
    except TypeError:
        takes = "one argument, wanted_bytes" if arguments else "no argument"
        raise TypeError(f"holder {name!r}: {what} must take {takes}, but is {signature}: write {what}={mend}") from None
