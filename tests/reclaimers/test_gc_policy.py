"""When collections are due, and that everything is put back."""

from __future__ import annotations

import gc
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from memguard.model import GcStats, Level, Limit, Reading, Snapshot
from memguard.ports import GcDecider
from memguard.reclaimers.gc_policy import FreezeGc, GcPolicy, IdleGc, IntervalGc
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memguard.reclaimers.gc_pressure import PressureGc

_LIMIT = Limit(bytes=512 * MIB, kind="kill", source="test")


def _snapshot(at: float, used_mib: float | None, *, running: int = 0, limit: Limit | None = _LIMIT) -> Snapshot:
    used = None if used_mib is None else int(used_mib * MIB)
    return Snapshot(
        at=at,
        reading=None if used is None else Reading(at=at, used_bytes=used, source="test"),
        limit=limit,
        pressure=0.0 if used is None or limit is None else used / limit.bytes,
        level=Level.OK,
        forecast=None,
        running=running,
    )


def _stats(full: int, freed_mib: float | None = None, *, last_full_at: float | None = None) -> GcStats:
    freed = None if freed_mib is None else int(freed_mib * MIB)
    return GcStats(full_collections=full, last_freed_bytes=freed, last_full_at=last_full_at)


@pytest.fixture(autouse=True)
def same_gc_afterwards() -> Iterator[None]:
    """Every test here leaves the collector as it was."""
    before = gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()
    yield
    after = gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()
    gc.set_threshold(*before[1])
    if after[2] > before[2]:
        gc.unfreeze()
    assert after[:2] == before[:2]
    assert after[2] <= before[2]


_MAKERS: list[Callable[[], PressureGc | IntervalGc | IdleGc | FreezeGc]] = [
    GcPolicy.pressure,
    lambda: GcPolicy.interval(60),
    GcPolicy.idle,
    lambda: GcPolicy.freeze(after_s=0.0),
]


@pytest.mark.parametrize("make", _MAKERS)
def test_every_policy_has_the_shape(make: Callable[[], PressureGc | IntervalGc | IdleGc | FreezeGc]) -> None:
    """Each is a GcDecider, answers with a generation or None without readings too, and may start and stop twice."""
    policy = make()
    assert isinstance(policy, GcDecider)
    for _ in range(2):
        policy.start()
        policy.start()
        for at in (0.0, 1.0, 100.0):
            assert policy.due(_snapshot(at, None), _stats(0)) in {None, 0, 1, 2}
            assert policy.due(_snapshot(at, 100, limit=None), _stats(0)) in {None, 0, 1, 2}
        policy.stop()
        policy.stop()


@pytest.mark.parametrize("make", _MAKERS)
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("thresholds", [(700, 10, 10), (5000, 3, 7), (0, 10, 10)])
def test_puts_back_exactly_what_was_there(
    make: Callable[[], PressureGc | IntervalGc | IdleGc | FreezeGc],
    enabled: bool,
    thresholds: tuple[int, int, int],
) -> None:
    """After stop: the same thresholds, the same on/off, the same frozen objects."""
    before = gc.isenabled(), gc.get_threshold()
    gc.set_threshold(*thresholds)
    (gc.enable if enabled else gc.disable)()
    try:
        policy = make()
        policy.start()
        frozen = gc.get_freeze_count()
        policy.due(_snapshot(0.0, 100), _stats(0))
        policy.due(_snapshot(1.0, 100), _stats(1))
        policy.due(_snapshot(2.0, 100), _stats(2))
        assert gc.isenabled() is enabled
        policy.stop()
        assert gc.get_threshold() == thresholds
        assert gc.isenabled() is enabled
        assert gc.get_freeze_count() <= frozen
    finally:
        gc.set_threshold(*before[1])
        (gc.enable if before[0] else gc.disable)()


@pytest.mark.parametrize("make", [GcPolicy.idle, lambda: GcPolicy.freeze(after_s=None)])
def test_leaves_what_others_set_meanwhile(make: Callable[[], IdleGc | FreezeGc]) -> None:
    """Thresholds that the application sets while a policy is in force survive its stop."""
    before = gc.get_threshold()
    policy = make()
    policy.start()
    if isinstance(policy, FreezeGc):
        policy.warmed_up()
    gc.set_threshold(1234, 5, 6)
    policy.stop()
    after = gc.get_threshold()
    gc.set_threshold(*before)
    assert after == (1234, 5, 6)


# --- pressure ---------------------------------------------------------------------------------------------------------


def test_pressure_is_due_above_its_mark_only() -> None:
    """Below three quarters of the limit nothing is due, above a full collection is."""
    policy = GcPolicy.pressure()
    assert policy.due(_snapshot(0, 380), _stats(0)) is None
    assert policy.due(_snapshot(1, 390), _stats(0)) == 2


def test_pressure_by_bytes_needs_no_limit() -> None:
    """above_bytes wins over above_ratio and works where nothing limits."""
    policy = GcPolicy.pressure(0.1, "200MiB")
    assert policy.due(_snapshot(0, 199), _stats(0)) is None
    assert policy.due(_snapshot(1, 200, limit=None), _stats(0)) == 2


def test_pressure_asks_until_it_is_carried_out() -> None:
    """A guard that could not afford the collection yet is asked again, until memory has fallen by itself."""
    policy = GcPolicy.pressure()
    assert [policy.due(_snapshot(at, 400), _stats(3)) for at in range(3)] == [2, 2, 2]
    assert policy.due(_snapshot(4, 300), _stats(3)) is None
    assert policy.due(_snapshot(5, 400), _stats(3)) == 2


def test_pressure_goes_on_while_collections_pay() -> None:
    """Each time memory has grown by what pays, another collection is due at once."""
    policy = GcPolicy.pressure()
    for full in range(10):
        assert policy.due(_snapshot(full / 5, 420), _stats(full, 50)) == 2
        assert policy.due(_snapshot(full / 5 + 0.1, 390), _stats(full + 1, 30)) is None


def test_pressure_backs_off_when_they_do_not_pay() -> None:
    """At a level that never changes, the waits between useless collections double up to a minute."""
    policy = GcPolicy.pressure()
    full, asked_at = 0, []
    for tick in range(4 * 400):
        at = tick / 4
        if policy.due(_snapshot(at, 450), _stats(full, 0)) is not None:
            asked_at.append(at)
            full += 1  # carried out at once, for nothing
    waits = [later - earlier for earlier, later in pairwise(asked_at)]
    assert len(asked_at) <= 14
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(60, abs=0.5)


def test_pressure_believes_the_trim_that_followed() -> None:
    """A collection that bought nothing at once, but after whose trim memory fell, has paid."""
    policy = GcPolicy.pressure()
    assert policy.due(_snapshot(0, 450), _stats(0)) == 2
    assert policy.due(_snapshot(0.3, 390), _stats(1, 0)) is None
    assert policy.due(_snapshot(0.6, 412), _stats(1, 0)) == 2


def test_pressure_judges_by_memory_when_nothing_was_measured() -> None:
    """Without a measured result, it goes by how far memory has fallen."""
    policy = GcPolicy.pressure()
    assert policy.due(_snapshot(0, 450), _stats(0)) == 2
    assert policy.due(_snapshot(0.3, 450), _stats(1)) is None  # it did not pay
    assert policy.due(_snapshot(1.4, 451), _stats(1)) is None
    assert policy.due(_snapshot(2.4, 451), _stats(1)) == 2


def test_pressure_growth_ends_a_wait() -> None:
    """However long the wait, memory that grows fast is worth another try before the limit."""
    policy = GcPolicy.pressure()
    assert policy.due(_snapshot(0, 400), _stats(0)) == 2
    assert policy.due(_snapshot(0.1, 400), _stats(1, 0)) is None
    assert policy.due(_snapshot(0.2, 445), _stats(1, 0)) == 2


def test_pressure_forgets_at_start() -> None:
    """A policy that is started again waits for nobody."""
    policy = GcPolicy.pressure()
    policy.due(_snapshot(0, 450), _stats(0))
    assert policy.due(_snapshot(0.1, 450), _stats(1, 0)) is None
    policy.start()
    assert policy.due(_snapshot(0.2, 450), _stats(1, 0)) == 2


# --- interval ---------------------------------------------------------------------------------------------------------


def test_interval_counts_from_the_first_look_and_from_the_last_full_collection() -> None:
    """Due a minute after the first look, then a minute after the last full collection of any cause."""
    policy = GcPolicy.interval("1m")
    assert policy.due(_snapshot(1000, 100), _stats(0)) is None
    assert policy.due(_snapshot(1059, 100), _stats(0)) is None
    assert policy.due(_snapshot(1060, 100), _stats(0)) == 2
    assert policy.due(_snapshot(1061, 100), _stats(1, last_full_at=1060.5)) is None
    assert policy.due(_snapshot(1121, 100), _stats(1, last_full_at=1060.5)) == 2


@pytest.mark.parametrize("seconds", [0, -1, "0s"])
def test_interval_refuses_no_time(seconds: float | str) -> None:
    """An interval of 0 would collect without end."""
    with pytest.raises(ValueError, match="seconds"):
        GcPolicy.interval(seconds)


# --- idle -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def idle() -> Iterator[IdleGc]:
    """An idle policy in force."""
    policy = GcPolicy.idle()
    policy.start()
    yield policy
    policy.stop()


@pytest.fixture
def pending(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how many young collections have passed since the last full one, and what was allocated since the last."""

    def set_pending(count: int, young: int = 0) -> None:
        monkeypatch.setattr(gc, "get_count", lambda: (young, 0, count))

    return set_pending


def test_idle_keeps_young_collections_and_stops_full_ones(idle: IdleGc) -> None:
    """While in force generations 0 and 1 run as before, and no generation 2 of its own accord."""
    seen: list[int] = []

    def note(phase: str, found: dict[str, int]) -> None:
        if phase == "stop":
            seen.append(found["generation"])

    gc.callbacks.append(note)
    try:
        kept = [[number] for number in range(gc.get_threshold()[0] * 300)]
    finally:
        gc.callbacks.remove(note)
    assert {0, 1} <= set(seen)
    assert 2 not in seen
    del kept


def test_idle_waits_for_the_requests_to_end(idle: IdleGc, pending: Callable[..., None]) -> None:
    """Nothing is due while a request runs; a full collection is once two looks in a row found the process quiet."""
    pending(20)
    for at in range(4):
        assert idle.due(_snapshot(at, 100, running=1), _stats(0)) is None
    assert idle.due(_snapshot(4, 100, running=0), _stats(0)) is None
    assert idle.due(_snapshot(5, 100, running=0), _stats(0)) == 2


def test_idle_with_nothing_to_do(idle: IdleGc, pending: Callable[..., None]) -> None:
    """A quiet process is left alone until as many young collections have passed as CPython would wait for."""
    pending(idle_enough := gc.get_threshold()[1])
    for at in range(4):
        assert idle.due(_snapshot(at, 100), _stats(0)) is None
    pending(idle_enough + 1)
    assert idle.due(_snapshot(5, 100), _stats(0)) == 2


def test_idle_is_not_misled_by_a_gap_between_two_requests(idle: IdleGc, pending: Callable[..., None]) -> None:
    """Looks that fall between requests see the allocations of those that ran meanwhile: not quiet."""
    for at in range(10):
        pending(20, young=300 * (at % 2))
        assert idle.due(_snapshot(at, 100), _stats(0)) is None
    for at in range(10, 20):
        pending(20)
        stats = GcStats(collections=at, full_collections=0)
        assert idle.due(_snapshot(at, 100), stats) is None


def test_idle_hurries_after_a_while(idle: IdleGc, pending: Callable[..., None]) -> None:
    """At five times CPython's own wait, one look without a request is enough; with one it is not."""
    pending(51, young=300)
    assert idle.due(_snapshot(0, 100, running=1), _stats(0)) is None
    assert idle.due(_snapshot(1, 100), _stats(0)) == 2


def test_idle_has_a_bound_where_the_service_is_never_idle(idle: IdleGc, pending: Callable[..., None]) -> None:
    """Memory grown by a tenth of the limit since the last collection makes one due under load too, once a tenth.

    The memory after a collection is what the next look shows: 170 here.
    """
    pending(50)
    used = [100, 120, 140, 150, 152, 170, 190, 203, 221, 222]
    full, due_at = 0, []
    for at, mib in enumerate(used):
        if idle.due(_snapshot(at, mib, running=3), _stats(full)) is not None:
            due_at.append(mib)
            full += 1
    assert due_at == [152, 222]


def test_idle_has_a_bound_without_readings(idle: IdleGc, pending: Callable[..., None]) -> None:
    """While readings fail, a thousand young collections are the bound."""
    pending(999)
    assert idle.due(_snapshot(0, None, running=3), _stats(0)) is None
    pending(1001)
    assert idle.due(_snapshot(1, None, running=3), _stats(0)) == 2


def test_idle_without_a_limit(idle: IdleGc, pending: Callable[..., None]) -> None:
    """Without a limit the bound is a share of what is used."""
    pending(50)
    assert idle.due(_snapshot(0, 100, running=3, limit=None), _stats(0)) is None
    assert idle.due(_snapshot(1, 109, running=3, limit=None), _stats(0)) is None
    assert idle.due(_snapshot(2, 111, running=3, limit=None), _stats(0)) == 2


# --- freeze -----------------------------------------------------------------------------------------------------------


def test_freeze_collects_then_freezes_once() -> None:
    """After the warm-up it asks for a full collection, freezes when that was carried out, and is done."""
    policy = GcPolicy.freeze(after_s=30)
    policy.start()
    before, thresholds = gc.get_freeze_count(), gc.get_threshold()
    assert policy.due(_snapshot(100, 100), _stats(5)) is None
    assert policy.due(_snapshot(129, 100), _stats(6)) is None
    assert policy.due(_snapshot(130, 100), _stats(6)) == 2
    assert policy.due(_snapshot(131, 100), _stats(6)) == 2
    assert gc.get_freeze_count() == before
    assert policy.due(_snapshot(132, 100), _stats(7)) is None
    assert gc.get_freeze_count() > before + 1000
    assert policy.frozen
    assert gc.get_threshold() == (10_000, *thresholds[1:])
    assert policy.due(_snapshot(1000, 100), _stats(7)) is None
    policy.stop()
    assert not policy.frozen


def test_freeze_by_word() -> None:
    """With after_s=None nothing happens until the application says that it is warm; saying it twice is fine."""
    policy = GcPolicy.freeze(after_s=None)
    policy.start()
    assert policy.due(_snapshot(1e6, 100), _stats(0)) is None
    assert not policy.frozen
    policy.warmed_up()
    count = gc.get_freeze_count()
    policy.warmed_up()
    assert policy.frozen
    assert gc.get_freeze_count() == count
    policy.stop()


def test_freeze_leaves_what_the_application_froze() -> None:
    """Where the application has frozen its heap, nothing is added, and stop thaws nothing."""
    gc.freeze()
    count = gc.get_freeze_count()
    try:
        policy = GcPolicy.freeze(after_s=None)
        policy.start()
        policy.warmed_up()
        assert not policy.frozen
        assert gc.get_freeze_count() <= count
        policy.stop()
        assert 0 < gc.get_freeze_count() <= count
    finally:
        gc.unfreeze()


def test_freeze_never_lowers_a_threshold() -> None:
    """A first threshold above its own stays."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 10, 10)
    policy = GcPolicy.freeze(after_s=None)
    policy.start()
    policy.warmed_up()
    raised = gc.get_threshold()
    policy.stop()
    gc.set_threshold(*before)
    assert raised == (50_000, 10, 10)


def test_freeze_refuses_a_threshold_below_one() -> None:
    """0 would switch automatic collection off."""
    with pytest.raises(ValueError, match="at least 1"):
        GcPolicy.freeze(threshold=0)
