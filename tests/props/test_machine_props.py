"""What holds for the machine whatever it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from memguard._core.ladder import Stand, judge
from memguard._core.machine import advance
from memguard._core.record import Record, decode, encode
from memguard._core.state import Decision, State
from memguard._core.stimuli import Action, Attempt, Looked, Survey
from memguard.model import Level
from memguard.rules import Rules
from memguard.telemetry import EVENTS
from memguard.testing import load_record, replay, save_record
from memguard.units import MIB
from tests.props import stories

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from memguard._core.stimuli import Stimulus

SLACK = 1e-9


def told(stimuli: list[Stimulus], rules: Rules, state: State | None = None) -> list[Decision]:
    """Every decision, one after another."""
    state, decisions = state or State(), []
    for stimulus in stimuli:
        decision = advance(state, stimulus, rules)
        decisions.append(decision)
        state = decision.state
    return decisions


def changes_of(states: list[State]) -> list[tuple[float, int]]:
    """When the level changed, and by how many rungs."""
    steps = [(new.at, new.stand.level - old.stand.level) for old, new in pairwise(states)]
    return [(at, step) for at, step in steps if step]


@given(stories.stimuli(), stories.rules)
def test_every_stimulus_in_every_state_gives_a_decision(stimuli: list[Stimulus], rules: Rules) -> None:
    """Whatever comes in whatever order: a state, known events, known actions, a sleep within bounds."""
    for decision in told(stimuli, rules):
        assert isinstance(decision.state, State)
        assert rules.pace_min_s <= decision.sleep_s <= rules.pace_max_s
        assert all(event.name in EVENTS and event.text for event in decision.events)
        assert all(isinstance(action, Survey | Attempt) for action in decision.actions)
        assert len(decision.actions) <= 1


@given(stories.stimuli(), stories.rules)
def test_the_level_never_flaps(stimuli: list[Stimulus], rules: Rules) -> None:
    """It never falls within dwell_s after a change, be that a climb or a fall."""
    changes = changes_of([State(), *(decision.state for decision in told(stimuli, rules))])
    for (before, _), (at, step) in pairwise(changes):
        assert step > 0 or at - before >= rules.dwell_s - SLACK


@given(stories.stimuli(), stories.rules, st.integers(0, 1300))
def test_climbs_are_never_delayed(stimuli: list[Stimulus], rules: Rules, used_mib: int) -> None:
    """After any story, one look at a pressure is enough to be at least at the rung that it reaches."""
    states = [State(), *(decision.state for decision in told(stimuli, rules))]
    look = Looked(states[-1].at, used_mib * MIB, stories.LIMIT, "x")
    level = advance(states[-1], look, rules).state.stand.level
    assert level >= max(rung for rung in Level if used_mib * MIB / stories.LIMIT >= rules.enter_ratio(rung))


@given(
    stories.rules,
    st.sampled_from(Level),
    st.floats(0, 100),
    st.one_of(st.none(), st.floats(0, 100)),
    st.floats(0, 1.5),
    st.floats(0, 1.5),
)
def test_the_level_is_monotone_in_pressure(  # noqa: PLR0917 - what a stand is made of
    rules: Rules, level: Level, held_at: float, calm_at: float | None, one: float, other: float
) -> None:
    """From the same stand, more pressure never leads to a lower level."""
    stand = Stand(level, held_at, calm_at)
    low, high = sorted((one, other))
    assert judge(stand, low, 100.0, rules).level <= judge(stand, high, 100.0, rules).level


@given(stories.stimuli(), stories.rules)
def test_deciding_is_deterministic(stimuli: list[Stimulus], rules: Rules) -> None:
    """The same story told twice gives the same decisions, and the first telling changed nothing."""
    assert told(stimuli, rules) == told(stimuli, rules)


@given(stories.stimuli(most=30), stories.rules)
def test_states_and_stimuli_survive_json(stimuli: list[Stimulus], rules: Rules) -> None:
    """Encoded to JSON text and decoded, every stimulus and every state is equal to what it was."""
    decisions = told(stimuli, rules)
    for value in (*stimuli, *(decision.state for decision in decisions)):
        assert decode(json.loads(json.dumps(encode(value)))) == value


def test_a_saved_record_replays_to_the_same_decisions(tmp_path_factory: pytest.TempPathFactory) -> None:
    """From any state on, through a file: the decisions are those that were made."""
    folder: Path = tmp_path_factory.mktemp("records")

    @given(stories.stimuli(most=30), stories.stimuli(most=30), stories.rules)
    def check(before: list[Stimulus], incident: list[Stimulus], rules: Rules) -> None:
        state = told(before, rules)[-1].state if before else State()
        record = Record(state=state)
        for stimulus in incident:
            record.add(stimulus)
        save_record(record, folder / "incident.jsonl")
        loaded = load_record(folder / "incident.jsonl")
        assert (loaded.state, tuple(loaded.stimuli)) == (state, tuple(incident))
        assert list(replay(folder / "incident.jsonl", rules)) == told(incident, rules, state)

    check()


@given(stories.stimuli(), stories.rules)
def test_an_attempt_is_never_too_much(stimuli: list[Stimulus], rules: Rules) -> None:
    """Nobody is asked for more than he has, below his level, while another attempt runs, or when only observing."""
    state = State()
    for stimulus in stimuli:
        decision = advance(state, stimulus, rules)
        for action in decision.actions:
            if isinstance(action, Attempt) and action.step.generation is None:
                _check_attempt(state, decision.state, stimulus, action, rules)
        state = decision.state


def _check_attempt(before: State, after: State, stimulus: Stimulus, attempt: Action, rules: Rules) -> None:
    assert isinstance(attempt, Attempt)
    step = attempt.step
    assert rules.mode == "act"
    assert before.step is None
    assert after.step == step
    offers = [offer for offer in getattr(stimulus, "offers", ()) if offer.name == step.name]
    assert offers, "only who was offered is asked"
    assert step.wanted_bytes > 0
    if before.account is not None and step.name in before.account.left:
        return  # it settles another's account: what is missing there is asked
    sizes = [offer.size_bytes for offer in offers]
    assert any(size is None or step.wanted_bytes <= size for size in sizes)
    if before.ask is None:
        assert any(max(offer.at, Level.ELEVATED) <= after.stand.level for offer in offers)
        above = after.used_bytes - rules.leave_ratio(Level.ELEVATED) * (after.limit_bytes or 0)
        gap = rules.leave_gap_ratio * (after.limit_bytes or 0)
        assert step.wanted_bytes <= max(rules.ask_min_bytes, above + gap) + 2


@given(stories.stimuli(), stories.rules)
def test_the_incident_adds_up(stimuli: list[Stimulus], rules: Rules) -> None:
    """An incident's counts never fall while it lasts, and each closed one has a verdict and an end."""
    before = State()
    for decision in told(stimuli, rules):
        old, new = before.incident, decision.state.incident
        if old is not None and new is not None and decision.closed is None:
            assert new.attempts >= old.attempts
            assert new.refusals >= old.refusals
            assert new.peak_level >= old.peak_level
            assert new.peak_bytes >= old.peak_bytes
        if decision.closed is not None:
            assert decision.closed.closed_at is not None
            assert decision.closed.closed_at >= decision.closed.opened_at
            assert decision.closed.verdict
        if decision.state.stand.level:
            assert new is not None, "above OK there is an incident"
        before = decision.state


@given(stories.stimuli(), stories.rules)
def test_blindness_ends_with_the_first_good_look(stimuli: list[Stimulus], rules: Rules) -> None:
    """Never latched: whatever came before, one reading and the guard sees; never OK while it is there by accident."""
    states = [State(), *(decision.state for decision in told(stimuli, rules))]
    after = advance(states[-1], Looked(states[-1].at, 960 * MIB, stories.LIMIT, "x"), rules).state
    assert not after.blind
    assert not after.failing
    assert after.stand.level is Level.EMERGENCY
    for state in states:
        if state.blind:
            assert state.stand.level is rules.blind_level


def test_replaying_under_other_rules_is_allowed() -> None:
    """What would have happened with another ladder: the same stimuli, other decisions."""
    record = Record(state=State(), stimuli=[Looked(1.0, 820 * MIB, stories.LIMIT, "x")])
    strict = replace(Rules(), elevated_ratio=0.5, collect_ratio=0.55, warning_ratio=0.6, critical_ratio=0.8)
    levels = [decision.state.stand.level for rules in (Rules(), strict) for decision in replay(record, rules)]
    assert levels == [Level.WARNING, Level.CRITICAL]
