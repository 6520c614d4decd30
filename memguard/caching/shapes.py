"""What a cached function looks like from outside: its own signature, and what lru_cache's have beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, Protocol, Self, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Bound", "Cached", "CachedOfClass", "Counts", "Decorator"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)


class _Four(NamedTuple):
    hits: int
    misses: int
    maxsize: int | None
    currsize: int


class Counts(_Four):
    """What ``cache_info()`` gives: the four of ``functools.lru_cache``, and ``bytes`` beside them.

    It unpacks into four and equals a tuple of four. ``misses`` counts computations, ``hits`` every other answer, those
    that waited for another's computation among them; ``bytes`` are the accounted bytes of all entries.
    """

    bytes: int = 0

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, bytes={self.bytes})"


class _Controls(Protocol):
    def cache_info(self) -> Counts:
        """Hits, misses, limit and number of entries; ``.bytes`` beside them."""

    def cache_clear(self) -> None:
        """Drop every entry, what is being computed too, and count from zero."""

    def cache_parameters(self) -> dict[str, Any]:
        """The options in force, as a new dict."""


class Cached(_Controls, Protocol[P, R_co]):
    """A function under ``memguard.cached``: called as before.

    As a method, its keys start with the instance: ``Class.method.cache_invalidate(instance, …)``.
    """

    __name__: str
    __qualname__: str

    @property
    def __wrapped__(self) -> Callable[P, R_co]:
        """The function itself: not cached."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """As the function."""
        ...

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...

    @overload
    def __get__(self: Cached[Concatenate[S, Q], R], instance: S, owner: type | None = None, /) -> Bound[S, Q, R]: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> Self: ...

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Hashable:
        """The key of these arguments."""

    def cache_invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Drop the entry of these arguments, and what is being computed for them; whether there was one."""


class CachedOfClass(_Controls, Protocol[S_contra, Q, R_co]):
    """A function under ``memguard.cached`` whose first parameter is a class, as a class method's is, or is untyped.

    Type checkers bind what lies below ``classmethod`` by its own ``__get__``. They take an untyped first parameter for
    a class too: so a direct call is not checked, and a bound one is.
    """

    __name__: str
    __qualname__: str

    @property
    def __wrapped__(self) -> Callable[..., R_co]:
        """The function itself: not cached."""

    def __call__(self, *args: Any, **kwargs: Any) -> R_co:  # noqa: ANN401 - see above
        """As the function."""
        ...

    def __get__(self, instance: object, owner: type | None = None, /) -> Bound[type[S_contra], Q, R_co]: ...

    def cache_key(self, *args: Any, **kwargs: Any) -> Hashable:  # noqa: ANN401 - see above
        """The key of these arguments."""

    def cache_invalidate(self, *args: Any, **kwargs: Any) -> bool:  # noqa: ANN401 - see above
        """Drop the entry of these arguments, and what is being computed for them; whether there was one."""


class Bound(_Controls, Protocol[S_contra, Q, R_co]):
    """A method under ``memguard.cached``, bound to its instance."""

    __name__: str
    __qualname__: str

    @property
    def __wrapped__(self) -> Callable[..., R_co]:
        """The function itself: neither cached nor bound."""

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> R_co:
        """As the function."""
        ...

    def cache_key(self, instance: S_contra, /, *args: Q.args, **kwargs: Q.kwargs) -> Hashable:
        """The key of these arguments; the instance is one of them."""

    def cache_invalidate(self, instance: S_contra, /, *args: Q.args, **kwargs: Q.kwargs) -> bool:
        """Drop the entry of these arguments, the instance among them; whether there was one."""


class Decorator(Protocol):
    """``cached(…)`` with its options, waiting for the function."""

    @overload
    def __call__(self, function: Callable[Concatenate[type[S], Q], R], /) -> CachedOfClass[S, Q, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Cached[P, R]: ...
