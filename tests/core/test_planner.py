"""Who is asked next, and for how much."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from memguard._core.forecast import Growth
from memguard._core.ladder import Stand
from memguard._core.patience import Duty, Patience
from memguard._core.planner import goal_bytes, plan, pressing, settle
from memguard._core.state import Account, Ask, State
from memguard._core.stimuli import Offer
from memguard.model import Level
from memguard.rules import Rules
from memguard.units import MIB

if TYPE_CHECKING:
    from memguard.kinds import Cost

RULES = Rules()
LIMIT = 1000 * MIB


def _state(level: Level, used_mib: int, *, burst: float = 0.0) -> State:
    growth = Growth(10.0, used_mib * MIB, "x", burst, 0.0)
    stand, duty = Stand(level, 10.0), Duty(1.0, 10.0)
    return State(at=10.0, used_bytes=used_mib * MIB, limit_bytes=LIMIT, stand=stand, growth=growth, duty=duty)


def _offer(
    name: str = "a",
    *,
    size_mib: float | None = 500,
    cost: Cost = "cheap",
    at: Level = Level.WARNING,
    stalls: bool = False,
    over_mib: float = 0,
) -> Offer:
    size_bytes = None if size_mib is None else int(size_mib * MIB)
    return Offer(name=name, cost=cost, at=at, size_bytes=size_bytes, stalls=stalls, over_bytes=int(over_mib * MIB))


@pytest.mark.parametrize(
    ("level", "asked_at", "goal_mib"),
    [
        (Level.OK, Level.OK, None),
        (Level.ELEVATED, Level.OK, 650),
        (Level.ELEVATED, Level.ELEVATED, 650),
        (Level.ELEVATED, Level.WARNING, None),
        (Level.EMERGENCY, Level.WARNING, 750),
        (Level.EMERGENCY, Level.CRITICAL, 850),
        (Level.EMERGENCY, Level.EMERGENCY, 900),
    ],
)
def test_each_is_asked_down_to_its_own_rung(level: Level, asked_at: Level, goal_mib: int | None) -> None:
    """A reclaimer brings memory below the rung that called it; below that rung it is not its turn."""
    goal = goal_bytes(_state(level, 990), asked_at, RULES)
    assert goal is None if goal_mib is None else goal == pytest.approx(goal_mib * MIB, abs=1)


def test_just_enough_is_asked() -> None:
    """At 82 % of 1000 MiB a cache is asked for the 70 MiB down to 75 %, and not for all of its 500."""
    step = plan([_offer()], _state(Level.WARNING, 820), 10.0, RULES)
    assert step is not None
    assert step.wanted_bytes == pytest.approx(70 * MIB, abs=2)


def test_what_arrives_meanwhile_is_asked_too() -> None:
    """At 100 MiB/s another 25 MiB come in 250 ms; an absurd burst adds no more than the hysteresis gap."""
    step = plan([_offer()], _state(Level.WARNING, 820, burst=100 * MIB), 10.0, RULES)
    assert step is not None
    assert step.wanted_bytes == pytest.approx(95 * MIB, abs=2)
    step = plan([_offer()], _state(Level.WARNING, 820, burst=1e12), 10.0, RULES)
    assert step is not None
    assert step.wanted_bytes == pytest.approx(120 * MIB, abs=2)


def test_nobody_is_asked_for_more_than_he_has() -> None:
    """20 MiB in a cache are 20 MiB."""
    step = plan([_offer(size_mib=20)], _state(Level.WARNING, 820), 10.0, RULES)
    assert step is not None
    assert step.wanted_bytes == 20 * MIB


@pytest.mark.parametrize("size_mib", [0, 0.5])
def test_crumbs_are_left_alone(size_mib: float) -> None:
    """Less than ask_min_bytes would be lost in the noise; asked by hand, every byte counts."""
    state = _state(Level.WARNING, 820)
    assert plan([_offer(size_mib=size_mib)], state, 10.0, RULES) is None
    step = plan([_offer(size_mib=size_mib)], replace(state, ask=Ask(target_bytes=0, reason="x")), 10.0, RULES)
    assert (step is not None) == (size_mib > 0)


def test_harm_weighs_against_speed() -> None:
    """Untried, the less harmful is asked first; a costly one only when it pays very much faster."""
    offers = [_offer("dear", cost="dear"), _offer("cheap"), _offer("free", cost="free")]
    state = _state(Level.EMERGENCY, 990)
    step = plan(offers, state, 10.0, RULES)
    assert step is not None
    assert step.name == "free"
    slow = Patience(attempts=1, rate=float(MIB))
    step = plan(offers, replace(state, patience={"free": slow, "cheap": slow}), 10.0, RULES)
    assert step is not None
    assert step.name == "dear"


def test_a_blocked_one_is_passed_over() -> None:
    """While it backs off, the next best is asked; when nobody is left, nobody is."""
    state = replace(_state(Level.WARNING, 820), patience={"a": Patience(blocked_until=11.0, failures=1)})
    step = plan([_offer("a"), _offer("b", cost="dear")], state, 10.0, RULES)
    assert step is not None
    assert step.name == "b"
    assert plan([_offer("a")], state, 10.0, RULES) is None


def test_by_hand_earlier_failures_do_not_count() -> None:
    """A person who asks gets every reclaimer tried once more, and each only until it fails him."""
    state = replace(_state(Level.OK, 300), patience={"a": Patience(blocked_until=99.0, failures=3)})
    asked = replace(state, ask=Ask(target_bytes=100 * MIB, reason="x"))
    assert plan([_offer("a")], asked, 10.0, RULES) is not None
    failed = replace(state, ask=Ask(target_bytes=100 * MIB, reason="x", failed=frozenset({"a"})))
    assert plan([_offer("a")], failed, 10.0, RULES) is None


def test_no_duty_no_stall() -> None:
    """When the bucket is empty, whoever stops the process is not asked."""
    state = replace(_state(Level.WARNING, 820), duty=Duty(0.0, 10.0))
    assert plan([_offer(stalls=True)], state, 10.0, RULES) is None


@pytest.mark.parametrize(("level", "used_mib", "expected"), [(0, 999, False), (1, 640, False), (1, 660, True)])
def test_pressing(level: int, used_mib: int, expected: bool) -> None:
    """Somebody could be asked when the level allows it and memory is above the lowest goal."""
    assert pressing(_state(Level(level), used_mib), RULES) is expected


def test_settling_goes_on_with_who_is_left() -> None:
    """The first of those left who is still there is asked for what is missing; none is left: none."""
    account = Account(
        name="a", wanted_bytes=50 * MIB, claimed_bytes=50 * MIB, returned_bytes=20 * MIB, allowance_bytes=0,
        size_bytes=None, left=("gone", "trim"),
    )  # fmt: skip
    state = replace(_state(Level.WARNING, 820), account=account)
    step = settle([_offer("trim", size_mib=None)], state, 10.0, RULES)
    assert step is not None
    assert (step.name, step.wanted_bytes) == ("trim", 30 * MIB)
    assert settle([_offer("other")], state, 10.0, RULES) is None
    assert settle([_offer("trim")], replace(state, account=None), 10.0, RULES) is None


def test_in_a_hurry_known_sizes_come_first() -> None:
    """A second from the limit, a holder that knows its bytes goes before one that does not."""
    offers = [_offer("unknown", size_mib=None, cost="free"), _offer("known")]
    calm, hurried = _state(Level.WARNING, 820), _state(Level.WARNING, 820, burst=300 * MIB)
    steps = [plan(offers, state, 10.0, RULES) for state in (calm, hurried)]
    assert [step and step.name for step in steps] == ["unknown", "known"]


@pytest.mark.parametrize(("level", "used_mib"), [(Level.OK, 300), (Level.WARNING, 820), (Level.EMERGENCY, 990)])
def test_who_is_over_a_budget_goes_first(level: Level, used_mib: int) -> None:
    """At any level, whatever its cost and its own rung, and only for what it is over."""
    offers = [_offer("cheap"), _offer("over", cost="last", at=Level.EMERGENCY, over_mib=40)]
    step = plan(offers, _state(level, used_mib), 10.0, RULES)
    assert step is not None
    assert (step.name, step.wanted_bytes) == ("over", 40 * MIB)


@pytest.mark.parametrize(("size_mib", "over_mib", "wanted_mib"), [(30, 40, 30), (None, 40, 40), (30, 0.5, None)])
def test_of_what_is_over_only_what_can_go(size_mib: float | None, over_mib: float, wanted_mib: float | None) -> None:
    """No more than it could give back, and nothing when that would be lost in the noise."""
    step = plan([_offer(size_mib=size_mib, over_mib=over_mib)], _state(Level.OK, 300), 10.0, RULES)
    assert (step and step.wanted_bytes) == (None if wanted_mib is None else wanted_mib * MIB)


def test_one_over_that_was_useless_is_left_alone() -> None:
    """A budget is no reason to ask again and again in vain: the others are asked meanwhile."""
    state = replace(_state(Level.WARNING, 820), patience={"over": Patience(blocked_until=11.0, failures=1)})
    step = plan([_offer("over", over_mib=40), _offer("other")], state, 10.0, RULES)
    assert step is not None
    assert step.name == "other"
