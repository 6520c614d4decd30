"""Bounds of a cache as people write them: bytes, numbers, lifetimes."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Any

from memguard.caching.entry import ENTRY_BYTES
from memguard.units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["at_most", "in_bytes", "lifetime", "number", "seconds_of"]


def number(name: str, value: Any) -> Any:  # noqa: ANN401
    """A number, as it was given.

    Raises:
        TypeError: it is none.
    """
    if not hasattr(value, "__float__"):
        raise TypeError(f"{name}={value!r} must be a number, not {type(value).__name__}")
    return value


def in_bytes(name: str, value: Any) -> int:  # noqa: ANN401
    """Bytes, given as such or as text.

    Raises:
        ValueError, TypeError: they cannot be read, or are negative.
    """
    try:
        return parse_bytes(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}={value!r}: {error}") from None


def lifetime(ttl: Any) -> Any:  # noqa: ANN401 - as people write it
    """Seconds, a function that gives them, or None: for ever.

    Raises:
        ValueError, TypeError: they are not above 0, or no seconds.
    """
    if ttl is None or callable(ttl):
        return ttl
    if isinstance(ttl, bool):
        raise TypeError(f"ttl={ttl!r} must be seconds, or text like '5m', not bool (None: for ever)")
    try:
        seconds = parse_seconds(ttl) if isinstance(ttl, str) else number("ttl", ttl)
    except ValueError as error:
        raise ValueError(f"ttl={ttl!r}: {error} (None: for ever)") from None
    if not seconds > 0:
        raise ValueError(f"ttl={ttl!r} must be above 0 seconds (None: for ever)")
    return float(seconds)


def seconds_of(ttl: Callable[[Any], Any], value: object, name: str) -> float | None:
    """For how long one value is good, by a cache's own function.

    Raises:
        ValueError: the function gave no seconds.
    """
    seconds = ttl(value)
    if seconds is None:
        return None
    if hasattr(seconds, "__float__") and not isnan(seconds):
        return float(seconds)
    raise ValueError(f"cache {name!r}: ttl of a value gave {seconds!r}: it must give seconds, or None for ever")


def at_most(max_bytes: Any, min_bytes: Any) -> int | None:  # noqa: ANN401
    """The bytes that a cache may have; None: no bound.

    Raises:
        ValueError, TypeError: they cannot be read, hold no entry, or are less than those that it keeps.
    """
    if max_bytes is None:
        return None
    count = in_bytes("max_bytes", max_bytes)
    if count < ENTRY_BYTES:
        raise ValueError(
            f"max_bytes={max_bytes!r} holds no entry: the smallest takes {ENTRY_BYTES} bytes (None: no bound)"
        )
    if count < in_bytes("min_bytes", min_bytes):
        raise ValueError(f"max_bytes={max_bytes!r} is less than min_bytes={min_bytes!r}, which is never given up")
    return count
