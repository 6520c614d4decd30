"""Shares: a heavy route leaves room for others, and only while there are others."""

from __future__ import annotations

from memguard._core.shares import Shares


def test_alone_it_may_take_all() -> None:
    """One route has nothing to leave free."""
    shares = Shares()
    shares.ask("a", 0.0)
    assert shares._reserve_bytes("a", 800, 800, 0.0) == 0.0


def test_above_its_share_it_leaves_an_eighth() -> None:
    """With two there, half is an even share; above it an eighth of the room stays free for the other."""
    shares = Shares()
    shares.ask("a", 0.0)
    shares.ask("b", 0.0)
    assert shares._reserve_bytes("a", 400, 800, 1.0) == 0.0
    assert shares._reserve_bytes("a", 401, 800, 1.0) == 100.0
    assert shares._reserve_bytes("b", 100, 800, 1.0) == 0.0


def test_who_was_not_seen_for_long_is_not_there() -> None:
    """Ten seconds after the other's last request the room is the first one's again."""
    shares = Shares()
    shares.ask("b", 0.0)
    shares.ask("a", 10.5)
    assert shares._reserve_bytes("a", 800, 800, 10.5) == 0.0


def test_many_owners_are_bounded() -> None:
    """A thousand made-up routes fill no memory."""
    shares = Shares()
    for number in range(1000):
        shares.ask(number, 1.0)
    assert len(shares._asked) == 64


def test_guesses_may_have_half_of_the_room() -> None:
    """What nothing is known about yet may turn out twice as dear: two of it get no more than half."""
    shares = Shares()
    terms = {"room_bytes": 800.0, "at": 0.0}
    assert shares.allow("a", free_bytes=400, stake_bytes=400, guess=True, **terms)
    assert not shares.allow("a", free_bytes=300, stake_bytes=500, guess=True, **terms)
    assert shares.allow("a", free_bytes=0, stake_bytes=800, guess=False, **terms)
