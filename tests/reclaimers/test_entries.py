"""The sampled estimate of what entries weigh."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from memguard.reclaimers.entries import Estimate, bytes_of, peek_function, peek_mapping


@dataclass
class _Point:
    x: float
    y: str


@dataclass(slots=True)
class _SlottedPoint:
    x: float
    y: str


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_held_two_levels_down_counts() -> None:
    """A tuple of lists of bytes weighs its bytes."""
    assert bytes_of(([b"x" * 1000], [b"x" * 2000])) == pytest.approx(3000, rel=0.12)


def test_eight_children_stand_for_all() -> None:
    """A list of 10 000 strings is estimated from eight, within a tenth."""
    words = [f"a word of the dictionary {number:05}" for number in range(10_000)]
    exact = sys.getsizeof(words) + sum(map(sys.getsizeof, words))
    assert bytes_of(words) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("kind", [_Point, _SlottedPoint])
def test_instances_count_with_their_attributes(kind: Any) -> None:
    """Attributes of an instance count, in a dict or in slots."""
    assert bytes_of(kind(1.5, "y" * 1000)) == pytest.approx(1150, rel=0.15)


def test_looking_makes_no_instance_dict() -> None:
    """Estimating an instance does not make its __dict__, which would stay for good."""
    points = [_Point(float(number), "y") for number in range(3)]
    before = [sys.getsizeof(point) for point in points]
    for point in points:
        bytes_of(point)
    assert [sys.getsizeof(point) for point in points] == before


def test_classes_and_modules_are_nobodys() -> None:
    """What all instances share is not counted for each."""
    assert bytes_of(_Point) == sys.getsizeof(_Point)
    assert bytes_of((sys, _Point, bytes_of)) < 200_000
    assert bytes_of(object()) < 100


def test_a_cycle_ends() -> None:
    """An object that holds itself is looked at twice at most."""
    knot: list[Any] = []
    knot.append(knot)
    assert bytes_of(knot) <= 3 * sys.getsizeof(knot)


def test_both_ends_of_a_mapping_are_looked_at() -> None:
    """Eight of the oldest and eight of the newest entries are picked."""
    found = peek_mapping(dict.fromkeys(range(100), "x"))
    assert found is not None
    assert [entry[0] for entry in found if isinstance(entry, tuple)] == [*range(8), *range(99, 91, -1)]


def test_functions_that_are_no_lru_cache() -> None:
    """Of other functions with a cache nothing is known."""
    assert peek_function(len) is None


def test_a_huge_bounded_lru_cache_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing the links of a bounded lru_cache costs 10 ns each: above a number it is left."""
    monkeypatch.setattr("memguard.reclaimers.entries._LINKS_MOST", 10)

    @functools.lru_cache(maxsize=100)
    def double(number: int) -> int:
        return 2 * number

    for number in range(11):
        double(number)
    assert peek_function(double) is None


def test_an_estimate_is_kept_until_it_is_old_or_the_length_moved() -> None:
    """It looks again after five seconds, or when the length moved by a quarter, but not four times a second."""
    clock = _Clock()
    estimate = Estimate(clock=clock)
    looks = 0

    def peek() -> list[object]:
        nonlocal looks
        looks += 1
        return [b"x" * 1000]

    assert estimate.mean is None
    assert estimate.total(0, peek) == 0
    assert looks == 0
    first = estimate.total(100, peek)
    assert first == 100 * sys.getsizeof(b"x" * 1000)
    for at, length, expected in (
        (1.0, 110, 1),
        (1.1, 130, 2),
        (1.2, 200, 2),
        (1.4, 200, 3),
        (6.3, 200, 3),
        (6.5, 200, 4),
    ):
        clock.now = at
        estimate.total(length, peek)
        assert looks == expected, at


def test_an_estimate_without_a_look_is_unknown_until_told() -> None:
    """Where nothing may be looked at, the size is unknown until evicted entries have told."""
    estimate = Estimate(clock=_Clock())
    assert estimate.total(10, lambda: None) is None
    estimate.learn([100, 300])
    assert estimate.total(10, lambda: None) == 2000
    estimate.learn([])
    assert estimate.mean == 200
