"""Chores: what is due when, and how long it rests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard._core.chores import Load, calm, done, due, first, seen

HOUR = 3600.0


def test_the_first_time_is_spread() -> None:
    """Workers that were started together do not all begin in the same second, and none at once."""
    instants = [first("clean", 600.0, 100.0, dice).due_at for dice in (0.0, 0.5, 1.0)]
    assert instants == [400.0, 550.0, 700.0]


def test_what_is_due_waits_for_less_to_run() -> None:
    """A calm chore waits for half an hour at most, one that need not be calm does not wait."""
    chore = first("clean", HOUR, 0.0, 1.0)
    assert due([chore], HOUR - 1, calm=True) is None
    assert due([chore], HOUR, calm=True) is chore
    assert due([chore], HOUR + 1799, calm=False) is None
    assert due([chore], HOUR + 1800, calm=False) is chore
    eager = first("ping", HOUR, 0.0, 1.0, calm=False)
    assert due([chore, eager], HOUR, calm=False) is eager


def test_short_intervals_wait_no_longer_than_themselves() -> None:
    """What is wanted every minute is done every two minutes by a service that is never idle."""
    chore = first("expire", 60.0, 0.0, 1.0)
    assert due([chore], 119.0, calm=False) is None
    assert due([chore], 120.0, calm=False) is chore


def test_the_one_that_waited_longest_goes_first() -> None:
    """One at a time, and none is passed over for ever."""
    old, new = first("old", 60.0, 0.0, 0.0), first("new", 60.0, 10.0, 0.0)
    assert due([new, old], 1000.0, calm=True) is old


def test_what_costs_much_rests_longer() -> None:
    """No more than 1 % of the time: 30 s of work every ten minutes become 30 s every 50."""
    chore = done(first("census", 600.0, 0.0, 0.5), 1000.0, 0.5, cost_s=30.0)
    assert chore.due_at == pytest.approx(4000.0)


def test_failures_back_off_and_are_forgiven() -> None:
    """Each failure in a row doubles the rest, up to a day; one success ends that."""
    chore, waits = first("vacuum", 600.0, 0.0, 0.5), []
    for _ in range(12):
        chore = done(chore, 0.0, 0.5, cost_s=0.0, failed=True, words="OSError: no")
        waits.append(chore.due_at)
    assert waits[:3] == [1200.0, 2400.0, 4800.0]
    assert waits[-1] == 86400.0
    chore = done(chore, 0.0, 0.5, cost_s=0.0, words="fine")
    assert (chore.failures, chore.due_at, chore.runs) == (0, 600.0, 13)


def test_longer_intervals_than_a_day_stay() -> None:
    """The bound of a day is for waits that we add, not for what was asked for."""
    assert done(first("weekly", 7 * 86400.0, 0.0, 0.5), 0.0, 0.5, cost_s=1e9).due_at == 7 * 86400.0


def test_little_is_what_is_little_for_this_service() -> None:
    """Idle always is; else half of what usually runs, as learned in half an hour."""
    load = Load()
    for second in range(0, 7200, 10):
        load = seen(load, float(second), 20)
    assert load.usual == pytest.approx(20.0)
    assert calm(load, 10)
    assert not calm(load, 11)
    assert calm(load, 0)
    assert calm(Load(), 0)
    assert not calm(Load(), 1)


@given(
    every=st.floats(1.0, 1e6),
    costs=st.lists(st.tuples(st.floats(0.0, 1e4), st.booleans(), st.floats(0.0, 1.0)), max_size=30),
)
def test_the_share_of_time_holds(every: float, costs: list[tuple[float, bool, float]]) -> None:
    """Whatever it costs and however often it fails, a chore comes again, never sooner than nine tenths of its time."""
    chore, at = first("any", every, 0.0, 0.0), 0.0
    for cost, failed, dice in costs:
        at += cost
        chore = done(chore, at, dice, cost_s=cost, failed=failed)
        rest = chore.due_at - at
        assert 0.9 * every - 1e-6 <= rest <= 1.1 * max(every, 86400.0) + 1e-6
        assert rest >= min(0.9 * cost / 0.01, 0.9 * 86400.0) - 1e-6
        at = chore.due_at
