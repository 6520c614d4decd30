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
