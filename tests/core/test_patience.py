"""What is learned about a reclaimer, and the duty bucket."""

from __future__ import annotations

import pytest

from memguard._core.patience import Duty, Patience
from memguard.rules import Rules
from memguard.units import MIB

RULES = Rules()


def test_waits_double_up_to_the_longest() -> None:
    """1, 2, 4 … 60, 60 seconds: nothing is given up for good."""
    patience, waits = Patience(), []
    for _ in range(9):
        patience = patience.failed(100.0, None, RULES)
        waits.append(patience.blocked_until - 100.0)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_thousand_failures_do_not_overflow() -> None:
    """The exponent is bounded."""
    patience = Patience(failures=10_000).failed(0.0, None, RULES)
    assert patience.blocked_until == 60.0


def test_one_that_pays_starts_over() -> None:
    """After a useful attempt nothing is held against it."""
    paid = Patience().failed(0.0, 5, RULES).failed(0.0, 5, RULES).paid()
    assert (paid.failures, paid.blocked_until, paid.size_at_failure) == (0, 0.0, None)
    assert not paid.blocks(0.5, 5, MIB)


@pytest.mark.parametrize(
    ("size_bytes", "blocked"),
    [(10 * MIB, True), (20 * MIB, True), (21 * MIB - 1, True), (21 * MIB, False), (None, True)],
)
def test_growth_ends_a_wait(size_bytes: int | None, blocked: bool) -> None:
    """A cache that has doubled since it failed is worth another try; one of unknown size waits."""
    patience = Patience().failed(0.0, 10 * MIB, RULES)
    assert patience.blocks(0.5, size_bytes, MIB) is blocked
    assert not patience.blocks(1.0, size_bytes, MIB)


def test_rates_are_learned_from_the_latest() -> None:
    """The first attempt counts whole, later ones by 30 %; a loss counts as nothing."""
    patience = Patience().learned(100, 1.0)
    assert patience.rate == 100.0
    assert patience.learned(-50, 1.0).rate == pytest.approx(70.0)
    assert patience.learned(200, 1.0).rate == pytest.approx(130.0)
    assert patience.learned(200, 1.0, own=False).bought_bytes == 100


def test_an_attempt_without_cost_has_a_rate() -> None:
    """A clock that stood still is no division by zero."""
    rate = Patience().learned(1, 0.0).rate
    assert rate is not None
    assert rate > 0.0


def test_duty_fills_with_time_and_goes_into_debt() -> None:
    """5 % of wall time flows in, up to 1 s; spending may pass 0; time that runs backwards fills nothing."""
    duty = Duty(1.0, 0.0).spent(3.0)
    assert duty.tokens_s == -2.0
    assert duty.filled(20.0, RULES).tokens_s == pytest.approx(-1.0)
    assert duty.filled(1e6, RULES).tokens_s == 1.0
    assert duty.filled(-50.0, RULES) == duty
