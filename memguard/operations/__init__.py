"""Operations: who is running, for how long, and how much memory each kind of work leaves behind."""

from __future__ import annotations

from memguard._core.tally import OperationStats
from memguard.operations.account import OTHER, OperationRow, Operations
from memguard.operations.passing import TEND_S, Passer, Passing
from memguard.operations.work import INSIDE, Operation

__all__ = [
    "INSIDE",
    "OTHER",
    "TEND_S",
    "Operation",
    "OperationRow",
    "OperationStats",
    "Operations",
    "Passer",
    "Passing",
]
