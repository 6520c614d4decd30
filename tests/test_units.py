"""Bytes, seconds and ratios: what people write is read as they mean it, or refused in words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.units import GIB, KIB, MIB, format_bytes, format_seconds, parse_bytes, parse_ratio, parse_seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        (0, 0),
        (512 * MIB, 512 * MIB),
        ("512", 512),
        ("512B", 512),
        ("512MiB", 512 * MIB),
        ("512Mi", 512 * MIB),
        ("512mib", 512 * MIB),
        ("512MB", 512_000_000),
        ("2kB", 2000),
        ("64Ki", 64 * KIB),
        ("1.5GiB", 3 * GIB // 2),
        (".5KiB", 512),
        ("1.5GB", 1_500_000_000),
        ("1TiB", 1 << 40),
        ("+1KiB", KIB),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_bytes(text: str | int, count: int) -> None:
    """IEC units are powers of 1024, SI units powers of 1000, a bare number is bytes, and whole numbers stay exact."""
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("512 MB", "remove the blank"),
        ("512 MiB", "remove the blank"),
        ("90%", "is a share"),
        ("512M", "ambiguous"),
        ("2g", "ambiguous"),
        ("1PiB", "unknown unit 'PiB'"),
        ("", "is not an amount"),
        ("MiB", "is not an amount"),
        ("lots", "is not an amount"),
        ("1e9", "is not an amount"),
        ("1_000", "is not an amount"),
        ("\N{ARABIC-INDIC DIGIT FIVE}MiB", "is not an amount"),
        ("512MiB\n", "is not an amount"),
        ("nan", "is not an amount"),
        ("-1", "negative"),
        ("-5MiB", "negative"),
        (-1, "negative"),
        (1 << 62, "more than any machine"),
        ("9223372036854771712", "more than any machine"),
        (f"{'9' * 400}.5MiB", "more than any machine"),
    ],
)
def test_no_bytes(text: str | int, words: str) -> None:
    """What is no amount of memory is refused, with the mend in words."""
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_bytes(text)


@pytest.mark.parametrize("value", [True, 1.5, None, b"1"])
def test_bytes_of_another_type(value: object) -> None:
    """A flag, a float or nothing is not read as bytes by accident."""
    with pytest.raises(TypeError, match="bytes must be an int or text"):
        parse_bytes(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "ratio"), [("90%", 0.9), ("0.9", 0.9), (0.9, 0.9), (0, 0.0), (1, 1.0), ("100%", 1.0), ("0%", 0.0)]
)
def test_ratio(text: str | float, ratio: float) -> None:
    """A share reads as percent or as a number from 0 to 1."""
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize("text", [90, "90", 1.0001, "101%", -0.1, "-1%", float("nan"), float("inf"), "0.9MiB", "", "x"])
def test_no_ratio(text: str | float) -> None:
    """A threshold above 1 is refused, not guessed to be percent."""
    with pytest.raises(ValueError, match="not"):
        parse_ratio(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5m", 300.0),
        ("5min", 300.0),
        ("24h", 86400.0),
        ("2d", 172800.0),
        (1, 1.0),
        ("1.5", 1.5),
        (0, 0),
    ],
)
def test_seconds(text: str | float, seconds: float) -> None:
    """A duration reads with its unit, and a bare number is seconds."""
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", [-1, "-1s", float("inf"), float("nan"), "5 m", "5M", "5y", "", "soon", "90%"])
def test_no_seconds(text: str | float) -> None:
    """What is no duration is refused."""
    with pytest.raises(ValueError, match=r"not a duration|unknown unit"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (64 * MIB, "64.0 MiB"),
        (-64 * MIB, "-64.0 MiB"),
        (1.91 * GIB, "1.91 GiB"),
        (5000 * GIB, "5000.00 GiB"),
    ],
)
def test_format_bytes(count: float, text: str) -> None:
    """An amount is printed in the largest unit that fits, with its sign."""
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0031, "3.1 ms"), (0, "0.0 ms"), (1, "1.0 s"), (90, "90.0 s"), (600, "10.0 min"), (7200, "2.0 h")],
)
def test_format_seconds(seconds: float, text: str) -> None:
    """A duration is printed in the unit people would say."""
    assert format_seconds(seconds) == text


@given(st.integers(0, 1 << 45), st.sampled_from(["", "B", "kB", "MB", "KiB", "Mi", "MiB"]))
def test_parse_is_exact(count: int, unit: str) -> None:
    """Whole numbers lose no byte, whatever the unit."""
    scale = {"": 1, "B": 1, "kB": 1000, "MB": 1000**2, "KiB": KIB, "Mi": MIB, "MiB": MIB}[unit]
    if count * scale < 1 << 62:
        assert parse_bytes(f"{count}{unit}") == count * scale


@given(st.integers(0, 1 << 50))
def test_print_and_read_back(count: int) -> None:
    """What is printed reads back as the same amount, to the printed digit."""
    back = parse_bytes(format_bytes(count).replace(" ", ""))
    assert abs(back - count) <= max(1, count * 0.06)


@given(st.text() | st.from_regex(r"[+-]?[0-9]{0,400}\.?[0-9]{0,30} ?[A-Za-z%]{0,4}", fullmatch=True))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text brings anything but a value or a ValueError."""
    for parse in (parse_bytes, parse_ratio, parse_seconds):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert str(error)
