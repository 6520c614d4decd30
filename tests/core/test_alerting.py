"""When an alert begins, gets worse, eases and ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from memguard._core.alerting import CALM, Signs, judge, paused, rungs
from memguard.rules import Rules
from memguard.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable

RULES = Rules()
RUNGS = rungs(RULES, 64 * GIB)
WELL = Signs(at=0.0, pressure=0.3, forecast_s=float("inf"), swap_ratio=0.0, available_bytes=32 * GIB)


def told(signs: Callable[[float], Signs], seconds: int, *, each_s: float = 1.0) -> list[tuple[float, str, int | None]]:
    """Every change: when, what about, how severe."""
    known, found = CALM, []
    for step in range(int(seconds / each_s)):
        at = step * each_s
        known, changes = judge(known, replace(signs(at), at=at), RUNGS)
        found += [(at, change.subject, change.severity) for change in changes]
    return found


def pressure(value: Callable[[float], float]) -> Callable[[float], Signs]:
    """Signs of which only the pressure changes."""
    return lambda at: replace(WELL, pressure=value(at))


def test_well_is_calm() -> None:
    """Nothing is told, nothing remembered."""
    assert told(lambda _: WELL, 3600) == []
    assert judge(CALM, WELL, RUNGS) == (CALM, ())


def test_above_85_percent_for_five_minutes_is_sev_2() -> None:
    """Raised after 300 s and not before, once."""
    assert told(pressure(lambda _: 0.86), 4000) == [(300.0, "memory", 2)]
    assert told(pressure(lambda at: 0.86 if at < 299 else 0.5), 4000) == []


def test_a_short_dip_does_not_begin_the_wait_anew() -> None:
    """A collection's dip every minute changes nothing; half a minute below does."""
    assert told(pressure(lambda at: 0.7 if at % 60 < 5 else 0.86), 1000)[0] == (305.0, "memory", 2)
    assert told(pressure(lambda at: 0.7 if at % 120 < 30 else 0.86), 4000) == []


def test_above_95_percent_is_sev_1_at_once() -> None:
    """The first look above tells."""
    assert told(pressure(lambda at: 0.96 if at >= 7 else 0.5), 100) == [(7.0, "memory", 1)]


def test_sev_2_becomes_sev_1_eases_and_ends() -> None:
    """One alert gets worse, eases when well below for a minute, ends when well below the other: four messages."""
    path = [(400.0, 0.88), (450.0, 0.97), (600.0, 0.88), (1e9, 0.5)]
    found = told(pressure(lambda at: next(value for until, value in path if at < until)), 1200)
    assert found == [(300.0, "memory", 2), (400.0, "memory", 1), (510.0, "memory", 2), (660.0, "memory", None)]


def test_no_flapping_around_a_threshold() -> None:
    """Pressure that swings by 4 points around either threshold for an hour tells once per severity."""
    assert told(pressure(lambda at: 0.95 + 0.04 * (-1) ** int(at)), 3600) == [(0.0, "memory", 1)]
    swings = told(pressure(lambda at: 0.85 + 0.02 * (-1) ** int(at)), 3600)
    assert [severity for _, _, severity in swings] == [2]


def test_raised_again_after_its_end() -> None:
    """An alert that is over may come again, with a new beginning."""
    found = told(pressure(lambda at: 0.96 if at % 600 < 10 else 0.3), 1200)
    assert [severity for _, _, severity in found] == [1, None, 1, None]


@pytest.mark.parametrize("swing_s", [1, 30, 59])
def test_ends_only_after_a_quiet_minute(swing_s: int) -> None:
    """Less than a minute of calm between two peaks is the same alert."""
    assert told(pressure(lambda at: 0.96 if at % (swing_s + 1) == 0 else 0.3), 600) == [(0.0, "memory", 1)]


def test_a_forecast_below_an_hour() -> None:
    """Five minutes with the limit less than an hour away; over when it is two hours away; a burst tells nothing."""
    found = told(
        lambda at: replace(WELL, forecast_s=3000.0 if at < 900 else 5000.0 if at < 1500 else float("inf")), 2000
    )
    assert found == [(300.0, "forecast", 2), (1560.0, "forecast", None)]
    assert told(lambda at: replace(WELL, forecast_s=60.0 if at < 200 else float("inf")), 2000) == []


def test_swap_above_80_percent() -> None:
    """After half a minute, and over below 75 %."""
    found = told(lambda at: replace(WELL, swap_ratio=0.82 if at < 500 else 0.77 if at < 900 else 0.7), 1200)
    assert found == [(30.0, "swap", 2), (960.0, "swap", None)]


def test_available_below_2_gb_then_1_gb() -> None:
    """A warning below 2 GiB, worse below 1 GiB, over when there is half as much again."""
    steps = [(100, 1.9), (300, 0.9), (500, 1.4), (700, 1.9), (900, 2.9), (10_000, 3.1)]
    found = told(
        lambda at: replace(WELL, available_bytes=int(next(value for until, value in steps if at < until) * GIB)), 1200
    )
    assert found == [
        (30.0, "available", 3), (130.0, "available", 2), (560.0, "available", 3), (960.0, "available", None),
    ]  # fmt: skip


@pytest.mark.parametrize(("machine_gib", "warn_gib"), [(64, 2.0), (8, 2.0), (4, 1.0), (1, 0.25)])
def test_small_machines_have_smaller_thresholds(machine_gib: int, warn_gib: float) -> None:
    """A machine of 1 GiB is not in trouble all its life."""
    found = {(rung.subject, rung.severity): rung for rung in rungs(RULES, machine_gib * GIB)}
    assert found["available", 3].enter == -warn_gib * GIB
    assert found["available", 2].enter == -warn_gib * GIB / 2


def test_what_is_unknown_changes_nothing() -> None:
    """While readings fail an alert neither begins nor ends; others are judged all the same."""
    blind = Signs(at=0.0)
    assert told(lambda _: blind, 1000) == []
    found = told(lambda at: blind if 10 <= at < 1000 else replace(WELL, pressure=0.96 if at < 10 else 0.3), 1200)
    assert found == [(0.0, "memory", 1), (1060.0, "memory", None)]


def test_subjects_are_apart() -> None:
    """Two troubles are two alerts, each with its own end."""
    found = told(lambda at: replace(WELL, pressure=0.96 if at < 100 else 0.3, swap_ratio=0.9 if at < 300 else 0.0), 600)
    assert found == [(0.0, "memory", 1), (30.0, "swap", 2), (160.0, "memory", None), (360.0, "swap", None)]


def test_operators_threshold_counts() -> None:
    """MEMORY_ALERT_THRESHOLD moves the threshold, and its hysteresis with it."""
    rules = Rules.resolve({"MEMORY_ALERT_THRESHOLD": "60"}, {"alert_after_s": 10})
    rung = next(rung for rung in rungs(rules, None) if (rung.subject, rung.severity) == ("memory", 2))
    assert (rung.enter, rung.after_s) == (0.6, 10.0)
    assert rung.leave == pytest.approx(0.55)


def test_a_pause_begins_waits_anew_and_ends_nothing() -> None:
    """What was raised before a guard's stop is raised after it; a wait does not count the time in between."""
    known, _ = judge(CALM, replace(WELL, at=0.0, pressure=0.86, swap_ratio=0.9), RUNGS)
    known, changes = judge(known, replace(WELL, at=40.0, pressure=0.86, swap_ratio=0.9), RUNGS)
    assert [change.subject for change in changes] == ["swap"]
    known = paused(known)
    known, changes = judge(known, replace(WELL, at=9000.0, pressure=0.86, swap_ratio=0.9), RUNGS)
    assert changes == ()
    assert known.severity("swap") == 2
    assert judge(known, replace(WELL, at=9300.0, pressure=0.86, swap_ratio=0.9), RUNGS)[1][0].subject == "memory"
