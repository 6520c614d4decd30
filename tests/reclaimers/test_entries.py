"""The sampled estimate of what entries weigh."""

from __future__ import annotations

import functools
import sys

import pytest

from memguard.reclaimers.entries import Estimate, bytes_of, peek_function, peek_mapping


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_entries_weigh_what_they_keep_alive() -> None:
    """An entry counts with key and value to the bottom, roughly where it is large."""
    clock = _Clock()
    estimate = Estimate(clock=clock)
    assert estimate.total(10, lambda: [("a key", [[b"x" * 1000], {"deep": [b"y" * 2000]}])]) == pytest.approx(
        10 * 3600, rel=0.12
    )
    words = [f"a word of the dictionary {number:05}" for number in range(10_000)]
    exact = sys.getsizeof(words) + sum(map(sys.getsizeof, words))
    estimate.learn([bytes_of(words)])
    assert estimate.mean == pytest.approx(exact, rel=0.1)


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
