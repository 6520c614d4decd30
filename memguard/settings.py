"""Settings: what a rule's value may be written as, in a keyword, the environment or an operator's own names.

Each raises ValueError, in words that say what to write instead.
"""

from __future__ import annotations

from memguard.model import Level
from memguard.units import MIB, parse_ratio, parse_seconds

__all__ = ["count", "flag", "fuse", "handover", "level", "maintain", "mebibytes", "mode", "percent", "schedule"]


def mebibytes(value: str | float) -> int:
    """A number of MiB, as bytes."""
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{value!r} is not a number of MiB above 0")
    return int(number * MIB)


def count(value: str | float) -> int:
    """A whole number of 0 or more."""
    number = int(value)
    if number != float(value) or number < 0:
        raise ValueError(f"{value!r} is not a whole number of 0 or more")
    return number


def flag(value: str | bool) -> bool:  # noqa: FBT001 - a parser's only argument
    """Yes or no, in any usual word."""
    word = str(value).strip().lower()
    if word not in {"1", "0", "true", "false", "yes", "no", "on", "off"}:
        raise ValueError(f"{value!r} is neither true nor false: write 'true' or 'false'")
    return word in {"1", "true", "yes", "on"}


def level(value: str | int) -> Level:
    """A level, by its name or its number."""
    try:
        return Level[value.upper()] if isinstance(value, str) else Level(value)
    except (KeyError, ValueError):
        names = ", ".join(level.name for level in Level)
        raise ValueError(f"{value!r} is no level: choose one of {names}") from None


def mode(value: str) -> str:
    """Whether to act, or to observe only."""
    if value not in {"act", "observe"}:
        raise ValueError(f"{value!r} is no mode: choose 'act' or 'observe'")
    return value


def fuse(value: str | bool) -> bool | str:  # noqa: FBT001 - a parser's only argument
    """Whether there is a fuse: yes, no or "force"."""
    if str(value).strip().lower() == "force":
        return "force"
    try:
        return flag(value)
    except ValueError:
        raise ValueError(f"{value!r} is no choice of fuse: write 'true', 'false' or 'force'") from None


def percent(value: str | float) -> float:
    """A threshold as operators write it: 0.85, 85 or "85%"."""
    if isinstance(value, str) and value.endswith("%"):
        return parse_ratio(value)
    number = float(value)
    return parse_ratio(number / 100 if number > 1 else number)


def handover(value: str | bool) -> str:  # noqa: FBT001 - as above
    """Whether to hand over: "auto", "on" or "off"."""
    word = {True: "on", False: "off"}.get(value) if isinstance(value, bool) else str(value).strip().lower()
    if word not in {"auto", "on", "off"}:
        raise ValueError(f"{value!r} is no choice of hand-over: write 'auto', 'on' or 'off'")
    return word


_CHORES = ("expire", "clean", "census")


def schedule(value: str) -> dict[str, float]:
    """What is done how often, in seconds: "expire=60s clean=15m"; "off" is nothing."""
    found: dict[str, float] = {}
    words = str(value).replace(",", " ").split()
    for word in () if [one.lower() for one in words] == ["off"] else words:
        name, _, every = word.partition("=")
        seconds = parse_seconds(every) if every else 0.0
        if name not in _CHORES or not 1.0 <= seconds < float("inf"):
            raise ValueError(
                f"{word!r} is no chore: write expire=60s, clean=15m or census=1h (a second at least), or 'off'"
            )
        found[name] = seconds
    return found


def maintain(value: str | bool) -> str:  # noqa: FBT001 - as above
    """A schedule, as it was written; False and "" are "off"."""
    text = str(value or "off").strip()
    return text if schedule(text) else "off"
