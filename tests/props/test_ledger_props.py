"""The ledger never forgets, and never invents."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memguard._core.ledger import Ledger


class LedgerMachine(RuleBasedStateMachine):
    """Promises, closes and growth in any order, beside a slow and obvious book."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.book: dict[int, int] = {}

    @rule(key=st.integers(0, 20), amount=st.integers(0, 1000))
    def promise(self, key: int, amount: int) -> None:
        if key not in self.book:
            self.ledger.promise(key, amount)
            self.book[key] = amount

    @rule(key=st.integers(0, 20))
    def close(self, key: int) -> None:
        assert self.ledger.close(key) == self.book.pop(key, 0)

    @rule(growth=st.integers(-500, 1500))
    def seen(self, growth: int) -> None:
        self.ledger.seen(growth)
        for key, unseen in self.book.items():
            used = max(0, min(unseen, growth))
            self.book[key] -= used
            growth -= used

    @invariant()
    def adds_up(self) -> None:
        assert self.ledger.total_bytes == sum(self.book.values())
        assert len(self.ledger) == len(self.book)


TestLedger = LedgerMachine.TestCase
TestLedger.__doc__ = "The total is always the sum of what is open and unseen."
