"""Tallies: what a type is known to grow by."""

from __future__ import annotations

import pytest

from memguard._core.tally import Tally


def test_weight() -> None:
    """Ten times the average's growth per second weighs ten; nothing known, or nothing grown, weighs as the average."""
    average, fast = Tally(""), Tally("fast")
    assert fast.weight(average) == 1.0
    average.learn(100.0, 10.0)
    assert fast.weight(average) == 1.0
    fast.learn(100.0, 1.0)
    assert fast.weight(average) == pytest.approx(10.0)


@pytest.mark.parametrize(("bytes_", "weight"), [(1e12, 50.0), (-5.0, 0.02), (0.0, 0.02)])
def test_weight_is_bounded(bytes_: float, weight: float) -> None:
    """A type is never written off, and never takes all."""
    average, other = Tally(""), Tally("other")
    average.learn(1000.0, 10.0)
    other.learn(bytes_, 1.0)
    assert other.weight(average) == weight


def test_what_was_long_ago_is_forgotten() -> None:
    """After any number of operations that grow nothing, or take no time, there is a weight (floats underflow)."""
    average, other = Tally(""), Tally("other")
    for tally in (average, other):
        tally.learn(1e6, 1.0)
        for _ in range(40_000):
            tally.learn(0.0, 0.0)
            assert 0.02 <= other.weight(average) <= 50.0


def test_nothing_ended() -> None:
    """A type of which nothing has ended yet has figures of 0."""
    stats = Tally("a").stats(1)
    assert (stats.count, stats.running, stats.duration_p99_s, stats.memory_max_bytes) == (0, 1, 0.0, 0)
    assert stats.memory_alone_bytes is None
