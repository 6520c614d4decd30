"""A day in a second: what a real guard does with scripted memory."""

from __future__ import annotations

from contextlib import suppress
from math import cos, pi, sin
from typing import TYPE_CHECKING

import pytest

from memguard.errors import AdmissionRefused
from memguard.model import Level
from memguard.rules import Rules
from memguard.testing import (
    FakeHolder,
    LyingReclaimer,
    RaisingReclaimer,
    SlowReclaimer,
    UselessReclaimer,
    replay,
    save_record,
    simulate,
)
from memguard.units import KIB, MIB

if TYPE_CHECKING:
    from pathlib import Path

    from memguard.testing import Run, World

LIMIT = 512 * MIB
HOUR = 3600.0


def no_flapping(run: Run, rules: Rules | None = None) -> None:
    """At most one fall in any window of dwell_s, and none within it after a climb."""
    dwell_s = (rules or Rules()).dwell_s
    last_at, last = -1e9, Level.OK
    for at, level in run.changes:
        if level < last:
            assert at - last_at >= dwell_s - 1e-6, f"fell to {level.name} {at - last_at} s after the change before"
        last_at, last = at, level


def asked_just_enough(holder: FakeHolder, run: Run, rules: Rules | None = None) -> None:
    """Nobody was asked for more than what was above the leave level of ELEVATED, and the gap for what arrives."""
    rules = rules or Rules()
    for _, wanted, _ in holder.asked:
        most = run.peak_bytes - rules.leave_ratio(max(holder.at, Level.ELEVATED)) * LIMIT
        assert wanted <= most + rules.leave_gap_ratio * LIMIT + rules.ask_min_bytes


def test_a_day() -> None:
    """86,400 looks, a load that changes every second."""

    def diurnal(world: World) -> None:
        world.holder("answers", held_bytes="100MiB")
        world.memory.flow(lambda second: 2 * KIB * cos(second / 86400 * 2 * pi))

    run = simulate(diurnal, duration_s=86400, rules=Rules(pace_min_s=1.0, pace_max_s=1.0, slow_s=10.0))
    assert len(run.at_s) >= 86_399
    assert run.survived


def test_a_quiet_service_is_left_alone() -> None:
    """No pressure, no event, no attempt."""
    run = simulate(lambda world: world.holder("answers", held_bytes="200MiB"), duration_s=HOUR)
    assert (run.changes, run.relief_names, run.incidents) == ([], [], ())
    assert set(run.counts) == {"limit.found"}


def test_slow_leak_with_a_cache() -> None:
    """A leak of 100 KiB/s is lived with as long as a cache can make room, and the cache is shed bit by bit."""
    holders = []

    def leak(world: World) -> None:
        holders.append(world.holder("answers", held_bytes="250MiB"))
        world.memory.flow(100 * KIB)

    run = simulate(leak, duration_s=0.7 * HOUR)
    assert run.survived
    (answers,) = holders
    asked_just_enough(answers, run)
    assert len(answers.asked) > 3, "shed bit by bit, not all at once"
    first_given = answers.asked[0][2]
    assert first_given < 60 * MIB
    no_flapping(run)


def test_slow_leak_without_anything_to_shed() -> None:
    """A leak that nobody can relieve ends at the limit; until then attempts are few, and it is said once."""
    run = simulate(lambda world: world.memory.flow(MIB), duration_s=HOUR)
    assert not run.survived
    assert run.counts["relief.exhausted"] == 1
    assert run.peak_level is Level.EMERGENCY
    seconds_above = run.killed_s - next(at for at, level in run.changes if level is Level.ELEVATED)  # type: ignore[operator]
    assert run.attempts("trim") <= 8 + seconds_above / 60


def test_spike() -> None:
    """300 MiB within a second, a cache to shed: alive, back at OK when the spike is over, and no flapping."""

    def spike(world: World) -> None:
        world.holder("answers", held_bytes="150MiB")
        world.memory.flow(lambda second: 300.0 * MIB if 60 <= second < 61 else 0.0)
        world.at(90, lambda: world.memory.grow(-300 * MIB))

    run = simulate(spike, duration_s=200)
    assert run.survived
    assert run.level is Level.OK
    assert len(run.incidents) == 1
    assert run.incidents[0].bought_bytes > 50 * MIB
    no_flapping(run)


@pytest.mark.parametrize("speed_mib", [50, 100, 300, 475])
def test_growth_of_a_cache_at_any_speed(speed_mib: int) -> None:
    """A cache that fills at up to 475 MiB/s never reaches the limit."""

    def fill(world: World) -> None:
        world.memory.flow(speed_mib * MIB, into=world.holder("answers", speed_bytes_per_s=2000 * MIB))

    run = simulate(fill, duration_s=20)
    assert run.survived, f"killed after {run.killed_s} s"
    no_flapping(run)


def test_sawtooth() -> None:
    """Requests that take 250 MiB and give it back every 10 s: alive, each peak relieved, no flapping."""
    holders = []

    def sawtooth(world: World) -> None:
        holders.append(world.holder("answers", held_bytes="150MiB"))
        world.memory.flow(lambda second: 50.0 * MIB if second % 10 < 5 else -50.0 * MIB)

    run = simulate(sawtooth, duration_s=600)
    assert run.survived
    no_flapping(run)
    asked_just_enough(holders[0], run)
    # What the first peaks needed is gone; later peaks fit and shed nothing more.
    assert all(at < 60 for at, _, _ in holders[0].asked)


def test_diurnal() -> None:
    """A load that doubles by day: by night the guard is back at OK, each day anew."""

    def diurnal(world: World) -> None:
        world.holder("answers", held_bytes="100MiB")
        # Up by 280 MiB from midnight to noon, and down again.
        world.memory.flow(lambda second: 280 * MIB * pi / 86400 * sin(second / 86400 * 2 * pi))

    run = simulate(diurnal, duration_s=2 * 86400, rules=Rules(pace_min_s=5.0, pace_max_s=5.0))
    assert run.survived
    assert run.level is Level.OK
    assert {Level.ELEVATED, Level.WARNING} <= {level for _, level in run.changes}
    no_flapping(run)


def _stuck(seconds: float, *reclaimers: str) -> tuple[Run, dict[str, LyingReclaimer | UselessReclaimer]]:
    made = {
        name: (LyingReclaimer if name == "lying" else UselessReclaimer)(name, size_bytes=100 * MIB)
        for name in reclaimers
    }

    def stuck(world: World) -> None:
        for reclaimer in made.values():
            world.add(reclaimer)
        world.memory.grow(440 * MIB - world.memory.used_bytes)

    return simulate(stuck, duration_s=seconds, rules=Rules(pace_min_s=0.1)), made


@pytest.mark.parametrize("kind", ["lying", "useless"])
def test_one_that_gives_nothing_is_asked_ever_less(kind: str) -> None:
    """Whatever it claims: seven attempts in the first minute or so, then at most one a minute."""
    run, made = _stuck(1200, kind)
    assert run.survived
    attempts = made[kind].attempts
    assert 7 <= attempts <= 7 + 1200 / 60 + 2
    assert run.counts["relief.useless"] >= attempts
    no_flapping(run)


def test_a_liar_does_not_starve_the_honest() -> None:
    """With a liar beside it an honest cache is still asked, and the guard gets back to OK."""
    liar = LyingReclaimer("liar", size_bytes=400 * MIB)

    def scene(world: World) -> None:
        world.add(liar)
        answers = world.holder("answers", held_bytes="200MiB")
        world.memory.flow(MIB, into=answers)
        world.at(600, lambda: world.memory.grow(-100 * MIB))
        world.memory.grow(100 * MIB)

    run = simulate(scene, duration_s=700)
    assert run.survived
    assert liar.attempts < 25
    assert run.attempts("answers") > 5


def test_a_raising_reclaimer_backs_off_too() -> None:
    """A failure is told each time and asked ever less often."""
    broken = RaisingReclaimer("broken", size_bytes=100 * MIB)

    def stuck(world: World) -> None:
        world.add(broken)
        world.memory.grow(440 * MIB - world.memory.used_bytes)

    run = simulate(stuck, duration_s=600)
    assert broken.attempts <= 18
    assert run.counts["relief.failed"] == broken.attempts


@pytest.mark.parametrize("every", [2, 3, 7])
def test_a_probe_that_fails_now_and_then(every: int) -> None:
    """Every n-th reading fails: never blind, the spike is relieved all the same, and nobody is blamed for it."""

    def spike(world: World) -> None:
        world.holder("answers", held_bytes="250MiB")
        world.memory.flow(lambda second: 100.0 * MIB if 10 <= second < 12 else 0.0)

    run = simulate(spike, duration_s=60, fail_every=every)
    assert run.survived
    assert run.counts["probe.failed"] > 0
    assert run.counts["guard.blind"] == 0
    assert run.counts["relief.failed"] == 0
    assert run.level < Level.WARNING
    no_flapping(run)


@pytest.mark.parametrize("used_mib", [100, 500])
def test_a_probe_that_fails_for_good_and_comes_back(used_mib: int) -> None:
    """Blind after 2 s whatever the level was, at WARNING as the rules say; sighted again, pressure decides."""

    def breaks(world: World) -> None:
        world.memory.grow(used_mib * MIB - world.memory.used_bytes)
        world.at(10, lambda: setattr(world.memory, "broken", OSError("gone")))
        world.at(100, lambda: setattr(world.memory, "broken", None))
        world.at(100, lambda: world.memory.grow(100 * MIB - world.memory.used_bytes))

    run = simulate(breaks, duration_s=200)
    levels = {Level(level) for at, level in zip(run.at_s, run.levels, strict=True) if 12.6 < at < 100}
    assert levels == {Level.WARNING}
    assert (run.counts["guard.blind"], run.counts["guard.sighted"]) == (1, 1)
    assert run.level is Level.OK
    assert "could not look for" in run.incidents[-1].verdict
    no_flapping(run)


@pytest.mark.parametrize("jump_s", [6 * HOUR, -6 * HOUR, -0.5])
def test_clock_jumps(jump_s: float) -> None:
    """A clock that jumps by hours, to either side, in calm and under pressure, neither latches nor blinds."""

    def scene(world: World) -> None:
        world.holder("answers", held_bytes="200MiB")
        world.at(10, lambda: world.clock.jump(jump_s))
        world.memory.flow(lambda second: 100.0 * MIB if 20 <= second < 22 else 0.0)
        world.at(22, lambda: world.clock.jump(jump_s))
        world.at(60, lambda: world.memory.grow(-200 * MIB))

    run = simulate(scene, duration_s=120)
    assert run.survived
    assert run.relief_names
    assert run.level is Level.OK
    assert run.counts["guard.blind"] == 0
    assert run.counts["guard.starved"] == (2 if jump_s > 0 else 0)
    no_flapping(run)


def test_the_limit_shrinks_under_load() -> None:
    """A pod that is resized down is noticed within limit_refresh_s, and shed to fit."""

    def shrink(world: World) -> None:
        world.holder("answers", held_bytes="300MiB")
        world.at(30, lambda: setattr(world, "limit_bytes", 400 * MIB))

    run = simulate(shrink, duration_s=120)
    assert run.survived
    assert run.counts["limit.changed"] == 1
    when = next(at for at, level in run.changes if level >= Level.WARNING)
    assert 30 <= when <= 36
    assert run.used_bytes[-1] <= 0.75 * 400 * MIB
    assert run.level < Level.WARNING


def test_the_limit_grows_under_load() -> None:
    """More room is used at once: what was CRITICAL falls to OK after the dwell."""

    def grow(world: World) -> None:
        world.memory.grow(470 * MIB - world.memory.used_bytes)
        world.at(30, lambda: setattr(world, "limit_bytes", 1024 * MIB))

    run = simulate(grow, duration_s=60)
    assert run.peak_level is Level.CRITICAL
    assert run.changes[-1][1] is Level.OK
    assert run.changes[-1][0] < 39
    no_flapping(run)


def test_starved_for_ten_seconds() -> None:
    """The guard says for how long it could not run and who ran then, and picks up where it is."""

    def starve(world: World) -> None:
        world.holder("answers", held_bytes="200MiB")
        world.memory.flow(lambda second: 15.0 * MIB if 30 <= second < 40 else 0.0)

        def hold_the_gil() -> None:
            with world.guard.admit(label="POST /sort"):
                world.starve(10)

        world.at(30, hold_the_gil)

    run = simulate(starve, duration_s=60)
    starved = [event for event in run.events if event.name == "guard.starved"]
    assert len(starved) == 1
    assert starved[0].attributes["gap_s"] == pytest.approx(10, abs=0.3)
    assert starved[0].attributes["running"] == "POST /sort"
    assert run.survived
    assert run.level < Level.WARNING


def test_a_burst_while_relieving() -> None:
    """While a slow holder takes a second to shed, another burst comes: both are dealt with."""

    def burst(world: World) -> None:
        slow = FakeHolder(world.memory, "slow", held_bytes="100MiB")
        world.memory.holders.append(slow)
        world.add(SlowReclaimer(slow, clock=world.clock, seconds=1.0))
        world.holder("quick", held_bytes="150MiB", cost="dear", at=Level.CRITICAL)
        world.memory.flow(lambda second: 65.0 * MIB if 10 <= second < 16 else 0.0)

    run = simulate(burst, duration_s=60)
    assert run.survived
    assert run.attempts("slow") >= 1
    assert run.attempts("quick") >= 1
    no_flapping(run)


def test_a_baseline_inside_the_gap_recovers() -> None:
    """A service whose floor lies between leave and enter gets back to OK within relax_s, and does not latch."""

    def stuck(world: World) -> None:
        world.memory.grow(0.71 * LIMIT - world.memory.used_bytes)
        world.at(5, lambda: world.memory.grow(0.67 * LIMIT - world.memory.used_bytes))

    run = simulate(stuck, duration_s=90)
    assert run.peak_level is Level.ELEVATED
    assert run.level is Level.OK
    assert len(run.incidents) == 1
    no_flapping(run)


def test_an_evictor_whose_memory_only_trim_returns() -> None:
    """Evicted entries stay in the heap until a trim: the cache gets the credit, and is asked again next time."""
    holders = []

    def fragmented(world: World) -> None:
        holders.append(world.holder("answers", held_bytes="200MiB", into_heap=True))
        world.memory.flow(MIB)

    run = simulate(fragmented, duration_s=330)
    (answers,) = holders
    assert run.survived
    assert run.counts["relief.fragmented"] == 0
    assert len(answers.asked) > 3
    assert run.peak_level <= Level.CRITICAL
    no_flapping(run)


def test_garbage_is_collected_and_trimmed() -> None:
    """What only a collection finds goes to the heap and from there, by a trim, to the kernel."""
    worlds = []

    def cycles(world: World) -> None:
        worlds.append(world)
        world.memory.garbage_bytes = 350.0 * MIB
        world.memory.grow(0)

    run = simulate(cycles, duration_s=30)
    memory = worlds[0].memory
    assert (memory.garbage_bytes, memory.heap_bytes) == (0.0, 0.0)
    assert run.level is Level.OK


def test_a_cache_that_refills_after_it_failed() -> None:
    """A cache that was empty when it was asked is asked again once it has something."""
    holders = []

    def refill(world: World) -> None:
        answers = world.holder("answers", held_bytes="3MiB", gives_ratio=0.0)
        holders.append(answers)
        world.memory.grow(0.86 * LIMIT - world.memory.used_bytes)

        def come_back() -> None:
            answers.gives_ratio = 1.0
            world.memory.grow(-100 * MIB)
            answers.fill(100 * MIB)

        world.at(40, come_back)

    run = simulate(refill, duration_s=60)
    (answers,) = holders
    after = [at for at, _, given in answers.asked if given]
    assert after
    assert after[0] < 41, "its back-off of 32 s does not hold once it has grown"
    assert run.level < Level.WARNING


def test_costlier_holders_keep_what_is_theirs() -> None:
    """With a cheap cache to shed, sessions and beliefs are not touched."""
    sessions = []

    def scene(world: World) -> None:
        answers = world.holder("answers", held_bytes="200MiB")
        sessions.append(world.holder("sessions", held_bytes="100MiB", cost="dear", at=Level.CRITICAL))
        sessions.append(world.holder("beliefs", held_bytes="20MiB", cost="last", at=Level.EMERGENCY))
        world.memory.flow(MIB, into=answers)

    run = simulate(scene, duration_s=600)
    assert run.survived
    assert all(holder.asked == [] for holder in sessions)


def test_refused_at_critical() -> None:
    """Work is refused while CRITICAL, admitted again after."""
    seen: list[tuple[float, bool]] = []

    def scene(world: World) -> None:
        world.memory.grow(0.93 * LIMIT - world.memory.used_bytes)
        world.at(20, lambda: world.memory.grow(-200 * MIB))

        def request() -> None:
            try:
                world.guard.admit("1MiB").close()
            except AdmissionRefused:
                seen.append((world.clock.elapsed_s, False))
            else:
                seen.append((world.clock.elapsed_s, True))

        world.every(1.0, request, first_s=1.0)

    run = simulate(scene, duration_s=30)
    assert not any(admitted for at, admitted in seen if at < 20)
    assert all(admitted for at, admitted in seen if at > 23)
    assert len(run.refused_s) == sum(1 for _, admitted in seen if not admitted)
    assert run.incidents[-1].refusals >= 18


def test_a_cache_yields_to_work() -> None:
    """Work that does not fit beside a cache, though no rung is reached, is refused once and fits then."""
    seen: list[bool] = []

    def scene(world: World) -> None:
        world.holder("answers", held_bytes="250MiB", cost="cheap")

        def request() -> None:
            try:
                world.guard.admit("230MiB").close()
            except AdmissionRefused:
                seen.append(False)
            else:
                seen.append(True)

        world.every(1.0, request, first_s=5.0)

    run = simulate(scene, duration_s=60)
    assert not seen[0]
    assert all(seen[2:])
    assert run.peak_level is Level.OK
    assert run.attempts("answers") <= 2
    assert run.incidents[0].reason == "work met no room"
    assert run.used_bytes[-1] > 200 * MIB


def test_nothing_yields_in_vain() -> None:
    """For work that would not fit anyway no cache is emptied; what is kept for CRITICAL is not asked at all."""

    def scene(world: World) -> None:
        world.memory.grow(170 * MIB - world.memory.used_bytes)
        world.holder("answers", held_bytes="10MiB", cost="cheap")
        world.holder("agents", held_bytes="180MiB", cost="dear", at=Level.CRITICAL)

        def request() -> None:
            with suppress(AdmissionRefused):
                world.guard.admit("120MiB").close()

        world.every(1.0, request, first_s=5.0)

    run = simulate(scene, duration_s=60)
    assert len(run.refused_s) > 50
    assert run.attempts("answers") == run.attempts("agents") == 0
    assert run.peak_level < Level.WARNING


def test_observing_touches_nothing() -> None:
    """In mode 'observe' levels and plans are told, nobody is asked and nobody refused."""
    worlds = []

    def scene(world: World) -> None:
        worlds.append(world)
        world.holder("answers", held_bytes="400MiB")
        world.at(5, lambda: world.guard.admit("400MiB").close())

    run = simulate(scene, duration_s=30, rules=Rules(mode="observe"))
    assert run.peak_level >= Level.CRITICAL
    assert run.counts["relief.planned"] >= 10
    assert run.relief_names == []
    assert worlds[0].memory.holders[0].asked == []


def test_page_cache_is_not_usage() -> None:
    """Gigabytes of page cache change nothing."""
    run = simulate(lambda world: setattr(world.memory, "page_cache_bytes", 4 << 30), duration_s=30)
    assert run.peak_level is Level.OK


def test_a_recorded_incident_replays(tmp_path: Path) -> None:
    """What a guard took down, written to a file and decided again, ends in the very same incident."""

    def spike(world: World) -> None:
        world.holder("answers", held_bytes="150MiB")
        world.add(LyingReclaimer("liar", size_bytes=50 * MIB))
        world.memory.flow(lambda second: 150.0 * MIB if 10 <= second < 12 else 0.0)
        world.at(15, lambda: world.starve(1.0))
        world.at(20, lambda: world.memory.grow(-300 * MIB))

    rules = Rules(pace_min_s=0.1)
    run = simulate(spike, duration_s=60, rules=rules, fail_every=5)
    assert run.record is not None
    assert run.record.missed == 0
    save_record(run.record, tmp_path / "incident.jsonl")
    decisions = replay(tmp_path / "incident.jsonl", rules)
    assert decisions[-1].closed == run.incidents[-1]
    assert run.incidents[-1].attempts > 3
    told = [event for decision in decisions for event in decision.events]
    assert told == [event for event in run.events if event.at >= told[0].at][: len(told)]


def test_the_same_run_twice() -> None:
    """A simulation gives the same numbers each time."""

    def scene(world: World) -> None:
        world.memory.flow(30 * MIB, into=world.holder("answers"))

    first, second = (simulate(scene, duration_s=60) for _ in range(2))
    assert (first.at_s, first.used_bytes, first.levels) == (second.at_s, second.used_bytes, second.levels)
    assert first.relief_bought_bytes == second.relief_bought_bytes
