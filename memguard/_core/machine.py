"""The machine: ``advance(state, stimulus, rules) -> Decision``, the only place that decides.

Pure: the same state, stimulus and rules always give the same decision, so a recorded incident can be replayed.
Every outside fact comes in as a stimulus, and every stimulus in every state gives a decision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memguard._core import incident as incidents
from memguard._core.forecast import observe, pace_s, rebase
from memguard._core.ladder import Stand, judge
from memguard._core.patience import Duty
from memguard._core.planner import goal_bytes, plan, pressing, settle
from memguard._core.state import Account, Ask, Decision, State
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
    Step,
    Survey,
    Surveyed,
)
from memguard.model import Event, Incident, Level, Relief
from memguard.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard._core.stimuli import Stimulus
    from memguard.rules import Rules

__all__ = ["advance"]

# After a survey in vain, holders are asked again this much later: sizes change quickly, asking costs microseconds.
_SURVEY_AGAIN_S = 0.05
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
        blind=False,
        patience=state.patience,
        duty=state.duty,
        settlers=state.settlers,
        sizes=state.sizes,
        account=state.account,
        step=state.step,
        quiet_until=state.quiet_until,
        ask=state.ask,
        incident=state.incident,
        exhausted=state.exhausted,
    )
    if not stand.level and stand is state.stand and not state.failing and state.incident is None:
        return Decision(new, (), (), pace_s(growth, used, limit, rules))
    events = [_event(at, "guard.sighted", "readings work again")] if state.blind else []
    return _consider(_mark_level(state, new, events), events, rules)


def _failed(state: State, failure: Failed, at: float, rules: Rules) -> Decision:
    sight_at = at if state.sight_at is None else state.sight_at
    events = []
    if not state.failing:
        events.append(_event(at, "probe.failed", f"memory cannot be read: {failure.error}", error=failure.error))
    new = replace(state, failing=True, sight_at=sight_at)
    if not state.blind and at - sight_at >= rules.blind_after_s:
        level = rules.blind_level
        text = f"blind: no reading for {format_seconds(at - sight_at)}; behaving as at {level.name}"
        events.append(_event(at, "guard.blind", text, level=level.name))
        new = replace(new, blind=True, stand=Stand(level, at, None), step=None, account=None)
        new = _mark_level(state, new, events)
    return Decision(new, (), tuple(events), rules.pace_max_s)


def _starved(state: State, starved: Starved, at: float, rules: Rules) -> Decision:
    running = ", ".join(starved.running) or "no admitted work"
    text = f"the guard could not run for {format_seconds(starved.gap_s)}; running then: {running}"
    event = _event(at, "guard.starved", text, gap_s=starved.gap_s, running=running)
    if state.incident is not None:
        state = replace(state, incident=replace(state.incident, blind_s=state.incident.blind_s + starved.gap_s))
    return Decision(state, (), (event,), _pace(state, rules))


def _refused(state: State, refused: Refused, at: float, rules: Rules) -> Decision:
    if state.incident is not None:
        incident = replace(state.incident, refusals=state.incident.refusals + refused.count)
        state = replace(state, incident=incident)
    text = f"{refused.count} pieces of work refused at {state.stand.level.name}"
    event = _event(at, "admission.refused", text, count=refused.count, level=state.stand.level.name)
    return Decision(state, (), (event,), _pace(state, rules))


def _surveyed(state: State, survey: Surveyed, at: float, rules: Rules) -> Decision:
    ranked = sorted((offer for offer in survey.offers if offer.settles), key=lambda offer: offer.stalls)
    state = replace(
        state,
        settlers=tuple(offer.name for offer in ranked),
        sizes={offer.name: offer.size_bytes for offer in survey.offers},
    )
    events: list[Event] = []
    if state.step is not None or state.blind:
        return Decision(state, (), (), _pace(state, rules))
    step = settle(survey.offers, state, at, rules)
    if step is not None and state.account is not None:
        left = state.account.left[state.account.left.index(step.name) + 1 :]
        state = replace(state, account=replace(state.account, left=left))
    else:
        state = _close_account(state, at, events, rules)
        step = plan(survey.offers, state, at, rules)
    if step is None:
        return _nobody(state, at, events, rules)
    if rules.mode == "observe":
        text = f"would ask {step.name} for {format_bytes(step.wanted_bytes)} (mode 'observe')"
        events.append(_event(at, "relief.planned", text, name=step.name, wanted_bytes=step.wanted_bytes))
        state = replace(state, quiet_until=at + _OBSERVE_AGAIN_S, ask=None)
        return Decision(state, (), tuple(events), _pace(state, rules))
    return _attempt(state, step, events, rules)


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
        events.append(_event(at, "relief.exhausted", text, used_bytes=state.used_bytes))
        state = replace(state, exhausted=True)
    return Decision(state, (), tuple(events), _pace(state, rules))


def _relieved(state: State, done: Relieved, at: float, rules: Rules) -> Decision:
    relief = done.relief
    expected = state.step is not None and state.step.name == relief.name
    stalls = state.step is not None and state.step.stalls and expected
    own = not _settles(state, relief.name)
    record = state.patience_of(relief.name).learned(relief.bought_bytes, relief.cost_s, own=own)
    new = replace(
        state,
        used_bytes=relief.after_bytes,
        growth=rebase(state.growth, at, relief.after_bytes),
        patience={**state.patience, relief.name: record},
        step=None if expected else state.step,
        incident=None if state.incident is None else incidents.relieved(state.incident, relief),
    )
    if not new.blind:
        new = replace(new, stand=judge(new.stand, new.pressure, at, rules))
    if stalls and new.duty is not None:
        new = replace(new, duty=new.duty.spent(relief.cost_s))
    events: list[Event] = []
    if relief.error:
        text = f"{relief.name} failed: {relief.error}"
        events.append(_event(at, "relief.failed", text, name=relief.name, error=relief.error))
    if expected:  # one by hand, or back too late, is counted and not judged: nobody planned it
        new = _book(new, relief, at, events, rules)
    return _consider(_mark_level(state, new, events), events, rules)


def _book(state: State, relief: Relief, at: float, events: list[Event], rules: Rules) -> State:
    """Judge the attempt, or leave its account open until those who settle have had their try."""
    bought, claimed = relief.bought_bytes, relief.claimed_bytes or 0
    # While the service itself grows, a real relief may measure as nothing: believe so much of the claim.
    allowance = min(int(state.growth.burst * relief.cost_s), max(0, claimed))
    owed = claimed - max(0, bought)
    if _settles(state, relief.name):
        return _settled(state, relief, owed, rules)
    if owed >= rules.ask_min_bytes and not relief.error and state.account is None and state.settlers:
        account = Account(
            name=relief.name,
            wanted_bytes=relief.wanted_bytes,
            claimed_bytes=claimed,
            returned_bytes=max(0, bought),
            allowance_bytes=allowance,
            size_bytes=state.sizes.get(relief.name),
            left=tuple(name for name in state.settlers if name != relief.name),
        )
        return replace(state, account=account)
    size_bytes = state.sizes.get(relief.name)
    return _verdict(state, relief.name, relief.wanted_bytes, bought, allowance, size_bytes, at, events, rules)


def _settles(state: State, name: str) -> bool:
    """Whether this attempt returned to the kernel what another had released."""
    return state.account is not None and name != state.account.name and name in state.settlers


def _settled(state: State, relief: Relief, owed: int, rules: Rules) -> State:
    """Book what a settler returned to the account that is open, and to whoever opened it."""
    account = state.account
    if account is None:
        return state
    credit = max(0, relief.bought_bytes)
    left = account.left
    if owed >= rules.ask_min_bytes and not left:  # a collection freed into the heap: trim once more
        left = tuple(name for name in state.settlers if name not in {relief.name, account.name})[:1]
    patience = {**state.patience, account.name: state.patience_of(account.name).credited(credit)}
    account = replace(account, returned_bytes=account.returned_bytes + credit, left=left)
    return replace(state, patience=patience, account=account)


def _close_account(state: State, at: float, events: list[Event], rules: Rules) -> State:
    """Judge the open account: everybody who could settle it has tried."""
    account = state.account
    if account is None:
        return state
    if account.returned_bytes < account.claimed_bytes / 2:
        text = (
            f"heap fragmented: {account.name} released {format_bytes(account.claimed_bytes)}, "
            f"{format_bytes(account.returned_bytes)} came back to the system"
        )
        events.append(_event(at, "relief.fragmented", text, name=account.name, claimed_bytes=account.claimed_bytes))
    state = replace(state, account=None)
    return _verdict(
        state,
        account.name,
        account.wanted_bytes,
        account.returned_bytes,
        account.allowance_bytes,
        account.size_bytes,
        at,
        events,
        rules,
    )


def _verdict(  # noqa: PLR0913, PLR0917 - the row of one judgement
    state: State,
    name: str,
    wanted: int,
    bought: int,
    allowance: int,
    size_bytes: int | None,
    at: float,
    events: list[Event],
    rules: Rules,
) -> State:
    useful = bought + allowance >= rules.useless_ratio * max(wanted, rules.ask_min_bytes)
    asked = f" of {format_bytes(wanted)} asked" if wanted else ""
    patience = state.patience_of(name)
    if useful:
        patience = patience.paid()
        text = f"{name} bought {format_bytes(bought)}{asked}"
        events.append(_event(at, "relief.bought", text, name=name, bought_bytes=bought, wanted_bytes=wanted))
    else:
        patience = patience.failed(at, size_bytes, rules)
        wait = format_seconds(patience.blocked_until - at)
        text = f"{name} bought {format_bytes(bought)}{asked}: left alone for {wait}"
        events.append(_event(at, "relief.useless", text, name=name, bought_bytes=bought, wanted_bytes=wanted))
    ask = state.ask
    if ask is not None and not useful:
        ask = replace(ask, failed=ask.failed | {name})
    return replace(
        state, patience={**state.patience, name: patience}, ask=ask, exhausted=state.exhausted and not useful
    )


def _overdue(state: State, overdue: Overdue, at: float, rules: Rules) -> Decision:
    if state.step is None or state.step.name != overdue.name:
        return Decision(state, (), (), _pace(state, rules))
    name = overdue.name
    patience = state.patience_of(name).failed(at, state.sizes.get(name), rules)
    text = f"{name} has not come back after {format_seconds(rules.attempt_s)}: going on without it"
    ask = None if state.ask is None else replace(state.ask, failed=state.ask.failed | {name})
    state = replace(state, step=None, patience={**state.patience, name: patience}, ask=ask)
    return _consider(state, [_event(at, "relief.overdue", text, name=name)], rules)


def _asked(state: State, asked: Asked, at: float, rules: Rules) -> Decision:
    incident = state.incident or Incident(opened_at=at, reason=asked.reason, limit_bytes=state.limit_bytes)
    incident = incidents.seen(incident, state.stand.level, state.used_bytes, state.limit_bytes)
    ask = Ask(target_bytes=asked.target_bytes, reason=asked.reason)
    return _consider(replace(state, ask=ask, incident=incident, quiet_until=at), [], rules)


def _due(state: State, due: Due, at: float, rules: Rules) -> Decision:
    afford = state.duty is not None and state.duty.tokens_s > 0.0
    if state.step is not None or state.account is not None or state.blind or not afford or rules.mode == "observe":
        return Decision(state, (), (), _pace(state, rules))
    step = Step(name=due.name, wanted_bytes=0, until=at + rules.attempt_s, stalls=True, generation=due.generation)
    event = _event(at, "gc.due", f"a collection of generation {due.generation} is due", generation=due.generation)
    return _attempt(state, step, [event], rules)


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
    over = not state.stand.level and state.ask is None and state.step is None and state.account is None
    if incident is not None and over:
        closed = incidents.close(incident, at, exhausted=state.exhausted)
        events.append(_event(at, "incident.closed", closed.verdict, peak_bytes=closed.peak_bytes))
        state = replace(state, incident=None, exhausted=False)
    return Decision(state, actions, tuple(events), _pace(state, rules), closed)


def _mark_level(before: State, after: State, events: list[Event]) -> State:
    """Tell a change of level; open or extend the incident."""
    old, new, at = before.stand.level, after.stand.level, after.at
    if old != new:
        used, limit = format_bytes(after.used_bytes), format_bytes(after.limit_bytes or 0)
        text = f"{old.name} → {new.name}: {used} of {limit} used"
        events.append(_event(at, "level.changed", text, old=old.name, level=new.name, used_bytes=after.used_bytes))
    incident = after.incident
    if incident is None and new > Level.OK:
        incident = Incident(opened_at=at, limit_bytes=after.limit_bytes)
        events.append(_event(at, "incident.opened", f"memory pressure: {new.name}", level=new.name))
    if incident is not None:
        incident = incidents.seen(incident, new, after.used_bytes, after.limit_bytes)
    return after if incident is after.incident else replace(after, incident=incident)


def _pace(state: State, rules: Rules) -> float:
    return pace_s(state.growth, state.used_bytes, state.limit_bytes, rules)


def _event(at: float, name: str, text: str, /, **attributes: str | float | bool) -> Event:
    return Event(at=at, name=name, text=text, attributes=attributes)


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
}
