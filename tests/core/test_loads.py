"""Loads and shapes: scripted rows of which the answer is known."""

from __future__ import annotations

import random
from math import inf, sin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard._core.loads import busier, covered, ease, like_groups, rates
from memguard._core.shapes import knee, noise, period, spiked, step_at

AT = [float(at) for at in range(60)]
LOAD = [10 + 5 * sin(at / 7) for at in AT]
FLOATS = st.floats(-1e12, 1e12)


def noisy(values: list[float], spread: float = 0.1) -> list[float]:
    """The same with a little noise."""
    chance = random.Random(5)
    return [value + chance.gauss(0, spread) for value in values]


def test_what_goes_with_the_load_is_taken_out() -> None:
    """Twice the load and a drift of 3: the drift stays, the wave goes, and the growth is sure."""
    eased = ease([AT], [LOAD], noisy([100 + 3 * at + 2 * load for at, load in zip(AT, LOAD, strict=True)]))
    drift = np.polyfit(AT, eased.values, 1)[0]
    assert drift == pytest.approx(3, abs=0.02)
    assert np.std(np.asarray(eased.values) - 3 * np.asarray(AT)) < 0.2
    assert np.std(eased.left) < 0.2
    assert eased.sure > 100


def test_least_squares_are_numpys() -> None:
    """What is left is what numpy's least squares leave."""
    rows = noisy([5 * at - load for at, load in zip(AT, [-one for one in LOAD], strict=True)], 3.0)
    design = np.column_stack([np.ones(60), AT, LOAD])
    theirs = np.asarray(rows) - design @ np.linalg.lstsq(design, np.asarray(rows), rcond=None)[0]
    assert np.allclose(ease([AT], [LOAD], rows).left, theirs)


def test_load_alone_is_no_growth() -> None:
    """A row that only follows the load does not surely grow, even where the load rises all along."""
    rising = [at**1.5 for at in AT]
    for load in (LOAD, rising):
        assert abs(ease([AT], [load], noisy([100 + 2 * one for one in load])).sure) < 4


def test_more_load_never_needs_less() -> None:
    """A load that seems to take memory away is left out of the account."""
    rows = [100 - 2 * load for load in LOAD]
    assert ease([AT], [LOAD], rows).values == rows


def test_columns_that_say_the_same() -> None:
    """Time twice, a constant load, no load at all: nothing breaks, and a straight line is as sure as can be."""
    line = [2 * at for at in AT]
    for trends, loads in (([AT, AT], [LOAD]), ([AT], [[3.0] * 60]), ([AT], []), ([AT, [2 * at for at in AT]], [AT])):
        eased = ease(trends, loads, noisy(line, 0.01))
        assert len(eased.values) == len(eased.left) == 60
    assert ease([AT], [], [0.0] * 60).sure == -inf


@given(st.lists(st.tuples(FLOATS, st.floats(0, 1e9), st.floats(0, 1e6)), min_size=4, max_size=30))
def test_any_rows(rows: list[tuple[float, float, float]]) -> None:
    """Whatever the numbers, as many come out as went in."""
    at = [float(place) for place in range(len(rows))]
    values, load, open_ = ([row[place] for row in rows] for place in range(3))
    eased = ease([at], [load, open_], values)
    assert len(eased.values) == len(eased.left) == len(rows)
    places = sorted(place for group in like_groups(list(zip(load, open_, strict=True))) for place in group)
    assert places == list(range(len(rows)))
    for found in (knee(at, values), step_at(at, values), period(values)):
        assert 0 <= found < len(rows)
    assert noise(values) >= 0.0
    assert spiked(values, 1.0) in {True, False}


def test_like_loads() -> None:
    """A few requests more are alike by chance, twice as many are not, and neither are many more under way."""
    groups = like_groups([(1000, 0), (1050, 0), (2000, 0), (1000, 500), (2, 0), (7, 0)])
    assert groups == [[0, 1], [2], [3], [4, 5]]


def test_what_is_covered() -> None:
    """A steady load covers all pairs, one that only rises none, one that comes back some."""
    assert covered([list(range(60))], 60) == 1.0
    assert covered(like_groups([(1.5**place, 0.0) for place in range(60)]), 60) == 0.0
    there_and_back = [(1000 * 1.3 ** min(place, 59 - place), 0.0) for place in range(60)]
    assert 0.0 < covered(like_groups(there_and_back), 60) < 0.2


def test_how_much_busier() -> None:
    """From the first quarter to the last, in whatever rose more; nothing when it fell."""
    assert busier([(99, 0)] * 20 + [(149, 0)] * 20) == pytest.approx(0.5)
    assert busier([(99, 1)] * 20 + [(99, 3)] * 20) == pytest.approx(1.0)
    assert busier([(99, 9)] * 20 + [(9, 0)] * 20) == 0.0


def test_rates() -> None:
    """What was counted per second in each block; the first block's beginning is not known."""
    assert rates([0, 10, 30], [5, 25, 25]) == [2.0, 2.0, 0.0]
    assert rates([4.0], [7.0]) == [0.0]


def test_knees() -> None:
    """The place where a level becomes a slope; none on one line, on noise, or in a row too short."""
    assert knee(AT, noisy([max(0.0, at - 40) * 2 for at in AT])) == pytest.approx(40, abs=2)
    assert knee(AT, noisy([3 * at for at in AT])) == 0
    assert knee(AT, noisy([0.0] * 60)) == 0
    assert knee(AT[:10], [0.0] * 5 + [9.0] * 5) == 0


def test_steps() -> None:
    """One step between two levels, up or down; no slope, no staircase, no wave."""
    assert step_at(AT, noisy([0.0] * 25 + [9.0] * 35)) == 25
    assert step_at(AT, noisy([9.0] * 25 + [0.0] * 35)) == 25
    for other in ([at / 6 for at in AT], [at // 12 * 3.0 for at in AT], LOAD, [0.0] * 60):
        assert step_at(AT, noisy(other)) == 0


def test_spikes() -> None:
    """Short, high, and once or twice."""
    spike = [0.0] * 30 + [9.0] * 4 + [0.0] * 26
    assert spiked(noisy(spike), 5.0)
    assert not spiked(noisy(spike), 10.0)
    assert not spiked([0.0] * 20 + [9.0] * 40, 5.0)
    assert not spiked(([0.0] * 9 + [9.0]) * 6, 5.0)


def test_rhythms() -> None:
    """The period of a wave, not twice it; none of noise or of a line."""
    assert period(noisy([sin(at / 12 * 2 * 3.14159) for at in AT])) == 12
    assert period(noisy([0.0] * 60)) == 0
    assert period(AT) == 0
    assert period([1.0] * 60) == 0
