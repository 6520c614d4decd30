"""The arithmetic of cohorts."""

from __future__ import annotations

import random

import pytest

from memguard.leaks.ages import holm, outlived


@pytest.mark.parametrize(
    ("blocks", "verdict"),
    [
        ([100, 200, 300, 400, 500], True),
        ([100, 180, 290, 400, 490], True),
        ([50, 50, 50, 50, 50], False),
        ([100, 150, 160, 160, 161], False),
        ([100, 130, 160, 190, 220], False),
        ([100, 90, 120, 140, 110], False),
        ([5, 5, 5, 5, 5], False),
    ],
)
def test_who_stays(blocks: list[int], verdict: bool) -> None:
    """A curve that goes on as it began is a leak's; one that bends, or stands, is not."""
    p = outlived(blocks, [count * 64 for count in blocks], [100.0] * len(blocks))
    assert (p < 0.01) is verdict


def test_uneven_work_is_reckoned_with() -> None:
    """When most of the work was done in the first part, most of what stays is of its age."""
    blocks, sizes = [400, 425, 450, 475, 500], [4000, 4250, 4500, 4750, 5000]
    assert outlived(blocks, sizes, [400.0, 25.0, 25.0, 25.0, 25.0]) < 0.05
    assert outlived(blocks, sizes, [100.0] * 5) > 0.5


def test_a_growing_buffer_counts_by_direction() -> None:
    """One block that grows in each part is told of, with what little is known."""
    assert outlived([1] * 6, [10, 20, 30, 40, 50, 60], [1.0] * 6) == pytest.approx(1 / 32)
    assert outlived([1] * 6, [10, 20, 15, 40, 50, 60], [1.0] * 6) == 1.0


def test_nothing_to_go_by() -> None:
    """Of one part, or of no work, nothing is concluded."""
    assert outlived([5], [5], [1.0]) == 1.0
    assert outlived([50, 100], [5, 10], [0.0, 0.0]) == 1.0


def test_caches_are_rarely_taken_for_leaks() -> None:
    """Of 200 caches with random residence, at most 1 % pass."""
    dice = random.Random(5)
    passed = 0
    for _ in range(200):
        born = [dice.randrange(60, 140) for _ in range(5)]
        blocks = [sum(born[max(0, part - 1) : part + 1]) // 2 + dice.randrange(10) for part in range(5)]
        passed += outlived(blocks, [count * 64 for count in blocks], [100.0] * 5) < 0.01
    assert passed <= 2


def test_holm() -> None:
    """The smallest is held against all, the next against all but one; no order is turned round."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([]) == ()
    assert holm([0.9, 0.9]) == (1.0, 1.0)
