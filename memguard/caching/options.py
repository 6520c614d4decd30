"""The options of a cached function, checked where they are written."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any

from memguard.caching.entry import ENTRY_BYTES
from memguard.units import parse_bytes, parse_seconds
from memguard.values import fields, value

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Options"]


@value
class Options:
    """What ``cached`` was told: bytes and seconds as numbers, everything checked."""

    maxsize: int | None = None
    max_bytes: int | None = None
    ttl_s: float | Callable[[Any], float | None] | None = None
    typed: bool = False
    key: Callable[..., Hashable] | None = None
    cost_s: float | Callable[[Any], float] | None = None
    name: str | None = None
    weight: float = 1.0
    min_bytes: int = 0
    coalesce: bool = True
    none_ttl_s: float | None = None
    failures: tuple[tuple[type[Exception], float], ...] = ()
    stale_s: float | None = None

    @classmethod
    def parsed(cls, **told: Any) -> Options:  # noqa: ANN401 - checked here
        """Options as people write them.

        Raises:
            TypeError: one of the wrong type.
            ValueError: one that cannot be meant; the text names it.
        """
        none_ttl_s, failures = _negative(told["negative_ttl"])
        stale_s = None if told["stale_s"] is None else _lifetime("stale_s", told["stale_s"])
        if stale_s is not None and told["ttl"] is None:
            raise ValueError("cached(stale_s=...) needs a ttl: without one nothing gets stale")
        max_bytes, min_bytes = _max_bytes(told["max_bytes"]), _bytes("min_bytes", told["min_bytes"])
        if max_bytes is not None and max_bytes < min_bytes:
            raise ValueError(
                f"cached(max_bytes={told['max_bytes']!r}) is less than min_bytes={told['min_bytes']!r}, "
                f"which is never given up"
            )
        return cls(
            maxsize=_maxsize(told["maxsize"]),
            max_bytes=max_bytes,
            ttl_s=told["ttl"] if told["ttl"] is None or callable(told["ttl"]) else _lifetime("ttl", told["ttl"]),
            typed=bool(told["typed"]),
            key=_callable("key", told["key"]),
            cost_s=told["cost"] if callable(told["cost"]) else _number("cost", told["cost"]),
            name=_name(told["name"]),
            weight=_weight(told["weight"]),
            min_bytes=min_bytes,
            coalesce=bool(told["coalesce"]),
            none_ttl_s=none_ttl_s,
            failures=failures,
            stale_s=stale_s,
        )

    def shown(self) -> dict[str, Any]:
        """As ``cache_parameters()`` shows them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _maxsize(value: Any) -> int | None:  # noqa: ANN401
    if value is None:
        return None
    if not isinstance(value, int):
        raise TypeError(f"cached: expected first argument to be an integer, a callable, or None, not {value!r}")
    return max(0, int(value))  # as lru_cache has it


def _bytes(name: str, value: Any) -> int:  # noqa: ANN401
    try:
        return parse_bytes(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"cached({name}={value!r}): {error}") from None


def _max_bytes(value: Any) -> int | None:  # noqa: ANN401
    if value is None:
        return None
    count = _bytes("max_bytes", value)
    if count < ENTRY_BYTES:
        raise ValueError(
            f"cached(max_bytes={value!r}) holds no entry: the smallest takes {ENTRY_BYTES} bytes; "
            f"maxsize=0 counts calls and keeps nothing"
        )
    return count


def _lifetime(name: str, value: Any) -> float:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"cached({name}={value!r}): expected seconds, or text like '5m', not {type(value).__name__}")
    try:
        seconds = parse_seconds(value)
    except ValueError as error:
        raise ValueError(f"cached({name}={value!r}): {error}; None: no limit") from None
    if seconds == 0:
        raise ValueError(f"cached({name}={value!r}) keeps nothing: leave it out for no limit; maxsize=0 turns it off")
    return seconds


def _number(name: str, value: Any) -> float | None:  # noqa: ANN401
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"cached({name}={value!r}): expected a number or a callable, not {type(value).__name__}")
    if not 0 <= value < inf:
        least = "above 0" if name == "weight" else "0 or more"
        raise ValueError(f"cached({name}={value!r}): it must be {least}, and finite")
    return float(value)


def _weight(value: Any) -> float:  # noqa: ANN401
    weight = _number("weight", value)
    if not weight:
        raise ValueError(f"cached(weight={value!r}): it must be above 0; 1 is everybody's")
    return weight


def _callable(name: str, value: Any) -> Any:  # noqa: ANN401
    if value is not None and not callable(value):
        raise TypeError(f"cached({name}={value!r}): expected a callable, not {type(value).__name__}")
    return value


def _name(value: Any) -> str | None:  # noqa: ANN401
    if value is not None and not isinstance(value, str):
        raise TypeError(f"cached(name={value!r}): expected text, not {type(value).__name__}")
    if value is not None and not value.strip():
        raise ValueError("cached(name='') is blank: leave it out for the function's own name")
    return value


def _negative(value: Any) -> tuple[float | None, tuple[tuple[type[Exception], float], ...]]:  # noqa: ANN401
    if value is None:
        return None, ()
    if not isinstance(value, Mapping):
        return _lifetime("negative_ttl", value), ()
    none_ttl_s, failures = None, []
    for kind, ttl in value.items():
        seconds = _lifetime("negative_ttl", ttl)
        if kind is None:
            none_ttl_s = seconds
        elif isinstance(kind, type) and issubclass(kind, Exception):
            failures.append((kind, seconds))
        else:
            raise TypeError(f"cached(negative_ttl=...): {kind!r} is neither None nor a type of exception")
    return none_ttl_s, tuple(failures)
