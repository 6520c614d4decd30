"""Trend: the same numbers as pymannkendall and scipy."""

from __future__ import annotations

import warnings

import numpy as np
import pymannkendall
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from memguard._core.trend import Slopes, drift, hamed_rao, kendall_variance, lag_one, pair_slopes, typical_step

Z_95 = 1.959963984540054


def series(count: int, seed: int, *, ties: bool) -> list[float]:
    """A walk with a drift; with ties, in whole steps."""
    random = np.random.default_rng(seed)
    walk = np.cumsum(random.normal(size=count)) * 0.4 + np.arange(count) * 0.1
    return [float(value) for value in (np.round(walk) if ties else walk)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [4, 11, 64, 120])
def test_mann_kendall_is_pymannkendalls(count: int, ties: bool) -> None:
    """S, its variance, z, p and Theil-Sen's slope are pymannkendall's, with ties and without."""
    for seed in range(10):
        values = series(count, seed, ties=ties)
        theirs, ours = pymannkendall.original_test(values), pair_slopes(range(count), values)
        assert ours.score == theirs.s
        assert ours.variance == pytest.approx(theirs.var_s)
        assert ours.z == pytest.approx(theirs.z)
        assert ours.p == pytest.approx(theirs.p)
        assert ours.middle == pytest.approx(theirs.slope)


@pytest.mark.parametrize("ties", [False, True])
def test_correction_for_neighbours_is_pymannkendalls(ties: bool) -> None:
    """Hamed and Rao's corrected variance is pymannkendall's."""
    for seed in range(20):
        values = series(50, seed, ties=ties)
        theirs, plain = pymannkendall.hamed_rao_modification_test(values), pair_slopes(range(50), values)
        left = [value - place * theirs.slope for place, value in enumerate(values, 1)]
        assert plain.variance * hamed_rao(left) == pytest.approx(theirs.var_s)


def test_groups_are_seasons() -> None:
    """Values that are compared within groups give pymannkendall's seasonal test."""
    random = np.random.default_rng(3)
    values = (random.normal(size=48) + np.tile(np.arange(12.0), 4) * 3 + np.arange(48) * 0.02).tolist()
    theirs = pymannkendall.seasonal_test(values, period=12)
    ours = pair_slopes([place // 12 for place in range(48)], values, groups=[range(k, 48, 12) for k in range(12)])
    assert ours.score == theirs.s
    assert ours.middle == pytest.approx(theirs.slope)
    assert ours.variance == pytest.approx(theirs.var_s)


@pytest.mark.parametrize("seed", range(8))
def test_theil_sen_is_scipys(seed: int) -> None:
    """The slope is scipy's on uneven instants too, and the interval holds scipy's within one rank."""
    random = np.random.default_rng(seed)
    x, y = np.cumsum(random.uniform(0.5, 2.0, size=40)), np.asarray(series(40, seed, ties=False))
    theirs, ours = stats.theilslopes(y, x, alpha=0.95), pair_slopes(x.tolist(), y.tolist())
    low, high = ours.bounds(Z_95)
    assert ours.middle == pytest.approx(theirs.slope)
    ranked = list(ours.sorted)
    for bound, other in ((low, theirs.low_slope), (high, theirs.high_slope)):
        assert abs(ranked.index(bound) - int(np.searchsorted(ranked, other))) <= 1
    assert low <= theirs.low_slope
    assert theirs.high_slope <= high


def test_the_interval_holds_the_slope_as_often_as_it_says() -> None:
    """Of 400 noisy lines the 95 % interval misses the true slope in about 5 %."""
    random = np.random.default_rng(11)
    missed = 0
    for _ in range(400):
        values = (np.arange(30) * 0.5 + random.normal(size=30) * 3.0).tolist()
        low, high = pair_slopes(range(30), values).bounds(Z_95)
        missed += not low <= 0.5 <= high
    assert 5 <= missed <= 36


def test_neighbours_that_resemble_each_other() -> None:
    """The correlation of neighbours is found, within what 200 values allow, and is bounded."""
    random = np.random.default_rng(5)
    for ratio in (0.0, 0.5, 0.9):
        values = [0.0]
        for shock in random.normal(size=200):
            values.append(ratio * values[-1] + float(shock))
        assert lag_one(values) == pytest.approx(ratio, abs=0.15)
    assert lag_one(list(range(100))) == 0.95
    assert lag_one([1.0, 1.0, 1.0, 1.0]) == lag_one([1.0]) == 0.0


@given(st.lists(st.integers(-5, 5), max_size=40))
def test_turned_round_it_falls(values: list[int]) -> None:
    """What rises falls when it is turned round: S and slope change their sign, p stays; nothing raises."""
    ours, back = pair_slopes(range(len(values)), values), pair_slopes(range(len(values)), values[::-1])
    assert (ours.score, ours.middle) == (-back.score, -back.middle)
    assert ours.p == back.p
    assert 0.0 <= ours.p <= 1.0
    assert kendall_variance(values) == back.variance >= 0.0
    low, high = ours.bounds(Z_95)
    assert low <= ours.middle <= high


def test_nothing_to_compare() -> None:
    """No values, one value, equal values, equal instants: no trend, and an interval without ends."""
    for x, y in (([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 9.0])):
        ours = pair_slopes(x, y)
        assert (ours.score, ours.z, ours.p, ours.middle) == (0, 0.0, 1.0, 0.0)
        assert ours.bounds(Z_95) == (float("-inf"), float("inf"))
    level = pair_slopes(range(9), [3.0] * 9)
    assert (level.score, level.p, level.variance) == (0, 1.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hamed_rao([1.0] * 9) == hamed_rao([]) == 1.0
    assert Slopes(sorted=[], variance=0.0).middle == 0.0


# --- drift ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [0.0, 0.6])
def test_a_walk_has_no_drift(neighbours: float) -> None:
    """Of 500 walks without drift, also those whose steps resemble their neighbours, hardly one is four errors sure."""
    sure = 0
    for seed in range(500):
        random, step, at = np.random.default_rng(seed), 0.0, 0.0
        walk = []
        for noise in random.normal(size=64):
            step = neighbours * step + float(noise)
            at += step
            walk.append(at)
        sure += drift(range(64), walk).z > 4.0
    assert sure <= 2


def test_a_drift_is_the_slope_from_end_to_end() -> None:
    """Steps that are all alike leave no doubt; those that are not leave the mean's error."""
    straight = drift([0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0], [3.0 * at for at in range(0, 17, 2)])
    assert straight.slope == pytest.approx(3.0)
    assert straight.z > 1e6
    random = np.random.default_rng(5)
    steps = 1.0 + random.normal(size=64)
    found = drift(range(65), [0.0, *np.cumsum(steps).tolist()])
    assert found.slope == pytest.approx(steps.mean())
    assert 0.8 < found.error / (steps.std(ddof=1) / 8.0) < 1.6
    low, high = found.bounds(2.0)
    assert low == pytest.approx(found.slope - 2.0 * found.error)
    assert high == pytest.approx(found.slope + 2.0 * found.error)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_of_few_steps_nothing_is_said(count: int) -> None:
    """Too few steps, or none in x: no slope is sure."""
    assert drift(range(count + 1), range(count + 1)).z == 0.0
    assert drift([1.0] * 20, range(20)).z == 0.0
    assert typical_step(range(count + 1), range(count + 1)) is None


def test_a_few_jumps_are_no_faster_growth() -> None:
    """Where most steps make most of the way a jump changes nothing; where the jumps make it there is no typical one."""
    random = np.random.default_rng(6)
    steps = 1.0 + 0.05 * random.normal(size=64)
    steps[20] += 10.0
    rise = [0.0, *np.cumsum(steps).tolist()]
    found = typical_step(range(65), rise)
    assert found is not None
    assert found.slope == pytest.approx(1.0, abs=0.03)
    assert found.error < 0.05
    assert drift(range(65), rise).error > 0.1
    stairs = [float(place // 16 * 16) for place in range(65)]
    assert typical_step(range(65), stairs) is None
