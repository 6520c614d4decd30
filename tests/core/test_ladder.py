"""The ladder by hand-made tables."""

from __future__ import annotations

import pytest

from memguard._core.ladder import Stand, judge, leave_ratio
from memguard.model import Level
from memguard.rules import Rules

RULES = Rules()


@pytest.mark.parametrize(
    ("pressure", "level"),
    [
        (0.0, Level.OK),
        (0.6999, Level.OK),
        (0.70, Level.ELEVATED),
        (0.7999, Level.ELEVATED),
        (0.80, Level.WARNING),
        (0.90, Level.CRITICAL),
        (0.95, Level.EMERGENCY),
        (1.7, Level.EMERGENCY),
    ],
)
def test_climbs_are_immediate(pressure: float, level: Level) -> None:
    """From OK one look leads to whatever rung the pressure has reached, without a wait."""
    assert judge(Stand(), pressure, 1.0, RULES).level is level


@pytest.mark.parametrize("start", list(Level))
def test_each_level_can_climb_to_the_top(start: Level) -> None:
    """No level keeps the next look from seeing an emergency."""
    assert judge(Stand(start, 0.0), 0.99, 0.0, RULES).level is Level.EMERGENCY


def test_a_fall_needs_an_unbroken_dwell() -> None:
    """Pressure that comes back for one look starts the dwell anew."""
    stand = Stand(Level.WARNING, 0.0)
    for at, pressure in ((1.0, 0.5), (2.9, 0.5), (2.95, 0.76), (3.0, 0.5), (4.9, 0.5)):
        stand = judge(stand, pressure, at, RULES)
        assert stand.level is Level.WARNING
    assert judge(stand, 0.5, 5.0, RULES) == Stand(Level.OK, 5.0, None)


def test_a_fall_lands_on_the_rung_that_still_holds() -> None:
    """From EMERGENCY pressure of 0.77 leads to WARNING, which is left only below 0.75."""
    stand = judge(judge(Stand(Level.EMERGENCY, 0.0), 0.77, 1.0, RULES), 0.77, 3.0, RULES)
    assert stand.level is Level.WARNING


def test_the_gap_closes_over_the_relax_time() -> None:
    """The leave level starts 5 points below the rung and ends 1 point below, so that nobody latches inside the gap."""
    stand = Stand(Level.WARNING, 100.0)
    assert leave_ratio(stand, 100.0, RULES) == pytest.approx(0.75)
    assert leave_ratio(stand, 130.0, RULES) == pytest.approx(0.77)
    assert leave_ratio(stand, 160.0, RULES) == pytest.approx(0.79)
    assert leave_ratio(stand, 9999.0, RULES) == pytest.approx(0.79)


def test_without_a_relax_time_the_gap_is_small_from_the_start() -> None:
    """relax_s=0 means at once."""
    assert leave_ratio(Stand(Level.WARNING, 5.0), 5.0, Rules(relax_s=0)) == pytest.approx(0.79)


def test_a_calm_look_changes_nothing() -> None:
    """At OK and below the first rung the stand is the same value: the calm tick allocates nothing for it."""
    stand = Stand()
    assert judge(stand, 0.5, 9.0, RULES) is stand
