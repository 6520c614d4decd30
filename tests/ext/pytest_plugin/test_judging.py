"""Whether growth is proportional to repeats, on series of numbers; and what markers refuse."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest

from memguard.ext.pytest_plugin.asking import LeakFree, leak_free
from memguard.ext.pytest_plugin.judging import each_time, slope


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([3] * 8, 3),
        ([0] * 8, 0),
        ([0, 10] * 8, 5),  # every other leaks
        ([200, 0, 0, 0, 0, 0, 0, 0], 0),  # the first fills a cache
        ([90, 60, 30, 10, 4, 2, 1, 0], 0),  # a cache that is full soon
        ([0, 0, 0, 0, 0, 0, 0, 200], 0),  # one step
        ([20, 20, -1400, 20, 20, 20, 20, 20], 20),  # somebody else lets go of something
        ([-5] * 8, 0),
    ],
)
def test_growth_in_each_part(steps: list[int], expected: float) -> None:
    """Growth counts when all parts of the repeats bring it, whatever single ones do."""
    assert each_time(list(accumulate(steps, initial=1_000_000))) == expected


def test_nothing_to_judge() -> None:
    """Without a repeat nothing grows."""
    assert each_time([5]) == 0.0
    assert slope([5]) == 0.0


def test_noisy_growth_needs_a_trend() -> None:
    """Resident memory counts when it rises beyond chance."""
    rising = [0, 70, 140, 190, 290, 350, 410, 500, 560]
    assert 60 < slope(rising) < 80
    assert slope([0, 70, 0, 70, 0, 70, 0, 70, 10]) == 0.0
    assert slope([0, 0, 0, 560, 560, 560, 560, 560, 560]) == 0.0


class User:
    pass


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, LeakFree()),
        ({"max_growth": "64KiB"}, LeakFree(max_growth_bytes=65536)),
        ({"max_growth": 0, "warmup": 0, "repeats": 3}, LeakFree(warmup=0, repeats=3, max_growth_bytes=0)),
        ({"types": User}, LeakFree(types=(f"{__name__}.User",))),
        ({"types": ["app.models.User", dict]}, LeakFree(types=("app.models.User", "dict"))),
    ],
)
def test_arguments_are_understood(arguments: dict[str, Any], expected: LeakFree) -> None:
    """Amounts as text or numbers, types as classes or names, one or several."""
    assert leak_free("here", arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_growth": "64K"}, r"here\(max_growth='64K'\): '64K' is ambiguous"),
        ({"max_growth": None}, r"here\(max_growth=None\): bytes must be"),
        ({"max_growth": -1}, r"here\(max_growth=-1\): -1 bytes is negative"),
        ({"repeats": 2}, r"here\(repeats=2\): write a whole number, at least 3"),
        ({"repeats": True}, r"here\(repeats=True\): write a whole number"),
        ({"warmup": -1}, r"here\(warmup=-1\): write a whole number, at least 0"),
        ({"warmup": 10**9}, r"here\(warmup=1000000000\): write a whole number, at least 0 and at most 100000"),
        ({"types": "not a name"}, r"here\(types='not a name'\): write a class"),
        ({"types": 3}, r"here\(types=3\): write a class"),
        ({"types": []}, r"here\(types=\[\]\): leave it out"),
        ({"growth": 1}, r"here\(growth=1\): there is no such argument: it takes warmup, repeats, max_growth, types"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], text: str) -> None:
    """The error names the place, the value and the mend."""
    with pytest.raises(pytest.UsageError, match=text):
        leak_free("here", arguments)
