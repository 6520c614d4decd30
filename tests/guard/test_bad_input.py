"""Limits and settings that cannot be meant: a clear error, or a recorded event."""

from __future__ import annotations

from typing import Any

import pytest

from memguard.errors import LimitNotFound, RulesError
from memguard.guard import Guard
from memguard.model import Level, Limit
from memguard.roster import Roster
from memguard.testing import FakeClock, FakeMemory, RecordingSink
from memguard.units import MIB


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        (0, "nothing fits into it"),
        ("0", "nothing fits into it"),
        ("0MiB", "nothing fits into it"),
        (-1, "negative"),
        ("-5MiB", "negative"),
        ("512 MB", "remove the blank"),
        ("90%", "is a share"),
        ("512M", "ambiguous"),
        ("lots", "is not an amount of memory"),
        ("", "is not an amount of memory"),
        (1 << 62, "None for no limit"),
        (True, "bytes must be an int"),
        (1.5, "is no limit"),
        (Limit(bytes=0, kind="policy", source="x"), "nothing fits into it"),
        (Limit(bytes=-1, kind="policy", source="x"), "nothing fits into it"),
    ],
)
def test_limits_that_cannot_be_meant(limit: Any, why: str) -> None:
    """The error names the value, where it came from and the mend."""
    with pytest.raises(RulesError, match=why) as caught:
        Guard(limit=limit, roster=Roster())
    assert "limit=" in str(caught.value)


def test_a_source_that_finds_nothing() -> None:
    """Where a limit was demanded, its absence is an error that says how to go on without one."""
    with pytest.raises(LimitNotFound, match="limit=None to only observe"):
        Guard(limit=lambda: (), roster=Roster())


def test_a_source_that_raises() -> None:
    """At creation its error is the caller's."""

    def broken() -> tuple[Limit, ...]:
        raise OSError("no such place")

    with pytest.raises(OSError, match="no such place"):
        Guard(limit=broken, roster=Roster())


def test_a_limit_above_the_machine_counts_as_the_machine() -> None:
    """It is lowered to what there is, and a note says so."""
    sink = RecordingSink()
    guard = Guard(limit="1000TiB", roster=Roster(), sinks=(sink,))
    assert min(limit.bytes for limit in guard.limits) < 1 << 49
    assert "more than the machine's" in guard.explain()
    guard.stop()


def test_no_limit_observes_and_says_so_once() -> None:
    """With limit=None looks go on, nothing is pressing, and the event comes once, with the mend."""
    clock, sink = FakeClock(), RecordingSink()
    memory = FakeMemory(clock, base_bytes="100GiB")
    guard = Guard(limit=None, probe=memory, clock=clock, roster=Roster(), sinks=(sink,))
    for _ in range(100):
        clock.advance(guard.tick())
    assert (guard.level, guard.pressure, guard.snapshot.limit) == (Level.OK, 0.0, None)
    assert guard.snapshot.reading is not None
    assert guard.snapshot.reading.used_bytes == 100 << 30
    assert sink.names == ["limit.none"]
    assert "set API_MAX_MEMORY_MB" in sink.events[0].text


def test_a_limit_that_becomes_nothing_is_an_emergency() -> None:
    """A group whose limit is set to 0 is not a group without a limit."""
    clock, limits = FakeClock(), [512 * MIB]
    guard = Guard(
        limit=lambda: (Limit(bytes=limits[0], kind="kill", source="x"),),
        probe=FakeMemory(clock), clock=clock, roster=Roster(),
    )  # fmt: skip
    guard.tick()
    limits[0] = 0
    clock.advance(6.0)
    guard.tick()
    assert guard.level is Level.EMERGENCY


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"critical_ratio": 1.2}, "not between 0 and 1"),
        ({"critical_ratio": 90}, "write 90 percent as '90%' or 0.9"),
        ({"warning_ratio": 0.95}, "must be above warning_ratio"),
        ({"elevated_ratio": 0.85}, "must be above elevated_ratio"),
        ({"dwell_s": -1}, "not a duration"),
        ({"dwell_s": 0}, "must be above 0"),
        ({"dwell": 1}, "is unknown"),
        ({"mode": "on"}, "choose 'act' or 'observe'"),
        ({"blind_level": "HIGH"}, "choose one of OK"),
        ({"pace_min_s": 1.0}, "may not exceed pace_max_s"),
    ],
)
def test_rules_that_cannot_hold(settings: dict[str, Any], why: str) -> None:
    """Ladder rungs out of order, thresholds above 1 and the like fail when the guard is created."""
    with pytest.raises(RulesError, match=why):
        Guard(limit="512MiB", roster=Roster(), **settings)


def test_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value from the environment says which variable."""
    monkeypatch.setenv("MEMGUARD_CRITICAL_RATIO", "ninety")
    with pytest.raises(RulesError, match="environment MEMGUARD_CRITICAL_RATIO"):
        Guard(limit="512MiB", roster=Roster())


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda guard: guard.reclaimer("", lambda wanted: None), ValueError),
        (lambda guard: guard.reclaimer("x", "no function"), TypeError),
        (lambda guard: guard.reclaimer("x", lambda: None), TypeError),
        (lambda guard: guard.reclaimer("x", lambda wanted: None, cost="huge"), ValueError),
        (lambda guard: guard.reclaimer("x", lambda wanted: None, at="WARNING"), TypeError),
        (lambda guard: guard.cache(7, name="x"), TypeError),
    ],
)
def test_holders_that_cannot_be(call: Any, error: type[Exception]) -> None:
    """A registration that cannot work fails where it is made."""
    guard = Guard(limit="2GiB", roster=Roster())
    with pytest.raises(error):
        call(guard)
    assert len(guard.roster) == 0
    guard.stop()


def test_handles_close_and_leave_with_their_owner() -> None:
    """Closing unregisters; so does the end of the object whose method was registered."""

    class Owner:
        def shed(self, wanted_bytes: int) -> int:
            return 0

    guard = Guard(limit="2GiB", roster=Roster())
    handle = guard.reclaimer("a", lambda wanted_bytes: 0)
    owner = Owner()
    guard.reclaimer("b", owner.shed)
    assert [name for name, _ in guard.roster.entries()] == ["a", "b"]
    handle.close()
    del owner
    assert guard.roster.entries() == ()
    guard.stop()
