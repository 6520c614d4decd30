"""Bytes, seconds and ratios: read what people write, print what people read."""

from __future__ import annotations

import re

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "format_bytes",
    "format_seconds",
    "parse_bytes",
    "parse_group",
    "parse_ratio",
    "parse_seconds",
]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_BYTES = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "ki": KIB, "mi": MIB, "gi": GIB, "ti": 1 << 40,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1 << 40,
}  # fmt: skip
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_WORDS = (
    {"auto": "auto"}
    | dict.fromkeys(("1", "true", "yes", "on"), "on")
    | dict.fromkeys(("0", "false", "no", "off"), "off")
)
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([A-Za-z%]*)", re.ASCII)
# 2**62 and above is how kernels write "no limit"; nothing real is that large.
_ABSURD = 1 << 62


def _split(text: str, what: str, example: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        hint = " (remove the blank)" if re.search(r"\d\s+\S", text.strip()) else ""
        raise ValueError(f"{text!r} is not {what}{hint}: write it like {example}")
    return float(match[1]), match[2]


def parse_bytes(value: str | int) -> int:
    """Bytes from ``"512MiB"``, ``"1.5GB"``, ``"64Ki"`` or a plain count of bytes.

    KiB, MiB, GiB (and Ki, Mi, Gi) are powers of 1024, kB, MB, GB powers of 1000, as IEC 80000-13 has
    them. A lone ``M`` or ``G`` is refused, because Docker and Kubernetes read it differently.

    >>> parse_bytes("512MiB")
    536870912
    >>> parse_bytes("90%")
    Traceback (most recent call last):
    ...
    ValueError: '90%' is a share, not an amount of memory: write bytes like '512MiB'

    Raises:
        ValueError: the text is no amount of memory.
        TypeError: neither text nor an integer.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError(f"bytes must be an int or text like '512MiB', not {value!r}")
    if isinstance(value, str):
        number, unit = _split(value, "an amount of memory", "'512MiB'")
        if unit == "%":
            raise ValueError(f"{value!r} is a share, not an amount of memory: write bytes like '512MiB'")
        if len(unit) == 1 and unit.lower() in "kmgt":
            big = unit.upper()
            raise ValueError(
                f"{value!r} is ambiguous (Docker and Kubernetes differ): "
                f"write '{big}iB' for powers of 1024 or '{big}B' for powers of 1000"
            )
        scale = _BYTES.get(unit.lower())
        if scale is None:
            raise ValueError(f"{value!r} has the unknown unit {unit!r}: write it like '512MiB'")
        if abs(number) >= _ABSURD:
            raise ValueError(f"{value!r} is more than any machine has: use None for no limit")
        # Whole numbers stay exact; a float would lose bytes above 2**53.
        digits = value[: len(value) - len(unit)]
        value = int(digits) * scale if digits.lstrip("+-").isdigit() else int(number * scale)
    if value < 0:
        raise ValueError(f"{value} bytes is negative: memory is at least 0")
    if value >= _ABSURD:
        raise ValueError(f"{value} bytes is more than any machine has: use None for no limit")
    return value


def parse_ratio(value: str | float) -> float:
    """A share between 0 and 1 from ``"90%"``, ``"0.9"`` or ``0.9``.

    >>> parse_ratio("90%")
    0.9

    Raises:
        ValueError: outside 0 to 1, or no number.
    """
    if isinstance(value, str):
        number, unit = _split(value, "a share", "'90%' or 0.9")
        if unit not in {"", "%"}:
            raise ValueError(f"{value!r} is not a share: write it like '90%' or 0.9")
        ratio = number / 100 if unit == "%" else number
    else:
        ratio = float(value)
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"{value!r} is not between 0 and 1: write 90 percent as '90%' or 0.9")
    return ratio


def parse_seconds(value: str | float) -> float:
    """Seconds from ``"250ms"``, ``"5m"``, ``"24h"`` or a plain number of seconds.

    >>> parse_seconds("5m")
    300.0

    Raises:
        ValueError: negative, not finite, or no duration.
    """
    if isinstance(value, str):
        number, unit = _split(value, "a duration", "'250ms' or '5m'")
        scale = _SECONDS.get(unit)
        if scale is None:
            raise ValueError(f"{value!r} has the unknown unit {unit!r}: write it like '250ms' or '5m'")
        seconds = number * scale
    else:
        seconds = float(value)
    if not 0.0 <= seconds < float("inf"):
        raise ValueError(f"{value!r} is not a duration of 0 seconds or more")
    return seconds


def format_bytes(count: float) -> str:
    """An amount of memory for people, in powers of 1024.

    >>> format_bytes(67_108_864)
    '64.0 MiB'
    """
    sign = "-" if count < 0 else ""
    size = abs(count)
    for unit in ("B", "KiB", "MiB"):
        if size < KIB:
            return f"{sign}{size:.0f} B" if unit == "B" else f"{sign}{size:.1f} {unit}"
        size /= KIB
    return f"{sign}{size:.2f} GiB"


def format_seconds(seconds: float) -> str:
    """A duration for people.

    >>> format_seconds(0.0031)
    '3.1 ms'
    """
    for unit, scale, top in (("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0)):
        if seconds < top:
            return f"{seconds / scale:.1f} {unit}"
    return f"{seconds / 3600:.1f} h"


def parse_group(value: str | bool) -> str:  # noqa: FBT001 - a parser's only argument
    """``"auto"``, ``"on"``, ``"off"`` (or true and false, as people write them), or the name of a group of workers.

    >>> parse_group(False), parse_group("api-1")
    ('off', 'api-1')

    Raises:
        ValueError: neither of them.
    """
    text = str(value).strip()
    word = _WORDS.get(text.lower())
    if word is None and not _GROUP.fullmatch(text):
        raise ValueError(
            f"{value!r} is no group of workers: write 'auto', 'on', 'off', or a name of up to 64 letters, digits, "
            "'.', '_' and '-'"
        )
    return text if word is None else word
