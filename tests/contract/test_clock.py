"""What every clock promises."""

from __future__ import annotations

import time

import pytest

from memguard.beat import forward_only
from memguard.ports import Clock
from memguard.testing import FakeClock


class ClockPromises:
    """The promises of ``ports.Clock``; a subclass says in ``make`` how to get one."""

    def make(self) -> Clock:
        raise NotImplementedError

    def test_it_has_the_shape(self) -> None:
        """It is a Clock by shape."""
        assert isinstance(self.make(), Clock)

    def test_it_tells_seconds_and_never_runs_back(self) -> None:
        """Each call gives a float that is no smaller than the one before."""
        clock = self.make()
        told = [clock() for _ in range(1000)]
        assert all(type(at) is float for at in told)
        assert told == sorted(told)


class TestMonotonic(ClockPromises):
    def make(self) -> Clock:
        return time.monotonic


class TestFakeClock(ClockPromises):
    def make(self) -> Clock:
        return FakeClock()


class TestForwardOnly(ClockPromises):
    def make(self) -> Clock:
        shown = iter(range(100_000, 0, -1))
        return forward_only(lambda: float(next(shown)))


def test_fake_time_passes_when_told() -> None:
    """Advance moves what is shown and what has elapsed; a jump moves only what is shown."""
    clock = FakeClock(50.0)
    clock.advance(2.0)
    clock.jump(-100.0)
    assert (clock(), clock.elapsed_s) == (-48.0, 2.0)
    with pytest.raises(ValueError, match="jump"):
        clock.advance(-1.0)


def test_forward_only_goes_on_from_where_it_stood() -> None:
    """After a step back the time stands still, and then runs at the clock's own speed."""
    clock = FakeClock(100.0)
    now = forward_only(clock)
    clock.advance(5.0)
    assert now() == 105.0
    clock.jump(-3600.0)
    assert now() == 105.0
    clock.advance(2.0)
    assert now() == 107.0
    clock.jump(3600.0)
    assert now() == 3707.0
