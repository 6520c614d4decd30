"""The machine: ``advance(state, stimulus, rules) -> Decision``, the only place that decides.

Pure: the same state, stimulus and rules always give the same decision, so a recorded incident can be replayed.
Every outside fact comes in as a stimulus, and every stimulus in every state gives a decision.
"""

from __future__ import annotations

from memguard._core import incident as incidents
from memguard._core.accounts import book, close_account, settles
from memguard._core.forecast import observe, pace_s, rebase
from memguard._core.ladder import Stand, judge
from memguard._core.patience import Duty
from memguard._core.planner import enough, goal_bytes, plan, pressing, settle
from memguard._core.state import Ask, Decision, State, event
from memguard._core.stimuli import (
    Asked,
    Attempt,
    Due,
    Failed,
    Looked,
    Overdue,
    Refused,
    Relieved,
    Starved,
    Stayed,
    Step,
    Survey,
    Surveyed,
    Weighed,
)
from memguard.model import Incident, Level
from memguard.units import format_bytes, format_seconds
from memguard.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from memguard._core.patience import Patience
    from memguard._core.stimuli import Stimulus
    from memguard.model import Event
    from memguard.rules import Rules

__all__ = ["advance"]

# After a survey in vain, holders are asked again this much later: sizes change quickly, asking costs microseconds.
_SURVEY_AGAIN_S = 0.05
# Records of holders that left are kept for a while, since some come back under their name.
_LEFT_AT_MOST = 64
# When observing only, one plan a second is told, not one a tick.
_OBSERVE_AGAIN_S = 1.0


def advance(state: State, stimulus: Stimulus, rules: Rules) -> Decision:
    """What to do about one stimulus.

    Time never runs backwards: an instant earlier than the state's counts as the state's.
    """
    at = stimulus.at if stimulus.at > state.at else state.at
    if state.duty is not None and not state.stand.level and type(stimulus) is Looked:
        return _looked(state, stimulus, at, rules)  # the calm tick, which must cost next to nothing
    duty = state.duty or Duty(rules.gc_burst_s, at)
    state = replace(state, at=at, duty=duty.filled(at, rules))
    return _ON[type(stimulus)](state, stimulus, at, rules)


def _looked(state: State, look: Looked, at: float, rules: Rules) -> Decision:
    used, limit = look.used_bytes, look.limit_bytes
    stand = judge(state.stand, used / limit if limit else 0.0, at, rules)
    growth = observe(state.growth, at, used, look.source, relieving=state.step is not None)
    new = State(
        at=at,
        used_bytes=used,
        limit_bytes=limit,
        stand=stand,
        growth=growth,
        sight_at=at,
        failing=False,
        failure_told_at=state.failure_told_at,
        blind=False,
        patience=state.patience,
        duty=state.duty,
        settlers=state.settlers,
        stallers=state.stallers,
        sizes=state.sizes,
        account=state.account,
        step=state.step,
        quiet_until=state.quiet_until,
        ask=state.ask,
        incident=state.incident,
        exhausted=state.exhausted,
        stuck_at=None if state.stuck_at is None or stand.level < Level.WARNING else state.stuck_at,
        held_bytes=state.held_bytes,
        leaving=state.leaving,
        stay_until=state.stay_until,
        stay_told=state.stay_told,
    )
    idle = state.incident is None and state.account is None
    if idle and not stand.level and stand is state.stand and not state.failing:
        return Decision(new, (), (), pace_s(growth, used, limit, rules))
    events = []
    if state.blind:
        events.append(event(at, "guard.sighted", "readings work again"))
        new = _missed(new, at - (state.sight_at or at))
    return _consider(_mark_level(state, new, events), events, rules)


def _failed(state: State, failure: Failed, at: float, rules: Rules) -> Decision:
    sight_at = at if state.sight_at is None else state.sight_at
    events = []
    told_at = state.failure_told_at
    if told_at is None or at - told_at >= rules.record_interval_s:
        told_at = at
        events.append(event(at, "probe.failed", f"memory cannot be read: {failure.error}", error=failure.error))
    new = replace(state, failing=True, sight_at=sight_at, failure_told_at=told_at)
    level, stand = rules.blind_level, state.stand
    # Being blind may lower the level; no sooner than anything else may.
    dwelt = level >= stand.level or at - stand.held_at >= rules.dwell_s
    if not state.blind and dwelt and at - sight_at >= rules.blind_after_s:
        text = f"blind: no reading for {format_seconds(at - sight_at)}; behaving as at {level.name}"
        events.append(event(at, "guard.blind", text, level=level.name))
        stand = stand if stand.level is level else Stand(level, at, None)
        new = replace(new, blind=True, stand=stand, account=None, ask=None)
        new = _mark_level(state, new, events)
    return Decision(new, (), tuple(events), rules.pace_max_s if new.blind else _pace(new, rules))


def _starved(state: State, starved: Starved, at: float, rules: Rules) -> Decision:
    running = ", ".join(starved.running) or "no admitted work"
    text = f"the guard could not run for {format_seconds(starved.gap_s)}; running then: {running}"
    told = event(at, "guard.starved", text, gap_s=starved.gap_s, running=running)
    # What nobody saw was not calm: the dwell starts anew.
    state = replace(_missed(state, starved.gap_s), stand=replace(state.stand, calm_at=None))
    return Decision(state, (), (told,), _pace(state, rules))


def _missed(state: State, seconds: float) -> State:
    """Note in the incident for how long nobody looked."""
    incident = state.incident
    if incident is None:
        return state
    return replace(state, incident=replace(incident, blind_s=incident.blind_s + seconds))


def _refused(state: State, refused: Refused, at: float, rules: Rules) -> Decision:
    if state.incident is not None:
        incident = replace(state.incident, refusals=state.incident.refusals + refused.count)
        state = replace(state, incident=incident)
    events: list[Event] = []
    if refused.count:
        text = f"{refused.count} pieces of work refused at {state.stand.level.name}"
        events.append(event(at, "admission.refused", text, count=refused.count, level=state.stand.level.name))
    if not refused.short_bytes or state.ask is not None or state.blind or state.limit_bytes is None:
        return Decision(state, (), tuple(events), _pace(state, rules))
    # Below the rungs nobody sheds: without this, work that a cache leaves no room for would be refused for ever.
    target_bytes = max(0, state.used_bytes - refused.short_bytes)
    ask = Ask(target_bytes=target_bytes, reason="work met no room", level=Level.WARNING)
    return _consider(replace(_opened(state, ask.reason, events), ask=ask), events, rules)


def _opened(state: State, reason: str, events: list[Event]) -> State:
    """An incident for a relief that no level asks for, where there is none."""
    at, incident = state.at, state.incident
    if incident is None:
        incident = Incident(opened_at=at, reason=reason, limit_bytes=state.limit_bytes)
        events.append(event(at, "incident.opened", f"relief: {reason}", level=state.stand.level.name))
    return replace(state, incident=incidents.seen(incident, state.stand.level, state.used_bytes, state.limit_bytes))


def _surveyed(state: State, survey: Surveyed, at: float, rules: Rules) -> Decision:
    ranked = sorted((offer for offer in survey.offers if offer.settles), key=lambda offer: offer.stalls)
    state = replace(
        state,
        settlers=tuple(offer.name for offer in ranked),
        stallers=frozenset(offer.name for offer in survey.offers if offer.stalls),
        sizes={offer.name: offer.size_bytes for offer in survey.offers},
        patience=_known(state, survey),
    )
    events: list[Event] = []
    if state.step is not None or state.blind:
        return Decision(state, (), (), _pace(state, rules))
    if state.ask is not None and not enough(survey.offers, state):
        state = replace(state, ask=None)
    step = settle(survey.offers, state, at, rules)
    if step is not None and state.account is not None:
        left = state.account.left[state.account.left.index(step.name) + 1 :]
        state = replace(state, account=replace(state.account, left=left))
    else:
        state = close_account(state, at, events, rules)
        step = plan(survey.offers, state, at, rules)
    if step is None:
        return _nobody(state, at, events, rules)
    if rules.mode == "observe":
        text = f"would ask {step.name} for {format_bytes(step.wanted_bytes)} (mode 'observe')"
        events.append(event(at, "relief.planned", text, name=step.name, wanted_bytes=step.wanted_bytes))
        state = replace(state, quiet_until=at + _OBSERVE_AGAIN_S, ask=None)
        return Decision(state, (), tuple(events), _pace(state, rules))
    return _attempt(state, step, events, rules)


def _known(state: State, survey: Surveyed) -> Mapping[str, Patience]:
    """The records, without those of holders that left long ago."""
    if len(state.patience) <= _LEFT_AT_MOST + len(survey.offers):
        return state.patience
    names = {offer.name for offer in survey.offers}
    return {name: record for name, record in state.patience.items() if name in names}


def _nobody(state: State, at: float, events: list[Event], rules: Rules) -> Decision:
    """Nobody may be asked now: say so once, ask again soon."""
    state = replace(state, quiet_until=at + _SURVEY_AGAIN_S)
    if state.ask is not None:
        return _consider(replace(state, ask=None), events, rules)
    goal = goal_bytes(state, state.stand.level, rules)
    stuck = state.stand.level >= Level.WARNING and goal is not None and state.used_bytes > goal
    if stuck and not state.exhausted:
        text = (
            f"{format_bytes(state.used_bytes)} of {format_bytes(state.limit_bytes or 0)} used and nothing left "
            "to shed now: every holder is empty or was useless of late"
        )
        events.append(event(at, "relief.exhausted", text, used_bytes=state.used_bytes))
        state = replace(state, exhausted=True)
    return Decision(state, (), tuple(events), _pace(state, rules))


def _relieved(state: State, done: Relieved, at: float, rules: Rules) -> Decision:
    relief = done.relief
    expected = state.step is not None and state.step.name == relief.name
    # One by hand, or back too late, has stopped the process too.
    stalls = relief.name in state.stallers or (state.step is not None and state.step.stalls and expected)
    if stalls and state.duty is not None:
        state = replace(state, duty=state.duty.spent(relief.cost_s))
    events: list[Event] = []
    if relief.error:
        text = f"{relief.name} failed: {relief.error}"
        events.append(event(at, "relief.failed", text, name=relief.name, error=relief.error))
    if relief.after_bytes <= 0:  # the probe failed: that is nobody's fault but the probe's
        return _consider(_unmeasured(state, relief.name, at) if expected else state, events, rules)
    own = not settles(state, relief.name)
    record = state.patience_of(relief.name).learned(relief.bought_bytes, relief.cost_s, own=own)
    new = replace(
        state,
        patience={**state.patience, relief.name: record},
        step=None if expected else state.step,
        incident=None if state.incident is None else incidents.relieved(state.incident, relief),
    )
    # One by hand comes in late: a look may have seen more since.
    if relief.at >= state.growth.at:
        growth = rebase(state.growth, at, relief.after_bytes)
        new = replace(new, used_bytes=relief.after_bytes, growth=growth, sight_at=at)
        if not new.blind:
            new = replace(new, stand=judge(new.stand, new.pressure, at, rules))
    if expected:  # one by hand, or back too late, is counted and not judged: nobody planned it
        new = book(new, relief, at, events, rules)
    return _consider(_mark_level(state, new, events), events, rules)


def _unmeasured(state: State, name: str, at: float) -> State:
    ask = None if state.ask is None else replace(state.ask, failed=state.ask.failed | {name})
    return replace(state, step=None, ask=ask, quiet_until=at + _SURVEY_AGAIN_S)


def _overdue(state: State, overdue: Overdue, at: float, rules: Rules) -> Decision:
    if state.step is None or state.step.name != overdue.name:
        return Decision(state, (), (), _pace(state, rules))
    name = overdue.name
    patience = state.patience_of(name).failed(at, state.sizes.get(name), rules)
    text = f"{name} has not come back after {format_seconds(rules.attempt_s)}: going on without it"
    ask = None if state.ask is None else replace(state.ask, failed=state.ask.failed | {name})
    state = replace(state, step=None, patience={**state.patience, name: patience}, ask=ask)
    return _consider(state, [event(at, "relief.overdue", text, name=name)], rules)


def _asked(state: State, asked: Asked, at: float, rules: Rules) -> Decision:
    events: list[Event] = []
    state = _opened(state, asked.reason, events)
    # Blind, nobody could say when to stop.
    ask = None if state.blind else Ask(target_bytes=asked.target_bytes, reason=asked.reason)
    return _consider(replace(state, ask=ask, quiet_until=at), events, rules)


def _due(state: State, due: Due, at: float, rules: Rules) -> Decision:
    afford = state.duty is not None and state.duty.tokens_s > 0.0
    if state.step is not None or state.account is not None or state.blind or not afford or rules.mode == "observe":
        return Decision(state, (), (), _pace(state, rules))
    step = Step(name=due.name, wanted_bytes=0, until=at + rules.attempt_s, stalls=True, generation=due.generation)
    told = event(at, "gc.due", f"a collection of generation {due.generation} is due", generation=due.generation)
    return _attempt(state, step, [told], rules)


def _weighed(state: State, found: Weighed, _at: float, rules: Rules) -> Decision:
    from memguard._core.recycling import weigh  # noqa: PLC0415 - a calm service never comes here

    state, handover, events = weigh(state, found, rules)
    return Decision(state, () if handover is None else (handover,), events, _pace(state, rules))


def _stayed(state: State, stayed: Stayed, _at: float, rules: Rules) -> Decision:
    state = replace(state, leaving=False, stay_until=stayed.until)
    return Decision(state, (), (), _pace(state, rules))


def _attempt(state: State, step: Step, events: list[Event], rules: Rules) -> Decision:
    return Decision(replace(state, step=step), (Attempt(step=step),), tuple(events), _pace(state, rules))


def _consider(state: State, events: list[Event], rules: Rules) -> Decision:
    """After any change: end an ask that is met, survey when memory should come down, close what is over."""
    at, incident, closed = state.at, state.incident, None
    if state.ask is not None and state.used_bytes <= state.ask.target_bytes and state.account is None:
        state = replace(state, ask=None)
    actions: tuple[Survey, ...] = ()
    waiting = state.step is not None or at < state.quiet_until or state.blind
    if not waiting and (state.account is not None or pressing(state, rules)):
        actions = (Survey(),)
    idle = state.ask is None and state.step is None and state.account is None
    if incident is not None and idle and not state.stand.level and not state.blind:
        closed = incidents.close(incident, at, exhausted=state.exhausted)
        events.append(event(at, "incident.closed", closed.verdict, peak_bytes=closed.peak_bytes))
        state = replace(state, incident=None, exhausted=False, held_bytes=0)
    return Decision(state, actions, tuple(events), _pace(state, rules), closed)


def _mark_level(before: State, after: State, events: list[Event]) -> State:
    """Tell a change of level; open or extend the incident."""
    old, new, at = before.stand.level, after.stand.level, after.at
    if old != new:
        used, limit = format_bytes(after.used_bytes), format_bytes(after.limit_bytes or 0)
        text = f"{old.name} → {new.name}: {used} of {limit} used"
        events.append(event(at, "level.changed", text, old=old.name, level=new.name, used_bytes=after.used_bytes))
    incident = after.incident
    if incident is None and new > Level.OK:
        incident = Incident(opened_at=at, limit_bytes=after.limit_bytes)
        events.append(event(at, "incident.opened", f"memory pressure: {new.name}", level=new.name))
    if incident is not None:
        incident = incidents.seen(incident, new, after.used_bytes, after.limit_bytes)
    return after if incident is after.incident else replace(after, incident=incident)


def _pace(state: State, rules: Rules) -> float:
    return pace_s(state.growth, state.used_bytes, state.limit_bytes, rules)


_ON: dict[type, Callable[[State, Any, float, Rules], Decision]] = {
    Looked: _looked,
    Failed: _failed,
    Starved: _starved,
    Refused: _refused,
    Surveyed: _surveyed,
    Relieved: _relieved,
    Overdue: _overdue,
    Asked: _asked,
    Due: _due,
    Weighed: _weighed,
    Stayed: _stayed,
}
