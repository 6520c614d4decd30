"""Growth, forecast and pace by hand-made tables."""

from __future__ import annotations

import pytest

from memguard._core.forecast import Growth, observe, pace_s, rebase, time_to_limit_s
from memguard.rules import Rules
from memguard.units import MIB

RULES = Rules(pace_floor_bytes_per_s=512 * MIB)


def _grown(rate: float, *, seconds: float, step_s: float = 0.25, start: int = 100 * MIB) -> Growth:
    growth = observe(Growth(), 0.0, start, "x")
    for number in range(1, int(seconds / step_s) + 1):
        growth = observe(growth, number * step_s, start + int(rate * number * step_s), "x")
    return growth


def test_the_first_look_is_no_growth() -> None:
    """Coming from nothing to 100 MiB says nothing about speed."""
    growth = observe(Growth(), 5.0, 100 * MIB, "x")
    assert (growth.burst, growth.trend, growth.used_bytes) == (0.0, 0.0, 100 * MIB)


def test_the_trend_finds_a_steady_rate() -> None:
    """After two minutes of 1 MiB/s the trend is within 3 % of that, and so is the forecast."""
    growth = _grown(MIB, seconds=120)
    assert growth.trend == pytest.approx(MIB, rel=0.03)
    left = 512 * MIB - growth.used_bytes
    assert time_to_limit_s(growth, 512 * MIB) == pytest.approx(left / MIB, rel=0.03)


@pytest.mark.parametrize(("trend", "limit_bytes"), [(0.0, 512 * MIB), (-5.0, 512 * MIB), (1.0, 512 * MIB), (5.0, None)])
def test_no_forecast_when_nothing_is_in_sight(trend: float, limit_bytes: int | None) -> None:
    """Flat, falling, more than a week away or without a limit: there is no forecast."""
    assert time_to_limit_s(Growth(1.0, 100 * MIB, "x", 0.0, trend), limit_bytes) is None


def test_past_the_limit_the_forecast_is_now() -> None:
    """A forecast is never negative."""
    assert time_to_limit_s(Growth(1.0, 600 * MIB, "x", 0.0, 1.0), 512 * MIB) == 0.0


def test_a_burst_fades_by_half_in_two_seconds() -> None:
    """The fastest growth is remembered, and forgotten slowly."""
    growth = observe(Growth(0.0, 0, "x", 0.0, 0.0), 1.0, 400 * MIB, "x")
    assert growth.burst == 400 * MIB
    assert observe(growth, 3.0, 400 * MIB, "x").burst == pytest.approx(200 * MIB)


def test_looks_in_quick_succession_keep_the_older_anchor() -> None:
    """One arena within 2 ms is no 500 MB/s; over 6 ms, all that came since the anchor counts."""
    first = observe(Growth(), 1.0, 100 * MIB, "x")
    second = observe(first, 1.002, 101 * MIB, "x")
    assert second is first
    assert observe(second, 1.006, 101 * MIB, "x").burst == pytest.approx(MIB / 0.006, rel=1e-6)


def test_another_measure_is_not_compared() -> None:
    """When another gauge binds, the difference between the two is no growth; the rates stay."""
    growth = Growth(1.0, 100 * MIB, "statm", 7.0, 3.0)
    assert observe(growth, 2.0, 300 * MIB, "cgroup") == Growth(2.0, 300 * MIB, "cgroup", 7.0, 3.0)


def test_what_a_relief_bought_is_no_trend() -> None:
    """Usage that falls while a relief runs leaves the trend as it was; rebase keeps both rates."""
    growth = Growth(1.0, 400 * MIB, "x", 9.0, 5.0)
    assert observe(growth, 2.0, 100 * MIB, "x", relieving=True).trend == pytest.approx(5.0)
    assert rebase(growth, 2.0, 100 * MIB) == Growth(2.0, 100 * MIB, "x", 9.0, 5.0)


@pytest.mark.parametrize(
    ("used_mib", "burst_mib", "expected"),
    [
        (100, 0, 0.25),  # 412 MiB at the floor of 512 MiB/s would take 0.8 s; half of it is above the longest sleep
        (500, 0, 12 / 512 / 2),
        (400, 2048, 112 / 2048 / 2),
        (511.9, 0, 0.002),
        (600, 0, 0.002),  # past the limit
    ],
)
def test_sleep_is_half_the_time_to_the_limit(used_mib: float, burst_mib: float, expected: float) -> None:
    """The nearer and the faster, the shorter, between 2 and 250 ms."""
    growth = Growth(1.0, 0, "x", burst_mib * MIB, 0.0)
    assert pace_s(growth, int(used_mib * MIB), 512 * MIB, RULES) == pytest.approx(expected, rel=1e-3)


def test_without_a_limit_there_is_no_hurry() -> None:
    """Observing alone sleeps the longest sleep."""
    assert pace_s(Growth(1.0, 0, "x", 1e12, 0.0), 1 << 40, None, RULES) == RULES.pace_max_s
