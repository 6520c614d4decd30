"""Queueing: order, turns, standing lines, and who had better go."""

from __future__ import annotations

from memguard._core.queueing import Line, Waiter


def _waiter(since: float = 0.0, *, wait_s: float = 100.0, rank: int = 1, owner: str = "a") -> Waiter:
    return Waiter(None, rank=rank, owner=owner, since=since, deadline=since + wait_s, ring=lambda: None)


def _served(line: Line, at: float) -> list[Waiter]:
    order = []
    while (waiter := line.next(at)) is not None:
        line.served(waiter)
        order.append(waiter)
    return order


def test_first_come_first_served_while_short() -> None:
    """A line that has just formed is served in order."""
    line, waiters = Line(), [_waiter(0.0), _waiter(0.1), _waiter(0.2)]
    assert all(line.join(waiter) for waiter in waiters)
    assert _served(line, 0.5) == waiters
    assert len(line) == 0


def test_last_come_first_served_once_it_stands() -> None:
    """After a second without an empty moment the newest goes first; an empty moment begins anew."""
    line, waiters = Line(), [_waiter(0.0), _waiter(0.6), _waiter(1.2)]
    for waiter in waiters:
        line.join(waiter)
    assert line.standing(1.2)
    assert _served(line, 1.2) == waiters[::-1]
    assert not line.standing(1.2)
    fresh = [_waiter(2.0), _waiter(2.1)]
    for waiter in fresh:
        line.join(waiter)
    assert _served(line, 2.2) == fresh


def test_by_priority_first() -> None:
    """Critical before normal before sheddable, whoever came first."""
    line = Line()
    sheddable, normal, critical = (_waiter(number / 10, rank=2 - number) for number in range(3))
    for waiter in (sheddable, normal, critical):
        line.join(waiter)
    assert _served(line, 0.5) == [critical, normal, sheddable]


def test_owners_take_turns() -> None:
    """A hundred of a heavy route do not stand before the one of a light route."""
    line = Line()
    heavy = [_waiter(0.0, owner="heavy") for _ in range(100)]
    light = _waiter(0.1, owner="light")
    for waiter in (*heavy, light):
        line.join(waiter)
    assert _served(line, 0.5).index(light) == 1


def test_an_owner_that_cannot_be_served_is_left_out() -> None:
    """What is too large now does not block what fits."""
    line = Line()
    large, small = _waiter(0.0, owner="large"), _waiter(0.1, owner="small")
    line.join(large)
    line.join(small)
    assert line.next(0.2) is large
    assert line.next(0.2, {(1, "large")}) is small
    assert line.next(0.2, {(1, "large"), (1, "small")}) is None


def test_late_ones_are_turned_away() -> None:
    """Whose deadline has passed is taken out."""
    line, late, early = Line(), _waiter(0.0, wait_s=0.5), _waiter(0.1, wait_s=10.0)
    line.join(early)
    line.join(late)
    assert line.hopeless(0.6) == [late]
    assert len(line) == 1


def test_who_would_miss_its_deadline_goes_at_once() -> None:
    """With ten served a second, the fiftieth in line knows that half a second is not enough."""
    line = Line()
    for number in range(60):
        line.join(_waiter(0.0, wait_s=100.0 if number < 40 else 0.9))
    for _ in range(5):
        waiter = line.next(0.5)
        assert waiter is not None
        line.served(waiter)
    turned_away = line.hopeless(0.5)
    assert len(turned_away) == 20
    assert len(line) == 35


def test_nobody_is_turned_away_on_a_guess() -> None:
    """Before some were served there is no rate to reckon with."""
    line = Line()
    for _ in range(50):
        line.join(_waiter(0.0, wait_s=0.9))
    assert line.hopeless(0.5) == []


def test_a_full_line_takes_nobody() -> None:
    """Each place costs a connection: there is an end."""
    line = Line(length=2)
    assert line.join(_waiter())
    assert line.join(_waiter())
    assert not line.join(_waiter())


def test_leaving_twice_is_once() -> None:
    """Whoever was served, or left, is no longer in line."""
    line, waiter = Line(), _waiter()
    line.join(waiter)
    assert line.leave(waiter)
    assert not line.leave(waiter)
    assert line.next(0.0) is None
