"""The machine by hand-made stories: one stimulus, one decision."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from memguard._core.ladder import Stand
from memguard._core.machine import advance
from memguard._core.patience import Duty
from memguard._core.state import Decision, State
from memguard._core.stimuli import (
    Asked,
    Attempt,
    Due,
    Failed,
    Looked,
    Offer,
    Overdue,
    Refused,
    Relieved,
    Starved,
    Survey,
    Surveyed,
)
from memguard.model import Level, Relief
from memguard.rules import Rules
from memguard.telemetry import EVENTS
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard._core.stimuli import Step, Stimulus

RULES = Rules()
LIMIT = 1000 * MIB
CACHE = Offer(name="cache", cost="cheap", at=Level.WARNING, size_bytes=400 * MIB)
TRIM = Offer(name="trim", cost="free", at=Level.ELEVATED, size_bytes=None, settles=True)
COLLECT = Offer(name="collect", cost="free", at=Level.WARNING, size_bytes=None, settles=True, stalls=True)


class Story:
    """A machine that is told one stimulus after another."""

    def __init__(self, rules: Rules = RULES, state: State | None = None) -> None:
        self.rules = rules
        self.state = state or State()
        self.names: list[str] = []
        self.texts: list[str] = []

    def tell(self, stimulus: Stimulus) -> Decision:
        decision = advance(self.state, stimulus, self.rules)
        self.state = decision.state
        for event in decision.events:
            assert event.name in EVENTS
            self.names.append(event.name)
            self.texts.append(event.text)
        return decision

    def look(self, at: float, used_mib: float, limit_bytes: int | None = LIMIT) -> Decision:
        return self.tell(Looked(at, int(used_mib * MIB), limit_bytes, "x"))

    def survey(self, at: float, *offers: Offer) -> Step | None:
        """Answer a survey; the step that is decided on."""
        decision = self.tell(Surveyed(at=at, offers=offers))
        steps = [action.step for action in decision.actions if isinstance(action, Attempt)]
        return steps[0] if steps else None

    def relieve(self, at: float, step: Step, bought_mib: float, *, claimed_mib: float | None = None) -> Decision:
        before = self.state.used_bytes
        return self.tell(
            Relieved(at=at, relief=_relief(step.name, at, before, bought_mib, claimed_mib, step.wanted_bytes))
        )


def _relief(  # noqa: PLR0917 - a row
    name: str,
    at: float,
    before: int,
    bought_mib: float,
    claimed_mib: float | None = None,
    wanted: int = 0,
    cost_s: float = 0.01,
) -> Relief:
    return Relief(
        name=name, at=at, wanted_bytes=wanted, claimed_bytes=None if claimed_mib is None else int(claimed_mib * MIB),
        before_bytes=before, after_bytes=before - int(bought_mib * MIB), cost_s=cost_s,
    )  # fmt: skip


def _wants_survey(decision: Decision) -> bool:
    return any(isinstance(action, Survey) for action in decision.actions)


def _pressed(used_mib: float = 820, *, at: float = 10.0) -> Story:
    """At this usage, with a first calm look a minute before."""
    story = Story()
    story.look(at - 60.0, 100)
    story.look(at, used_mib)
    return story


def _begun(story: Story, at: float, *offers: Offer) -> Step:
    step = story.survey(at, *offers)
    assert step is not None
    return step


def test_calm_looks_do_nothing() -> None:
    """Below the first rung there is no event, no action, and a long sleep."""
    story = Story()
    for number in range(5):
        decision = story.look(number * 0.25, 100)
        assert (decision.events, decision.actions) == ((), ())
        assert decision.sleep_s > 0.1
    assert story.state.incident is None


def test_without_a_limit_nothing_is_ever_pressing() -> None:
    """Usage alone is no pressure."""
    story = Story()
    decision = story.look(1.0, 10_000, None)
    assert (story.state.pressure, story.state.stand.level, decision.actions) == (0.0, Level.OK, ())


def test_a_climb_opens_an_incident_and_surveys() -> None:
    """Pressure that reaches a rung is told at once, and whoever holds memory is asked what he has."""
    story = _pressed()
    assert story.names == ["level.changed", "incident.opened"]
    assert _wants_survey(story.look(10.01, 820))
    assert story.state.incident is not None
    assert story.state.incident.peak_level is Level.WARNING


def test_one_attempt_at_a_time() -> None:
    """While an attempt is under way, neither a look nor a survey starts another."""
    story = _pressed()
    _begun(story, 10.0, CACHE)
    assert not _wants_survey(story.look(10.1, 900))
    assert story.survey(10.2, CACHE) is None


def test_a_relief_that_suffices_ends_in_ok() -> None:
    """Asked for what is missing, paid, down below the leave level: after the dwell the incident is over."""
    story = _pressed()
    step = _begun(story, 10.0, CACHE)
    assert step.name == "cache"
    story.relieve(10.1, step, 250)
    assert "relief.bought" in story.names
    decision = story.look(12.2, 570)
    assert story.state.stand.level is Level.OK
    assert decision.closed is not None
    assert decision.closed.bought_bytes == 250 * MIB
    assert "1 attempts bought 250.0 MiB" in decision.closed.verdict
    assert story.state.incident is None


def test_a_useless_attempt_backs_off() -> None:
    """Under 5 % of what was asked: left alone for a second, and the exhaustion is told once."""
    story = _pressed()
    step = _begun(story, 10.0, CACHE)
    assert _wants_survey(story.relieve(10.1, step, 0))
    assert story.survey(10.1, CACHE) is None
    assert story.names[-2:] == ["relief.useless", "relief.exhausted"]
    story.look(10.5, 820)
    assert story.survey(10.5, CACHE) is None
    assert story.names.count("relief.exhausted") == 1
    story.look(11.2, 820)
    assert story.survey(11.2, CACHE) is not None


def test_after_a_survey_in_vain_there_is_a_pause() -> None:
    """With nobody to ask, holders are surveyed every 50 ms and not on every look."""
    story = _pressed()
    story.survey(10.0)
    assert not _wants_survey(story.look(10.02, 820))
    assert _wants_survey(story.look(10.06, 820))


def test_released_but_not_returned_is_settled_by_a_trim() -> None:
    """What a holder claims to have released and the probe does not see is trimmed before anybody is judged."""
    story = _pressed()
    step = _begun(story, 10.0, CACHE, replace(TRIM, at=Level.EMERGENCY))
    assert step.name == "cache"
    assert _wants_survey(story.relieve(10.1, step, 0, claimed_mib=100))
    assert "relief.useless" not in story.names
    settler = _begun(story, 10.1, CACHE, TRIM)
    assert settler.name == "trim"
    assert _wants_survey(story.relieve(10.2, settler, 95))
    story.survey(10.2, CACHE, TRIM)
    assert "relief.bought" in story.names
    assert story.state.patience["cache"].bought_bytes == 95 * MIB
    assert story.state.patience["cache"].failures == 0


def test_a_liar_is_found_out_after_settling() -> None:
    """When neither trim nor collection finds what was claimed, the claim was worth nothing."""
    story = _pressed()
    step = _begun(story, 10.0, CACHE, replace(TRIM, at=Level.EMERGENCY), replace(COLLECT, at=Level.EMERGENCY))
    at = 10.0
    for _ in range(6):
        at += 0.1
        story.relieve(at, step, 0, claimed_mib=100 if step.name == "cache" else None)
        following = story.survey(at, replace(CACHE, size_bytes=0), TRIM, COLLECT)
        if following is None or story.state.account is None:
            break
        step = following
    assert "relief.fragmented" in story.names
    assert story.state.patience["cache"].failures == 1


def test_an_account_left_open_at_ok_is_settled() -> None:
    """A collection at OK may leave an account open in a pause between surveys: the next looks settle it."""
    story = Story()
    story.look(1.0, 100)
    story.survey(1.0, TRIM, COLLECT)
    story.state = replace(story.state, quiet_until=5.0)
    (attempt,) = story.tell(Due(at=1.1, name="collect", generation=2)).actions
    assert isinstance(attempt, Attempt)
    assert not _wants_survey(story.relieve(1.2, attempt.step, 0, claimed_mib=50))
    assert story.state.account is not None
    assert _wants_survey(story.look(5.1, 100))
    assert story.survey(5.1, TRIM, COLLECT) is not None


def test_a_relief_that_could_not_be_measured_is_no_ok() -> None:
    """An attempt whose readings failed reports 0 bytes: usage stays what it was, and the level with it."""
    story = _pressed(960)
    step = _begun(story, 10.0, CACHE)
    broken = Relief(
        name="cache", at=10.1, wanted_bytes=step.wanted_bytes, claimed_bytes=None, before_bytes=0, after_bytes=0,
        cost_s=0.0, error="not tried, since memory can't be read",
    )  # fmt: skip
    story.tell(Relieved(at=10.1, relief=broken))
    assert story.state.used_bytes == 960 * MIB
    assert "relief.failed" in story.names
    story.tell(Asked(at=10.2, target_bytes=100 * MIB, reason="x"))
    assert story.state.ask is not None


def test_work_that_met_no_room_asks_a_cache_for_what_is_missing() -> None:
    """Below the rungs a cache is asked for just that, once, and the incident says why; then it is over."""
    story = _pressed(600)
    assert story.state.stand.level is Level.OK
    assert _wants_survey(story.tell(Refused(at=10.1, count=2, short_bytes=50 * MIB)))
    assert story.state.incident is not None
    assert story.state.incident.reason == "work met no room"
    step = _begun(story, 10.1, CACHE, TRIM)
    while step.name != "cache":  # what is free is tried first
        story.relieve(10.2, step, 0)
        step = _begun(story, 10.2, CACHE, TRIM)
    assert 50 * MIB <= step.wanted_bytes <= 70 * MIB  # and what arrives meanwhile
    story.relieve(10.3, step, 65, claimed_mib=65)
    assert story.state.ask is None
    assert story.names[-1] == "incident.closed"


def test_nobody_is_asked_for_work_that_would_not_fit_anyway() -> None:
    """Neither when the caches together hold too little, nor of those that are left alone until CRITICAL."""
    late = Offer(name="agents", cost="dear", at=Level.CRITICAL, size_bytes=400 * MIB)
    story = _pressed(600)
    story.tell(Refused(at=10.1, count=1, short_bytes=450 * MIB))
    assert story.survey(10.1, CACHE, late) is None
    assert story.state.ask is None


def test_an_older_reading_does_not_overwrite_a_newer() -> None:
    """A relief by hand that comes in after a look leaves that look's usage and level."""
    story = _pressed(820)
    story.look(10.2, 960)
    story.tell(Relieved(at=10.1, relief=_relief("trim", 10.1, 820 * MIB, 300)))
    assert story.state.used_bytes == 960 * MIB
    assert story.state.stand.level is Level.EMERGENCY


def test_a_failure_is_told_once_and_keeps_the_level() -> None:
    """For blind_after_s the last level holds; the looks go on at the pace of the last usage."""
    story = _pressed(930)
    decision = story.tell(Failed(at=10.1, error="EIO"))
    assert decision.sleep_s < 0.05
    for at in (10.5, 11.0, 11.9):
        story.tell(Failed(at=at, error="EIO"))
        assert story.state.stand.level is Level.CRITICAL
    assert story.names.count("probe.failed") == 1
    assert not story.state.blind


def test_blind_then_sighted() -> None:
    """After blind_after_s the rule's level holds, until readings work again: then pressure decides."""
    story = _pressed(100)
    story.tell(Failed(at=11.0, error="EIO"))
    story.tell(Failed(at=12.1, error="EIO"))
    assert story.state.blind
    assert story.state.stand.level is Level.WARNING
    assert story.names[-3:] == ["guard.blind", "level.changed", "incident.opened"]
    story.look(12.5, 100)
    assert not story.state.blind
    assert story.names[-1] == "guard.sighted"
    story.look(13.0, 100)
    decision = story.look(15.1, 100)
    assert story.state.stand.level is Level.OK
    assert decision.closed is not None
    assert "could not look for" in decision.closed.verdict


def test_blind_from_the_start() -> None:
    """A probe that never works makes the guard blind too: never OK by accident."""
    story = Story()
    for at in (1.0, 2.0, 3.1):
        story.tell(Failed(at=at, error="EIO"))
    assert story.state.stand.level is Level.WARNING


def test_blind_at_ok_closes_nothing() -> None:
    """With blind_level OK an incident stays open: nobody has seen that it is over."""
    story = Story(Rules(blind_level=Level.OK))
    story.look(1.0, 930)
    for at in (2.0, 3.0, 4.0):
        story.tell(Failed(at=at, error="EIO"))
    assert story.state.blind
    story.tell(Relieved(at=4.1, relief=_relief("trim", 4.1, 0, 0)))
    assert story.state.incident is not None


def test_being_blind_does_not_fall_before_the_dwell() -> None:
    """A guard that goes blind a moment after a climb keeps the climb for as long as any other."""
    story = Story(Rules(blind_after_s=0.5))
    story.look(1.0, 960)
    for at, level in ((1.6, Level.EMERGENCY), (2.9, Level.EMERGENCY), (3.1, Level.WARNING)):
        story.tell(Failed(at=at, error="EIO"))
        assert story.state.stand.level is level


def test_blind_nobody_is_asked() -> None:
    """Without sight there is no telling when to stop: no plan, no policy's collection, no ask by hand."""
    story = Story()
    story.look(0.5, 100)
    for at in (1.0, 4.0):
        story.tell(Failed(at=at, error="EIO"))
    assert story.state.blind
    assert story.survey(4.1, CACHE) is None
    assert story.tell(Due(at=4.2, name="collect", generation=2)).actions == ()
    assert story.tell(Asked(at=4.3, target_bytes=0, reason="x")).actions == ()
    assert story.state.ask is None


def test_going_blind_keeps_the_attempt_under_way() -> None:
    """An attempt still runs when the guard goes blind; nobody else is asked until it is back or overdue."""
    story = _pressed(820)
    step = _begun(story, 10.0, CACHE)
    for at in (10.5, 12.6):
        story.tell(Failed(at=at, error="EIO"))
    assert story.state.blind
    story.look(12.7, 820)
    assert story.survey(12.7, CACHE) is None
    assert _wants_survey(story.relieve(13.0, step, 5))


def test_starvation_names_who_ran() -> None:
    """The event says for how long and who; the incident counts the time."""
    story = _pressed()
    story.tell(Starved(at=12.0, gap_s=1.5, running=("POST /agents", "embed")))
    assert "1.5 s; running then: POST /agents, embed" in story.texts[-1]
    assert story.state.incident is not None
    assert story.state.incident.blind_s == 1.5
    story.tell(Starved(at=13.0, gap_s=0.2))
    assert "no admitted work" in story.texts[-1]


def test_what_nobody_saw_was_not_calm() -> None:
    """After a gap the dwell starts anew: pressure may have been anything meanwhile."""
    story = _pressed()
    story.look(11.0, 100)
    story.tell(Starved(at=21.0, gap_s=9.9))
    for at, level in ((21.0, Level.WARNING), (22.9, Level.WARNING), (23.1, Level.OK)):
        story.look(at, 100)
        assert story.state.stand.level is level


def test_refusals_are_counted() -> None:
    """In the incident and in an event."""
    story = _pressed(930)
    story.tell(Refused(at=10.1, count=3))
    assert story.names[-1] == "admission.refused"
    assert story.state.incident is not None
    assert story.state.incident.refusals == 3


def test_an_overdue_attempt_is_given_up() -> None:
    """The others get their turn; when it comes back late it is counted and not judged."""
    story = _pressed()
    step = _begun(story, 10.0, CACHE)
    assert _wants_survey(story.tell(Overdue(at=15.0, name="cache")))
    assert story.state.patience["cache"].failures == 1
    other = _begun(story, 15.0, replace(CACHE, name="other"), CACHE)
    assert other.name == "other"
    story.relieve(16.0, step, 100)
    assert story.state.step == other
    assert story.state.patience["cache"].attempts == 1


@pytest.mark.parametrize("name", ["somebody", "cache"])
def test_an_overdue_nobody_is_ignored(name: str) -> None:
    """Overdue for what is not under way changes nothing."""
    story = _pressed()
    decision = story.tell(Overdue(at=10.0, name=name))
    assert (decision.actions, decision.events) == ((), ())
    assert not story.state.patience


def test_asked_by_hand_at_ok() -> None:
    """Holders are asked down to the target, whatever the level; then the incident closes."""
    story = _pressed(500)
    assert _wants_survey(story.tell(Asked(at=10.1, target_bytes=200 * MIB, reason="deploy")))
    step = _begun(story, 10.1, CACHE)
    assert step.wanted_bytes >= 300 * MIB
    decision = story.relieve(10.2, step, 300)
    assert decision.closed is not None
    assert decision.closed.reason == "deploy"
    assert story.state.ask is None
    assert story.names.count("incident.opened") == story.names.count("incident.closed") == 1


def test_asked_for_what_cannot_be() -> None:
    """When nobody can help, the ask ends instead of going on for ever."""
    story = _pressed(500)
    story.tell(Asked(at=10.1, target_bytes=0, reason="x"))
    assert story.survey(10.1) is None
    assert story.state.ask is None
    assert story.names[-1] == "incident.closed"


def test_observing_plans_and_does_nothing() -> None:
    """In mode 'observe' one plan a second is told, and no attempt is made, by hand neither."""
    story = Story(Rules(mode="observe"))
    story.look(10.0, 820)
    assert story.survey(10.0, CACHE) is None
    assert story.names[-1] == "relief.planned"
    assert not _wants_survey(story.look(10.5, 820))
    assert _wants_survey(story.look(11.1, 820))
    story.tell(Asked(at=12.0, target_bytes=0, reason="x"))
    assert story.survey(12.0, CACHE) is None
    assert story.state.ask is None
    assert story.tell(Due(at=12.1, name="collect", generation=2)).actions == ()


def test_a_policy_gets_its_collection_within_the_duty() -> None:
    """A collection is started and charged; in debt the next one is not."""
    story = Story(state=State(duty=Duty(1.0, 0.0)))
    story.look(1.0, 100)
    (attempt,) = story.tell(Due(at=1.0, name="collect", generation=2)).actions
    assert isinstance(attempt, Attempt)
    assert (attempt.step.generation, attempt.step.stalls) == (2, True)
    assert story.tell(Due(at=1.1, name="collect", generation=2)).actions == ()
    story.tell(Relieved(at=4.0, relief=_relief("collect", 4.0, 100 * MIB, 0, cost_s=3.0)))
    assert story.tell(Due(at=4.1, name="collect", generation=2)).actions == ()
    assert story.state.duty is not None
    assert story.state.duty.tokens_s < -1.9


@pytest.mark.parametrize("late", [False, True])
def test_every_stop_of_the_process_is_charged(late: bool) -> None:
    """A collection by hand, and one that came back after it was given up, stopped the process too."""
    story = _pressed()
    story.survey(10.0, replace(COLLECT, at=Level.EMERGENCY), TRIM)
    if late:
        story.state = replace(story.state, step=None)
    story.tell(Relieved(at=20.0, relief=_relief("collect", 20.0, 820 * MIB, 0, cost_s=6.0)))
    assert story.state.duty is not None
    assert story.state.duty.tokens_s <= -4.9


def test_time_never_runs_backwards() -> None:
    """An instant before the state's own counts as the state's."""
    story = _pressed()
    story.look(3.0, 820)
    assert story.state.at == 10.0


def test_holders_that_left_are_forgotten() -> None:
    """A service that registers a thousand short-lived holders does not grow by their records."""
    story, begun = _pressed(), 0
    for number in range(1000):
        step = story.survey(10.0 + number, replace(CACHE, name=f"cache#{number}"))
        if step is not None:
            begun += 1
            story.relieve(10.0 + number, step, 0)
    assert begun == 1000
    assert len(story.state.patience) < 80


@pytest.mark.parametrize("used_mib", [650, 700, 760, 810, 860, 910, 960, 1100])
def test_the_same_decision_twice(used_mib: int) -> None:
    """Deciding has no memory of its own and no side effect."""
    state = replace(State(), stand=Stand(Level.WARNING, 0.0), duty=Duty(1.0, 0.0))
    look: Sequence[Stimulus] = [Looked(5.0, used_mib * MIB, LIMIT, "x")] * 2
    first, second = (advance(state, stimulus, RULES) for stimulus in look)
    assert first == second
