"""The ledger of promises."""

from __future__ import annotations

import pytest

from memguard._core.ledger import Ledger


def test_promises_add_up_and_close() -> None:
    """The total is the sum of what is open; closing gives back what was still unseen."""
    ledger = Ledger()
    ledger.promise("a", 10)
    ledger.promise("b", 5)
    assert (ledger.total_bytes, len(ledger)) == (15, 2)
    assert ledger.close("a") == 10
    assert ledger.close("a") == 0
    assert (ledger.total_bytes, len(ledger)) == (5, 1)


def test_growth_uses_promises_up_oldest_first() -> None:
    """What a reading shows is counted there; falling usage gives nothing back."""
    ledger = Ledger()
    ledger.promise("a", 10)
    ledger.promise("b", 5)
    ledger.seen(12)
    ledger.seen(-100)
    ledger.seen(0)
    assert ledger.total_bytes == 3
    assert (ledger.close("a"), ledger.close("b")) == (0, 3)


def test_growth_beyond_all_promises_is_not_owed() -> None:
    """The total never falls below 0."""
    ledger = Ledger()
    ledger.promise("a", 10)
    ledger.seen(1000)
    assert ledger.total_bytes == 0


@pytest.mark.parametrize(("key", "amount"), [("a", 1), ("new", -1)])
def test_nonsense_is_refused(key: str, amount: int) -> None:
    """A key in use and a negative promise are errors, and change nothing."""
    ledger = Ledger()
    ledger.promise("a", 10)
    with pytest.raises(ValueError, match="it must be new and of 0 bytes or more"):
        ledger.promise(key, amount)
    assert ledger.total_bytes == 10


def test_more_can_be_charged_to_a_promise() -> None:
    """A body that outgrows what was announced is added to its promise; an unknown key makes a new one."""
    ledger = Ledger()
    ledger.promise("a", 10, owner="x")
    ledger.charge("a", 5, owner="x")
    ledger.charge("b", 7, owner="x")
    assert (ledger.total_bytes, ledger.stakes) == (22, {"x": 22})
    assert ledger.close("a") == 15
    assert (ledger.total_bytes, ledger.stakes) == (7, {"x": 7})
    ledger.close("b")
    assert ledger.stakes == {}


def test_a_promise_lapses() -> None:
    """What was not seen in time is given back; the stake stays until it is closed, and later charges count."""
    ledger = Ledger()
    ledger.promise("a", 10, owner="x", at=1.0)
    ledger.promise("b", 5, owner="y", at=9.0)
    assert ledger.lapse(5.0) == ["a"]
    assert (ledger.total_bytes, ledger.stakes) == (5, {"x": 10, "y": 5})
    ledger.charge("a", 3, at=9.5)
    assert ledger.total_bytes == 8
    assert ledger.lapse(9.2) == ["b"]
    assert ledger.close("a") == 3


def test_what_is_taken_is_no_longer_promised() -> None:
    """It is in the readings, or the heap had it in store: either way it is not counted twice."""
    ledger = Ledger()
    ledger.promise("a", 10)
    ledger.taken("a")
    ledger.taken("unknown")
    assert (ledger.total_bytes, ledger.close("a")) == (0, 0)
