"""When a hand-over is due, when it cannot help, and when it has to wait: tables, without a clock."""

from __future__ import annotations

from typing import Any

import pytest

from memguard._core.forecast import Growth
from memguard._core.ladder import Stand
from memguard._core.machine import advance
from memguard._core.patience import Duty
from memguard._core.record import Record
from memguard._core.recycling import next_wait_s
from memguard._core.state import State
from memguard._core.stimuli import HandOver, Looked, Stayed, Weighed
from memguard.model import Incident, Level
from memguard.rules import Rules
from memguard.telemetry import EVENTS
from memguard.testing import load_record, replay, save_record
from memguard.units import MIB
from memguard.values import replace

LIMIT = 1000 * MIB
RULES = Rules()


def state(used_mib: int = 850, *, level: Level = Level.WARNING, trend: float = 0.0, **more: Any) -> State:
    """A state at second 1000, under pressure that relief did not end."""
    given: dict[str, Any] = {
        "at": 1000.0,
        "used_bytes": used_mib * MIB,
        "limit_bytes": LIMIT,
        "stand": Stand(level, 900.0, None),
        "growth": Growth(1000.0, used_mib * MIB, "x", trend, trend),
        "sight_at": 1000.0,
        "duty": Duty(1.0, 1000.0),
        "stuck_at": 900.0,
        "exhausted": True,
        "incident": Incident(opened_at=900.0),
    }
    return State(**(given | more))


def weighed(at: float = 1000.0, **more: Any) -> Weighed:
    """A process of ten minutes that has grown from 100 to 600 MiB."""
    given: dict[str, Any] = {"at": at, "age_s": 600.0, "own_bytes": 600 * MIB, "fresh_bytes": 100 * MIB}
    return Weighed(**(given | more))


def decide(before: State, found: Weighed, rules: Rules = RULES) -> tuple[State, HandOver | None, list[str]]:
    """What the machine says: the state after, the hand-over, the names of what it tells."""
    decision = advance(before, found, rules)
    actions = [action for action in decision.actions if isinstance(action, HandOver)]
    assert all(event.name in EVENTS for event in decision.events)
    causes = [str(event.attributes.get("cause", "")) for event in decision.events]
    return decision.state, actions[0] if actions else None, causes


def test_pressure_that_relief_does_not_end_hands_over() -> None:
    """After handover_after_s above the leave level: once, and not again while it leaves."""
    after, handover, _ = decide(state(), weighed())
    assert handover is not None
    assert after.leaving
    assert not handover.urgent
    assert handover.gain_bytes == 500 * MIB
    assert "relief has not reached the leave level for 100.0 s" in handover.reason
    assert decide(after, weighed())[1] is None


def test_what_the_heap_holds_back_is_named() -> None:
    """Where memory was freed and did not return, the reason says how much."""
    _, handover, _ = decide(state(held_bytes=300 * MIB), weighed())
    assert handover is not None
    assert "300.0 MiB freed that the heap does not return" in handover.reason


@pytest.mark.parametrize(
    "before",
    [
        state(stuck_at=980.0),
        state(stuck_at=None),
        state(740),
        state(850, level=Level.ELEVATED),
        state(leaving=True),
        state(stay_until=1001.0),
        state(blind=True),
    ],
    ids=["for 20 s", "just now", "below the leave level", "elevated", "leaving", "called off lately", "blind"],
)
def test_it_is_not_due(before: State) -> None:
    """Neither early, nor while something else is to be done first."""
    assert decide(before, weighed())[1] is None


def test_a_near_limit_makes_it_due_at_once() -> None:
    """The limit a minute away and nothing left to shed: urgent, without the patience."""
    _, handover, _ = decide(state(stuck_at=None, trend=5.0 * MIB), weighed())
    assert handover is not None
    assert handover.urgent
    _, handover, _ = decide(state(stuck_at=None, trend=5.0 * MIB, exhausted=False), weighed())
    assert handover is None, "there is something left to shed"


def test_a_leak_hands_over_before_there_is_pressure() -> None:
    """A leak's forecast inside the window is reason enough; outside of it, it is none."""
    calm = state(600, level=Level.OK, stuck_at=None, incident=None)
    _, handover, _ = decide(calm, weighed(leak_s=500.0))
    assert handover is not None
    assert "leak" in handover.reason
    assert decide(calm, weighed(leak_s=700.0))[1] is None


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"own_bytes": 170 * MIB}, "fresh"),
        ({"fresh_bytes": 590 * MIB}, "fresh"),
        ({"hindrance": "nobody follows"}, "nobody"),
        ({"age_s": 59.0}, "wait"),
        ({"age_s": 100.0, "startup_s": 10.0}, "wait"),
        ({"since_s": 100.0, "wait_s": 120.0}, "wait"),
        ({"since_s": 4.0}, "wait"),
    ],
)
def test_what_speaks_against_it_is_said_once(more: dict[str, Any], cause: str) -> None:
    """A fresh worker that would not help, nobody to follow, too soon: said, with its cause, and not every second."""
    after, handover, causes = decide(state(), weighed(**more))
    assert handover is None
    assert causes == [cause]
    again, handover, causes = decide(replace(after, at=1001.0), weighed(1001.0, **more))
    assert (handover, causes) == (None, [])
    assert not again.leaving


def test_a_fresh_worker_at_92_percent_is_told_in_numbers() -> None:
    """Where a fresh worker would start at 92 %, recycling is no help, and the words say so."""
    decision = advance(state(950, level=Level.EMERGENCY), weighed(own_bytes=130 * MIB), RULES)
    assert decision.actions == ()
    assert "recycling cannot help: with fresh workers 92%" in decision.events[0].text
    assert "raise the limit" in decision.events[0].text


def test_too_little_to_free_is_no_help() -> None:
    """A leak's forecast does not make a hand-over of 5 % worth it."""
    calm = state(600, level=Level.OK, stuck_at=None, incident=None)
    _, handover, causes = decide(calm, weighed(own_bytes=150 * MIB, leak_s=100.0))
    assert handover is None
    assert causes == ["small"]


def test_workers_go_one_after_the_other_largest_first() -> None:
    """Four workers that hold 8 % each help together; the one that holds more goes first, or has had its time."""
    four: dict[str, Any] = {"own_bytes": 180 * MIB, "others_bytes": (180 * MIB,) * 3}
    assert decide(state(stuck_at=900.0), weighed(**four))[1] is not None
    larger: dict[str, Any] = {"own_bytes": 180 * MIB, "others_bytes": (300 * MIB, 170 * MIB)}
    assert decide(state(stuck_at=968.0), weighed(**larger))[2] == ["wait"]
    assert decide(state(stuck_at=960.0), weighed(**larger))[1] is not None


def test_urgency_goes_before_back_off_and_not_before_the_least_life() -> None:
    """Where the kernel would end it anyway, the doubled wait does not hold, the least life does."""
    near = state(trend=5.0 * MIB)
    assert decide(near, weighed(since_s=100.0, wait_s=86400.0, startup_s=30.0))[1] is not None
    assert decide(near, weighed(age_s=59.0))[1] is None


def test_so_many_a_day_and_no_more() -> None:
    """What looks like a leak 200 times a day is recycled by the back-off from then on."""
    near = state(trend=5.0 * MIB)
    more: dict[str, Any] = {"since_s": 100.0, "wait_s": 86400.0}
    assert decide(near, weighed(**more, count=200.0))[1] is not None
    assert decide(near, weighed(**more, count=201.0))[1] is None


def test_observing_only_says_it() -> None:
    """In mode 'observe' it is planned, once, and nothing happens."""
    rules = Rules(mode="observe")
    decision = advance(state(), weighed(), rules)
    assert (decision.actions, [event.name for event in decision.events]) == ((), ["handover.planned"])
    assert advance(decision.state, weighed(), rules).events == ()


def test_switched_off_it_never_happens() -> None:
    """handover='off' is off."""
    assert decide(state(), weighed(), Rules(handover="off"))[1] is None


def test_called_off_it_waits() -> None:
    """After a hand-over that was called off there is none before the stated instant, and one after it."""
    left = advance(state(), weighed(), RULES).state
    stayed = advance(left, Stayed(at=1000.0, until=1010.0), RULES).state
    assert not stayed.leaving
    assert decide(replace(stayed, at=1009.0), weighed(1009.0))[1] is None
    assert decide(replace(stayed, at=1010.0), weighed(1010.0))[1] is not None


def test_calm_forgets_for_how_long_it_was_stuck() -> None:
    """Patience begins anew after the pressure was away."""
    after = advance(state(), Looked(1001.0, 100 * MIB, LIMIT, "x"), RULES).state
    after = advance(after, Looked(1010.0, 100 * MIB, LIMIT, "x"), RULES).state
    assert after.stuck_at is None


@pytest.mark.parametrize(
    ("wait_s", "since_s", "expected_s"),
    [
        (0.0, None, 60.0),
        (60.0, 100.0, 120.0),
        (60.0, 3600.0, 120.0),
        (60.0, 21600.0, 60.0),
        (86400.0, 90000.0, 86400.0),
    ],
)
def test_the_wait_doubles_until_workers_last(wait_s: float, since_s: float | None, expected_s: float) -> None:
    """It doubles up to a day, and is forgotten once a worker lasts four times as long, and six hours."""
    assert next_wait_s(wait_s, since_s, RULES) == expected_s


def test_an_incident_with_a_hand_over_replays(tmp_path: Any) -> None:
    """From a file: the same decisions, hand-over included."""
    record = Record(state=state())
    for stimulus in (
        weighed(age_s=1.0),
        Looked(1001.0, 860 * MIB, LIMIT, "x"),
        weighed(1001.5),
        Stayed(at=1002.0, until=1005.0),
    ):
        record.add(stimulus)
    save_record(record, tmp_path / "incident")
    decisions = replay(load_record(tmp_path / "incident"))
    handed = [any(isinstance(action, HandOver) for action in decision.actions) for decision in decisions]
    assert handed == [False, False, True, False]


def test_an_older_record_still_replays(tmp_path: Any) -> None:
    """A record from before there were hand-overs lacks their fields, and is read all the same."""
    path = tmp_path / "incident"
    save_record(Record(state=state(), stimuli=[Looked(1001.0, 860 * MIB, LIMIT, "x")]), path)
    import json

    lines = path.read_text().splitlines()
    head = json.loads(lines[0])
    for name in ("stuck_at", "held_bytes", "leaving", "stay_until", "stay_told"):
        del head["state"][name]
    path.write_text("\n".join([json.dumps(head), *lines[1:]]))
    assert len(replay(path)) == 1
