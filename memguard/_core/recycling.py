"""Handing over, decided: when this process makes room for a fresh one, when that cannot help, when it has to wait.

The last rung. Everything else has been tried by then: expire, collect, trim, shrink, compact, refuse.
"""

from __future__ import annotations

from memguard._core.forecast import time_to_limit_s
from memguard._core.state import event
from memguard._core.stimuli import HandOver
from memguard.model import Level
from memguard.units import format_bytes, format_seconds
from memguard.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard._core.state import State
    from memguard._core.stimuli import Weighed
    from memguard.model import Event
    from memguard.rules import Rules

__all__ = ["next_wait_s", "recent", "weigh"]

# So many times its own start has a worker to live, unless the limit is near: starting takes 5 % of the time at most.
_STARTS = 20.0
# Between two hand-overs of one group the fresh worker gets so long to serve, in times of a start, and at least.
_SETTLE_STARTS, _SETTLE_S = 2.0, 5.0
# A worker that holds more goes first, if it does so within this time.
_YIELD_S = 4.0
# A wait is forgotten once a fresh worker lasts so many times as long, and six hours: four hand-overs a day are no loop.
_LASTED, _LASTED_S = 4.0, 6 * 3600.0
_DAY_S = 86400.0


def weigh(state: State, found: Weighed, rules: Rules) -> tuple[State, HandOver | None, tuple[Event, ...]]:
    """What to do about the chances of a hand-over: the state, the hand-over if it is time for one, what to tell."""
    at, limit = state.at, state.limit_bytes
    if state.leaving or rules.handover == "off" or limit is None or at < state.stay_until:
        return state, None, ()
    goal_bytes = int(rules.leave_ratio(Level.WARNING) * limit)
    pressing = state.stand.level >= Level.WARNING and state.used_bytes > goal_bytes and not state.blind
    stuck_at = (at if state.stuck_at is None else state.stuck_at) if pressing else None
    state = replace(state, stuck_at=stuck_at)
    why, urgent = _due(state, found, rules)
    if not why:
        return (replace(state, stay_told="") if state.stay_told and not pressing else state), None, ()
    cause, text = _against(state, found, limit, goal_bytes, rules, urgent=urgent)
    if cause:
        if cause == state.stay_told:
            return state, None, ()
        name = "handover.waits" if cause == "wait" else "handover.futile"
        return replace(state, stay_told=cause), None, (event(at, name, f"{text}. It is due: {why}", cause=cause),)
    if rules.mode == "observe":
        told = () if state.stay_told == "observe" else (event(at, "handover.planned", f"would hand over: {why}"),)
        return replace(state, stay_told="observe"), None, told
    gain = found.own_bytes - found.fresh_bytes
    return replace(state, leaving=True, stay_told=""), HandOver(reason=why, urgent=urgent, gain_bytes=gain), ()


def _due(state: State, found: Weighed, rules: Rules) -> tuple[str, bool]:
    """Why a hand-over is due, "" when it is not; and whether the limit would be met before long."""
    forecast_s = time_to_limit_s(state.growth, state.limit_bytes)
    near = forecast_s is not None and forecast_s <= rules.handover_urgent_s
    if state.stuck_at is not None:
        helpless = state.exhausted or state.stand.level >= Level.CRITICAL
        stuck_s = state.at - state.stuck_at
        used = f"{format_bytes(state.used_bytes)} of {format_bytes(state.limit_bytes or 0)} used"
        if near and helpless and forecast_s is not None:
            return f"{used}, nothing left to shed, and the limit {format_seconds(forecast_s)} away", True
        if stuck_s >= rules.handover_after_s:
            held = f", {format_bytes(state.held_bytes)} freed that the heap does not return" if state.held_bytes else ""
            return f"{used}{held}: relief has not reached the leave level for {format_seconds(stuck_s)}", False
    if found.leak_s is not None and found.leak_s <= rules.handover_window_s:
        return f"growth that looks like a leak reaches the limit in {format_seconds(found.leak_s)}", False
    return "", False


def _against(  # noqa: PLR0913 - all that speaks against it
    state: State, found: Weighed, limit: int, goal_bytes: int, rules: Rules, *, urgent: bool
) -> tuple[str, str]:
    """What speaks against a hand-over now: a cause ("" when nothing does), and words."""
    if found.hindrance:
        return "nobody", f"cannot hand over: {found.hindrance}"
    gain = found.own_bytes - found.fresh_bytes
    # Workers under one limit go one after the other: judge by what all of them would free.
    all_gain = gain + sum(max(0, other - found.fresh_bytes) for other in found.others_bytes)
    fresh = state.used_bytes - all_gain
    if fresh >= goal_bytes:
        text = (
            f"recycling cannot help: with fresh workers {fresh / limit:.0%} of {format_bytes(limit)} would be used, "
            f"and WARNING is left below {goal_bytes / limit:.0%}; raise the limit, or start fewer workers"
        )
        return "fresh", text
    due_s = 0.0 if urgent else rules.handover_after_s
    larger = max(found.others_bytes, default=0) > found.own_bytes + rules.ask_min_bytes
    if larger and state.stuck_at is not None and state.at - state.stuck_at < due_s + _YIELD_S:
        return "wait", "another worker holds more: its turn first"
    share = all_gain / (1 + len(found.others_bytes)) / 2.0
    if all_gain < rules.handover_worth_ratio * limit or gain < max(rules.ask_min_bytes, share):
        return "small", f"recycling cannot help: only {format_bytes(max(0, gain))} more is held than when new"
    since_s = found.age_s if found.since_s is None else min(found.since_s, found.age_s)
    settle_s = max(_SETTLE_S, _SETTLE_STARTS * found.startup_s)
    # A limit that is near ends this process anyway, and worse.
    life_s = rules.handover_life_s if urgent else max(rules.handover_life_s, _STARTS * found.startup_s)
    left_s = life_s - found.age_s
    if found.since_s is not None:
        left_s = max(left_s, settle_s - found.since_s)
    # A working set that fills fast looks like a leak each time: so many a day, and no more.
    if not urgent or recent(found.count, found.since_s, rules) >= rules.handover_per_day:
        left_s = max(left_s, found.wait_s - since_s)
    if left_s > 0.0:
        return "wait", f"too soon to hand over: the next is in {format_seconds(left_s)} at the earliest"
    return "", ""


def next_wait_s(wait_s: float, since_s: float | None, rules: Rules) -> float:
    """How long the hand-over after this one has to wait, unless it is urgent (binary exponential back-off).

    ``since_s`` is how long after the one before it came: None for the first.
    """
    least = rules.handover_life_s
    if since_s is None or since_s >= max(_LASTED * wait_s, _LASTED_S):
        return least
    return min(rules.handover_backoff_max_s, max(least, 2.0 * wait_s))


def recent(count: float, since_s: float | None, rules: Rules) -> float:
    """How many hand-overs of late still count, ``since_s`` after the last of ``count``: a bucket that leaks."""
    return 0.0 if since_s is None else max(0.0, count - since_s * rules.handover_per_day / _DAY_S)
