"""Maintenance: done on a schedule, while memory is not short, and told."""

from __future__ import annotations

import os
import time
from functools import partial
from itertools import pairwise
from threading import Event as Flag
from threading import Lock, get_ident
from typing import TYPE_CHECKING

import pytest
from cachetools import TTLCache

from memguard import Guard, Roster
from memguard.admission import Ticket
from memguard.errors import RulesError
from memguard.maintenance import Done, Maintenance, Upkeep
from memguard.model import Level
from memguard.reclaimers.errands import Pace
from memguard.reclaimers.trim import Trim
from memguard.rules import Rules
from memguard.settings import schedule
from memguard.testing import FakeClock, simulate
from memguard.units import MIB
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memguard.model import Event
    from memguard.testing import World

SLOW = Rules(pace_min_s=5.0, pace_max_s=5.0, slow_s=10.0)
HOUR = 3600.0


def _upkeep(roster: Roster, room: Callable[[], int | None] = lambda: None) -> Upkeep:
    return Upkeep(roster, trim=Trim(), room_bytes=room)


# --- a day ------------------------------------------------------------------------------------------------------------


def test_a_day_of_chores() -> None:
    """Every ten minutes while all is well; never while memory is short, and soon after."""
    done: list[float] = []

    def day(world: World) -> None:
        world.guard.maintain("vacuum", lambda: done.append(world.clock.elapsed_s), every="10m")
        world.at(6 * HOUR, lambda: world.memory.grow(400 * MIB))
        world.at(8 * HOUR, lambda: world.memory.grow(-400 * MIB))

    run = simulate(day, duration_s=24 * HOUR, rules=SLOW)
    assert run.peak_level >= Level.WARNING
    assert not [at for at in done if 6 * HOUR < at < 8 * HOUR]
    assert [at for at in done if 8 * HOUR < at < 8.2 * HOUR]
    assert 110 <= len(done) <= 140
    gaps = [after - before for before, after in pairwise(done) if not before < 6 * HOUR < after]
    assert all(500 <= gap <= 700 for gap in gaps)


def _note(seen: list[float], world: World) -> None:
    seen.append(world.clock.elapsed_s)


def test_at_low_load() -> None:
    """A chore waits for the requests to become fewer, and not for ever where they never do."""
    done: dict[str, list[float]] = {"calm": [], "eager": []}

    def busy(world: World) -> None:
        tickets: list[Ticket] = []
        for name, seen in done.items():
            note = partial(_note, seen, world)
            world.guard.maintain(name, note, every="20m", calm=name == "calm")
        world.at(1.0, lambda: tickets.extend(world.guard.admit(0) for _ in range(10)))
        world.at(HOUR, lambda: list(map(Ticket.close, tickets[:8])))

    simulate(busy, duration_s=2 * HOUR, rules=SLOW)
    assert min(done["eager"]) < HOUR / 3 + 60 < min(done["calm"]) <= HOUR


def test_what_raises_rests_longer_and_is_told_once() -> None:
    """A chore that fails harms nobody: one event, and ever longer rests."""

    def broken() -> None:
        raise OSError("no such table")

    run = simulate(lambda world: world.guard.maintain("vacuum", broken, every="1m"), duration_s=6 * HOUR, rules=SLOW)
    assert run.counts["maintenance.failed"] == 1
    told = next(event for event in run.events if event.name == "maintenance.failed")
    assert "no such table" in told.text


def test_a_coroutine_function_is_told() -> None:
    """Nobody would await it: an event says what to do instead, and nothing is left unawaited."""

    async def vacuum() -> None: ...

    run = simulate(lambda world: world.guard.maintain("vacuum", vacuum, every="1m"), duration_s=HOUR, rules=SLOW)
    assert [event for event in run.events if event.name == "maintenance.failed" and "coroutine" in event.text]


def test_a_fault_ends_maintenance_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in the schedule itself is told once, and the guard goes on looking."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no dice")

    monkeypatch.setattr(Maintenance, "look", broken)
    run = simulate(lambda world: world.guard.maintain("x", lambda: None), duration_s=600, rules=SLOW)
    assert run.counts["guard.fault"] == 1
    assert run.at_s[-1] > 590


def test_what_was_done_is_told_and_explained() -> None:
    """A text that a chore returns is an event, and explain() has a line for it."""
    words: list[str] = []

    def scenario(world: World) -> None:
        world.guard.maintain("vacuum", lambda: "12 rows went", every="10m")
        world.at(HOUR, lambda: words.append(world.guard.explain()))

    run = simulate(scenario, duration_s=HOUR + 10, rules=SLOW)
    assert run.counts["maintenance.done"] >= 5
    lines = words[0].partition("maintenance:\n")[2].splitlines()
    assert any(line.startswith("vacuum: every 10.0 min") and "12 rows went" in line for line in lines)
    assert any(line.startswith("expire: every 60.0 s") for line in lines)


def test_observing_does_nothing() -> None:
    """mode='observe' maintains nothing and says so."""
    done: list[int] = []

    def scenario(world: World) -> None:
        world.guard.maintain("vacuum", lambda: done.append(1), every="1m")
        world.at(HOUR, lambda: done.append("nothing: mode 'observe'" not in world.guard.explain()))

    simulate(scenario, duration_s=2 * HOUR, rules=Rules(mode="observe", pace_min_s=5.0, pace_max_s=5.0))
    assert done == [False]


def test_a_closed_handle_ends_it() -> None:
    """close() ends the schedule; a name that is taken anew belongs to who took it."""
    guard = Guard(limit=None, roster=Roster(), clock=FakeClock())
    one = guard.maintain("vacuum", lambda: None)
    two = guard.maintain("vacuum", lambda: None)
    assert one.closed
    one.close()
    assert not two.closed
    two.close()
    assert two.closed
    assert [chore.name for chore in guard.maintenance] == ["expire"]


@pytest.mark.parametrize(
    ("name", "every", "error"), [("", "1m", ValueError), ("x", 0, ValueError), ("x", "soon", ValueError)]
)
def test_what_cannot_be_meant(name: str, every: str | float, error: type[Exception]) -> None:
    """A blank name or no duration is refused at once, and a work that cannot be called."""
    guard = Guard(limit=None, roster=Roster(), clock=FakeClock())
    with pytest.raises(error):
        guard.maintain(name, lambda: None, every=every)
    with pytest.raises(TypeError, match="function"):
        guard.maintain("x", 3)  # type: ignore[arg-type]


# --- the rule ---------------------------------------------------------------------------------------------------------


def test_the_rule_is_a_schedule() -> None:
    """Chores with their times, commas or spaces; 'off', '' and False are nothing."""
    assert schedule("expire=1m, census=1h clean=900") == {"expire": 60.0, "census": 3600.0, "clean": 900.0}
    assert [Rules.resolve({}, {"maintain": value}).maintain for value in ("off", "", False)] == ["off"] * 3
    assert Rules.resolve({"MEMGUARD_MAINTAIN": "census=1h"}).maintain == "census=1h"
    for wrong in ("dust=1h", "expire", "expire=0", "expire=inf", "expire=soon", 5, True):
        with pytest.raises(RulesError, match="maintain"):
            Rules.resolve({}, {"maintain": wrong})


# --- ours -------------------------------------------------------------------------------------------------------------


def test_expire_drops_what_is_too_old() -> None:
    """Entries of a cache of somebody else's that nobody asks for any more; the living ones stay."""
    now = [0.0]
    cache: TTLCache[int | str, bytes] = TTLCache(maxsize=1000, ttl=60, timer=lambda: now[0])
    guard = Guard(limit=None, roster=Roster(), clock=FakeClock())
    guard.cache(cache, name="answers", lock=Lock())
    unlocked: TTLCache[int, bytes] = TTLCache(maxsize=10, ttl=60, timer=lambda: now[0])
    guard.cache(unlocked, name="unlocked")
    unlocked[1] = b""
    for number in range(100):
        cache[number] = bytes(50_000)
    now[0] = 50.0
    cache["fresh"] = b""
    now[0] = 70.0
    done = _upkeep(guard.roster).expire(Pace())
    assert "100 entries" in done.words
    assert done.tell
    assert list(cache) == ["fresh"]
    assert len(unlocked._Cache__data) == 1  # type: ignore[attr-defined] # nobody expects another thread there
    assert not _upkeep(guard.roster).expire(Pace()).words


def test_a_broken_cache_does_not_stop_the_others() -> None:
    """What one cache raises is told when nothing else went."""

    class Broken:
        name, cost, at, settles, stalls = "broken", "cheap", Level.WARNING, False, False

        def size(self) -> int:
            return 0

        def reclaim(self, _: int) -> int:
            return 0

        def expire(self) -> int:
            raise RuntimeError("no timer")

    roster = Roster()
    roster.add(Broken())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no timer"):
        _upkeep(roster).expire(Pace())


def test_clean_goes_down_to_the_early_sign(tmp_path: Path) -> None:
    """The oldest files go until the directory is below its early sign, long before its quota."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for number in range(10):
        file = folder / f"{number}.bin"
        file.write_bytes(bytes(MIB))
        os.utime(file, (1000.0 + number, 1000.0 + number))
    told: list[Event] = []
    guard = Guard(limit=None, roster=Roster(), clock=FakeClock(), sinks=(told.append,))
    with guard.directory(folder, max_bytes="20MiB", early_bytes="4MiB", min_age_s=0):
        own = _upkeep(guard.roster)
        assert not own.clean(Pace()).words  # not looked at yet
        directory = vars(guard.roster)["_directories"].members[0]
        directory.plan()
        assert own.clean(Pace()).words == "6 files of directories were removed"
    assert sorted(path.name for path in folder.iterdir()) == ["6.bin", "7.bin", "8.bin", "9.bin"]


def test_a_census_says_what_grew() -> None:
    """The first counts, the next says which types grew since; without room there is none."""

    class Session:
        pass

    own = _upkeep(Roster())
    assert "objects" in own.census(Pace()).words
    kept = [Session() for _ in range(20_000)]
    assert "Session +" in own.census(Pace()).words
    assert len(kept) == 20_000
    with pytest.raises(Exception, match="until the limit"):
        _upkeep(Roster(), room=lambda: 1000).census(Pace())


# --- threads ----------------------------------------------------------------------------------------------------------


def _maintenance(told: list[Event]) -> Maintenance:
    return Maintenance(clock=time.monotonic, meter=lambda: lambda: 1, tell=told.append, dice=lambda: 0.0)


def test_one_at_a_time_and_not_on_the_caller() -> None:
    """A chore runs on a thread of its own; the next waits; one that does not come back is told of."""
    told: list[Event] = []
    kept, hold, seen = _maintenance(told), Flag(), list[int]()

    def slow(_: Pace) -> Done:
        seen.append(get_ident())
        hold.wait(30)
        return Done()

    kept.add("slow", 1.0, slow)
    kept.add("other", 1.0, slow)
    at = time.monotonic() + 10
    kept.look(at, running=0, pressing=False)
    wait_for(lambda: bool(seen))
    kept.look(at + 1, running=0, pressing=False)
    kept.look(at + 100, running=0, pressing=False)
    assert len(seen) == 1
    assert seen[0] != get_ident()
    assert [event.name for event in told] == ["maintenance.failed"]
    hold.set()
    wait_for(lambda: any(chore.runs for chore in kept.chores))


def test_a_climb_stops_what_is_under_way() -> None:
    """When memory gets short, a chore of ours ends at its next step, and none begins."""
    kept, begun, ended = _maintenance([]), list[Pace](), list[bool]()

    def work(pace: Pace) -> Done:
        begun.append(pace)
        while pace.step():
            pass
        ended.append(True)
        return Done()

    at = time.monotonic() + 10
    kept.add("slow", 1.0, work)
    kept.look(at, running=0, pressing=True)
    assert not begun
    kept.look(at, running=0, pressing=False)
    wait_for(lambda: bool(begun))
    kept.look(at + 1, running=0, pressing=True)
    wait_for(lambda: bool(ended))


def test_a_fork_has_dice_of_its_own() -> None:
    """A child's chores are due at another time than its siblings', and none counts as under way."""
    kept = _maintenance([])
    kept.add("slow", 100.0, lambda _: Done())
    kept.forget()
    assert kept.chores[0].due_at == pytest.approx(time.monotonic() + 50.0, abs=5.0)
