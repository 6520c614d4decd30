"""What looking twice may cost: in a session of many tests, a seventh of the time that its tests take."""

from __future__ import annotations

import gc
import time
from typing import ClassVar, Final

import pytest

__all__ = ["Purse"]

# Of the time of the tests so far; the bar is 0.3 in all, for tests of over 10 ms, so these have a purse of their own.
_SHARE: Final = 0.15
_LONG_S: Final = 0.01
# In a session of so few whatever is worth a look is looked at.
_FEW: Final = 50


class Purse:
    """Time earned by tests and spent on collections and repeats, for long tests and for short ones; one a session."""

    KEY: ClassVar[pytest.StashKey[Purse]] = pytest.StashKey()

    def __init__(self, tests: int) -> None:
        self._many = tests > _FEW
        self._left_s = [0.0, 0.0]
        self.sent: int = 0
        """Reports that were sent so far: pytest keeps them."""
        began = time.perf_counter()
        gc.collect()  # what the session's begin has left must not be set off against what a test leaves
        self.collect_s: float = time.perf_counter() - began

    @classmethod
    def of(cls, item: pytest.Item) -> Purse:
        """The one of a test's session."""
        purse = item.config.stash.get(cls.KEY, None)
        if purse is None:
            purse = cls(len(item.session.items))
            item.config.stash[cls.KEY] = purse
            item.config.pluginmanager.register(purse, "memguard-purse")
        return purse

    def pytest_runtest_logreport(self) -> None:
        """One more is kept."""
        self.sent += 1

    def earn(self, seconds: float) -> None:
        """A test has run for so long."""
        self._left_s[seconds >= _LONG_S] += _SHARE * seconds

    def affords(self, seconds: float) -> bool:
        """Whether a test that took so long may be repeated."""
        return not self._many or self._left_s[seconds >= _LONG_S] >= seconds

    def spend(self, spent_s: float, seconds: float) -> None:
        """So much was spent on a test that took so long."""
        self._left_s[seconds >= _LONG_S] -= spent_s

    def collect(self, seconds: float) -> None:
        """Make a full collection on account of a test."""
        began = time.perf_counter()
        gc.collect()
        self.collect_s = time.perf_counter() - began
        self.spend(self.collect_s, seconds)
