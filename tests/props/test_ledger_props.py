"""The ledger never forgets, and never invents."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memguard._core.ledger import Ledger


class LedgerMachine(RuleBasedStateMachine):
    """Promises, charges, closes, lapses and growth in any order, beside a slow and obvious book."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.book: dict[int, int] = {}
        self.stakes: dict[int, int] = {}
        self.made: dict[int, int] = {}
        self.now = 0

    @rule(key=st.integers(0, 20), amount=st.integers(0, 1000))
    def promise(self, key: int, amount: int) -> None:
        self.now += 1
        if key not in self.book:
            self.ledger.promise(key, amount, owner=key % 3, at=self.now)
            self.book[key] = self.stakes[key] = amount
            self.made[key] = self.now

    @rule(key=st.integers(0, 20), amount=st.integers(0, 1000))
    def charge(self, key: int, amount: int) -> None:
        self.now += 1
        self.ledger.charge(key, amount, owner=key % 3, at=self.now)
        self.book[key] = self.book.get(key, 0) + amount
        self.stakes[key] = self.stakes.get(key, 0) + amount
        self.made[key] = self.now

    @rule(key=st.integers(0, 20))
    def close(self, key: int) -> None:
        assert self.ledger.close(key) == self.book.pop(key, 0)
        self.stakes.pop(key, None)

    @rule(key=st.integers(0, 20))
    def taken(self, key: int) -> None:
        self.ledger.taken(key)
        if key in self.book:
            self.book[key] = 0

    @rule(ago=st.integers(0, 5))
    def lapse(self, ago: int) -> None:
        self.ledger.lapse(self.now - ago)
        for key in self.book:
            if self.made[key] < self.now - ago:
                self.book[key] = 0

    @rule(growth=st.integers(-500, 1500))
    def seen(self, growth: int) -> None:
        before = sum(self.book.values())
        self.ledger.seen(growth)
        used = before - self.ledger.total_bytes
        assert used == max(0, min(growth, before))
        for key in self.book:
            self.book[key] = self.ledger._unseen.get(key, 0)

    @invariant()
    def adds_up(self) -> None:
        assert self.ledger.total_bytes == sum(self.book.values()) >= 0
        assert len(self.ledger) == len(self.book)
        for owner in range(3):
            stake = sum(amount for key, amount in self.stakes.items() if key % 3 == owner)
            assert self.ledger.stakes.get(owner, 0) == stake


TestLedger = LedgerMachine.TestCase
TestLedger.__doc__ = "Total and stakes are always the sums of what is open."
